"""Which nodes a circuit goes through.

Does: choose at random without bias, spread entries so that no node sits at both ends of a transfer, avoid nodes that
failed lately. Randomness and time are arguments.
Does not: build circuits, or know what they are for.
"""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from convergence.circuit.client import MAX_HOPS
from convergence.errors import LocalError
from convergence.ports import Rng
from convergence.wire.facilitator import Descriptor, Role

T = TypeVar("T")

MIN_HOPS = 1

MIN_SIDE = 2
"""Entries that each side of a file keeps, where there are that many: one may fail."""
SIDE_BORDER = b"\x80"
"""Hashes below it put a node on the providers' side: half of all."""

BACK_OFF_FIRST = 30.0
"""Seconds a node is avoided after its first failure; doubled by each further one."""
BACK_OFF_MAX = 3600.0
FORGET_AFTER = 2 * BACK_OFF_MAX
"""Seconds after which a failure counts no more."""
MAX_REMEMBERED = 4096
"""Failed nodes remembered; the one whose failure is oldest is forgotten first."""


def random_below(rng: Rng, bound: int) -> int:
    """Uniform in 0..bound-1. Draws again rather than fold the range, which would favour low numbers."""
    if bound < 1:
        raise LocalError("there is nothing to choose from")
    bits = (bound - 1).bit_length()
    size = -(-bits // 8)
    while True:
        number = int.from_bytes(rng.random(size), "big") >> (8 * size - bits)
        if number < bound:
            return number


def choose(rng: Rng, items: Sequence[T]) -> T:
    """One of them, each as likely. Raises LocalError if there is none."""
    return items[random_below(rng, len(items))]


def sample(rng: Rng, items: Sequence[T], count: int) -> list[T]:
    """`count` different ones in random order. Raises LocalError if there are fewer."""
    if count > len(items):
        raise LocalError(f"{count} are needed, there are {len(items)}")
    rest = list(items)
    return [rest.pop(random_below(rng, len(rest))) for _ in range(count)]


def can_carry(node: Descriptor) -> bool:
    """Whether a node can be any hop but the last: it relays, and others can open a link to it."""
    return bool(node.roles.value & Role.RELAY.value) and node.ws_url is not None


def choose_path(
    rng: Rng,
    nodes: Iterable[Descriptor],
    hops: int,
    *,
    last: Descriptor | None = None,
    exclude: Collection[bytes] = (),
    entries: Iterable[Descriptor] | None = None,
    avoid: Collection[bytes] = (),
) -> tuple[Descriptor, ...]:
    """Distinct nodes, entry first.

    Args:
        nodes: those that are valid now.
        hops: 1 to 5, the last one counted.
        last: the node to end at; without it, the end is a relay too.
        exclude: identities never to use (our own).
        entries: the only nodes that may come first; without it, any may. With one hop and a `last` it does not apply.
        avoid: identities to use only where nothing else is left (`Reputation.avoided`).

    Raises LocalError, with how many relays are needed and known, when there are too few.
    """
    if not MIN_HOPS <= hops <= MAX_HOPS:
        raise LocalError(f"a circuit has {MIN_HOPS} to {MAX_HOPS} hops, not {hops}")
    if last is not None and hops == 1:
        if last.ws_url is None:
            raise LocalError("this node cannot be reached directly")
        return (last,)
    banned = set(exclude) if last is None else {*exclude, last.identity}
    known = {node.identity: node for node in nodes if can_carry(node) and node.identity not in banned}
    needed = hops if last is None else hops - 1
    if len(known) < needed:
        raise LocalError(f"{_relays(needed)} needed, {_are(len(known))} known")
    first = known if entries is None else {node.identity for node in entries} & known.keys()
    if not first:
        raise LocalError("no relay is known that may be the entry here")
    entry = choose(rng, _prefer([known[key] for key in sorted(first)], 1, avoid))
    del known[entry.identity]
    middle = sample(rng, _prefer([known[key] for key in sorted(known)], needed - 1, avoid), needed - 1)
    return (entry, *middle) if last is None else (entry, *middle, last)


def _prefer(nodes: list[Descriptor], count: int, avoid: Collection[bytes]) -> list[Descriptor]:
    """Those not avoided if they are enough; else all of those and as many avoided ones as are missing.

    The latter in the order of `avoid`, which a `Reputation` sorts by whose time is up first.
    """
    shunned = set(avoid)
    good = [node for node in nodes if node.identity not in shunned]
    if len(good) >= count:
        return good
    by_identity = {node.identity: node for node in nodes}
    return good + [by_identity[key] for key in avoid if key in by_identity][: count - len(good)]


def _relays(count: int) -> str:
    return "1 relay is" if count == 1 else f"{count} relays are"


def _are(count: int) -> str:
    return "1 is" if count == 1 else f"{count} are"


def entry_side(nodes: Iterable[Descriptor], hash_name: bytes, provider: bool, point: bytes) -> list[Descriptor]:
    """The nodes that may be entries of circuits for this file, on one of its two sides.

    Providers and clients of a file draw their entries from different sides, so that no node is the neighbour of both.
    A node's side hangs on its own keyed hash, so two node lists that differ still agree on every node in both. Only
    where that would leave a side with fewer than MIN_SIDE nodes (in networks of ten or less) does the border move,
    and then lists that differ may disagree on the nodes next to it.

    Args:
        nodes: those that are valid now.
        provider: which side: True for whoever serves the file, False for whoever fetches it.
        point: identity of the RDV point of the circuit. It is left out after the sides are set: they are the same for
            all points of a file.
    """
    ranked = {_rank(node, hash_name, b"convergence:side"): node for node in nodes if can_carry(node)}
    order = sorted(ranked)
    least = min(MIN_SIDE, len(order) // 2)
    border = min(max(bisect_left(order, SIDE_BORDER), least), len(order) - least)
    side = order[:border] if provider else order[border:]
    return [ranked[rank] for rank in side if ranked[rank].identity != point]


def _rank(node: Descriptor, key: bytes, label: bytes) -> bytes:
    return hmac.digest(key, label + node.identity, "sha256")


class Reputation:
    """Nodes that failed lately, each avoided for a time that doubles with every failure."""

    def __init__(self) -> None:
        self._failed: dict[bytes, tuple[int, float]] = {}  # identity -> failures, time of the last; oldest first

    def failed(self, identity: bytes, now: float) -> None:
        """A circuit broke at this node, or could not be built through it."""
        count, when = self._failed.pop(identity, (0, now))
        if now - when > FORGET_AFTER:
            count = 0
        self._failed[identity] = (count + 1, now)
        if len(self._failed) > MAX_REMEMBERED:
            del self._failed[next(iter(self._failed))]

    def worked(self, identity: bytes) -> None:
        """A circuit through this node was built: its failures are forgiven."""
        self._failed.pop(identity, None)

    def until(self, identity: bytes) -> float:
        """Until when (Unix seconds) the node is avoided; 0 if it did not fail."""
        count, when = self._failed.get(identity, (0, 0.0))
        # The exponent is capped before the power is taken: counts have no bound.
        return when + min(BACK_OFF_FIRST * 2 ** min(count - 1, 16), BACK_OFF_MAX) if count else 0.0

    def avoided(self, now: float) -> list[bytes]:
        """Identities to avoid now, the one whose time is up first leading."""
        until = {identity: self.until(identity) for identity in self._failed}
        return sorted((identity for identity in until if until[identity] > now), key=lambda key: (until[key], key))
