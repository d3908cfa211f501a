"""The bundle, the wheel and the lock files: reproducible, complete, and free of what belongs to one machine."""

from __future__ import annotations

import _imp
import ast
import base64
import contextlib
import hashlib
import html
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import brotli
import pytest

from pynode.headers import BOOKMARK_POLICY, HEADERS, TYPES
from pynode.published.manifest import Manifest
from pynode.tornetwork import read_network
from web.bundling import inventory, setup, steps, tls
from web.bundling.page import with_policy

ROOT = Path(__file__).parents[2]
NPM_LOCKS = ("package-lock.json", "tests/interop/bitcoin/package-lock.json")
PYTHON_LOCKS = ("requirements.txt", "requirements-dev.txt", "web/tls/compiler.txt", "web/tls/source.txt")

# In pieces, so that this file does not hold what it forbids.
REGISTRY_HOSTS = (
    "registry.npm" + "js",
    "registry.yarn" + "pkg",
    "pypi" + ".org",
    "python" + "hosted",
    "deb." + "debian",
)
MACHINE_PATHS = ("/work" + "/main", "/work" + "/shared", "/ro" + "ot/", "/opt/" + "wheels")

HEADING = re.compile(r"^(\S+) (\S+), licence (\S+), sources \S*https://\S+$", re.MULTILINE)
"""What LICENSES.txt says of a package, above its licence."""


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convergence_build", ROOT / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def tree_files() -> list[str]:
    """Paths, from the root, of the tree's files: those in git and the new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return sorted({name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_pythons() -> list[str]:
    """A Python of each other version that the build runs with and this machine has; this one if there is none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in {11, 12, 13, 14} - {sys.version_info.minor}:
        installed = [*versions.glob(f"3.{minor}.*/bin/python3"), Path(f"/usr/bin/python3.{minor}")]
        found += [str(path) for path in installed if path.exists()][:1]
    return found or [sys.executable]


PYTHONS = [pytest.param(path, marks=pytest.mark.long if at else ()) for at, path in enumerate(other_pythons())]
"""A quick run builds with one of them."""


