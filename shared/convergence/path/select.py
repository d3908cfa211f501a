"""Which nodes a circuit goes through.

Does: choose at random without bias among the paths whose nodes can reach each other, spread entries so that no node
sits at both ends of a transfer, avoid the nodes that it is told to. Randomness is an argument.
Does not: build circuits, know what they are for, or remember which nodes failed (reputation.py).
"""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from convergence.chance import random_below
from convergence.circuit.client import MAX_HOPS
from convergence.codes import PathWhy
from convergence.errors import LocalError, Problem
from convergence.netdir.view import Class
from convergence.ports import Rng
from convergence.wire.target import RelayTarget, Role

T = TypeVar("T")

MIN_HOPS = 1

MIN_SIDE = 3
"""Entries that each side of a file keeps, where there are that many: one may be the point, one the end itself."""
SIDE_BORDER = b"\x80"
"""Hashes below it put a node on the providers' side: half of all."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a node opens links to: nodes that have a WebSocket address of one of these schemes, and, where it speaks rtc
    itself, nodes that do so too."""

    rtc: bool = False
    schemes: tuple[str, ...] = ("ws", "wss")

    @classmethod
    def of(cls, node: RelayTarget) -> Reach:
        """The reach of another node, from its descriptor. That does not say whether the node may dial ws://; we assume
        that it may. This is rarely wrong: servers that browsers are to reach have a wss:// address, or speak rtc."""
        return cls(node.rtc)

    def dials(self, node: RelayTarget) -> bool:
        """Whether a WebSocket leads there: at once, where rtc takes an introduction."""
        return not node.schemes.isdisjoint(self.schemes)

    def reaches(self, node: RelayTarget) -> bool:
        return (self.rtc and node.rtc) or self.dials(node)


def choose_path(
    rng: Rng,
    nodes: Iterable[RelayTarget],
    hops: int,
    *,
    origin: Reach,
    last: RelayTarget | None = None,
    exclude: Collection[bytes] = (),
    entries: Iterable[RelayTarget] | None = None,
    avoid: Collection[bytes] = (),
) -> tuple[RelayTarget, ...]:
    """Distinct nodes, entry first, each of which can open a link to the next one. All such paths are equally likely.

    Args:
        nodes: those that are valid now.
        hops: 1 to 5, the last one counted.
        origin: what we reach; the entry is one of those.
        last: the node to end at; without it, the end is a relay too.
        exclude: identities never to use (our own).
        entries: the only nodes that may come first; without it, any may. With one hop and a `last` it does not apply.
        avoid: identities to use only where nothing else leads to the end, the first ones rather than later ones
            (`Reputation.avoided`).

    Raises Problem (PathWhy) that says what is missing when there is no path.
    """
    _check_hops(hops)
    if last is not None and hops == 1:
        if not origin.reaches(last):
            raise Problem(PathWhy.NOT_DIRECT)
        return (last,)
    needed = hops if last is None else hops - 1
    known = _carriers(nodes, exclude, last)
    first = None if entries is None else {node.identity for node in entries}
    kinds = {identity: _Kind.of(node, origin, first) for identity, node in known.items()}
    if not _ways(Counter(kinds.values()), None, needed, last):
        raise _missing(list(known.values()), kinds.values(), needed, origin)
    members: dict[_Kind, list[RelayTarget]] = {}
    for identity in _spared(kinds, needed, last, avoid):
        members.setdefault(kinds[identity], []).append(known[identity])
    path: list[RelayTarget] = []
    before: _Kind | None = None
    for left in reversed(range(needed)):
        counts = {kind: len(group) for kind, group in members.items()}
        # A kind weighs as much as there are paths that go on with one of its nodes.
        weights = {kind: counts[kind] * _after(counts, kind, left, last) for kind in counts if kind.follows(before)}
        before = _draw(rng, weights)
        path.append(members[before].pop(random_below(rng, len(members[before]))))
    return tuple(path) if last is None else (*path, last)


def entries_to(
    nodes: Iterable[RelayTarget], hops: int, last: RelayTarget, *, origin: Reach, exclude: Collection[bytes] = ()
) -> list[RelayTarget]:
    """The nodes that begin some path of so many hops (2 to 5) to `last`. Arguments as for `choose_path`."""
    _check_hops(hops)
    known = _carriers(nodes, exclude, last)
    kinds = {identity: _Kind.of(node, origin, None) for identity, node in known.items()}
    counts = Counter(kinds.values())
    leading = {kind for kind in counts if kind.follows(None) and _after(counts, kind, hops - 2, last)}
    return [known[identity] for identity, kind in kinds.items() if kind in leading]


