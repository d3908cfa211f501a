"""A node as a part of this process: all ports put together.

Does: build storage, keys, transports, driver and machine in the right order; start and stop them; turn each failure
into a sentence for people.
Does not: parse arguments, print, or outlive the event loop it was started in.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from convergence.crypto.keys import SECRET_LEN, NodeKeys
from convergence.driver import Driver
from convergence.errors import LocalError
from convergence.events import Announced, Event, Nodes, NodesWanted, TorDirectoryChanged, Trouble
from convergence.node import Node, NodeConfig
from convergence.tor.network import TorConfig
from convergence.wire.target import Role
from pynode.config import Address, Circuits, Limits
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.exit import ExitPolicy
from pynode.keyfile import KeyFileError, load_or_create_keys, load_or_create_rsa
from pynode.logs import Bugs, log_event
from pynode.loop import AsyncioClock, AsyncioTimer
from pynode.nodes import READ_EVERY, NodeSource, write_descriptor
from pynode.origins import Origins
from pynode.storage import DiskStorage, StorageError
from pynode.tls import CPythonTls
from pynode.transports.dialling import is_private
from pynode.transports.mux import NetTransport
from pynode.transports.rtc import RtcTransport
from pynode.transports.tcp import TcpTransport
from pynode.transports.unsent import Unsent
from pynode.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from pynode.transports.tls import TlsTransport

STOP_TIMEOUT = 3.0
"""Seconds that links get to close in good order; then they are cut."""

KEY_FILE = "keys.json"
RSA_FILE = "rsa.pem"
T = TypeVar("T")

log = logging.getLogger("pynode.app")


class AppError(Exception):
    """Why it cannot run, as a sentence that says what to do."""


class NotJoinedError(Exception):
    """No list of nodes came in time. `trouble`: what the core told last, if anything."""

    def __init__(self, trouble: Trouble | None) -> None:
        super().__init__("no list of nodes came")
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Network:
    """Where a node joins.

    Args:
        facilitator: WebSocket URL; empty where there is none.
        identity: the facilitator's, 32 bytes; None believes the first list that comes.
        site: address of the site that serves the page, for share links; may be empty.
        nodes: gives descriptors where there is no facilitator.
        tor: the Tor network through which the web is reached; None: through exits of this network.
        tor_points: whether rendezvous points, so files and services, are reached through it too, if there is one.
    """

    facilitator: str
    identity: bytes | None = None
    site: str = ""
    nodes: NodeSource | None = None
    tor: TorConfig | None = None
    tor_points: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration of a node.

    Args:
        entry: the Tor network that this node leads into; private: with relays at private addresses too.
        data: folder of its keys and data; None for a node that keeps nothing (then without roles).
        roles: what it does for others; a node with roles needs `listen` or `stun`.
        listen: where links are accepted; None accepts links over WebRTC only.
        url: what others dial; None makes it from `public`, or the host in `listen`, and the bound port.
        tls: where links of relays of the Tor network are accepted; None for nowhere.
        tls_address: the IPv4 address that they dial; None: the host in `tls`.
        policy: what an exit may reach.
        origins: whose pages may open links, besides those of the network's site (or, where that is not known, of the
            facilitator's host); "*" for all.
        stun: servers to ask for its public address, for WebRTC links; None makes and takes no WebRTC links.
        descriptor: the file for its descriptor, for others to be given, where there is no facilitator.
        roots: certificates in PEM that https is verified to; None for those that come with this program.
    """

    network: Network
    data: Path | None = None
    roles: Role = Role(0)
    listen: Address | None = None
    url: str | None = None
    public: str | None = None
    tls: Address | None = None
    tls_address: str | None = None
    policy: ExitPolicy | None = None
    origins: tuple[str, ...] = ()
    stun: tuple[str, ...] | None = None
    descriptor: Path | None = None
    circuits: Circuits = Circuits()
    limits: Limits = Limits()
    roots: str | None = None
    entry: TorConfig | None = None
    private: bool = False