def build_copy(
    folder: Path,
    *,
    mtime: int,
    umask: int,
    python: str = sys.executable,
    order: Callable[[list[str]], Any] = list,
    **environment: str,
) -> dict[str, bytes]:
    """Copy the tree to a folder, build it there as another machine would, and return dist/."""
    with contextlib.suppress(OSError):  # what only saves time, and what another build may be clearing up
        shutil.copytree(build.BROTLI, folder / "build" / "brotli")
    tls.engine()
    (folder / "build" / "tls").mkdir(parents=True)
    for name in ("tls.wasm", "of"):  # test_tls_module.py compiles it once more
        shutil.copyfile(tls.WORK / name, folder / "build" / "tls" / name)
    for name in order(tree_files()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        os.utime(target, (mtime, mtime))
    for installed in (".venv", "node_modules"):
        (folder / installed).symlink_to(ROOT / installed)
    done = subprocess.run(
        [python, "build.py", "build"],
        cwd=folder,
        env={**os.environ, **environment},
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    dist = contents(folder / "dist")
    assert dist["ROOT_HASH"].decode().strip() in done.stdout
    return dist


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A build of this tree."""
    folder = tmp_path_factory.mktemp("here")
    return build_copy(folder, mtime=1_000_000_000, umask=0o022, TZ="UTC", LC_ALL="C", PYTHONHASHSEED="1")


@pytest.mark.parametrize(
    ("version", "fits"), [("v20.20.2", True), ("v22.1.0", True), ("v18.20.4", False), ("", False), ("nonsense", False)]
)
def test_an_old_node_is_named_before_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, fits: bool
) -> None:
    node = tmp_path / "node"
    node.write_text(f"#!/bin/sh\necho {version}\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if fits:
        setup.check_node()
    else:
        with pytest.raises(build.BuildError, match=f"20 or later .* says {version or 'nothing'}. .* older, install"):
            setup.check_node()


@pytest.mark.parametrize("python", PYTHONS)
def test_two_builds_of_one_tree_are_byte_identical(dist: dict[str, bytes], tmp_path: Path, python: str) -> None:
    elsewhere = tmp_path / "a much longer path, with spaces and an é"
    other = build_copy(
        elsewhere,
        mtime=1_700_000_001,
        umask=0o077,
        python=python,
        order=reversed,
        TZ="Asia/Kolkata",
        LC_ALL="C.UTF-8",
        PYTHONHASHSEED="2",
    )
    assert sorted(dist) == sorted(other)
    assert [name for name in dist if dist[name] != other[name]] == []


def test_manifest_names_every_byte_and_its_hash_is_the_root_hash(dist: dict[str, bytes]) -> None:
    manifest = json.loads(dist["manifest.json"])
    listed = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    outside = {"manifest.json", "release.json", "releases.txt", "ROOT_HASH", "bookmarklet.html", "bookmarklet.txt"}
    assert listed == {
        name: (len(data), hashlib.sha256(data).hexdigest())
        for name, data in dist.items()
        if name not in outside and not name.endswith(".br")
    }
    assert Manifest.parse(dist["manifest.json"]).encode() == dist["manifest.json"]
    assert manifest["format"] == 2
    trust = json.loads((ROOT / "docs/releases/keys.json").read_bytes())
    assert {"keys": manifest["keys"], "threshold": manifest["threshold"]} == trust
    assert dist["ROOT_HASH"].decode().strip() == hashlib.sha256(dist["manifest.json"]).hexdigest()


def test_dist_holds_what_the_browser_needs_and_no_path_of_the_machine(dist: dict[str, bytes]) -> None:
    assert set(build.ESSENTIAL) <= set(dist) | set(zipfile.ZipFile(io.BytesIO(dist["app.zip"])).namelist())
    assert [name for name, data in dist.items() if str(ROOT).encode() in data] == []
    assert json.loads(dist["pyodide/pyodide-lock.json"])["packages"] == {}


def without_words(source: bytes) -> str:
    """What a module does, and in which lines, without functions' types; of a string that stands alone, only where it
    begins."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for attribute in ("col_offset", "end_col_offset", "end_lineno"):
            if hasattr(node, attribute):
                setattr(node, attribute, 0)
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                node.value.value = ""
            case ast.arg():
                node.annotation = None
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                node.returns = None
    return ast.dump(tree, include_attributes=True)


def test_the_browsers_python_is_the_sources_without_comments_docstrings_and_types(dist: dict[str, bytes]) -> None:
    sources = build.python_sources()
    assert {"node_host.py", "convergence/node.py", "h11/__init__.py"} <= set(sources["app.zip"])
    assert {"convergence/tor/network.py", "convergence/netdir/tor.py"} <= set(sources["tor.zip"])
    assert not [name for name in sources["app.zip"] if name.startswith("convergence/tor/")]
    for name, modules in sources.items():
        archive = zipfile.ZipFile(io.BytesIO(dist[name]))
        assert sorted(modules) == archive.namelist()
        for module, source in modules.items():
            assert without_words(archive.read(module)) == without_words(source), module
        assert len(dist[name]) < 0.8 * sum(map(len, modules.values()))
    assert b"def flush(self, now):\n" in zipfile.ZipFile(io.BytesIO(dist["app.zip"])).read("convergence/outbox.py")


def test_the_page_uses_the_public_tor_network_by_the_authorities_that_the_command_knows(dist: dict[str, bytes]) -> None:
    known = [authority.hex().upper() for authority in read_network(ROOT / build.TOR_NETWORK).authorities]
    assert json.loads(dist["tor.json"]) == {"authorities": known} and len(known) == 9


@pytest.mark.parametrize("module", ["convergence.node", "convergence.tor.network"])
def test_the_browsers_python_is_complete(tmp_path: Path, module: str) -> None:
    """The node needs app.zip alone; a client of the Tor network needs tor.zip besides."""
    sources = build.python_sources()
    more = sources["tor.zip"] if "tor" in module else {}
    (tmp_path / "all.zip").write_bytes(build.zip_bytes(sources["app.zip"] | more))
    program = f"import sys; sys.path.insert(0, 'all.zip'); import {module}; print({module}.__file__)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("all.zip/"), done.stderr


def test_the_library_is_the_published_one_but_for_bytecode_of_what_is_loaded(dist: dict[str, bytes]) -> None:
    library = zipfile.ZipFile(io.BytesIO(dist["pyodide/python_stdlib.zip"]))
    published = zipfile.ZipFile(ROOT / "node_modules" / "pyodide" / "python_stdlib.zip")
    compiled = {name for name in library.namelist() if name.endswith(".pyc")}
    assert {"encodings/__init__.pyc", "asyncio/base_events.pyc", "dataclasses.pyc", "ipaddress.pyc"} <= compiled
    left_out = {"_pyio.py", "_pyrepl", "doctest.py", "multiprocessing", "pdb.py", "pydoc.py", "unittest"}
    kept = [name for name in published.namelist() if name.split("/")[0] not in left_out]
    assert sorted(name.replace(".pyc", ".py") for name in library.namelist()) == sorted(kept)
    assert {name.split("/")[0] for name in set(published.namelist()) - set(kept)} == left_out
    for name in set(library.namelist()) - compiled:
        assert library.read(name) == published.read(name)
    for name in compiled:
        data, source = library.read(name), published.read(name[:-1])
        assert data[4:8] == b"\1\0\0\0"  # PEP 552: known by a hash, which an import does not check
        assert data[8:16] == _imp.source_hash(int.from_bytes(data[:4], "little"), source)
        assert f"/lib/python314.zip/{name[:-1]}".encode() in data  # where the page has it, not this machine


def test_packed_twins_hold_the_very_files(dist: dict[str, bytes]) -> None:
    twins = {name: data for name, data in dist.items() if name.endswith(".br")}
    dense = "tls/revoked.bin"  # digests
    large = {name for name, data in dist.items() if len(data) > 1000 and name not in twins}
    assert {f"{name}.br" for name in large - {dense}} <= set(twins)
    for name, data in twins.items():
        assert brotli.decompress(data) == dist[name.removesuffix(".br")]
        assert len(data) < len(dist[name.removesuffix(".br")])


def test_all_files_take_little_more_than_7_mb_of_the_wire(dist: dict[str, bytes]) -> None:
    """The target is 7: it was met before the wheel had what no page loads: a client and a relay of the Tor network,
    conflux (9 kB), facilitators that share a store and draw with others (28 kB). The client for pages, tor.zip, takes
    28 kB; signed buckets take 13 kB in pages, and 19 kB once more in the wheel. The work of newcomers, and what is told
    of a facilitator that lies, take 11 kB together. What came since: relays that stay, signals that wait for other
    facilitators, names that are looked for part by part of the ring, folders, word codes, the care of garbage."""
    listed = json.loads(dist["manifest.json"])["files"]
    assert sum(len(dist.get(f"{name}.br", dist[name])) for name in (*listed, "manifest.json")) < 7_241_000


def test_the_page_says_its_policy_and_the_hashes_of_what_it_includes(dist: dict[str, bytes]) -> None:
    site_policy = HEADERS["Content-Security-Policy"].replace(" frame-ancestors 'none';", "")  # no page can say that
    bookmark_policy = BOOKMARK_POLICY.removesuffix("; frame-ancestors 'none'")
    for name, policy in (("index.html", site_policy), ("open.html", bookmark_policy)):
        page = dist[name].decode()
        meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        assert 0 < page.index(meta) < page.index("<title>")
        assert page.count("Content-Security-Policy") == 1 and policy != HEADERS["Content-Security-Policy"]
    page = dist["index.html"].decode()
    for name, tag in (("style.css", 'link rel="stylesheet" href'), ("main.js", 'script type="module" src')):
        digest = base64.b64encode(hashlib.sha384(dist[name]).digest()).decode()
        assert f'<{tag}="{name}" integrity="sha384-{digest}">' in page
    assert page.count("<script") == page.count("stylesheet") == 1
    assert "integrity" not in dist["open.html"].decode()


def test_the_service_worker_is_named_by_its_content(dist: dict[str, bytes]) -> None:
    [name] = [name for name in dist if re.fullmatch(r"sw-[0-9a-f]{16}\.js", name)]
    assert name == f"sw-{hashlib.sha256(dist[name]).hexdigest()[:16]}.js"
    assert "sw.js" not in dist


def test_the_service_worker_has_the_sites_headers_from_their_one_statement(tmp_path: Path) -> None:
    (tmp_path / "headers.js").write_bytes(
        build.bundle_scripts({"headers": "service-worker/headers.js"}, "--format=esm")[0]["headers.js"]
    )
    names = ["index.html", "open.html", "main.js", "pyodide/pyodide.asm.wasm", "LICENSE", "a.br"]
    script = f"import {{ headersOf }} from {json.dumps(str(tmp_path / 'headers.js'))};"
    script += f"console.log(JSON.stringify({json.dumps(names)}.map(headersOf)));"
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
    for name, headers in zip(names, json.loads(done.stdout), strict=True):
        policy = BOOKMARK_POLICY if name == "open.html" else HEADERS["Content-Security-Policy"]
        kind = TYPES.get(Path(name).suffix, "application/octet-stream")
        said = HEADERS | {"Content-Security-Policy": policy, "Content-Type": kind, "Server": None}
        assert {**headers, "Server": None} == said, name


def test_a_page_without_a_place_for_its_policy_is_no_page() -> None:
    with pytest.raises(ValueError):
        with_policy("<title>none</title>", "default-src 'none'")


def test_the_bookmarklet_is_a_literal_that_holds_the_root_hash(dist: dict[str, bytes]) -> None:
    address = dist["bookmarklet.txt"].decode().removesuffix("\n")
    assert re.fullmatch(r"javascript:%22[!-~]*%22", address) and "#" not in address
    document = json.loads(unquote(address.removeprefix("javascript:")))
    root = dist["ROOT_HASH"].decode().strip()
    assert root in document and "{{" not in document
    assert document.count("</script>") == 2 and document.startswith("<!doctype html>")
    offer = dist["bookmarklet.html"].decode()
    assert root in offer and html.escape(address) in offer


def test_a_bookmarklet_carries_mirrors_as_data() -> None:
    document = "<p>{{LINKS}}</p><script>go('{{ROOT}}', {{MIRRORS}}, {{NETWORK}}); {{LOADER}}</script>"
    mirrors = ["https://a.example/x/", 'http://b.example/</script>"/']
    made = json.loads(unquote(build.bookmarklet(document, "run()\n", "ab" * 32, mirrors).removeprefix("javascript:")))
    assert made.count("</script>") == 1 and made.endswith("run()</script>")
    listed = re.search(r"go\('(\w+)', (\[.*\]), null\)", made)
    assert listed and listed[1] == "ab" * 32 and json.loads(listed[2]) == mirrors
    assert '<li><a href="https://a.example/x/open.html">https://a.example/x/open.html</a></li>' in made
    with pytest.raises(ValueError, match="script element"):
        build.bookmarklet(document, "'</Script>'", "ab" * 32, [])


def test_the_bookmarklet_carries_what_docs_releases_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "RELEASES", tmp_path)
    monkeypatch.setattr(build, "bundle_scripts", lambda *_: ({"loader.js": b"run()"}, set()))
    (tmp_path / "mirrors.txt").write_text("https://a.example/\nhttp://b.example:81/x/\n")
    facilitator = {"identity": "cd" * 32, "path": "https://c.example/facilitator"}
    (tmp_path / "network.json").write_text(json.dumps({"facilitator": facilitator, "url": "https://c.example/"}))
    made = unquote(build.bookmark_files("ab" * 32)["bookmarklet.txt"].decode())
    assert "b.example:81/x/open.html" in made and "https://c.example/facilitator" in made


def test_a_file_of_docs_releases_that_is_none_ends_a_build_with_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "RELEASES", tmp_path)
    monkeypatch.setitem(build.COMMANDS, "build", lambda _: build.manifest({"index.html": b""}, "0.1.0"))
    assert build.main(["build"]) == 1
    assert f"build.py build: {tmp_path}/keys.json is not as docs/releases/README.md" in capsys.readouterr().err


