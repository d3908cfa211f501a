"""A node in the program's own event loop: joins a network, connects to addresses, offers services.

Does: start and stop the node, with errors as exceptions; a coroutine for each connection that comes to a service.
Does not: work for others (that is `convergence relay`), or share files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import convergence.node as core
from convergence.errors import EndReason, Problem
from convergence.events import Event, ServiceStands
from convergence.pipes.duplex import Duplex, Handler
from convergence.pipes.pending import CONNECT_LIMIT, Pending
from convergence.pipes.stage import Stage
from convergence.pipes.tls import Tls, TlsError
from convergence.rdv.connector import PATIENCE
from convergence.services import private_address, public_id
from convergence.wire.address import Address, PublicAddress, ServiceAddress, parse_address
from pynode.api.errors import AddressError, ConnectError, ConnectTimeout, JoinError, PipeBroken, ServeError
from pynode.api.pipe import Local, Pipe, Serving
from pynode.app import App, AppError, Network, NotJoinedError, Plan
from pynode.cli.common import JOIN_TIMEOUT
from pynode.cli.output import CliError
from pynode.cli.sites import chosen_site, find_network
from pynode.cli.words import words
from pynode.config import Circuits
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.keyfile import KEY_LEN, KeyFileError, load_or_create_secret
from pynode.logs import log_event
from pynode.nodes import NodeFiles, NodeSource, from_text, to_text
from pynode.tls import CPythonTls

MAX_CLIENTS = 1024  # connections that one service answers at once, unless `serve` is told otherwise
CLOSE_LIMIT = 10.0  # seconds that cancelled handlers have to end
STAND_LIMIT = 60.0  # seconds that a service has to stand at its first point

T = TypeVar("T")


def new_secret() -> bytes:
    """The secret of a new private service, 32 bytes. Who has it can be the service: keep it."""
    return SystemRng().random(KEY_LEN)


def address_of(secret: bytes) -> str:
    """The address of the private service that the holder of this secret serves: give it to those who may connect."""
    return str(private_address(CPythonCrypto(), secret))


def join(
    site: str | None = None,
    *,
    nodes: NodeSource | Iterable[str] | Path | None = None,
    timeout: float = JOIN_TIMEOUT,
    rtc: bool = True,
    stun: Sequence[str] = (),
    hops: int = 2,
    exit_hops: int = 3,
    group: bool = False,
) -> Node:
    """A node of this network, for `async with`.

    Args:
        site: the network's site; without it and `nodes`, $CONVERGENCE_SITE or http://127.0.0.1:8000/.
        nodes: no facilitator: a list of descriptors as text (`Node.nodes`, or what `convergence relay --descriptor`
            writes), a file or folder of such, or a function that gives encoded ones and is called now and then.
        timeout: seconds until nodes must be known.
        rtc: whether it makes WebRTC links, through which nodes without an address are reached; `stun`: servers for it.
        hops: of circuits to services, 1 to 5; exit_hops: of those to exits.
        group: whether the services that it serves share circuits: for thousands of them. Points see then that these
            are of one node.
    """
    return Node(site, _source(nodes), timeout, tuple(stun) if rtc else None, Circuits(hops, exit_hops, group=group))


def _source(nodes: NodeSource | Iterable[str] | Path | None) -> NodeSource | None:
    if nodes is None or callable(nodes):
        return nodes
    if isinstance(nodes, Path):
        return NodeFiles(nodes)
    given = from_text("\n".join(nodes))
    return lambda: given


class Node:
    """See `join`. All calls come from the event loop in which it was started."""

    def __init__(
        self,
        site: str | None,
        nodes: NodeSource | None,
        timeout: float,
        stun: tuple[str, ...] | None,
        circuits: Circuits,
    ) -> None:
        self._site = site
        self._nodes = nodes
        self._timeout = timeout
        self._stun = stun
        self._circuits = circuits
        self._app: App | None = None
        self._services: dict[str, Service] = {}

    async def __aenter__(self) -> Self:
        """Join. Raises JoinError."""
        try:
            if self._nodes is not None:
                network = Network("", nodes=self._nodes)
            else:
                network = await find_network(chosen_site(self._site))
            app = App(Plan(network, stun=self._stun, circuits=self._circuits), self._event)
            await app.start()
        except (CliError, AppError) as error:
            raise JoinError(str(error)) from None
        try:
            await app.joined(self._timeout)
        except NotJoinedError as error:
            await app.stop()
            raise _not_joined(error) from None
        except BaseException:
            await app.stop()
            raise
        self._app = app
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave: services are withdrawn and all pipes break."""
        app, self._app = self._running, None
        try:
            for service in list(self._services.values()):
                service.withdraw(app)
            await asyncio.gather(*(service.wait_closed() for service in list(self._services.values())))
        finally:
            self._services.clear()
            await app.stop()

    # -- connecting

    async def connect(
        self,
        address: str,
        *stages: Stage[Any, Any],
        timeout: float = CONNECT_LIMIT,
        patience: float = PATIENCE,
        isolation: Hashable = None,
    ) -> Pipe[Any]:
        """A pipe to hash:NAME, to the address of a private service, or through an exit to tcp://HOST:PORT.

        Args:
            stages: what lies between the program and the network, in this order (`Pipe.through`).
            timeout: seconds until it must stand; it never takes more than CONNECT_LIMIT (60).
            patience: seconds in which it is no final answer that nobody offers the service.
            isolation: connections share circuits only where this is equal.

        Raises:
            AddressError, ConnectError, and ConnectTimeout, which is one.
        """
        pending = self.dial(address, patience=min(patience, timeout), isolation=isolation)
        pipe: Pipe[Any] = Pipe(self._running.driver, pending, address=address, pending=pending).through(*stages)
        try:
            async with asyncio.timeout(timeout):
                await pipe.opened()
        except TimeoutError:
            pipe.abort(EndReason.TIMEOUT)
            raise ConnectTimeout from None
        except asyncio.CancelledError:
            pipe.abort(EndReason.DONE)
            raise
        return pipe

    async def open_connection(self, address: str, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Like asyncio.open_connection, for an address and with the options of `connect`."""
        pipe = await self.connect(address, **options)
        return await pipe.streams()

    async def create_connection(
        self, protocol: Callable[[], asyncio.Protocol], address: str, **options: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Like the event loop's create_connection, for an address and with the options of `connect`."""
        pipe = await self.connect(address, **options)
        made = protocol()
        transport = pipe.attach(made)
        await transport.opened_or_failed
        return transport, made

    def dial(self, address: str, *, patience: float = PATIENCE, isolation: Hashable = None) -> Pending:
        """The far end of a chain that is put together by hand: `local.pipe(stage).pipe(node.dial(address))`. Chain it
        before the next `await`. Raises AddressError, ConnectError."""
        where = _parsed(address)
        try:
            return self._call(lambda node, now: node.connect(where, now, patience=patience, isolation=isolation))
        except Problem as problem:
            raise ConnectError(EndReason.RESOURCELIMIT, problem.why) from None

    def tls(self, host: str, *, protocols: Sequence[str] = (), roots: str | None = None) -> Tls:
        """A TLS stage for one connection, as client (pynode/tls.py tells what is verified). A pipe through it is open
        once the certificate is verified.

        Args:
            host: the name or IP address for which the certificate has to be.
            protocols: for ALPN, such as "http/1.1", the best first.
            roots: certificates in PEM to trust; Mozilla's unless given.

        Raises:
            AddressError: no certificate can be for such a host.
        """
        factory = _tls() if roots is None else CPythonTls(roots)
        try:
            return self._call(lambda node, now: Tls.client(factory, host, protocols, node.outbox, now))
        except TlsError as error:
            raise AddressError(error.why) from None

    def local(self) -> Local[Any]:
        """This program's end of such a chain; `await local.opened()` once it is complete."""
        return Local(self._running.driver)

    # -- serving

    async def serve(
        self, what: str | bytes | Path, handler: Serving, *, most: int = MAX_CLIENTS, timeout: float = STAND_LIMIT
    ) -> Service:
        """Offer a service until the returned object is closed, or the node is. Returns once it can be found.

        Args:
            what: "hash:NAME", a public service, which anybody else may offer too; or for a private one its secret
                (`new_secret`), or the file that keeps it and is made the first time.
            handler: awaited with the pipe of each connection, which is closed when it returns. If it raises, the far
                end hears MISC after what was written, and the loop's exception handler is told; others go on.
            most: connections at once; those beyond are refused (RESOURCELIMIT).
            timeout: seconds until it must stand at its first point.

        Raises:
            AddressError, ServeError.
        """
        address, secret = _served(what)
        app = self._running
        service = Service(self, app, address, handler, most)
        try:
            self._call(lambda node, now: node.services.serve(address, service._accept, now, secret=secret))
        except Problem as problem:
            raise ServeError(words(problem.why), problem.why.code) from None
        self._services[service._id] = service
        try:
            async with asyncio.timeout(timeout):
                await service._standing.wait()
        except TimeoutError:
            await service.close()
            reason = words(app.trouble.why) if app.trouble is not None else "No meeting point answered in time."
            raise ServeError(f"The service cannot be found by others. {reason}") from None
        except BaseException:
            service.withdraw(app)
            raise
        return service

    # -- nodes

    def nodes(self) -> list[str]:
        """Descriptors of all nodes that are known and valid now, as text: another program can join by them."""
        return [to_text(raw) for raw in self._call(lambda node, now: node.directory.newer(0, now))]

    def know(self, nodes: Iterable[str]) -> None:
        """Tell the node of others, by their descriptors as text. Only what they signed themselves is believed."""
        raw = from_text("\n".join(nodes))
        self._call(lambda node, now: node.know(raw, now))

    # -- inside

    @property
    def _running(self) -> App:
        if self._app is None:
            raise RuntimeError("the node does not run: use it within `async with`")
        return self._app

    def _call(self, command: Callable[[core.Node, float], T]) -> T:
        app = self._running
        return app.call(lambda now: command(app.node, now))

    def _event(self, event: Event) -> None:
        log_event(event)
        if isinstance(event, ServiceStands) and (service := self._services.get(event.id)) is not None:
            service._stands(event.points)

    def _forget(self, service: Service) -> None:
        if self._services.get(service._id) is service:
            del self._services[service._id]


class Service:
    """A service that is offered.

    Attributes:
        address: what others connect to. That of a private service is a capability: give it to those who may connect.
        host: the same as a host name, for programs behind `convergence proxy`.
        points: how many rendezvous points it stands at.
        served: connections so far.
    """

    def __init__(self, node: Node, app: App, address: ServiceAddress, handler: Serving, most: int) -> None:
        self.address = str(address)
        self.host = address.host
        self.points = 0
        self.served = 0
        self._id = public_id(address.hash_name)
        self._node = node
        self._app = app
        self._handler = handler
        self._most = most
        self._standing = asyncio.Event()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """Those that are open now."""
        return len(self._tasks)

    async def close(self) -> None:
        """Withdraw it, and end its connections: their handlers are cancelled."""
        self.withdraw(self._app)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Until all handlers have ended, or have not for CLOSE_LIMIT seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_LIMIT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def withdraw(self, app: App) -> None:
        """The same as `close`, without waiting."""
        if not self._closed:
            self._closed = True
            self.points = 0
            for task in self._tasks:
                task.cancel()
            self._node._forget(self)
            app.call(lambda now: app.node.services.unserve(self._id, now))

    # -- from within the core

    def _stands(self, points: int) -> None:
        self.points = points
        if points:
            self._standing.set()

    def _accept(self, duplex: Duplex, now: float) -> Handler:
        pipe: Pipe[bytes] = Pipe(self._app.driver, duplex)
        handler = duplex.handler
        assert handler is not None
        if self._closed or len(self._tasks) >= self._most:
            duplex.abort(EndReason.RESOURCELIMIT, now)
            return handler
        self.served += 1
        task = asyncio.get_running_loop().create_task(self._answer(pipe))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, pipe))
        return handler

    async def _answer(self, pipe: Pipe[bytes]) -> None:
        await self._handler(pipe)

    def _done(self, pipe: Pipe[bytes], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            pipe.abort(EndReason.HIBERNATING)
        elif (error := task.exception()) is None:
            pipe.close()
        else:
            pipe.fail()
            if not isinstance(error, PipeBroken):  # that was the far end's doing
                message = "a service's handler failed"
                asyncio.get_running_loop().call_exception_handler(
                    {"message": message, "exception": error, "task": task}
                )


@cache
def _tls() -> CPythonTls:
    """One for all: it keeps what it parsed."""
    return CPythonTls()


def _parsed(address: str) -> Address:
    try:
        return parse_address(address)
    except Problem as problem:
        raise AddressError(problem.why) from None


def _served(what: str | bytes | Path) -> tuple[ServiceAddress, bytes | None]:
    if isinstance(what, str):
        address = _parsed(what)
        if not isinstance(address, PublicAddress):
            raise ServeError("Serve hash:NAME, or a private service by its secret.")
        return address, None
    secret = what
    if isinstance(secret, Path):
        try:
            secret = load_or_create_secret(secret, SystemRng())
        except KeyFileError as error:
            raise ServeError(f"{error}.") from None
    if len(secret) != KEY_LEN:
        raise ServeError(f"The secret of a private service has {KEY_LEN} bytes.")
    return private_address(CPythonCrypto(), secret), secret


def _not_joined(error: NotJoinedError) -> JoinError:
    if error.trouble is None:
        return JoinError("No nodes are known: none came, or none was given.")
    failure = JoinError(words(error.trouble.why))
    failure.why = error.trouble.why.code
    return failure
