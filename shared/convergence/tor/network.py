"""A client of the Tor network: its directory, its circuits, and streams through its exits.

Does: wire the parts, know where relays take links.
Does not: hold protocol logic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from convergence.effects import Protocol
from convergence.errors import LocalError
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.outbox import Outbox
from convergence.path.place import Failed, Ready
from convergence.path.pool import CircuitPool
from convergence.path.select import Reach
from convergence.ports import Crypto, Rng
from convergence.tor.directory import TorDirectory
from convergence.tor.sources import DirectorySources
from convergence.wire.descriptor import Descriptor
from convergence.wire.linkspec import LinkSpecifier, SpecifierType
from convergence.wire.target import Protocols, RelayTarget, Role

TLS = "tls"


@dataclass(frozen=True, slots=True)
class DirectoryAddress:
    """A directory that is known before any consensus is: an authority, or a fallback.

    Args:
        address: host:port of its ORPort.
        fingerprint: SHA-1 of its RSA identity, 20 bytes.
    """

    address: str
    fingerprint: bytes

    @property
    def target(self) -> RelayTarget:
        specifiers = (LinkSpecifier(SpecifierType.LEGACY_ID, self.fingerprint),)
        return RelayTarget(
            self.fingerprint, specifiers, self.fingerprint, b"", Protocols(0), Role(0), frozenset((TLS,)), False
        )


@dataclass(frozen=True, slots=True)
class TorConfig:
    """Which Tor network.

    Args:
        authorities: v3 identities (20 bytes each) of its directory authorities.
        directories: whom to ask first.
    """

    authorities: tuple[bytes, ...]
    directories: tuple[DirectoryAddress, ...]

    def __post_init__(self) -> None:
        if not self.directories:
            raise LocalError("a Tor network needs directories to begin with")


class TorNetwork:
    """Args:
    neighbours: our links, which ask `address` where relays are.
    on_changed: called with `now` when more is known of the network.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        config: TorConfig,
        on_changed: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._config = config
        self._first = {item.fingerprint: item for item in config.directories}
        self._on_changed = on_changed
        self.pool = CircuitPool(
            outbox, crypto, rng, neighbours, self, origin=Reach(schemes=(TLS,)), hops=3, exit_hops=3, size=0
        )
        sources = DirectorySources(outbox, rng, self, self._directories)
        self.directory = TorDirectory(outbox, rng, config.authorities, sources, self._changed)

    def start(self, now: float) -> None:
        self.directory.start(now)

    def stop(self, now: float) -> None:
        self.directory.stop(now)
        self.pool.stop(now)

    def moved(self, now: float) -> None:
        """This machine is on another network, or slept."""
        self.directory.moved(now)

    def exit_circuit(self, on_ready: Ready, on_failed: Failed, now: float, *, avoid: Collection[bytes] = ()) -> None:
        """For ExitConnections."""
        self.pool.exit_circuit(on_ready, on_failed, now, avoid=avoid)

    def address(self, identity: bytes, now: float) -> LinkAddress | None:
        """Where a relay takes links; `identity` as in RelayTarget."""
        first = self._first.get(identity)
        if first is not None:
            return LinkAddress(Protocol.TLS, first.address, first.fingerprint)
        return None

    # -- what the parts ask

    def nodes(self, role: Role, now: float) -> list[Descriptor]:
        return []

    def directory_circuit(self, directory: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None:
        self.pool.peer_circuit(directory, on_ready, on_failed, now, direct=True)

    def _directories(self, now: float) -> Sequence[RelayTarget]:
        return [item.target for item in self._config.directories]

    def _changed(self, now: float) -> None:
        self._on_changed(now)
