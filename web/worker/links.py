"""The node's neighbours as pages draw them.

Does: join what the core knows of links and introductions with what the browser knows of its connections; keep failures
until people have read them.
Does not: decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FAILED_SHOWN = 20.0  # seconds
MAX_FAILED = 8  # shown at once
SHORT = 16  # hex digits of an identity, as in events


class LinkViews:
    """Makes the page's list; see web/ui/links.js for what is in it."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[dict[str, Any], float]] = {}  # peer -> why, until when it is shown

    def failed(self, peer: str, why: dict[str, Any], now: float) -> None:
        """A connection to that node (16 hex digits) did not come about."""
        self._failed.pop(peer, None)
        self._failed[peer] = (why, now + FAILED_SHOWN)
        if len(self._failed) > MAX_FAILED:
            del self._failed[next(iter(self._failed))]

    def view(
        self,
        links: Iterable[Mapping[str, Any]],
        introductions: Iterable[Mapping[str, Any]],
        connections: Mapping[int, str],
        now: float,
    ) -> list[dict[str, Any]]:
        """Open links first, then those under way, then failures.

        Args:
            links, introductions: of the node's snapshot.
            connections: state of each WebRTC channel in this browser; see BrowserTransport.rtc.
        """
        views = [_open(link, connections.get(link["channel"], "")) for link in links if link["open"]]
        here = {view["peer"] for view in views if view["kind"] == "rtc"}
        for introduction in introductions:
            if introduction["peer"] not in here:  # an open channel without an open link is still shaking hands
                here.add(introduction["peer"])
                views.append(_closed(introduction["peer"], "connecting", None))
        self._failed = {peer: (why, until) for peer, (why, until) in self._failed.items() if now < until}
        views += [_closed(peer, "failed", why) for peer, (why, _) in self._failed.items() if peer not in here]
        return views


def _open(link: Mapping[str, Any], connection: str) -> dict[str, Any]:
    return {
        "peer": link["peer"][:SHORT],
        "kind": "rtc" if link["rtc"] else "ws",
        "state": "restarting" if connection == "recovering" else "open",
        "dialled": link["dialled"],
        "circuits": link["circuits"],
        "sent": link["bytes_out"],
        "received": link["bytes_in"],
        "why": None,
    }


def _closed(peer: str, state: str, why: dict[str, Any] | None) -> dict[str, Any]:
    own = {"peer": peer, "kind": "rtc", "state": state, "why": why}
    return {**own, "dialled": True, "circuits": 0, "sent": 0, "received": 0}
