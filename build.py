#!/usr/bin/env python3
"""Task runner, bundler and wheel builder of Convergence: `python3 build.py up | test | build | bench | check`.

Does: set up what a command needs (.venv, node_modules, what the tests run), write `dist/` and the wheel so that equal
sources give equal bytes on every machine, and start the program, its tests, benches and checks. It is also the build
backend that `pip install .` calls (PEP 517 and 660), so there is one way to make the wheel.
Does not: need more than the standard library, nor touch the network once the set-up matches the lock files.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (before anything that an older Python cannot read)
    sys.exit("Convergence needs Python 3.11 or later: run build.py with a newer python3.")

from pynode import headers
from pynode.published.manifest import Manifest, Refused, canonical_json
from web.bundling import inventory, releases, revoked, tls
from web.bundling.inventory import Component, digest_of_trees
from web.bundling.page import bookmarklet, filled, with_integrity, with_policy
from web.bundling.setup import (
    BUNDLED_PYTHON,
    NODE_MODULES,
    NODE_NEEDED,
    VENV,
    VENV_PYTHON,
    digest_of,
    ensure_bitcoin,
    ensure_node,
    ensure_python,
    ensure_test_programs,
    ensure_tree_installed,
    stamped,
    venv_stands,
)
from web.bundling.steps import ROOT, BuildError, logged, run, step
from web.bundling.wheel import PACKAGES, build_editable, build_wheel, files_below, project, project_wheel, zip_bytes

__all__ = ["build_editable", "build_wheel"]  # the hooks of PEP 517 and 660, which pip looks for here

DIST = ROOT / "dist"
BYTECODE = ROOT / "build" / "bytecode"
RELEASES = ROOT / "docs" / "releases"
# Each file of tests runs in one lane, in the order of tests/budgets.py. Two cores get three lanes: many tests wait.
LANES = ("-n3", "--dist=loadfile", "--no-loadscope-reorder")

# dist/ mirrors web/, so that a relative address means the same in both; the service worker lies at the root, its scope,
# and is named by its content: a later file at that address is the same one, or an attack.
PAGE_SUFFIXES = {".html", ".css", ".svg", ".png", ".ico", ".webmanifest", ".ts"}
SCRIPTS = {
    "main": "web/main.js",
    "convergence": "web/convergence.js",
    "worker/worker": "web/worker/worker.js",
    "sw": "service-worker/sw.js",
}
SCRIPT_FOLDERS = ("web", "service-worker")
# All that a build takes from the tree: everybody who checks out a commit has the same.
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
# The bookmark's program, the document around it, and the page that offers it. The manifest lists none of them, because
# they hold its hash.
LOADER, BOOKMARK, BOOKMARK_OFFER = (f"web/bookmarklet/{name}" for name in ("loader.js", "document.html", "page.html"))
# The standard licence texts, for packages that come without one: a JSON document each, named by SPDX identifier.
LICENCE_TEXTS = NODE_MODULES / "spdx-license-list" / "licenses"
COMPRESS = "web/compress.mjs"


def modules(**rooms: str) -> set[str]:
    """Files of the core: for each room, the names of its modules."""
    return {f"convergence/{room}/{name}.py" for room, names in rooms.items() for name in names.split()}


# A facilitator, the front door of a proxy, a relay of the Tor network; conflux, whose legs share no way in (a page has
# one).
SERVERS_ONLY = modules(
    facilitator="ages crowd decisions drawing draws exchange expiry newcomers partners passing prober publisher"
    " questions reaching registry service shared sharing",
    circuit="conflux linking",
    netdir="epochs",
    pipes="connect door socks",
    tor="accounting cache dirports entry history publishing relay selftest sets",
    wire="conflux routerdesc sharing",
    crypto="crosscert routersign",
)
# A client of the Tor network: a page loads it when it is switched on there.
TOR = modules(
    tor="__init__ circuits directory entrance network request sources",
    netdir="consensus tor",
    path="buildtimes guardrecord guards predicted torpath weights",
    wire="authority consensus consensus_diff exitpolicy microdescriptor netdoc protovers",
)
TOR_NETWORK = "pynode/tor-public.txt"
COMPRESSED_SUFFIXES = {".html", ".css", ".der", ".js", ".mjs", ".json", ".svg", ".ts", ".txt", ".wasm", ".whl", ".zip"}

USAGE = """usage: python3 build.py COMMAND [arguments]

  up     build, then start a whole network on this machine and print its address
         (arguments go to `convergence up`)
  test   lint, types, build and the tests (arguments go to pytest; --long: also those that take many minutes)
  build  write dist/: the page, its worker, Pyodide, the Python wheel, manifest.json
  bench  run the benches, or those named (bench --list says which; bench --help has more)
  check  lint and types only

