"""The suite itself: what runs when, what its report says, and where its time goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import build
from tests import budgets

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest
from tests.e2e.processes import running

@pytest.mark.long
def test_that_takes_its_time(): ...

def test_that_fails():
    with running("status", "--site", "http://127.0.0.1:1/") as command:
        command.until("status")
"""


def run(folder: Path, *options: str) -> tuple[int, str]:
    """Run TESTS with the suite's own conftest; exit code and output."""
    (folder / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'shared'}"}
    done = subprocess.run(
        [*command, *options, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def test_long_tests_run_when_asked_for(tmp_path: Path) -> None:
    assert run(tmp_path, "-k", "time")[0] == 5  # of pytest: no test ran
    assert run(tmp_path, "-k", "time", "--long")[0] == 0


def test_a_failure_in_a_lane_is_reported_with_the_log_of_its_commands(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-n1")
    assert code == 1 and "1 failed" in said.splitlines()[-1]
    _, heading, log = said.partition("Log of -m pynode status --site http://127.0.0.1:1/")
    assert heading and "does not answer (connection refused)" in log


def test_each_folder_has_a_budget() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert [folder for folder in folders if not budgets.part_of(f"{folder}/test_x.py::test_y")] == []
    assert [part for part in budgets.BUDGETS if not (ROOT / part).exists()] == []


def test_a_run_within_its_budgets_takes_less_than_19_minutes() -> None:
    """One more is for lint, types and the build, but for the page's TLS, which a fresh clone compiles once."""
    assert build.LANES[0] == "-n3"
    assert sum(budgets.BUDGETS.values()) / 3 <= 19 * 60


def test_a_test_counts_for_the_smallest_part_that_has_it() -> None:
    assert budgets.part_of("tests/unit/link/test_link.py::test_x") == "tests/unit"
    assert budgets.part_of("tests/unit/pynode/published/test_log.py::test_x[tests/sim]") == "tests/unit/pynode"
    assert budgets.part_of("tests/unit/test_build.py::test_x") == "tests/unit/test_build.py"
    assert budgets.rank("tests/browser/test_page.py::test_x") < budgets.rank("tests/unit/test_node.py::test_x")


def test_a_part_over_its_budget_is_told() -> None:
    budget = budgets.BUDGETS["tests/property"]
    phases = [("tests/property/test_x.py::test_x", budget - 1.0), ("tests/property/test_x.py::test_x", 6.0)]
    over, within = budgets.spent([("tests/sim/test_x.py::test_x", 1.4), *phases])
    assert over.startswith("tests/property") and over.endswith("OVER ITS BUDGET by 5 s")
    assert within.startswith("tests/sim") and "OVER" not in within and " 1 s of " in within
