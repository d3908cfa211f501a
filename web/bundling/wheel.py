"""The wheel of the Python packages, and the hooks by which pip makes it (PEP 517 and 660).

Does: turn pyproject.toml and sources into bytes that depend on nothing else.
Does not: need more than the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from web.bundling.steps import ROOT

# Import package -> its folder; suffixes that belong into a wheel (editors' left-overs do not).
PACKAGES = {"convergence": "shared/convergence", "pynode": "pynode"}
PACKAGE_SUFFIXES = {".py", ".typed", ".toml", ".sql", ".txt"}


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A zip archive that depends on names and contents alone. Stored: zlib's output differs between its builds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, whatever this machine is
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    import tomllib

    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def metadata(table: Mapping[str, Any]) -> str:
    """METADATA of the wheel (core metadata 2.4)."""
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {table['name']}",
        f"Version: {table['version']}",
        f"Summary: {table['description']}",
        f"License-Expression: {table['license']}",
        "License-File: LICENSE",
        f"Requires-Python: {table['requires-python']}",
        *(f"Classifier: {classifier}" for classifier in table["classifiers"]),
        *(f"Requires-Dist: {requirement}" for requirement in table["dependencies"]),
    ]
    for extra, requirements in table["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        for requirement in requirements:
            name, _, marker = (part.strip() for part in requirement.partition(";"))
            lines.append(f"Requires-Dist: {name}; " + (f"({marker}) and " if marker else "") + f"extra == '{extra}'")
    return "\n".join(lines) + "\n"


def wheel(contents: Mapping[str, bytes], data: Mapping[str, bytes] | None = None) -> tuple[str, bytes]:
    """Name and bytes of a wheel with these contents. `data` is installed beside Python's own bin/ and lib/."""
    table = project()
    stem = f"{table['name']}-{table['version']}"
    info = f"{stem}.dist-info"
    scripts = "".join(f"{name} = {target}\n" for name, target in sorted(table["scripts"].items()))
    files = {
        **contents,
        **{f"{stem}.data/data/{name}": content for name, content in (data or {}).items()},
        f"{info}/METADATA": metadata(table).encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: build.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}".encode(),
        f"{info}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    record = ""
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(files[name])}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"{stem}-py3-none-any.whl", zip_bytes(files)


def project_wheel() -> tuple[str, bytes]:
    """The wheel: `convergence`, the protocol core, and `pynode`, the server node. Pure Python, as Pyodide needs it."""
    sources = files_below({f"{name}/": ROOT / folder for name, folder in PACKAGES.items()}, PACKAGE_SUFFIXES)
    return wheel(sources, manual_pages())


def manual_pages() -> dict[str, bytes]:
    """The manual pages of the command, by their places below the folder where Python is installed."""
    if (core := str((ROOT / PACKAGES["convergence"]).parent)) not in sys.path:
        sys.path.append(core)
    from pynode.cli import parser
    from pynode.cli.manual import pages

    return {f"share/man/man1/{name}": page for name, page in pages(parser(), project()["version"]).items()}


def files_below(folders: Mapping[str, Path], suffixes: Container[str]) -> dict[str, bytes]:
    """The files with these suffixes, each under its folder's prefix. Names with a leading dot are an editor's files."""
    return {
        f"{prefix}{name}": path.read_bytes()
        for prefix, folder in folders.items()
        for path in folder.rglob("*")
        if path.suffix in suffixes and "/." not in f"/{(name := path.relative_to(folder).as_posix())}"
    }


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """PEP 517 hook."""
    name, data = project_wheel()
    Path(wheel_directory, name).write_bytes(data)
    return name


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """PEP 660 hook: a wheel that only points at this tree."""
    name, data = wheel({"convergence_tree.pth": f"{ROOT / 'shared'}\n{ROOT}\n".encode()}, manual_pages())
    Path(wheel_directory, name).write_bytes(data)
    return name
