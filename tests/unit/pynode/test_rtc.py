"""WebRTC channels: two transports, a hostile one made of the library itself, and real browsers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcsctptransport import ForwardTsnChunk
from playwright.async_api import Page, async_playwright

from convergence.effects import ANSWERER, OFFERER, DescriptionKind, Protocol
from pynode.transports import HIGH_WATER, bounded, rtc
from pynode.transports.bounded import MAX_DATAGRAM, MAX_DATAGRAMS
from pynode.transports.connection import MAX_MESSAGE
from pynode.transports.rtc import LABEL, MAX_WAITING, RESTART, RtcTransport
from tests.browser.harness import CONFIG
from tests.unit.pynode.toy import PATIENCE, Toy, attach, run

pytestmark = pytest.mark.rtc

OFFER, ANSWER, CANDIDATES = DescriptionKind.OFFER, DescriptionKind.ANSWER, DescriptionKind.CANDIDATES
MIB = 1 << 20
LONGEST = 127 * 514
CHANNEL = 1
WORDS = "a description that cannot be used"


@contextlib.asynccontextmanager
async def transports(count: int, **options: Any) -> AsyncIterator[list[Toy]]:
    """Toys that drive a transport each, which end with nothing left over."""
    others, faults = asyncio.all_tasks(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault))
    made = [RtcTransport(**options) for _ in range(count)]
    try:
        yield [attach(transport) for transport in made]
    finally:
        for transport in made:
            await transport.shutdown()
            assert transport.connections == 0
    if left := asyncio.all_tasks() - others:
        _, pending = await asyncio.wait(left, timeout=PATIENCE)
        assert not pending
    gc.collect()  # tells of exceptions that nobody asked for
    assert not faults


async def description(toy: Toy, kind: DescriptionKind) -> str:
    _, _, told, sdp = await toy.first("described")
    assert told is kind and isinstance(sdp, str)
    return sdp


async def offer(toy: Toy) -> str:
    toy.connect(CHANNEL, OFFERER, Protocol.RTC)
    return await description(toy, OFFER)


async def answer(toy: Toy, sdp: str) -> str:
    toy.connect(CHANNEL, ANSWERER, Protocol.RTC)
    toy.describe(CHANNEL, OFFER, sdp)
    return await description(toy, ANSWER)


async def join(offerer: Toy, answerer: Toy) -> None:
    offerer.describe(CHANNEL, ANSWER, await answer(answerer, await offer(offerer)))
    for toy in (offerer, answerer):
        assert await toy.first("opened") == ("opened", CHANNEL, Protocol.RTC)


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Toy, Toy]]:
    async with transports(2) as [offerer, answerer]:
        await join(offerer, answerer)
        yield offerer, answerer


async def send_all(toy: Toy, data: bytes) -> int:
    """In the longest messages, for as long as the channel is not congested. Returns how often it was."""
    congested = 0
    for start in range(0, len(data), LONGEST):
        toy.send(CHANNEL, data[start : start + LONGEST])
        if toy.of("congested") and toy.of("congested")[-1][2]:
            congested += 1
            await toy.until(lambda: not toy.of("congested")[-1][2])
    return congested


async def arrived(toy: Toy, size: int) -> None:
    await toy.until(lambda: len(toy.received.get(CHANNEL, b"")) == size)


def without_candidates(sdp: str) -> tuple[str, str]:
    """The rest, and its candidates."""
    lines = sdp.splitlines(keepends=True)
    candidates = [line for line in lines if line.startswith("a=candidate:")]
    return "".join(line for line in lines if "candidate" not in line), "".join(candidates)


async def closed(toy: Toy) -> str:
    _, channel, reason = await toy.first("closed")
    assert channel == CHANNEL
    return str(reason)


# -- two of ours


def test_16_mib_each_way_come_intact_under_back_pressure() -> None:
    async def test() -> None:
        async with pair() as (left, right):
            there, back = (random.Random(seed).randbytes(16 * MIB) for seed in (1, 2))
            congested = await asyncio.gather(send_all(left, there), send_all(right, back))
            for toy, data in ((right, there), (left, back)):
                await arrived(toy, 16 * MIB)
                assert toy.received[CHANNEL] == data
                assert max(map(len, toy.messages)) == LONGEST
            assert all(congested)

    run(test)


def test_a_congested_channel_holds_no_more_than_what_was_sent_at_once() -> None:
    async def test() -> None:
        async with pair() as (left, right):
            left.send(CHANNEL, *[bytes(LONGEST)] * 20)
            assert left.of("congested") == [("congested", CHANNEL, True)]
            await left.until(lambda: left.of("congested")[-1] == ("congested", CHANNEL, False))
            left.send(CHANNEL, bytes(514))
            await arrived(right, 20 * LONGEST + 514)
            assert len(left.of("congested")) == 2

    run(test)


@pytest.mark.parametrize("closing", [0, 1])
def test_closing_flushes_and_the_other_side_learns_of_it(closing: int) -> None:
    async def test() -> None:
        async with pair() as both:
            near, far = both[closing], both[1 - closing]
            near.send(CHANNEL, *[bytes(LONGEST)] * 15)
            near.close(CHANNEL, "enough")
            near.send(CHANNEL, b"too late")
            assert await closed(far) == "closed by the peer"
            assert len(far.received[CHANNEL]) == 15 * LONGEST
            assert not near.of("closed")
            far.send(CHANNEL, b"nobody listens")

    run(test)


def test_candidates_may_come_later() -> None:
    async def test() -> None:
        async with transports(2) as [left, right]:
            offered, offered_later = without_candidates(await offer(left))
            answered, answered_later = without_candidates(await answer(right, offered))
            assert offered_later and answered_later
            right.describe(CHANNEL, CANDIDATES, offered_later)
            left.describe(CHANNEL, CANDIDATES, answered_later)
            left.describe(CHANNEL, ANSWER, answered)
            for toy in (left, right):
                await toy.first("opened")
                toy.describe(CHANNEL, CANDIDATES, "a=candidate:1 1 udp 1 10.99.0.7 9 typ host\r\n")
            left.send(CHANNEL, b"hello")
            await right.first("data")

    run(test)


def test_names_of_a_local_network_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("aioice.ice.get_or_create_mdns_protocol", asked.append)

    async def test() -> None:
        async with transports(2) as [left, right]:
            offered, _ = without_candidates(await offer(left))
            name = "a=candidate:1 1 udp 2113937151 00112233-4455-6677-8899-aabbccddeeff.local 40000 typ host\r\n"
            left.describe(CHANNEL, ANSWER, await answer(right, offered + name))
            await right.first("opened")
        assert not asked

    run(test)


# -- what does not come about


def test_an_offer_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc, "OPEN_TIMEOUT", 0.5)

    async def test() -> None:
        async with transports(2) as [left, right]:
            left.connect(CHANNEL, OFFERER, Protocol.RTC)
            right.connect(CHANNEL, ANSWERER, Protocol.RTC)
            for toy in (left, right):
                assert await closed(toy) == "the other side did not answer"
                toy.send(CHANNEL, b"x")

    run(test)


def test_an_answer_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc, "OPEN_TIMEOUT", 0.5)

    async def test() -> None:
        async with transports(2) as [left, right]:
            await answer(right, without_candidates(await offer(left))[0])
            assert await closed(right) == "no way to the other side"

    run(test)


@pytest.mark.parametrize("sdp", ["", "v=0", "\0" * 1000, "a=candidate:1 1 udp", "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"])
def test_descriptions_that_are_none(sdp: str) -> None:
    async def test() -> None:
        async with transports(2) as [left, right]:
            await offer(left)
            left.describe(CHANNEL, ANSWER, sdp)
            assert await closed(left) == WORDS
            right.connect(CHANNEL, ANSWERER, Protocol.RTC)
            right.describe(CHANNEL, OFFER, sdp)
            assert await closed(right) == WORDS
            assert not right.of("described")

    run(test)


@pytest.mark.parametrize("line", ["a=candidate:", "a=candidate:1 1 udp x 10.0.0.1 9 typ host", "a=candidate:1 1 udp 1"])
def test_candidates_that_are_none(line: str) -> None:
    async def test() -> None:
        async with transports(1) as [left]:
            await offer(left)
            left.describe(CHANNEL, CANDIDATES, line)
            assert await closed(left) == WORDS

    run(test)


def test_a_swapped_fingerprint_is_refused() -> None:
    async def test() -> None:
        async with transports(2) as [left, right]:
            lines = (await answer(right, await offer(left))).splitlines(keepends=True)
            print_at = next(at for at, line in enumerate(lines) if line.startswith("a=fingerprint:sha-256"))
            digit = "0" if lines[print_at].rstrip()[-1] != "0" else "1"
            lines[print_at] = lines[print_at].rstrip()[:-1] + digit + "\r\n"
            left.describe(CHANNEL, ANSWER, "".join(lines))
            assert await closed(left) == "no secure connection to the other side"

    run(test)


def test_a_second_offer_asks_for_a_new_link() -> None:
    async def test() -> None:
        async with pair() as (left, right):
            right.describe(CHANNEL, OFFER, "v=0")
            assert await closed(right) == RESTART
            assert await closed(left) == "closed by the peer"

    run(test)


def test_an_offerer_takes_no_offer_and_nobody_endless_descriptions() -> None:
    async def test() -> None:
        async with transports(2) as [left, right]:
            left.connect(CHANNEL, OFFERER, Protocol.RTC)
            left.describe(CHANNEL, OFFER, "v=0")
            assert await closed(left) == RESTART
            right.connect(CHANNEL, ANSWERER, Protocol.RTC)
            for _ in range(MAX_WAITING + 1):
                right.describe(CHANNEL, CANDIDATES, "")
            assert await closed(right) == "too many descriptions"

    run(test)


def test_channels_are_bounded() -> None:
    async def test() -> None:
        async with transports(1, max_channels=2) as [toy]:
            for channel in (1, 3, 5):
                toy.connect(channel, OFFERER, Protocol.RTC)
            assert await toy.first("closed") == ("closed", 5, "too many WebRTC connections")
            toy.describe(5, ANSWER, "")
            toy.close(1)
            toy.close(1)

    run(test)


def test_a_machine_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [])

    async def test() -> None:
        async with transports(1) as [toy]:
            toy.connect(CHANNEL, OFFERER, Protocol.RTC)
            assert await closed(toy) == "this machine has no network address but its own"

    run(test)


@pytest.mark.parametrize("described", [False, True])
def test_a_channel_that_is_being_made_can_be_closed(described: bool) -> None:
    async def test() -> None:
        async with transports(1) as [toy]:
            toy.connect(CHANNEL, OFFERER, Protocol.RTC)
            if described:
                await description(toy, OFFER)
            toy.close(CHANNEL)
        assert not toy.of("closed")

    run(test)


# -- STUN


def test_no_stun_server_is_asked_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("the library's own choice of a server")

    monkeypatch.setattr("aiortc.RTCIceGatherer.getDefaultIceServers", refuse)
    asked: list[object] = []
    monkeypatch.setattr("aioice.ice.server_reflexive_candidate", lambda protocol, server: asked.append(server))

    async def test() -> None:
        async with transports(1) as [toy]:
            sdp = await offer(toy)
            assert " typ host" in sdp and " typ srflx" not in sdp
        assert not asked

    run(test)


class StunServer(asyncio.DatagramProtocol):
    """Hears binding requests and answers none."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def datagram_received(self, data: bytes, address: Any) -> None:
        assert data[:2] == b"\0\1"
        self.asked.set()


