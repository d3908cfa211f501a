"""Browsers that relay for each other, one network of them: what the tests and benches of rtc share."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser

from tests.browser.harness import Peer
from tests.e2e.processes import Network

SETTINGS = "convergence-settings"
MEET = 300.0
"""Seconds in which all of a test's browsers get to know each other on a busy machine."""
SHOWN = 60.0
"""Seconds until a page shows what was relayed."""
ORIGIN = {"relay": False, "rdv": False}
RELAY = {"relay": True, "rdv": False}
POINT = {"relay": True, "rdv": True}


class Swarm:
    """Browsers of one site, each a profile of its own."""

    def __init__(self, network: Network, peer: Callable[..., Peer]) -> None:
        self.network = network
        self.peers: list[Peer] = []
        self._peer = peer

    def add(self, browser: Browser, settings: dict[str, Any], script: str = "") -> Peer:
        """One more browser, with what a person would set on the page."""
        peer = self._peer(browser, self.network.site)
        keep = f"localStorage.setItem({SETTINGS!r}, {json.dumps(settings)!r})"
        peer.context.add_init_script(f"if (location.protocol === 'http:') {{ {keep}; }} {script}")
        self.peers.append(peer.open())
        return peer

    def meet(self, nodes: int) -> None:
        """Wait until each knows so many nodes that work for others, itself among them."""
        for peer in self.peers:
            try:
                peer.until("state.nodes >= argument", nodes, seconds=MEET)
            except AssertionError as error:
                for other in self.peers:
                    said = "; ".join(other.logged[-5:])
                    error.add_note(f"{other.name}: {json.dumps(other.state)} {said}")
                raise

    def kill_facilitator(self) -> None:
        process = self.network.facilitator.process
        process.send_signal(signal.SIGKILL)
        process.wait()


def links_of(peer: Peer) -> set[str]:
    """Identities of those that the peer has an open link with."""
    return {link["peer"] for link in peer.state["links"] if link["state"] == "open"}


def relayed(peer: Peer) -> int:
    return int(peer.state["relay"]["bytes"])


def carried(peers: list[Peer], size: int, least: int) -> None:
    """Wait until so many of them show that they relayed more bytes than these; counters are shown once a second."""
    deadline = time.monotonic() + SHOWN
    while (done := sum(relayed(peer) > size for peer in peers)) < least:
        assert time.monotonic() < deadline, f"{done} of {len(peers)} relayed more than {size} bytes, not {least}"
        peers[0].page.wait_for_timeout(100)
