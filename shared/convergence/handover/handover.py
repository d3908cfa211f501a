"""All word codes of a node: those that it offers, and those that it was told.

Does: make them, within limits, and end them. Does not: know what links are for.
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.codes import Limit
from convergence.errors import Problem
from convergence.handover.ask import PATIENCE, Ask
from convergence.handover.offer import Offer
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.services import Services
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode

MAX_AT_ONCE = 16  # offered at once, and asked for at once


class Handover:
    """Links for words."""

    def __init__(self, services: Services, outbox: Outbox, crypto: Crypto, rng: Rng) -> None:
        self._parts = services, outbox, crypto, rng
        self._offers: list[Offer] = []
        self._asks: list[Ask] = []

    def offer(self, link: ShareLink, told: Callable[[Offer, float], None], now: float) -> Offer:
        """Draw a code for a link; `told` as in Offer. Raises Problem at the limit."""
        self._offers = [offer for offer in self._offers if not offer.over]
        if len(self._offers) >= MAX_AT_ONCE:
            raise Problem(Limit.CODES, most=MAX_AT_ONCE)
        offer = Offer(*self._parts, link, told, now)
        self._offers.append(offer)
        return offer

    def ask(self, code: WordCode, told: Callable[[Ask, float], None], now: float, patience: float = PATIENCE) -> Ask:
        """Get the link of a code; `told` and `patience` as in Ask. Raises Problem at the limit."""
        self._asks = [ask for ask in self._asks if not ask.over]
        if len(self._asks) >= MAX_AT_ONCE:
            raise Problem(Limit.CODES, most=MAX_AT_ONCE)
        ask = Ask(*self._parts, code, told, now, patience)
        self._asks.append(ask)
        return ask

    def stop(self, now: float) -> None:
        """Take all codes back."""
        for offer in self._offers:
            offer.end(now)
        for ask in self._asks:
            ask.end(now)
