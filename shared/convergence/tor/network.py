"""A client of the Tor network: its directory, its circuits, and streams through its exits.

Does: wire the parts, say for people how far the directory is.
Does not: hold protocol logic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from convergence.effects import Protocol
from convergence.errors import LocalError
from convergence.events import TorDirectoryChanged
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.netdir.tor import SCHEME
from convergence.netdir.view import Known, View
from convergence.outbox import Outbox
from convergence.path.buildtimes import BuildTimeParams
from convergence.path.entries import StickyEntries
from convergence.path.place import Failed, Ready
from convergence.ports import Crypto, Rng
from convergence.tor.circuits import TorCircuits
from convergence.tor.directory import TorDirectory
from convergence.tor.entrance import ByGuards, ByNodes
from convergence.tor.sources import DirectorySources
from convergence.wire.linkspec import LinkSpecifier, SpecifierType
from convergence.wire.target import Protocols, RelayTarget, Role

if TYPE_CHECKING:
    from convergence.tor.sets import Sets


@dataclass(frozen=True, slots=True)
class DirectoryAddress:
    """A directory that is known before any consensus is: an authority, or a fallback.

    Args:
        address: host:port of its ORPort.
        fingerprint: SHA-1 of its RSA identity, 20 bytes.
        dir_address: host:port of its directory port; "" without one.
    """

    address: str
    fingerprint: bytes
    dir_address: str = ""

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
        directories: whom to ask first: the authorities, in the same order, then others. With none, nodes of our own
            network lead into it.
        distinct_subnets: whether relays of one subnet are kept apart. Off for a network on one machine only.
        sets: makes the conflux sets of a client that has guards (sets.py); None: it has none.
    """

    authorities: tuple[bytes, ...]
    directories: tuple[DirectoryAddress, ...] = ()
    distinct_subnets: bool = True
    sets: type[Sets] | None = None

    def __post_init__(self) -> None:
        if not self.authorities or len(set(self.authorities)) != len(self.authorities):
            raise LocalError("a Tor network has authorities, each of which is named once")

    @property
    def authority_directories(self) -> tuple[DirectoryAddress, ...]:
        """The authorities, whom relays tell of themselves."""
        return self.directories[: len(self.authorities)]

    @property
    def first_targets(self) -> list[RelayTarget]:
        return [item.target for item in self.directories]

    def link_address(self, fingerprint: bytes) -> LinkAddress | None:
        """Where the directory of this RSA identity takes links; None if that is none of the first ones."""
        return next((item.link_address for item in self.directories if item.fingerprint == fingerprint), None)

    @property
    def name(self) -> str:
        """Names the network in the store."""
        return sha256(b"".join(sorted(self.authorities))).hexdigest()


class TorNetwork:
    """Args:
    neighbours: our links, which ask `address` where relays are.
    view: says which nodes of our own network lead into this one. They are used where the configuration names no
        directories.
    suits: whether we can open links to such a node.
    entries: which of them was taken, over restarts; restored before `start`.
    on_ready: called with `now` when circuits can be built, and could not before.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        config: TorConfig,
        *,
        entries: StickyEntries | None = None,
        view: View[Known] | None = None,
        suits: Callable[[RelayTarget], bool] = lambda node: True,
        on_full: Callable[[float], None] = lambda now: None,
        on_ready: Callable[[float], None] = lambda now: None,
    ) -> None:
        self.config = config
        self.ready = False
        self._on_ready = on_ready
        self._outbox = outbox

        def rests(identity: bytes, now: float) -> bool:
            return self._sources.rests(identity, now)

        self._entrance: ByGuards | ByNodes
        legs: ByGuards | None = None
        if config.directories or view is None:
            self._entrance = legs = ByGuards(outbox, rng, config, rests)
        else:  # all legs of a conflux set would begin with the same node
            kept = StickyEntries(outbox, rng) if entries is None else entries
            self._entrance = ByNodes(outbox, rng, config, rests, kept, view, suits, self._found)
        self._paths = self._entrance.paths
        self.circuits = TorCircuits(outbox, crypto, rng, neighbours, self._entrance, legs, config.sets, on_full=on_full)
        self._sources = DirectorySources(outbox, rng, self, self._entrance.directories)
        self.directory = TorDirectory(outbox, rng, config.authorities, self._sources, self._changed)

    def start(self, now: float) -> None:
        self.circuits.start(now, self.config.name)
        self._entrance.start(now, self.directory.start)

    def stop(self, now: float) -> None:
        self.directory.stop(now)
        self.circuits.stop(now)

    def moved(self, now: float) -> None:
        """This machine is on another network, or slept."""
        self.directory.moved(now)

    def nodes_changed(self, now: float) -> None:
        """Other nodes of our own network are known."""
        self._entrance.nodes_changed(now)

    def address(self, identity: bytes, now: float) -> LinkAddress | None:
        """Where a relay takes links; `identity` as in RelayTarget."""
        return self._entrance.address(identity)

    def snapshot(self, now: float) -> dict[str, Any]:
        """JSON-able, for people: relays in the consensus (0: there is none yet), how many of them are known, whether
        circuits can be built, and how many nodes of our own network lead there (None: none is needed)."""
        view = self._paths.view
        relays, known = (0, 0) if view is None else (len(view.relays), view.known)
        return {"relays": relays, "known": known, "ready": self.ready, "entries": self._entrance.known(now)}

    # -- what the parts ask

    def directory_circuit(self, directory: RelayTarget, on_ready: Ready, on_failed: Failed, now: float) -> None:
        use = self._entrance.directory_use(directory)
        self.circuits.directory_circuit(directory, use, on_ready, on_failed, now)

    def _found(self, now: float) -> None:
        """There is a node of ours that leads there, after there was none."""
        self.directory.moved(now)
        if self.ready:
            self.circuits.nodes_changed(now)

    def _changed(self, now: float) -> None:
        view = self.directory.view
        assert view is not None
        self._paths.update(view, now)
        self.circuits.times.update(BuildTimeParams.of(view.consensus))
        if self.circuits.sets is not None:
            self.circuits.sets.update(view.consensus)
        before, self.ready = self.ready, self._paths.ready(now)
        if self.ready:
            self.circuits.nodes_changed(now)
        self._outbox.emit(TorDirectoryChanged(len(view.relays), view.known, self.ready))
        if self.ready and not before:
            self._on_ready(now)
