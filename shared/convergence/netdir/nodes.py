"""The nodes of the network: those of a facilitator's signed list, and what peers heard since.

Does: verify lists and descriptors, keep the newest of each, answer which nodes there are now.
Does not: fetch lists (facilitator/client.py), ask peers (introduction/peers.py), choose nodes or remember which of them
failed (path/select.py).

The list has authority over what it could know: a node that it lacks counts only if its descriptor is about as new as
the list, or newer. So nodes that left do not come back by hearsay, and with the facilitator gone the network goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from convergence.errors import ClockError, CryptoError, LocalError, ParseError, RemoteError
from convergence.ports import Buffer, Crypto
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import NodeList
from convergence.wire.target import Role

MAX_CLOCK_SKEW = 600
"""Seconds that another clock may be ahead of ours. What comes from farther ahead would shut out all later ones."""
LIST_FRESH = 300.0
"""Seconds from a list's publication in which heard nodes that it lacks are looked up by name only."""
HEARSAY_SKEW = 60
"""Seconds that the descriptor of such a node may be from the future..."""
HEARSAY_LIFETIME = 3600
"""...and how long it may be valid."""
MAX_HEARD = 2048
"""Heard nodes that the list lacks. Beyond, new ones are refused until others expire: a flood replaces nobody."""
MAX_LIFETIME = 6 * 3600
"""Seconds that a heard descriptor may be valid for, as for listed ones."""
FEW_NODES = 3
"""While fewer nodes are valid, others that were valid lately are tried too: the facilitator is gone, and we slept or
were off."""
HINT_LIFETIME = 7 * 24 * 3600
"""Seconds after its end that the descriptor of a node with an address is still worth a try. Browsers come back as other
nodes; servers keep their keys."""
MAX_RECALLED = 1024
"""Nodes that are kept from one run to the next."""
LIST_SKEW = 60
"""Seconds that a list may be older than the one in use without being a fault: another facilitator of the same identity
signed it, by its own clock. It is not taken over."""
MAX_LEARNT = 4096
"""Nodes that are known of a network without a list; beyond, the fourth that was learnt first is forgotten."""
FEW_LEARNT = 64
"""So many are kept without a look at who will not come back."""
LIST_DELAY = 30
"""Seconds that a descriptor may be older than a list that lacks it: it may have been on its way to the facilitator."""


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
    """All usable nodes, by the newest descriptor of each. The last good list is kept for as long as its descriptors are
    valid.

    Args:
        crypto: verifies signatures.
        facilitator: its Ed25519 identity; None pins the one whose list comes first.
    """

    def __init__(self, crypto: Crypto, facilitator: bytes | None = None) -> None:
        self._crypto = crypto
        self._facilitator = facilitator
        self._published = 0
        self._verified: dict[bytes, Descriptor] = {}  # the list's, by their encoding
        self._listed: dict[bytes, Descriptor] = {}
        self._recalled: dict[bytes, Descriptor] = {}  # of an earlier run, until there is a list
        self._reached: dict[bytes, int] = {}
        self._crowded = FEW_LEARNT  # nodes learnt, at which those that will not come back are taken out
        self._heard: dict[bytes, Descriptor] = {}  # only those that count; newer than the listed ones of the same nodes
        self._nodes: dict[bytes, Descriptor] | None = {}  # all, in order of identity; None: to be made again
        self.version = 0  # grows whenever other nodes may be usable than before, but for the time that passes

    @property
    def facilitator(self) -> bytes | None:
        """The pinned identity."""
        return self._facilitator

    def pin(self, facilitator: bytes) -> None:
        """Take lists of this one only. Raises LocalError if another one is pinned."""
        if self._facilitator not in (None, facilitator):
            raise LocalError("another facilitator is pinned")
        self._facilitator = facilitator

    @property
    def published(self) -> int:
        """When the list in use was published (Unix seconds); 0 without one."""
        return self._published

    def update(self, data: Buffer, now: float) -> Change:
        """Take over a signed list. One that was published before the list in use is refused, so that nobody can bring
        back nodes that left; within LIST_SKEW it only changes nothing.

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
            raise ClockError("the node list comes from the future", now - nodes.published)
        if nodes.expires <= now:
            raise ClockError("the node list has expired", now - nodes.published)
        if nodes.published < self._published - LIST_SKEW:
            raise RemoteError("the node list is older than the one in use")
        if nodes.published < self._published:
            return Change(frozenset(), frozenset(), frozenset(), 0)
        return self._take_over(nodes, now)

    def hear(self, raw: Buffer, now: float) -> bool:
        """Take over an encoded descriptor that a peer passed on. Returns whether it is news: valid, signed by its node,
        newer than the one we have, and not one that the list has left out. A descriptor without roles is news only of
        a known node: it says that the node pauses."""
        try:
            node = Descriptor.parse(raw)
        except ParseError:
            return False
        if not self._is_news(node, now) or not node.verify(self._crypto.ed25519_verify):
            return False
        self._heard[node.identity] = node
        self._forget()
        return True

    def vouch(self, raw: Buffer, now: float) -> Descriptor | None:
        """The node of an encoded descriptor that somebody showed us: as we know it, if we do; else as it says, if it
        could be news of a new node. Nothing of it is kept."""
        try:
            node = Descriptor.parse(raw)
        except ParseError:
            return None
        known = self.get(node.identity, now)
        if known is not None:
            return known
        may_be = bool(node.roles) and _is_brief(node, now) and self._counts(node, now)
        return node if may_be and node.verify(self._crypto.ed25519_verify) else None

    def recall(self, descriptors: Iterable[bytes], now: float) -> bool:
        """Take over encoded descriptors that were `kept`, or that the program knows, valid or not, unless there is a
        fresh list. The newest of a node counts. Returns whether any was news."""
        if now - self._published < LIST_FRESH:
            return False
        news = False
        for raw in islice(descriptors, MAX_RECALLED):
            node = self._verify(raw)
            if node is None or node.published > now + MAX_CLOCK_SKEW:
                continue
            known = self._all().get(node.identity)
            if known is None or known.published < node.published:
                if node.identity not in self._recalled and len(self._recalled) >= MAX_RECALLED:
                    continue
                self._recalled[node.identity] = node
                self._heard.pop(node.identity, None)
                self._forget()
                news = True
        return news

    def learn(self, node: Descriptor, now: float) -> None:
        """A node that the facilitator lists elsewhere than in a list, and that signed this descriptor itself."""
        known = self._all().get(node.identity)
        if known is not None and known.published > node.published and (not known.roles or known.expires > now):
            return
        if len(self._listed) >= self._crowded:
            there = [(key, other) for key, other in self._listed.items() if _may_come_back(other, now)]
            self._listed = dict(there[-MAX_LEARNT * 3 // 4 :])
            self._crowded = min(max(2 * len(self._listed), FEW_LEARNT), MAX_LEARNT)
            self._forget()
        self._listed.pop(node.identity, None)
        self._listed[node.identity] = node
        self._recalled.pop(node.identity, None)
        self._heard.pop(node.identity, None)
        if self._nodes is not None:
            self._nodes[node.identity] = node
        self.version += 1

    def kept(self, now: float) -> list[bytes]:
        """The encoded descriptors of all nodes that a later run may try."""
        return [node.encode() for node in self._all().values() if node.roles and _may_come_back(node, now)]

    def newer(self, since: int, now: float) -> list[bytes]:
        """The encoded descriptors of all valid nodes that were published at `since` (Unix seconds) or later, the oldest
        first."""
        found = [node for node in self._all().values() if node.published >= since and node.expires > now]
        return [node.encode() for node in sorted(found, key=lambda node: node.published)]

    def get(self, identity: bytes, now: float = 0) -> Descriptor | None:
        """The node of this identity, if it is known and usable at `now` (without `now`: if it is known)."""
        node = self._all().get(identity)
        if node is None or node.expires > now:
            return node
        return next((other for other in self._usable(now) if other is node), None)

    def reached(self, identity: bytes) -> int:
        """When the facilitator last found this node at its address (Unix seconds); 0 if never, as for those without."""
        return self._reached.get(identity, 0)

    def nodes(self, role: Role, now: float) -> list[Descriptor]:
        """All usable nodes that have roles, and every bit of `role`, in order of identity: the valid ones, and while
        these are few, servers that were recalled and were valid lately. While the list is fresh, only nodes on it: with
        a facilitator we do not depend on peers, which may make up any number of nodes."""
        wanted = role.value  # numbers: arithmetic on flags takes microseconds a node
        return [node for node in self._usable(now) if node.roles.value & wanted == wanted]

    def stands_until(self, now: float) -> float:
        """When `nodes` gives other nodes than at `now`, if nothing is heard until then (Unix seconds)."""
        ends = [node.expires for node in self._all().values()]
        hints = [end + HINT_LIFETIME for end in ends if end <= now]
        return min((end for end in (*ends, *hints, self._published + LIST_FRESH) if end > now), default=float("inf"))

    def _usable(self, now: float) -> list[Descriptor]:
        known = self._all()
        if (self._heard or self._recalled) and now - self._published < LIST_FRESH:
            known = {identity: node for identity, node in known.items() if identity in self._listed}
        nodes = [node for node in known.values() if node.expires > now and node.roles.value]
        if not self._recalled or len(nodes) >= FEW_NODES:
            return nodes
        may = self._recalled
        return [
            node
            for identity, node in known.items()
            if node.roles.value and (node.expires > now or (identity in may and _may_come_back(node, now)))
        ]

    def _take_over(self, nodes: NodeList, now: float) -> Change:
        verified: dict[bytes, Descriptor] = {}
        found: dict[bytes, Descriptor] = {}
        self._reached = {}
        for raw, reached in zip(nodes.descriptors, nodes.reached, strict=True):
            node = self._verified.get(raw) or self._verify(raw)
            if node is None or node.expires <= now:
                continue
            verified[raw] = node
            other = found.get(node.identity)
            if other is None or other.published < node.published:
                found[node.identity] = node
                self._reached[node.identity] = reached
        before = self._all()
        self._facilitator = nodes.facilitator
        self._published = nodes.published
        self._verified = verified
        self._listed = found
        self._recalled = {}
        self._heard = {key: node for key, node in self._heard.items() if self._counts(node, now)}
        self._forget()
        after = self._all()
        return Change(
            added=frozenset(after.keys() - before.keys()),
            removed=frozenset(before.keys() - after.keys()),
            changed=frozenset(key for key in after.keys() & before.keys() if after[key] != before[key]),
            skipped=len(nodes.descriptors) - len(verified),
        )

    def _verify(self, raw: bytes) -> Descriptor | None:
        try:
            node = Descriptor.parse(raw)
        except ParseError:
            return None
        known = node == self._all().get(node.identity)  # the same to the last byte, so verified already
        return node if known or node.verify(self._crypto.ed25519_verify) else None

    def _all(self) -> dict[bytes, Descriptor]:
        if self._nodes is None:
            self._nodes = dict(sorted((self._recalled | self._listed | self._heard).items()))
        return self._nodes

    def _forget(self) -> None:
        self._nodes = None
        self.version += 1

    def _counts(self, node: Descriptor, now: float) -> bool:
        """Whether a heard descriptor is valid and tells more than the list does."""
        listed = self._listed.get(node.identity)
        than = self._published - LIST_DELAY if listed is None else listed.published
        return node.published > than and node.expires > now

    def _is_news(self, node: Descriptor, now: float) -> bool:
        known = self._heard.get(node.identity)
        return (
            node.published <= now + MAX_CLOCK_SKEW
            and node.expires - node.published <= MAX_LIFETIME
            and self._counts(node, now)
            and (known is None or node.published > known.published)
            and (known is not None or node.identity in self._listed or self._may_enter(node, now))
        )

    def _may_enter(self, node: Descriptor, now: float) -> bool:
        """Whether a node that is told of for the first time, and not by the list, is taken."""
        return bool(node.roles) and _is_brief(node, now) and self._has_room(now)

    def _has_room(self, now: float) -> bool:
        if len(self._heard) >= MAX_HEARD:
            for key in [key for key, node in self._heard.items() if node.expires <= now]:
                del self._heard[key]
                self._forget()
        return len(self._heard) < MAX_HEARD or len(self._heard.keys() - self._listed.keys()) < MAX_HEARD


def _is_brief(node: Descriptor, now: float) -> bool:
    """Whether the dates of a descriptor are such that it is taken from peers."""
    return node.published <= now + HEARSAY_SKEW and node.expires - node.published <= HEARSAY_LIFETIME


def _may_come_back(node: Descriptor, now: float) -> bool:
    """Whether a node is valid, or has an address and was valid lately."""
    return node.expires > now or (node.ws_url is not None and node.expires + HINT_LIFETIME > now)
