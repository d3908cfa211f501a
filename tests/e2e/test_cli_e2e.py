"""The command line as its users run it: real processes on loopback, ports chosen by the system.

Every wait is for a line that a process prints, with a deadline that is there only to end a hung test.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.request import urlopen

import pytest

from convergence.wire.ordb import MAX_SIZE, PIECE_SIZE, fit_name
from tests.e2e.processes import ENVIRONMENT, MIB, PATIENCE, Command, running, sha256, write_file

PAGE = b"<title>a page</title>" + b"x" * 100_000


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """A web server on loopback; its port."""

    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/pagex" else 200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE if self.path.startswith("/page") else PAGE[:50_000])
            if self.path == "/slow":
                ended.wait()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def patient() -> Iterator[int]:
    """A host that answers what it hears in two parts, and never ends a connection by itself; its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                self.wfile.write(b"I heard ")
                self.wfile.flush()
                self.wfile.write(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, web: int, patient: int) -> Iterator[dict[str, Any]]:
    """A network started by `convergence up`; its ready record."""
    folder = tmp_path_factory.mktemp("network")
    page = folder / "dist"
    page.mkdir()
    (page / "index.html").write_text("<title>Convergence</title>")
    options: list[str | Path] = ["--port", "0", "--data", folder / "data", "--dist", page, "--no-rtc"]
    options += ["--exit-allow", f"127.0.0.1:{web}", "--exit-allow", f"127.0.0.1:{patient}"]
    with running("up", *options, "--ready-file", folder / "ready.json") as up:
        ready = up.until("ready")
        ready["up"], ready["file"] = up, folder / "ready.json"
        yield ready
        assert up.stop(signal.SIGTERM) == 0
        for node in ready["nodes"]:
            assert not alive(node["pid"])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def shared(network: dict[str, Any], data: Path, *files: Path) -> Iterator[list[str]]:
    """The links of files that are being shared, in the order of `files`."""
    with running("share", "--each", *files, "--site", network["site"], "--data", data) as command:
        told = [command.until("shared") for _ in files]
        order = {fit_name(file.name): place for place, file in enumerate(files)}
        yield [record["link"] for record in sorted(told, key=lambda record: order[record["name"]])]
        assert command.stop() == 0


def get(link: str, tmp_path: Path, *more: str) -> Command:
    return Command("get", link, "-o", tmp_path, "--data", tmp_path / "data", *more)


