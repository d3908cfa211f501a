"""docs/page.png, made anew: `python tests/browser/screenshot.py [FOLDER]`.

Does: a network of its own, two browsers that each share a file, one of which has got the other's; pictures of that one,
wide (for the README) and, with a FOLDER, also narrow and dark.
Does not: judge the picture: somebody has to look at it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

ROOT = Path(__file__).parents[2]
WIDE: ViewportSize = {"width": 1280, "height": 1000}
NARROW: ViewportSize = {"width": 360, "height": 780}


def main(folder: Path | None) -> None:
    from playwright.sync_api import sync_playwright

    from tests import namespace
    from tests.browser.harness import Peer, launched
    from tests.e2e.processes import MIB, running, write_file

    if why := namespace.enter():  # the browsers' WebRTC is not to leave it
        raise SystemExit(f"No network namespace can be made here: {why}")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        temporary = Path(name)
        write_file(temporary / "Holiday pictures.zip", 3 * MIB)
        write_file(temporary / "Minutes of the meeting.pdf", MIB)
        network = ("up", "--port", "0", "--data", temporary / "network", "--dist", ROOT / "dist")
        with running(*network) as up, launched(playwright, "chromium", temporary / "downloads") as browser:
            site = up.until("ready")["site"]
            friend = Peer(browser, site, temporary).open()
            peer = Peer(browser, site, temporary, viewport=WIDE, device_scale_factor=2).open()
            link = friend.ready().share(temporary / "Holiday pictures.zip")
            peer.ready().get(link)
            peer.done(link)
            peer.share(temporary / "Minutes of the meeting.pdf")
            peer.page.get_by_test_id("share-qr").click()
            peer.ready().until("state.links.some((link) => link.kind === 'rtc' && link.state === 'open')")
            peer.page.mouse.move(0, 0)
            peer.page.screenshot(path=ROOT / "docs" / "page.png", full_page=True, animations="disabled", scale="css")
            if folder is not None:
                for colours in ("light", "dark"):
                    peer.page.emulate_media(color_scheme=colours)
                    for kind, size in (("wide", WIDE), ("narrow", NARROW)):
                        peer.page.set_viewport_size(size)
                        peer.page.screenshot(path=folder / f"{kind}-{colours}.png", full_page=True)


if __name__ == "__main__":
    sys.path[:1] = [str(ROOT), str(ROOT / "shared")]
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
