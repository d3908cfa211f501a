"""The command line's parts: arguments, words, errors. Whole commands run in tests/e2e."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from convergence.codes import FacilitatorWhy, FetchStage
from convergence.errors import Why
from convergence.events import FetchStatus, Trouble
from convergence.wire.sharelink import ShareLink
from convergence.wire.target import Role
from convergence.wire.wordcode import WordCode
from pynode.app import Network
from pynode.cli import fetch, main, parser
from pynode.cli.children import MAX_RESTARTS, Relay, Relays
from pynode.cli.common import Warner, locked, set_up_logs, unless
from pynode.cli.get import link_in, matches
from pynode.cli.output import CliError, Output, Rate, bar, sentence, shown, size_words, table, time_words
from pynode.cli.proxy import PAC_HEAD, _write_pac
from pynode.cli.serve import _network, _Relay, relay_plan
from pynode.cli.share import check_paths, parted
from pynode.cli.sites import DEFAULT_SITE, chosen_site, find_network, find_status, network_of, site_address
from pynode.cli.status import _show_facilitators, network_words, status
from pynode.config import Address, Config
from pynode.config import parse as parse_config

BARE = f"{'A' * 43}.{'A' * 43}"
HOSTILE = "a\x1b[31m\r\n\x07‮b"


# -- words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (33_554_432, "33.6 MB"),
        (999_960, "1.0 MB"),
        (5e12, "5000.0 GB"),
    ],
)
def test_sizes(size: float, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (61.9, "1:01"), (3600, "1:00:00"), (1e12, "99:59:59")])
def test_times(seconds: float, words: str) -> None:
    assert time_words(seconds) == words


def test_a_bar_shows_part_speed_and_what_is_left() -> None:
    assert bar("a.bin", 5_000_000, 10_000_000, 1_000_000) == (
        "a.bin  [############------------]   50%  5.0 MB of 10.0 MB  1.0 MB/s  0:05 left"
    )
    assert bar("a", 10, 10, 5.0).endswith("100%  10 bytes of 10 bytes")
    assert "100%" in bar("empty", 0, 0, 0.0)


def test_a_rate_needs_two_marks() -> None:
    rate = Rate()
    assert rate.value == 0
    rate.add(0)
    assert rate.value == 0
    rate.add(1000)
    assert rate.value > 0


def test_what_is_shown_is_printable_and_short() -> None:
    assert shown(HOSTILE).isprintable()
    assert len(shown("x" * 5000)) <= 60


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the disk is full", "The disk is full."),
        ("The disk is full.", "The disk is full."),
        ("http://x does not answer", "http://x does not answer."),
        ("settings.toml, line 1: no", "settings.toml, line 1: no."),
    ],
)
def test_sentences(text: str, said: str) -> None:
    assert sentence(text) == said


def fetch_command() -> tuple[Any, io.StringIO]:
    err = io.StringIO()
    return fetch._Command(Output(out=io.StringIO(), err=err), fetch._Sink(io.BytesIO())), err


def test_attempts_of_a_fetch_say_the_same_once() -> None:
    async def scenario() -> None:
        command, err = fetch_command()
        again = [FetchStage.OTHER_EXIT, FetchStage.ASKING]
        for stage in [FetchStage.CIRCUIT, FetchStage.ASKING, *again * 2]:
            command.event(FetchStatus(1, stage))
        assert err.getvalue().splitlines() == [
            "Building a circuit to an exit…",
            "Asking the site…",
            "Trying another exit…",
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize("complete", [True, False])
def test_only_a_complete_body_gets_its_name(tmp_path: Path, complete: bool) -> None:
    target = tmp_path / "page"
    with fetch._sink(str(target), False) as sink:
        sink.write(b"body")
        sink.complete = complete
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == (["page"] if complete else [])


def test_a_relay_tells_each_trouble_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(parser().parse_args(["relay"]), Config(), "relay-1")
    _Relay(Output()).event(Trouble(Why(FacilitatorWhy.UNREACHABLE, {"detail": ""})))
    told = capsys.readouterr()
    assert (told.out + told.err).count("facilitator-unreachable") == 1


def test_every_command_with_a_node_says_once_that_the_facilitator_lied(capsys: pytest.CaptureFixture[str]) -> None:
    """Also `pipe`, `forward` and `proxy`, which are quiet otherwise."""
    set_up_logs(parser().parse_args(["relay"]), Config(), "pipe", "error")
    warner = Warner(Output())
    for code in (FacilitatorWhy.UNREACHABLE, FacilitatorWhy.CONTRADICTS, FacilitatorWhy.CONTRADICTS):
        warner(Trouble(Why(code, {"detail": "", "first": "00", "second": "01"})))
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith("The facilitator contradicts itself")


def test_tables_line_up() -> None:
    rows = [["a", "bb"], ["ccc", ""]]
    assert table(rows) == table(rows, 9) == "  a    bb\n  ccc"
    assert table([*rows, ["d", "eeeee"]], 11) == "  a   ccc\n  bb\n\n  a   d\n  bb  eeeee"


def test_the_status_of_several_facilitators() -> None:
    out = io.StringIO()
    several: list[dict[str, Any]] = [
        {"name": "aaaaaaaa", "nodes": 2, "channels": 3, "since": int(time.time()) - 61, "version": "1.0", "ahead": 0},
        {"name": HOSTILE, "nodes": None, "ahead": -95},
    ]
    _show_facilitators(Output(out=out), several, {"state": "away", "trouble": "io"})
    assert "log of a facilitator says why" in out.getvalue()
    assert "clocks differ by 1:35" in out.getvalue()
    assert "1:01" in out.getvalue() and HOSTILE not in out.getvalue()
    out = io.StringIO()
    _show_facilitators(Output(out=out), several[:1], {"state": "shared", "trouble": ""})
    assert "Their store works." in out.getvalue() and "clocks" not in out.getvalue()


# -- output


def test_json_output_is_records_only() -> None:
    out, err = io.StringIO(), io.StringIO()
    output = Output(True, out=out, err=err)
    output.say("words")
    output.result("words")
    output.record("done", name=HOSTILE)
    output.progress("bar", have=1)
    assert err.getvalue() == ""
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"event": "done", "name": HOSTILE},
        {"event": "progress", "have": 1},
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_over_itself_on_a_terminal() -> None:
    out, err = io.StringIO(), Terminal()
    output = Output(out=out, err=err)
    output.progress("long line", have=1)
    output.progress("short", last=True, have=2)
    output.say(HOSTILE)
    assert err.getvalue().startswith("\rlong line\rshort    \n")
    assert "\x1b" not in err.getvalue()


def test_progress_is_rare_where_lines_stay() -> None:
    err = io.StringIO()
    output = Output(out=io.StringIO(), err=err)
    for have in range(100):
        output.progress("line", have=have)
    output.progress("end", last=True, have=100)
    assert err.getvalue() == "end\n"


def test_a_reader_that_is_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        output = Output(True, out=gone, err=io.StringIO())
        output.record("a")
        output.record("b")


def test_what_cannot_be_written_is_said_and_fails() -> None:
    program = [sys.executable, "-m", "pynode", "verify", "http://127.0.0.1:1/"]
    for more, said in (([], b"The output cannot be written: No space left on device.\n"), (["--json"], b"")):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([*program, *more], stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_end_nothing(closed: str) -> None:
    line = f"{sys.executable} -m pynode verify http://127.0.0.1:1/ {closed}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr


# -- arguments


@pytest.mark.parametrize(
    "line",
    [
        *("", "foo", "get x --wait -1", "status -v", "status --config x"),
        *("up --port x", "up --port 70000", "up --public a/b"),
        *("relay --listen 5", "relay --url http://x", "relay --origin x"),
    ],
)
def test_wrong_arguments_are_one_line_and_code_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(line.split())
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--help" in error


@pytest.mark.parametrize("command", ["up", "share", "get", "fetch", "status", "relay", "facilitator"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("get abc", "link is incomplete"),
        ("get http://x.example/", "it was cut"),
        (f"get {BARE} -o /dev/null/there/", "cannot be used as a folder"),
        (f"get {BARE} -o /nowhere/there", "/nowhere is no folder"),
        ("share /nowhere/at/all", "No such file"),
        ("share /dev/null", "no file that can be read twice"),
        ("status --site ftp://x", "is no address of a site"),
        ("fetch ftp://x.example/", "not a web address"),
        ("up --relays 2", "must be from 3"),
        ("up --host 0.0.0.0", "--public"),
        ("up --exit-allow a/b", "--exit-allow"),
        ("up --config /nowhere.toml", "No such file"),
    ],
)
def test_wrong_values_are_one_sentence_and_code_2(line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def plan(line: str, config: Config | None = None) -> Any:
    arguments = parser().parse_args(["relay", *line.split()])
    return relay_plan(arguments, config or Config(), Network("ws://x/facilitator"))


def test_a_relay_is_what_options_and_settings_say() -> None:
    assert plan("").roles == Role.RELAY | Role.RDV
    assert plan("--exit").roles == Role.RELAY | Role.RDV | Role.EXIT
    exit = plan("--exit-allow 127.0.0.1:8080 --listen 0.0.0.0:1 --url ws://name/")
    assert exit.roles & Role.EXIT
    assert exit.policy.permits("127.0.0.1", "127.0.0.1", 8080)
    assert not exit.policy.permits("127.0.0.1", "127.0.0.1", 80)
    assert exit.url == "ws://name/"
    config = parse_config('[node]\nroles = ["relay"]\nlisten = "127.0.0.1:5"\n[exit]\nports = [80]\n')
    assert plan("", config).roles == Role.RELAY
    assert str(plan("", config).listen) == "127.0.0.1:5"
    assert str(plan("--listen 127.0.0.1:6", config).listen) == "127.0.0.1:6"
    with pytest.raises(CliError, match="--public"):
        plan("--listen 0.0.0.0:1")
    config = parse_config('[node]\norigins = ["https://mirror.example"]\n')
    assert plan("--origin https://site.example/page --origin *", config).origins == (
        "https://mirror.example",
        "https://site.example",
        "*",
    )


def test_a_relay_leads_into_the_tor_network_that_its_settings_name(tmp_path: Path) -> None:
    assert plan("").entry is None and not plan("").roles & Role.TOR
    public = plan("", parse_config('[node]\nroles = ["rdv"]\n[tor]\nentry = true\n'))
    assert public.roles == Role.RELAY | Role.RDV | Role.TOR and len(public.entry.authorities) == 9
    config = parse_config(f'[tor]\nentry = true\nprivate = true\nnetwork = "{tmp_path}/none"\n')
    with pytest.raises(CliError, match="cannot be read"):
        plan("", config)
    (tmp_path / "none").write_text(f"DirAuthority a orport=1 v3ident={'0' * 40} 127.0.0.1:2 {'1' * 40}\n")
    assert plan("", config).private and plan("", config).entry.authorities == (bytes(20),)


def test_the_tor_network_is_entered_by_a_guard_or_by_a_node_of_a_site() -> None:
    def network(line: str) -> Any:
        return asyncio.run(network_of(parser().parse_args(["proxy", *line.split()])))

    assert network("--tor").tor.directories and network("--tor").facilitator == ""
    assert network("--tor --nodes x --entry-node").tor.directories == ()
    assert network("--nodes x").tor is None
    with pytest.raises(CliError, match="does not answer"):
        network("--tor --entry-node --site http://127.0.0.1:1/")
    with pytest.raises(CliError, match="--tor"):
        network("--nodes x --entry-node")


def test_a_relay_without_an_address_is_reached_over_webrtc() -> None:
    assert plan("").listen is None and plan("").stun == ()
    assert plan("--listen 127.0.0.1:6").stun == ()
    for options in ("--no-rtc", "--no-rtc --stun stun:x", "--public name", "--url ws://name/"):
        assert str(plan(options).listen) == "127.0.0.1:0"
    assert plan("--no-rtc --stun stun:x").stun is None


def test_stun_servers_are_those_of_options_else_of_settings() -> None:
    config = parse_config('[rtc]\nstun = ["stun:a", "stun:b"]')
    assert plan("", config).stun == ("stun:a", "stun:b")
    assert plan("--stun stun:x --stun stun:y:1", config).stun == ("stun:x", "stun:y:1")
    off = parse_config("[rtc]\nenabled = false")
    assert plan("", off).stun is None and plan("", off).listen is not None
    with pytest.raises(SystemExit):
        parser().parse_args(["relay", "--stun", "turn:x:1"])


def test_a_relay_joins_the_facilitator_that_it_was_told() -> None:
    def network(line: str) -> Network:
        return asyncio.run(_network(parser().parse_args(["relay", *line.split()]), Config()))

    assert network("--facilitator ws://x/facilitator") == Network("ws://x/facilitator")  # the first list is trusted
    line = f"--facilitator ws://x/facilitator --facilitator-identity {'ab' * 32}"
    assert network(line).identity == b"\xab" * 32

    answers = {"/network.json": {"facilitator": {"identity": "ab" * 32, "path": "/facilitator"}}}

    def asked(identity: str) -> Network:
        async def question(site: str) -> Network:
            options = ["relay", "--site", site, "--facilitator-identity", identity]
            return await _network(parser().parse_args(options), Config())

        found: Network = ask(answers, question)
        return found

    assert asked("ab" * 32).identity == b"\xab" * 32
    with pytest.raises(CliError, match="names another facilitator"):
        asked("cd" * 32)


# -- sites


def test_a_site_is_chosen_in_order() -> None:
    environ = {"CONVERGENCE_SITE": "http://env.example"}
    assert chosen_site("site.example", environ) == "http://site.example/"
    assert chosen_site(None, environ) == "http://env.example/"
    assert chosen_site(None, {}) == DEFAULT_SITE


@pytest.mark.parametrize(
    ("text", "site"),
    [
        (f"https://site.example/sub/#{BARE}", "https://site.example/sub/"),
        (f"http://[::1]:80/index.html#{BARE}", "http://[::1]:80/"),
        (f"http://index.html/a/myindex.html#{BARE}", "http://index.html/a/myindex.html/"),
        (f"Take <site.example/#{BARE}>.", "http://site.example/"),
        (BARE, None),
    ],
)
def test_the_site_of_a_link(text: str, site: str | None) -> None:
    link, named = link_in(text)
    assert isinstance(link, ShareLink) and (link.format(), named) == (BARE, site)


def test_a_word_code_stands_for_a_link() -> None:
    assert link_in(" 7 Crossover Clockwork\n") == (WordCode(7, ("crossover", "clockwork")), None)


@pytest.mark.parametrize("text", ["", "x", f"http:///#{BARE}", f"http://x/#{BARE}x", "7-crossover", "7-a-word"])
def test_what_is_no_link(text: str) -> None:
    with pytest.raises(CliError):
        link_in(text)


@pytest.mark.parametrize(
    "text", ["", "http://", "http://x:0", "http://x:99999", "http://x/?a", "http://a b/", "file:///"]
)
def test_what_is_no_address_of_a_site(text: str) -> None:
    with pytest.raises(CliError):
        site_address(text)


def ask(answers: dict[str, Any], question: Callable[[str], Awaitable[Any]]) -> Any:
    """Run `question(site)` against a site that gives these answers."""

    async def answer(request: web.Request) -> web.StreamResponse:
        given = answers.get(request.path)
        if given is None:
            raise web.HTTPNotFound
        return web.Response(body=given if isinstance(given, bytes) else json.dumps(given).encode())

    async def scenario() -> Any:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            return await question(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        finally:
            await runner.cleanup()

    return asyncio.run(scenario())


def test_a_network_is_found() -> None:
    network = ask({"/network.json": {"facilitator": {"identity": "ab" * 32, "path": "/facilitator"}}}, find_network)
    assert network.facilitator == network.site.replace("http", "ws") + "facilitator"
    assert network.identity == b"\xab" * 32


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        [],
        {},
        {"facilitator": "ws://x"},
        {"facilitator": {"identity": "ab", "path": "/facilitator"}},
        {"facilitator": {"identity": "ab" * 32, "path": 5}},
        {"facilitator": {"identity": "ab" * 32, "path": "/fac ilitator"}},
        {"facilitator": {"identity": "ab" * 32, "path": "file:///etc/passwd"}},
        None,
    ],
)
def test_what_is_no_convergence_site(answer: Any) -> None:
    with pytest.raises(CliError, match="is no Convergence site"):
        ask({"/network.json": answer}, find_network)
    with pytest.raises(CliError, match="is no Convergence site"):
        ask({"/status.json": answer}, find_status)


@pytest.mark.parametrize(
    ("registered", "said"),
    [
        (None, "1 of 2 known nodes are connected."),
        (2, "1 of 2 known nodes are connected."),
        (90_000, "1 of the first 2 of 90000 known nodes are connected."),
        ("many", "1 of 2 known nodes are connected."),
    ],
)
def test_status_tells_how_many_nodes_there_are_of_which_it_shows_some(registered: Any, said: str) -> None:
    nodes = [{"identity": "ab", "connected": True}, {"identity": "cd", "connected": False}]
    out = io.StringIO()

    def show(site: str) -> Any:
        return status(argparse.Namespace(site=site), Output(out=out), asyncio.Event())

    assert ask({"/status.json": {"facilitator": "ef", "nodes": nodes, "registered": registered}}, show) == 0
    assert out.getvalue().splitlines()[0].endswith(said)


@pytest.mark.parametrize(("effort", "told"), [(0, False), (512, True), ("much", False)])
def test_status_tells_of_a_flood_of_newcomers(capsys: pytest.CaptureFixture[str], effort: Any, told: bool) -> None:
    answer = {"facilitator": "ab" * 32, "nodes": [], "effort": effort}
    arguments = parser().parse_args(["status", "--site", "http://127.0.0.1:1/"])

    async def answered(*asked: Any) -> Any:
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pynode.cli.status.find_status", answered)
        assert asyncio.run(status(arguments, Output(), asyncio.Event())) == 1
    assert ("each does about 512 tries" in capsys.readouterr().out) is told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({}, []),
        ({"epoch": None}, ["Nodes are told by a list"]),
        ({"epoch": {"number": 2_880_012, "published": 1_000_000}}, ["epoch 2880012, signed 4:05 ago"]),
        ({"drawn": {"by": ["ab", "cd"], "silent": []}}, ["drawn by ab, cd together"]),
        ({"drawn": {"by": ["ab"], "silent": ["cd"]}}, ["drawn by ab alone", "cd had committed to a number"]),
        ({"drawn": {"by": [], "silent": []}}, ["Nobody drew"]),
        ({"draw": [{"facilitator": "ab", "contributes": True}]}, ["All others have said"]),
        ({"draw": [{"facilitator": "ab", "contributes": True}, {"facilitator": "cd"}]}, ["misses what cd could"]),
        ({"epoch": 5, "drawn": [], "draw": 5}, []),
        ({"epoch": {"number": HOSTILE, "published": 1}, "draw": ["ab", None]}, []),
        ({"drawn": {"by": 5, "silent": [HOSTILE]}}, ["Nobody drew", "had committed"]),
    ],
)
def test_status_tells_the_epoch_and_how_the_random_value_was_drawn(answer: dict[str, Any], told: list[str]) -> None:
    words = network_words(answer, 1_000_245.5)
    assert len(words) == len(told) and all(part in line for part, line in zip(told, words, strict=True))
    assert not any(HOSTILE in line for line in words)


# -- files


def test_what_is_shared_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    assert check_paths([str(path), f"{path}/../a", str(tmp_path)]) == [path, tmp_path]
    with pytest.raises(CliError, match="No such file"):
        check_paths([str(tmp_path / "b")])
    with pytest.raises(CliError, match="no file that can be read twice"):
        check_paths(["/dev/null"])


def test_one_link_for_all_or_one_for_each() -> None:
    paths = [Path(str(number)) for number in range(257)]
    assert parted(paths, each=False) == [paths]
    assert parted(paths[:2], each=True) == [paths[:1], paths[1:2]]
    with pytest.raises(CliError, match="256 links .* --group for up to 16384"):
        parted(paths, each=True)
    assert parted(paths, each=False, group=True) == [[path] for path in paths]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["a/b/1.jpg", "2.jpg"]),
        ("a", ["a/b/1.jpg", "a/3.txt"]),
        ("a/", ["a/b/1.jpg", "a/3.txt"]),
        ("a/b", ["a/b/1.jpg"]),
        ("b", []),
        ("2.JPG", []),
        ("?.jpg", ["2.jpg"]),
    ],
)
def test_patterns_are_of_paths_and_folders(pattern: str, found: list[str]) -> None:
    assert [path for path in ("a/b/1.jpg", "a/3.txt", "2.jpg") if matches(path, [pattern])] == found


def test_a_lock_has_one_holder_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locked(path, "taken"):
        with pytest.raises(CliError, match="taken"), locked(path, "taken"):
            pass
        assert path.exists()
    assert not path.exists()
    with locked(path, "taken"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(CliError, match="Cannot use the data folder"), locked(tmp_path / "file" / "lock", "taken"):
        pass


def test_waiting_ends_with_what_comes_first() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        assert await unless(stop, asyncio.sleep(0, "result")) == "result"
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(stop.set)
        assert await unless(stop, never) is None
        assert never.cancelled()

    asyncio.run(scenario())


# -- children


def test_a_relay_that_never_registered_is_not_started_again(tmp_path: Path) -> None:
    """It cannot: its options make no sense."""

    async def scenario() -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        relay = Relay("relay-1", "127.0.0.1", (), ["--no-such-option"])
        relays = Relays([relay], lambda relay, text: heard.put_nowait((relay.state, text)))
        await relays.start()
        state, text = await heard.get()
        assert state == "failed"
        assert text == "relay-1 ended unexpectedly (exit code 2) and stays down: its messages above say why."
        await relays.stop()

    asyncio.run(scenario())


def test_a_relay_that_crashes_too_often_stays_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynode.cli.children.RESTART_AFTER", 0.0)

    async def scenario() -> None:
        heard: asyncio.Queue[str] = asyncio.Queue()
        relay = Relay("relay-1", "127.0.0.1", (), [], state="registered")
        relays = Relays([relay], lambda relay, text: heard.put_nowait(relay.state))

        async def crash(relay: Relay) -> int:
            return -9

        monkeypatch.setattr(relays, "_run", crash)
        await relays.start()
        states = [await heard.get() for _ in range(MAX_RESTARTS + 1)]
        assert states == ["restarting"] * MAX_RESTARTS + ["failed"]
        await relays.stop()

    asyncio.run(scenario())


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "pynode", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("convergence ")


@pytest.mark.parametrize("kind", ["another file", "link", "dangling link", "fifo", "folder"])
def test_a_pac_file_replaces_nothing_but_one_of_ours(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "proxy.pac", tmp_path / "other"
    match kind:
        case "another file":
            path.write_text("mine")
        case "link":
            other.write_text(PAC_HEAD)
            path.symlink_to(other)
        case "dangling link":
            path.symlink_to(other)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    before = other.exists() and other.read_text()
    with pytest.raises(CliError, match="choose another name"):
        _write_pac(path, Address("127.0.0.1", 1080))
    assert (other.exists() and other.read_text()) == before and set(tmp_path.iterdir()) <= {path, other}


def test_a_pac_file_follows_the_port(tmp_path: Path) -> None:
    path = tmp_path / "proxy.pac"
    for port in (1080, 1081):
        _write_pac(path, Address("127.0.0.1", port))
        assert f"SOCKS5 127.0.0.1:{port};" in path.read_text() and list(tmp_path.iterdir()) == [path]
