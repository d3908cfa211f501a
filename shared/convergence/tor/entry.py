"""What a node of our own network does as an entry to the Tor network, as a bridge does there.

Does: keep a verified consensus and serve it; say whether others can begin circuits here, and to which relays of Tor
circuits may go on: those of the consensus, at the addresses that it has for them.
Does not: extend circuits (circuit/relay.py), or choose relays for others: they verify all documents themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from convergence.circuit.relaying import known_node
from convergence.errors import DestroyReason, LocalError, RemoteError
from convergence.events import TorDirectoryChanged
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.netdir.consensus import TOLERANCE
from convergence.outbox import Outbox, Timer
from convergence.path.torpath import TorPaths
from convergence.ports import Crypto, Rng
from convergence.tor.cache import DirectoryCache
from convergence.tor.circuits import DirectoryCircuits
from convergence.tor.directory import TorDirectory
from convergence.tor.network import TorConfig
from convergence.tor.sources import DirectorySources
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, ed25519_identity, rsa_fingerprint


class TorEntry:
    """Args:
    config: whose authorities are believed, and whom to ask for documents.
    source_of: whom limits count a link's channel under.
    on_changed: called with `now` when `ready` is another.

    Attributes:
        ready: whether paths can be chosen by what is here: a consensus that counts, and enough descriptors.
        offered: whether this node leads there at all. If not, it goes on keeping the documents.
        cache: answers BEGIN_DIR.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        neighbours: Neighbours,
        config: TorConfig,
        source_of: Callable[[int], Hashable],
        on_changed: Callable[[float], None],
    ) -> None:
        if not config.directories:
            raise LocalError("an entry to the Tor network needs directories to begin with")
        self.ready = False
        self.offered = True
        self._outbox = outbox
        self._config = config
        self._on_changed = on_changed
        circuits = DirectoryCircuits(outbox, crypto, rng, neighbours)
        sources = DirectorySources(outbox, rng, circuits, lambda now: config.first_targets)
        self.directory = TorDirectory(outbox, rng, config.authorities, sources, self._look, mirror=True)
        self.cache = DirectoryCache(outbox, self.directory, lambda: b"", source_of)
        self._circuits = circuits
        self._paths = TorPaths(rng, None, distinct_subnets=config.distinct_subnets)
        self._expiry: Timer | None = None

    def start(self, now: float) -> None:
        self.directory.start(now)

    def stop(self, now: float) -> None:
        self.directory.stop(now)
        self._circuits.stop(now)
        if self._expiry is not None:
            self._expiry.cancel()

    def moved(self, now: float) -> None:
        """This machine is on another network, it slept, or its clock jumped."""
        self.directory.moved(now)
        self._look(now)

    def address(self, identity: bytes) -> LinkAddress | None:
        """Where a directory takes links. All other relays are dialled for circuits only, as `next_hop` says."""
        return self._config.link_address(identity)

    def next_hop(self, specifiers: Sequence[LinkSpecifier]) -> tuple[bytes, LinkAddress | None]:
        """Whom an EXTEND2 names: a relay of the Tor network by its RSA identity, which our own nodes have none of. Who
        it is and where it is dialled is what the consensus says: a stranger cannot have us dial anybody else. Raises
        RemoteError."""
        if not any(item.kind == SpecifierType.LEGACY_ID for item in specifiers):
            return known_node(specifiers)
        relay = self.directory.relay(rsa_fingerprint(specifiers)) if self.ready and self.offered else None
        if relay is None:
            raise RemoteError("EXTEND2 to a relay that is not in the consensus", reason=DestroyReason.CONNECTFAILED)
        identity = relay.target.identity
        if any(item.kind == SpecifierType.ED25519_ID for item in specifiers):
            if ed25519_identity(specifiers) != identity:
                reason = DestroyReason.OR_IDENTITY
                raise RemoteError("EXTEND2 to a relay whose identities the consensus has otherwise", reason=reason)
        return identity, relay.link_address

    def _look(self, now: float) -> None:
        """More or less may be known than before."""
        view = self.directory.view
        if view is None:
            return
        self._paths.update(view, now)
        if self._expiry is not None:
            self._expiry.cancel()
        end = view.consensus.valid_until + TOLERANCE
        if now < end:
            self._expiry = self._outbox.call_at(end, self._look)
        before, self.ready = self.ready, self._paths.ready(now)
        self._outbox.emit(TorDirectoryChanged(len(view.relays), view.known, self.ready))
        if self.ready is not before:
            self._on_changed(now)