def test_a_second_build_compiles_nothing_that_is_intact_and_a_missing_node_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BYTECODE", tmp_path)
    sources = build.python_sources()
    first = build.precompiled(sources)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert build.precompiled(sources) == first
    for _ in range(2):  # what failed leaves nothing that the next run takes for done
        with pytest.raises(build.BuildError, match="Install Node.js"):
            build.precompiled({**sources, "app.zip": {**sources["app.zip"], "new.py": b"pass\n"}})
    monkeypatch.undo()
    monkeypatch.setattr(build, "BYTECODE", tmp_path)
    assert build.precompiled(sources) == first
    with (tmp_path / "python_stdlib.zip").open("ab") as file:
        file.write(b"changed")
    assert build.precompiled(sources) == first


def test_a_missing_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ESSENTIAL", ("no-such-page.html",))
    with pytest.raises(build.BuildError, match="no-such-page.html"):
        build.bundle()


def test_zip_depends_on_names_and_contents_alone() -> None:
    archive = build.zip_bytes({"b/c.py": b"c", "a.py": b"a"})
    assert archive == build.zip_bytes({"a.py": b"a", "b/c.py": b"c"})
    entries = zipfile.ZipFile(io.BytesIO(archive)).infolist()
    assert [entry.filename for entry in entries] == ["a.py", "b/c.py"]
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def pip(*arguments: str | Path) -> None:
    """Run pip offline."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index", "--no-deps"]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_pip_installs_the_wheel_and_the_core_imports_alone(tmp_path: Path) -> None:
    name, data = build.project_wheel()
    (tmp_path / name).write_bytes(data)
    pip("--target", tmp_path / "site", tmp_path / name)
    # -S: no site-packages, so that only the wheel and the standard library can answer, as in a browser.
    program = "import convergence.driver, convergence.errors; print(convergence.driver.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "site")
    program = "import convergence; print(convergence.join().__class__, convergence.join_sync.__code__.co_filename)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split()[-2:] == ["'pynode.api.node.Node'>", str(tmp_path / "site/pynode/api/blocking.py")], done
    scripts = zipfile.ZipFile(io.BytesIO(data)).read("convergence-0.1.0.dist-info/entry_points.txt")
    assert b"convergence = pynode.__main__:main" in scripts


def test_the_wheel_works_in_anybodys_pyodide(tmp_path: Path) -> None:
    """What micropip does: it unpacks the wheel, and h11, which is all that the metadata asks for in a browser."""
    name, data = build.project_wheel()
    (tmp_path / name).write_bytes(data)
    h11 = Path(importlib.util.find_spec("h11").origin).parent  # type: ignore[union-attr, arg-type]
    with zipfile.ZipFile(tmp_path / "h11.zip", "w") as archive:
        for path in sorted(h11.glob("*.py")):
            archive.write(path, f"h11/{path.name}")
    python = """
