"""The bookmark of a build, and how people use it.

Does: make bookmarks as build.py does, also of other versions, with mirrors or less patience; click one on a page.
Does not: judge what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from playwright.sync_api import Page

import build

PATIENCE = "patience: 20}"  # as document.html says it


@cache
def program() -> str:
    """The bookmarklet's program."""
    scripts, _ = build.bundle_scripts({"loader": build.LOADER}, "--minify", "--format=iife")
    return scripts["loader.js"].decode()


def bookmarklet(
    root: str, mirrors: Sequence[str] = (), network: Mapping[str, Any] | None = None, *, patience: float = 20
) -> str:
    """The address behind a bookmark for the version with this root hash."""
    document = (build.ROOT / build.BOOKMARK).read_text(encoding="utf-8")
    assert PATIENCE in document
    document = document.replace(PATIENCE, f"patience: {patience}}}")
    return build.bookmarklet(document, program(), root, mirrors, network)


def click(page: Page, bookmark: str) -> None:
    """Click the bookmark: to the browser, a navigation that the user asked for."""
    if page.context.browser and page.context.browser.browser_type.name == "chromium":
        session = page.context.new_cdp_session(page)
        session.send("Page.navigate", {"url": bookmark})
        session.detach()
    else:  # the protocol of stock Firefox takes no such address: by a script, which the page's policy must allow
        page.evaluate("address => { location.href = address; }", bookmark)
