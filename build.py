#!/usr/bin/env python3
"""Task runner, bundler and wheel builder of Convergence: `python3 build.py up | test | build | bench | check`.

Does: set up what a command needs (.venv, node_modules, what the tests run), write `dist/` and the wheel so that equal
sources give equal bytes on every machine, and start the program, its tests, benches and checks. It is also the build
backend that `pip install .` calls (PEP 517 and 660), so there is one way to make the wheel.
Does not: need more than the standard library, nor touch the network once the set-up matches the lock files.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 (before anything that an older Python cannot read)
    sys.exit("Convergence needs Python 3.11 or later: run build.py with a newer python3.")

from pynode.published.manifest import Manifest, Refused, canonical_json
from web.bundling import inventory, releases
from web.bundling.inventory import Component, digest_of_trees
from web.bundling.page import bookmarklet, filled, with_integrity

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
NODE_MODULES = ROOT / "node_modules"
BYTECODE = ROOT / "build" / "bytecode"
RELEASES = ROOT / "docs" / "releases"
NODE_NEEDED = 20

# What tests and benches run beside Python: Debian's package and a program in it, which may be one that only root has in
# PATH. iproute2 to coturn are for networks of the tests' own, with NATs and a STUN server; minisign signs releases.
TEST_PROGRAMS = {
    "chromium": "chromium",
    "firefox-esr": "firefox-esr",
    "iproute2": "ip",
    "iptables": "iptables",
    "coturn": "turnserver",
    "minisign": "minisign",
    "faketime": "faketime",
}
SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")
# Tests run in lanes, a file of tests in one, in the order of tests/budgets.py. Three for two cores: many tests wait.
LANES = ("-n3", "--dist=loadfile", "--no-loadscope-reorder")

# Import package -> its folder; suffixes that belong into a wheel (editors' left-overs do not).
PACKAGES = {"convergence": "shared/convergence", "pynode": "pynode"}
PACKAGE_SUFFIXES = {".py", ".typed", ".toml", ".sql"}

# dist/ mirrors web/, so that a relative address means the same in both; the service worker lies at the root, its scope,
# and is named by its content: what is found at that address later is the same, or an attack.
PAGE_SUFFIXES = {".html", ".css", ".svg", ".png", ".ico", ".webmanifest"}
SCRIPTS = {"main": "web/main.js", "worker/worker": "web/worker/worker.js", "sw": "service-worker/sw.js"}
SCRIPT_FOLDERS = ("web", "service-worker")
# What others have who check out a commit, and all that a build takes from it.
SOURCES = (
    *(*SCRIPT_FOLDERS, *PACKAGES.values(), "LICENSE", "docs/releases/keys.json"),
    *("build.py", "pyproject.toml", "requirements.txt", "package.json", "package-lock.json"),
)
PYODIDE_FILES = ("pyodide.asm.mjs", "pyodide.asm.wasm", "pyodide.mjs", "python_stdlib.zip")
PRECOMPILE = "web/precompile.mjs"
BROTLI = ROOT / "build" / "brotli"
# Files of dist/ or of app.zip without which there is no node.
ESSENTIAL = (
    "index.html",
    "main.js",
    "worker/worker.js",
    "node_host.py",
    *(f"pyodide/{name}" for name in PYODIDE_FILES),
)
# Pure Python packages that the core imports: installed beside it in CPython, with it in app.zip in the browser.
BUNDLED_PYTHON = ("h11",)
# The bookmark's program, the document around it, and the page that offers it: none is in the manifest, whose hash is in
# them.
LOADER, BOOKMARK, BOOKMARK_OFFER = (f"web/bookmarklet/{name}" for name in ("loader.js", "document.html", "page.html"))
# The standard texts, for what comes without its licence's: a JSON document each, named by SPDX identifier.
LICENCE_TEXTS = NODE_MODULES / "spdx-license-list" / "licenses"
COMPRESS = "web/compress.mjs"
COMPRESSED_SUFFIXES = {".html", ".css", ".js", ".mjs", ".json", ".svg", ".txt", ".wasm", ".whl", ".zip"}

USAGE = """usage: python3 build.py COMMAND [arguments]

  up     build, then start a whole network on this machine and print its address
         (arguments go to `convergence up`)
  test   lint, types, build and the tests (arguments go to pytest; --long: also those that take many minutes)
  build  write dist/: the page, its worker, Pyodide, the Python wheel, manifest.json
  bench  run the benches, or those named
  check  lint and types only

