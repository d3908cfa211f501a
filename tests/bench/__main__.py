"""The benches: `python3 build.py bench [NAME ...] [--json FILE]`.

Does: run the benches named (all of them when none is), print a table, write the figures as JSON. With one that sends
WebRTC traffic, all of it happens in a private network namespace.
Does not: fail because a figure misses its target: it says so, and a person decides.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCHES = ("relay", "client", "splice", "memory", "cli", "browser", "rtc", "size")
IN_NAMESPACE = ("rtc",)
DEFAULT_JSON = ROOT / "dist" / "bench.json"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def amount(value: float) -> str:
    """A figure that people read."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def row(figure: Any) -> str:
    target = ""
    if figure.target is not None:
        target = f"{'at most' if figure.at_most else 'at least'} {amount(figure.target)}"
        target += ": met" if figure.met else ": MISSED"
    return f"  {figure.name:<46} {amount(figure.value):>12} {figure.unit:<12} {target:<24} {figure.note}".rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="build.py bench", description="Measure this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, metavar="FILE", help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the benches work")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHES]:
        parser.error(f"no bench {', '.join(unknown)}: there are {', '.join(BENCHES)}")
    names = arguments.names or BENCHES
    if set(names) & set(IN_NAMESPACE) and (why := importlib.import_module("tests.namespace").enter()):
        print(f"Without {', '.join(IN_NAMESPACE)}: no network namespace can be made here ({why})")
        names = [name for name in names if name not in IN_NAMESPACE]
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }
    print(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, load {machine['load']:.1f}")
    results: dict[str, Any] = {}
    for name in names:
        bench = importlib.import_module(f"tests.bench.{name}")
        print(f"\n{bench.TITLE}", flush=True)
        started = time.monotonic()
        figures = bench.run(tiny=arguments.tiny)
        results[name] = {
            "title": bench.TITLE,
            "seconds": round(time.monotonic() - started, 1),
            "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
        }
        for figure in figures:
            print(row(figure), flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "benches": results}, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {arguments.json}")
    return 0


if __name__ == "__main__":
    # Run as a file, this folder comes first: its names must not stand in for others'.
    sys.path[:1] = [str(ROOT), str(ROOT / "shared")]
    sys.exit(main())
