from __future__ import annotations

from typing import Any

import pytest

from convergence.circuit.relaying import RelayLimits
from convergence.wire.cells import CELL_LEN
from convergence.wire.target import Role
from web.worker.settings import Settings

GIVEN = {
    "relay": True,
    "rdv": True,
    "direct": False,
    "group": False,
    "metered": False,
    "tor": False,
    "circuits": 10,
    "streams": 20,
    "upload": 8,
    "share": 25,
    "volume": 3,
    "hops": 2,
}


def settings(on_metered: bool = False, **values: Any) -> Settings:
    return Settings.of({"settings": GIVEN | values, "onMetered": on_metered})


def test_limits_are_those_of_the_page_in_bytes() -> None:
    assert settings().limits == RelayLimits(circuits=10, streams=20, volume=3 << 20, rate=250_000)
    assert settings(volume=0).limits == RelayLimits(circuits=10, streams=20, volume=None, rate=250_000)
    assert settings().view() == GIVEN


def test_the_slowest_connection_still_relays_a_cell() -> None:
    assert settings(upload=0.1, share=1).limits == RelayLimits(10, 20, 3 << 20, CELL_LEN)


def test_who_is_no_meeting_point_still_relays() -> None:
    assert settings().roles == Role.RELAY | Role.RDV
    assert settings(rdv=False).roles == Role.RELAY


@pytest.mark.parametrize(
    "chosen, why",
    [
        (settings(), ""),
        (settings(metered=True), ""),
        (settings(on_metered=True), "metered"),
        (settings(on_metered=True, metered=True), ""),
        (settings(on_metered=True, relay=False), "paused"),
        (settings(relay=False), "paused"),
    ],
)
def test_it_pauses_when_told_to_and_on_metered_connections(chosen: Settings, why: str) -> None:
    assert chosen.paused == why
    assert (chosen.limits is None) is bool(why)
