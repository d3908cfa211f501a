"""What a node says of itself to those who list nodes.

Does: decide in which roles it works now, how it is reached, for how long that holds, and sign it.
Does not: send it (facilitator/client.py, introduction/peers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from convergence.circuit.hop import OFFERED
from convergence.crypto.keys import NodeKeys
from convergence.facilitator.client import LIFETIME, RTC_LIFETIME, STABLE_LIFETIME
from convergence.netdir.nodes import MAX_CLOCK_SKEW
from convergence.ports import Crypto
from convergence.wire.descriptor import Descriptor, Transport, TransportKind
from convergence.wire.target import Protocols, Role


class Announcement:
    """Args:
    urls: WebSocket URLs where others reach us.
    tls: where relays of the Tor network reach us, if anywhere.
    introducers: gives, as of now, who passes signals on to us; None where the node speaks no WebRTC.
    paused: whether we work for nobody now.

    Attributes:
        offered: the roles in which we work while we do not pause.
        withheld: those of them for which we lack something.
    """

    def __init__(
        self,
        crypto: Crypto,
        keys: NodeKeys,
        offered: Role,
        *,
        urls: Sequence[str] = (),
        tls: Transport | None = None,
        introducers: Callable[[float], Sequence[bytes]] | None = None,
        paused: Callable[[], bool] = lambda: False,
    ) -> None:
        self.offered = offered
        self.withheld = Role.TOR  # until this node can lead there
        self._crypto = crypto
        self._keys = keys
        self._urls = tuple(urls)
        self._tls = tls
        self._introducers = introducers
        self._paused = paused
        self._published = 0

    @property
    def roles(self) -> Role:
        """Those in which we work now."""
        return Role(0) if self._paused() else self.offered & ~self.withheld

    def woke(self, now: float) -> None:
        """The clock jumped: what was published far ahead of it was taken by nobody and counts no more."""
        if self._published > now + MAX_CLOCK_SKEW:
            self._published = int(now)

    def describe(self, now: float, *, stable: bool = False) -> Descriptor | None:
        """Our descriptor, newer than any before; None if we work for nobody and never published one. If we did publish
        one, we say with a descriptor without roles that we pause.

        Args:
            stable: for whoever will tell others how long it is true.
        """
        roles = self.roles
        if not roles and not self._published:
            return None
        transports = [Transport(TransportKind.WS, url) for url in self._urls]
        if self._introducers is not None:
            transports.append(Transport.rtc(self._introducers(now)))
        if self._tls is not None:
            transports.append(self._tls)
        keys = self._keys
        published = self._published = max(int(now), self._published + 1)
        expires = published + (STABLE_LIFETIME if stable else LIFETIME if self._urls else RTC_LIFETIME)
        descriptor = Descriptor(
            keys.identity,
            keys.ntor_public,
            published,
            expires,
            roles,
            tuple(transports),
            protocols=OFFERED if roles else Protocols(0),
        )
        return descriptor.sign(lambda message: self._crypto.ed25519_sign(keys.identity_seed, message))
