"""A stage between HTTP/1.1 messages and bytes, for a client or a server (h11).

Does: carry any number of requests and answers, one after the other, over one pipe; chunked bodies, bodies of a given
length and bodies that the end of the pipe ends; hold a request back until the answer to the one before is whole.
Does not: know addresses, redirects, cookies or content codings; switch to another protocol (CONNECT, Upgrade).

On the near side a message is written, and handed up, as its parts: a `Request` or `Response`, its body as `bytes` of
any number, an `EndOfMessage`. A response of 100 to 199 comes before the one that it announces and has no body and no
`EndOfMessage`. What a peer sends against RFC 9112 fails the stage: Flaw.GARBAGE, TRUNCATED (also for a body shorter
than its length), TOO_LONG (a head or trailer), UNASKED (an answer to nothing, or more of one than its length). What
our own user writes against it: Flaw.MISUSE. The end of a way ends it after a whole message only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import h11

from convergence.pipes.stage import CHUNK, Flaw, Stage, StageError

MAX_HEAD = 64 * 1024  # bytes of a head or trailer, as they come
MAX_INFORMATIONAL = 16  # responses of 100 to 199 to one request

Headers: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Head:
    """`len`: about the bytes that it takes as it comes."""

    headers: Headers

    def __len__(self) -> int:
        return _size(self.headers)

    def get(self, name: str) -> str | None:
        """The first header of this name, given in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Request(_Head):
    """Headers that come have names in lower case. One that is written needs a Host."""

    method: str
    target: str

    def __len__(self) -> int:
        return _size(self.headers, self.method, self.target)


@dataclass(frozen=True, slots=True)
class Response(_Head):
    status: int
    reason: str = ""

    def __len__(self) -> int:
        return _size(self.headers, self.reason)


@dataclass(frozen=True, slots=True)
class EndOfMessage(_Head):
    """`headers`: those of a trailer."""

    headers: Headers = ()


def _size(headers: Headers, *line: str) -> int:
    size = sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
    return size + len("\r\n") + sum(map(len, line))


Part: TypeAlias = Request | Response | bytes | EndOfMessage


class Http(Stage[Part, bytes]):
    """Use `client()` or `server()`."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER]) -> None:
        self._h11 = h11.Connection(role, max_incomplete_event_size=MAX_HEAD)
        super().__init__(_Writer(self, self._h11), _Reader(self, self._h11))

    @property
    def reusable(self) -> bool:
        """Whether another request may go over this pipe, now that the last answer is whole."""
        return not self.closed and self._h11.our_state is h11.IDLE

    def next_cycle(self, now: float) -> None:
        """If this message was the last of its exchange, the next exchange begins; whatever waited for it goes on."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        self.resume(now)


def client() -> Http:
    """Requests go out, responses come."""
    return Http(h11.CLIENT)


def server() -> Http:
    """Requests come, responses go out."""
    return Http(h11.SERVER)


class _Writer:
    """Parts -> bytes."""

    def __init__(self, stage: Http, connection: h11.Connection) -> None:
        self._stage = stage
        self._h11 = connection

    def feed(self, part: Part, now: float) -> Iterator[bytes | None]:
        while isinstance(part, Request) and self._h11.our_state is h11.DONE:
            yield None  # the answer to the request before is not whole
        if isinstance(part, bytes):
            for at in range(0, len(part), CHUNK):
                yield self._send(h11.Data(data=part[at : at + CHUNK]))
        elif isinstance(part, EndOfMessage):
            yield self._send(h11.EndOfMessage(headers=part.headers))  # type: ignore[arg-type]
            self._stage.next_cycle(now)
        else:
            yield self._send(_event_of(part))

    def finish(self, now: float) -> Iterator[bytes | None]:
        if self._h11.our_state not in (h11.MUST_CLOSE, h11.CLOSED):
            yield self._send(h11.ConnectionClosed())

    def _send(self, event: h11.Event) -> bytes:
        try:
            data = self._h11.send(event) or b""
        except h11.LocalProtocolError as error:
            raise StageError(Flaw.MISUSE, str(error)) from None
        _refuse_switch(self._h11, Flaw.MISUSE)
        return data


