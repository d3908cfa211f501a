"""What all tests have in common.

Does: put each test process, and so each lane, into a network namespace of its own, so that nothing a test sends leaves
the machine; give property tests the same examples everywhere, and no deadlines; leave tests marked long to runs with
--long; put the parts of the suite in order and their times beside their budgets; add what commands said to the report
of a test that failed.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests import budgets, namespace
from tests.e2e import processes

settings.register_profile("convergence", deadline=None, derandomize=True, database=None)
settings.load_profile("convergence")

LONG = 800  # s that a test marked long may take
_IMPOSSIBLE = pytest.StashKey[str | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long as well")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "rtc: sends WebRTC traffic, which must not leave the test's own network namespace"
    )
    config.addinivalue_line("markers", "long: exhaustive, or takes minutes: runs with --long only")
    config.stash[_IMPOSSIBLE] = namespace.enter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG))
    items.sort(key=lambda item: budgets.rank(item.nodeid))
    if why := config.stash[_IMPOSSIBLE]:
        for item in items:
            if item.get_closest_marker("rtc"):
                item.add_marker(pytest.mark.skip(reason=f"no network namespace: {why}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    processes.forget_ended()
    if item.get_closest_marker("long"):  # it ends at its own timeout, which may be later than `faulthandler_timeout`
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections += [(f"Log of {command.line}", "\n".join(command.log)) for command in processes.remembered]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for kind in terminalreporter.stats.values() for report in kind if hasattr(report, "duration")]
    terminalreporter.section("time of each part, all lanes together, and its budget")
    for line in budgets.spent((report.nodeid, report.duration) for report in reports):
        terminalreporter.write_line(line)
    if why := config.stash[_IMPOSSIBLE]:
        terminalreporter.write_line(f"Tests marked rtc were skipped: no network namespace can be made here ({why}).")
