"""Looking for nodes at their addresses, now and again.

Does: say when a node is looked for, and what follows: a node with an address is listed, with the time, once it was
found there, until it is not found there again.
Does not: dial (prober.py), or keep nodes (registry.py).
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.crypto.keys import NodeKeys
from convergence.facilitator.prober import Prober, Spend
from convergence.facilitator.registry import Node, Registry
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.descriptor import Descriptor

RECHECK = 600.0
"""Seconds until a node that was found at its address is looked for again..."""
RECHECK_SOON = 60.0
"""...and one that was not; twice as long each further time, up to RECHECK."""
MISSES = 2
"""Times in a row that a listed node is not found until it leaves the list."""


class Reaching:
    """Set `registry` before use.

    Args:
        on_known: called with a node that was found, or is not there, when that is news.
    """

    registry: Registry

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        on_known: Callable[[Node, float], None],
        spend: Spend | None = None,
    ) -> None:
        keys = NodeKeys.generate(crypto, rng)
        self.prober = Prober(outbox, crypto, rng, keys, self._probed, *([spend] if spend else []))
        self._outbox = outbox
        self._on_known = on_known

    def check(self, node: Node, now: float) -> None:
        """Look whether the node is at its address, now and again."""
        self._check_later(node, RECHECK, now)  # unless a verdict comes sooner
        if node.dialled and node.roles and self.registry.ours(node):  # one that pauses takes no circuits
            self.prober.probe(node.descriptor, node.source, now, known=node.reached > 0)

    def loaded(self, node: Node, at_once: bool, now: float) -> None:
        """The node did not register on a channel of ours."""
        if at_once:
            self.check(node, now)
        else:
            self._check_later(node, RECHECK, now)

    def _check_later(self, node: Node, pause: float, now: float) -> None:
        if node.check is not None:
            node.check.cancel()
        node.check = self._outbox.call_at(now + pause, lambda now: self.check(node, now))

    def _probed(self, probed: Descriptor, found: bool, now: float) -> None:
        node = self.registry.nodes.get(probed.identity)
        if node is None or not node.same_place(probed):
            return
        before = node.listed
        node.misses = 0 if found else node.misses + 1
        self._check_later(node, RECHECK if found else min(RECHECK_SOON * 2 ** (node.misses - 1), RECHECK), now)
        reached = int(now) if found else node.reached if node.misses < MISSES else 0
        self.registry.found(node, reached, now)
        if node.listed != before or not node.reached:
            self._on_known(node, now)
