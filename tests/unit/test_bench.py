"""The in-memory benches run, with sizes that measure nothing: so they cannot rot."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IN_MEMORY = ("relay", "client", "splice", "memory")


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_bench_runs_and_gives_figures(name):
    bench = importlib.import_module(f"tests.bench.{name}")
    figures = bench.run(tiny=True)
    assert bench.TITLE
    assert figures
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(figure.value >= 0 and figure.unit for figure in figures)


def test_targets_are_judged_in_their_direction():
    from tests.bench.lab import Figure

    assert Figure("speed", 2, "MB/s", target=1).met is True
    assert Figure("speed", 1, "MB/s", target=2).met is False
    assert Figure("time", 2, "s", target=1, at_most=True).met is False
    assert Figure("plain", 2, "s").met is None


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    command = [sys.executable, "tests/bench/__main__.py", "splice", "--tiny", "--json", str(tmp_path / "figures.json")]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "Rendezvous point, core only" in printed
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["machine"]["cores"] >= 1
    assert report["benches"]["splice"]["figures"][0]["unit"] == "cells/s"


def test_an_unknown_bench_is_named():
    command = [sys.executable, "tests/bench/__main__.py", "sundial"]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert "sundial" in result.stderr
