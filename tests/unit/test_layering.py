"""The core's layers: imports only go up the list of rooms, and no module of the core names a platform.

The rules are functions over a module's source, so that the first tests can show that they catch what they should.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "shared" / "convergence"

# A module imports from its own room and those before it.
ROOMS = (
    *("errors", "codes", "events", "effects", "outbox", "limits", "states", "ports", "chance", "channels"),
    *("wire", "crypto", "pipes", "link", "circuit", "netdir", "path", "tor", "rdv", "ordb"),
    *(
        "introduction",
        "discovery",
        "facilitator",
        "transfers",
        "services",
        "handover",
        "fetch",
        "announcement",
        "node",
        "driver",
    ),
)
# The driver is every shell's pump, whatever machine it drives: of the core it knows these only.
DRIVER_MAY = {"effects", "events", "ports"}
# One object never serves both ends of a circuit.
APART = ({"convergence.circuit.client", "convergence.circuit.relay"},)

PLATFORM = {
    *("asyncio", "time", "random", "secrets", "os", "socket", "js", "pyodide", "pyodide_js"),
    *("concurrent", "importlib", "multiprocessing", "select", "selectors", "signal", "ssl", "subprocess", "threading"),
}
# Pure Python, sans-I/O itself, and part of the bundle (BUNDLED_PYTHON in build.py).
PACKAGES = {"h11"}
# What a platform may lack; the module that uses it says so in a LocalError.
OPTIONAL = {"convergence.pipes.coding": {"brotli"}, "convergence.wire.compressed": {"compression", "backports"}}
CALLS = {"open", "input", "print", "__import__", "exec", "eval"}
AWAITING = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)


def module_name(path: Path) -> str:
    parts = ["convergence", *path.relative_to(CORE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, name: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports: for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                package = parts[: len(parts) - node.level + is_package]
                base = ".".join([*package, base] if base else package)
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "convergence" else None


def violations(name: str, source: str, is_package: bool = False) -> list[str]:
    """What a module of the core does that it must not."""
    tree = ast.parse(source)
    found = []
    room = room_of(name)
    for line, target in imported(tree, name, is_package):
        top = target.split(".")[0]
        if top in PLATFORM:
            found.append(f"{name}:{line} imports {top}, which belongs to a platform")
        elif top == "convergence":
            found += [f"{name}:{line} {why}" for why in crossing(name, room, target)]
        elif name == "convergence" and is_door(target):
            if any(line == statement.lineno for statement in tree.body):
                found.append(f"{name}:{line} loads {target} at once, not when it is asked for")
        elif top not in sys.stdlib_module_names | PACKAGES | OPTIONAL.get(name, set()):
            found.append(f"{name}:{line} imports {top}, which a browser has not")
    for node in ast.walk(tree):
        if isinstance(node, AWAITING) or (isinstance(node, ast.comprehension) and node.is_async):
            found.append(f"{name}:{getattr(node, 'lineno', 0)} is asynchronous")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(f"{name}:{node.lineno} calls {node.func.id}()")
    return found


def is_door(target: str) -> bool:
    """Whether it is the API for programs, which the package itself may load when a program asks for it, or names."""
    return target == "pynode" or f"{target}.".startswith("pynode.api.")


def crossing(name: str, room: str | None, target: str) -> Iterator[str]:
    """Why this module must not import that one."""
    there = room_of(target)
    if room is not None and room not in ROOMS:
        yield f"is in a room that the list lacks: {room}"
    elif there in ROOMS and there != room:
        if room is None:
            yield f"imports {target}: the package itself imports no room"
        elif room == "driver" and there not in DRIVER_MAY:
            yield f"imports {target}: the driver knows {' and '.join(sorted(DRIVER_MAY))} only"
        elif ROOMS.index(there) > ROOMS.index(room):
            yield f"imports {target}, a later room"
    if any(name in pair and target in pair - {name} for pair in APART):
        yield f"imports {target}, the other side of a circuit"


def core_modules() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


@pytest.mark.parametrize("path", core_modules(), ids=module_name)
def test_module_keeps_the_rules(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8"), path.name == "__init__.py") == []


def test_every_folder_and_file_of_the_core_is_a_room() -> None:
    assert {room_of(module_name(path)) for path in core_modules()} - {None} <= set(ROOMS)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("convergence.wire.cells", "from convergence.circuit import client"),
        ("convergence.wire.cells", "from convergence import link"),
        ("convergence.wire.cells", "import convergence.node"),
        ("convergence.wire.cells", "from ..link import handshake"),
        ("convergence.wire.cells", "from .. import node"),
        ("convergence.wire.cells", "def late():\n    from convergence.node import Node"),
        ("convergence.wire.cells", "if TYPE_CHECKING:\n    from convergence.node import Node"),
        ("convergence.errors", "from convergence import effects"),
        ("convergence.driver", "from convergence.node import Node"),
        ("convergence.driver", "from convergence.errors import ParseError"),
        ("convergence.circuit.client", "from convergence.circuit.relay import RelayCircuit"),
        ("convergence.circuit.client", "from convergence.circuit import relay"),
        ("convergence.circuit.relay", "from . import client"),
        ("convergence.circuit.relay", "from .client import ClientCircuit"),
        ("convergence", "from convergence import node"),
        ("convergence", "from pynode import api"),
        ("convergence", "import pynode.api"),
        ("convergence", "def __getattr__(name):\n    from pynode import app"),
        ("convergence.node", "def late():\n    from pynode import api"),
        ("convergence.attic.old", "from convergence import errors"),
        ("convergence.link.link", "import asyncio"),
        ("convergence.link.link", "import os.path"),
        ("convergence.link.link", "from time import monotonic"),
        ("convergence.link.link", "from os import urandom"),
        ("convergence.link.link", "import random as dice"),
        ("convergence.link.link", "import secrets"),
        ("convergence.link.link", "import socket"),
        ("convergence.link.link", "from js import console"),
        ("convergence.link.link", "from pyodide.ffi import to_js"),
        ("convergence.link.link", "from cryptography.hazmat import primitives"),
        ("convergence.link.link", "import pynode"),
        ("convergence.link.link", "async def pump(): ..."),
        ("convergence.link.link", "async def pump():\n    await other()"),
        ("convergence.link.link", "text = open('file').read()"),
        ("convergence.link.link", "print('cell')"),
        ("convergence.link.link", "module = __import__('time')"),
    ],
)
def test_a_violation_is_found(name: str, source: str) -> None:
    assert violations(name, source)


def test_a_package_resolves_relative_imports_from_itself() -> None:
    assert violations("convergence.wire", "from .cells import Command", is_package=True) == []
    assert violations("convergence.wire", "from ..circuit import client", is_package=True)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("convergence.wire.cells", "from convergence.errors import ParseError"),
        ("convergence.wire.cells", "from convergence.wire.reader import Reader"),
        ("convergence.wire.cells", "from . import reader"),
        ("convergence.wire.cells", "import hashlib, struct\nfrom collections import deque"),
        ("convergence.node", "from convergence.circuit import client, relay"),
        ("convergence.driver", "from convergence.effects import Send\nfrom convergence.ports import Clock"),
        ("convergence", "def __getattr__(name):\n    from pynode import api"),
        ("convergence", "if TYPE_CHECKING:\n    from pynode.api import join as join"),
        ("convergence.rdv.point", "self.open(stream)\ntime = now"),
    ],
)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert violations(name, source) == []