Each command first sets up what it lacks: .venv, node_modules and, for test and bench, browsers and network tools.
What that prints is kept in build/logs."""
# Commands with options of their own, and the program that prints the help for them.
MORE_HELP = {"up": ["pynode", "up", "--help"], "test": ["pytest", "--help"]}


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
        warnings = run(
            [
                esbuild(),
                *(f"{name}={source}" for name, source in scripts.items()),
                f"--outdir={out}",
                f"--metafile={out / 'metafile.json'}",
                "--bundle",
                "--legal-comments=none",  # see licences()
                "--target=es2022",
                "--charset=utf8",
                f"--define:SITE_HEADERS={json.dumps(headers.for_worker())}",  # of service-worker/headers.js
                "--external:../pyodide/*",  # stays a file of its own, loaded at run time
                "--tsconfig-raw={}",  # else a tsconfig.json in a folder above this tree would count
                "--log-level=warning",
                *options,
            ],
            "Mend the JavaScript named above.",
            "esbuild",
        )
        print(warnings, end="", flush=True)
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


def python_sources() -> dict[str, dict[str, bytes]]:
    """The browser's Python, by archive. app.zip: its shell, the core without what only servers do, and the packages
    that it imports; tor.zip: what else a client of the Tor network is."""
    folders = {"": ROOT / "web" / "worker", "convergence/": ROOT / PACKAGES["convergence"]}
    folders |= {f"{name}/": site_packages() / name for name in BUNDLED_PYTHON}
    sources = {name: data for name, data in files_below(folders, {".py"}).items() if name not in SERVERS_ONLY}
    return {
        "app.zip": {name: data for name, data in sources.items() if name not in TOR},
        "tor.zip": {name: data for name, data in sources.items() if name in TOR},
    }


def tor_network() -> bytes:
    """tor.json: the Tor network that pages use, by its authorities' v3 identities."""
    found = re.findall(r"^DirAuthority .*\bv3ident=([0-9A-F]{40})\b", (ROOT / TOR_NETWORK).read_text(), re.MULTILINE)
    return canonical_json({"authorities": found})


