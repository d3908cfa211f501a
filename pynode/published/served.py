"""What a site serves, as a browser would see it.

Does: fetch the manifest, every file in it, the page at "/" and what proves a release; compare each byte and each type
that browsers insist on; bound size and time, because a site may be hostile.
Does not: follow a redirect to another origin, believe a site's own list when another one is expected, or find out
what a site serves to others.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Container, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import aiohttp

from pynode.origins import DEFAULT_PORTS
from pynode.published.folder import BESIDE, PACKED_EXTRA, Published, differs_by
from pynode.published.log import Log
from pynode.published.manifest import LOG, MANIFEST, RELEASE, Entry, Manifest, Refused
from pynode.published.packed import ENCODINGS, unpacker
from pynode.published.release import Release, Trust, Verdict, check
from pynode.transports.dialling import network_reason

CONNECT_TIMEOUT = 15.0
"""Seconds until a connection stands."""
STALL_TIMEOUT = 15.0
"""Seconds without a byte."""
LEAST_RATE = 4 << 10
"""Bytes a second that a site must send over a whole file, redirects included. MAX_AT_ONCE files share the line."""
SITE_TIMEOUT = 1200.0
"""Seconds for all files that one site lists."""
GATHER_TIMEOUT = 3600.0
"""Seconds to get a copy from all sites together."""
MAX_AT_ONCE = 4
"""Requests under way to one site."""
MAX_REDIRECTS = 5
CHUNK = 64 << 10

INDEX = "index.html"
# A site that treats programs and browsers differently must take this for a browser.
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
"""Types that module scripts and workers may have (WHATWG MIME Sniffing, section 4.6)."""
# In Firefox the first header makes a page go elsewhere; the second makes it load a style sheet.
_ACTING = re.compile(r"refresh:|link:.*stylesheet", re.IGNORECASE | re.DOTALL)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s;,"]*)')


@dataclass(frozen=True, slots=True)
class Answer:
    """What came for one address: hash and size of its bytes, its type, and a header that makes browsers act, or ""."""

    entry: Entry
    type: str
    acting: str


@dataclass(slots=True)
class Site:
    """What is known of one site so far.

    Args:
        problems: (file, what is wrong with it); "/" is the page itself.
        notes: why a file beside the list could not be fetched; browsers treat such a file as absent.
    """

    url: str
    published: Published | None = None
    verdict: Verdict | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def root(self) -> str | None:
        return None if self.published is None else self.published.manifest.root


@asynccontextmanager
async def browsing() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that unpacks nothing by itself, keeps no cookies, and has a limit for each wait."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=STALL_TIMEOUT)
    async with aiohttp.ClientSession(
        timeout=timeout, headers=HEADERS, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield session


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    limit: int,
    sink: Callable[[bytes], object] | None = None,
    via: Container[str] | None = None,
) -> Answer | None:
    """GET, as a browser does it; None when there is nothing at that address (404).

    Args:
        limit: most bytes that it may have, unpacked.
        sink: gets the bytes, unpacked, as they come.
        via: addresses to which the site may redirect; None allows any on the same site.

    Raises:
        Refused: its message is a clause that begins with a verb and says what is wrong with the answer.
    """
    longest = STALL_TIMEOUT + limit / LEAST_RATE
    deadline = asyncio.timeout(longest)
    try:
        first = _server(url)
        async with deadline:
            for _ in range(MAX_REDIRECTS + 1):
                async with session.get(url, allow_redirects=False) as response:
                    if response.status in (301, 302, 303, 307, 308):
                        before, url = url, response.headers.get("Location", "")
                        url = urljoin(before, url)
                        if _server(url) != first:
                            raise Refused(f"redirects to another site, {url}")
                        if via is not None and url not in via:
                            raise Refused(f"redirects to {url}, and browsers look there for what it loads")
                        continue
                    if response.status in (404, 410):
                        return None
                    if response.status != 200:
                        raise Refused(f"is answered with status {response.status}")
                    return await _body(response, limit, sink)
        raise Refused("redirects without end")
    except (aiohttp.ClientConnectorError, TimeoutError) as error:
        if deadline.expired():
            raise Refused(f"is too slow: {longest:.0f} seconds were not enough") from None
        raise Refused(f"cannot be fetched: {network_reason(getattr(error, 'os_error', error))}") from None
    except ValueError:  # aiohttp's InvalidURL too
        raise Refused(f"cannot be fetched: {url} is no address") from None
    except (aiohttp.ClientError, OSError):
        raise Refused("cannot be fetched: the answer breaks off or is no HTTP") from None


def _server(url: str) -> tuple[str, str | None, int | None]:
    """What makes two addresses one origin. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


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
    # Of several types a browser may take the last.
    type = ", ".join(response.headers.getall("Content-Type", []))
    headers = (f"{name}: {value}" for name, value in response.headers.items())
    return Answer(Entry(digest.hexdigest(), size), type, next(filter(_ACTING.match, headers), ""))


