"""A facilitator with its site as a part of this process: all ports put together.

Does: as app.py for a node; with a store that several facilitators share, or with storage of its own.
Does not: parse arguments, print, or outlive the event loop it was started in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convergence.driver import Driver
from convergence.events import Event
from convergence.facilitator.registry import BUCKET, RegistryLimits
from convergence.facilitator.service import LEAVING, FacilitatorService
from pynode import version
from pynode.app import KEY_FILE, AppError, Network, bound, open_storage
from pynode.config import Address
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.keyfile import KeyFileError, load_or_create_keys
from pynode.logs import Bugs, log_event
from pynode.loop import AsyncioClock, AsyncioTimer
from pynode.origins import Origins, is_address
from pynode.redis_address import RedisAddress
from pynode.storage import DiskStorage
from pynode.transports.dialling import is_private
from pynode.transports.websocket import FACILITATOR_PATH, WebSocketTransport

if TYPE_CHECKING:
    from pynode.facilitator import FacilitatorTransport
    from pynode.redis_store import RedisStore
    from pynode.site import Site


class FacilitatorApp:
    """A facilitator and, on the same port, the site.

    Args:
        data: folder of its identity and of the nodes it knows.
        files: what a build wrote; None serves no page.
        name: what the site calls itself.
        hosts: names that the site answers to, besides its address and this machine's own.
        origins: those of other sites whose pages may use this facilitator and read this site; "*" for all.
        stun: servers that the page uses for WebRTC links; None when it makes no such links.
        limits: of nodes and channels.
        draws_with: identities and addresses of the facilitators of others that draw the shared random value with it.
        store: where it shares its nodes with other facilitators; None: it is the only one, and keeps them in `data`.
    """

    def __init__(
        self,
        data: Path,
        listen: Address,
        *,
        files: Path | None = None,
        name: str = "Convergence",
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        stun: Sequence[str] | None = None,
        limits: RegistryLimits | None = None,
        draws_with: Iterable[tuple[bytes, str]] = (),
        store: RedisAddress | None = None,
        on_event: Callable[[Event], None] = log_event,
    ) -> None:
        self.port = 0
        self._data = data
        self._listen = listen
        self._files = files
        self._name = name
        self._hosts = frozenset(hosts if is_address(listen.host) else (listen.host, *hosts))
        self._origins = Origins(origins)
        self._stun = stun
        self._limits = limits or RegistryLimits()
        self._draws_with = dict(draws_with)
        self._store_address = store
        self._on_event = on_event
        self._driver: Driver | None = None
        self._storage: DiskStorage | None = None
        self._store: RedisStore | None = None
        self._site: Site | None = None
        self._transport: FacilitatorTransport | None = None

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(self._listen.host, self.port)

    @property
    def network(self) -> Network:
        """What a node on this machine needs to join."""
        address = self.address
        return Network(f"ws://{address}{FACILITATOR_PATH}", self.service.identity, f"http://{address}/")

    async def start(self) -> None:
        """Raises AppError."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        # They load a web server, 17 MB that no other node needs.
        from pynode.facilitator import FacilitatorTransport
        from pynode.site import FacilitatorSockets, Site, make_app

        rng = SystemRng()
        try:
            seed = load_or_create_keys(self._data / KEY_FILE, rng).identity
        except KeyFileError as error:
            raise AppError(f"{error}.") from None
        clock = AsyncioClock()
        timer = AsyncioTimer(clock)
        sockets = FacilitatorSockets(self._origins, self._limits.channels)
        links = WebSocketTransport(public_only=not is_private((self._listen.host, *self._hosts)))
        self._transport = transport = FacilitatorTransport(sockets, links)
        shared = self._store_address is not None
        self.service = FacilitatorService(
            CPythonCrypto(),
            rng,
            seed,
            source=transport.source,
            limits=self._limits,
            others=self._draws_with,
            shared=shared,
            version=version(),
        )
        if self._store_address is None:
            self._storage = open_storage(self._data)
        else:
            self._store = _shared_store(self._store_address, self.service)
        self._driver = driver = Driver(
            self.service,
            transport,
            clock,
            timer,
            storage=self._storage,
            shared=self._store,
            on_event=self._on_event,
            on_bug=Bugs(),
        )
        transport.attach(driver)
        timer.tick = driver.tick
        driver.run(self.service.start)
        if self._store is not None:
            self._store.start(driver)
        try:
            app = make_app(
                files=self._files,
                name=self._name,
                identity=self.service.identity,
                sockets=sockets,
                health=lambda: self.service.health(clock.now()),
                stun=self._stun,
                names=self._hosts,
                origins=self._origins,
            )
        except FileNotFoundError as error:
            raise AppError(f"{error}.") from None
        self._site = Site(app, sockets)
        self.port = await bound(self._listen, self._site.start(self._listen.host, self._listen.port))

    def forget(self, identities: Iterable[bytes]) -> None:
        """Remove nodes that ended for good from the list that outlives this process."""
        if self._storage is not None:
            self._storage.store([(BUCKET, identity, None) for identity in identities], lambda result: None)

    async def stop(self) -> None:
        """Stop, in bounded time. With other facilitators, its nodes are sent to them in turn, within LEAVING."""
        if self._site is not None:
            self._site.end_listening()
            await self._leave()
            await self._site.close()
        if self._store is not None:
            await self._store.close()
        if self._transport is not None:
            await self._transport.shutdown()
        if self._storage is not None:
            await self._storage.close()

    async def _leave(self) -> None:
        if self._driver is not None:
            gone = asyncio.Event()
            self._driver.run(lambda now: self.service.leave(lambda now: gone.set(), now))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), 2 * LEAVING)


def _shared_store(address: RedisAddress, service: FacilitatorService) -> RedisStore:
    try:
        from pynode.redis_store import RedisStore
    except ImportError:
        raise AppError("facilitator.store needs the client of Redis: pip install convergence[redis].") from None
    return RedisStore(address, service)
