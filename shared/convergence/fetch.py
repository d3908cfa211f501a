"""http and https through an exit: one GET, redirects followed.

Does: send a request on a circuit of its own, through an HTTP parser (pipes/http.py) and, for https, TLS to the site
itself (pipes/tls.py); follow redirects, over the same connection where it stays with one site; begin anew when the
circuit breaks before any of the answer came; map every failure to a code.
Does not: send cookies or referrers, or request what fetched content asks for: content goes to a sink and is never
interpreted. A redirect from https to http is refused: what was asked in secret must not go on in the open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from convergence.codes import FetchStage, FetchWhy, Limit, TlsWhy, UrlFlaw
from convergence.errors import EndReason, LocalError, Problem, Why
from convergence.events import FetchDone, FetchFailed, FetchProgress, FetchResponse, FetchStatus
from convergence.outbox import Outbox, Timer
from convergence.path.exits import TRY_ELSEWHERE, ExitConnections, ExitPipe
from convergence.pipes import http
from convergence.pipes.stage import Flaw, StageError
from convergence.pipes.tls import Tls, TlsError, TlsFactory
from convergence.pipes.watching import Meter

MAX_FETCHES = 32  # at once
MAX_URL = 8192
MAX_REDIRECTS = 5
MAX_BODY = 1 << 30  # bytes
MAX_REDIRECT_BODY = 64 * 1024  # bytes of a redirect's own body that are read to keep the connection
PORTS = {"http": 80, "https": 443}
PROTOCOLS = ("http/1.1",)  # for ALPN
ATTEMPTS = 3  # requests sent while nothing of an answer has been received
IDLE_TIMEOUT = 60.0  # seconds without a byte
PROGRESS_STEP = 256 * 1024  # bytes between two progress reports
USER_AGENT = "Mozilla/5.0"  # says nothing about who asks

_WHY: dict[int, FetchWhy] = {
    EndReason.EXITPOLICY: FetchWhy.POLICY,
    EndReason.RESOLVEFAILED: FetchWhy.NO_HOST,
    EndReason.CONNECTREFUSED: FetchWhy.REFUSED,
    EndReason.TIMEOUT: FetchWhy.TIMEOUT,
    EndReason.NOROUTE: FetchWhy.NO_ROUTE,
    EndReason.CONNRESET: FetchWhy.CUT,
    EndReason.DESTROY: FetchWhy.PATH_BROKE,
    EndReason.RESOURCELIMIT: FetchWhy.BUSY,
    EndReason.HIBERNATING: FetchWhy.BUSY,
    EndReason.MISC: FetchWhy.EXIT_FAILED,
}


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed http or https address."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises Problem (UrlFlaw)."""
        url = url.strip()
        if len(url) > MAX_URL:
            raise Problem(UrlFlaw.TOO_LONG)
        if "://" not in url:
            url = "https://" + url
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme, 0)
            host = (parts.hostname or "").encode("idna").decode("ascii")
        except (ValueError, UnicodeError):
            raise Problem(UrlFlaw.NO_URL) from None
        if parts.scheme not in PORTS or not host or any(character.isspace() for character in url):
            raise Problem(UrlFlaw.NO_URL)
        path = parts.path or "/"
        if parts.query:
            path += "?" + parts.query
        if not all("!" <= character <= "~" for character in path):
            raise Problem(UrlFlaw.CHARACTERS)
        return cls(url, parts.scheme, host, port, path)

    @property
    def site(self) -> tuple[str, str, int]:
        """What one connection is for."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """For the Host header: without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class Fetch:
    """One fetch. Reports the events whose names begin with Fetch (events.py).

    Args:
        number: names it in events.
        tls: None where https cannot be spoken.
        sink: called with each chunk of the body, at most 64 KiB or so.

    Raises Problem (UrlFlaw).
    """

    def __init__(
        self,
        number: int,
        url: str,
        exits: ExitConnections,
        outbox: Outbox,
        tls: TlsFactory | None,
        sink: Callable[[bytes], None],
    ) -> None:
        self.number = number
        self.size = 0
        self.over = False
        self._factory = tls
        self._target = self._checked(Target.parse(url))
        self._exits = exits
        self._outbox = outbox
        self._sink = sink
        self._attempts = ATTEMPTS
        self._redirects = MAX_REDIRECTS
        self._reported = 0
        self._pipe: ExitPipe | None = None
        self._http = http.client()
        self._tls: Tls | None = None
        self._meter = Meter(outbox.steady)
        self._redirect: Target | None = None  # where to go when the redirect's own body is over
        self._skipped = 0  # bytes of that body
        self._asked = 0.0  # when the request went into the pipe, in steady time
        self._timer: Timer | None = None

    def start(self, now: float) -> None:
        again = self._attempts < ATTEMPTS
        self._outbox.emit(FetchStatus(self.number, FetchStage.OTHER_EXIT if again else FetchStage.CIRCUIT))
        self._attempts -= 1
        self._open(now)

    def cancel(self, now: float) -> None:
        self._fail(FetchWhy.CANCELLED, now)

    # -- the pipe

    def _checked(self, target: Target) -> Target:
        if target.scheme == "https" and self._factory is None:
            raise Problem(UrlFlaw.HTTPS)
        return target

    def _open(self, now: float) -> None:
        target = self._target
        try:
            self._pipe = self._exits.connect(target.host, target.port, self, now)
            self._tls = None
            if target.scheme == "https" and self._factory is not None:
                self._tls = Tls.client(self._factory, target.host, PROTOCOLS, self._outbox, now)
        except (LocalError, TlsError):  # no stream can name this host, or no certificate
            self._fail(FetchWhy.NO_HOST, now)
            return
        self._asked = 0.0
        self._http, self._meter = http.client(), Meter(self._outbox.steady)
        self._http.near.handler = self
        chain = self._http.far if self._tls is None else self._http.pipe(self._tls)
        chain.pipe(self._meter).pipe(self._pipe)
        self._pipe.on_retry = lambda now: self._outbox.emit(FetchStatus(self.number, FetchStage.OTHER_EXIT))

    def _watch(self, now: float) -> None:
        def check(now: float) -> None:
            if self.over:
                return
            if self._outbox.steady(now) - self._last_byte >= IDLE_TIMEOUT:
                self._fail(FetchWhy.TIMEOUT, now)
            else:
                self._watch(now)

        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._outbox.call_at(self._last_byte + self._outbox.shifted + IDLE_TIMEOUT, check)

    @property
    def _last_byte(self) -> float:
        """When it came, in steady time, or when we asked for it."""
        return self._meter.received.last or self._asked

    # -- the handler of the HTTP parser

    def opened(self, now: float) -> None:
        self._ask(now)

    def _ask(self, now: float) -> None:
        self._asked = self._outbox.steady(now)
        self._outbox.emit(FetchStatus(self.number, FetchStage.ASKING))
        self._watch(now)
        target = self._target
        headers = (("Host", target.authority), ("User-Agent", USER_AGENT), ("Accept", "*/*"))
        self._http.near.write(http.Request(headers, "GET", target.path), now)
        self._http.near.write(http.EndOfMessage(), now)

    def data(self, data: http.Part, now: float) -> None:
        self._http.near.consumed(len(data), now)
        if self._redirect is not None:
            self._skip(data, now)
        elif isinstance(data, bytes):
            self._body(data, now)
        elif isinstance(data, http.Response):
            self._response(data, now)
        else:
            self._complete(now)

    def drained(self, now: float) -> None:
        """Nothing to do: the request always fits the buffer."""

    def ended(self, now: float) -> None:
        self._fail(FetchWhy.INCOMPLETE, now)

    def aborted(self, code: int, now: float) -> None:
        if self._tls is not None and isinstance(self._tls.failure, TlsError):
            self._failed(self._tls.failure.why, now)
        elif isinstance(self._http.failure, StageError):
            cut = self._http.failure.flaw is Flaw.TRUNCATED
            self._fail(FetchWhy.INCOMPLETE if cut else FetchWhy.NOT_HTTP, now)
        elif self._pipe is not None and self._pipe.why is not None:
            self._failed(self._pipe.why, now)
        elif self._tls is not None and not self._asked and code == EndReason.CONNRESET:
            self._fail(TlsWhy.CUT, now)
        elif self._asked and self.size == 0 and self._attempts > 0 and code in TRY_ELSEWHERE:
            self._drop_circuit(now)
            self.start(now)
        else:
            self._fail(_WHY.get(code, FetchWhy.EXIT_FAILED), now)

    # -- the answer

    def _response(self, response: http.Response, now: float) -> None:
        """Report it, or follow where it redirects to."""
        location = response.get("location")
        if response.status < 200:
            return
        if response.status in (301, 302, 303, 307, 308) and location is not None:
            self._follow(location, _length(response), now)
            return
        length = _length(response)
        kind = (response.get("content-type") or "")[:127]
        self._outbox.emit(FetchResponse(self.number, response.status, kind, length))

    def _body(self, data: bytes, now: float) -> None:
        self.size += len(data)
        if self.size > MAX_BODY:
            self._fail(FetchWhy.TOO_LARGE, now)
            return
        self._sink(data)
        if self.size - self._reported >= PROGRESS_STEP:
            self._reported = self.size
            self._outbox.emit(FetchProgress(self.number, self.size))

    def _complete(self, now: float) -> None:
        self.over = True
        self._drop_circuit(now)
        self._outbox.emit(FetchDone(self.number, self.size))

    def _follow(self, redirect: str, length: int | None, now: float) -> None:
        if self._redirects == 0:
            self._fail(FetchWhy.CIRCLE, now)
            return
        self._redirects -= 1
        try:
            target = self._checked(Target.parse(urljoin(self._target.url, redirect)))
            if self._target.scheme == "https" != target.scheme:
                raise Problem(UrlFlaw.DOWNGRADE)
        except Problem as problem:
            self._failed(Why(FetchWhy.BAD_REDIRECT, {"flaw": problem.why.code}), now)
            return
        except ValueError:  # from urljoin, for text that is no URL
            self._failed(Why(FetchWhy.BAD_REDIRECT, {"flaw": UrlFlaw.NO_URL}), now)
            return
        self._redirect, self._skipped = target, 0
        if target.site != self._target.site or length is None or length > MAX_REDIRECT_BODY:
            self._go(now)

    def _skip(self, part: http.Part, now: float) -> None:
        """The rest of a redirect: what it redirects to is at the same site, and is asked for over this connection."""
        self._skipped += len(part)
        if isinstance(part, http.EndOfMessage) or self._skipped > MAX_REDIRECT_BODY:
            self._go(now)

    def _go(self, now: float) -> None:
        """Ask for what was redirected to."""
        target, self._redirect = self._redirect, None
        assert target is not None
        same = target.site == self._target.site
        self._target = target
        if same and self._http.reusable:
            self._ask(now)
            return
        self._http.near.abort(EndReason.DONE, now)
        self._open(now)

    # -- the end

    def _fail(self, code: FetchWhy | TlsWhy, now: float) -> None:
        self._failed(Why(code), now)

    def _failed(self, why: Why, now: float) -> None:
        if self.over:
            return
        self.over = True
        self._drop_circuit(now)
        self._outbox.emit(FetchFailed(self.number, why))

    def _drop_circuit(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._http.near.abort(EndReason.DONE, now)
        self._exits.drop(self, now)


def _length(response: http.Response) -> int | None:
    """Of its body, where it says so."""
    length = response.get("content-length") or ""
    return int(length) if length.isdigit() else None


class Fetches:
    """All fetches of a node, MAX_FETCHES at once.

    Attributes:
        exits: for those that are started from now on.
    """

    def __init__(self, exits: ExitConnections, outbox: Outbox, tls: TlsFactory | None = None) -> None:
        self.exits = exits
        self._outbox = outbox
        self._tls = tls
        self._fetches: dict[int, Fetch] = {}
        self._numbers = 0

    def start(self, url: str, sink: Callable[[bytes], None], now: float) -> int:
        """GET an http or https address through an exit; returns the number that its Events carry. Raises Problem."""
        self._fetches = {number: fetch for number, fetch in self._fetches.items() if not fetch.over}
        if len(self._fetches) >= MAX_FETCHES:
            raise Problem(Limit.FETCHES, most=MAX_FETCHES)
        self._numbers += 1
        fetch = Fetch(self._numbers, url, self.exits, self._outbox, self._tls, sink)
        self._fetches[fetch.number] = fetch
        fetch.start(now)
        return fetch.number

    def cancel(self, number: int, now: float) -> None:
        fetch = self._fetches.get(number)
        if fetch is not None:
            fetch.cancel(now)

    def stop(self, now: float) -> None:
        """Cancel all."""
        for fetch in list(self._fetches.values()):
            fetch.cancel(now)