def test_stun_servers_are_asked_in_turn_and_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "GATHER_TIMEOUT", 0.1)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        made = [await loop.create_datagram_endpoint(StunServer, ("10.99.0.1", 0)) for _ in range(2)]
        names = [f"stun:10.99.0.1:{transport.get_extra_info('sockname')[1]}" for transport, _ in made]
        async with transports(1, stun=names) as [toy]:
            for channel in (1, 3):
                toy.connect(channel, OFFERER, Protocol.RTC)
            await toy.until(lambda: len(toy.of("described")) == 2)
            for _, server in made:
                await asyncio.wait_for(server.asked.wait(), PATIENCE)
        for transport, _ in made:
            transport.close()

    run(test)


# -- strangers


@contextlib.asynccontextmanager
async def stranger() -> AsyncIterator[tuple[Toy, Any]]:
    """A toy and, at the other end, the library as it comes."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    data = connection.createDataChannel(LABEL, negotiated=True, id=0)
    is_open = asyncio.Event()
    data.on("open", is_open.set)
    async with transports(1) as [toy]:
        await connection.setLocalDescription(await connection.createOffer())
        sdp = await answer(toy, connection.localDescription.sdp)
        await connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        await toy.first("opened")
        await asyncio.wait_for(is_open.wait(), PATIENCE)
        yield toy, SimpleNamespace(connection=connection, data=data, sctp=connection.sctp)
        await connection.close()


def test_messages_that_are_none_of_ours_close_the_channel() -> None:
    async def test(messages: Sequence[bytes | str], reason: str) -> None:
        async with stranger() as (toy, other):
            for message in (b"", b"first", *messages):
                other.data.send(message)
            assert await closed(toy) == reason
            assert toy.messages == [b"first"]

    run(lambda: test(["text"], "a text message"))
    run(lambda: test([bytes(MAX_MESSAGE + 1)], f"a message longer than {MAX_MESSAGE} bytes"))


def test_a_message_without_end_is_not_kept() -> None:
    async def test() -> None:
        async with stranger() as (toy, other):
            other.sctp._remote_max_message_size = 0
            other.data.send(bytes(3 * MIB))
            assert await closed(toy) == "data that breaks the rules of the channel"

    run(test)


def test_other_streams_are_refused() -> None:
    async def test() -> None:
        async with stranger() as (toy, other):
            other.connection.createDataChannel("another")
            assert await closed(toy) == "data that breaks the rules of the channel"
        async with stranger() as (toy, other):
            chunk = ForwardTsnChunk()
            chunk.cumulative_tsn = 1
            chunk.streams = [(number, 1) for number in range(100)]
            await other.sctp._send_chunk(chunk)
            assert await closed(toy) == "an unreliable stream"

    run(test)


def test_data_is_taken_in_order_while_the_window_is_full() -> None:
    """Beyond the window only what fills the first gap is kept; the rest is sent again."""

    async def test() -> None:
        async with pair() as (left, right):
            [peer] = right.driver._transport._live  # type: ignore[attr-defined]
            peer._connection.sctp._advertised_rwnd = 0
            data = random.Random(3).randbytes(MIB)
            await send_all(left, data)
            await arrived(right, MIB)
            assert right.received[CHANNEL] == data

    run(test)


def test_floods_before_the_connection_are_bounded() -> None:
    async def test() -> None:
        async with transports(1) as [toy]:
            await offer(toy)
            [peer] = toy.driver._transport._live  # type: ignore[attr-defined]
            ice = peer._connection.sctp.transport.transport.iceGatherer._connection
            for protocol in ice._protocols:
                for size in [MAX_DATAGRAM + 1] * 10 + [MAX_DATAGRAM] * (MAX_DATAGRAMS + 10):
                    protocol.datagram_received(b"\xff" * size, ("192.0.2.1", 1))
            assert ice._queue.qsize() == MAX_DATAGRAMS
            for number in range(rtc.MAX_CANDIDATES):
                ice._remote_candidates.append(number)
            ice.request_received(None, None, None)  # not looked at

    run(test)


def test_a_peer_that_vanished_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with pair() as (left, right):
            [peer] = right.driver._transport._live  # type: ignore[attr-defined]
            ice = peer._connection.sctp.transport.transport.iceGatherer._connection
            ice.data_received = lambda data, component: None
            left.send(CHANNEL, *[bytes(LONGEST)] * 8)
            await left.driver._transport.shutdown(0.1)  # type: ignore[attr-defined]
            right.close(CHANNEL)
            await right.driver._transport.shutdown(0.1)  # type: ignore[attr-defined]

    run(test)


def test_a_peer_that_fell_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.01)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 1)

    async def test() -> None:
        async with pair() as (left, right):
            [peer] = right.driver._transport._live  # type: ignore[attr-defined]
            peer._connection.sctp.transport.transport.iceGatherer._connection.request_received = lambda *check: None
            assert await closed(left) == "connection lost"

    run(test)


def test_addresses_of_the_other_side_are_bounded() -> None:
    async def test() -> None:
        async with transports(1) as [toy]:
            await offer(toy)
            [peer] = toy.driver._transport._live  # type: ignore[attr-defined]
            lines = [f"a=candidate:1 1 udp 1 192.0.2.1 {port} typ host" for port in range(1, rtc.MAX_CANDIDATES + 9)]
            toy.describe(CHANNEL, CANDIDATES, "\r\n".join(lines))
            toy.describe(CHANNEL, CANDIDATES, "a=candidate:")
            assert await closed(toy) == WORDS
            ice = peer._connection.sctp.transport.transport.iceGatherer._connection
            assert len(ice._remote_candidates) == rtc.MAX_CANDIDATES

    run(test)


def test_the_library_writes_no_addresses_into_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test() -> None:
        async with stranger() as (toy, other):
            other.connection.createDataChannel("another")
            await closed(toy)

    run(test)
    assert "10.99." not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_commands_start_without_the_library() -> None:
    root = Path(__file__).parents[3]
    code = "import sys, pynode.cli; sys.exit('aiortc' in sys.modules or 'av' in sys.modules)"
    paths = {"PYTHONPATH": f"{root / 'shared'}{os.pathsep}{root}"}
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, **paths}, check=False).returncode == 0


# -- browsers

PAGE = """
() => {
    const connection = new RTCPeerConnection();
    const data = connection.createDataChannel("convergence", {negotiated: true, id: 0});
    data.binaryType = "arraybuffer";
    data.onmessage = ({data: message}) => data.send(message);
    const gathered = new Promise((done) => {
        connection.onicegatheringstatechange = () => connection.iceGatheringState === "complete" && done();
    });
    const described = async (description) => {
        await connection.setLocalDescription(description);
        await gathered;
        return connection.localDescription.sdp;
    };
    globalThis.peer = {
        offer: async () => described(await connection.createOffer()),
        answer: async (sdp) => {
            await connection.setRemoteDescription({type: "offer", sdp});
            return described(await connection.createAnswer());
        },
        accept: (sdp) => connection.setRemoteDescription({type: "answer", sdp}),
        ended: new Promise((done) => { data.onclose = () => done(true); }),
        close: () => data.close(),
    };
}
"""


@contextlib.asynccontextmanager
async def page(name: str) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await getattr(playwright, name).launch(**CONFIG.launch_options(name))
        context = await browser.new_context(**CONFIG.context_options(name))
        opened = await context.new_page()
        yield opened
        await browser.close()


@pytest.mark.parametrize("name", ["chromium", "firefox"])
def test_browsers(name: str) -> None:
    """With host candidates that browsers hide behind names. Either side offers, and ends it."""

    async def test(browser: Page, role: str) -> None:
        await browser.evaluate(PAGE)
        async with transports(1) as [toy]:
            if role == OFFERER:
                sdp = await browser.evaluate("(sdp) => peer.answer(sdp)", await offer(toy))
                toy.describe(CHANNEL, ANSWER, sdp)
            else:
                sdp = await answer(toy, await browser.evaluate("() => peer.offer()"))
                await browser.evaluate("(sdp) => peer.accept(sdp)", sdp)
            assert ".local " in sdp or role == ANSWERER
            await toy.first("opened")
            data = random.Random(4).randbytes(4 * MIB)
            await send_all(toy, data)
            await arrived(toy, 4 * MIB)
            assert toy.received[CHANNEL] == data
            if role == OFFERER:
                toy.close(CHANNEL)
                assert await browser.evaluate("() => peer.ended")
            else:
                await browser.evaluate("() => peer.close()")
                assert await closed(toy) == "closed by the peer"

    async def both() -> None:
        async with page(name) as browser:
            await test(browser, OFFERER)
            await test(browser, ANSWERER)

    run(both)


def test_high_water_is_less_than_what_a_test_sends_at_once() -> None:
    assert HIGH_WATER < 20 * LONGEST
