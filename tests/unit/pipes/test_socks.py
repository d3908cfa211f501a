"""What programs ask the proxy for: published examples, input cut anywhere, and what is refused in which words."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import EndReason
from convergence.pipes.connect import MAX_HEAD
from convergence.pipes.door import Handshake
from convergence.pipes.socks import MAX_FIELD, REPLIES, SERVICE_REPLIES, Ask, Command, Dialect, Flaw

NO_ADDRESS = b"\0\1" + bytes(6)
GRANTED = {
    Dialect.SOCKS4: b"\0\x5a" + bytes(6),
    Dialect.SOCKS5: b"\5\0" + NO_ADDRESS,
    Dialect.HTTP: b"HTTP/1.1 200 Connection established\r\n\r\n",
}


def shake(*pieces: bytes) -> tuple[Handshake, bytes]:
    """A handshake that was given these pieces, and what it answered."""
    handshake, said = Handshake(), b""
    for number, piece in enumerate(pieces):
        said += handshake.receive(piece)
        if handshake.ask is not None or handshake.flaw is not None:
            handshake.rest += b"".join(pieces[number + 1 :])
            break
    return handshake, said


def asked(data: bytes) -> Ask:
    handshake, _ = shake(data)
    assert handshake.ask is not None, handshake.flaw
    return handshake.ask


def socks5(host: bytes, port: int = 80) -> bytes:
    return b"\5\1\0\5\1\0\3" + bytes((len(host),)) + host + port.to_bytes(2, "big")


def look_up(command: int, host: bytes) -> bytes:
    return b"\5\1\0\5" + bytes((command, 0, 3, len(host))) + host + b"\0\0"


def connect(target: str, *headers: str, host: str | None = None, version: str = "1.1") -> bytes:
    lines = [f"CONNECT {target} HTTP/{version}", f"Host: {target if host is None else host}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def basic(credentials: bytes) -> str:
    return "Proxy-Authorization: Basic " + b64encode(credentials).decode()


# Requests and what is answered before the far end opens. From Tor's src/test/test_socks.c (0.2.4), RFC 1928, section 4,
# RFC 1929, section 2, the SOCKS 4a page of Ying-Da Lee, and RFC 9110, section 9.3.6.
EXAMPLES: dict[str, tuple[bytes, bytes, Ask]] = {
    "Tor: SOCKS 4, address": (
        b"\x04\x01\x11\x12\x02\x02\x02\x03\x00",
        b"",
        Ask("2.2.2.3", 4370, ("socks4", b""), Dialect.SOCKS4),
    ),
    "Tor: SOCKS 4, user": (
        b"\x04\x01\x11\x12\x02\x02\x02\x04me\x00",
        b"",
        Ask("2.2.2.4", 4370, ("socks4", b"me"), Dialect.SOCKS4),
    ),
    "SOCKS 4a, user and name": (
        b"\x04\x01\x00\x50\x00\x00\x00\x01fred\x00example.com\x00",
        b"",
        Ask("example.com", 80, ("socks4", b"fred"), Dialect.SOCKS4),
    ),
    "Tor: SOCKS 5, address": (
        b"\x05\x01\x00\x05\x01\x00\x01\x02\x02\x02\x02\x11\x11",
        b"\x05\x00",
        Ask("2.2.2.2", 4369, ("socks5",), Dialect.SOCKS5),
    ),
    "Tor: SOCKS 5, name": (
        b"\x05\x01\x00\x05\x01\x00\x03\x0etorproject.org\x11\x11",
        b"\x05\x00",
        Ask("torproject.org", 4369, ("socks5",), Dialect.SOCKS5),
    ),
    "Tor: SOCKS 5, user and password": (
        b"\x05\x01\x02\x01\x02me\x03you\x05\x01\x00\x01\x02\x02\x02\x02\x11\x11",
        b"\x05\x02\x01\x00",
        Ask("2.2.2.2", 4369, ("socks5", b"me", b"you"), Dialect.SOCKS5),
    ),
    "SOCKS 5, IPv6": (
        b"\x05\x03\x00\x01\x80\x05\x01\x00\x04" + bytes.fromhex("20010db8000000000000000000000001") + b"\x01\xbb",
        b"\x05\x00",
        Ask("2001:db8::1", 443, ("socks5",), Dialect.SOCKS5),
    ),
    "Tor: SOCKS 5, isolation in format 0": (
        b"\x05\x02\x00\x02\x01\x09<torS0X>0\x01x\x05\x01\x00\x03\x01a\x00\x50",
        b"\x05\x02\x01\x00",
        Ask("a", 80, ("socks5", b"<torS0X>0", b"x"), Dialect.SOCKS5),
    ),
    "Tor: SOCKS 4a RESOLVE": (
        b"\x04\xf0\x01\x01\x00\x00\x00\x02me\x00torproject.org\x00",
        b"",
        Ask("torproject.org", 1, ("socks4", b"me"), Dialect.SOCKS4, Command.RESOLVE),
    ),
    "Tor: SOCKS 5 RESOLVE": (
        b"\x05\x01\x00\x05\xf0\x00\x03\x0etorproject.org\x01\x02",
        b"\x05\x00",
        Ask("torproject.org", 1, ("socks5",), Dialect.SOCKS5, Command.RESOLVE),
    ),
    "Tor: SOCKS 5 RESOLVE_PTR": (
        b"\x05\x01\x00\x05\xf1\x00\x01\x02\x02\x02\x05\x01\x03",
        b"\x05\x00",
        Ask("2.2.2.5", 1, ("socks5",), Dialect.SOCKS5, Command.RESOLVE_PTR),
    ),
    "SOCKS 5 RESOLVE_PTR, IPv6, port 0": (
        b"\x05\x01\x00\x05\xf1\x00\x04" + bytes.fromhex("20010db8000000000000000000000001") + b"\0\0",
        b"\x05\x00",
        Ask("2001:db8::1", 1, ("socks5",), Dialect.SOCKS5, Command.RESOLVE_PTR),
    ),
    "RFC 9110": (
        b"CONNECT server.example.com:80 HTTP/1.1\r\nHost: server.example.com\r\n\r\n",
        b"",
        Ask("server.example.com", 80, ("http", b":", b"", b""), Dialect.HTTP),
    ),
    "RFC 7617, Aladdin": (
        connect("[2001:DB8::1]:443", "proxy-authorization:basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Content-Length: 0"),
        b"",
        Ask("2001:db8::1", 443, ("http", b"Aladdin:open sesame", b"", b""), Dialect.HTTP),
    ),
    "HTTP/1.0 without Host": (
        b"CONNECT a.example:1 HTTP/1.0\r\nX-Tor-Stream-Isolation: 7\r\n\r\n",
        b"",
        Ask("a.example", 1, ("http", b":", b"7", b""), Dialect.HTTP),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_published_examples(name: str) -> None:
    data, answer, ask = EXAMPLES[name]
    handshake, said = shake(data)
    assert (handshake.ask, said, handshake.rest) == (ask, answer, b"")
    assert handshake.granted() == GRANTED[ask.dialect]


@given(st.sampled_from(sorted(EXAMPLES)), st.binary(max_size=40), st.lists(st.integers(0, 200), max_size=30))
def test_a_request_may_be_cut_anywhere_and_what_follows_is_kept(name: str, rest: bytes, cuts: list[int]) -> None:
    data, answer, ask = EXAMPLES[name]
    borders = sorted({0, len(data) + len(rest), *(cut for cut in cuts if cut < len(data) + len(rest))})
    pieces = [(data + rest)[one:other] for one, other in zip(borders, borders[1:], strict=False)]
    handshake, said = shake(*pieces)
    assert (handshake.ask, said, handshake.rest) == (ask, answer, rest)


@pytest.mark.parametrize("name", EXAMPLES)
def test_less_than_a_request_is_waited_for_and_answered_as_far_as_it_goes(name: str) -> None:
    data, answer, _ = EXAMPLES[name]
    for size in range(len(data)):
        handshake, said = shake(data[:size])
        assert handshake.ask is None and handshake.flaw is None and answer.startswith(said)


def test_passwords_are_not_shown() -> None:
    ask = asked(connect("a.example:1", basic(b"fred:sesame")))
    assert b"fred:sesame" in ask.isolation and "sesame" not in repr(ask)


# -- isolation


def test_whoever_says_who_he_is_shares_with_nobody_else() -> None:
    def log_in(user: bytes, password: bytes) -> bytes:
        fields = (bytes((len(field),)) + field for field in (user, password))
        return b"\5\1\2\1" + b"".join(fields) + b"\5\1\0\3\1a\0\x50"

    users = [
        socks5(b"a"),
        log_in(b"", b""),
        log_in(b"a", b"b"),
        log_in(b"ab", b""),
        log_in(b"", b"ab"),
        log_in(b"<torS0X>0", b""),
        log_in(b"<torS0X>0", b"ab"),
        log_in(b"<torS0X>0", b"ab\0"),
        b"\4\1\0\x50\1\1\1\1\0",
        b"\4\1\0\x50\1\1\1\1ab\0",
        connect("a:80"),
        connect("a:80", basic(b"a:b")),
        connect("a:80", basic(b"ab:")),
        connect("a:80", "X-Tor-Stream-Isolation: a:b"),
        connect("a:80", "Tor-Stream-Isolation: a:b"),
    ]
    assert len({asked(user).isolation for user in users}) == len(users)
    assert asked(log_in(b"a", b"b")).isolation == asked(log_in(b"a", b"b")).isolation


# -- what is refused, and how

REFUSED: dict[str, tuple[bytes, Flaw, bytes]] = {
    "Tor: SOCKS 4 BIND": (b"\x04\x02\x11\x11\x02\x02\x02\x02\x00", Flaw.COMMAND, b"\0\x5b" + bytes(6)),
    "SOCKS 4 RESOLVE_PTR": (b"\x04\xf1\x00\x00\x02\x02\x02\x02\x00", Flaw.COMMAND, b"\0\x5b" + bytes(6)),
    "Tor: SOCKS 5 RESOLVE_PTR of a name": (look_up(0xF1, b"torproject.org"), Flaw.KIND, b"\5\0\5\x08" + NO_ADDRESS),
    "Tor: CONNECT_DIR of old": (look_up(0xF2, b"a"), Flaw.COMMAND, b"\5\0\5\7" + NO_ADDRESS),
    "Tor: SOCKS 5 BIND": (
        b"\x05\x02\x00\x01\x05\x02\x00\x01\x02\x02\x02\x01\x01\x01",
        Flaw.COMMAND,
        b"\5\0\5\7" + NO_ADDRESS,
    ),
    "Tor: SOCKS 5 UDP ASSOCIATE": (
        b"\x05\x03\x00\x01\x02\x01\0\0\x05\x03\x00\x01\x02\x02\x02\x01\x01\x01",
        Flaw.COMMAND,
        b"\5\2\1\0\5\7" + NO_ADDRESS,
    ),
    "Tor: log-in before it was agreed on": (b"\x01\x02me\x02me", Flaw.GARBLED, b""),
    "GSSAPI only": (b"\5\1\1", Flaw.METHODS, b"\5\xff"),
    "no method": (b"\5\0", Flaw.METHODS, b"\5\xff"),
    "log-in of a later version": (b"\5\1\2\2", Flaw.GARBLED, b"\5\2"),
    "Tor: isolation in a format to come": (b"\5\1\2\1\x09<torS0X>1\0", Flaw.ISOLATION, b"\5\2\1\1"),
    "Tor: isolation by an object": (b"\5\1\2\1\x0a<torS0X>0a\0", Flaw.ISOLATION, b"\5\2\1\1"),
    "Tor: isolation without a format": (b"\5\1\2\1\x08<torS0X>\0", Flaw.ISOLATION, b"\5\2\1\1"),
    "SOCKS 4 within SOCKS 5": (b"\5\1\0\4\1\0\1", Flaw.GARBLED, b"\5\0\5\1" + NO_ADDRESS),
    "reserved byte": (b"\5\1\0\5\1\1\1", Flaw.GARBLED, b"\5\0\5\1" + NO_ADDRESS),
    "kind of address": (b"\5\1\0\5\1\0\2", Flaw.KIND, b"\5\0\5\x08" + NO_ADDRESS),
    "no name": (socks5(b""), Flaw.NAME, b"\5\0\5\4" + NO_ADDRESS),
    "port 0": (socks5(b"a.example", 0), Flaw.NAME, b"\5\0\5\4" + NO_ADDRESS),
    "long name in SOCKS 4a": (b"\4\1\0\x50\0\0\0\1\0" + b"a" * 256, Flaw.LONG, b"\0\x5b" + bytes(6)),
    "long user in SOCKS 4": (b"\4\1\0\x50\1\1\1\1" + b"a" * 256, Flaw.LONG, b"\0\x5b" + bytes(6)),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", Flaw.GARBLED, b""),
    "lower case": (b"connect a.example:1 HTTP/1.1\r\n", Flaw.GARBLED, b""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_in_socks(name: str) -> None:
    data, flaw, answer = REFUSED[name]
    handshake, said = shake(data)
    assert (handshake.flaw, handshake.ask, said) == (flaw, None, answer)


@pytest.mark.parametrize(
    "name",
    [
        *(b"a\0b", b"a\nb", b"a b", b"a\x7f", b"\xc3\xbc.example", b"-a.example", b"a-", b"a/b", b"a@b", b"a%00b"),
        *(b"[::1", b"::1]", b"[a.example]", b"1:2", b"fe80::1%eth0", b"a.example:80", b"[]", b"[", b":", b"a?", b"*"),
    ],
)
def test_what_is_no_name(name: bytes) -> None:
    assert shake(socks5(name))[0].flaw is Flaw.NAME
    if b"\0" not in name:
        assert shake(b"\4\1\0\x50\0\0\0\1\0" + name + b"\0")[0].flaw is Flaw.NAME
    handshake, said = shake(b"CONNECT " + name + b":80 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert handshake.flaw in (Flaw.NAME, Flaw.GARBLED, Flaw.HOST) and said.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "name",
    [
        *("x.onion", "X.ONION.", "onion", "a.exit", f"{'ab' * 32}.rdv", "peer.node", "x.peer.node", "PEER.node."),
        *("x.conv", "hash.conv", "conv", "x.hush.conv"),
    ],
)
def test_names_that_mean_something_else_never_reach_an_exit(name: str) -> None:
    handshake, said = shake(socks5(name.encode()))
    assert handshake.flaw is Flaw.RESERVED and said[3] == 2
    assert shake(connect(f"{name}:80"))[1].startswith(b"HTTP/1.1 403 Forbidden\r\n")


@pytest.mark.parametrize(
    ("name", "host"),
    [
        (b"a" * MAX_FIELD, "a" * MAX_FIELD),
        (b"EXAMPLE.com.", "example.com."),
        (b"::FFFF:1.2.3.4", "::ffff:1.2.3.4"),
        (b"[::1]", "::1"),
        (b"myonion", "myonion"),
        (b"_sip.x-y.example", "_sip.x-y.example"),
    ],
)
def test_names_and_addresses_as_names(name: bytes, host: str) -> None:
    assert asked(socks5(name)).host == host


@pytest.mark.parametrize("name", ["Satoshi Nakamoto.hash.conv", "it's.HASH.conv.", f"{'a' * 52}.key.conv"])
def test_names_of_services_may_be_any_text(name: str) -> None:
    ask = asked(socks5(name.encode()))
    assert ask.service and ask.host == name.lower()
    assert shake(socks5(name.encode(), 0))[0].flaw is Flaw.NAME


@pytest.mark.parametrize("name", [b"a\0.hash.conv", b"a\n.hash.conv", b"\xc3\xbc.hash.conv"])
def test_what_is_no_text_names_no_service(name: bytes) -> None:
    assert shake(socks5(name))[0].flaw is Flaw.NAME


# -- HTTP: what a page could send, and what two readers could understand differently


def refused(data: bytes) -> tuple[Flaw | None, bytes]:
    handshake, said = shake(data)
    assert handshake.ask is None
    return handshake.flaw, said


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE", "PRI", "CONNECTED"])
def test_other_methods_get_words_and_no_page_reads_them(method: str) -> None:
    flaw, said = refused(f"{method} http://127.0.0.1:9050/ HTTP/1.1\r\n".encode())
    head, _, body = said.partition(b"\r\n\r\n")
    assert flaw is Flaw.METHOD and head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\n")
    assert b"proxy for CONNECT only" in body and f"Content-Length: {len(body)}".encode() in head
    assert b"access-control" not in head.lower() and b"nosniff" in head and b"text/plain" in head


@pytest.mark.parametrize(
    "header",
    [
        *("Origin: https://site.example", "origin: null", "Referer: https://site.example/", "Cookie: a=b"),
        *("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-WebSocket-Key: x"),
        "Access-Control-Request-Private-Network: true",
    ],
)
def test_what_tells_of_a_page_is_refused(header: str) -> None:
    flaw, said = refused(connect("a.example:443", header))
    assert flaw is Flaw.PAGE and said.startswith(b"HTTP/1.1 403 Forbidden\r\n")


def test_the_usual_headers_of_a_tunnel_tell_of_no_page() -> None:
    agent = "User-Agent: Mozilla/5.0 (X11; Linux x86_64)"
    assert asked(connect("a.example:443", "Proxy-Connection: keep-alive", agent)).host == "a.example"
    assert asked(connect("a.example:443", agent, "Proxy-Connection: keep-alive", "Connection: keep-alive")).port == 443


@pytest.mark.parametrize("host", ["b.example:443", "a.example:80", "a.example.evil.example:443", "a.example:", "", "é"])
def test_the_host_header_names_the_same_host(host: str) -> None:
    assert refused(connect("a.example:443", host=host))[0] is Flaw.HOST


@pytest.mark.parametrize("host", ["A.example:443", "a.EXAMPLE", "  a.example:443\t"])
def test_a_host_header_that_does(host: str) -> None:
    assert asked(connect("a.example:443", host=host)).host == "a.example"


def test_http_11_has_a_host_header() -> None:
    assert refused(b"CONNECT a.example:443 HTTP/1.1\r\n\r\n")[0] is Flaw.HOST


@pytest.mark.parametrize(
    "data",
    [
        connect("a.example:443", "Host: a.example:443"),
        connect("a.example:443", "X: a", " folded"),
        connect("a.example:443", "X: a", "\tfolded"),
        connect("a.example:443", " Host: b.example:443"),
        connect("a.example:443", "X : a"),
        connect("a.example:443", ": a"),
        connect("a.example:443", "X"),
        connect("a.example:443", "X: a\rHost: b"),
        connect("a.example:443", "X: a\nHost: b"),
        connect("a.example:443", "X: a\0"),
        connect("a.example:443", "Content-Length: 5"),
        connect("a.example:443", "Content-Length: 0", "Content-Length: 0"),
        connect("a.example:443", "Transfer-Encoding: chunked"),
        connect("a.example:443", basic(b"a:b"), basic(b"a:c")),
        connect("a.example:443").replace(b"\r\n", b"\n"),
        connect("a.example:443", version="2.0"),
        connect("a.example:443", version="1.1 "),
        connect("a.example:443 b.example:443"),
        b"CONNECT  a.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT\ta.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443\r\n\r\n",
        b"HELO mail.example\r\n",
    ],
)
def test_a_head_that_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    flaw, said = refused(data)
    assert flaw is Flaw.GARBLED and said.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    "value", ["Basic", "Basic ", "Basic !!!!", "Basic QQ==", "Basic QTp", "Bearer QTpC", "Digest username=a", ""]
)
def test_credentials_that_cannot_be_read_are_refused_rather_than_ignored(value: str) -> None:
    assert refused(connect("a.example:443", f"Proxy-Authorization: {value}"))[0] is Flaw.ISOLATION


def test_a_head_has_a_longest_length() -> None:
    fits = connect("a.example:443", "X: ")
    assert asked(connect("a.example:443", "X: " + "a" * (MAX_HEAD - len(fits)))).port == 443
    for endless in (b"CONNECT " + b"a" * MAX_HEAD, connect("a.example:443", "X: " + "a" * MAX_HEAD), b"X" * MAX_HEAD):
        flaw, said = refused(endless + b"a")
        assert flaw is Flaw.LONG and said.startswith(b"HTTP/1.1 431 ")
    assert refused(connect("a.example:443", *["a:"] * (MAX_HEAD // 4)))[0] is Flaw.LONG


@pytest.mark.parametrize("name", ["x.onion", "a.exit", "peer.node", "chat.hash.conv", f"{'a' * 52}.key.conv"])
def test_no_exit_is_asked_for_names_that_are_none_of_the_dns(name: str) -> None:
    """The name of a private service is the capability to reach it."""
    assert shake(look_up(0xF0, name.encode()))[0].flaw is Flaw.RESERVED
    assert shake(b"\4\xf0\0\0\0\0\0\1\0" + name.encode() + b"\0")[0].flaw is Flaw.RESERVED


@pytest.mark.parametrize("name", [b"", b"a b", b"it's.hash.conv", b"a\n", b"\xc3\xbc.example"])
def test_what_is_no_name_is_not_looked_up(name: bytes) -> None:
    assert shake(look_up(0xF0, name))[0].flaw is Flaw.NAME


@pytest.mark.parametrize(
    ("name", "known"), [(b"192.0.2.1", True), (b"2001:DB8::1", True), (b"a.example", False), (b"1.2.3", False)]
)
def test_only_addresses_are_their_own_answer(name: bytes, known: bool) -> None:
    assert asked(look_up(0xF0, name)).known is known
    assert not asked(socks5(name)).known
    assert not asked(b"\5\1\0\5\xf1\0\1\1\1\1\1\0\0").known


# -- answers


@pytest.mark.parametrize(
    ("found", "socks4", "socks5"),
    [
        ("192.0.2.7", b"\0\x5a\0\0\xc0\0\2\7", b"\5\0\0\1\xc0\0\2\7\0\0"),
        ("2001:db8::1", b"\0\x5b" + bytes(6), b"\5\0\0\4" + bytes.fromhex("20010db8") + bytes(11) + b"\1\0\0"),
        ("host.example", b"\0\x5b" + bytes(6), b"\5\0\0\3\x0chost.example\0\0"),
    ],
)
def test_what_was_found_stands_where_addresses_are_told(found: str, socks4: bytes, socks5: bytes) -> None:
    """IPv6 addresses and names have no place in SOCKS 4."""
    assert shake(b"\4\xf0\0\0\0\0\0\1\0a\0")[0].granted(found) == socks4
    assert shake(look_up(0xF0, b"a"))[0].granted(found) == socks5


ASKS = {
    Dialect.SOCKS4: b"\4\1\0\x50\0\0\0\1\0%s\0",
    Dialect.SOCKS5: b"\5\1\0\5\1\0\3\x0e%s\0\x50",
    Dialect.HTTP: b"CONNECT %s:80 HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("name", [b"www.example.co", b"aaaa.hash.conv"])
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("code", [*range(16), 255])
def test_no_end_of_a_stream_is_told_as_success(dialect: Dialect, name: bytes, code: int) -> None:
    """END with reason 0 or DONE, before CONNECTED, once was a success in C Tor."""
    handshake, _ = shake(ASKS[dialect] % name)
    answer = handshake.refused(code)
    if dialect is Dialect.SOCKS4:
        assert answer == b"\0\x5b" + bytes(6)
    elif dialect is Dialect.SOCKS5:
        assert answer[0] == 5 and answer[1] != 0 and answer[2:] == NO_ADDRESS
    else:
        assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 502 ", b"HTTP/1.1 503 ", b"HTTP/1.1 504 "))


@pytest.mark.parametrize(
    ("code", "socks", "http"),
    [
        (EndReason.EXITPOLICY, 2, b"403"),
        (EndReason.RESOLVEFAILED, 4, b"503"),
        (EndReason.CONNECTREFUSED, 5, b"502"),
        (EndReason.TIMEOUT, 6, b"504"),
        (EndReason.DESTROY, 1, b"503"),
        (EndReason.TORPROTOCOL, 1, b"502"),
    ],
)
def test_codes_of_exits(code: EndReason, socks: int, http: bytes) -> None:
    assert shake(socks5(b"a.example"))[0].refused(code)[1] == socks
    assert shake(connect("a.example:80"))[0].refused(code)[9:12] == http


@pytest.mark.parametrize(
    ("code", "socks"),
    [
        (EndReason.RESOLVEFAILED, 0xF0),
        (EndReason.HIBERNATING, 0xF2),
        (EndReason.DESTROY, 0xF3),
        (EndReason.TORPROTOCOL, 0xF5),
        (EndReason.TIMEOUT, 0xF7),
        (EndReason.CONNECTREFUSED, 5),
    ],
)
def test_services_have_the_extended_codes_of_tor(code: EndReason, socks: int) -> None:
    handshake, _ = shake(socks5(b"aaaa.hash.conv"))
    assert handshake.ask is not None and handshake.ask.service
    assert handshake.refused(code)[1] == socks
    assert shake(socks5(b"aaaa.hash.conv"))[0].refused(Flaw.SERVICE)[1] == 0xF6


def test_every_answer_has_words_and_is_sent_in_every_dialect() -> None:
    replies = [*REPLIES.values(), *SERVICE_REPLIES.values(), *(flaw.value for flaw in Flaw)]
    assert len({reply.words for reply in replies}) == len(replies)
    for flaw in Flaw:
        body = shake(connect("a.example:80"))[0].refused(flaw).partition(b"\r\n\r\n")[2]
        assert body.decode() == flaw.value.words + "\n"
