"""How the browser tests launch browsers: plain data for Playwright's Python API.

Does: give `launch_options` for each of PROGRAMS and `context_options` for "chromium" and "firefox": the system's own
browsers, kept offline.
Does not: import Playwright or start anything. tests/browser loads this file by its path, for a dot in its name keeps it
from being imported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PROGRAMS = {
    "chromium": _CHROMIUM,
    # The same engine without windows and menus: a new profile costs a quarter of the work. What Playwright, too, takes
    # for tests.
    "chromium-headless-shell": ("chromium-headless-shell", *_CHROMIUM),
    "firefox": ("firefox-esr", "firefox"),
}

# A test browser talks to loopback only: no update checks, no calls home.
CHROMIUM_ARGUMENTS = ("--disable-gpu", "--disable-background-networking", "--disable-component-update")
# Candidates with the addresses themselves instead of mDNS names, which are known in one network only. For NAT labs.
PLAIN_ADDRESSES = ("--disable-features=WebRtcHideLocalIpsWithMdns",)

_firefox_home: tempfile.TemporaryDirectory[str] | None = None


def executable(browser: str) -> str:
    """Path of the installed browser. Raises FileNotFoundError, saying what to install, when there is none."""
    for program in PROGRAMS[browser]:
        if path := shutil.which(program):
            return path
    raise FileNotFoundError(f"{browser} is not installed: apt-get install {PROGRAMS[browser][0]}")


def firefox_home() -> str:
    """A writable HOME for Firefox, removed when the test process ends."""
    global _firefox_home
    if _firefox_home is None:
        _firefox_home = tempfile.TemporaryDirectory(prefix="convergence-firefox-")
    return _firefox_home.name


def launch_options(browser: str) -> dict[str, Any]:
    """Arguments for `launch(**options)` of Playwright's browser of that kind."""
    options: dict[str, Any] = {"executable_path": executable(browser), "headless": True}
    if browser.startswith("chromium"):
        # Chromium's sandbox refuses to run as root.
        options["args"] = [*CHROMIUM_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    else:
        # Debian's Firefox is no Playwright build: this channel speaks the protocol that stock Firefox has.
        options["channel"] = "moz-firefox"
        options["env"] = {**os.environ, "HOME": firefox_home()}
    return options


def context_options(browser: str) -> dict[str, Any]:
    """Arguments for `browser.new_context(**options)`. Stock Firefox emulates no media features: 'null'."""
    if browser == "chromium":
        return {"reduced_motion": "reduce"}  # drawing what moves is a quarter of a test's work
    return dict.fromkeys(("color_scheme", "reduced_motion", "forced_colors", "contrast"), "null")
