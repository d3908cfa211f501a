"""Puts the whole test process into a network namespace of its own, so that nothing a test sends leaves the machine."""

from __future__ import annotations

import pytest

from tests import namespace

_IMPOSSIBLE = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "rtc: sends WebRTC traffic, which must not leave the test's own network namespace"
    )
    config.stash[_IMPOSSIBLE] = namespace.enter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if why := config.stash[_IMPOSSIBLE]:
        for item in items:
            if item.get_closest_marker("rtc"):
                item.add_marker(pytest.mark.skip(reason=f"no network namespace: {why}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if why := config.stash[_IMPOSSIBLE]:
        terminalreporter.write_line(f"Tests marked rtc were skipped: no network namespace can be made here ({why}).")