import importlib.metadata, convergence.node
needs = importlib.metadata.requires("convergence")
needs = [text for text in needs if "emscripten" not in text and "extra" not in text]
",".join(needs), convergence.node.__file__
"""
    script = f"""
import {{ readFile }} from "node:fs/promises";
import {{ loadPyodide }} from {json.dumps(str(ROOT / "node_modules/pyodide/pyodide.mjs"))};
process.on("uncaughtException", (error) => {{ console.error(error.message); process.exit(1); }});
const pyodide = await loadPyodide();
for (const name of {json.dumps([name, "h11.zip"])})
  pyodide.unpackArchive(new Uint8Array(await readFile(`{tmp_path}/${{name}}`)), "zip", {{ extractDir: "/lib" }});
const answer = pyodide.runPython("import sys; sys.path.insert(0, '/lib')" + {json.dumps(python)});
console.log(answer.toJs().join(" "));
"""
    command = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"h11>=\S+ /lib/convergence/node.py", done.stdout.strip())


def test_pip_builds_the_same_wheel_from_the_tree(tmp_path: Path) -> None:
    name, data = build.project_wheel()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-index", "--no-deps"]
    subprocess.run([*command, "-w", tmp_path, ROOT], check=True)
    assert (tmp_path / name).read_bytes() == data


def test_pip_puts_manual_pages_where_man_looks(tmp_path: Path) -> None:
    name, data = build.project_wheel()
    (tmp_path / name).write_bytes(data)
    # Without --ignore-installed pip would remove this tree from .venv.
    pip("--ignore-installed", "--prefix", tmp_path / "local", tmp_path / name)
    [folder] = (tmp_path / "local").rglob("man1")
    assert folder.parts[-3:] == ("share", "man", "man1")
    assert {"convergence.1", "convergence-pipe.1", "convergence-release-sign.1"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_browser_is_asked_for_the_bundled_packages_only(dist: dict[str, bytes]) -> None:
    wanted = [text for text in build.project()["dependencies"] if "sys_platform != 'emscripten'" not in text]
    assert {re.split(r"[^\w-]", text)[0] for text in wanted} == set(build.BUNDLED_PYTHON)
    bundled = zipfile.ZipFile(io.BytesIO(dist["app.zip"])).namelist()
    assert {f"{name}/__init__.py" for name in build.BUNDLED_PYTHON} <= set(bundled)


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    forbidden = re.compile("|".join(map(re.escape, REGISTRY_HOSTS + MACHINE_PATHS)).encode())
    found = [name for name in tree_files() if forbidden.search((ROOT / name).read_bytes())]
    assert found == []


@pytest.mark.parametrize("name", NPM_LOCKS + PYTHON_LOCKS)
def test_lock_files_hold_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert '"resolved"' not in text
    assert "--index-url" not in text.replace("--no-emit-index-url", "")


@pytest.mark.parametrize("name", PYTHON_LOCKS)
def test_every_python_package_is_pinned_with_hashes(name: str) -> None:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    requirements = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    assert requirements
    assert [line for line in requirements if "==" not in line or "--hash=sha256:" not in line] == []


@pytest.mark.parametrize("name", NPM_LOCKS)
def test_every_npm_package_is_pinned_with_a_hash(name: str) -> None:
    packages = json.loads((ROOT / name).read_text())["packages"]
    assert [package for package, entry in packages.items() if package and "integrity" not in entry] == []


def test_the_bill_of_materials_names_all_that_others_wrote(dist: dict[str, bytes]) -> None:
    bill = json.loads(dist["sbom.json"])
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["metadata"]["component"]["name"] == "convergence" and "timestamp" not in bill["metadata"]
    parts = {part["name"]: part for part in bill["components"]}
    assert len(parts) == len({part["bom-ref"] for part in bill["components"]}) == len(bill["components"])
    lengths = {"SHA-256": 64, "SHA-512": 128}
    for part in parts.values():
        assert {"type", "bom-ref", "name", "version", "licenses", "purl"} <= set(part)
        assert part["purl"].startswith("pkg:") and part["purl"].endswith(f"@{part['version']}")
        assert part["licenses"][0]["expression"]
        for digest in part.get("hashes", []):
            assert re.fullmatch(r"[0-9a-f]+", digest["content"]) and len(digest["content"]) == lengths[digest["alg"]]
    assert parts["@noble/ciphers"]["purl"].startswith("pkg:npm/%40noble/ciphers@")
    assert {"libsodium-wrappers", "pyodide", "uqr", "h11", "cryptography", "aiohttp"} <= set(parts)
    assert "esbuild" not in parts and "pytest" not in parts
    locked = json.loads((ROOT / "package-lock.json").read_bytes())["packages"]["node_modules/pyodide"]["integrity"]
    assert parts["pyodide"]["hashes"][0]["content"] == base64.b64decode(locked.removeprefix("sha512-")).hex()
    h11 = (ROOT / "requirements.txt").read_text().partition("\nh11==")[2].partition("\n    #")[0]
    assert [digest["content"] for digest in parts["h11"]["hashes"]] == sorted(re.findall(r"sha256:(\w+)", h11))


def test_licences_travel_with_what_browsers_run(dist: dict[str, bytes]) -> None:
    said, text = HEADING.findall(dist["LICENSES.txt"].decode()), dist["LICENSES.txt"].decode()
    in_browsers = [part for part in json.loads(dist["sbom.json"])["components"] if "browser" in str(part["properties"])]
    assert sorted(said) == sorted(
        (part["name"], part["version"], part["licenses"][0]["expression"]) for part in in_browsers
    )
    _, *each = HEADING.split(text)[:: HEADING.groups + 1]
    assert len(each) == len(said) and all(len(licence) > 500 for licence in each)
    for phrase in ("Mozilla Public License Version 2.0", "3.2. Distribution of Executable Form", "BEOPEN.COM LICENSE"):
        assert phrase in text


def test_licences_are_those_that_the_installed_packages_name() -> None:
    for name, licence in inventory.PYTHON_LICENCES.items():
        try:
            said = importlib.metadata.metadata(name).get("License-Expression")
        except importlib.metadata.PackageNotFoundError:
            continue  # not for this machine
        assert said in (None, licence), name


def test_nothing_beside_the_tree_comes_into_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, above = tmp_path / "above" / "tree", tmp_path / "above"
    (tree / "web").mkdir(parents=True)
    (tree / "node_modules").symlink_to(ROOT / "node_modules")
    (tree / "web" / "main.js").write_text('import { encode } from "uqr"; console.log(encode);')
    (above / "evil.js").write_text("export const encode = 'evil';")
    monkeypatch.setattr(build, "ROOT", tree)
    monkeypatch.setattr(steps, "ROOT", tree)
    monkeypatch.setattr(build, "NODE_MODULES", tree / "node_modules")
    honest = build.bundle_scripts({"main": "web/main.js"})
    assert honest[1] == {"uqr"}
    for name in ("tsconfig.json", "jsconfig.json"):
        (above / name).write_text('{"compilerOptions": {"paths": {"uqr": ["./evil.js"]}}}')
        assert build.bundle_scripts({"main": "web/main.js"}) == honest
    (tree / "web" / "main.js").write_text('import { encode } from "no-such"; console.log(encode);')
    (above / "node_modules" / "no-such").mkdir(parents=True)
    (above / "evil.js").rename(above / "node_modules" / "no-such" / "index.js")
    with pytest.raises(build.BuildError, match="no-such/index.js, which the bundle would have, is no part"):
        build.bundle_scripts({"main": "web/main.js"})


def test_editors_own_files_are_not_built_in(tmp_path: Path) -> None:
    for name in ("a.py", "b.txt", ".hidden.py", "inner/c.py", "inner/.d/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / ".#a.py").symlink_to("nobody@nowhere.1234")  # Emacs' mark that a.py is being edited
    assert set(build.files_below({"x/": tmp_path}, {".py"})) == {"x/a.py", "x/inner/c.py"}


def test_a_build_of_what_nobody_committed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert build.uncommitted() == []  # no repository
    git = ["git", "-c", "user.name=x", "-c", "user.email=x", "-C", str(tmp_path)]
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.js").write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "notes.txt").write_text("no part of a build")
    assert build.uncommitted() == []
    (tmp_path / "web" / "a.js").write_text("2")
    (tmp_path / "web" / "new one.js").write_text("3")
    assert sorted(build.uncommitted()) == ["web/a.js", "web/new one.js"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert build.uncommitted() == []


def test_a_name_that_no_build_may_have_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(build.BuildError, match="none that can be published: .* file name"):
        build.manifest({"my page.html": b""}, "0.1.0")
    with pytest.raises(build.BuildError, match="none that can be published: .* version"):
        build.manifest({"index.html": b""}, "0.2.0rc1")


def test_a_damaged_twin_is_packed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BROTLI", tmp_path / "brotli")
    files = {"a.js": b"a" * 1000, "b.js": b"b" * 1000}
    made = build.compressed(files)
    for kept in (tmp_path / "brotli").glob("*.br"):
        kept.write_bytes(b"damaged")
    assert build.compressed(files) == made
    assert {name: brotli.decompress(data) for name, data in made.items()} == {
        "a.js.br": files["a.js"],
        "b.js.br": files["b.js"],
    }


def test_all_that_the_lock_names_is_installed_whatever_the_users_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup, "NODE_MODULES", tmp_path)
    monkeypatch.setattr(setup, "check_node", lambda: None)
    commands: list[list[str]] = []
    monkeypatch.setattr(setup, "run", lambda command, *_: commands.append(command))
    setup.ensure_node()
    omitted = subprocess.run(
        ["npm", "config", "get", "omit", *commands[0][2:]],
        env={**os.environ, "NODE_ENV": "production", "npm_config_omit": "optional"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert omitted.stdout.strip() == ""


def test_a_changed_npm_package_is_installed_anew_or_stops_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (setup, build):
        monkeypatch.setattr(module, "NODE_MODULES", tmp_path / "node_modules")
    shutil.copytree(ROOT / "node_modules", setup.NODE_MODULES, symlinks=True)
    install(tmp_path, "npm")
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 3\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    setup.ensure_node()
    assert capsys.readouterr().out == ""
    stamp = setup.NODE_MODULES / ".convergence-lock"
    for name in (setup.NODE_MODULES / "uqr" / "package.json", build.esbuild()):
        before, recorded = name.read_bytes(), stamp.read_bytes()
        name.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        for _ in range(2):  # what failed is not taken for done
            with pytest.raises(build.BuildError, match="npm ended with exit code 3"):
                setup.ensure_node()
            assert re.search(r"==> .* not what was installed from it: \d+ s\n", capsys.readouterr().out)
        name.write_bytes(before)
        stamp.write_bytes(recorded)
        setup.ensure_node()


def test_a_changed_python_package_is_installed_anew_or_stops_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, ...]] = []
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for folder in setup.bundled_folders():
        shutil.copytree(folder, site / folder.name)
    monkeypatch.setattr(setup, "VENV", tmp_path)
    (tmp_path / ".convergence-runtime").write_text(setup.digest_of(["requirements.txt"]))
    (tmp_path / ".convergence-bundled").write_text(setup.installed_python())

    def pip_install(doing: str, *arguments: str) -> None:
        asked.append(arguments)
        assert not (site / "h11").exists()  # or pip would leave it as it is
        raise build.BuildError("the network is down")

    monkeypatch.setattr(setup, "pip_install", pip_install)
    setup.ensure_python(dev=False)
    (site / "h11" / "__pycache__").mkdir(exist_ok=True)
    (site / "h11" / "__pycache__" / "new.pyc").write_bytes(b"")
    setup.ensure_python(dev=False)
    assert asked == []
    (site / "h11" / "_util.py").write_text("print('someone else')")
    for _ in range(2):
        with pytest.raises(build.BuildError, match="the network is down"):
            setup.ensure_python(dev=False)
    assert asked == [("--require-hashes", "-r", "requirements.txt")] * 2


@pytest.mark.parametrize("script", [None, "exit 0", "echo >&2 No module named pip; exit 1"])
def test_a_venv_whose_python_was_replaced_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None
) -> None:
    commands: list[list[str | Path]] = []
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(setup, "VENV_PYTHON", tmp_path / "python")
    monkeypatch.setattr(setup, "run", lambda command, *_: commands.append(command))
    if script is not None:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "python").chmod(0o755)
    (tmp_path / ".convergence-runtime").write_text(setup.digest_of(["requirements.txt"]))
    (tmp_path / ".convergence-bundled").write_text(setup.installed_python())
    setup.ensure_python(dev=False)
    anew = [[sys.executable, "-m", "venv", "--clear", tmp_path]]
    assert commands[:1] == ([] if script == "exit 0" else anew)


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Nothing is, and apt-get cannot be had here: the commands that it would have been given."""
    commands: list[list[str]] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(setup, "SYSTEM_PROGRAMS", (str(tmp_path / "system"),))
    monkeypatch.setattr(setup, "SERVICE_POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(setup, "run", lambda command, *_, **__: commands.append(command))
    (tmp_path / "system").mkdir()
    return commands


def install(folder: Path, *programs: str) -> None:
    for program in programs:
        (folder / program).write_text("")
        (folder / program).chmod(0o755)


def test_what_cannot_be_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apt: list[list[str]]
) -> None:
    install(tmp_path, "apt-get")
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    wanted = "chromium chromium-headless-shell firefox-esr iproute2 iptables coturn minisign faketime "
    wanted += "openssh-server postgresql redis-server curl git nginx-light caddy openssl tor torsocks zsh fish mandoc "
    wanted += "groff man-db"
    with pytest.raises(build.BuildError, match=f"apt-get install {wanted}"):
        setup.ensure_test_programs()
    assert apt == []


