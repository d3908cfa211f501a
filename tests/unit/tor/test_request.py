"""One document of one directory: whatever form its answer has, and however it fails to answer."""

import gzip
import lzma
import random
import tracemalloc
import zlib

import pytest

from convergence.errors import EndReason, ParseError, RemoteError
from convergence.tor.request import TIME_LIMIT, DocumentRequest
from convergence.wire.compressed import offered, zstd_library
from tests.unit.tor.world import DESTROY, END, World, error, response

BODY = random.Random("body").randbytes(2000) + bytes(2000)
LIMIT = 5000
ENCODINGS = {
    "identity": lambda data: data,
    "deflate": zlib.compress,
    "gzip": gzip.compress,
    "x-zstd": lambda data: zstd_library().compress(data),
    "x-tor-lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


def whole(data):
    return [data]


def by_bytes(data):
    return [bytes([byte]) for byte in data]


def anywhere(data):
    rng = random.Random(len(data))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(9))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Scene:
    """One request and the directory that is asked."""

    def __init__(self, answer, cut=whole, limit=LIMIT, **directory):
        self.world = World(lambda asked: answer)
        [self.directory] = self.world.directories
        self.directory.cut = cut
        for name, value in directory.items():
            setattr(self.directory, name, value)
        self.results = []
        pipe = self.world.sources.connect(self.world.now)
        self.request = DocumentRequest(
            self.world.outbox,
            pipe,
            "/tor/micro/d/x",
            (("X-More", "yes"),),
            limit,
            lambda result, now: self.results.append((now - self.began, result)),
            self.world.now,
        )
        self.began = self.world.now

    def run(self):
        """Until it is over; then nothing of it is left but the circuit, which waits for more requests."""
        self.world.run(TIME_LIMIT)
        [(_, result)] = self.results
        assert not any(circuit.streams for circuit in self.directory.circuits)
        self.world.sources.stop(self.world.now)
        assert self.world.timers == [] and self.world.circuits == []
        return result


def why(answer, kind=RemoteError, **options):
    """Of a request that fails."""
    result = Scene(answer, **options).run()
    assert isinstance(result, kind), result
    return str(result)


@pytest.mark.parametrize("cut", [whole, by_bytes, anywhere])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("version", "framing"), [("1.0", "length"), ("1.0", "close"), ("1.1", "length"), ("1.1", "chunked")]
)
def test_an_answer_in_any_form(version, framing, encoding, cut):
    body = ENCODINGS[encoding](BODY)
    answer = response(body, version=version, encoding=encoding, framing=framing)
    assert Scene(answer, cut=cut).run() == BODY


def test_what_is_asked():
    scene = Scene(response(BODY))
    scene.run()
    [asked] = scene.directory.requests
    assert asked.path == "/tor/micro/d/x"
    assert asked.headers == {"host": "directory", "accept-encoding": ", ".join(offered()), "x-more": "yes"}