async def fetch_bytes(session: aiohttp.ClientSession, url: str, limit: int) -> bytes | None:
    """The bytes that `fetch` gets, or None."""
    parts: list[bytes] = []
    return None if await fetch(session, url, limit, parts.append) is None else b"".join(parts)


def wrong_type(name: str, type: str) -> str:
    """Why a browser would not run or show a file with that type as intended; "" when it would."""
    essence = type.partition(";")[0].strip().lower()
    charsets = set(_CHARSET.findall(type.lower())) - {"utf-8", "utf8"}
    match name.rpartition(".")[2]:
        case "js" | "mjs" if essence not in JAVASCRIPT:
            wanted = "text/javascript"
        case "wasm" if type.strip().lower() != "application/wasm":  # no parameters either (WebAssembly Web API)
            wanted = "application/wasm"
        case "html" if essence != "text/html":
            wanted = "text/html"
        case "css" if essence != "text/css":
            wanted = "text/css"
        case "js" | "mjs" | "html" | "css" if charsets:
            wanted = "charset=utf-8"
        case _:
            return ""
    return f"has the type {type or '(none)'}: browsers want {wanted}"


async def read_published(session: aiohttp.ClientSession, site: str, note: Callable[[str], object]) -> Published:
    """A site's manifest and what came beside it; `note` gets the reason for each that did not come.
    Raises Refused when there is no manifest."""
    data: dict[str, bytes | None] = dict.fromkeys(BESIDE)
    for name, limit in BESIDE.items():
        try:
            data[name] = await fetch_bytes(session, urljoin(site, name), limit)
        except Refused as error:
            if name == MANIFEST:
                raise
            note(f"{name} {error}")
        if data[MANIFEST] is None:
            raise Refused("is missing: this site shows no list of its files")
    return Published(Manifest.parse(data[MANIFEST] or b""), data[RELEASE], data[LOG])


async def begin(session: aiohttp.ClientSession, url: str) -> Site:
    """A site with its manifest, or the problem with that."""
    site = Site(url)
    try:
        site.published = await read_published(session, url, site.notes.append)
    except Refused as error:
        site.problems.append((MANIFEST, str(error)))
    return site


