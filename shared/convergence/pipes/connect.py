"""What a program on this machine says to a proxy in HTTP: CONNECT (RFC 9110, section 9.3.6), and nothing else.

Does: read the head of a request that is cut anywhere, refuse whatever a web page could send and whatever two readers
could understand differently, write the answers.
Does not: forward requests, serve pages, or send CORS headers: no page gets to read what this port answers.

A page of any site can have a browser send requests to a port of this machine, but none with the method CONNECT.
Browsers that use the port as their proxy send CONNECT without the headers that tell of a page.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NoBase64

from convergence.errors import ParseError
from convergence.pipes.socks import Ask, Caller, Dialect, Flaw, Reading, Refused, Reply
from convergence.wire.relay import parse_target

MAX_HEAD = 16 * 1024  # bytes of request line and headers

_REQUEST_LINE = re.compile(rb"([A-Z]{1,32}) ([!-~]+) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OF_PAGES = re.compile(rb"origin|referer|cookie|sec-.*|access-control-.*")  # a browser says these for a page
_ONCE = frozenset((b"host", b"proxy-authorization", b"content-length", b"transfer-encoding"))
_ISOLATION = (b"x-tor-stream-isolation", b"tor-stream-isolation")  # Tor, http-connect.md

_GRANTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_STATUS = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def read_connect(caller: Caller) -> Reading[Ask]:
    """A request, its first byte included."""
    caller.granted, caller.refused = lambda found: _GRANTED, _refused
    line = yield from _line(caller, MAX_HEAD)
    left = MAX_HEAD - len(line) - 2
    request = _REQUEST_LINE.fullmatch(line)
    if request is None:
        raise Refused(Flaw.GARBLED)
    method, authority, minor = request.groups()
    if method != b"CONNECT":
        raise Refused(Flaw.METHOD)
    headers: dict[bytes, bytes] = {}
    while line := (yield from _line(caller, left)):
        left -= len(line) + 2
        header = _HEADER.fullmatch(line)  # none begins with a space: lines are not folded
        if header is None:
            raise Refused(Flaw.GARBLED)
        name = header[1].lower()
        if _OF_PAGES.fullmatch(name):
            raise Refused(Flaw.PAGE)
        if name in headers and name in _ONCE:
            raise Refused(Flaw.GARBLED)
        headers[name] = header[2]
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
        raise Refused(Flaw.GARBLED)  # what follows the head is the tunnel's, not a body
    host, port = _host_and_port(authority, Flaw.NAME)
    named = headers.get(b"host", b"" if minor == b"1" else authority)
    if named.endswith(b"]") or b":" not in named:
        named += b":%d" % port
    if _host_and_port(named, Flaw.HOST) != (host, port):
        raise Refused(Flaw.HOST)
    isolation = (headers.get(name, b"") for name in _ISOLATION)
    return Ask.of(Dialect.HTTP, host.encode(), port, _credentials(headers), *isolation)


def _line(caller: Caller, most: int) -> Reading[bytes]:
    """What comes before CR LF: at most so many bytes, the CR counted."""
    line = yield from caller.until(b"\n", most)
    if not line.endswith(b"\r") or _CONTROL.search(line[:-1]):
        raise Refused(Flaw.GARBLED)
    return line[:-1]


def _host_and_port(authority: bytes, flaw: Flaw) -> tuple[str, int]:
    try:
        return parse_target(authority.decode("latin-1"))
    except ParseError:
        raise Refused(flaw) from None


def _credentials(headers: dict[bytes, bytes]) -> bytes:
    """ "user:password" of Proxy-Authorization (RFC 7617); nothing where it is missing."""
    scheme, _, encoded = headers.get(b"proxy-authorization", b"basic Og==").partition(b" ")
    try:
        credentials = b64decode(encoded.strip(), validate=True)
    except NoBase64:
        raise Refused(Flaw.ISOLATION) from None
    if scheme.lower() != b"basic" or b":" not in credentials:
        raise Refused(Flaw.ISOLATION)
    return credentials


def _refused(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.http} {_STATUS[reply.http]}",
        *(["Allow: CONNECT"] if reply.http == 405 else []),
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(reply.words) + 1}",
        "X-Content-Type-Options: nosniff",
    ]
    return "\r\n".join([*lines, "", reply.words + "\n"]).encode()