def test_an_early_answer_counts_for_nothing():
    [final] = response(BODY, version="1.1")
    assert Scene([b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: x-zstd\r\n\r\n" + final]).run() == BODY


@pytest.mark.parametrize("status", [204, 304, 400, 404, 500, 503])
def test_another_status_than_200(status):
    assert why(error(status)) == f"the directory answered {status} Word"


def test_the_body_of_another_status_is_not_waited_for():
    scene = Scene(response(bytes(10 * LIMIT), 404)[:1] + [1.0, DESTROY])
    scene.run()
    assert scene.results[0][0] == 0.0


def test_an_encoding_that_was_not_offered():
    assert why(response(BODY, encoding="br"), ParseError) == "an encoding that was not offered"


@pytest.mark.parametrize("encoding", [encoding for encoding in ENCODINGS if encoding != "identity"])
def test_an_encoding_that_it_is_not(encoding):
    why(response(BODY, encoding=encoding), ParseError)


@pytest.mark.parametrize(
    "answer",
    [
        [b"\0" * 100],
        [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + bytes([65]) * 100_000],
        [b"HTTP/1.1 103 Early\r\n\r\n" * 20],
        [b"HTTP/1.1 101 Switching Protocols\r\n\r\n"],
    ],
)
def test_what_is_no_http(answer):
    assert why(answer, ParseError) == "the directory's answer is no HTTP, or incomplete"


@pytest.mark.parametrize("end", [END, DESTROY, int(EndReason.MISC), int(EndReason.DONE)])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_end_at_any_byte(framing, end):
    [answer] = response(b"body", version="1.1", framing=framing)
    for size in range(len(answer)):
        why([answer[:size], end])


@pytest.mark.parametrize("encoding", ["deflate", "gzip", "x-zstd", "x-tor-lzma"])
def test_an_end_at_any_byte_of_what_the_end_ends(encoding):
    """There compression tells whether it is whole."""
    [answer, _] = response(ENCODINGS[encoding](b"body"), encoding=encoding, framing="close")
    for size in range(len(answer)):
        why([answer[:size], END])


@pytest.mark.parametrize("code", [DESTROY, int(EndReason.MISC), int(EndReason.DESTROY)])
def test_what_is_broken_off_is_no_document(code):
    """An abort is no end: not even where the end of the stream would end the body."""
    [answer, _] = response(BODY, framing="close")
    why([answer, code])


@pytest.mark.parametrize("parts", [0, 1, 20, 100])
def test_a_directory_that_hangs(parts):
    [answer] = response(BODY)
    assert why([answer[:parts]]) == "the directory took too long"


def test_a_directory_that_drips():
    [answer] = response(bytes(LIMIT))
    drops = [part for byte in answer for part in (bytes([byte]), 0.1)]
    scene = Scene(drops)
    assert str(scene.run()) == "the directory took too long"
    assert scene.results[0][0] == TIME_LIMIT


@pytest.mark.parametrize(
    "state", [{"reached": False}, {"reached": None}, {"accepts": None}, {"accepts": 3}, {"accepts": DESTROY}]
)
def test_a_directory_without_a_stream(state):
    assert why(response(BODY), **state).startswith("there is no stream to the directory")


@pytest.mark.parametrize("framing", ["close", "chunked"])
def test_an_endless_body_is_not_kept(framing):
    [head, *_] = response(bytes(LIMIT), version="1.1", framing=framing)
    more = b"%x\r\n%s\r\n" % (LIMIT, bytes(LIMIT)) if framing == "chunked" else bytes(LIMIT)
    head = head.removesuffix(b"0\r\n\r\n")
    assert why([head, *[more] * 1000], ParseError) == f"an answer of more than {LIMIT} bytes"


@pytest.mark.parametrize("encoding", ["deflate", "gzip", "x-zstd", "x-tor-lzma"])
def test_a_small_answer_that_unpacks_to_much(encoding):
    bomb = ENCODINGS[encoding](bytes(1 << 25))
    answer = response(bomb, encoding=encoding)
    tracemalloc.start()
    try:
        assert why(answer, ParseError, limit=len(bomb)) == f"compressed data of more than {len(bomb)} bytes"
        assert tracemalloc.get_traced_memory()[1] < 1 << 24  # LZMA has a dictionary of 8 MiB
    finally:
        tracemalloc.stop()


def test_a_limit_holds_to_the_byte():
    assert Scene(response(BODY), limit=len(BODY)).run() == BODY
    assert "more than" in why(response(BODY), limit=len(BODY) - 1)


def test_more_than_one_answer():
    """What follows the one that was asked for is not read."""
    assert Scene([response(b"one")[0] + response(b"two")[0]]).run() == b"one"


@pytest.mark.parametrize("steps", range(12))
def test_nobody_hears_of_one_that_was_cancelled(steps):
    scene = Scene(response(BODY), cut=lambda data: [data[:50], data[50:]])
    for _ in range(steps):
        scene.world.step(scene.world.now)
    heard = len(scene.results)
    scene.request.cancel(scene.world.now)
    scene.world.sources.stop(scene.world.now)
    assert scene.world.timers == [] and scene.world.circuits == []
    scene.world.run(TIME_LIMIT)
    assert len(scene.results) == heard


@pytest.mark.parametrize("seed", range(100))
def test_an_answer_that_is_changed_anywhere(seed):
    """It is refused, or what it says is taken for what it is: nothing else ever happens."""
    rng = random.Random(seed)
    encoding = rng.choice(list(ENCODINGS))
    framing = rng.choice(["length", "close", "chunked"])
    [answer, *end] = response(ENCODINGS[encoding](BODY), version="1.1", encoding=encoding, framing=framing)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(answer))
        answer = answer[:at] + rng.choice([b"", rng.randbytes(1), rng.randbytes(20)]) + answer[at + rng.randrange(3) :]
    result = Scene([answer, *end], cut=rng.choice([whole, anywhere])).run()
    assert isinstance(result, (bytes, RemoteError))