async def inspect(
    session: aiohttp.ClientSession, site: Site, expected: Manifest | None, progress: Callable[[int], None]
) -> None:
    """Fetch everything, and add to the site's problems what differs from `expected`, or from its own manifest.

    Args:
        progress: gets the number of bytes of each file that was checked.
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
            problem = await _problem(session, site.url, path, name, entry)
        progress(entry.size)
        if problem:
            site.problems.append((path or "/", problem))

    looks = [(name, name, entry) for name, entry in manifest.files.items()]
    if INDEX in manifest.files:
        looks.insert(0, (INDEX, "", manifest.files[INDEX]))
    else:
        site.problems.append(("/", f"is compared with nothing: the list of files has no {INDEX}"))
    try:
        async with asyncio.timeout(SITE_TIMEOUT), asyncio.TaskGroup() as group:
            for one in looks:
                group.create_task(look(*one))
    except TimeoutError:
        site.problems.append(("/", f"is too slow: {SITE_TIMEOUT:.0f} seconds were not enough for all files"))
    site.problems.sort()


async def _problem(session: aiohttp.ClientSession, site: str, path: str, name: str, entry: Entry) -> str:
    url = urljoin(site, path)
    # Pages and scripts resolve addresses against the last address of the redirects: it must be in the same folder.
    # The whole address is compared: browsers read odd ones, such as those with backslashes, in another way than we do.
    via = {site, urljoin(site, INDEX)} if name == INDEX else {url.removesuffix(".html")}
    try:
        answer = await fetch(session, url, entry.size, via=via)
    except Refused as error:
        return str(error)
    if answer is None:
        return "is missing"
    if answer.acting:
        return f"has a header by which browsers go or load elsewhere ({answer.acting})"
    return differs_by(entry, answer.entry) or wrong_type(name, answer.type)


async def gather(
    session: aiohttp.ClientSession, sites: Sequence[str], root: str, progress: Callable[[int, int], None]
) -> dict[str, bytes]:
    """Every file of the manifest with this root hash, each from a site that has the right bytes; and what lies beside
    them.

    Raises:
        Refused: no site has the manifest, or one of the files; or they are too slow.
    """
    try:
        async with asyncio.timeout(GATHER_TIMEOUT):
            return await _gather(session, sites, root, progress)
    except TimeoutError:
        raise Refused(f"the sites are too slow: {GATHER_TIMEOUT:.0f} seconds were not enough") from None


async def _gather(
    session: aiohttp.ClientSession, sites: Sequence[str], root: str, progress: Callable[[int, int], None]
) -> dict[str, bytes]:
    found = await asyncio.gather(*(begin(session, url) for url in sites))
    having = {site.url: site.published for site in found if site.published and site.root == root}
    if not having:
        for site in found:
            if site.root:
                site.problems.append((MANIFEST, f"is of another version, with root hash {site.root}"))
        raise Refused("; ".join(f"{MANIFEST} of {site.url}: {site.problems[0][1]}" for site in found))
    faults = dict.fromkeys(having, 0)
    manifest = next(iter(having.values())).manifest
    files = {MANIFEST: manifest.encode(), **_best_proof(having.values())}
    total = sum(entry.size for entry in manifest.files.values())
    done = 0
    for name, entry in manifest.files.items():
        files[name] = await _from_any(session, faults, name, entry)
        done += entry.size
        progress(done, total)
    return files


def _best_proof(found: Iterable[Published]) -> dict[str, bytes]:
    """release.json and releases.txt of the site whose pair proves most, without a malformed one."""

    def proof(one: Published) -> tuple[bool, int, bool]:
        verdict = check(one.manifest, one.release, one.log, Trust.of(one.manifest), None)
        return verdict.ok, len(verdict.signers), verdict.index is not None

    best = max(found, key=proof)
    kept = {}
    with suppress(Refused):
        if best.release is not None:
            kept[RELEASE] = Release.parse(best.release).encode()
    with suppress(Refused):
        if best.log is not None:
            kept[LOG] = Log.parse(best.log).encode()
    return kept


async def _from_any(session: aiohttp.ClientSession, faults: dict[str, int], name: str, entry: Entry) -> bytes:
    why: list[str] = []
    # A site that failed before is asked last, so that a dead site costs time once and not for every file.
    for site in sorted(faults, key=lambda url: faults[url]):
        try:
            data = await fetch_bytes(session, urljoin(site, name), entry.size)
            if data is not None and Entry.of(data) == entry:
                return data
            reason = "is missing" if data is None else "differs from the list"
        except Refused as error:
            reason = str(error)
        faults[site] += 1
        why.append(f"{name} of {site} {reason}")
    raise Refused("; ".join(why))
