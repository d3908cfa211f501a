"""Stages over a stream of a circuit, to a site behind an exit: credit goes from end to end, through all of it."""

import gzip
import random
import zlib

import pytest

from convergence.effects import CloseLink, Pause
from convergence.errors import EndReason
from convergence.pipes import coding
from convergence.pipes.stage import HIGH
from convergence.pipes.watching import Meter
from tests.unit.pipes.memory import Keeper
from tests.unit.test_fetch import Web

NOISE = random.Random(3)


@pytest.fixture
def web():
    return Web()


def chained(web):
    """A user, and the stages between it and a stream that is about to open."""
    circuit = web.net.build(web.client, [web.entry, web.exit])
    packer, meter = coding.gzip(), Meter()
    user = Keeper(packer.near)
    stream = circuit.open_stream("host.example:80", None, web.net.now)
    assert packer.pipe(meter).pipe(stream) is stream
    web.net.pump()
    return user, meter, packer


def test_what_is_written_before_the_stream_opens_arrives(web):
    user, meter, _ = chained(web)
    user.end.write(b"early words", web.net.now)
    assert user.calls == []
    web.opened()
    assert user.calls == ["opened"]
    assert zlib.decompressobj(31).decompress(web.request()) == b"early words"
    user.end.write(b", late words", web.net.now)
    web.net.pump()
    assert zlib.decompressobj(31).decompress(web.request()) == b"early words, late words"
    user.end.end(web.net.now)
    web.net.pump()
    assert gzip.decompress(web.request()) == b"early words, late words"
    assert meter.sent.bytes == len(web.request())


def test_a_site_that_does_not_read_stops_the_user(web):
    user, _, packer = chained(web)
    web.opened()
    web.service.congested(web.channel, True, web.net.now)
    said = bytearray()
    for _ in range(200):
        if user.end.congested:
            break
        said += (piece := NOISE.randbytes(1 << 14))
        user.end.write(piece, web.net.now)
        web.net.pump()
    assert user.end.congested and packer.outgoing._account <= HIGH + (1 << 14) and user.calls == ["opened"]
    web.service.congested(web.channel, False, web.net.now)
    web.net.pump()
    assert user.calls == ["opened", "drained"]
    assert zlib.decompressobj(31).decompress(web.request()) == said


def test_a_user_that_does_not_read_stops_the_site(web):
    user, _, packer = chained(web)
    web.opened()
    for _ in range(200):
        web.answer(gzip.compress(bytes(HIGH)))
    pauses = web.asked(Pause)
    assert user.size <= HIGH and not pauses, "packed, it is little"
    for _ in range(200):
        if web.asked(Pause) and web.asked(Pause)[-1].paused:
            break
        web.answer(gzip.compress(NOISE.randbytes(1 << 14), 0))
    assert web.asked(Pause)[-1].paused and user.size <= HIGH
    while user.heard:
        user.end.consumed(len(user.heard.pop(0)), web.net.now)
        web.net.pump()
    assert not web.asked(Pause)[-1].paused and packer.failure is None


def test_what_is_no_gzip_ends_only_its_stream(web):
    user, _, packer = chained(web)
    web.opened()
    web.answer(b"this is plain text")
    assert user.calls == ["opened", EndReason.TORPROTOCOL] and packer.failure is not None
    assert [effect.channel for effect in web.asked(CloseLink)] == [web.channel]
    assert not any(circuit.closed for circuit in web.circuits)
