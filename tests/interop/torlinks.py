"""Links to C Tor: a machine that has nothing but TLS links, and one `tor` process without a network.

Does: drive our transport and handshake on real sockets; make the first hop of a circuit and extend it once; start and
end `tor`, and read its keys and its log.
Does not: use what nodes make circuits with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from typing import Any

from convergence.crypto import ntor
from convergence.crypto.keys import NodeKeys
from convergence.crypto.onion import KEY_MATERIAL_LEN, HopKeys
from convergence.driver import Driver
from convergence.effects import Connect, Effect, Protocol
from convergence.errors import RemoteError
from convergence.link.handshake import Handshake
from convergence.link.link import Link
from convergence.outbox import Outbox
from convergence.ports import Binding
from convergence.wire.cells import Command
from convergence.wire.create import Create2, Created2
from convergence.wire.relay import Extend2, Extended2, RelayCommand, pack_message, unpack_message
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.loop import AsyncioClock, AsyncioTimer
from pynode.torkeys import RsaSecret
from pynode.transports.tls import TlsTransport
from tests.e2e.processes import PATIENCE
from tests.interop.programs import Server
from tests.namespace import program

CRYPTO, RNG = CPythonCrypto(), SystemRng()
NOBODY = "nobody orport=1 no-v2 v3ident={0} 127.0.0.1:1 {0}".format("A" * 40)
TORRC = f"""\
DirAuthority {NOBODY}
TestingTorNetwork 1
Log notice stdout
Log [net,or,protocol,handshake,channel]info stdout
SafeLogging 0
ProtocolWarnings 1
ContactInfo none
"""
READY = "Bootstrapped 0%"
"""What `tor` says when it has its keys and its ports."""
HEADER = 32
"""Bytes of the text before the keys in C Tor's files."""


class Links:
    """Implements driver.Machine for links only.

    Args:
        rsa: whether this node has an RSA identity: only then it can answer, and authenticates when it calls.
        expected, expected_rsa: who has to be at the other end of every link that it dials.
    """

    def __init__(self, *, rsa: bool = True, expected: bytes | None = None, expected_rsa: bytes | None = None) -> None:
        self.keys = replace(NodeKeys.generate(CRYPTO, RNG), rsa=RsaSecret.generate() if rsa else None)
        self.links: dict[int, Link] = {}
        self.opened: list[Link] = []
        self.closed: list[str] = []
        self.created: list[int] = []  # circuits that others made here
        self._expected = (expected, expected_rsa)
        self._outbox = Outbox()
        self._changed = asyncio.Event()
        clock = AsyncioClock()
        timer = AsyncioTimer(clock)
        self.transport = TlsTransport()
        self.driver = Driver(self, self.transport, clock, timer)
        self.transport.channels = self.driver
        timer.tick = self.driver.tick

    def dial(self, port: int) -> None:
        def connect(now: float) -> None:
            self._outbox.emit(Connect(1, Protocol.TLS, f"127.0.0.1:{port}"))

        self.driver.run(connect)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def change(self) -> None:
        self._changed.set()

    # -- driver.Machine

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None) -> None:
        dialled = channel % 2 == 1
        expected, expected_rsa = self._expected if dialled else (None, None)
        handshake = Handshake(
            CRYPTO,
            RNG,
            initiator=dialled,
            keys=self.keys,
            binding=binding,
            expected=expected,
            expected_rsa=expected_rsa,
            addresses=("127.0.0.1",),
        )
        self.links[channel] = Link(
            self._outbox,
            RNG,
            channel,
            handshake,
            now,
            initiator=dialled,
            on_create=self._create,
            on_open=lambda link, now: self.opened.append(link),
            on_closed=lambda link, reason, now: self.closed.append(reason),
        )

    def _create(self, link: Link, circ_id: int, create: Create2, now: float) -> None:
        ntor_keys = [(self.keys.ntor_public, self.keys.ntor_secret)]
        reply, _ = ntor.server_reply(
            CRYPTO, RNG.random(32), self.fingerprint, ntor_keys, create.handshake_data, KEY_MATERIAL_LEN
        )
        link.adopt(circ_id, Circuit(self, link))
        link.send_one(circ_id, Command.CREATED2, Created2(reply).encode())
        self.created.append(circ_id)

    @property
    def fingerprint(self) -> bytes:
        """SHA-1 of the RSA identity."""
        assert self.keys.rsa is not None
        return sha1(self.keys.rsa.public).digest()

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        self.links[channel].receive(data, now)
        self.change()

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        if channel in self.links:
            self.links[channel].gone(reason, now)
        else:
            self.closed.append(reason)
        self.change()

    def link_congested(self, channel: int, congested: bool, now: float) -> None:
        self.links[channel].set_congested(congested, now)

    def link_described(self, *arguments: Any) -> None: ...

    def done(self, *arguments: Any) -> None: ...

    def woke(self, by: float, now: float) -> None: ...

    def timer(self, now: float) -> None:
        self._outbox.run_timers(now)
        self.change()

    def poll(self, now: float) -> list[Effect]:
        return self._outbox.poll(now)

    def deadline(self) -> float | None:
        return self._outbox.deadline()