def _draw(rng: Rng, weights: Mapping[T, int]) -> T:
    """One of the keys, as likely as its weight says. Raises LocalError if all weigh nothing."""
    number = random_below(rng, sum(weights.values()))
    for key, weight in weights.items():
        if number < weight:
            return key
        number -= weight
    raise AssertionError("the number is below the sum")


class _Kind(NamedTuple):
    """All that decides where on a path a relay can stand. There are six kinds, so paths can be counted by kind."""

    dialled: bool  # it has a WebSocket address, and every relay can dial that
    rtc: bool
    entry: bool  # it may come first

    @classmethod
    def of(cls, node: RelayTarget, origin: Reach, entries: Collection[bytes] | None) -> _Kind:
        may_enter = (entries is None or node.identity in entries) and origin.reaches(node)
        return cls(node.has_address, node.rtc, may_enter)

    def follows(self, before: _Kind | None) -> bool:
        """Whether it can be the next after one of that kind (None: after the origin)."""
        return self.entry if before is None else self.dialled or (self.rtc and before.rtc)


def _ways(counts: Mapping[_Kind, int], before: _Kind | None, left: int, last: RelayTarget | None) -> int:
    """How many paths of `left` relays, and `last`, go on from one of kind `before`."""
    if left == 0:
        return int(last is None or last.has_address or (last.rtc and before is not None and before.rtc))
    return sum(
        count * _after(counts, kind, left - 1, last) for kind, count in counts.items() if count and kind.follows(before)
    )


def _after(counts: Mapping[_Kind, int], kind: _Kind, left: int, last: RelayTarget | None) -> int:
    """How many of them go on once one relay of this kind has been taken."""
    return _ways({**counts, kind: counts[kind] - 1}, kind, left, last) if counts[kind] else 0


def _spared(
    kinds: Mapping[bytes, _Kind], needed: int, last: RelayTarget | None, avoid: Collection[bytes]
) -> list[bytes]:
    """Identities to choose from: all except those to avoid, plus as few of the latter as a path needs."""
    shunned = {identity for identity in avoid if identity in kinds}
    good = [identity for identity in kinds if identity not in shunned]
    counts = Counter(kinds[identity] for identity in good)
    added: list[bytes] = []
    for identity in avoid:
        if _ways(counts, None, needed, last):
            break
        if identity in kinds and counts[kinds[identity]] < needed:  # more of a kind than that make no difference
            counts[kinds[identity]] += 1
            added.append(identity)
    for identity in added[-2::-1]:  # the last one made the difference; those before it may not have
        counts[kinds[identity]] -= 1
        if _ways(counts, None, needed, last):
            added.remove(identity)
        else:
            counts[kinds[identity]] += 1
    return good + added


def _carriers(
    nodes: Iterable[RelayTarget], exclude: Collection[bytes], last: RelayTarget | None
) -> dict[bytes, RelayTarget]:
    banned = set(exclude) if last is None else {*exclude, last.identity}
    return {node.identity: node for node in nodes if Class.RELAYS.holds(node) and node.identity not in banned}


def _check_hops(hops: int) -> None:
    if not MIN_HOPS <= hops <= MAX_HOPS:
        raise LocalError(f"a circuit has {MIN_HOPS} to {MAX_HOPS} hops, not {hops}")


def _missing(known: Sequence[RelayTarget], kinds: Iterable[_Kind], needed: int, origin: Reach) -> Problem:
    """Why there is no path."""
    if len(known) < needed:
        return Problem(PathWhy.FEW_RELAYS, needed=needed, known=len(known))
    if not any(origin.reaches(node) for node in known):
        return Problem(PathWhy.OUT_OF_REACH, known=len(known), schemes=" ".join(origin.schemes), rtc=origin.rtc)
    if not any(kind.entry for kind in kinds):
        return Problem(PathWhy.NO_ENTRY)
    return Problem(PathWhy.NO_PATH)


def entry_side(
    nodes: Iterable[RelayTarget], hash_name: bytes, provider: bool, point: bytes, *, whole: bool = True
) -> list[RelayTarget]:
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
        whole: whether `nodes` are all that there are. Of a part the border stays where it is: others see another part.
    """
    ranked = {_rank(node, hash_name, b"convergence:side"): node for node in nodes if Class.RELAYS.holds(node)}
    order = sorted(ranked)
    least = min(MIN_SIDE, len(order) // 2) if whole else 0
    border = min(max(bisect_left(order, SIDE_BORDER), least), len(order) - least)
    if least == 1:  # whoever has a side for itself must not be the point, if there is one that cannot be
        order.sort(key=lambda rank: ranked[rank].roles.value & Role.RDV.value)
        border = 1
    side = order[:border] if provider else order[border:]
    return [ranked[rank] for rank in side if ranked[rank].identity != point]


def _rank(node: RelayTarget, key: bytes, label: bytes) -> bytes:
    return hmac.digest(key, label + node.identity, "sha256")
