from __future__ import annotations

from typing import Any

from web.worker.links import FAILED_SHOWN, MAX_FAILED, LinkViews

A, B, C = "a" * 16, "b" * 16, "c" * 16


def link(peer: str, channel: int, *, rtc: bool = True, open: bool = True) -> dict[str, Any]:
    """As in Neighbours.snapshot."""
    own = {"channel": channel, "peer": peer * 4, "rtc": rtc, "dialled": False, "open": open}
    return own | {"circuits": 2, "bytes_in": 3, "bytes_out": 4}


def states(views: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(view["peer"], view["kind"], view["state"]) for view in views]


def test_links_and_introductions_make_one_list() -> None:
    links = [link(A, 1, rtc=False), link(B, 2), link(C, 3, open=False)]
    introductions = [{"peer": peer, "state": state} for peer, state in ((A, "connecting"), (B, "open"), (C, "open"))]
    views = LinkViews().view(links, introductions, {2: "connected", 3: "connected"}, 0.0)
    assert states(views) == [(A, "ws", "open"), (B, "rtc", "open"), (A, "rtc", "connecting"), (C, "rtc", "connecting")]
    assert views[0] | {"circuits": 2, "sent": 4, "received": 3, "dialled": False, "why": None} == views[0]


def test_a_lost_connection_that_may_come_back_is_told() -> None:
    views = LinkViews().view([link(B, 2)], [{"peer": B, "state": "open"}], {2: "recovering"}, 0.0)
    assert states(views) == [(B, "rtc", "restarting")]


def test_a_failure_is_shown_until_it_is_old_or_overcome() -> None:
    views = LinkViews()
    views.failed(A, {"code": "rtc-busy"}, 0.0)
    [failed] = views.view([], [], {}, FAILED_SHOWN - 0.1)
    assert (failed["peer"], failed["state"], failed["why"]) == (A, "failed", {"code": "rtc-busy"})
    assert states(views.view([link(A, 1)], [], {}, FAILED_SHOWN - 0.1)) == [(A, "rtc", "open")]
    assert views.view([], [], {}, FAILED_SHOWN) == []


def test_few_failures_are_kept_the_latest() -> None:
    views = LinkViews()
    for number in range(100):
        views.failed(f"{number:016x}", {"code": "rtc-busy"}, 0.0)
    views.failed(f"{99 - MAX_FAILED + 1:016x}", {"code": "rtc-refused"}, 1.0)
    shown = [int(view["peer"], 16) for view in views.view([], [], {}, 1.0)]
    assert shown == [*range(99 - MAX_FAILED + 2, 100), 99 - MAX_FAILED + 1]
