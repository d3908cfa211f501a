"""What a site serves, as a browser would see it.

Does: fetch the manifest, every file in it, the page at "/" and what proves a release; compare each byte and each type
that browsers insist on; bounded in size and time, since a site may be hostile.
Does not: follow a redirect to another origin, believe a site's own word on what is right when something else is
expected, or find out what a site serves to others.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import aiohttp

from pynode.origins import origin
from pynode.published.folder import BESIDE, LOG, MANIFEST, PACKED_EXTRA, RELEASE, Published, differs_by
from pynode.published.manifest import MAX_FILE, Entry, Manifest, Refused
from pynode.published.packed import ENCODINGS, unpacker
from pynode.published.release import Trust, Verdict, check
from pynode.transports.websocket import network_reason

CONNECT_TIMEOUT = 15.0
"""Seconds until a connection stands."""
STALL_TIMEOUT = 15.0
"""Seconds without a byte."""
FILE_TIMEOUT = 180.0
"""Seconds for one file, however it trickles."""
SITE_TIMEOUT = 1200.0
"""Seconds for all that one site serves."""
GATHER_TIMEOUT = 3600.0
"""Seconds to get a copy from all sites together."""
MAX_AT_ONCE = 4
"""Requests under way to one site."""
MAX_REDIRECTS = 5
CHUNK = 64 << 10

INDEX = "index.html"
# A site that tells programs from browsers shall take this for one.
HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": ", ".join(ENCODINGS),
}
JAVASCRIPT = {
    *("text/javascript", "application/javascript", "application/x-javascript", "text/x-javascript"),
    *("application/ecmascript", "application/x-ecmascript", "text/ecmascript", "text/x-ecmascript"),
    *("text/jscript", "text/livescript", *(f"text/javascript1.{minor}" for minor in range(6))),
}
"""What module scripts and workers may be (WHATWG MIME Sniffing, section 4.6)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came for one address: its bytes' hash and size, and its type."""

    entry: Entry
    type: str


@dataclass(slots=True)
class Site:
    """What is known of one site so far.

    Args:
        problems: (file, what is wrong with it); "/" is the page itself.
    """

    url: str
    published: Published | None = None
    verdict: Verdict | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def root(self) -> str | None:
        return None if self.published is None else self.published.manifest.root


@asynccontextmanager
async def browsing() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that unpacks nothing by itself, keeps no cookies, and waits for nothing for ever."""
    timeout = aiohttp.ClientTimeout(total=FILE_TIMEOUT, sock_connect=CONNECT_TIMEOUT, sock_read=STALL_TIMEOUT)
    async with aiohttp.ClientSession(
        timeout=timeout, headers=HEADERS, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session


async def fetch(
    session: aiohttp.ClientSession, url: str, limit: int, sink: Callable[[bytes], object] | None = None
) -> Answer | None:
    """GET, as a browser does it; None when there is nothing at that address (404).

    Args:
        limit: bytes that it may have, unpacked.
        sink: gets the bytes, unpacked, as they come.

    Raises:
        Refused: a clause that begins with its verb: what is wrong with the answer.
    """
    first = origin(url)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                    if urlsplit(url).scheme not in ("http", "https") or origin(url) != first:
                        raise Refused(f"redirects to another site, {url}")
                    continue
                if response.status in (404, 410):
                    return None
                if response.status != 200:
                    raise Refused(f"is answered with status {response.status}")
                return await _body(response, limit, sink)
        raise Refused("redirects without end")
    except (aiohttp.ClientConnectorError, TimeoutError) as error:
        raise Refused(f"cannot be fetched: {network_reason(getattr(error, 'os_error', error))}") from None
    except (aiohttp.ClientError, OSError):
        raise Refused("cannot be fetched: the answer breaks off or is no HTTP") from None
    except ValueError:
        raise Refused("redirects to what is no address") from None


async def _body(response: aiohttp.ClientResponse, limit: int, sink: Callable[[bytes], object] | None) -> Answer:
    digest, size, travelled = hashlib.sha256(), 0, 0

    def take(data: bytes) -> None:
        nonlocal size
        size += len(data)
        digest.update(data)
        if sink is not None:
            sink(data)

    out = unpacker(response.headers.get("Content-Encoding", "").strip().lower(), limit, take)
    async for chunk in response.content.iter_chunked(CHUNK):
        travelled += len(chunk)
        if travelled > limit + PACKED_EXTRA:
            raise Refused("is longer than it should be")
        out.feed(chunk)
    out.finish()
    return Answer(Entry(digest.hexdigest(), size), response.headers.get("Content-Type", ""))


async def fetch_bytes(session: aiohttp.ClientSession, url: str, limit: int) -> bytes | None:
    """`fetch` for what is wanted itself."""
    parts: list[bytes] = []
    return None if await fetch(session, url, limit, parts.append) is None else b"".join(parts)


def wrong_type(name: str, type: str) -> str:
    """Why a browser would not take a file of that type for what it is; "" when it would."""
    essence = type.partition(";")[0].strip().lower()
    match name.rpartition(".")[2]:
        case "js" | "mjs" if essence not in JAVASCRIPT:
            wanted = "text/javascript"
        case "wasm" if type.strip().lower() != "application/wasm":  # no parameters either (WebAssembly Web API)
            wanted = "application/wasm"
        case "html" if essence != "text/html":
            wanted = "text/html"
        case "css" if essence != "text/css":
            wanted = "text/css"
        case _:
            return ""
    return f"has the type {type or '(none)'}: browsers want {wanted}"


async def read_published(session: aiohttp.ClientSession, site: str) -> Published:
    """A site's manifest and what came beside it. Raises Refused."""
    data = {}
    for name, limit in BESIDE.items():
        try:
            data[name] = await fetch_bytes(session, urljoin(site, name), limit)
        except Refused as error:
            raise Refused(f"{name} {error}") from None
        if data[name] is None and name == MANIFEST:
            raise Refused(f"{MANIFEST} is missing: this site shows no list of its files")
    return Published(Manifest.parse(data[MANIFEST] or b""), data[RELEASE], data[LOG])