class Circuit:
    """Implements link.CircuitHandler: what a client needs of a circuit of two hops, or a relay that does nothing."""

    def __init__(self, owner: Links, link: Link) -> None:
        self.answers: list[bytes] = []  # data of CREATED2, then of EXTENDED2
        self.ended: str | None = None
        self._owner = owner
        self._link = link

    def begin(self, create: Create2) -> None:
        def send(now: float) -> None:
            self._id = self._link.attach(self)
            self._link.send_one(self._id, Command.CREATE2, create.encode())

        self._owner.driver.run(send)

    def extend(self, material: bytes, extend: Extend2) -> None:
        """Send EXTEND2 to the first hop, whose keys these are (72 bytes)."""
        self._keys = HopKeys.from_material(CRYPTO, material)
        cell = self._keys.forward.seal(pack_message(RelayCommand.EXTEND2, 0, extend.encode()))
        run = self._keys.forward.crypt(cell)
        self._owner.driver.run(lambda now: self._link.send(self._id, Command.RELAY_EARLY, run))

    async def answer(self, number: int) -> bytes:
        await self._owner.until(lambda: len(self.answers) >= number or self.ended)
        assert self.ended is None, self.ended
        return self.answers[number - 1]

    # -- link.CircuitHandler

    def created(self, payload: bytes, fast: bool, now: float) -> None:
        self.answers.append(Created2.parse(payload).handshake_data)

    def relay(self, run: bytes, early: bool, now: float) -> None:
        cells, _ = self._keys.backward.accept_all(self._keys.backward.crypt(run))
        for cell in cells:
            command, _, data = unpack_message(cell)
            if command == RelayCommand.EXTENDED2:
                self.answers.append(Extended2.parse(data).handshake_data)
            else:
                self.ended = f"relay command {command}"

    def create(self, payload: bytes, now: float) -> None:
        raise RemoteError("CREATE2 twice")

    def destroyed(self, reason: int, now: float) -> None:
        self.ended = f"DESTROY {reason}"

    def broken(self, error: RemoteError, now: float) -> None:
        self.ended = str(error)

    def drained(self, now: float) -> None: ...


@contextlib.asynccontextmanager
async def links(**options: Any) -> AsyncIterator[Links]:
    """A machine that is shut down behind the block."""
    machine = Links(**options)
    try:
        yield machine
    finally:
        await machine.transport.shutdown(1.0)


@contextlib.contextmanager
def running_tor(folder: Path, *options: str) -> Iterator[Server]:
    """A `tor` with these lines in its configuration, beside those that keep it away from every network."""
    folder.mkdir(mode=0o700)
    torrc = folder / "torrc"
    torrc.write_text(TORRC + f"DataDirectory {folder}\n" + "".join(f"{line}\n" for line in options))
    server = Server(program("tor"), "-f", torrc, "--defaults-torrc", "/dev/null")
    try:
        server.until(READY)
        yield server
    finally:
        server.stop()


class RelayKeys:
    """What names a relay that runs in this folder."""

    def __init__(self, folder: Path) -> None:
        self.fingerprint = bytes.fromhex((folder / "fingerprint").read_text().split()[1])
        self.identity = (folder / "keys/ed25519_master_id_public_key").read_bytes()[HEADER:]
        self.ntor = (folder / "keys/secret_onion_key_ntor").read_bytes()[HEADER + 32 : HEADER + 64]


def complaints(server: Server) -> list[str]:
    """Lines in which `tor` warns of what others do; those before it was ready are about its own configuration."""
    log = list(server.log)
    started = next(number for number, line in enumerate(log) if READY in line)
    return [line for line in log[started:] if "[warn]" in line or "[err]" in line]
