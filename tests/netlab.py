"""A small internet with NATs: hosts behind routers, and a public host with a STUN server, each in a network namespace.

    left  10.99.11.2 -- router 10.99.1.11 --+
                                            +-- public 10.99.1.1 and .2: STUN, and whatever a test starts there
    right 10.99.12.2 -- router 10.99.1.12 --+

Does: make it; run browsers and programs in it; lose packets, cut a host off, give it another address.
Does not: route between the hosts' own networks: what comes through, comes through a NAT. Nor delay packets, for which
not every kernel has the means.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Playwright

from tests.browser.harness import CONFIG
from tests.e2e.processes import Network
from tests.namespace import Namespace, program

PUBLIC = "10.99.1.1"
"""Where the STUN server is, and where tests put facilitators and relays."""
STUN_PORT = 3478
STUN_ADDRESSES = (PUBLIC, "10.99.1.2")
"""Two: a symmetric NAT shows another port to each."""

IPTABLES = ("iptables", "--wait")
"""Its lock is one for the whole machine, other lanes' namespaces too."""

_COOKIE = bytes.fromhex("2112a442")  # RFC 8489, section 5


class Nat(enum.Enum):
    """How a router maps ports (RFC 4787, section 4.1). Either lets in only what comes from whom the host wrote to."""

    CONE = "one public port for each of the host's, whomever it talks to: a hole can be punched"
    SYMMETRIC = "another random port for each peer: what STUN tells is of no use to others"

    @property
    def rule(self) -> tuple[str, ...]:
        return ("MASQUERADE", "--random-fully") if self is Nat.SYMMETRIC else ("MASQUERADE",)


class Host:
    """A host behind its own router; made by `lab`."""

    def __init__(self, number: int, nat: Nat) -> None:
        self._net = f"10.99.{10 + number}"
        self._last = 2
        self.namespace, self.router = Namespace(), Namespace()
        wan = f"10.99.1.{10 + number}"
        self.router.ip(
            f"link add lan type veth peer name eth0 netns {self.namespace.path}",
            "link set lan up",
            f"address add {self._net}.1/24 dev lan",
            f"link add wan type veth peer name port{number}",
            f"address add {wan}/24 dev wan",
            "link set wan up",
        )
        self.router.run("tee", "/proc/sys/net/ipv4/ip_forward", given="1")
        self.router.run(*IPTABLES, "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", *nat.rule)
        # What nobody asked for vanishes. If the router took it for its own it would keep that port from then on, and
        # give the host another one when that, too, sends: no hole would ever be punched.
        self.router.run(*IPTABLES, *"-A INPUT -i wan -m conntrack --ctstate NEW -j DROP".split())
        self.namespace.ip("link set eth0 up")
        self._settle()

    @property
    def address(self) -> str:
        """On its own side of the NAT."""
        return f"{self._net}.{self._last}"

    def move(self) -> None:
        """Another address, as on a change of networks; connections from the old one are dead."""
        self.namespace.ip("address flush dev eth0")
        self._last += 1
        self._settle()

    def down(self) -> None:
        """Pull the plug."""
        self.namespace.ip("link set eth0 down")

    def up(self) -> None:
        """Put the plug back in."""
        self.namespace.ip("link set eth0 up", f"route replace default via {self._net}.1 dev eth0")

    def lose(self, share: float, protocol: str = "udp", *, sent_only: bool = False) -> None:
        """From now on this share of the packets, 0 to 1, is lost on the way: in each direction, or of those that this
        host sends (as netem does on its interface)."""
        self.router.run(*IPTABLES, "-F", "FORWARD")
        if share:
            match = ["-p", protocol, "-m", "statistic", "--mode", "random", "--probability", str(share)]
            way = ["-o", "wan"] if sent_only else []
            self.router.run(*IPTABLES, "-A", "FORWARD", *way, *match, "-j", "DROP")

    @contextlib.contextmanager
    def chromium(self, playwright: Playwright, folder: Path, site: str) -> Iterator[Browser]:
        """Chromium on this host, with its downloads in `folder`.

        Playwright speaks to it through a pipe. Firefox, to which it speaks through the network, cannot be had here.

        Args:
            site: of which origin's pages it thinks as of those with https, which nodes and Service Workers need.
        """
        options = CONFIG.launch_options("chromium")
        trusted = f"--unsafely-treat-insecure-origin-as-secure={site.rstrip('/')}"
        options["args"] = [*options["args"], *CONFIG.PLAIN_ADDRESSES, trusted]
        options["executable_path"] = self.namespace.wrapper(folder, options["executable_path"])
        browser = playwright.chromium.launch(**options, downloads_path=folder)
        try:
            yield browser
        finally:
            browser.close()

    def _settle(self) -> None:
        self.namespace.ip(f"address add {self.address}/24 dev eth0")
        self.up()

    def close(self) -> None:
        self.namespace.close()
        self.router.close()


