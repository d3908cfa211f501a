"""What sites serve: honest ones, mirrors below a path, and hostile ones. All on loopback."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import brotli
import pytest
from aiohttp import web

from pynode.published import served as module
from pynode.published.folder import write_folder
from pynode.published.log import Log
from pynode.published.manifest import LOG, MANIFEST, RELEASE, Manifest, Refused
from pynode.published.minisign import SecretKey
from pynode.published.release import sign
from pynode.published.served import Site, begin, browsing, gather, inspect, wrong_type
from pynode.published.serving import mirror_app
from pynode.site import BOOKMARK_POLICY, HEADERS
from pynode.site import Site as Server
from tests.unit.pynode.toy import run

FILES = {
    "index.html": b"<title>x</title>",
    "open.html": b"<title>open</title>",
    "main.js": b"console.log(1)\n" * 100,
    "style.css": b"a{}",
    "core.wasm": b"\0asm",
    "worker/worker.js": b"onmessage = null\n",
}
MADE = Manifest.of(FILES, "0.1.0")
ENDING = web.AppKey("ending", asyncio.Event)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TYPES = {"js": "text/javascript", "css": "text/css", "wasm": "application/wasm", "html": "text/html"}


@asynccontextmanager
async def serving(app: web.Application, path: str = "/") -> AsyncIterator[str]:
    app[ENDING] = asyncio.Event()
    server = Server(app)
    port = await server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}{path}"
    app[ENDING].set()
    await server.close()


def site(**handlers: Handler) -> web.Application:
    """An honest site but for some addresses; `a__b` stands for a/b, and a dot for _dot_."""
    replaced = {name.replace("__", "/").replace("_dot_", "."): handler for name, handler in handlers.items()}

    async def serve(request: web.Request) -> web.StreamResponse:
        name = request.path[1:]
        if name in replaced:
            return await replaced[name](request)
        data = {**FILES, "": FILES["index.html"], MANIFEST: MADE.encode()}.get(name)
        if data is None:
            raise web.HTTPNotFound
        return answer(data, TYPES.get((name or "x.html").rpartition(".")[2], "application/json"))

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    return app


async def forbidden(request: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden


async def trickling(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/javascript"})
    await response.prepare(request)
    while not request.app[ENDING].is_set():
        await response.write(b"x")
        await asyncio.sleep(0.01)
    return response


def answer(data: bytes, type: str, **headers: str) -> web.Response:
    return web.Response(body=data, headers={"Content-Type": type, **headers})


def says(data: bytes, type: str = "text/javascript", encoding: str = "identity", **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return answer(data, type, **{"Content-Encoding": encoding}, **headers)

    return handler


def goes(where: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": where})

    return handler


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/javascript"})
    await response.prepare(request)
    while True:
        await response.write(bytes(1 << 16))


async def silent(request: web.Request) -> web.StreamResponse:
    await request.app[ENDING].wait()
    return web.Response()


async def inspected(url: str, expected: Manifest | None = None) -> Site:
    async with browsing() as session:
        found = await begin(session, url)
        await inspect(session, found, expected, lambda size: None)
    return found


def problems(app: web.Application, expected: Manifest | None = None) -> dict[str, str]:
    found: dict[str, str] = {}

    async def test() -> None:
        async with serving(app) as url:
            found.update((await inspected(url, expected)).problems)

    run(test)
    return found


# -- honest ones


def test_an_honest_site_has_no_problems() -> None:
    async def test() -> None:
        async with serving(site()) as url:
            found = await inspected(url)
            assert found.problems == [] and found.root == MADE.root
            assert found.verdict is not None and not found.verdict.ok  # an unsigned build

    run(test)


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    write_folder(folder, {**FILES, MANIFEST: MADE.encode()})
    (folder / "main.js.br").write_bytes(brotli.compress(FILES["main.js"]))
    (folder / "worker" / "worker.js.gz").write_bytes(gzip.compress(FILES["worker/worker.js"]))
    (folder / "notes.txt").write_text("not published")
    return folder


@pytest.mark.parametrize("path", ["/", "/sub/path/"])
def test_a_mirror_serves_what_was_published_to_pages_of_any_origin(dist: Path, path: str) -> None:
    async def test() -> None:
        network = {"facilitator": {"identity": "00" * 32, "path": "https://site.example/facilitator"}}
        async with serving(mirror_app(dist, MADE, network=network, path=path), path) as url:
            assert (await inspected(url, MADE)).problems == []
            async with aiohttp.ClientSession(auto_decompress=False) as client:
                for name, encoding in (
                    ("main.js", "br"),
                    ("worker/worker.js", "gzip"),
                    ("style.css", None),
                    ("", None),
                ):
                    headers = {"Accept-Encoding": "gzip, br", "Host": "mirror.example"}
                    async with client.get(url + name, headers=headers) as got:
                        assert got.status == 200 and got.headers.get("Content-Encoding") == encoding
                        assert got.headers["Access-Control-Allow-Origin"] == "*"
                        assert got.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
                        assert got.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
                async with client.get(url + "open.html") as got:
                    assert got.headers["Content-Security-Policy"] == BOOKMARK_POLICY
                async with client.get(url + "network.json") as got:
                    assert await got.json() == network
                async with client.get(url + "worker/open.html") as got:
                    assert got.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
                for name in ("notes.txt", "main.js.br", "../secret", "worker/", "status.json", "release.json"):
                    async with client.get(url + name) as got:
                        assert got.status == 404 and got.headers["Access-Control-Allow-Origin"] == "*"
                if path != "/":
                    async with client.get(url.removesuffix("/"), allow_redirects=False) as got:
                        assert (got.status, got.headers["Location"]) == (308, path)

    run(test)


def test_a_mirror_without_a_network_names_none(dist: Path) -> None:
    async def test() -> None:
        async with serving(mirror_app(dist, MADE)) as url, aiohttp.ClientSession() as client:
            async with client.get(url + "network.json") as got:
                assert got.status == 404

    run(test)


@pytest.mark.parametrize(
    ("name", "where"),
    [("index_dot_html", "/"), ("index_dot_html", "./"), ("", "/index.html"), ("open_dot_html", "/open")],
)
def test_hosts_may_have_other_names_for_a_page(name: str, where: str) -> None:
    opens = says(FILES["open.html"], "text/html")
    assert problems(site(**{name: goes(where), "open": opens})) == {}


# -- others


def test_one_flipped_byte_is_named() -> None:
    flipped = bytearray(FILES["main.js"])
    flipped[7] ^= 1
    found = problems(site(main_dot_js=says(bytes(flipped))))
    assert set(found) == {"main.js"} and "its SHA-256 is" in found["main.js"]


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (says(b"short"), "5 bytes in place of 1500"),
        (says(FILES["main.js"], "text/plain"), "browsers want text/javascript"),
        (says(gzip.compress(bytes(1 << 20)), encoding="gzip"), "longer than it should be"),
        (says(brotli.compress(b"other"), encoding="br"), "5 bytes in place of"),
        (says(b"\x1f\x8b garbage", encoding="gzip"), "damaged on its way"),
        (says(FILES["main.js"], encoding="deflate"), "not asked for"),
        (goes("/worker/main.js"), "/worker/main.js, and browsers look there for what it loads"),
        (goes("http://[::1]:1/main.js"), "redirects to another site, http://[::1]:1/main.js"),
        (goes("javascript:alert(1)"), "redirects to another site"),
        (goes("http://[::"), "cannot be fetched: http://[:: is no address"),
        (
            says(FILES["main.js"], refresh="0; url=http://site.example/"),
            "has a header by which browsers go or load elsewhere (refresh: 0; url=http://site.example/)",
        ),
        (endless, "longer than it should be"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(handler: Handler, words: str) -> None:
    found = problems(site(main_dot_js=handler))
    assert set(found) == {"main.js"} and words in found["main.js"]


@pytest.mark.parametrize("where", ["/app/", "/app/index.html", "\\app\\", "/%2e/", "/./x/../?x", "/#x", "\\\\[::1]:1/"])
def test_a_page_that_is_at_another_place_in_the_end_would_load_other_files(where: str) -> None:
    """The very bytes: but what they name is looked for beside them."""
    page = says(FILES["index.html"], "text/html")
    app = site(**{"": goes(where), "app__": page, "app__index_dot_html": page, "%2e__": page})
    assert "browsers look there for what it loads" in problems(app)["/"]


def test_redirects_go_to_the_page_by_no_way_round() -> None:
    """A browser takes the first step to another host, and we to a name with backslashes in it."""
    app = site(**{"index_dot_html": goes("\\\\[::1]:1/"), "\\\\[::1]:1/": goes("/")})
    assert "browsers look there" in problems(app)["index.html"]


def test_redirects_end() -> None:
    app = site(**{"": goes("/index.html"), "index_dot_html": goes("/")})
    assert problems(app) == dict.fromkeys(("/", "index.html"), "redirects without end")


@pytest.mark.parametrize("value", ["</x.css>; rel=stylesheet", "<a>; rel=preload, <x.css>; REL='alternate StyleSheet'"])
def test_a_style_that_comes_by_a_header_is_told(value: str) -> None:
    """Firefox takes it: it could hide what the page shows, or show other words."""
    app = site(**{"": says(FILES["index.html"], "text/html", link=value)})
    assert problems(app) == {"/": f"has a header by which browsers go or load elsewhere (Link: {value})"}
    honest = site(**{"": says(FILES["index.html"], "text/html", link="</main.js>; rel=modulepreload")})
    assert problems(honest) == {}


def test_the_page_itself_may_be_another() -> None:
    """Somebody serves the right index.html under its name, and another at "/", where visitors come."""
    found = problems(site(**{"": says(b"<script src=evil.js></script>", "text/html")}))
    assert set(found) == {"/"}


def test_a_long_name_is_looked_at_like_any_other() -> None:
    name = "x" * 200
    made = Manifest.of({**FILES, name: b""}, "0.1.0")
    assert problems(site(manifest_dot_json=says(made.encode()))) == {name: "is missing"}


def test_a_list_without_the_page_says_nothing_about_it() -> None:
    made = Manifest.of({"main.js": FILES["main.js"]}, "0.1.0")
    assert "is compared with nothing" in problems(site(manifest_dot_json=says(made.encode())))["/"]


def test_what_browsers_do_without_is_noted_and_no_problem() -> None:
    async def test() -> None:
        async with serving(site(release_dot_json=forbidden, releases_dot_txt=endless)) as url:
            found = await inspected(url)
            assert found.problems == [] and found.published is not None and found.published.release is None
            assert found.notes == [
                "release.json is answered with status 403",
                "releases.txt is longer than it should be",
            ]

    run(test)


def test_a_host_that_is_none_is_told() -> None:
    async def test() -> None:
        found = await inspected("http://a..b/")
        assert found.problems == [(MANIFEST, "cannot be fetched: http://a..b/manifest.json is no address")]

    run(test)


def test_a_file_that_trickles_is_cut_off_whatever_its_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_TIMEOUT", 0.2)
    monkeypatch.setattr(module, "LEAST_RATE", 1 << 20)

    async def around(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        raise web.HTTPFound(f"{request.path}?{len(request.query_string) * 'x'}x")

    for handler in (trickling, around):
        assert problems(site(manifest_dot_json=handler)) == {MANIFEST: "is too slow: 0 seconds were not enough"}


def test_a_site_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_TIMEOUT", 0.2)
    assert problems(site(main_dot_js=silent)) == {"main.js": "cannot be fetched: timed out"}
    monkeypatch.setattr(module, "STALL_TIMEOUT", 15.0)
    monkeypatch.setattr(module, "SITE_TIMEOUT", 0.2)
    assert "is too slow" in problems(site(main_dot_js=silent))["/"]


def test_sites_without_a_usable_list_are_held_against_the_expected_one() -> None:
    for handler, words in (
        (says(b"{}"), "not of format 2"),
        (says(bytes(1 << 20)), "longer than it should be"),
        (goes("/x"), "is missing"),
        (endless, "longer"),
    ):
        app = site(manifest_dot_json=handler)
        assert set(alone := problems(app)) == {MANIFEST} and words in alone[MANIFEST]
    app = site(manifest_dot_json=says(b"{}"), main_dot_js=says(b"evil"))
    assert set(problems(app, MADE)) == {MANIFEST, "main.js"}


def test_nobody_there() -> None:
    async def test() -> None:
        found = await inspected("http://127.0.0.1:1/", MADE)
        assert "connection refused" in dict(found.problems)["main.js"]
        assert len(found.problems) == len(FILES) + 2

    run(test)


@pytest.mark.parametrize(
    ("name", "type", "right"),
    [
        ("a.js", "text/javascript; charset=utf-8", True),
        ("a.mjs", "application/javascript", True),
        ("a.js", "Text/JavaScript", True),
        ("a.js", "application/json", False),
        ("a.js", "text/javascript, text/html", False),
        ("a.html", 'text/html; x=y; Charset="UTF-8"', True),
        ("a.html", "text/html; charset=utf-16", False),
        ("a.css", 'text/css;charset = "iso-8859-1"', False),
        ("a.js", "text/javascript; charset=utf-8; charset=utf-7", False),
        ("a.mjs", "", False),
        ("a.wasm", "application/wasm", True),
        ("a.wasm", "application/wasm; charset=x", False),
        ("a.wasm", "application/octet-stream", False),
        ("a.html", "text/html", True),
        ("a.html", "text/plain", False),
        ("a.css", "text/css", True),
        ("a.css", "text/plain", False),
        ("a.zip", "text/plain", True),
        ("LICENSE", "", True),
    ],
)
def test_types_that_browsers_insist_on(name: str, type: str, right: bool) -> None:
    assert (wrong_type(name, type) == "") == right


# -- gathering


def test_each_file_comes_from_whoever_has_it() -> None:
    async def test() -> None:
        async with (
            serving(site(main_dot_js=says(b"evil"))) as one,
            serving(site(style_dot_css=goes("/x"), core_dot_wasm=endless)) as two,
            serving(site(manifest_dot_json=says(Manifest.of(FILES, "0.0.9").encode()))) as other,
            browsing() as session,
        ):
            done: list[tuple[int, int]] = []
            files = await gather(session, [other, one, two], MADE.root, lambda *state: done.append(state))
            assert files == {**FILES, MANIFEST: MADE.encode()}
            total = sum(map(len, FILES.values()))
            assert done[-1] == (total, total) and len(done) == len(FILES)
            with pytest.raises(Refused, match="main.js of .* differs from the list"):
                await gather(session, [one], MADE.root, lambda *state: None)
            with pytest.raises(Refused, match="is of another version"):
                await gather(session, [other], MADE.root, lambda *state: None)

    run(test)


def test_a_dead_site_costs_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_TIMEOUT", 0.2)
    asked: list[str] = []

    async def dead(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return await silent(request)

    async def test() -> None:
        handlers = {name.replace(".", "_dot_"): dead for name in FILES}
        async with serving(site(**handlers)) as one, serving(site()) as two, browsing() as session:
            assert await gather(session, [one, two], MADE.root, lambda *state: None) == {
                **FILES,
                MANIFEST: MADE.encode(),
            }
            assert len(asked) == 1
            with pytest.raises(Refused, match=f"{min(FILES)} of {one} (is too slow|cannot be fetched)"):
                await gather(session, [one], MADE.root, lambda *state: None)

    run(test)


def test_the_record_that_proves_most_is_taken_and_none_that_is_none() -> None:
    key = SecretKey.generate()
    made = Manifest.of(FILES, "0.1.0", [key.public.text], 1)
    log, release = sign(made, Log(), None, key)
    listed = {"manifest_dot_json": says(made.encode())}
    bare = replace(release, signatures=())

    async def test() -> None:
        async with (
            serving(site(**listed, release_dot_json=says(b"junk"), releases_dot_txt=says(b"junk"))) as junk,
            serving(
                site(**listed, release_dot_json=says(bare.encode()), releases_dot_txt=says(log.encode()))
            ) as unsigned,
            serving(
                site(**listed, release_dot_json=says(release.encode()), releases_dot_txt=says(log.encode()))
            ) as good,
            browsing() as session,
        ):
            for sites, record, lines in (
                ([junk], None, None),
                ([junk, unsigned], bare.encode(), log.encode()),
                ([junk, unsigned, good], release.encode(), log.encode()),
            ):
                files = await gather(session, sites, made.root, lambda *state: None)
                assert (files.get(RELEASE), files.get(LOG)) == (record, lines)

    run(test)


def test_gathering_from_slow_sites_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER_TIMEOUT", 0.2)

    async def test() -> None:
        async with serving(site(main_dot_js=silent)) as url, browsing() as session:
            with pytest.raises(Refused, match="too slow"):
                await gather(session, [url], MADE.root, lambda *state: None)

    run(test)
