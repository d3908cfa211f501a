"""Hostile nodes and strangers: the harm stays where it is done, and everybody else's transfers go on."""

import random

import pytest

from convergence.circuit.relay import RelayCircuit, _NextHop
from convergence.codes import TransferWhy
from convergence.effects import CloseLink, Protocol, Send
from convergence.errors import DestroyReason, EndReason, RemoteError
from convergence.facilitator import reaching
from convergence.link.handshake import HANDSHAKE_TIMEOUT, Handshake
from convergence.node import Node
from convergence.outbox import Outbox
from convergence.path.entries import StickyEntries
from convergence.rdv.blind import owners_names
from convergence.rdv.point import RdvPoint
from convergence.rdv.ring import POINTS
from convergence.wire.cells import CELL_LEN, PAYLOAD_LEN, Command, encode_cell
from convergence.wire.create import Destroy
from convergence.wire.linkspec import ed25519_identity
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.sharelink import ShareLink
from tests.sim.people import (
    RELAY,
    arrived,
    content,
    get,
    network,
    relays_of,
    settle,
    share,
    share_and_stand,
    transfer,
)
from tests.sim.world import SeededRng
from tests.views import points_of

DATA = content("hostile", 4 * PIECE_SIZE + 77)


class Stranger:
    """A driver.Machine that says whatever the test wants."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.open: list[int] = []
        self.closed: dict[int, str] = {}
        self.received: dict[int, bytearray] = {}

    def link_opened(self, channel, now, *, protocol, binding):
        self.open.append(channel)
        self.received[channel] = bytearray()

    def link_data(self, channel, data, now):
        self.received[channel] += data

    def link_closed(self, channel, now, reason):
        self.closed[channel] = reason

    def link_congested(self, channel, congested, now): ...

    def woke(self, by, now): ...

    def done(self, request, result, now): ...

    def timer(self, now): ...

    def poll(self, now):
        return self.outbox.poll(now)

    def deadline(self):
        return None


@pytest.fixture
def scene():
    """A network with a transfer to come, and a stranger in it."""
    world = network("hostile", 8)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(5)
    link = share_and_stand(world, alice, DATA)
    return world, alice, bob, link, world.place("mallory", Stranger())


def dial(world, mallory, url, protocol=Protocol.LINK):
    channels = []
    mallory.driver.run(lambda now: channels.append(mallory.node.outbox.connect(protocol, url)))
    assert world.run(5, lambda: channels[0] in mallory.node.open)
    return channels[0]


def say(mallory, channel, *buffers):
    mallory.driver.run(lambda now: mallory.node.outbox.emit(Send(channel, buffers)))


def shake_hands(world, mallory, channel):
    """The link handshake of an honest client."""
    handshake = Handshake(world.crypto, SeededRng("mallory"), initiator=True, keys=None, binding=None, expected=None)
    say(mallory, channel, *handshake.start())
    read = 0
    while not handshake.open:
        assert world.run(5, lambda at=read: len(mallory.node.received[channel]) > at)
        data = bytes(mallory.node.received[channel][read:])
        read += len(data)
        answer = handshake.receive(data, world.now)
        if answer:
            say(mallory, channel, *answer)
    world.run(1)
    mallory.node.received[channel].clear()


def assert_transfer_works(world, bob, link):
    transfer_id = get(bob, link)
    assert settle(world, bob, transfer_id) == "done"
    assert arrived(bob, transfer_id) == DATA
    assert transfer(bob, transfer_id).download.duplicates == 0


def links_of(world):
    """Incoming ones that nobody is known to be at the other end of."""
    hosts = {name: host for name, host in world.hosts.items() if host.keys is not None}
    return {
        name: sum(not (link.initiator or link.circuits) for link in host.node.neighbours.links.values())
        for name, host in hosts.items()
    }


def test_garbage_on_every_port(scene):
    world, alice, bob, link, mallory = scene
    chance = random.Random("garbage")
    before = links_of(world)
    channels = []
    transfer_id = get(bob, link)
    for name in [host.name for host in world.hosts.values() if host is not mallory]:
        for protocol in (Protocol.LINK, Protocol.FACILITATOR):
            for size in (1, 7, CELL_LEN, 5 * CELL_LEN, 60_000):
                channel = dial(world, mallory, f"ws://{name}/", protocol)
                channels.append(channel)
                say(mallory, channel, chance.randbytes(size))
    world.run(60)  # some of it may be the beginning of something: that is a matter of timeouts
    assert set(channels) == set(mallory.node.closed)
    assert settle(world, bob, transfer_id) == "done"
    assert arrived(bob, transfer_id) == DATA
    assert all(relay.alive for relay in relays_of(world).values())
    world.run(400)
    assert all(count <= before[name] for name, count in links_of(world).items())


def test_a_stranger_who_says_nothing(scene):
    world, alice, bob, link, mallory = scene
    channels = [dial(world, mallory, "ws://r0/") for _ in range(50)]
    before = len(world.hosts["r0"].node.neighbours.links)
    world.run(HANDSHAKE_TIMEOUT + 1)
    assert set(channels) == set(mallory.node.closed)
    assert len(world.hosts["r0"].node.neighbours.links) <= before - 50
    assert_transfer_works(world, bob, link)


@pytest.mark.parametrize("command", [Command.VERSIONS, Command.NETINFO, Command.CERTS, Command.AUTHENTICATE])
def test_handshake_cells_after_the_handshake_close_the_link(scene, command):
    world, _, bob, link, mallory = scene
    channel = dial(world, mallory, "ws://r1/")
    shake_hands(world, mallory, channel)
    cell = b"\0\0\0\0" + bytes([command]) + bytes(PAYLOAD_LEN)
    say(mallory, channel, cell)
    assert world.run(5, lambda: channel in mallory.node.closed)
    assert_transfer_works(world, bob, link)


def test_a_flood_of_cells_for_no_circuit_is_ignored(scene):
    world, _, bob, link, mallory = scene
    channel = dial(world, mallory, "ws://r1/")
    shake_hands(world, mallory, channel)
    chance = random.Random("cells")
    for _ in range(20):
        cells = [encode_cell(chance.getrandbits(32), Command.RELAY, chance.randbytes(PAYLOAD_LEN)) for _ in range(100)]
        say(mallory, channel, b"".join(cells))
    world.run(5)
    assert channel not in mallory.node.closed
    assert not mallory.node.received[channel]
    assert_transfer_works(world, bob, link)


def test_bad_circuits_are_refused_one_by_one(scene):
    world, _, bob, link, mallory = scene
    channel = dial(world, mallory, "ws://r1/")
    shake_hands(world, mallory, channel)
    circuits = set(world.hosts["r1"].node.relaying.circuits)
    chance = random.Random("create")
    create = b"\0\2\0\x54" + chance.randbytes(84)  # ntor, 84 bytes that are for nobody
    for number in range(200):
        say(mallory, channel, encode_cell(0x80000001 + number, Command.CREATE2, create))
    world.run(5)
    answers = bytes(mallory.node.received[channel])
    assert len(answers) == 200 * CELL_LEN
    assert {answers[at] for at in range(4, len(answers), CELL_LEN)} == {Command.DESTROY}
    assert channel not in mallory.node.closed
    assert set(world.hosts["r1"].node.relaying.circuits) == circuits
    say(mallory, channel, encode_cell(0x80000001, Command.DESTROY, Destroy(0).encode()))
    say(mallory, channel, encode_cell(0x00000001, Command.CREATE2, create))  # an id of the relay's own half
    assert world.run(5, lambda: channel in mallory.node.closed)
    assert_transfer_works(world, bob, link)


def test_channels_that_come_and_go(scene):
    world, _, bob, link, mallory = scene
    before = links_of(world)
    for number in range(200):
        channel = dial(world, mallory, f"ws://r{number % 8}/")
        mallory.driver.run(lambda now, channel=channel: mallory.node.outbox.emit(CloseLink(channel, "bye")))
    world.run(5)
    assert links_of(world) == before
    assert_transfer_works(world, bob, link)


def spoil(monkeypatch, world, name, method, change):
    """Make one relay treat the cells that it forwards in its own way."""
    node = world.hosts[name].node
    for kind in (RelayCircuit, _NextHop):
        original = getattr(kind, method, None)
        if original is None:
            continue

        def spoilt(self, run, *rest, original=original):
            circuit = self if isinstance(self, RelayCircuit) else self._circuit
            if circuit._services is node:
                run = change(run)
            if run:
                original(self, run, *rest)

        monkeypatch.setattr(kind, method, spoilt)


def flip(run):
    return run[:-1] + bytes([run[-1] ^ 1])


@pytest.mark.parametrize("method", ["_pass_on", "pass_back"])
@pytest.mark.parametrize("change", [flip, lambda run: run + run, lambda run: b""], ids=["alters", "repeats", "drops"])
def test_a_relay_that_tampers_with_cells(scene, monkeypatch, method, change):
    """Digests give it away: the circuit closes, or stalls, and another path is taken."""
    world, _, _, link, _ = scene
    spoil(monkeypatch, world, "r2", method, change)
    for number in range(3):
        host = world.add(f"carol{number}", circuits=0)
        world.run(5)
        assert_transfer_works(world, host, link)


@pytest.mark.parametrize("denying", [1, 2, 3])
def test_points_that_deny_everything(scene, monkeypatch, denying):
    """One honest point of three is enough."""
    world, _, bob, link, _ = scene
    original = RdvPoint.begin
    points = [host.node._point for host in relays_of(world).values() if host.node._point._adverts]
    assert len(points) == POINTS

    def begin(self, circuit, stream_id, begin, now):
        if self in points[:denying]:
            circuit.endpoint.refuse(stream_id, EndReason.RESOLVEFAILED)
        else:
            original(self, circuit, stream_id, begin, now)

    monkeypatch.setattr(RdvPoint, "begin", begin)
    if denying < POINTS:
        assert_transfer_works(world, bob, link)
    else:
        transfer_id = get(bob, link)
        assert world.run(60, lambda: transfer(bob, transfer_id).why.code == TransferWhy.NOBODY)


def test_entries_of_one_file_that_refuse_every_point_harm_no_other_file(monkeypatch):
    """Neither at the sender nor at the receiver: what entries say of a point counts for their file only."""
    world = network("entries", 12)
    alice, bob = world.add("alice", circuits=0), world.add("bob", circuits=0)
    world.run(5)
    victims, hostile = {}, {}
    original = StickyEntries.choose

    def choose(self, user, side, leading, avoided):
        """The first file that a node shares or gets has hostile entries, all others have none of these."""
        if victims.setdefault(self, user) == user:
            chosen = original(self, user, side, leading, avoided)
            hostile.setdefault(self, {node.identity for node in chosen})
            return chosen
        return original(self, user, side, leading, {*avoided, *set().union(*hostile.values())})

    monkeypatch.setattr(StickyEntries, "choose", choose)
    refused = set()
    for own, relay in relays_of(world).items():

        def reach(source, specifiers, *rest, own=own, reach=relay.node.relaying.reach):
            for entries in hostile.values():
                if own in entries:
                    refused.add(ed25519_identity(specifiers))
                    raise RemoteError("no", reason=DestroyReason.RESOURCELIMIT)
            reach(source, specifiers, *rest)

        relay.node.relaying.reach = reach
    links = []
    share(alice, DATA, links.append)
    world.run(20)
    get(bob, links[0])
    world.run(20)
    assert len(hostile) == 2 and refused >= {node.identity for node in bob.node.directory.nodes(RELAY, world.now)}
    begun = world.now
    share(alice, content("other", 1000), links.append)
    world.run(6)
    name = ShareLink.parse(links[1]).hash_name
    names = {own: owners_names(world.crypto, name, own, world.now)[0] for own in relays_of(world)}
    at = {own for own, relay in relays_of(world).items() if names[own] in relay.node._point._adverts.names}
    assert at == {node.identity for node in points_of(name, alice.node.directory.nodes(RELAY, world.now))}
    assert settle(world, bob, get(bob, links[1])) == "done" and world.now - begun < 10


class Mute(Node):
    """Listed, and nothing behind it any more: it takes connections and answers nothing on them."""

    def link_opened(self, channel, now, *, protocol, binding):
        if protocol is Protocol.FACILITATOR:
            super().link_opened(channel, now, protocol=protocol, binding=binding)

    def link_data(self, channel, data, now):
        if channel == self._discovery.channel:
            super().link_data(channel, data, now)


def found(host):
    """Whether all that the host shares is advertised somewhere."""
    shares = host.node.transfers.shares.values()
    return bool(shares) and all(share.points for share in shares)


# With 20, both ends pass them over. Among 100 to 5 that takes too long: the facilitator, which looks for its nodes
# every ten minutes, takes them off the list.
@pytest.mark.parametrize(
    ("fakes", "people", "patience", "recheck"), [(20, 4, 300, 36_000.0), (100, 2, 1500, reaching.RECHECK)]
)
def test_shares_stand_and_gets_work_among_nodes_that_do_not_exist(monkeypatch, fakes, people, patience, recheck):
    monkeypatch.setattr(reaching, "RECHECK", recheck)
    world = network("fakes", 5)
    gone = [world.add(f"fake{number}", RELAY, circuits=0) for number in range(fakes)]
    world.run(90)
    for host in gone:  # dialled and listed, and gone from now on
        host.node.__class__ = Mute
    senders = [world.add(f"alice{number}", circuits=0) for number in range(people)]
    receivers = [world.add(f"bob{number}", circuits=0) for number in range(people)]
    world.run(90)
    assert len(senders[0].node.directory.nodes(RELAY, world.now)) == fakes + 5
    files = [content(f"fakes-{number}", 300_000) for number in range(people)]
    links = []
    for sender, data in zip(senders, files, strict=True):
        share(sender, data, links.append)
    # Not all points of each: who fails with most of those that it was to extend to is avoided, alive or not.
    assert world.run(patience, lambda: len(links) == people and all(map(found, senders)))
    wishes = [(host, get(host, link)) for host, link in zip(receivers, links, strict=True)]
    assert world.run(patience, lambda: all(transfer(*wish).state == "done" for wish in wishes))
    assert [arrived(*wish) for wish in wishes] == files
    listed = len(senders[0].node.directory.nodes(RELAY, world.now))
    assert (listed < fakes + 5) is (recheck < patience)
