"""Published code as people handle it: sign, check, verify, mirror, by the commands.

What serves, and what runs a node, is a process of its own; all on loopback.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pynode.cli import main
from pynode.published import minisign
from pynode.published.archive import MAX_ARCHIVE
from pynode.published.folder import write_folder
from pynode.published.log import Log
from pynode.published.manifest import LOG, MANIFEST, RELEASE, Manifest
from tests.e2e.processes import ENVIRONMENT, PROGRAM, Network, running

FILES = {
    "index.html": b"<title>Convergence</title>",
    "main.js": b"console.log(1)\n" * 1000,
    "worker/worker.js": b"onmessage = null\n",
    "core.wasm": bytes(200_000),
}


def build(folder: Path, version: str = "0.1.0", keys: tuple[str, ...] = (), threshold: int = 0) -> Manifest:
    manifest = Manifest.of({**FILES, "version.js": version.encode()}, version, keys, threshold)
    write_folder(folder, {**FILES, "version.js": version.encode(), MANIFEST: manifest.encode()})
    return manifest


def run(*arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
    """A command that ends by itself and runs no node, in this process: its exit code and records."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*map(str, arguments), "--json"])
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


def record(records: list[dict[str, Any]], event: str) -> dict[str, Any]:
    return next(one for one in records if one["event"] == event)


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def listening(dist: Path, *more: str | Path) -> Any:
    return running("mirror", "--dist", dist, "--listen", "127.0.0.1:0", *more)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    build(tmp_path / "dist")
    return tmp_path / "dist"


# -- verify and mirror


def test_of_two_mirrors_the_one_with_a_flipped_byte_is_named_with_its_file(dist: Path, tmp_path: Path) -> None:
    root = Manifest.parse((dist / MANIFEST).read_bytes()).root
    copy = tmp_path / "copy"
    shutil.copytree(dist, copy)
    with listening(dist) as honest, listening(copy, "--path", "/sub/") as hostile:
        good, bad = honest.until("ready")["url"], hostile.until("ready")["url"]
        assert bad.endswith("/sub/")
        code, records = run("verify", good, bad, "--root", root)
        assert code == 0 and record(records, "verified")["agreeing"] == {root: [good, bad]}
        flip(copy / "worker" / "worker.js", 3)
        for expected in (("--root", root), ("--dist", dist), ()):
            code, records = run("verify", good, bad, *expected)
            assert code == 1 and record(records, "verified")["bad"] == [bad]
            sites = {one["url"]: one for one in records if one["event"] == "site"}
            assert sites[good]["ok"] and sites[good]["root"] == root and len(sites[good]["words"].split()) == 24
            assert [problem["file"] for problem in sites[bad]["problems"]] == ["worker/worker.js"]
        for number in (honest, hostile):
            assert number.stop() == 0