class App:
    """One node.

    Args:
        on_event: gets every Event of the core, in addition to what this class does with it.
    """

    node: Node
    driver: Driver

    def __init__(self, plan: Plan, on_event: Callable[[Event], None] = log_event) -> None:
        self.plan = plan
        self.port: int | None = None
        self.url: str | None = None
        self.tls: str | None = None
        self.trouble: Trouble | None = None
        self._on_event = on_event
        self._storage: DiskStorage | None = None
        self._transport: NetTransport | None = None
        self._awaited: set[type[Event]] = set()
        if plan.network.tor is not None:
            self._awaited.add(TorDirectoryChanged)
        if plan.network.tor is None or plan.network.tor_points:
            self._awaited.add(Nodes)
        self._joined = asyncio.Event()
        self._giving: asyncio.TimerHandle | None = None

    @property
    def storage(self) -> DiskStorage:
        if self._storage is None:
            raise AppError("this node keeps no data")
        return self._storage

    @property
    def identity(self) -> bytes | None:
        """Its name on the network; nodes without roles have none."""
        return self._keys.identity if self._keys else None

    async def start(self) -> None:
        """Listen, then join the network; what was shared or fetched before is left alone. Raises AppError."""
        try:
            await self._start()
        except BaseException:
            await self._release()
            raise

    async def _start(self) -> None:
        plan, crypto, rng = self.plan, CPythonCrypto(), SystemRng()
        self._keys = _node_keys(crypto, rng, plan)
        if plan.data is not None:
            self._storage = open_storage(plan.data)
        tcp, unsent = None, Unsent()
        if Role.EXIT in plan.roles:
            tcp = TcpTransport(plan.policy or ExitPolicy(), plan.limits.exit_channels, unsent)
        try:
            own = plan.network.site or plan.network.facilitator
            origins = Origins((*([own] if own else []), *plan.origins))
        except ValueError as error:
            raise AppError(f"The address of the site or facilitator must have {error}.") from None
        limits = plan.limits
        websocket = WebSocketTransport(
            None, limits.connections, origins, unsent, limits.connections_from_one, not is_private(_hosts(plan))
        )
        rtc = RtcTransport(plan.stun) if plan.stun is not None else None
        self._transport = transport = NetTransport(websocket, tcp, rtc, _tls(plan, unsent))
        if plan.tls is not None and transport.tls is not None:
            port = await bound(plan.tls, transport.tls.bind(plan.tls.host, plan.tls.port))
            self.tls = f"{plan.tls_address or plan.tls.host}:{port}"
        if plan.listen is not None:
            self.port = await bound(plan.listen, transport.websocket.listen(plan.listen.host, plan.listen.port))
            self.url = plan.url or f"ws://{Address(plan.public or plan.listen.host, self.port)}/"
        # No await from here to `attach`: nothing can come in before there is a driver to tell.
        try:
            config = NodeConfig(
                plan.network.facilitator,
                plan.network.identity,
                roles=plan.roles,
                exit_streams=0 if tcp is None else tcp.max_streams,
                urls=(self.url,) if self.url else (),
                tls=self.tls,
                rtc=rtc is not None,
                hops=plan.circuits.hops,
                exit_hops=plan.circuits.exit_hops,
                introducer=plan.circuits.introducer,
                group=plan.circuits.group,
                circuits=0,  # commands ask for what they need
                limits=plan.limits.relayed,
                tor=plan.network.tor,
                tor_points=plan.network.tor_points,
                entry=plan.entry,
            )
        except LocalError as error:
            raise AppError(str(error)) from None
        clock = AsyncioClock()
        timer = AsyncioTimer(clock)
        self.node = Node(config, crypto, rng, keys=self._keys, source_of=transport.source, tls=CPythonTls(plan.roots))
        self.driver = Driver(
            self.node, transport, clock, timer, storage=self._storage, resolver=tcp, on_event=self._event, on_bug=Bugs()
        )
        transport.attach(self.driver)
        timer.tick = self.driver.tick
        if transport.tls is not None:
            transport.tls.accept()
        self.driver.run(self.node.start)
        self._give()

    async def stop(self) -> None:
        """Leave the network. This takes at most about STOP_TIMEOUT."""
        if hasattr(self, "driver"):
            self.driver.run(self.node.stop)
        await self._release()

    async def _release(self) -> None:
        if self._giving is not None:
            self._giving.cancel()
        if self._transport is not None:
            await self._transport.shutdown(STOP_TIMEOUT)
        if self._storage is not None:
            await self._storage.close()

    def call(self, command: Callable[[float], T]) -> T:
        """Run a command of the node and return its result. Do not call this from within an event."""
        result: list[T] = []
        self.driver.run(lambda now: result.append(command(now)))
        return result[0]

    @property
    def has_joined(self) -> bool:
        """Whether a list of nodes has come, or with `tor` its directory; with `tor_points` both."""
        return self._joined.is_set()

    async def joined(self, timeout: float) -> None:
        """Wait for the first list of nodes. Raises NotJoinedError when none comes in `timeout` seconds."""
        try:
            await asyncio.wait_for(self._joined.wait(), timeout)
        except TimeoutError:
            raise NotJoinedError(self.trouble) from None

    def _event(self, event: Event) -> None:
        if isinstance(event, Nodes) and event.count:
            self._awaited.discard(Nodes)
        elif isinstance(event, TorDirectoryChanged) and event.ready:
            self._awaited.discard(TorDirectoryChanged)
        if not self._awaited:
            self._joined.set()
        if isinstance(event, Trouble):
            self.trouble = event
        elif isinstance(event, NodesWanted) and self._giving is not None:
            asyncio.get_running_loop().call_soon(self._give)
        elif isinstance(event, Announced) and self.plan.descriptor is not None:
            try:
                write_descriptor(self.plan.descriptor, bytes.fromhex(event.descriptor))
            except OSError as error:
                log.error("cannot write %s: %s", self.plan.descriptor, os.strerror(error.errno or 0))
        self._on_event(event)

    def _give(self) -> None:
        """Tell the node whom the program knows, now and every READ_EVERY seconds."""
        source = self.plan.network.nodes
        if source is None or (self._giving is not None and self._giving.cancelled()):
            return
        if self._giving is not None:
            self._giving.cancel()
        self._giving = asyncio.get_running_loop().call_later(READ_EVERY, self._give)
        if nodes := list(source()):
            self.driver.run(lambda now: self.node.know(nodes, now))