class Lab:
    """What `lab` made.

    Attributes:
        public: the namespace with PUBLIC; what a test starts in `public.entered()` is there for all hosts.
        stun: URL of the STUN server.
    """

    stun = f"stun:{PUBLIC}:{STUN_PORT}"

    def __init__(self, public: Namespace, hosts: dict[str, Host]) -> None:
        self.public = public
        self._hosts = hosts

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    @contextlib.contextmanager
    def network(self, folder: Path, page: Path, relays: int = 0) -> Iterator[Network]:
        """A facilitator with its site, and relays, at PUBLIC; they and the site's pages ask the STUN server."""
        with self.public.entered():
            network = Network(folder, page, relays=relays, host=PUBLIC, rtc=True, stun=[self.stun])
        try:
            yield network
        finally:
            network.close()


@contextlib.contextmanager
def lab(**nats: Nat) -> Iterator[Lab]:
    """One host for each name, behind a NAT of that kind: `with lab(left=Nat.CONE, right=Nat.CONE) as net`."""
    with contextlib.ExitStack() as stack:
        public = Namespace()
        stack.callback(public.close)
        public.ip(
            "link add bridge type bridge",
            "link set bridge up",
            *(f"address add {address}/24 dev bridge" for address in STUN_ADDRESSES),
        )
        hosts = {}
        for number, (name, nat) in enumerate(nats.items(), 1):
            hosts[name] = host = Host(number, nat)
            stack.callback(host.close)
            host.router.ip(f"link set port{number} netns {public.path}")
            public.ip(f"link set port{number} master bridge", f"link set port{number} up")
        stack.enter_context(stun_server(public))
        yield Lab(public, hosts)


@contextlib.contextmanager
def stun_server(namespace: Namespace) -> Iterator[None]:
    """coturn, as a STUN server only, that answers at both STUN_ADDRESSES."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program("turnserver"), "-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"]
        command += [part for address in STUN_ADDRESSES for part in ("--listening-ip", address)]
        command += ["--listening-port", str(STUN_PORT), "--log-file", f"{folder}/log", "--simple-log"]
        command += ["--pidfile", f"{folder}/pid", "--userdb", f"{folder}/db"]
        with namespace.entered():
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with udp_socket(namespace) as asking:
                for address in STUN_ADDRESSES:
                    seen_as(asking, address)
            yield
        finally:
            server.terminate()
            server.wait()


def udp_socket(namespace: Namespace) -> socket.socket:
    """A UDP socket there, with a deadline that is there only to end a hung test."""
    with namespace.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(60)
    return made


def seen_as(asking: socket.socket, server: str = PUBLIC) -> tuple[str, int]:
    """By which address and port the STUN server at `server` sees this socket. Raises TimeoutError after 20 requests."""
    patience = asking.gettimeout()
    asking.settimeout(0.5)  # RFC 8489, section 6.2.1
    try:
        for number in range(20):
            transaction = number.to_bytes(12, "big")
            asking.sendto(b"\x00\x01\x00\x00" + _COOKIE + transaction, (server, STUN_PORT))
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                while (answer := asking.recv(2048))[:20] != b"\x01\x01" + answer[2:4] + _COOKIE + transaction:
                    pass
                return _mapped(answer)
    finally:
        asking.settimeout(patience)
    raise TimeoutError(f"the STUN server at {server} does not answer")


def _mapped(answer: bytes) -> tuple[str, int]:
    """The XOR-MAPPED-ADDRESS of a binding response, which has an IPv4 one (RFC 8489, section 14.2)."""
    at = answer.index(b"\x00\x20\x00\x08\x00\x01") + 6
    plain = bytes(a ^ b for a, b in zip(answer[at : at + 6], _COOKIE[:2] + _COOKIE, strict=True))
    return socket.inet_ntoa(plain[2:]), int.from_bytes(plain[:2], "big")
