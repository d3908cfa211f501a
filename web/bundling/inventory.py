"""Other people's code in the bundle: from which lock, under which licence, and whether it is unchanged.

Does: read the lock files, write the bill of materials (CycloneDX 1.6, JSON), take the digest of installed files.
Does not: install, or ask a registry.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

PYTHON_LICENCES = {
    "aiofastnet": "MIT",
    "aiohappyeyeballs": "PSF-2.0",
    "aiohttp": "Apache-2.0 AND MIT",
    "aioice": "BSD-3-Clause",
    "aiortc": "BSD-3-Clause",
    "aiosignal": "Apache-2.0",
    "attrs": "MIT",
    "av": "BSD-3-Clause",
    "brotli": "MIT",
    "certifi": "MPL-2.0",
    "cffi": "MIT-0",
    "cryptography": "Apache-2.0 OR BSD-3-Clause",
    "dnspython": "ISC",
    "frozenlist": "Apache-2.0",
    "google-crc32c": "Apache-2.0",
    "grpcio": "Apache-2.0",
    "h11": "MIT",
    "idna": "BSD-3-Clause",
    "ifaddr": "MIT",
    "mnemonic": "MIT",
    "multidict": "Apache-2.0",
    "picows": "MIT",
    "propcache": "Apache-2.0",
    "pycparser": "BSD-3-Clause",
    "pyee": "MIT",
    "pylibsrtp": "BSD-3-Clause",
    "pynacl": "Apache-2.0",
    "pyopenssl": "Apache-2.0",
    "python-socks": "Apache-2.0",
    "segno": "BSD-3-Clause",
    "setuptools": "MIT",
    "shtab": "MPL-2.0",
    "typing-extensions": "PSF-2.0",
    "uvloop": "Apache-2.0 OR MIT",
    "yarl": "Apache-2.0",
    "ziglang": "MIT",
}
"""SPDX expressions. The lock names none, and what is installed depends on the machine."""

SOURCES = {
    "certifi": "https://github.com/certifi/python-certifi",
    "cpython": "https://github.com/python/cpython",
    "grpcio": "https://github.com/google/boringssl",  # all that is used of it
    "h11": "https://github.com/python-hyper/h11",
    "ziglang": "https://github.com/WebAssembly/wasi-libc",  # likewise
}
"""Where the sources of what browsers run are, of packages that do not say it where we could read it."""

_PIN = re.compile(r"([a-z0-9.-]+)==([^\s;]+)")
_SHA256 = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PACKAGE = re.compile(r".*node_modules/((?:@[^/]+/)?[^/]+)/")
_ALGORITHMS = {"sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}


class Component(NamedTuple):
    """One package of others."""

    kind: str
    """"npm" or "pypi", as in a package URL; "generic" for what is part of another package."""
    name: str
    version: str
    licence: str
    """SPDX expression."""
    hashes: Sequence[tuple[str, str]]
    """Algorithm and digest, in hex, of each archive that the lock allows."""
    where: str
    """What runs it: "browser", "node" or both."""


def npm_components(lock: bytes, names: Iterable[str]) -> list[Component]:
    """These packages as package-lock.json pins them. Raises KeyError for one that it does not."""
    packages = json.loads(lock)["packages"]
    found = []
    for name in sorted(names):
        entry = packages[f"node_modules/{name}"]
        algorithm, _, digest = entry["integrity"].partition("-")
        hashes = [(_ALGORITHMS[algorithm], base64.b64decode(digest).hex())]
        found.append(Component("npm", name, entry["version"], entry["license"], hashes, "browser"))
    return found


def python_components(lock: str, bundled: Iterable[str]) -> list[Component]:
    """All packages that requirements.txt pins; `bundled` run in browsers, too. Raises KeyError: no licence is known."""
    found = []
    for block in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE):
        if pin := _PIN.match(block):
            hashes = [("SHA-256", digest) for digest in sorted(_SHA256.findall(block))]
            where = "browser, node" if pin[1] in bundled else "node"
            found.append(Component("pypi", pin[1], pin[2], PYTHON_LICENCES[pin[1]], hashes, where))
    return found


def npm_packages(metafile: bytes) -> set[str]:
    """Names of the packages of which something is in a bundle, by esbuild's own account."""
    outputs = json.loads(metafile)["outputs"].values()
    paths = {path for output in outputs for path, part in output["inputs"].items() if part["bytesInOutput"]}
    return {match[1] for path in paths if (match := _PACKAGE.match(path))}


def read_from_elsewhere(metafile: bytes, tree: Path, folders: Iterable[Path]) -> list[str]:
    """The files that the bundler, run in `tree`, read outside of these folders and of their links' targets."""
    allowed = [folder.resolve() for folder in folders]
    paths = {name: (tree / name).resolve() for name in json.loads(metafile)["inputs"]}
    strange = {name for name, path in paths.items() if not any(map(path.is_relative_to, allowed))}
    # These are no files: modules for Node.js only, in whose place esbuild puts nothing, and what the build defines.
    return sorted(name for name in strange if not name.startswith(("(disabled):", "<define:")))


def bill_of_materials(project: Mapping[str, Any], components: Iterable[Component]) -> dict[str, Any]:
    """The SBOM as JSON values: CycloneDX 1.6. It has no date and no serial number: equal locks give equal bytes."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": project["name"],
                "name": project["name"],
                "version": project["version"],
                "licenses": [{"expression": project["license"]}],
            }
        },
        "components": [_entry(component) for component in sorted(components)],
    }


def _entry(component: Component) -> dict[str, Any]:
    address = f"pkg:{component.kind}/{quote(component.name, safe='/')}@{component.version}"
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": address,
        "name": component.name,
        "version": component.version,
        "purl": address,
        "scope": "required",
        "licenses": [{"expression": component.licence}],
        "properties": [{"name": "convergence:runs-in", "value": component.where}],
    }
    if component.hashes:
        entry["hashes"] = [{"alg": algorithm, "content": digest} for algorithm, digest in component.hashes]
    return entry


def digest_of_trees(folders: Iterable[Path], leave_out: Sequence[str] = ()) -> str:
    """Digest of all names and bytes below some folders: taken after an installation, to compare later.

    Args:
        leave_out: names of files and folders that do not count, wherever they lie.
    """
    lines = []
    for folder in folders:
        for parent, inner, names in os.walk(folder):
            inner[:] = [name for name in inner if name not in leave_out]
            for name in names:
                if name not in leave_out:
                    path = Path(parent, name)
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    lines.append(f"{folder.name}/{path.relative_to(folder).as_posix()} {digest}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