def page_folder(package: Path = Path(__file__).parent) -> Path | None:
    """What a build wrote: dist/ beside the package's folder (a source tree) or in it; None when there is none."""
    candidates = (package.parent / "dist", package / "dist")
    return next((folder for folder in candidates if (folder / "index.html").is_file()), None)


def _node_keys(crypto: CPythonCrypto, rng: SystemRng, plan: Plan) -> NodeKeys | None:
    if not plan.roles:
        return None
    if plan.data is None:
        raise AppError("a node that works for others needs a data folder for its keys")
    try:
        keys = load_or_create_keys(plan.data / KEY_FILE, rng)
        rsa = load_or_create_rsa(plan.data / RSA_FILE) if plan.tls is not None else None
    except KeyFileError as error:
        raise AppError(f"{error}.") from None
    own = NodeKeys.from_secrets(
        crypto, identity_seed=keys.identity, signing_seed=rng.random(SECRET_LEN), ntor_secret=keys.ntor
    )
    return replace(own, rsa=rsa)


def _tls(plan: Plan, unsent: Unsent) -> TlsTransport | None:
    """For links of the Tor network; nodes without it do not load its OpenSSL."""
    if plan.network.tor is None and plan.entry is None and plan.tls is None:
        return None
    from pynode.transports.tls import TlsTransport

    limits = plan.limits
    return TlsTransport(
        limits.connections, unsent, limits.connections_from_one, plan.entry is not None and not plan.private
    )


def _hosts(plan: Plan) -> list[str]:
    """All names and addresses by which a node's configuration places it and its network."""
    network, listen = plan.network, plan.listen
    own = plan.public or (listen.host if listen is not None else "")
    urls = [url for url in (network.facilitator, network.site, plan.url) if url]
    return [own, *((urlsplit(url).hostname or "") for url in urls)]


def open_storage(folder: Path) -> DiskStorage:
    try:
        return DiskStorage(folder)
    except StorageError as error:
        raise AppError(f"{error}.") from None


async def bound(address: Address, listening: Awaitable[int]) -> int:
    """The port that `listening` gives. Raises AppError that says what to do when it cannot listen."""
    try:
        return await listening
    except OSError as error:
        raise AppError(_listen_trouble(address, error)) from None


def _listen_trouble(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is in use: stop what uses it (is this running already?), or choose another port."
    if error.errno == errno.EACCES:
        return f"This user may not listen on {address}: choose a port above 1023."
    if error.errno == errno.EADDRNOTAVAIL or error.errno is None or error.errno < 0:
        return f"{address} is no address of this machine: choose one that is, such as 127.0.0.1."
    return f"Cannot listen on {address}: {os.strerror(error.errno)}."
