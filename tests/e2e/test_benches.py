"""Every bench ends, and its figures are numbers; of sizes that measure nothing, so no figure is judged.

They measure dist/, so `python3 build.py build` comes first; `build.py test` does that.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import BENCHES, IN_NAMESPACE
from tests.bench.lab import Figure

ROOT = Path(__file__).parents[2]
RTC = [pytest.mark.rtc]


@pytest.mark.parametrize("name", [pytest.param(name, marks=RTC if name in IN_NAMESPACE else []) for name in BENCHES])
def test_a_bench_ends_and_prints_its_figures(name: str, tmp_path: Path) -> None:
    assert (ROOT / "dist" / "manifest.json").is_file(), "run `python3 build.py build` first"
    report = tmp_path / "figures.json"
    command = [sys.executable, "tests/bench/__main__.py", name, "--tiny", "--parent-pipe", "--json", str(report)]
    # Its input stays open until it has ended, or until this process has: then it ends, too.
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
    assert process.returncode == 0, printed
    assert BENCHES[name] in printed
    written = json.loads(report.read_text())
    assert written["machine"]["cores"] >= 1
    bench = written["benches"][name]
    assert bench["steps"] and bench["figures"]
    for values in bench["figures"]:
        met = values.pop("met")
        figure = Figure(**values)
        assert math.isfinite(figure.value) and figure.unit
        assert met is figure.met
        assert figure.name in printed
