"""The nodes that one path is chosen from: few of all that there may be.

Does: ask a View for relays, and for those that have to be found by name; keep apart those that are drawn fairly from
those that are only there because without them there may be no path.
Does not: choose the path (select.py).

In a network of up to CANDIDATES relays these are all, and a path is as likely as any other. In a larger one, it is as
likely as any other among CANDIDATES relays that are drawn anew for each path. Over many paths each relay of a kind (who
reaches whom) then comes up equally often. How often a kind does differs a little, since a path needs no exact share of
each; and where those drawn lead nowhere, for want of a relay with an address, one of these is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from convergence.netdir.view import Class, Found, Known, View, together
from convergence.wire.target import RelayTarget

CANDIDATES = 64
"""Relays drawn for one path: no more than networks have that are told by header and buckets (`bucketview.ENOUGH`), so
that a path takes as long in any of them..."""
DIALLED = 32
"""...and of those with an address, if fewer are among these."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Args:
    relays: drawn among all.
    dialled: drawn among those that have an address, and not among `relays`.
    named: those of the nodes asked for by name that there are.
    count: how many relays there are.
    ends: nodes of the class that was asked for as ends of the path.
    """

    relays: Sequence[RelayTarget]
    dialled: Sequence[RelayTarget]
    named: Sequence[RelayTarget]
    count: int
    ends: Sequence[RelayTarget] = ()

    @property
    def whole(self) -> bool:
        """Whether there are no others."""
        return len(self.relays) >= self.count

    @property
    def known(self) -> dict[bytes, RelayTarget]:
        """All but `dialled`, by identity."""
        return {node.identity: node for node in (*self.relays, *self.named)}


NOBODY = Candidates((), (), (), 0)


def find(
    view: View[Known], names: Iterable[bytes], now: float, then: Found[Candidates], *, end: Class | None = None
) -> None:
    """then(candidates, now) follows as soon as all that is asked has been answered.

    Args:
        names: identities of nodes to look for besides.
        end: the class of nodes that the path is to end at, if that matters.
    """

    def found(answers: list[Any], now: float) -> None:
        relays, dialled, ends, *rest = answers
        count = view.count(Class.RELAYS, now)
        drawn = {node.target.identity: node.target for node in relays}
        spare = [node.target for node in dialled if node.target.identity not in drawn]
        named = [node.target for node in rest if node is not None]
        if len(drawn) >= count:  # all relays: who is not among them is none, whatever is said of him
            named = [node for node in named if node.identity in drawn or not Class.RELAYS.holds(node)]
        then(Candidates(list(drawn.values()), spare, named, count, [node.target for node in ends]), now)

    together(
        [
            partial(view.sample, Class.RELAYS, CANDIDATES, now),
            partial(view.sample, Class.DIALLED, DIALLED, now),
            partial(view.sample, end, CANDIDATES, now) if end else lambda then: then((), now),
            *(partial(view.get, identity, now) for identity in dict.fromkeys(names)),
        ],
        found,
        now,
    )
