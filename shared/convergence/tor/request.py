"""One document asked of a directory, or handed to it (dir-spec "Client behaviour", "Uploading server descriptors"): an
HTTP request over a stream to its directory.

Does: ask, gather the answer within a limit, decompress it, end in time.
Does not: choose directories or open streams (sources.py), or read documents (directory.py).
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.errors import EndReason, ParseError, RemoteError
from convergence.outbox import Outbox, Timer
from convergence.pipes import http
from convergence.pipes.duplex import Duplex
from convergence.wire.compressed import decompress, offered

TIME_LIMIT = 60.0  # seconds that a directory has for everything
HOST = "directory"  # nobody reads it, but HTTP/1.1 wants one
IF_MODIFIED_SINCE = "If-Modified-Since"
MAX_REASON = 100  # characters of a directory's own words for why it refuses


Done = Callable[["bytes | RemoteError", float], None]
"""done(document or why there is none, now)."""


class NotModified(RemoteError):
    """The directory has nothing newer than what we said we have."""


class DocumentRequest:
    """The handler of the HTTP parser at the near end of a stream.

    Args:
        pipe: to the directory, opened or not.
        path: "/tor/...".
        headers: besides those that all requests have.
        limit: most bytes of the document, and of what it is compressed to.
        done: called once.
        upload: what is handed over, by a POST.
    """

    def __init__(
        self,
        outbox: Outbox,
        pipe: Duplex,
        path: str,
        headers: http.Headers,
        limit: int,
        done: Done,
        now: float,
        upload: bytes | None = None,
    ) -> None:
        self._path = path
        self._headers = (("Host", HOST), ("Accept-Encoding", ", ".join(offered())), *headers)
        self._upload = upload
        self._limit = limit
        self._done: Done | None = done
        self._encoding = ""
        self._answered = False
        self._body = bytearray()
        self._timer: Timer = outbox.call_at(now + TIME_LIMIT, self._timed_out)
        self._http = http.client()
        self._http.near.handler = self
        self._http.far.pipe(pipe)

    def cancel(self, now: float) -> None:
        """Nobody waits for it any more."""
        self._done = None
        self._close(now)

    # -- the handler of the HTTP parser

    def opened(self, now: float) -> None:
        if self._upload is None:
            self._http.near.write(http.Request(self._headers, "GET", self._path), now)
        else:
            length = ("Content-Length", str(len(self._upload)))
            self._http.near.write(http.Request((*self._headers, length), "POST", self._path), now)
            self._http.near.write(self._upload, now)
        self._http.near.write(http.EndOfMessage(), now)

    def data(self, data: http.Part, now: float) -> None:
        self._http.near.consumed(len(data), now)
        if isinstance(data, http.Response):
            if data.status >= 200:
                self._head(data, now)
        elif isinstance(data, bytes):
            self._body += data
            if len(self._body) > self._limit:
                self._finish(ParseError(f"an answer of more than {self._limit} bytes"), now)
        elif isinstance(data, http.EndOfMessage):
            self._complete(now)

    def drained(self, now: float) -> None:
        """Nothing to do: the request fits the buffer."""

    def ended(self, now: float) -> None:
        self._finish(ParseError("the directory ended without an answer"), now)

    def aborted(self, code: int, now: float) -> None:
        if self._http.failure is not None or self._answered:
            self._finish(ParseError("the directory's answer is no HTTP, or incomplete"), now)
        else:
            self._finish(RemoteError(f"there is no stream to the directory: {code}"), now)

    # -- inside

    def _head(self, response: http.Response, now: float) -> None:
        self._answered = True
        self._encoding = (response.get("content-encoding") or "identity").lower()
        if response.status == 304 and any(name == IF_MODIFIED_SINCE for name, _ in self._headers):
            self._finish(NotModified("the directory has nothing newer"), now)
        elif response.status != 200:
            answer = f"{response.status} {response.reason}".strip()[:MAX_REASON]
            self._finish(RemoteError(f"the directory answered {answer}"), now)
        elif self._encoding not in offered():
            self._finish(ParseError("an encoding that was not offered"), now)

    def _complete(self, now: float) -> None:
        try:
            document = decompress(self._encoding, bytes(self._body), self._limit)
        except ParseError as error:
            self._finish(error, now)
        else:
            self._finish(document, now)

    def _timed_out(self, now: float) -> None:
        self._finish(RemoteError("the directory took too long"), now)

    def _finish(self, result: bytes | RemoteError, now: float) -> None:
        done, self._done = self._done, None
        self._close(now)
        if done is not None:
            done(result, now)

    def _close(self, now: float) -> None:
        self._timer.cancel()
        self._body = bytearray()
        self._http.near.abort(EndReason.DONE, now)
