"""What the commands around published code take as arguments, and what a mirror passes on of a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pynode.cli import main, parser
from pynode.cli.output import CliError
from pynode.cli.sites import find_network, network_document
from pynode.site import Site
from tests.unit.pynode.toy import run

ROOT = "AB" * 32
IDENTITY = "cd" * 32


def test_root_hashes_and_paths() -> None:
    arguments = parser().parse_args(["mirror", "--root", ROOT, "--path", "/a/b-c"])
    assert arguments.root == ROOT.lower() and arguments.path == "/a/b-c/"
    assert parser().parse_args(["mirror"]).path == "/"


@pytest.mark.parametrize(
    "line",
    [
        "verify",
        "verify x --root 12",
        f"verify x --root {ROOT} --dist y",
        "mirror --path a",
        "mirror --path //a",
        "mirror --path /../a",
        "mirror --path /a?b",
        "mirror --share --get link",
        "release",
        "release sign",
        "release keygen",
    ],
)
def test_what_is_asked_for_wrongly(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(line.split())
    assert ended.value.code == 2 and "Try: convergence" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("verify ftp://x/", "no address of a site"),
        ("mirror --from http://127.0.0.1:1/", "Say with --root"),
        ("mirror --dist /nowhere", "no manifest.json in /nowhere"),
        ("mirror --fetch-only", "Say with --from or --get"),
        ("release check --dist /nowhere", "no manifest.json in /nowhere"),
        ("verify http://127.0.0.1:1/ --dist nowhere", "There is no manifest.json in nowhere:"),
        ("verify " + " ".join(f"a{number}" for number in range(65)), "64 sites"),
    ],
)
def test_what_cannot_be_done_is_said(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split()]) == 2
    assert words in capsys.readouterr().err


def test_names_begin_no_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").touch()
    assert main(["release", "keygen", "key", "--no-password"]) == 1
    assert capsys.readouterr().err.startswith("key is there already")


def documented(answer: Any) -> dict[str, Any]:
    """What a mirror makes of a site's network.json, and joins by it."""
    found: dict[str, Any] = {}

    async def test() -> None:
        async def document(request: web.Request) -> web.Response:
            return web.Response(text=json.dumps(answer))

        app = web.Application()
        app.router.add_get("/network.json", document)
        site = Site(app)
        url = f"http://127.0.0.1:{await site.start('127.0.0.1', 0)}/"
        try:
            found.update(await network_document(url), url=url, network=await find_network(url))
        finally:
            await site.close()

    run(test)
    return found


def network(path: str = "/facilitator", **more: Any) -> dict[str, Any]:
    return {"site": "Here", "facilitator": {"identity": IDENTITY, "path": path}, **more}


def test_a_mirror_names_the_facilitator_with_its_host() -> None:
    found = documented(network(rtc={"stun": ["stun:stun.example:3478"]}, more="left out"))
    assert found["facilitator"] == {"identity": IDENTITY, "path": found["url"] + "facilitator"}
    assert found["site"] == "Here" and found["rtc"] == {"stun": ["stun:stun.example:3478"]} and "more" not in found
    assert "rtc" not in documented(network())


def test_a_mirror_of_a_mirror_names_the_same() -> None:
    path = "https://site.example/facilitator"
    found = documented(network(path))
    assert found["facilitator"]["path"] == path and found["network"].facilitator == "wss://site.example/facilitator"


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"facilitator": []},
        {"facilitator": {"identity": "ab", "path": "/"}},
        network("javascript:alert(1)"),
        {"facilitator": {"identity": IDENTITY, "path": None}},
        network(rtc=[]),
        network(rtc={"stun": "stun:x"}),
        network(rtc={"stun": ["http://x"]}),
        network(rtc={"stun": [5]}),
    ],
    ids=str,
)
def test_nonsense_is_not_passed_on(answer: Any) -> None:
    with pytest.raises(CliError, match="no Convergence site"):
        documented(answer)