def test_a_file_arrives_and_its_link_stays_the_same(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "report.bin"
    digest = write_file(file, 32 * MIB)
    out = tmp_path / "out"
    out.mkdir()
    with shared(network, tmp_path / "sender", file) as [link]:
        assert link.startswith(network["site"] + "#")
        for name in ("report.bin", "report (1).bin"):  # the second run overwrites nothing
            code, done = get(link, out).end()
            assert (code, done["event"]) == (0, "done")
            assert Path(done["path"]) == out / name
            assert done["fetched"] == 32 * MIB
            assert sha256(done["path"]) == digest
    assert list((out / "data" / "downloads" / "pieces").iterdir()) == []
    with shared(network, tmp_path / "sender", file) as [again]:
        assert again == link


MAIL = """Here is the report:

> {}=
> {}>

It is long."""


def test_a_link_comes_from_a_mail_on_standard_input_or_from_a_terminal(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "report.bin"
    digest = write_file(file, 1000)
    with shared(network, tmp_path / "sender", file) as [link]:
        mail = MAIL.format(link[:70], link[70:])
        code, done = fetched(mail.encode(), subprocess.PIPE, tmp_path / "by pipe", "-")
        assert code == 0 and sha256(done["path"]) == digest
        (tmp_path / "mail").write_text(mail)
        with open(tmp_path / "mail") as opened:
            code, done = fetched(None, opened, tmp_path / "from file")
        assert code == 0 and sha256(done["path"]) == digest
        ours, theirs = pty.openpty()
        try:
            os.write(ours, f"{link[:70]}\n{link[70:]}\n".encode())
            code, done = fetched(None, theirs, tmp_path / "typed")
        finally:
            os.close(ours)
            os.close(theirs)
        assert code == 0 and sha256(done["path"]) == digest


def fetched(given: bytes | None, source: int | IO[str], folder: Path, *link: str) -> tuple[int, dict[str, Any]]:
    """Exit code and last record of a `get` that reads its link."""
    command = [sys.executable, "-m", "pynode", "get", *link, "-o", f"{folder}/", "--data", folder / "data", "--json"]
    ended = subprocess.run(
        command, input=given, stdin=None if given is not None else source, capture_output=True, env=ENVIRONMENT,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1])


def test_without_a_link_there_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pynode", "get", "-o", tmp_path]
    ended = subprocess.run(
        command, input=b"no link", capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.decode().count("\n") == 1 and "link is incomplete" in ended.stderr.decode()


def test_a_killed_run_is_gone_on_with(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    size = 48 * MIB
    digest = write_file(file, size)
    out = tmp_path / "out"
    out.mkdir()
    with shared(network, tmp_path / "sender", file) as [link]:
        first = get(link, out)
        had = first.until("progress", lambda record: record["have"] > 0)["have"]
        first.process.kill()
        first.stop()
        assert not (out / "large.bin").exists()
        code, done = (second := get(link, out)).end()
        assert code == 0
        kept = next(record["kept"] for record in second.records if record["event"] == "file")
        assert had <= kept < size
        assert done["fetched"] == size - kept  # no stored piece is fetched twice
        assert sha256(done["path"]) == digest


def test_interrupted_runs_say_so_and_keep_what_came(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    write_file(file, 48 * MIB)
    with shared(network, tmp_path / "sender", file) as [link]:
        command = get(link, tmp_path)
        command.until("progress", lambda record: record["have"] > 0)
        command.process.send_signal(signal.SIGINT)
        code, last = command.end()
        assert (code, last["event"]) == (130, "stopped")
        assert list((tmp_path / "data" / "downloads" / "pieces").iterdir())


def test_a_transfer_survives_its_relays(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    digest = write_file(file, 64 * MIB)
    out = tmp_path / "out"
    out.mkdir()
    up: Command = network["up"]
    with shared(network, tmp_path / "sender", file) as [link]:
        command = get(link, out)
        command.until("progress", lambda record: record["have"] > 0)
        victim = next(node for node in network["nodes"] if node["name"] == "relay-1")
        os.kill(victim["pid"], signal.SIGKILL)
        code, done = command.end()
        assert code == 0
        assert done["fetched"] == 64 * MIB
        assert sha256(done["path"]) == digest
    back = up.until("registered")
    node = next(node for node in back["nodes"] if node["name"] == "relay-1")
    assert (node["port"], node["identity"]) == (victim["port"], victim["identity"])
    assert node["pid"] not in (None, victim["pid"])
    assert json.loads(network["file"].read_text())["nodes"] == back["nodes"]
    network["nodes"] = back["nodes"]


def test_files_of_odd_sizes_and_names(network: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    names = {"empty": 0, "\x1b[31mred\r\n.txt": 10, "-rf <b>‮gpj.exe": MIB + 1, "x" * 200 + ".tar": 3}
    digests = []
    for name, size in names.items():
        digests.append(write_file(folder / name, size))
    out = tmp_path / "out"
    out.mkdir()
    saved = ["empty", "_[31mred__.txt", "_rf _b__gpj.exe", "x" * 200 + ".tar"]
    with shared(network, tmp_path / "sender", *(folder / name for name in names)) as links:
        commands = [get(link, out) for link in links]  # all at once, in one data folder
        for command, name, digest in zip(commands, saved, digests, strict=True):
            code, done = command.end()
            assert code == 0
            assert Path(done["path"]) == out / name
            assert sha256(out / name) == digest


def test_words_on_the_terminal_hold_no_control_characters(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "\x1b]0;owned\x07\x9b31m.txt"
    write_file(file, 10)
    with shared(network, tmp_path / "sender", file) as [link]:
        command: list[str | Path] = [sys.executable, "-m", "pynode", "get", link, "-o", tmp_path]
        command += ["--data", tmp_path / "data"]
        done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE)
    assert done.returncode == 0
    assert all(character.isprintable() or character == "\n" for character in (done.stdout + done.stderr).decode())


def test_one_file_that_cannot_be_shared_does_not_end_the_others(network: dict[str, Any], tmp_path: Path) -> None:
    strange, large = tmp_path / os.fsdecode(b"caf\xe9.txt"), tmp_path / "large"
    strange.write_bytes(b"strange")
    with open(large, "wb") as file:
        file.truncate(MAX_SIZE + 1)  # without a byte on the disk
    with running(
        "share", "--each", large, strange, "--site", network["site"], "--data", tmp_path / "sender"
    ) as command:
        assert "large" in command.until("failed")["message"]
        shared = command.until("shared")
        assert shared["name"] == "caf\ufffd.txt"
        code, done = get(shared["link"], tmp_path).end()
    assert code == 0 and Path(done["path"]).read_bytes() == b"strange"


def test_a_folder_arrives_as_it_is(network: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    digests = {}
    for path, size in {"2024/a.jpg": MIB, "2024/may/b.jpg": 3 * MIB + 1, "2024/none": 0, "c:d.txt": 5}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        digests[path] = write_file(folder / path, size, seed=len(digests))
    (folder / "empty" / "inner").mkdir(parents=True)
    for number in range(500):
        (folder / "small").mkdir(exist_ok=True)
        (folder / "small" / str(number)).write_bytes(b"%d" % number)
    out = tmp_path / "out"
    out.mkdir()
    options = ("--site", network["site"], "--data", tmp_path / "sender")
    with running("share", folder, *options) as sender:
        shared = sender.until("shared")
        assert (shared["name"], shared["files"]) == ("photos", 504)
        code, listed = get(shared["link"], out, "--list").end()
        assert (code, listed["event"], listed["files"]) == (0, "listed", 504)
        assert list((out / "data" / "downloads" / "pieces").iterdir()) == []

        code, done = get(shared["link"], out, "--only", "2024/may", "--only", "*.txt").end()
        assert code == 0 and Path(done["path"]) == out / "photos"
        assert done["size"] == 3 * MIB + 6 and done["fetched"] < 5 * MIB
        assert sha256(out / "photos/2024/may/b.jpg") == digests["2024/may/b.jpg"]
        assert sorted(path.name for path in (out / "photos").iterdir()) == ["2024", "c_d.txt"]
        code, failed = get(shared["link"], out, "--only", "nothing").end()
        assert code == 2 and "--list" in failed["message"]

        with running("get", shared["link"], "-o", out, "--data", out / "data", "--share") as middle:
            done = middle.until("done")
            middle.until("points", lambda record: record["standing"] > 0)
            saved = out / "photos (1)"
            assert Path(done["path"]) == saved and list((out / "data" / "downloads" / "pieces").iterdir()) == []
            assert sha256(saved / "2024/a.jpg") == digests["2024/a.jpg"]
            assert (saved / "2024/none").read_bytes() == b"" and (saved / "empty/inner").is_dir()
            assert len(list((saved / "small").iterdir())) == 500
            assert sender.stop() == 0
            code, done = get(shared["link"], tmp_path).end()  # from the second holder
            assert code == 0 and Path(done["path"]) == tmp_path / "photos (1)"
            assert sha256(tmp_path / "photos (1)/c_d.txt") == digests["c:d.txt"]
            assert middle.stop() == 0
    with running("share", folder, *options) as sender:
        assert sender.until("shared")["link"] == shared["link"]


def test_ten_thousand_files_are_listed_and_one_is_taken(network: dict[str, Any], tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for number in range(10_000):
        (folder / f"{number:04}").write_bytes(b"%04d" % number * 250)
    with running("share", folder, "--site", network["site"], "--data", tmp_path / "sender") as sender:
        link = sender.until("shared")["link"]  # its points stand before the storage has noted all files
        code, done = get(link, out, "--only", "8765").end()
    assert code == 0 and done["fetched"] <= 3 * PIECE_SIZE
    assert [path.read_bytes() for path in Path(done["path"]).iterdir()] == [b"8765" * 250]


def test_several_files_have_one_link(network: dict[str, Any], tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    digests = [write_file(one, 1000), write_file(two, MIB)]
    out = tmp_path / "out"
    out.mkdir()
    options = ("--site", network["site"], "--data", tmp_path / "sender")
    with running("share", one, two, "--name", "both", *options) as sender:
        code, done = get(sender.until("shared")["link"], out).end()
    assert code == 0 and Path(done["path"]) == out / "both"
    assert [sha256(out / "both" / name) for name in ("one.txt", "two.txt")] == digests


def test_the_link_of_a_file_outlives_a_copy_of_it(network: dict[str, Any], tmp_path: Path) -> None:
    one, copy = tmp_path / "one.txt", tmp_path / "copy.txt"
    digest = write_file(one, 1000)
    write_file(copy, 1000)
    with shared(network, tmp_path / "sender", one, copy) as links:
        copy.unlink()
        for link, name in zip(links, ("one", "copy"), strict=True):
            code, done = get(link, tmp_path, "-o", str(tmp_path / name)).end()
            assert code == 0 and sha256(done["path"]) == digest


def test_a_part_of_a_folder_leaves_what_an_interrupted_run_has(network: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    digest = write_file(folder / "large", 64 * MIB)
    write_file(folder / "small", 10, seed=2)
    options = ("--site", network["site"], "--data", tmp_path / "sender")
    out = tmp_path / "out"
    out.mkdir()
    with running("share", folder, *options) as sender:
        link = sender.until("shared")["link"]
        interrupted = get(link, out)
        interrupted.until("progress", lambda record: record["have"] > 4 * MIB)
        assert interrupted.stop() == 130
        code, done = get(link, out, "--only", "small").end()
        assert code == 0 and [path.name for path in Path(done["path"]).iterdir()] == ["small"]
        again = get(link, out)
        assert again.until("file")["kept"] > 4 * MIB
        code, done = again.end()
        assert code == 0 and sha256(Path(done["path"]) / "large") == digest
    assert list((out / "data" / "downloads" / "pieces").iterdir()) == []


LIE = """
import pynode.offer as offer
from convergence.wire import manifest
entries = [manifest.Entry("../../evil", 1000)]
offer.encode_manifest = lambda _: b"\\0\\0\\0\\1" + manifest._encode_entry(entries[0])
from pynode.cli import main
main()
"""


def test_of_a_folder_that_lies_nothing_is_written(network: dict[str, Any], tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    write_file(folder / "file", 1000)
    options = ("--site", network["site"], "--data", tmp_path / "sender")
    with running("share", folder, *options, program=("-c", LIE)) as sender:
        link = sender.until("shared")["link"]
        for more in ((), ("--list",), ("--only", "*")):
            code, failed = get(link, out, *more).end()
            assert code == 1 and "contradicts itself" in failed["message"]
    assert [path.name for path in out.iterdir()] == ["data"]
    assert list((out / "data" / "downloads" / "pieces").iterdir()) == []


def test_where_a_file_goes(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "-x.txt"
    digest = write_file(file, MIB)
    with shared(network, tmp_path / "sender", file) as [link]:
        for place, path in (("new.bin", "new.bin"), ("folder/", "folder/_x.txt"), ("folder", "folder/_x (1).txt")):
            command = Command("get", link, "-o", f"{tmp_path}/{place}", "--data", tmp_path / "data")
            assert command.end()[0] == 0
            assert sha256(tmp_path / path) == digest
        code, error = failing("get", link, "-o", tmp_path / "new.bin", "--data", tmp_path / "data")
        assert code == 2 and "is there already" in error
        code, error = failing("get", link, "-o", tmp_path / "none/new.bin", "--data", tmp_path / "data")
        assert code == 2 and "is no folder" in error
        line = [sys.executable, "-m", "pynode", "get", link, "-o", "-", "--data", tmp_path / "data"]
        piped = subprocess.run(line, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, check=True)
        assert piped.stdout == file.read_bytes() and b"verified" in piped.stderr
        with open("/dev/full", "wb") as full:
            done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=PATIENCE)
        assert done.returncode == 1 and b"Standard output took not all of it" in done.stderr.splitlines()[-1]


def test_received_files_can_be_shared_on(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    digest = write_file(file, MIB)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with running("share", file, "--site", network["site"], "--data", tmp_path / "sender") as sender:
        link = sender.until("shared")["link"]
        with running("get", link, "-o", first, "--data", first / "data", "--share") as middle:
            middle.until("points", lambda record: record["standing"] > 0)
            assert sender.stop() == 0
            code, done = get(link, second).end()
            assert (code, sha256(done["path"])) == (0, digest)
            assert middle.stop() == 0


def test_fetch(network: dict[str, Any], tmp_path: Path, web: int) -> None:
    address = f"http://127.0.0.1:{web}/page"
    target = tmp_path / "page.html"
    code, done = Command("fetch", address, "-o", target, "--site", network["site"]).end()
    assert (code, done["status"]) == (0, 200)
    assert target.read_bytes() == PAGE
    command = [sys.executable, "-m", "pynode", "fetch", f"{address}x", "--site", network["site"]]
    missing = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE)
    assert (missing.returncode, missing.stdout) == (1, PAGE)
    assert b"404" in missing.stderr


@pytest.mark.parametrize("path", ["page", "slow"])
def test_a_fetch_whose_reader_goes_away_ends_quietly(network: dict[str, Any], web: int, path: str) -> None:
    command = [sys.executable, "-m", "pynode", "fetch", f"http://127.0.0.1:{web}/{path}", "--site", network["site"]]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=PATIENCE)
    assert done.returncode == 141 and b"annot" not in done.stderr and b"rror" not in done.stderr, done


def test_a_fetch_to_a_full_disk_is_told_in_a_sentence(network: dict[str, Any], web: int) -> None:
    command = [sys.executable, "-m", "pynode", "fetch", f"http://127.0.0.1:{web}/page", "--site", network["site"]]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=PATIENCE)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, last) == (1, b"What came cannot be written: No space left on device.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, None])
def test_a_fetch_that_ends_early_leaves_nothing(
    network: dict[str, Any], tmp_path: Path, web: int, number: int | None
) -> None:
    address = f"http://127.0.0.1:{web}/{'cut' if number is None else 'slow'}"
    with running("fetch", address, "-o", tmp_path / "page.html", "--site", network["site"]) as command:
        if number is not None:
            command.until("response")  # and half of the body
            command.process.send_signal(number)
        code, _ = command.end()
        assert code == (1 if number is None else 130)
    assert list(tmp_path.iterdir()) == []


def piped(network: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pynode", "pipe", *arguments, "--site", network["site"]]
    return subprocess.run(command, input=b"hello\n", capture_output=True, env=ENVIRONMENT, timeout=PATIENCE)


def test_a_pipe_to_a_host_that_does_not_end_is_ended_after_a_silence(network: dict[str, Any], patient: int) -> None:
    done = piped(network, "--end-after", "2", f"tcp://127.0.0.1:{patient}")
    assert (done.returncode, done.stdout) == (0, b"I heard hello\n"), done
    assert piped(network, "--end-after", "0", f"tcp://127.0.0.1:{patient}").returncode == 0
    refused = piped(network, "--end-after", "2", "hash:x")
    assert refused.returncode == 2 and b"tcp://" in refused.stderr


def test_an_exit_reaches_nothing_private_unless_told(network: dict[str, Any]) -> None:
    port = network["site"].rstrip("/").rpartition(":")[2]
    code, error = failing("fetch", f"http://127.0.0.1:{port}/", "--site", network["site"])
    assert code == 1
    assert "does not allow" in error


def failing(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and all that was said, of a command run as people do."""
    command = [sys.executable, "-m", "pynode", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_links_that_lead_nowhere(network: dict[str, Any], tmp_path: Path) -> None:
    link = f"{network['site']}#{'A' * 43}.{'A' * 43}"
    code, error = failing("get", link, "-o", tmp_path, "--data", tmp_path / "data", "--wait", "8")
    assert code == 3
    assert "Nobody shares this file right now. Waiting for 8 seconds at most (--wait)." in error
    assert error.endswith("Nobody shares this file right now. Nothing came for 8 seconds.\n")
    code, error = failing("get", link[:-5], "-o", tmp_path, "--data", tmp_path / "data")
    assert code == 2
    assert "link" in error


def test_a_get_that_comes_before_its_share_waits_for_it(network: dict[str, Any], tmp_path: Path) -> None:
    """The link is known from an earlier share, which ended."""
    file = tmp_path / "early.bin"
    file.write_bytes(os.urandom(100_000))
    data = ("--data", tmp_path / "sender")
    with running("share", file, "--site", network["site"], *data) as share:
        link = share.until("shared")["link"]
    with running("get", link, "-o", f"{tmp_path}/got/", "--data", tmp_path / "receiver") as get:
        get.until("status", lambda record: record["code"] == "nobody")
        with running("share", file, "--site", network["site"], *data) as share:
            assert share.until("shared")["link"] == link
            assert sha256(Path(get.until("done")["path"])) == sha256(file)


def test_a_file_arrives_by_a_code_that_somebody_guessed_at_before(network: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "told.bin"
    digest = write_file(file, 100_000)
    site = ("--site", network["site"])
    with running("share", "--code", file, *site, "--data", tmp_path / "sender") as share:
        first = share.until("code")["code"]
        number, three, two = first.split("-")
        wrong = f"{number}-{three}-{'adult' if two != 'adult' else 'absurd'}"
        code, error = failing("get", wrong, *site, "-o", f"{tmp_path}/no/", "--data", tmp_path / "guesser")
        assert code == 1 and "ask for a new one" in error
        assert share.until("code-ended")["why"] == "code-guessed"
        second = share.until("code")["code"]
        assert second.split("-")[1:] != [three, two]
        spoken = second.replace("-", " ").upper()
        with running("get", spoken, *site, "-o", f"{tmp_path}/got/", "--data", tmp_path / "receiver") as get:
            assert sha256(Path(get.until("done")["path"])) == digest
        assert share.until("code-ended")["why"] == "code-handed-over"
        code, error = failing("get", second, *site, "-o", f"{tmp_path}/no/", "--data", tmp_path / "late", "--wait", "5")
        assert code == 3 and "the code was used already" in error
    code, error = failing("get", "7-crossover-clokwork", *site)
    assert code == 2 and 'No code has the word "clokwork"' in error


def test_a_get_waits_for_a_network_whose_facilitator_is_away(
    network: dict[str, Any], tmp_path: Path, unused_port: int
) -> None:
    with urlopen(f"{network['site']}network.json") as answer:
        description = json.load(answer)
    description["facilitator"]["path"] = f"http://127.0.0.1:{unused_port}/facilitator"
    (tmp_path / "network.json").write_text(json.dumps(description))
    serve = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever).start()
        link = f"http://127.0.0.1:{server.server_port}/#{'A' * 43}.{'A' * 43}"
        code, error = failing("get", link, "-o", tmp_path, "--data", tmp_path / "data", "--wait", "3")
        server.shutdown()
    assert code == 3
    assert "facilitator" in error and error.endswith("Nothing came for 3 seconds.\n")


def test_a_site_that_is_down_or_is_none(tmp_path: Path, web: int, unused_port: int) -> None:
    bare = f"{'A' * 43}.{'A' * 43}"
    asked = [["get", bare], ["fetch", "http://x.example/", "-o", str(tmp_path / "x")], ["status"], ["relay"]]
    down = [Command(*command, "--site", f"http://127.0.0.1:{unused_port}") for command in asked]
    none = Command("status", "--site", f"http://127.0.0.1:{web}")
    for command in down:
        code, record = command.end()
        assert (code, record["event"]) == (1, "error")
        assert "does not answer (connection refused)" in record["message"]
    code, record = none.end()
    assert (code, record["event"]) == (1, "error")
    assert "is no Convergence site" in record["message"]


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_status(network: dict[str, Any]) -> None:
    code, record = Command("status", "--site", network["site"]).end()
    assert code == 0
    assert {node["identity"] for node in record["nodes"]} == {node["identity"][:16] for node in network["nodes"]}


def test_up_refuses_a_port_and_a_folder_in_use(network: dict[str, Any], tmp_path: Path) -> None:
    port = network["site"].rstrip("/").rpartition(":")[2]
    code, error = failing("up", "--port", port, "--data", tmp_path)
    assert code == 1
    assert f"127.0.0.1:{port} is in use" in error
    code, error = failing("up", "--port", "0", "--data", network["file"].parent / "data")
    assert code == 1
    assert "Another `convergence up` uses" in error


def test_relays_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    with running("up", "--port", "0", "--relays", "3", "--data", tmp_path, "--no-rtc") as up:
        ready = up.until("ready")
        up.stop(signal.SIGKILL)
        for node in ready["nodes"]:
            wait_until_gone(node["pid"])
    with running("up", "--port", "0", "--relays", "3", "--data", tmp_path, "--no-rtc") as up:
        again = up.until("ready")
        assert [node["identity"] for node in again["nodes"]] == [node["identity"] for node in ready["nodes"]]
        assert up.stop(signal.SIGINT) == 0


def wait_until_gone(pid: int) -> None:
    """A process that is no child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], PATIENCE)[0], f"process {pid} lives on"
    finally:
        os.close(handle)