async def begin(session: aiohttp.ClientSession, url: str) -> Site:
    """A site with its manifest, or the problem with that."""
    site = Site(url)
    try:
        site.published = await read_published(session, url)
    except Refused as error:
        site.problems.append((MANIFEST, str(error)))
    return site


async def inspect(
    session: aiohttp.ClientSession, site: Site, expected: Manifest | None, progress: Callable[[int], None]
) -> None:
    """Fetch everything, and add to the site's problems what differs from `expected`, or from its own manifest.

    Args:
        progress: gets the number of bytes of each file that was looked at.
    """
    own = site.published.manifest if site.published else None
    manifest = expected or own
    if manifest is None:
        return
    if site.published is not None:
        published = site.published
        site.verdict = check(published.manifest, published.release, published.log, Trust.of(manifest), None)
    slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def look(name: str, path: str, entry: Entry) -> None:
        async with slots:
            problem = await _problem(session, urljoin(site.url, path), name, entry)
        progress(entry.size)
        if problem:
            site.problems.append((path or "/", problem))

    looks = [(name, name, entry) for name, entry in manifest.files.items()]
    if INDEX in manifest.files:
        looks.insert(0, (INDEX, "", manifest.files[INDEX]))
    try:
        async with asyncio.timeout(SITE_TIMEOUT), asyncio.TaskGroup() as group:
            for one in looks:
                group.create_task(look(*one))
    except TimeoutError:
        site.problems.append(("/", f"is too slow: {SITE_TIMEOUT:.0f} seconds were not enough for all files"))
    site.problems.sort()


async def _problem(session: aiohttp.ClientSession, url: str, name: str, entry: Entry) -> str:
    try:
        answer = await fetch(session, url, min(entry.size + CHUNK, MAX_FILE))
    except Refused as error:
        return str(error)
    if answer is None:
        return "is missing"
    return differs_by(entry, answer.entry) or wrong_type(name, answer.type)


async def gather(
    session: aiohttp.ClientSession, sites: list[str], root: str, progress: Callable[[int, int], None]
) -> dict[str, bytes]:
    """Every file of the manifest with this root hash, each from the first of the sites that has the right bytes; and
    what lies beside them.

    Raises:
        Refused: no site has the manifest, or one of the files; or they are too slow.
    """
    try:
        async with asyncio.timeout(GATHER_TIMEOUT):
            return await _gather(session, sites, root, progress)
    except TimeoutError:
        raise Refused(f"the sites are too slow: {GATHER_TIMEOUT:.0f} seconds were not enough") from None


async def _gather(
    session: aiohttp.ClientSession, sites: list[str], root: str, progress: Callable[[int, int], None]
) -> dict[str, bytes]:
    why: list[str] = []
    having: list[str] = []
    published: Published | None = None
    for site in sites:
        try:
            found = await read_published(session, site)
            if found.manifest.root != root:
                raise Refused(f"it serves another version, with root hash {found.manifest.root}")
            published = published or found
            having.append(site)
        except Refused as error:
            why.append(f"{site}: {error}")
    if published is None:
        raise Refused("; ".join(why))
    beside = {MANIFEST: published.manifest.encode(), RELEASE: published.release, LOG: published.log}
    files = {name: data for name, data in beside.items() if data is not None}
    total = sum(entry.size for entry in published.manifest.files.values())
    done = 0
    for name, entry in published.manifest.files.items():
        files[name] = await _first(session, having, name, entry)
        done += entry.size
        progress(done, total)
    return files


async def _first(session: aiohttp.ClientSession, sites: list[str], name: str, entry: Entry) -> bytes:
    why: list[str] = []
    for site in sites:
        try:
            data = await fetch_bytes(session, urljoin(site, name), entry.size)
        except Refused as error:
            why.append(f"{name} of {site} {error}")
            continue
        if data is not None and Entry.of(data) == entry:
            return data
        why.append(f"{name} of {site} " + ("is missing" if data is None else "differs from the list"))
    raise Refused("; ".join(why))