Each command first sets up what it lacks: .venv, node_modules and, for test and bench, browsers and network tools."""


class BuildError(Exception):
    """Something is missing or failed; the message says what to do next."""


def step(text: str) -> None:
    """Say what is going on, at once."""
    print(f"==> {text}", flush=True)


def run(command: Sequence[str | Path], hint: str, **options: Any) -> None:
    """Run a command in the tree's folder. Raises BuildError with `hint` when it cannot start or fails."""
    try:
        code = subprocess.run([str(part) for part in command], cwd=ROOT, check=False, **options).returncode
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be started: {error.strerror}. {hint}") from None
    if code:
        raise BuildError(f"{Path(command[0]).name} ended with exit code {code}. {hint}")


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold back other runs in this tree during set-up and build; the lock is on the folder, so no file stays behind."""
    import fcntl

    handle = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step("Waiting for another build.py in this folder")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# Set-up ---------------------------------------------------------------------------------------------------------------


def stamped(stamp: Path, digest: str) -> bool:
    return stamp.is_file() and stamp.read_text() == digest


def digest_of(names: Iterable[str], *more: str) -> str:
    """Digest of these files of the tree and some words; a stamp that holds it says that the set-up still fits."""
    digest = hashlib.sha256()
    for part in [(ROOT / name).read_bytes() for name in names] + [word.encode() for word in more]:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def apt_install(packages: Sequence[str], why: str) -> None:
    """Install Debian packages, or say which."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BuildError(
            f"{why}. Install {' and '.join(packages)} (on Debian and Ubuntu: "
            f"sudo apt-get update && sudo apt-get install {' '.join(packages)}), then run this command again."
        )
    step(f"{why}: installing {' '.join(packages)} with apt-get")
    hint = f"Install {' '.join(packages)} by hand, then run this command again."
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], hint, env=environment)
    run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], hint, env=environment)


