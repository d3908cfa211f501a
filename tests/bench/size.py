"""Bytes over the wire of a first visit, with brotli: ours, the libraries in it, and Pyodide.

What is counted is dist/ as it was built, so `python3 build.py build` comes first.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import brotli

import build
from tests.bench.lab import Figure
from tests.bench.supervise import step

TARGET_OURS = 150.0  # kB
TARGET_ALL = 7.0  # MB
PACKING = 300.0  # seconds for brotli at its best quality, and for the bundler
UNUSED = (".whl", ".d.ts", "sbom.json", "LICENSES.txt")
TOR = ("tor.zip", "tor.json")
PAGE = ("index.html", "open.html", "style.css", "icon.svg", "manifest.json")


def run(tiny: bool = False) -> list[Figure]:
    def packed(data: bytes) -> int:
        return len(brotli.compress(data, quality=1 if tiny else 11, lgwin=24))

    step("packing our own code and bare Pyodide", PACKING)
    listed = json.loads((build.DIST / "manifest.json").read_bytes())["files"]
    sizes = {name: sent(build.DIST / name) for name in (*listed, "manifest.json")}
    pyodide = sum(size for name, size in sizes.items() if name.startswith("pyodide/"))
    unused = sum(size for name, size in sizes.items() if name.endswith(UNUSED))
    tor = sum(sizes[name] for name in TOR)
    everything = sum(sizes.values())
    scripts, _ = build.bundle_scripts(build.SCRIPTS, "--minify", "--format=esm", "--packages=external")
    javascript = sum(packed(data) for data in scripts.values())
    python = packed(without(build.DIST / "app.zip", build.BUNDLED_PYTHON))
    page = sum(sizes[name] for name in PAGE)
    ours = page + javascript + python
    published = [build.NODE_MODULES / "pyodide" / name for name in (*build.PYODIDE_FILES, "pyodide-lock.json")]
    bare = sum(packed(path.read_bytes()) for path in published if path.suffix != ".wasm")
    bare += sizes["pyodide/pyodide.asm.wasm"]
    return [
        Figure("our own code", ours / 1e3, "kB", TARGET_OURS, at_most=True),
        Figure("  of it JavaScript", javascript / 1e3, "kB"),
        Figure("  of it Python", python / 1e3, "kB"),
        Figure("  of it HTML, CSS, the manifest", page / 1e3, "kB"),
        Figure("libraries", (everything - pyodide - unused - tor - ours) / 1e3, "kB", note="noble, sodium, h11, words"),
        Figure("the client of the Tor network", tor / 1e3, "kB", note="which a page runs once it is switched on"),
        Figure("Pyodide with the library's bytecode", pyodide / 1e6, "MB"),
        Figure("wheel, licences, bill of materials", unused / 1e3, "kB", note="which no page runs"),
        Figure("all files", everything / 1e6, "MB", TARGET_ALL, at_most=True),
        Figure("bare Pyodide as published", bare / 1e6, "MB"),
    ]


def sent(path: Path) -> int:
    """Bytes of a file as a site sends it."""
    twin = path.with_name(f"{path.name}.br")
    return (twin if twin.exists() else path).stat().st_size


def without(archive: Path, packages: Iterable[str]) -> bytes:
    """The archive without these packages."""
    with zipfile.ZipFile(archive) as entries:
        names = [name for name in entries.namelist() if name.split("/")[0] not in packages]
        return build.zip_bytes({name: entries.read(name) for name in names})
