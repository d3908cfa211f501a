"""The nodes of the network, as a facilitator's signed list tells them.

Does: verify lists and descriptors, keep the newest list, answer which nodes there are now.
Does not: fetch lists (facilitator/client.py), choose nodes or remember which of them failed (path/select.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from convergence.errors import CryptoError, ParseError, RemoteError
from convergence.ports import Buffer, Crypto
from convergence.wire.facilitator import Descriptor, NodeList, Role

MAX_CLOCK_SKEW = 600
"""Seconds that a facilitator's clock may be ahead of ours. A list from farther ahead would shut out all later ones."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an update did: identities that came, went or changed, and how many descriptors were unusable."""

    added: frozenset[bytes]
    removed: frozenset[bytes]
    changed: frozenset[bytes]
    skipped: int

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class NodeDirectory:
    """All usable nodes. The last good list is kept for as long as its descriptors are valid.

    Args:
        crypto: verifies signatures.
        facilitator: its Ed25519 identity; None pins the one whose list comes first.
    """

    def __init__(self, crypto: Crypto, facilitator: bytes | None = None) -> None:
        self._crypto = crypto
        self._facilitator = facilitator
        self._published = 0
        self._nodes: dict[bytes, Descriptor] = {}
        self._verified: dict[bytes, Descriptor] = {}

    @property
    def facilitator(self) -> bytes | None:
        """The pinned identity."""
        return self._facilitator

    @property
    def published(self) -> int:
        """When the list in use was published (Unix seconds); 0 without one."""
        return self._published

    def update(self, data: Buffer, now: float) -> Change:
        """Take over a signed list. One that was published before the list in use is refused, so that nobody can bring
        back nodes that left.

        A descriptor that does not parse or verify, or has expired, is skipped: it costs its node only. One that was
        verified in the list before is not verified again.

        Raises ParseError, CryptoError or RemoteError; the list in use then stays.
        """
        nodes = NodeList.parse(data)
        if self._facilitator not in (None, nodes.facilitator):
            raise CryptoError("the node list is signed by another facilitator")
        if not nodes.verify(self._crypto.ed25519_verify):
            raise CryptoError("the node list's signature does not hold")
        if nodes.published > now + MAX_CLOCK_SKEW:
            raise RemoteError("the node list comes from the future: one of the two clocks is wrong")
        if nodes.expires <= now:
            raise RemoteError("the node list has expired: one of the two clocks may be wrong")
        if nodes.published < self._published:
            raise RemoteError("the node list is older than the one in use")
        return self._take_over(nodes, now)

    def get(self, identity: bytes, now: float = 0) -> Descriptor | None:
        """The node of this identity, if it is listed and valid at `now` (without `now`: if it is listed)."""
        node = self._nodes.get(identity)
        return node if node is not None and node.expires > now else None

    def nodes(self, role: Role, now: float) -> list[Descriptor]:
        """All valid nodes that have every bit of `role` (Role(0): any), in order of identity."""
        wanted = role.value  # numbers: arithmetic on flags takes microseconds a node, and this runs for every path
        return [node for node in self._nodes.values() if node.roles.value & wanted == wanted and node.expires > now]

    def _take_over(self, nodes: NodeList, now: float) -> Change:
        verified: dict[bytes, Descriptor] = {}
        found: dict[bytes, Descriptor] = {}
        for raw in nodes.descriptors:
            node = self._verified.get(raw) or self._verify(raw)
            if node is None or node.expires <= now:
                continue
            verified[raw] = node
            other = found.get(node.identity)
            if other is None or other.published < node.published:
                found[node.identity] = node
        before = self._nodes
        self._facilitator = nodes.facilitator
        self._published = nodes.published
        self._verified = verified
        self._nodes = dict(sorted(found.items()))
        return Change(
            added=frozenset(found.keys() - before.keys()),
            removed=frozenset(before.keys() - found.keys()),
            changed=frozenset(key for key in found.keys() & before.keys() if found[key] != before[key]),
            skipped=len(nodes.descriptors) - len(verified),
        )

    def _verify(self, raw: bytes) -> Descriptor | None:
        try:
            node = Descriptor.parse(raw)
        except ParseError:
            return None
        return node if node.verify(self._crypto.ed25519_verify) else None
