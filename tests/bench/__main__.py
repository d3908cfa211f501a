"""The benches: `python3 build.py bench [NAME ...] [--json FILE]`.

Does: run the benches named (all of them when none is), each in a process of its own that is watched, print a table,
write the figures as JSON. What sends WebRTC traffic does so in a private network namespace.
Does not: fail because a figure misses its target: it says so, and a person decides. Nor need more than the standard
library to read its arguments.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCHES = {
    "relay": "Middle relay, core only",
    "client": "Client, core only, three layers",
    "splice": "Rendezvous point, core only",
    "directory": "Tor's directory documents, core only",
    "wakeup": "One wake-up of a middle relay of the Tor network, with warm caches and with cold ones",
    "memory": "Memory of a relay with idle circuits",
    "cli": "Command line to command line, 2+2 hops on loopback",
    "pipes": "Pipes of the command over 2+2 hops on loopback, beside ssh and plain TCP",
    "distance": "A pipe over 2+2 hops at several distances, beside fixed windows",
    "https": "https in the page through an exit, beside the browser's own",
    "tor": "Our client and relays in a Tor network, beside tor's own",
    "browser": "Browser to browser over 2+2 hops, and from opening the page to five circuits",
    "rtc": "WebRTC: browsers that relay for each other, beside a bare data channel",
    "scale": "Networks of a thousand to a million nodes, and introductions over one and two facilitators",
    "size": "Bytes over the wire of a first visit, with brotli",
}
IN_NAMESPACE = ("rtc",)
QUICK = ("tor", "scale")
DEFAULT_JSON = ROOT / "dist" / "bench.json"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments. Ends the program after --help and --list, and for a bench that there is not."""
    parser = argparse.ArgumentParser(prog="build.py bench", description="Measure this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; default: all")
    parser.add_argument("--list", action="store_true", help="say what each bench measures, and end")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the benches work")
    parser.add_argument("--quick", action="store_true", help="less where a bench is long (tor, scale)")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, metavar="FILE", help="where the figures go")
    parser.add_argument("--steps", action="store_true", help="print each step when it begins")
    # Whoever starts us holds the other end of our standard input: we end when they do.
    parser.add_argument("--parent-pipe", action="store_true", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if unknown := [name for name in parsed.names if name not in BENCHES]:
        parser.error(f"no bench {', '.join(unknown)}: there are {', '.join(BENCHES)}")
    if parsed.list:
        for name, what in BENCHES.items():
            print(f"{name:<10}{what}")
        parser.exit()
    return parsed


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


def measured(name: str, tiny: bool, quick: bool) -> Any:
    """The figures of a bench. Runs in the bench's own process."""
    if name in IN_NAMESPACE and (why := importlib.import_module("tests.namespace").enter()):
        raise OSError(f"no network namespace can be made here ({why})")
    more = {"quick": quick} if name in QUICK else {}
    return importlib.import_module(f"tests.bench.{name}").run(tiny=tiny, **more)


def report(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a bench and print its figures; returns them as JSON values. Raises supervise.Failed."""
    from tests.bench.supervise import supervised

    print(f"\n{BENCHES[name]}", flush=True)
    began = time.monotonic()
    steps: list[tuple[float, str]] = []

    def begin(step: str) -> None:
        steps.append((round(time.monotonic() - began, 1), step))
        if arguments.steps:
            print(f"  {steps[-1][0]:6.1f} s  {step}", flush=True)

    figures = supervised(
        partial(measured, name, arguments.tiny, arguments.quick), begin, parent_pipe=arguments.parent_pipe
    )
    for figure in figures:
        print(row(figure), flush=True)
    return {
        "title": BENCHES[name],
        "seconds": round(time.monotonic() - began, 1),
        "steps": steps,
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }


def main() -> int:
    arguments = parse()
    from tests.bench.supervise import Failed

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }
    print(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, load {machine['load']:.1f}")
    results: dict[str, Any] = {}
    names = arguments.names or list(BENCHES)
    for name in names:
        try:
            results[name] = report(name, arguments)
        except Failed as error:
            print(f"build.py bench {name}: {error}", file=sys.stderr, flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"machine": machine, "benches": results}, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {arguments.json}")
    return len(results) < len(names)


if __name__ == "__main__":
    # Run as a file, this folder comes first: its names must not stand in for others'.
    sys.path[:1] = [str(ROOT), str(ROOT / "shared")]
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