class _Reader:
    """Bytes -> parts."""

    def __init__(self, stage: Http, connection: h11.Connection) -> None:
        self._stage = stage
        self._h11 = connection
        self._informational = 0  # of the answer that comes

    def feed(self, data: bytes, now: float) -> Iterator[Part | None]:
        for at in range(0, len(data), CHUNK):
            self._h11.receive_data(data[at : at + CHUNK])
            yield from self._parts(Flaw.GARBAGE, now)

    def finish(self, now: float) -> Iterator[Part | None]:
        self._h11.receive_data(b"")
        yield from self._parts(Flaw.TRUNCATED, now)

    def _parts(self, flaw: Flaw, now: float) -> Iterator[Part | None]:
        body: list[bytes] = []  # handed up as one, because a chunk may have one byte
        while True:
            event = self._next_event(flaw)
            if isinstance(event, h11.Data):
                body.append(bytes(event.data))
                continue
            if body:
                yield b"".join(body)
                body.clear()
            if isinstance(event, h11.EndOfMessage):
                surplus = self._unasked()
                self._stage.next_cycle(now)
                yield _short(EndOfMessage(_headers_of(event)))
                if surplus:
                    raise StageError(Flaw.UNASKED)
            elif event is h11.PAUSED:
                yield None  # what follows belongs to the next exchange
            elif isinstance(event, h11.Request):
                method, target = event.method.decode("latin-1"), event.target.decode("latin-1")
                yield _short(Request(_headers_of(event), method, target))
            elif isinstance(event, h11.Response | h11.InformationalResponse):
                self._count(event)
                yield _short(Response(_headers_of(event), event.status_code, event.reason.decode("latin-1")))
            else:
                return  # NEED_DATA, or ConnectionClosed

    def _unasked(self) -> bool:
        """Whether, at a client, bytes are here while no answer is due."""
        states = (h11.IDLE, h11.DONE, h11.MUST_CLOSE)
        return (
            self._h11.our_role is h11.CLIENT and self._h11.their_state in states and len(self._h11.trailing_data[0]) > 0
        )

    def _next_event(self, flaw: Flaw) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        connection = self._h11
        if self._unasked():
            raise StageError(Flaw.UNASKED)
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise StageError(Flaw.TOO_LONG if error.error_status_hint == 431 else flaw, str(error)) from None
        _refuse_switch(connection, Flaw.GARBAGE)
        return event

    def _count(self, response: h11.Response | h11.InformationalResponse) -> None:
        self._informational += 1
        if isinstance(response, h11.Response):
            self._informational = 0
        elif self._informational > MAX_INFORMATIONAL:
            raise StageError(Flaw.TOO_LONG, "too many informational responses")


def _event_of(head: Request | Response) -> h11.Event:
    """Raises StageError (MISUSE) for a head that no message may have."""
    try:
        headers: list[tuple[bytes, bytes]] = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers
        ]
        if isinstance(head, Request):
            return h11.Request(method=head.method, target=head.target, headers=headers)
        kind = h11.InformationalResponse if head.status < 200 else h11.Response
        return kind(status_code=head.status, headers=headers, reason=head.reason)
    except (h11.LocalProtocolError, UnicodeError) as error:
        raise StageError(Flaw.MISUSE, str(error)) from None


def _headers_of(event: h11.Request | h11.Response | h11.InformationalResponse | h11.EndOfMessage) -> Headers:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)


P = TypeVar("P", bound=_Head)


def _short(head: P) -> P:
    """h11 limits what is incomplete. This limits what came at once, too."""
    if len(head) > MAX_HEAD:
        raise StageError(Flaw.TOO_LONG)
    return head


def _refuse_switch(connection: h11.Connection, flaw: Flaw) -> None:
    if h11.SWITCHED_PROTOCOL in (connection.our_state, connection.their_state):
        raise StageError(flaw, "a switch to another protocol")
