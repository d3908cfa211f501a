"""The facilitator's transport: what it dials, and whom it counts together."""

import asyncio

import pytest

from convergence.effects import Protocol
from pynode.config import Address
from pynode.facilitator import FacilitatorTransport, network_of
from pynode.facilitator_app import FacilitatorApp
from pynode.site import FacilitatorSockets
from pynode.transports.websocket import WebSocketTransport


@pytest.mark.parametrize(
    ("remote", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_addresses_of_one_network_are_counted_together(remote, network):
    assert network_of(remote) == network


class Channels:
    """Keeps what happened to channels."""

    def __init__(self):
        self.opened_ones = []
        self.ended = asyncio.get_running_loop().create_future()

    def opened(self, channel, protocol, binding=None):
        self.opened_ones.append((channel, protocol))

    def received(self, channel, data): ...

    def closed(self, channel, reason):
        if not self.ended.done():
            self.ended.set_result((channel, reason))


def test_a_public_facilitator_knocks_at_no_door_of_its_own_network():
    asyncio.run(knock())


async def knock():
    server = await asyncio.start_server(lambda reader, writer: pytest.fail("it knocked"), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = FacilitatorTransport(FacilitatorSockets(), WebSocketTransport(public_only=True))
    channels = Channels()
    transport.attach(channels)
    try:
        transport.connect(1, Protocol.LINK, f"ws://127.0.0.1:{port}/")
        assert await asyncio.wait_for(channels.ended, 10) == (1, "not an address on the internet")
    finally:
        await transport.shutdown()
        server.close()


def test_a_dialled_channel_is_closed_where_it_was_opened(tmp_path):
    asyncio.run(dial_and_close(tmp_path))


async def dial_and_close(tmp_path):
    """What is dialled here is another facilitator, which says how many channels it has."""
    app = FacilitatorApp(tmp_path, Address("127.0.0.1", 0))
    await app.start()
    transport = FacilitatorTransport(FacilitatorSockets(), WebSocketTransport())
    channels = Channels()
    transport.attach(channels)
    try:
        transport.connect(1, Protocol.LINK, app.network.facilitator)
        async with asyncio.timeout(10):
            while not channels.opened_ones:
                await asyncio.sleep(0.01)
        assert transport.source(1) == "", "nobody opened it"
        transport.close(1, "done")
        async with asyncio.timeout(10):
            while app.service.health(0)["channels"]:
                await asyncio.sleep(0.01)
    finally:
        await transport.shutdown()
        await app.stop()


class Links(WebSocketTransport):
    """Keeps what is paused."""

    def __init__(self):
        super().__init__()
        self.paused = []

    def connect(self, channel, protocol, address, source): ...

    def pause(self, channel, paused):
        self.paused.append((channel, paused))


def test_a_link_that_was_dialled_can_be_paused():
    """A node that is looked at may ask for circuits without end."""
    transport = FacilitatorTransport(FacilitatorSockets(), links := Links())
    transport.connect(1, Protocol.LINK, "ws://192.0.2.1/")
    transport.pause(1, True)
    transport.pause(2, True)
    assert links.paused == [(1, True)]


def test_facilitators_ask_each_other_for_what_they_contribute_to_the_draw(tmp_path, monkeypatch):
    monkeypatch.setattr("convergence.facilitator.partners.FIRST", 0.0)
    asyncio.run(draw_together(tmp_path))


async def draw_together(folder):
    told, heard = asyncio.Event(), asyncio.Event()
    one = FacilitatorApp(folder / "one", Address("127.0.0.1", 0))
    await one.start()
    address = one.network.facilitator
    other = FacilitatorApp(
        folder / "other",
        Address("127.0.0.1", 0),
        draws_with=[(one.service.identity, address)],
        on_event=lambda event: ...,
    )
    answer = one.service._publisher.draw

    def telling(day):
        told.set()
        return answer(day)

    one.service._publisher.draw = telling
    await other.start()
    hear = other.service._publisher.heard

    def hearing(draw, now):
        heard.set()
        hear(draw, now)

    other.service._publisher.heard = hearing
    try:
        async with asyncio.timeout(20):
            await told.wait()
            await heard.wait()
        [partner] = other.service.health(0.0)["draw"]
        assert partner["facilitator"] == one.service.identity.hex()[:16]
    finally:
        await other.stop()
        await one.stop()
