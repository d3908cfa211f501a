"""HTTP messages over a pipe: client and server, one exchange after the other, and what neither may do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.errors import EndReason
from convergence.pipes import coding, http
from convergence.pipes.http import MAX_HEAD, MAX_INFORMATIONAL, EndOfMessage, Request, Response
from convergence.pipes.stage import CHUNK, HIGH, Flaw
from convergence.pipes.watching import Meter
from tests.unit.pipes.memory import NOW, Chain, Keeper, Reversed

HOST = (("Host", "host.example"),)
GET = Request(HOST, "GET", "/")
END = EndOfMessage()
OK = Response((("content-length", "5"),), 200, "OK")
CHUNKED = (("transfer-encoding", "chunked"),)


def parts(heard):
    """What was heard, with adjacent body bytes as one and header names in lower case."""
    found = []
    for part in heard:
        if isinstance(part, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += part
        elif isinstance(part, bytes):
            found.append(part)
        else:
            kind, fields = type(part), {name: getattr(part, name) for name in part.__dataclass_fields__}
            fields["headers"] = tuple((name.lower(), value) for name, value in part.headers)
            found.append(kind(**fields))
    return found


def client(*written):
    """A client that has written so much, and the far side of its parser."""
    one = http.client()
    near, far = Keeper(one.near, reads=True), Keeper(one.far, reads=True)
    for part in written:
        near.end.write(part, NOW)
    return one, near, far


def served(data, *written):
    one = http.server()
    near, far = Keeper(one.near, reads=True), Keeper(one.far, reads=True)
    far.end.write(data, NOW)
    for part in written:
        near.end.write(part, NOW)
    return one, near, far


def flaw(one, *users):
    """Why it gave up; both users have been told."""
    assert one.failure is not None and one.closed
    assert all(user.calls == [one.failure.reason] for user in users)
    return one.failure.flaw


# -- a client and a server


class Site:
    """Answers each request with its method, target and body, in chunks."""

    def __init__(self, end):
        self.end = end
        self.requests = []
        self.calls = []
        end.handler = self

    def opened(self, now): ...

    def drained(self, now): ...

    def data(self, part, now):
        self.end.consumed(len(part), now)
        if isinstance(part, Request):
            self.requests.append(part)
            self.end.write(Response(CHUNKED, 200), now)
            self.end.write(f"{part.method} {part.target} ".encode(), now)
        else:
            self.end.write(part if isinstance(part, bytes) else END, now)

    def ended(self, now):
        self.calls.append("ended")
        self.end.end(now)

    def aborted(self, code, now):
        self.calls.append(code)


BODIES = st.lists(st.binary(min_size=1, max_size=30), max_size=4)
WINDOW = st.tuples(st.integers(1, 60), st.integers(0, 60))


@settings(max_examples=40)
@given(
    st.lists(BODIES, min_size=1, max_size=4),
    st.booleans(),
    WINDOW,
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_exchanges_follow_one_another_through_a_chain(bodies, compressed, window, order, at_once):
    """As the proposal writes it: http.pipe(parser).pipe(gzip).pipe(meter), and the reverse at the other end. All
    requests may be written at once; each goes out when the answer to the one before is whole."""
    parser, site = http.client(), http.server()
    meters = Meter(), Meter()
    there = [coding.gzip(), meters[0]] if compressed else [meters[0]]
    back = [meters[1], Reversed(coding.gzip())] if compressed else [meters[1]]
    chain = Chain([window, window], between=[[]], order=order)
    user, server = Keeper(parser.near, reads=True), Site(site.near)
    end = parser
    for each in there:
        end = end.pipe(each)
    end.pipe(chain.pipes[0][0])
    end = chain.pipes[1][1]
    for each in back:
        end = end.pipe(each)
    end.pipe(Reversed(site))
    expected = []
    for number, body in enumerate(bodies):
        for part in (Request((*HOST, *CHUNKED), "POST", f"/{number}"), *body, END):
            user.end.write(part, NOW)
        expected += [Response(CHUNKED, 200), f"POST /{number} ".encode() + b"".join(body), END]
        if not at_once:
            chain.settle()
            assert parts(user.heard) == expected and parser.reusable
    user.end.end(NOW)
    chain.settle()
    assert parts(user.heard) == expected and user.calls == server.calls == ["ended"]
    assert [request.target for request in server.requests] == [f"/{number}" for number in range(len(bodies))]
    assert parser.closed and site.closed and parser.failure is site.failure is None
    assert meters[0].sent.bytes == meters[1].sent.bytes > 0
    assert meters[0].received.bytes == meters[1].received.bytes > 0


def test_a_request_waits_for_the_answer_before():
    one, near, far = client(GET, END, Request(HOST, "GET", "/second"), END)
    assert b"".join(far.heard).count(b"GET ") == 1
    far.end.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", NOW)
    assert b"".join(far.heard).count(b"GET ") == 1 and not one.reusable
    far.end.write(b"lo", NOW)
    assert b"GET /second HTTP/1.1\r\n" in b"".join(far.heard)
    assert parts(near.heard) == [OK, b"hello", END]


def test_a_server_takes_the_next_request_when_it_has_answered():
    """A client may send several at once."""
    data = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
    one, near, far = served(data)
    assert [part.target for part in near.heard if isinstance(part, Request)] == ["/1"]
    for part in (Response(OK.headers, 200), b"hello", END):
        near.end.write(part, NOW)
    assert [part.target for part in near.heard if isinstance(part, Request)] == ["/1", "/2"]
    far.end.end(NOW)
    assert near.calls == ["ended"] and not one.closed, "the second is not answered"
    for part in (Response(OK.headers, 200), b"hello", END):
        near.end.write(part, NOW)
    near.end.end(NOW)
    assert b"".join(far.heard).count(b"hello") == 2 and far.calls == ["ended"]


def test_the_bytes_of_a_request():
    _, _, far = client(Request((*HOST, ("X-Case", "Kept")), "GET", "/a?b"), END)
    assert b"".join(far.heard) == b"GET /a?b HTTP/1.1\r\nHost: host.example\r\nX-Case: Kept\r\n\r\n"


# -- what answers may be like


def answered(data, cuts=(), request=GET, end=False):
    one, near, far = client(request, END)
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in zip(borders, borders[1:], strict=False):
        far.end.write(data[start:stop], NOW)
    if end:
        far.end.end(NOW)
    return one, near, far


KEPT = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", [OK, b"hello", END]),
    (b"HTTP/1.1 204 No\r\n\r\n", [Response((), 204, "No"), END]),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: yes\r\n\r\n",
        [Response(CHUNKED, 200, "OK"), b"hello", EndOfMessage((("trailer", "yes"),))],
    ),
    (
        b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        [Response((), 100, "Go"), Response((("link", "x"),), 103, "Early"), OK, b"hello", END],
    ),
]


@pytest.mark.parametrize(("data", "expected"), KEPT)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_an_answer_may_be_cut_anywhere(data, expected, cuts):
    one, near, _ = answered(data, cuts)
    assert parts(near.heard) == expected and near.calls == [] and one.reusable


def test_an_answer_that_the_end_of_the_pipe_ends():
    one, near, _ = answered(b"HTTP/1.1 200 OK\r\n\r\nhel", end=False)
    one.far.write(b"lo", NOW)
    assert parts(near.heard) == [Response((), 200, "OK"), b"hello"] and near.calls == []
    one.far.end(NOW)
    assert parts(near.heard)[2:] == [END] and near.calls == ["ended"] and not one.reusable


def test_an_answer_to_head_has_no_body():
    one, near, _ = answered(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", request=Request(HOST, "HEAD", "/"), end=True
    )
    assert parts(near.heard) == [OK, END] and near.calls == ["ended"]


def test_a_head_gives_its_headers_by_name():
    _, near, _ = answered(b"HTTP/1.1 200 OK\r\nX-Name: one\r\nx-name: two\r\nContent-Length: 0\r\n\r\n")
    assert near.heard[0].get("x-name") == "one" and near.heard[0].get("none") is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", Flaw.GARBAGE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Flaw.GARBAGE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Flaw.GARBAGE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n", Flaw.GARBAGE),
        (b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n", Flaw.GARBAGE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", Flaw.UNASKED),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello, and more", Flaw.UNASKED),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD, Flaw.TOO_LONG),
        (b"HTTP/1.1 200 OK\r\n" + b"X: aaaaaaaa\r\n" * 6000 + b"\r\n", Flaw.TOO_LONG),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 3 * MAX_HEAD, Flaw.TOO_LONG),
        (b"HTTP/1.1 100 Go\r\n\r\n" * (MAX_INFORMATIONAL + 1), Flaw.TOO_LONG),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: aaaaaaaa\r\n" * 6000 + b"\r\n",
            Flaw.TOO_LONG,
        ),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("size", [1 << 20, 10_000])
def test_what_is_no_answer_fails(data, why, size):
    one, near, far = client(GET, END)
    for at in range(0, len(data), size):
        far.end.write(data[at : at + size], NOW)
    assert flaw(one, near, far) is why and one.failure.reason == EndReason.TORPROTOCOL


@pytest.mark.parametrize("data", [data for data, _ in KEPT])
def test_an_answer_that_is_cut_short_fails(data):
    for size in range(len(data)):
        one, near, far = answered(data[:size], end=True)
        assert flaw(one, near, far) is Flaw.TRUNCATED


def test_an_answer_to_nothing_fails():
    """Before anything was asked, or when all is answered: else it would be taken for the next answer."""
    one, near, far = client()
    far.end.write(KEPT[0][0], NOW)
    assert flaw(one, near, far) is Flaw.UNASKED
    one, near, far = answered(KEPT[0][0])
    far.end.write(b"H", NOW)
    assert flaw(one, near, far) is Flaw.UNASKED


def test_bytes_behind_an_answer_are_not_the_next_one():
    """Although another request waits."""
    one, near, far = client(GET, END, Request(HOST, "GET", "/second"), END)
    far.end.write(KEPT[0][0] + KEPT[0][0], NOW)
    assert flaw(one, near, far) is Flaw.UNASKED
    assert parts(near.heard) == [OK, b"hello", END]


def test_an_end_before_the_answer_fails():
    one, near, far = answered(b"", end=True)
    assert flaw(one, near, far) is Flaw.TRUNCATED


def test_an_end_between_exchanges_is_an_end():
    for data in (b"", KEPT[0][0]):
        one, near, far = answered(data) if data else client()
        far.end.end(NOW)
        assert near.calls == ["ended"]
        near.end.end(NOW)
        assert far.calls == ["ended"] and one.closed


# -- what requests may be like


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x16\x03\x01\x02\x00\x01" * 10 + b"\r\n\r\n", Flaw.GARBAGE),
        (b"GET / HTTP/1.1\r\n\r\n", Flaw.GARBAGE),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", Flaw.GARBAGE),
        (b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\nHost: x\r\n\r\n", Flaw.TOO_LONG),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 2 * MAX_HEAD, Flaw.TOO_LONG),
    ],
    ids=range(5),
)
def test_what_is_no_request_fails(data, why):
    one, near, far = served(data)
    assert flaw(one, near, far) is why


@pytest.mark.parametrize("tail", [b"", b"hel"])
def test_a_request_that_is_cut_short_fails(tail):
    one, near, far = served(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + tail)
    far.end.end(NOW)
    assert flaw(one, near, far) is Flaw.TRUNCATED


def test_a_server_may_answer_a_client_that_has_ended():
    one, near, far = served(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    far.end.end(NOW)
    assert near.calls == ["ended"]
    for part in (Response((), 100), Response(OK.headers, 200), b"hello", END):
        near.end.write(part, NOW)
    near.end.end(NOW)
    assert b"".join(far.heard).endswith(b"\r\n\r\nhello") and far.calls == ["ended"] and one.failure is None


# -- our own user's mistakes


@pytest.mark.parametrize(
    "written",
    [
        [b"body"],
        [END],
        [Response((), 200)],
        [Request((), "GET", "/")],
        [Request(HOST, "G T", "/")],
        [Request(HOST, "GET", "/ /")],
        [Request((*HOST, ("X", "a\r\nY: b")), "GET", "/")],
        [Request((*HOST, ("X", "\u20ac")), "GET", "/")],
        [GET, GET],
        [Request((*HOST, ("Content-Length", "3")), "POST", "/"), b"long"],
        [Request((*HOST, ("Content-Length", "3")), "POST", "/"), b"no", END],
    ],
    ids=range(11),
)
def test_misuse_by_a_client_fails(written):
    one, near, far = client(*written)
    assert flaw(one, near, far) is Flaw.MISUSE and one.failure.reason == EndReason.INTERNAL


def test_a_client_that_ends_within_a_request_fails():
    one, near, far = client(Request((*HOST, *CHUNKED), "POST", "/"), b"some")
    near.end.end(NOW)
    assert flaw(one, near, far) is Flaw.MISUSE


@pytest.mark.parametrize(
    "written",
    [
        [GET],
        [Response((), 99)],
        [Response((("content-length", "5"),), 200), b"hel", END],
        [Response((("Upgrade", "x"),), 101)],
    ],
    ids=range(4),
)
def test_misuse_by_a_server_fails(written):
    one, near, far = served(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", *written)
    assert flaw(one, near, far) is Flaw.MISUSE


def test_no_request_goes_over_a_pipe_that_the_server_will_close():
    one, near, far = answered(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
    assert not one.reusable
    near.end.write(GET, NOW)
    assert flaw(one, near, far) is Flaw.MISUSE


# -- back-pressure


def test_a_body_that_is_not_read_stops_its_writer():
    one = http.client()
    near, far = Keeper(one.near), Keeper(one.far, reads=True)
    near.end.write(GET, NOW)
    near.end.write(END, NOW)
    size = 100 * CHUNK
    far.end.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, NOW)
    sent = 0
    while not far.end.congested:
        far.end.write(bytes(CHUNK), NOW)
        sent += CHUNK
    assert near.size <= HIGH and sent <= 2 * HIGH + CHUNK
    read = 0
    while near.heard:
        assert near.size <= HIGH
        part = near.heard.pop(0)
        read += len(part) if isinstance(part, bytes) else 0
        near.end.consumed(len(part), NOW)
        if sent < size and not far.end.congested:
            far.end.write(bytes(CHUNK), NOW)
            sent += CHUNK
    assert read == sent == size and one.reusable and "drained" in far.calls


def test_chunks_of_a_byte_each_are_handed_up_together():
    _, near, _ = answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 20_000 * b"1\r\nx\r\n")
    body = [part for part in near.heard if isinstance(part, bytes)]
    assert b"".join(body) == 20_000 * b"x" and len(body) < 5
