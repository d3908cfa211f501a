"""The bundle, the wheel and the lock files: reproducible, complete, and free of what belongs to one machine."""

from __future__ import annotations

import _imp
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCK_FILES = ("package-lock.json", "requirements.txt", "requirements-dev.txt")

# In pieces, so that this file does not hold what it forbids.
REGISTRY_HOSTS = (
    "registry.npm" + "js",
    "registry.yarn" + "pkg",
    "pypi" + ".org",
    "python" + "hosted",
    "deb." + "debian",
)
MACHINE_PATHS = ("/work" + "/main", "/work" + "/shared", "/ro" + "ot/", "/opt/" + "wheels")


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


def build_copy(folder: Path, *, mtime: int, umask: int, **environment: str) -> dict[str, bytes]:
    """Copy the tree to a folder, build it there as another machine would, and return dist/."""
    for name in tree_files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        os.utime(target, (mtime, mtime))
    for installed in (".venv", "node_modules"):
        (folder / installed).symlink_to(ROOT / installed)
    done = subprocess.run(
        [sys.executable, "build.py", "build"],
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
        build.check_node()
    else:
        with pytest.raises(build.BuildError, match=f"20 or later .* says {version or 'nothing'}. .* older, install"):
            build.check_node()


def test_two_builds_of_one_tree_are_byte_identical(dist: dict[str, bytes], tmp_path: Path) -> None:
    elsewhere = tmp_path / "a much longer path, with spaces and an é"
    other = build_copy(
        elsewhere, mtime=1_700_000_001, umask=0o077, TZ="Asia/Kolkata", LC_ALL="C.UTF-8", PYTHONHASHSEED="2"
    )
    assert sorted(dist) == sorted(other)
    assert [name for name in dist if dist[name] != other[name]] == []


def test_manifest_names_every_byte_and_its_hash_is_the_root_hash(dist: dict[str, bytes]) -> None:
    manifest = json.loads(dist["manifest.json"])
    listed = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    outside = {"manifest.json", "ROOT_HASH"}
    assert listed == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in dist.items() if name not in outside
    }
    assert dist["manifest.json"] == build.canonical_json(manifest)
    assert dist["ROOT_HASH"].decode().strip() == hashlib.sha256(dist["manifest.json"]).hexdigest()


def test_dist_holds_what_the_browser_needs_and_no_path_of_the_machine(dist: dict[str, bytes]) -> None:
    assert set(build.ESSENTIAL) <= set(dist) | set(zipfile.ZipFile(io.BytesIO(dist["app.zip"])).namelist())
    assert [name for name, data in dist.items() if str(ROOT).encode() in data] == []
    assert json.loads(dist["pyodide/pyodide-lock.json"])["packages"] == {}


@pytest.mark.parametrize("name, place", [("app.zip", "/app.zip"), ("pyodide/python_stdlib.zip", "/lib/python314.zip")])
def test_bytecode_is_that_of_the_source_beside_it(dist: dict[str, bytes], name: str, place: str) -> None:
    archive = zipfile.ZipFile(io.BytesIO(dist[name]))
    compiled = [entry for entry in archive.namelist() if entry.endswith(".pyc")]
    assert compiled
    for entry in compiled:
        source, data = entry[:-1], archive.read(entry)
        assert data[4:8] == b"\1\0\0\0"  # PEP 552: known by a hash, which an import does not check
        assert data[8:16] == _imp.source_hash(int.from_bytes(data[:4], "little"), archive.read(source))
        assert f"{place}/{source}".encode() in data  # where the page has it, not this machine


def test_every_module_of_the_node_has_bytecode(dist: dict[str, bytes]) -> None:
    names = set(zipfile.ZipFile(io.BytesIO(dist["app.zip"])).namelist())
    modules = {name for name in names if name.endswith(".py")}
    assert {"node_host.py", "convergence/node.py", "h11/__init__.py"} <= modules
    assert names == modules | {f"{name}c" for name in modules}


def test_the_library_is_the_published_one_and_bytecode_of_what_is_loaded(dist: dict[str, bytes]) -> None:
    library = zipfile.ZipFile(io.BytesIO(dist["pyodide/python_stdlib.zip"]))
    published = zipfile.ZipFile(ROOT / "node_modules" / "pyodide" / "python_stdlib.zip")
    added = set(library.namelist()) - set(published.namelist())
    assert {name: library.read(name) for name in published.namelist()} == {
        name: published.read(name) for name in published.namelist()
    }
    assert {"encodings/__init__.pyc", "asyncio/base_events.pyc", "dataclasses.pyc", "ipaddress.pyc"} <= added


def test_a_second_build_compiles_nothing_and_a_missing_node_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BYTECODE", tmp_path)
    sources = build.python_sources()
    first = build.with_bytecode(sources)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert build.with_bytecode(sources) == first
    for _ in range(2):  # what failed leaves nothing that the next run takes for done
        with pytest.raises(build.BuildError, match="Install Node.js"):
            build.with_bytecode({**sources, "new.py": b"pass\n"})


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


def test_a_browser_is_asked_for_the_bundled_packages_only(dist: dict[str, bytes]) -> None:
    wanted = [text for text in build.project()["dependencies"] if "sys_platform != 'emscripten'" not in text]
    assert {re.split(r"[^\w-]", text)[0] for text in wanted} == set(build.BUNDLED_PYTHON)
    bundled = zipfile.ZipFile(io.BytesIO(dist["app.zip"])).namelist()
    assert {f"{name}/__init__.py" for name in build.BUNDLED_PYTHON} <= set(bundled)


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    forbidden = re.compile("|".join(map(re.escape, REGISTRY_HOSTS + MACHINE_PATHS)).encode())
    found = [name for name in tree_files() if forbidden.search((ROOT / name).read_bytes())]
    assert found == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_lock_files_hold_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert '"resolved"' not in text
    assert "--index-url" not in text.replace("--no-emit-index-url", "")


@pytest.mark.parametrize("name", LOCK_FILES[1:])
def test_every_python_package_is_pinned_with_hashes(name: str) -> None:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    requirements = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    assert requirements
    assert [line for line in requirements if "==" not in line or "--hash=sha256:" not in line] == []


def test_every_npm_package_is_pinned_with_a_hash() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert [name for name, entry in packages.items() if name and "integrity" not in entry] == []


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Nothing is, and apt-get cannot be had here: the commands that it would have been given."""
    commands: list[list[str]] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "SYSTEM_PROGRAMS", (str(tmp_path / "system"),))
    monkeypatch.setattr(build, "run", lambda command, hint, **options: commands.append(command))
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
    monkeypatch.setattr(build.os, "geteuid", lambda: 1000)
    with pytest.raises(build.BuildError, match="apt-get install chromium firefox-esr iproute2 iptables coturn"):
        build.ensure_test_programs()
    assert apt == []


def test_only_what_the_tests_lack_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, apt: list[list[str]]
) -> None:
    install(tmp_path, "apt-get", "chromium", "firefox-esr", "turnserver")
    install(tmp_path / "system", "ip")  # which is not in PATH
    monkeypatch.setattr(build.os, "geteuid", lambda: 0)
    build.ensure_test_programs()
    assert [command[-1] for command in apt] == ["-q", "iptables"]
    install(tmp_path / "system", "iptables")
    build.ensure_test_programs()
    assert len(apt) == 2


def test_an_unknown_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["fly"]) == 2
    assert "usage: python3 build.py COMMAND" in capsys.readouterr().err
    assert build.main(["--help"]) == 0
    assert "usage: python3 build.py COMMAND" in capsys.readouterr().out
