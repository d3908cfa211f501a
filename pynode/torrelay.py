"""A relay of the Tor network as a part of this process: all ports put together.

Does: keep its keys, change the onion key each week; build transports, driver and machine in the right order; start and
stop them.
Does not: parse arguments, print, or outlive the event loop it was started in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha1
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from convergence.crypto.keys import SECRET_LEN, NodeKeys
from convergence.driver import Driver
from convergence.events import Event
from convergence.tor.accounting import Allowance
from convergence.tor.relay import RelayConfig, TorRelay
from pynode import version
from pynode.app import STOP_TIMEOUT, AppError, bound
from pynode.config import Address, Limits, Tor
from pynode.crypto import CPythonCrypto, SystemRng
from pynode.exit import Everything, TorPolicy
from pynode.keyfile import (
    KeyFileError,
    OnionSecrets,
    load_onion_keys,
    load_or_create_identity,
    load_or_create_rsa,
)
from pynode.logs import Bugs, log_event
from pynode.loop import AsyncioClock, AsyncioTimer
from pynode.storage import DiskStorage, StorageError
from pynode.torkeys import RsaSecret
from pynode.tornetwork import PUBLIC, TorNetworkError, read_network
from pynode.transports.mux import NetTransport
from pynode.transports.tcp import TcpTransport
from pynode.transports.tls import TlsTransport
from pynode.transports.unsent import Unsent
from pynode.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from pynode.metrics import Metrics

DAY = 86400
DIRECTORY_CHANNELS = 32
"""To directory ports, at once."""
LOOK_EVERY = 3600.0
"""Seconds between two looks whether the onion key is due."""


class TorRelayApp:
    """One relay.

    Args:
        data: folder of its keys and of the network's documents.
        listen: its ORPort; the address is published, unless `settings` names another.
        on_event: gets every Event of the core.
    """

    relay: TorRelay
    driver: Driver

    def __init__(
        self,
        data: Path,
        listen: Address,
        settings: Tor,
        limits: Limits,
        on_event: Callable[[Event], None] = log_event,
    ) -> None:
        self._data = data
        self._listen = listen
        self._settings = settings
        self._limits = limits
        self._on_event = on_event
        self._crypto, self._rng = CPythonCrypto(), SystemRng()
        self._storage: DiskStorage | None = None
        self._transport: NetTransport | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._metrics: Metrics | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-1 of its RSA identity, as Tor's tools write it."""
        assert self._keys.rsa is not None
        return sha1(self._keys.rsa.public).hexdigest().upper()

    async def start(self) -> None:
        """Listen, and be known to the authorities. Raises AppError."""
        try:
            await self._start()
        except BaseException:
            await self._release()
            raise

    async def _start(self) -> None:
        settings, limits = self._settings, self._limits
        try:
            network = read_network(settings.network or PUBLIC)
            self._onion = load_onion_keys(self._data / "onion.json", self._rng, time.time())
            self._keys = self._node_keys(
                load_or_create_identity(self._data / "identity.json", self._rng),
                load_or_create_rsa(self._data / "rsa.pem"),
            )
            self._storage = DiskStorage(self._data)
        except (KeyFileError, StorageError, TorNetworkError) as error:
            raise AppError(f"{error}.") from None
        unsent = Unsent()
        policy = TorPolicy(settings.policy, settings.private, settings.ipv6_exit)
        tcp = TcpTransport(policy, limits.exit_channels, unsent)
        tls = TlsTransport(limits.connections, unsent, limits.connections_from_one, not settings.private)
        self._transport = transport = NetTransport(
            WebSocketTransport(unsent=unsent),
            tcp,
            tls=tls,
            directory=TcpTransport(Everything(), DIRECTORY_CHANNELS, unsent),
        )
        self.port = await bound(self._listen, tls.listen(self._listen.host, self._listen.port))
        address6 = None
        if settings.listen6 is not None:
            port6 = await bound(settings.listen6, tls.listen(settings.listen6.host, settings.listen6.port))
            address6 = IPv6Address(settings.address6 or settings.listen6.host), port6
        # No await from here to `attach`: nothing can come in before there is a driver to tell.
        config = RelayConfig(
            network,
            settings.nickname,
            settings.address or self._listen.host,
            self.port,
            address6,
            policy.published,
            policy.published6,
            tcp.max_streams,
            limits.relayed,
            Allowance(settings.accounting, settings.accounting_days * DAY) if settings.accounting else None,
            settings.assume_reachable,
            settings.contact,
            f"Convergence {version()}",
        )
        self.relay = TorRelay(
            config,
            self._crypto,
            self._rng,
            keys=self._keys,
            onion=RsaSecret.generate(),
            source_of=tls.source,
        )
        clock = AsyncioClock()
        timer = AsyncioTimer(clock)
        self.driver = Driver(
            self.relay,
            transport,
            clock,
            timer,
            storage=self._storage,
            resolver=tcp,
            on_event=self._on_event,
            on_bug=Bugs(),
        )
        transport.attach(self.driver)
        timer.tick = self.driver.tick
        self.driver.run(self.relay.start)
        self._look()
        if settings.metrics is not None:
            from pynode.metrics import Metrics  # it loads a web server: 17 MB

            self._metrics = Metrics(lambda: self.relay.figures(clock.now()))
            await bound(settings.metrics, self._metrics.listen(settings.metrics))

    async def stop(self) -> None:
        """Leave the network. This takes at most about STOP_TIMEOUT."""
        if hasattr(self, "driver"):
            self.driver.run(self.relay.stop)
        await self._release()

    async def _release(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        if self._metrics is not None:
            await self._metrics.close()
        if self._transport is not None:
            await self._transport.shutdown(STOP_TIMEOUT)
        if self._storage is not None:
            await self._storage.close()

    def _node_keys(self, identity: bytes, rsa: RsaSecret) -> NodeKeys:
        keys = NodeKeys.from_secrets(
            self._crypto,
            identity_seed=identity,
            signing_seed=self._rng.random(SECRET_LEN),
            ntor_secret=self._onion.current,
            previous_ntor_secret=self._onion.previous,
        )
        return replace(keys, rsa=rsa)

    def _look(self) -> None:
        """Change the onion key when it is due."""
        self._renewal = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
        try:
            onion = load_onion_keys(self._data / "onion.json", self._rng, time.time())
        except KeyFileError:
            return  # it has its keys, and tries again
        if onion != self._onion:
            self._renew(onion)

    def _renew(self, onion: OnionSecrets) -> None:
        self._onion = onion
        rsa = self._keys.rsa
        assert isinstance(rsa, RsaSecret)
        self._keys = replace(
            self._node_keys(self._keys.identity_seed, rsa),
            signing_seed=self._keys.signing_seed,
            signing=self._keys.signing,
        )
        self.driver.run(lambda now: self.relay.renew(self._keys, now))
