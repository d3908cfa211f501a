"""bitcoin | convergence | bitcoin with browsers in between: real nodes, as in tests/interop/test_bitcoin.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.swarm import POINT, RELAY, Swarm, carried
from tests.e2e.processes import PATIENCE
from tests.interop.bitcoin.nodes import STDIO, BitcoinNode, piped
from tests.interop.test_bitcoin import BLOCKS, NAME, follow_and_pay
from tests.interop.ways import through

pytestmark = pytest.mark.rtc

LEAST = 80 * BLOCKS
"""Bytes of that many block headers."""


@pytest.mark.parametrize("point", ["server", "browser"])
def test_browsers_on_both_paths(swarm: Callable[..., Swarm], chromium: Browser, tmp_path: Path, point: str) -> None:
    """Each node's circuit leads over a browser, and no other way, to the only point there is."""
    net = swarm(relays=1 if point == "server" else 0)
    for settings in [RELAY, RELAY, *([POINT] if point == "browser" else [])]:
        net.add(chromium, settings)
    net.meet(3)
    way = through(net.network, tmp_path / "services", rtc=True)
    with closing(BitcoinNode("full", STDIO, BLOCKS)) as full, way.serve(NAME, "--", *full.command) as service:
        with closing(BitcoinNode("spv", STDIO)) as spv, piped(spv.command, service.pipe) as (node, pipe):
            follow_and_pay(full, spv)
            full.close()
            spv.until("closed")
            assert (node.wait(PATIENCE), pipe.wait(PATIENCE)) == (0, 0)
    carried(net.peers, LEAST, len(net.peers))