def test_sites_with_different_versions_do_not_agree(dist: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other", "0.2.0")
    with listening(dist) as one, listening(tmp_path / "other") as two:
        first, second = one.until("ready"), two.until("ready")
        code, records = run("verify", first["url"], second["url"])
        agreeing = {first["root"]: [first["url"]], other.root: [second["url"]]}
        assert code == 1 and record(records, "verified")["agreeing"] == agreeing
        code, records = run("verify", second["url"], "--dist", dist)
        [site] = [one for one in records if one["event"] == "site"]
        assert code == 1 and {"manifest.json", "version.js"} == {problem["file"] for problem in site["problems"]}
        # Its own keys do not speak for a version that is not the expected one.
        code, records = run("verify", second["url"], "--root", "00" * 32)
        [site] = [one for one in records if one["event"] == "site"]
        assert code == 1 and (site["signed"], site["needed"]) == (False, None)


def test_people_read_which_file_differs(dist: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(dist) as mirror:
        url = mirror.until("ready")["url"]
        assert main(["verify", url]) == 0
        out, err = capsys.readouterr()
        assert f"all {len(FILES) + 1} files are as listed" in out and "Compare the root hash" in err
        flip(dist / "main.js")
        assert main(["verify", url]) == 1
        out, err = capsys.readouterr()
        assert "main.js: differs: its SHA-256 is" in out and "words      " in out and f"Do not use {url}" in err


def test_a_mirror_serves_nothing_that_differs(dist: Path) -> None:
    flip(dist / "core.wasm")
    code, records = run("mirror", "--dist", dist, "--listen", "127.0.0.1:0")
    assert code == 1 and "core.wasm" in records[-1]["message"]
    code, records = run("mirror", "--dist", dist.parent, "--listen", "127.0.0.1:0")
    assert code == 2 and "manifest.json" in records[-1]["message"]


def test_a_mirror_of_a_mirror_is_verified(dist: Path, tmp_path: Path) -> None:
    root = Manifest.parse((dist / MANIFEST).read_bytes()).root
    target = tmp_path / "fetched"
    with listening(dist) as first:
        url = first.until("ready")["url"]
        options = ("--from", "http://127.0.0.1:1/", "--from", url, "--root", root)
        with listening(target, *options) as second:
            again = second.until("ready")["url"]
            assert run("verify", url, again, "--root", root)[0] == 0
        flip(dist / "main.js")
        shutil.rmtree(target)
        code, records = run("mirror", "--from", url, "--root", root, "--dist", target, "--fetch-only")
        assert code == 1 and "main.js" in records[-1]["message"] and not target.exists()
        code, records = run("mirror", "--from", url, "--root", "00" * 32, "--dist", target)
        assert code == 1 and root in records[-1]["message"] and not target.exists()
        assert run("mirror", "--from", url, "--dist", target)[0] == 2


def test_what_a_copy_would_replace_is_looked_at_before_anything_is_fetched(
    dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Manifest.parse((dist / MANIFEST).read_bytes()).root
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    nobody = ("mirror", "--from", "http://127.0.0.1:1/", "--root", root, "--fetch-only", "--dist")
    code, records = run(*nobody, tmp_path / "home")
    assert code == 1 and "something else" in records[-1]["message"]
    (dist / "letter.txt").touch()
    code, records = run(*nobody, dist)
    assert code == 1 and "letter.txt" in records[-1]["message"]
    (dist / "letter.txt").unlink()
    # "." is fine, and what somebody put beside the copy stays
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with listening(dist) as mirror:
        options = ("--from", mirror.until("ready")["url"], "--root", root, "--fetch-only", "--dist", ".")
        assert run("mirror", *options)[0] == 0
        (tmp_path / "here" / "network.json").write_text("{}")
        assert run("mirror", *options[:-1], tmp_path / "here")[0] == 0
    assert (tmp_path / "here" / "network.json").exists() and (tmp_path / "here" / "main.js").exists()


def test_what_shares_does_not_serve(dist: Path) -> None:
    code, records = run("mirror", "--share", "--dist", dist, "--listen", "127.0.0.1:0")
    assert code == 2 and "leave out --listen" in records[-1]["message"]


@pytest.mark.parametrize("option", ["--share", "--get"])
def test_a_data_folder_that_cannot_be_used_is_named(dist: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    link = f"{'A' * 43}.{'A' * 43}"
    source = ("--share", "--dist", dist) if option == "--share" else ("--get", link, "--dist", tmp_path / "new")
    code, records = run(
        "mirror", *source, "--root", Manifest.parse((dist / MANIFEST).read_bytes()).root, "--data", tmp_path / "file"
    )
    assert code == 1 and f"{tmp_path}/file" in records[-1]["message"]


# -- releases


class Signers:
    """People with a key each, a log, and builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "releases" / "log.txt"
        self.log.parent.mkdir()
        self.log.touch()
        self.keys: dict[str, str] = {}

    def key(self, name: str) -> str:
        code, records = run("release", "keygen", self.folder / name, "--no-password")
        assert code == 0
        self.keys[name] = record(records, "key")["public"]
        return self.keys[name]

    def build(self, version: str, names: str, threshold: int = 2) -> Path:
        folder = self.folder / version
        build(folder, version, tuple(self.keys[name] for name in names), threshold)
        return folder

    def sign(self, dist: Path, names: str) -> None:
        for name in names:
            assert run("release", "sign", "--key", self.folder / name, "--dist", dist, "--log", self.log)[0] == 0

    def check(self, dist: Path, *more: str | Path) -> tuple[int, dict[str, Any]]:
        code, records = run("release", "check", "--dist", dist, *more)
        return code, record(records, "checked")


@pytest.fixture
def signers(tmp_path: Path) -> Iterator[Signers]:
    people = Signers(tmp_path)
    for name in "abcdef":
        people.key(name)
    yield people


def test_releases_from_the_first_signature_to_new_keys(signers: Signers) -> None:
    one = signers.build("0.1.0", "abc")
    assert signers.check(one)[0] == 1
    signers.sign(one, "a")
    code, said = signers.check(one)
    assert code == 1 and said["why"] == ["1 of the trusted keys signed, 2 have to"]
    signers.sign(one, "ac")  # a signs twice, which is no second signature
    code, said = signers.check(one)
    assert code == 0 and set(said["signers"]) == {signers.keys["a"], signers.keys["c"]}
    assert json.loads((signers.log.parent / "0.1.0.json").read_bytes())["size"] == 1

    # minisign agrees
    [first, _] = json.loads((one / RELEASE).read_bytes())["signatures"]
    (one / "minisig").write_text(first)
    verify = ["minisign", "-V", "-P", signers.keys["a"], "-m", str(one / MANIFEST), "-x", str(one / "minisig")]
    assert "convergence log 1 " in subprocess.run(verify, capture_output=True, text=True, check=True).stdout

    # the keys change: the old ones sign the version that names the new ones, which sign what follows
    two = signers.build("0.2.0", "def", 3)
    signers.sign(two, "bcd")
    assert signers.check(two, "--after", one)[0] == 0
    three = signers.build("0.3.0", "def", 3)
    signers.sign(three, "abc")
    code, said = signers.check(three, "--after", two)
    assert code == 1 and said["why"] == ["0 of the trusted keys signed, 3 have to"]
    signers.sign(three, "def")
    assert signers.check(three, "--after", two)[0] == 0

    # no way back
    code, said = signers.check(one, "--after", three)
    assert code == 1 and any("older than 0.3.0" in why for why in said["why"])

    # verify says so too
    with listening(three) as mirror:
        code, records = run("verify", mirror.until("ready")["url"], "--dist", three)
        site = record(records, "site")
        assert code == 0 and site["signed"] and (site["signers"], site["needed"]) == (3, 3)


def test_stripped_and_forged(signers: Signers) -> None:
    one, two = signers.build("0.1.0", "abc"), signers.build("0.2.0", "abc")
    signers.sign(one, "ab")
    signers.sign(two, "ab")
    assert signers.check(two, "--after", one)[0] == 0
    honest = (two / LOG).read_bytes()
    forged = Log.parse(honest)
    (two / LOG).write_bytes(Log((f"0.1.0 {'ab' * 32}".encode(), *forged.lines[1:])).encode())
    code, said = signers.check(two, "--after", one)
    assert code == 1 and said["why"] == ["the log of releases is not the one that was signed"]
    # Signers that sign another past are noticed by whoever remembers the true one.
    signers.log.write_bytes(f"0.0.9 {'ab' * 32}\n".encode())
    (signers.log.parent / "0.2.0.json").unlink()
    signers.sign(two, "ab")
    assert signers.check(two)[0] == 0
    code, said = signers.check(two, "--after", one)
    assert code == 1 and any("may only grow" in why for why in said["why"])
    (two / RELEASE).unlink()
    code, said = signers.check(two, "--after", one)
    assert code == 1 and "nobody signed it: there is no release.json" in said["why"]


def test_one_version_is_signed_for_one_root_hash(signers: Signers) -> None:
    one = signers.build("0.1.0", "abc")
    signers.sign(one, "a")
    other = signers.build("0.1.0", "abd")
    code, records = run("release", "sign", "--key", signers.folder / "b", "--dist", other, "--log", signers.log)
    assert code == 1 and "version 0.1.0 with root hash" in records[-1]["message"]


def test_no_other_log_is_begun_by_mistake_and_no_version_follows_a_later_one(signers: Signers) -> None:
    one, earlier = signers.build("0.2.0", "abc"), signers.build("0.1.9", "abc")
    signers.sign(one, "a")
    kept = (one / RELEASE).read_bytes()
    elsewhere = signers.folder / "docs" / "log.txt"
    code, records = run("release", "sign", "--key", signers.folder / "b", "--dist", one, "--log", elsewhere)
    assert code == 1 and "There is no" in records[-1]["message"] and not elsewhere.exists()
    code, records = run("release", "sign", "--key", signers.folder / "b", "--dist", earlier, "--log", signers.log)
    assert code == 1 and "0.1.9 is no later one" in records[-1]["message"]
    assert (one / RELEASE).read_bytes() == kept and signers.log.read_text().count("\n") == 1


def test_a_build_that_names_no_keys_does_not_make_what_was_signed_unsigned(signers: Signers, dist: Path) -> None:
    later = signers.build("0.2.0", "abc")
    signers.sign(later, "ab")
    code, said = signers.check(later, "--after", dist)
    assert code == 1 and said["why"] == ["the version that judges it names no keys that could sign"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["release", "check", "--dist", str(later), "--after", str(dist)])
    assert "by nobody who counts" in out.getvalue() and "unsigned" not in out.getvalue()


def test_a_folder_that_is_none_is_asked_for_wrongly(dist: Path, tmp_path: Path) -> None:
    assert run("release", "check", "--dist", tmp_path / "none")[0] == 2
    assert run("release", "check", "--dist", dist, "--after", tmp_path / "none")[0] == 2


@pytest.mark.parametrize("name", ["", ".", "/", "folder/none/key"])
def test_names_that_are_no_files_are_said(
    signers: Signers, dist: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(signers.folder)
    assert run("release", "keygen", name, "--no-password")[0] == 1
    if "key" not in name:
        code, records = run("release", "sign", "--key", "a", "--dist", dist, "--log", name)
        assert code == 1 and "Is a directory" in records[-1]["message"]


def test_no_half_of_a_key_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text("somebody's")
    code, records = run("release", "keygen", tmp_path / "key", "--no-password")
    assert code == 1 and "key.pub is there already" in records[-1]["message"]
    name = tmp_path / ("k" * 252)  # with .pub it is too long
    code, records = run("release", "keygen", name, "--no-password")
    assert code == 1 and "too long" in records[-1]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["key.pub"]


def test_a_password_that_is_no_text_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, *PROGRAM, "release", "keygen", str(tmp_path / "key")]
    for locale in ("C.UTF-8", "C"):
        environment = {**ENVIRONMENT, "LC_ALL": locale}
        done = subprocess.run(command, input=b"\xff\xfe\n", capture_output=True, env=environment, check=False)
        assert done.returncode == 2 and b"not UTF-8" in done.stderr and not list(tmp_path.iterdir())


def test_a_key_with_a_password(tmp_path: Path, dist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{text}\n"))

    monkeypatch.setattr(minisign, "OPSLIMIT", 1 << 15)  # its full price is paid in minisign's own tests
    monkeypatch.setattr(minisign, "MEMLIMIT", 1 << 24)
    typed("correct horse")
    assert run("release", "keygen", tmp_path / "key")[0] == 0
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert run("release", "keygen", tmp_path / "key", "--no-password")[0] == 1  # never overwritten
    options = ("release", "sign", "--key", tmp_path / "key", "--dist", dist, "--log", tmp_path / "log.txt")
    (tmp_path / "log.txt").touch()
    typed("wrong")
    code, records = run(*options)
    assert code == 1 and "password is wrong" in records[-1]["message"] and (tmp_path / "log.txt").read_bytes() == b""
    typed("correct horse")
    assert run(*options)[0] == 0
    assert (tmp_path / "log.txt").read_text().startswith("0.1.0 ")


def test_a_password_typed_at_a_terminal(tmp_path: Path) -> None:
    """It is not shown, has to be typed twice, and Ctrl-C ends the question."""
    for typed, code, words in (
        ([b"first\n", b"other\n"], 1, b"The two passwords differ"),
        ([b"\x03"], 130, b"Password for the new key: "),
    ):
        process, terminal = pty.fork()
        if not process:
            arguments = [sys.executable, *PROGRAM, "release", "keygen", str(tmp_path / "key")]
            os.execve(sys.executable, arguments, ENVIRONMENT)
        shown = b""
        for line in typed:
            asked = len(shown)
            while not shown[asked:].endswith(b": "):
                shown += os.read(terminal, 1000)
            os.write(terminal, line)
        with contextlib.suppress(OSError):  # the terminal's end
            while data := os.read(terminal, 1000):
                shown += data
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
        os.close(terminal)
        assert words in shown and b"first" not in shown and not (tmp_path / "key").exists()


# -- through circuits


def test_code_goes_from_node_to_node_where_the_site_is_blocked(dist: Path, tmp_path: Path) -> None:
    network = Network(tmp_path / "network", dist)
    try:
        target = tmp_path / "fetched"
        options = ("--site", network.site, "--no-rtc", "--data")
        with running("mirror", "--share", "--dist", dist, *options, tmp_path / "sender") as sender:
            root = sender.until("packed")["root"]
            link = sender.until("shared")["link"]
            wanted = ("mirror", "--get", link, "--dist", target, "--fetch-only", *options, tmp_path / "getter")
            with running(*wanted, "--root", "00" * 32) as getter:
                code, said = getter.end()
                assert code == 1 and "another version" in said["message"] and not target.exists()
            with running(*wanted, "--root", root) as getter:
                assert getter.end()[0] == 0, getter.records
            assert sender.stop() == 0
        # No link fills the disk with what no archive can be.
        with open(tmp_path / "large", "wb") as file:
            file.truncate(MAX_ARCHIVE + 1)
        with running("share", tmp_path / "large", *options, tmp_path / "sender") as sender:
            wanted = ("mirror", "--get", sender.until("shared")["link"], "--dist", tmp_path / "new", *wanted[5:])
            with running(*wanted, "--root", root) as getter:
                code, said = getter.end()
                assert code == 1 and "not what the link should lead to" in said["message"]
        assert {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()} == {
            path.name: path.read_bytes() for path in dist.rglob("*") if path.is_file()
        }
        # A mirror names the network of another site, so that its visitors can join.
        with listening(target, "--network", network.site) as mirror:
            mirrored = mirror.until("ready")["url"]
            file = tmp_path / "letter.txt"
            file.write_text("hello")
            with running("share", file, "--site", mirrored, "--no-rtc", "--data", tmp_path / "letters") as sharing:
                assert sharing.until("shared")["link"].startswith(mirrored)
    finally:
        network.close()