def pip_install(*arguments: str) -> None:
    run(
        [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", *arguments],
        "If the network is down, run this command again when it is back; if .venv is damaged, delete it first.",
    )


def ensure_python(dev: bool) -> None:
    """Make .venv hold the locked packages: the node's, or with `dev` also those for tests and lint."""
    runtime, full = digest_of(["requirements.txt"]), digest_of(["requirements.txt", "requirements-dev.txt"])
    runtime_stamp, full_stamp = VENV / ".convergence-runtime", VENV / ".convergence-dev"
    bundled_stamp = VENV / ".convergence-bundled"
    stands, intact = venv_stands(), stamped(bundled_stamp, installed_python())
    if stands and intact and stamped(*((full_stamp, full) if dev else (runtime_stamp, runtime))):
        return
    if not stands:
        if importlib.util.find_spec("ensurepip") is None:
            apt_install(["python3-venv"], "Python's venv module is incomplete")
        step("Creating the virtual environment .venv")
        run([sys.executable, "-m", "venv", "--clear", VENV], "See the lines above.")
    lock = "requirements-dev.txt" if dev else "requirements.txt"
    step(f"Installing the Python packages of {lock} (versions and hashes pinned)")
    if not intact:
        for folder in bundled_folders():  # or pip would take what is there for what it once put there
            shutil.rmtree(folder)
    pip_install("--require-hashes", "-r", lock)
    bundled_stamp.write_text(installed_python())
    runtime_stamp.write_text(runtime)
    if dev:
        full_stamp.write_text(full)


def venv_stands() -> bool:
    """Whether .venv has a Python that finds its packages; after an upgrade of the system's, it does not."""
    try:
        return subprocess.run([VENV_PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def bundled_folders() -> list[Path]:
    """Where the Python packages are installed whose files go into dist/."""
    patterns = [pattern for name in BUNDLED_PYTHON for pattern in (name, f"{name}-*.dist-info")]
    return [folder for pattern in patterns for folder in VENV.glob(f"lib/python3*/site-packages/{pattern}")]


def installed_python() -> str:
    return digest_of_trees(bundled_folders(), ["__pycache__"])


def ensure_tree_installed() -> None:
    """Make `python -m pynode` and `.venv/bin/convergence` run this tree, from any folder."""
    digest, stamp = digest_of(["pyproject.toml"], str(ROOT)), VENV / ".convergence-tree"
    if not stamped(stamp, digest):
        pip_install("-q", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(ROOT))
        stamp.write_text(digest)


def ensure_node() -> None:
    """Make node_modules hold the locked npm packages. Their install scripts never run."""
    stamp = NODE_MODULES / ".convergence-lock"

    def installed() -> str:
        return digest_of(["package.json", "package-lock.json"], digest_of_trees([NODE_MODULES], [stamp.name]))

    if shutil.which("node") is None or shutil.which("npm") is None:
        apt_install(["nodejs", "npm"], f"Node.js ({NODE_NEEDED} or later) and npm are needed to bundle the page")
    check_node()
    if stamped(stamp, installed()):
        return
    step("Installing the npm packages of package-lock.json: node_modules is not what was installed from it")
    stamp.unlink(missing_ok=True)
    run(
        # All that the lock names, also where NODE_ENV or the user's settings leave out what is for development.
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--include=dev", "--include=optional"],
        "If the network is down, run this command again when it is back.",
    )
    stamp.write_text(installed())


def check_node() -> None:
    """Raises BuildError when Node.js is too old or does not run: Debian 12 has version 18."""
    answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = answer.removeprefix("v").partition(".")[0]
    if not major.isdigit() or int(major) < NODE_NEEDED:
        raise BuildError(
            f"Node.js {NODE_NEEDED} or later is needed to bundle the page, and `node --version` says"
            f" {answer or 'nothing'}. Where the system's own package is older, install it from nodejs.org or with a"
            " version manager such as nvm, put it first in PATH, then run this command again."
        )


def ensure_test_programs() -> None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_PROGRAMS])
    missing = [package for package, program in TEST_PROGRAMS.items() if shutil.which(program, path=path) is None]
    if missing:
        apt_install(missing, "The tests need browsers, minisign, faketime, and tools to make networks for them")


# The wheel ------------------------------------------------------------------------------------------------------------


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
        lines += [f"Requires-Dist: {requirement}; extra == '{extra}'" for requirement in requirements]
    return "\n".join(lines) + "\n"


def wheel(contents: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Name and bytes of a wheel with these contents."""
    table = project()
    info = f"{table['name']}-{table['version']}.dist-info"
    scripts = "".join(f"{name} = {target}\n" for name, target in sorted(table["scripts"].items()))
    files = {
        **contents,
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
    return f"{table['name']}-{table['version']}-py3-none-any.whl", zip_bytes(files)


def project_wheel() -> tuple[str, bytes]:
    """The wheel: `convergence`, the protocol core, and `pynode`, the server node. Pure Python, as Pyodide needs it."""
    return wheel(files_below({f"{name}/": ROOT / folder for name, folder in PACKAGES.items()}, PACKAGE_SUFFIXES))


def files_below(folders: Mapping[str, Path], suffixes: Container[str]) -> dict[str, bytes]:
    """The files whose names end so, each under its folder's prefix. What begins with a dot is an editor's own."""
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
    name, data = wheel({"convergence_tree.pth": f"{ROOT / 'shared'}\n{ROOT}\n".encode()})
    Path(wheel_directory, name).write_bytes(data)
    return name


# The bundle -----------------------------------------------------------------------------------------------------------


def esbuild() -> Path:
    """The bundler's program for this machine: npm installs one of its platform packages."""
    for path in NODE_MODULES.glob("@esbuild/*/bin/esbuild"):
        return path
    raise BuildError("npm installed no esbuild for this machine: delete node_modules and run this command again.")


def bundle_scripts(scripts: Mapping[str, str], *options: str) -> tuple[dict[str, bytes], set[str]]:
    """Bundle JavaScript entry points. Returns what came out, and the npm packages that are in it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run(
            [
                esbuild(),
                *(f"{name}={source}" for name, source in scripts.items()),
                f"--outdir={out}",
                f"--metafile={out / 'metafile.json'}",
                "--bundle",
                "--legal-comments=none",  # see licences()
                "--target=es2022",
                "--charset=utf8",
                "--external:../pyodide/*",  # stays a file of its own, loaded at run time
                "--tsconfig-raw={}",  # or a tsconfig.json would count that lies in a folder above this tree
                "--log-level=warning",
                *options,
            ],
            "Mend the JavaScript named above.",
        )
        account = (out / "metafile.json").read_bytes()
        folders = [ROOT / folder for folder in SCRIPT_FOLDERS]
        if strange := inventory.read_from_elsewhere(account, ROOT, [*folders, NODE_MODULES]):
            raise BuildError(
                f"{', '.join(strange)}, which the bundle would have, is no part of this tree: move it away."
            )
        made = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.js")}
        return made, inventory.npm_packages(account)


def site_packages() -> Path:
    return next(VENV.glob("lib/python3*/site-packages"))


def python_sources() -> dict[str, bytes]:
    """The browser's Python: its shell, the core, and the packages that the core imports."""
    folders = {"": ROOT / "web" / "worker", "convergence/": ROOT / PACKAGES["convergence"]}
    folders |= {f"{name}/": site_packages() / name for name in BUNDLED_PYTHON}
    return files_below(folders, {".py"})


def precompiled(sources: Mapping[str, bytes]) -> dict[str, bytes]:
    """app.zip, and Python's library with bytecode for what the node needs of it: see web/precompile.mjs.

    Kept under build/ until a source or Pyodide changes: it takes seconds.
    """
    archive, stamp = zip_bytes(sources), BYTECODE / "of"

    def made() -> str:
        of = hashlib.sha256(archive).hexdigest()
        return digest_of([PRECOMPILE, "package-lock.json"], of, digest_of_trees([BYTECODE], [stamp.name]))

    if not stamped(stamp, made()):
        step("Compiling the browser's Python")
        BYTECODE.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        (BYTECODE / "app.zip").write_bytes(archive)
        hint = f"Install Node.js {NODE_NEEDED} or later; if it is there, see the lines above."
        run(["node", PRECOMPILE, BYTECODE], hint)
        stamp.write_text(made())
    names = {"app.zip": "app.zip", "pyodide/python_stdlib.zip": "python_stdlib.zip"}
    return {name: (BYTECODE / result).read_bytes() for name, result in names.items()}


def components(npm: Iterable[str], python: str) -> list[Component]:
    """All that others wrote of what browsers and nodes run, as the locks pin it. `python`: Pyodide's version of it."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return [
        Component("generic", "cpython", python, "Python-2.0.1", (), "browser"),
        *inventory.npm_components((ROOT / "package-lock.json").read_bytes(), npm),
        *inventory.python_components(lock, BUNDLED_PYTHON),
    ]


def licences(parts: Iterable[Component]) -> bytes:
    """What the licences of the bundled packages ask to travel with them: their texts, and where the sources are."""
    texts = [(ROOT / "LICENSE").read_text(encoding="utf-8")]
    for part in parts:
        if "browser" not in part.where:
            continue
        folder, pattern, sources = NODE_MODULES / part.name, "LICENSE*", inventory.SOURCES.get(part.name)
        if part.kind == "npm":
            sources = json.loads((folder / "package.json").read_bytes())["repository"]["url"]
        elif part.kind == "pypi":
            folder, pattern = site_packages(), f"{part.name}-*.dist-info/**/LICENSE*"
        texts.append(f"{part.name} {part.version}, licence {part.licence}, sources {sources}\n")
        own = [path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern))]
        texts += own or [json.loads((LICENCE_TEXTS / f"{part.licence}.json").read_bytes())["licenseText"] + "\n"]
    return "\n".join(texts).encode()


def bundle() -> dict[str, bytes]:
    """Every file of dist/ that the manifest lists. Raises BuildError when an essential one has no source."""
    # Minifying also drops the comments that tell where a module came from.
    files, packages = bundle_scripts(SCRIPTS, "--minify", "--format=esm")
    worker = files.pop("sw.js")
    files[f"sw-{hashlib.sha256(worker).hexdigest()[:16]}.js"] = worker
    for path in (ROOT / "web").glob("[!.]*"):
        if path.suffix in PAGE_SUFFIXES:
            files[path.name] = path.read_bytes()
    for name in PYODIDE_FILES:
        files[f"pyodide/{name}"] = (NODE_MODULES / "pyodide" / name).read_bytes()
    # Pyodide's own index with no package in it: nothing can then be asked of another origin.
    info = json.loads((NODE_MODULES / "pyodide" / "pyodide-lock.json").read_bytes())["info"]
    files["pyodide/pyodide-lock.json"] = canonical_json({"info": info, "packages": {}})
    sources = python_sources()
    name, data = project_wheel()
    files[name] = data
    parts = components({*packages, "pyodide"}, info["python"])
    files["LICENSES.txt"] = licences(parts)
    files["sbom.json"] = canonical_json(inventory.bill_of_materials(project(), parts))
    if missing := [name for name in ESSENTIAL if name not in files and name not in sources]:
        raise BuildError(f"dist/ would lack {', '.join(missing)}: put back the sources in web/.")
    files["index.html"] = with_integrity(files["index.html"].decode(), files).encode()
    return files | precompiled(sources)


def manifest(files: Mapping[str, bytes], version: str) -> bytes:
    """manifest.json: size and SHA-256 of every file, and who may sign what comes after it; its own SHA-256 is the root
    hash."""
    keys, threshold = releases.signers(RELEASES)
    try:
        return Manifest.of(files, version, keys, threshold).encode()
    except Refused as error:
        raise BuildError(f"This build is none that can be published: {error}. Mend what the message names.") from None


def bookmark_files(root_hash: str) -> dict[str, bytes]:
    """The bookmarklet of this build as an address, and the page that offers it."""
    # Names are kept: people are to read it.
    scripts, _ = bundle_scripts({"loader": LOADER}, "--minify-whitespace", "--minify-syntax", "--format=iife")
    document = (ROOT / BOOKMARK).read_text(encoding="utf-8")
    address = bookmarklet(document, scripts["loader.js"].decode(), root_hash, *releases.ways_in(RELEASES))
    offer = (ROOT / BOOKMARK_OFFER).read_text(encoding="utf-8")
    page = filled(offer, {"BOOKMARKLET": html.escape(address), "ROOT": root_hash})
    return {"bookmarklet.txt": f"{address}\n".encode(), "bookmarklet.html": page.encode()}


def compressed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The brotli twins for sites to send, not listed in the manifest: what counts is what a browser unpacks from them.

    Kept under build/ by the hash of what they hold.
    """
    stamp = BROTLI / "of"
    if not stamped(stamp, digest_of_trees([BROTLI], [stamp.name])):
        shutil.rmtree(BROTLI, ignore_errors=True)
        BROTLI.mkdir(parents=True)
    names = {name: BROTLI / hashlib.sha256(data).hexdigest() for name, data in files.items()}
    names = {name: path for name, path in names.items() if Path(name).suffix in COMPRESSED_SUFFIXES}
    missing = {path: files[name] for name, path in names.items() if not path.with_suffix(".br").is_file()}
    if missing:
        step("Compressing for the site")
        for path, data in missing.items():
            path.write_bytes(data)
        run(["node", COMPRESS, *missing], "See the lines above.")
        for path in missing:
            path.unlink()
    twins = {f"{name}.br": path.with_suffix(".br").read_bytes() for name, path in names.items()}
    wanted = {path.with_suffix(".br") for path in names.values()}
    for path in set(BROTLI.iterdir()) - wanted:
        path.unlink()
    stamp.write_text(digest_of_trees([BROTLI], [stamp.name]))
    return {name: data for name, data in twins.items() if len(data) < len(files[name.removesuffix(".br")])}


def write_tree(files: Mapping[str, bytes], target: Path) -> None:
    """Put `files` in place of the folder `target`, which is never seen half written."""
    fresh, old = target.with_name(f"{target.name}.new"), target.with_name(f"{target.name}.old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def build() -> str:
    """Write dist/ and return its root hash."""
    ensure_python(dev=False)
    ensure_node()
    step("Building dist/")
    files = bundle()
    version = project()["version"]
    files["manifest.json"] = manifest(files, version)
    root_hash = hashlib.sha256(files["manifest.json"]).hexdigest()
    files |= releases.proof(RELEASES, version, root_hash, step) | bookmark_files(root_hash)
    twins = compressed(files)
    write_tree({**files, **twins, "ROOT_HASH": f"{root_hash}\n".encode()}, DIST)
    size = sum(map(len, files.values()))
    print(f"    {len(files)} files, {size / 1e6:.1f} MB\n    root hash {root_hash}", flush=True)
    if changed := uncommitted():
        print(f"    not as in the last commit: {' '.join(changed[:5])}{' ...' if changed[5:] else ''}", flush=True)
    return root_hash


def uncommitted() -> list[str]:
    """Files that go into a build and are not, or not so, in the last commit; none where nobody can say."""
    command = ["git", "--no-optional-locks", "status", "--porcelain", "-z", "--untracked-files=all", "--", *SOURCES]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    except OSError:
        return []
    return [line[3:].decode("utf-8", "replace") for line in answer.stdout.split(b"\0") if len(line) > 3]


# Commands -------------------------------------------------------------------------------------------------------------


def lint() -> list[str]:
    """Lint and type-check the tree; returns what failed."""
    failed = []
    python = [VENV_PYTHON, "-m"]
    biome = [NODE_MODULES / ".bin" / "biome"]
    for name, command in {
        "ruff check": [*python, "ruff", "check", "."],
        "ruff format": [*python, "ruff", "format", "--check", "."],
        "mypy": [*python, "mypy", "--strict", "shared/convergence", "pynode", "build.py"],
        "biome (JavaScript and CSS)": [*biome, "ci", "--error-on-warnings"],
    }.items():
        step(f"Checking: {name}")
        if subprocess.run([str(part) for part in command], cwd=ROOT, check=False).returncode:
            failed.append(name)
    return failed


def command_up(arguments: list[str]) -> int:
    with only_one():
        ensure_python(dev=False)
        ensure_tree_installed()
        build()
    # In place of this process, so that signals and the exit code are the node's own.
    os.execv(VENV_PYTHON, [str(VENV_PYTHON), "-m", "pynode", "up", *arguments])


def command_test(arguments: list[str]) -> int:
    started = time.monotonic()
    with only_one():
        ensure_python(dev=True)
        ensure_tree_installed()
        ensure_node()
        ensure_test_programs()
        failed = lint()
        root_hash = build()
    step("Running the tests")
    command: list[str | Path] = [VENV_PYTHON, "-m", "pytest", *LANES, "--durations=20", *arguments]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    step(f"Summary after {time.monotonic() - started:.0f} s")
    print(f"    lint and types: {'failed: ' + ', '.join(failed) if failed else 'clean'}")
    print(f"    root hash:      {root_hash}")
    print(f"    tests:          {'passed' if code == 0 else f'pytest exit code {code}'}", flush=True)
    return code or bool(failed)


def command_build(arguments: list[str]) -> int:
    if arguments:
        raise BuildError("build takes no arguments.")
    with only_one():
        build()
    return 0


def command_bench(arguments: list[str]) -> int:
    with only_one():
        ensure_python(dev=True)
        ensure_tree_installed()
        ensure_test_programs()
        build()
    return subprocess.run([VENV_PYTHON, "tests/bench/__main__.py", *arguments], cwd=ROOT, check=False).returncode


def command_check(arguments: list[str]) -> int:
    if arguments:
        raise BuildError("check takes no arguments.")
    with only_one():
        ensure_python(dev=True)
        ensure_node()
        failed = lint()
    step(f"Failed: {', '.join(failed)}" if failed else "Lint and types are clean")
    return bool(failed)


COMMANDS = {
    "up": command_up,
    "test": command_test,
    "build": command_build,
    "bench": command_bench,
    "check": command_check,
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        asked = bool(arguments) and arguments[0] in ("-h", "--help", "help")
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except (BuildError, releases.Unfit) as error:
        print(f"build.py {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
