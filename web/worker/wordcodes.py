"""Word codes for the pages: one offered for a share, a link got by one.

Does: hand the page's commands to the node, and show what becomes of each code.
Does not: share files, or get them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from convergence.codes import LinkFlaw
from convergence.errors import Problem
from convergence.events import as_json
from convergence.handover.ask import Ask
from convergence.handover.offer import Offer
from convergence.node import Node
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import find_code


class WordCodes:
    """Codes by the id of the share that they are for.

    Args:
        run: as NodeHost._run.
        changed: (), when `view` gives something new.
    """

    def __init__(self, node: Node, run: Callable[[Callable[[float], Any]], Any], changed: Callable[[], None]) -> None:
        self._node = node
        self._run = run
        self._changed = changed
        self._offers: dict[str, Offer] = {}

    def offer(self, share_id: str, link: str) -> None:
        """Draw a code for a share, unless it has one. Raises Problem."""
        before = self._offers.get(share_id)
        if before is not None and not before.over:
            return

        def told(offer: Offer, now: float) -> None:
            self._changed()

        self._offers[share_id] = self._run(lambda now: self._node.handover.offer(ShareLink.parse(link), told, now))

    def view(self, share_id: str) -> dict[str, Any] | None:
        """What the page shows of a share's code."""
        offer = self._offers.get(share_id)
        if offer is None:
            return None
        why = None if offer.why is None else as_json(offer.why)
        return {"text": "" if offer.code is None else str(offer.code), "why": why, "more": not offer.over}

    def drop(self, share_id: str) -> None:
        """The share ends."""
        offer = self._offers.pop(share_id, None)
        if offer is not None:
            self._run(offer.end)

    async def link_of(self, text: str) -> str:
        """The link of a code that somebody typed. Raises Problem."""
        code = find_code(text)
        if code is None:
            raise Problem(LinkFlaw.CODE_SHORT)
        over: asyncio.Future[Ask] = asyncio.get_running_loop().create_future()

        def told(ask: Ask, now: float) -> None:
            if ask.over and not over.done():
                over.set_result(ask)

        self._run(lambda now: self._node.handover.ask(code, told, now))
        ask = await over
        if ask.link is None:
            assert ask.why is not None
            raise Problem(ask.why.code, **ask.why.values)
        return ask.link.format()
