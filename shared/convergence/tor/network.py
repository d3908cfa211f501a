"""A client of the Tor network: its directory, its circuits, and streams through its exits.

Does: wire the parts, know where relays take links.
Does not: hold protocol logic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

from convergence.effects import Protocol
from convergence.errors import LocalError
from convergence.events import TorDirectoryChanged
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.netdir.tor import SCHEME, TorView
from convergence.outbox import Outbox
from convergence.path.buildtimes import BuildTimeParams
from convergence.path.guards import Guards, GuardUse
from convergence.path.place import Failed, Ready
from convergence.path.torpath import TorPath, TorPaths, Wanted
from convergence.ports import Crypto, Rng
from convergence.tor.circuits import TorCircuits
from convergence.tor.directory import TorDirectory
from convergence.tor.sources import DirectorySources
from convergence.wire.linkspec import LinkSpecifier, SpecifierType
from convergence.wire.target import Protocols, RelayTarget, Role

MAX_ENTRIES = 128  # addresses of entries that are remembered; those that were chosen longest ago are forgotten first


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
    def link_address(self) -> LinkAddress:
        return LinkAddress(Protocol.TLS, self.address, self.fingerprint)

    @property
    def target(self) -> RelayTarget:
        specifiers = (LinkSpecifier(SpecifierType.LEGACY_ID, self.fingerprint),)
        return RelayTarget(
            self.fingerprint, specifiers, self.fingerprint, b"", Protocols(0), Role(0), frozenset((SCHEME,)), False
        )


@dataclass(frozen=True, slots=True)
class TorConfig:
    """Which Tor network.

    Args:
        authorities: v3 identities (20 bytes each) of its directory authorities.
        directories: whom to ask first: the authorities, in the same order, then others.
        distinct_subnets: whether relays of one subnet are kept apart. Off for a network on one machine only.
    """

    authorities: tuple[bytes, ...]
    directories: tuple[DirectoryAddress, ...]
    distinct_subnets: bool = True

    def __post_init__(self) -> None:
        if not self.directories:
            raise LocalError("a Tor network needs directories to begin with")

    @property
    def authority_directories(self) -> tuple[DirectoryAddress, ...]:
        """The authorities, whom relays tell of themselves."""
        return self.directories[: len(self.authorities)]

    @property
    def first_targets(self) -> list[RelayTarget]:
        return [item.target for item in self.directories]

    @property
    def name(self) -> str:
        """Names the network in the store."""
        return sha256(b"".join(sorted(self.authorities))).hexdigest()


class TorNetwork:
    """Args:
    neighbours: our links, which ask `address` where relays are.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        config: TorConfig,
        *,
        on_full: Callable[[float], None] = lambda now: None,
    ) -> None:
        self._outbox = outbox
        self._config = config
        self._first = {item.fingerprint: item for item in config.directories}
        self._addresses: dict[bytes, LinkAddress] = {}  # of entries that were chosen lately
        self._uses: dict[bytes, GuardUse] = {}  # of guards that are to be asked for documents
        self._guards = Guards(outbox, rng, config.name)
        self._paths = TorPaths(rng, self._guards, distinct_subnets=config.distinct_subnets)
        self.circuits = TorCircuits(outbox, crypto, rng, neighbours, self, on_full=on_full)
        self._sources = DirectorySources(outbox, rng, self, self._directories)
        self.directory = TorDirectory(outbox, rng, config.authorities, self._sources, self._changed)
        self._view: TorView | None = None

    def start(self, now: float) -> None:
        self.circuits.start(now, self._config.name)
        self._guards.restore(now, self.directory.start)

    def stop(self, now: float) -> None:
        self.directory.stop(now)
        self.circuits.stop(now)

    def moved(self, now: float) -> None:
        """This machine is on another network, or slept."""
        self.directory.moved(now)

    def address(self, identity: bytes, now: float) -> LinkAddress | None:
        """Where a relay takes links; `identity` as in RelayTarget."""
        first = self._first.get(identity)
        return self._addresses.get(identity) if first is None else first.link_address

    # -- what the parts ask

    def exit_path(self, wanted: Collection[Wanted], now: float, *, avoid: Collection[bytes] = ()) -> TorPath:
        """For the circuits: a path, whose entry we can reach from now on."""
        path = self._paths.exit_path(wanted, now, avoid=avoid)
        self._enter(path)
        return path

    def directory_circuit(self, directory: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None:
        use = self._uses.pop(directory.identity, None)
        self.circuits.directory_circuit(directory, use, on_ready, on_failed, now)

    def _directories(self, now: float) -> Sequence[RelayTarget]:
        """A guard of ours, so that few learn that we are there; before we have any, the first ones."""
        try:
            path = self._paths.directory_guard(now)
        except LocalError:
            return self._config.first_targets
        [target] = path.targets
        if self._sources.rests(target.identity):
            path.use.over(now)
            return self._config.first_targets
        self._enter(path)
        replaced = self._uses.pop(target.identity, None)
        if replaced is not None:
            replaced.over(now)
        self._uses[target.identity] = path.use
        return [target]

    def _enter(self, path: TorPath) -> None:
        entry = path.relays[0]
        status = entry.status
        address = LinkAddress(Protocol.TLS, f"{status.address}:{status.or_port}", status.identity)
        self._addresses.pop(entry.target.identity, None)
        self._addresses[entry.target.identity] = address
        if len(self._addresses) > MAX_ENTRIES:
            del self._addresses[next(iter(self._addresses))]

    def _changed(self, now: float) -> None:
        view = self.directory.view
        assert view is not None
        if view is not self._view:
            self._view = view
            self._paths.update(view, now)
            self.circuits.times.update(BuildTimeParams.of(view.consensus))
        try:
            self._paths.check(now)
        except LocalError:
            ready = False
        else:
            ready = True
            self.circuits.nodes_changed(now)
        self._outbox.emit(TorDirectoryChanged(len(view.relays), view.known, ready))