def test_only_what_the_tests_lack_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apt: list[list[str]]
) -> None:
    install(tmp_path, "apt-get", "chromium", "chromium-headless-shell", "firefox-esr", "turnserver", "minisign")
    install(tmp_path, "redis-server", "faketime", "curl", "git", "nginx", "caddy", "openssl", "tor", "torsocks")
    install(tmp_path, "zsh", "fish", "mandoc", "groff", "man")
    install(tmp_path / "system", "ip", "sshd", "initdb")  # which are not in PATH
    monkeypatch.setattr(setup.os, "geteuid", lambda: 0)
    setup.ensure_test_programs()
    assert [command[-1] for command in apt] == ["-q", "iptables"]
    install(tmp_path / "system", "iptables")
    setup.ensure_test_programs()
    assert len(apt) == 2


@pytest.mark.parametrize("own", [None, "#!/bin/sh\nexit 0\n"])
def test_what_is_installed_starts_no_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apt: list[list[str]], own: str | None
) -> None:
    """Unless the machine's own policy, which stays as it is, says so."""
    policy = tmp_path / "policy-rc.d"
    if own is not None:
        policy.write_text(own)
        policy.chmod(0o755)
    answers: list[int] = []

    def run(command: list[str], *_: object, **__: object) -> None:
        if "install" in command:
            answers.append(subprocess.run([policy, "tor", "start"], check=False).returncode)
            raise build.BuildError("the network is down")

    install(tmp_path, "apt-get")
    monkeypatch.setattr(setup.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup, "run", run)
    with pytest.raises(build.BuildError, match="the network is down"):
        setup.ensure_test_programs()
    assert answers == [101 if own is None else 0]
    assert (policy.read_text() if policy.exists() else None) == own


