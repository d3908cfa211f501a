"""A private Tor network of Debian's `tor` on loopback: authorities that vote, relays, and clients.

Does: make the authorities' keys, start all processes in a folder of its own, wait until the authorities agree on a
consensus that has every relay; give what a client needs to trust and use it; take in relays of others; end it all.
Does not: keep anything; resolve names: its exits have no name server but one that an option gives them.

Each relay has an address in a /16 of its own, relay4 has 127.4.0.1, so that a client with the rules of the public
network takes any three of them into one circuit. Authorities take each relay that uploads a descriptor for running.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stem import Flag
from stem.control import EventType

from tests.e2e.processes import PATIENCE
from tests.interop.programs import free_port
from tests.interop.tor.daemon import Tor, read_identity, write_torrc
from tests.namespace import program

# Seconds, the least that tor takes: between two consensuses; for either step of a vote (dir-spec, section 3).
INTERVAL, STEP = 10, 2
AHEAD = "__DisablePredictedCircuits 0"
"""Of a client that makes circuits before it needs them, also to onion services: with so few relays some of these visit
one twice (A, B, A), which relays refuse and warn of."""
TWICE = ("extend back to the previous hop", "connection_edge_process_relay_cell (away from origin) failed")
"""That warning, in two lines."""
HEAD_START = 2
"""Seconds from the start of an authority to the first vote, on a machine that is not busy. A relay that has not
uploaded its descriptor by then waits for the next one."""

COMMON = (
    "TestingTorNetwork 1",
    "AssumeReachable 1",  # relays upload their descriptors at once
    "AddressDisableIPv6 1",
    "ContactInfo nobody@example.org",
    "__DisablePredictedCircuits 1",  # see AHEAD
    "TestingClientMaxIntervalWithoutRequest 1",  # second; clients else wait to ask for many descriptors at once
    "GeoIPFile /dev/null",  # 30 MB and a third of a second for each process
    "GeoIPv6File /dev/null",
)
# All relays may be guards and keep descriptors of onion services. Exits are voted for by their policies.
AUTHORITY = (
    "AuthoritativeDirectory 1",
    "V3AuthoritativeDirectory 1",
    f"V3AuthVotingInterval {INTERVAL}",
    f"V3AuthVoteDelay {STEP}",
    f"V3AuthDistDelay {STEP}",
    f"TestingV3AuthInitialVotingInterval {INTERVAL}",
    f"TestingV3AuthInitialVoteDelay {STEP}",
    f"TestingV3AuthInitialDistDelay {STEP}",
    "TestingDirAuthVoteGuard *",
    "TestingDirAuthVoteHSDir *",
    "TestingMinExitFlagThreshold 0",
    "AuthDirMaxServersPerAddr 0",
)
RELAY = ("SocksPort 0", "ExitRelay 0")
EXIT = ("ExitRelay 1", "ExitPolicyRejectPrivate 0", "IPv6Exit 1", "ExitPolicy accept *:*", "ServerDNSDetectHijacking 0")


@dataclass(frozen=True)
class Authority:
    """What others have to know of a directory authority.

    Attributes:
        fingerprint: SHA-1 of its relay's RSA identity key, 40 hexadecimal digits.
        v3ident: SHA-1 of the key that certifies its signing keys, 40 hexadecimal digits.
        ed25519: its relay's Ed25519 identity, base64 without padding.
    """

    name: str
    address: str
    or_port: int
    dir_port: int
    fingerprint: str
    v3ident: str
    ed25519: str

    @property
    def line(self) -> str:
        """The line of a torrc."""
        where = f"{self.address}:{self.dir_port} {self.fingerprint}"
        return f"DirAuthority {self.name} orport={self.or_port} no-v2 v3ident={self.v3ident} {where}"


class Relay(Tor):
    """A relay, at `address` and `or_port`; it has `fingerprint` and `ed25519`."""

    def __init__(self, folder: Path, common: Path, options: Sequence[str], address: str, or_port: int = 0) -> None:
        self.address = address
        self.or_port = or_port or free_port(address)
        self.options = options
        super().__init__(folder, common, [*options, *reachable(address, self.or_port)])


class TorNetwork:
    """Runs until `close`. Its exits reach whatever this network namespace reaches.

    Args:
        exits: how many of the relays are exits: the last ones.
        options: lines of a torrc for every process, clients too.

    Attributes:
        authorities: what a client's configuration says of them.
        servers: the authorities' processes, in the same order: relays, too, but no exits.
        relays: the others that the constructor started.
        processes: all that were started.
    """

    def __init__(self, *, authorities: int = 3, relays: int = 5, exits: int = 2, options: Sequence[str] = ()) -> None:
        self._numbers = itertools.count(1)
        self.processes: list[Tor] = []
        self._ahead = False
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convergence-tor-")))
            stack.callback(self._stop)
            self._start(authorities, relays, exits, options)
            self._stack = stack.pop_all()

    def _start(self, authorities: int, relays: int, exits: int, options: Sequence[str]) -> None:
        began = time.monotonic()
        names = [f"authority{number}" for number in range(1, authorities + 1)]
        with ThreadPoolExecutor() as pool:
            self.authorities = list(pool.map(self._make_authority, names, [self.address() for _ in names]))
        # On a busy machine all takes longer: what the keys took tells by how much. More, and a vote would come before.
        head_start = min(INTERVAL - 2 * STEP - 1, max(HEAD_START, math.ceil(time.monotonic() - began)))
        self._common = self._folder / "common"
        self._common.write_text(lines([*COMMON, *options, *(authority.line for authority in self.authorities)]))
        first = math.ceil(time.time()) + head_start + 2 * STEP  # the date of the first consensus
        voting = (*RELAY, *AUTHORITY, f"TestingV3AuthVotingStartOffset {first % INTERVAL}")
        self.servers = []
        for authority in self.authorities:
            own = [*voting, f"DirPort {authority.address}:{authority.dir_port}"]
            self.servers.append(self._run(authority.name, own, authority.address, authority.or_port))
        kinds = [()] * (relays - exits) + [EXIT] * exits
        # A relay that asked for a consensus before there is one would wait for long before it asks again.
        patience = f"TestingServerConsensusDownloadInitialDelay {head_start + 2 * STEP + 1}"
        self.relays = [self.add_relay(patience, *kind) for kind in kinds]
        for server in (*self.servers, *self.relays):
            server.until("Bootstrapped 0%")
        everybody = {server.fingerprint for server in (*self.servers, *self.relays)}
        self.listed(*everybody)
        for server in (*self.servers, *self.relays):
            # Exits open no streams for relays that they do not know.
            server.wait(
                EventType.NEWCONSENSUS,
                lambda server=server: everybody <= server.flagged(Flag.RUNNING),
                "consensus of all",
            )
            server.has_directory()  # a client that asks one without would wait for long

    def add_relay(self, *options: str) -> Relay:
        """One more, with these lines in its torrc. It may take INTERVAL and the steps of a vote until it is listed."""
        address = self.address()
        return self._run(f"relay{address.split('.')[1]}", [*RELAY, *options], address)

    def listed(self, *fingerprints: str) -> None:
        """Wait until a consensus says that the relays with these fingerprints are running: they may be anybody's."""
        authority = self.servers[0]
        wanted = set(fingerprints)
        authority.wait(
            EventType.NEWCONSENSUS, lambda: wanted <= authority.flagged(Flag.RUNNING), f"consensus with {wanted}"
        )

    @contextlib.contextmanager
    def without(self, relay: Relay) -> Iterator[None]:
        """Kill one of `servers` or `relays`. It comes back afterwards, with the same keys and address."""
        relay.stop()
        try:
            yield
        finally:
            again = Relay(relay.folder, self._common, relay.options, relay.address, relay.or_port)
            for known in (self.servers, self.relays, self.processes):
                if relay in known:
                    known[known.index(relay)] = again
            again.until("Bootstrapped 0%")
            again.has_directory()

    @contextlib.contextmanager
    def client(self, *options: str) -> Iterator[Tor]:
        """A client that can make circuits. It makes none ahead, except with the option AHEAD.

        `client.port(Listener.SOCKS)` is its SOCKS port.
        """
        folder = self._folder / f"client{next(self._numbers)}"
        self._ahead = self._ahead or AHEAD in options
        client = Tor(folder, self._common, ["SocksPort auto", *options])
        self.processes.append(client)
        try:
            client.until("Bootstrapped 0%")
            client.has_directory()
            yield client
        finally:
            client.stop()

    def notices(self) -> list[str]:
        """What its processes, also those that have ended, hold against others: see tests/interop/tor/daemon.py.

        On a busy machine authorities miss votes, and the first consensus may lack relays, who then are unknown to each
        other. Once a client made circuits ahead, some may have visited a relay TWICE.
        """
        own = {process.fingerprint for process in (*self.servers, *self.relays)}
        expected = ("detached signatures", *(TWICE if self._ahead else ()))
        return [
            f"{process.name}: {notice}"
            for process in self.processes
            for notice in process.notices()
            if not ("from unknown relay" in notice and any(f"RSA_ID={name}" in notice for name in own))
            and not any(words in notice for words in expected)
        ]

    def close(self) -> None:
        self._stack.close()

    def _stop(self) -> None:
        for process in self.processes:
            process.stop()

    def address(self) -> str:
        return f"127.{next(self._numbers)}.0.1"

    def _run(self, name: str, options: Sequence[str], address: str, or_port: int = 0) -> Relay:
        relay = Relay(self._folder / name, self._common, options, address, or_port)
        self.processes.append(relay)
        return relay

    def _make_authority(self, name: str, address: str) -> Authority:
        folder = self._folder / name
        keys = folder / "keys"
        keys.mkdir(parents=True, mode=0o700)
        folder.chmod(0o700)
        or_port, dir_port = free_port(address), free_port(address)
        identity = [program("tor-gencert"), "--create-identity-key", "-m", "12", "-a", f"{address}:{dir_port}"]
        for option, kind in {"-i": "identity_key", "-s": "signing_key", "-c": "certificate"}.items():
            identity += [option, str(keys / f"authority_{kind}")]
        run([*identity, "--passphrase-fd", "0"], given="for this test only\n")
        certificate = (keys / "authority_certificate").read_text()
        # tor makes no keys of a relay for a network without authorities.
        nobody = f"DirAuthority nobody 127.0.0.1:1 {'0' * 40}"
        torrc = write_torrc(folder, [*COMMON, *reachable(address, or_port), nobody])
        run([program("tor"), "--defaults-torrc", "/dev/null", "-f", str(torrc), "--list-fingerprint"])
        return Authority(
            name,
            address,
            or_port,
            dir_port,
            read_identity(folder / "fingerprint"),
            certificate.partition("\nfingerprint ")[2][:40],
            read_identity(folder / "fingerprint-ed25519"),
        )


def reachable(address: str, or_port: int) -> tuple[str, str]:
    return f"Address {address}", f"ORPort {address}:{or_port}"


def lines(options: Sequence[str]) -> str:
    return "".join(f"{option}\n" for option in options)


def run(command: Sequence[str], given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