def precompiled(sources: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """The archives, and Python's library with bytecode for what the node needs of it: see web/precompile.mjs.

    Kept under build/ until a source or Pyodide changes: it takes seconds.
    """
    archives, stamp = {name: zip_bytes(files) for name, files in sources.items()}, BYTECODE / "of"

    def made() -> str:
        of = [hashlib.sha256(archive).hexdigest() for archive in archives.values()]
        return digest_of([PRECOMPILE, "package-lock.json"], *of, digest_of_trees([BYTECODE], [stamp.name]))

    if not stamped(stamp, made()):
        BYTECODE.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        for name, archive in archives.items():
            (BYTECODE / name).write_bytes(archive)
        hint = f"Install Node.js {NODE_NEEDED} or later; if it is there, see the lines above."
        run(["node", PRECOMPILE, BYTECODE], hint, "precompile", "Compiling the browser's Python")
        stamp.write_text(made())
    names = {name: name for name in archives} | {"pyodide/python_stdlib.zip": "python_stdlib.zip"}
    return {name: (BYTECODE / result).read_bytes() for name, result in names.items()}


def components(npm: Iterable[str], python: str) -> list[Component]:
    """All that others wrote of what browsers and nodes run, as the locks pin it. `python`: Pyodide's version of it."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return [
        Component("generic", "cpython", python, "Python-2.0.1", (), "browser"),
        *inventory.npm_components((ROOT / "package-lock.json").read_bytes(), npm),
        *inventory.python_components(lock, {*BUNDLED_PYTHON, "certifi"}),
        *tls.components(),
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
        if path.suffix == ".html":
            files[path.name] = with_policy(files[path.name].decode(), headers.policy_in(path.name)).encode()
    for name in PYODIDE_FILES:
        files[f"pyodide/{name}"] = (NODE_MODULES / "pyodide" / name).read_bytes()
    files["tls/tls.wasm"] = tls.engine()
    files["tls/roots.der"] = tls.roots((site_packages() / "certifi" / "cacert.pem").read_text(encoding="utf-8"))
    files["tls/revoked.bin"] = revoked.packed()
    files["tor.json"] = tor_network()
    # Pyodide's own index with no package in it: Pyodide then cannot ask another origin for anything.
    info = json.loads((NODE_MODULES / "pyodide" / "pyodide-lock.json").read_bytes())["info"]
    files["pyodide/pyodide-lock.json"] = canonical_json({"info": info, "packages": {}})
    sources = python_sources()
    name, data = project_wheel()
    files[name] = data
    parts = components({*packages, "pyodide"}, info["python"])
    files["LICENSES.txt"] = licences(parts)
    files["sbom.json"] = canonical_json(inventory.bill_of_materials(project(), parts))
    if missing := [name for name in ESSENTIAL if name not in files and name not in sources["app.zip"]]:
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
    """The brotli twins for sites to send, unlisted in the manifest: only the bytes that a browser unpacks count.

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
        for path, data in missing.items():
            path.write_bytes(data)
        run(["node", COMPRESS, *missing], "See the lines above.", "compress", "Compressing for the site")
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
    """Files of a build that the last commit lacks or has in another form; none where git cannot tell."""
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
    python = [str(VENV_PYTHON), "-m"]
    biome = [str(NODE_MODULES / ".bin" / "biome")]
    for name, command in {
        "ruff check": [*python, "ruff", "check", "."],
        "ruff format": [*python, "ruff", "format", "--check", "."],
        "mypy": [*python, "mypy", "--strict", "shared/convergence", "pynode", "build.py"],
        "biome": [*biome, "ci", "--error-on-warnings"],
    }.items():
        code, printed = logged(command, f"check-{name}".replace(" ", "-"), f"Checking: {name}")
        if code:
            print(printed, flush=True)
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
        ensure_bitcoin()
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
    from tests.bench.__main__ import parse

    parse(arguments)  # a call for help, or for a bench that does not exist, ends here
    with only_one():
        ensure_python(dev=True)
        ensure_tree_installed()
        ensure_test_programs()
        build()
    # In place of this process, so that signals reach the program that runs the benches: it leaves nothing behind.
    os.execv(VENV_PYTHON, [str(VENV_PYTHON), str(ROOT / "tests" / "bench" / "__main__.py"), *arguments])


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


def command_help(command: str) -> int:
    """Print what there is to say, and set nothing up for it."""
    print(USAGE)
    if module := MORE_HELP.get(command):
        where = "" if venv_stands() else ", once .venv is there"
        print(f"\nWhich arguments there are says .venv/bin/python -m {' '.join(module)}{where}.")
    return 0


def main(arguments: list[str]) -> int:
    command = arguments[0] if arguments else ""
    if command == "help" or (command != "bench" and {"-h", "--help"} & set(arguments)):
        return command_help(command)
    if command not in COMMANDS:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](arguments[1:])
    except (BuildError, releases.Unfit) as error:
        print(f"build.py {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