def test_an_unknown_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["fly"]) == 2
    assert "usage: python3 build.py COMMAND" in capsys.readouterr().err
    assert build.main(["--help"]) == 0
    assert "usage: python3 build.py COMMAND" in capsys.readouterr().out


@pytest.fixture(scope="module")
def fresh_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it is cloned, in which nothing is set up."""
    folder = tmp_path_factory.mktemp("fresh")
    for name in tree_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("asked", "code", "answer"),
    [
        ("--help", 0, "usage: python3 build.py COMMAND"),
        ("bench --help", 0, "--tiny"),
        ("bench --list", 0, "rtc       WebRTC: browsers that relay"),
        ("bench relay sundial", 2, "no bench sundial: there are relay, client"),
        ("test --help", 0, "python -m pytest --help, once .venv is there."),
        ("up --port 0 --help", 0, "python -m pynode up --help, once .venv is there."),
        ("build -h", 0, "usage: python3 build.py COMMAND"),
    ],
)
def test_who_asks_for_help_gets_it_and_nothing_is_set_up(fresh_tree: Path, asked: str, code: int, answer: str) -> None:
    before = set(contents(fresh_tree))
    command = [sys.executable, "-B", "-S", "build.py", *asked.split()]
    done = subprocess.run(
        command, cwd=fresh_tree, env={"PATH": ""}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode, answer in done.stdout) == (code, True), done.stdout
    assert set(contents(fresh_tree)) == before


def test_a_step_is_one_line_and_its_command_is_heard_in_a_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    talking = ["sh", "-c", "seq 100; echo an error >&2; exit $0"]
    assert steps.run([*talking, "0"], "", "talk", "Talking").splitlines()[-2:] == ["100", "an error"]
    printed = capfd.readouterr()
    assert re.fullmatch(r"==> Talking: \d+ s\n", printed.out) and printed.err == ""
    with pytest.raises(steps.BuildError, match=f"sh ended with exit code 3. Mend it. All .* {tmp_path}/logs/talk.log"):
        steps.run([*talking, "3"], "Mend it.", "talk", "Talking")
    printed = capfd.readouterr()
    assert re.fullmatch(r"==> Talking: \d+ s\n", printed.out)
    assert printed.err.split() == [*map(str, range(72, 101)), "an", "error"]
    assert len((tmp_path / "logs" / "talk.log").read_text().splitlines()) == 101
    with pytest.raises(steps.BuildError, match="no-such-program cannot be started: .* Install it."):
        steps.run(["no-such-program"], "Install it.", "talk", "Talking")


def test_checks_are_quiet_when_clean_and_say_all_when_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(build, "NODE_MODULES", tmp_path)
    monkeypatch.setattr(build, "VENV_PYTHON", tmp_path / "python")
    (tmp_path / ".bin").mkdir()
    (tmp_path / ".bin" / "biome").write_text("#!/bin/sh\nseq 50\nexit 1\n")
    (tmp_path / "python").write_text("#!/bin/sh\necho all is well\n")
    for program in (tmp_path / ".bin" / "biome", tmp_path / "python"):
        program.chmod(0o755)
    assert build.lint() == ["biome"]
    printed = capfd.readouterr().out
    assert re.sub(r"\d+ s", "0 s", printed).splitlines() == [
        "==> Checking: ruff check: 0 s",
        "==> Checking: ruff format: 0 s",
        "==> Checking: mypy: 0 s",
        "==> Checking: biome: 0 s",
        *map(str, range(1, 51)),
        "",
    ]
