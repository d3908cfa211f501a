"""Profiles of people who have visited the page before: they keep a snapshot of Python's memory.

Does: take a snapshot that an earlier profile of the same kind of browser made; put it into later profiles, for their
site. Their nodes start with a third of the work.
Does not: give them anything else: they have no keys, no files, and no code that is pinned.
"""

from __future__ import annotations

import base64
from pathlib import Path

from playwright.sync_api import BrowserContext, Page

# Gives the root hash and the digest of the one that is kept, if one is.
LOOK = """async () => {
    const cache = await caches.open("convergence-snapshots");
    const [request] = await cache.keys();
    const answer = request && (await cache.match(request));
    if (!answer) return null;
    window.testSnapshot = new Uint8Array(await answer.arrayBuffer());
    return [request.url.split("/").at(-1), answer.headers.get("x-sha256"), window.testSnapshot.length];
}"""
# Gives a part of it in base64: the whole as one text would take a browser half a minute.
PART = """([from, to]) => btoa(String.fromCharCode(...window.testSnapshot.subarray(from, to)))"""
PART_SIZE = 3 << 15  # bytes; a call takes no more than some 100,000 arguments
GIVE = """async ([site, name, root, digest]) => {
    const answer = await fetch(new URL(name, site));
    const kept = new Response(await answer.blob(), { headers: { "x-sha256": digest } });
    await (await caches.open("convergence-snapshots")).put(new URL(`snapshot/${root}`, site), kept);
}"""


class Returning:
    """Snapshots of one page, by kind of browser.

    Args:
        dist: the page's folder. Sites serve what was in it when they started: hence the empty files.
    """

    def __init__(self, dist: Path) -> None:
        self._files = {kind: dist / f"snapshot-{kind}.bin" for kind in ("chromium", "firefox")}
        self._marks: dict[str, tuple[str, str]] = {}  # root hash and digest
        for file in self._files.values():
            file.touch()

    def take(self, page: Page, kind: str) -> None:
        """From a page that keeps one, if there is none of this kind yet."""
        if kind in self._marks or (found := page.evaluate(LOOK)) is None:
            return
        root, digest, size = found
        with self._files[kind].open("wb") as file:
            for at in range(0, size, PART_SIZE):
                file.write(base64.b64decode(page.evaluate(PART, [at, at + PART_SIZE])))
        self._marks[kind] = root, digest

    def give(self, context: BrowserContext, kind: str, site: str) -> None:
        """To a new profile, before its first visit, if there is one to give."""
        if kind not in self._marks:
            return
        page = context.new_page()
        page.goto(f"{site}icon.svg")
        page.evaluate(GIVE, [site, self._files[kind].name, *self._marks[kind]])
        page.close()
