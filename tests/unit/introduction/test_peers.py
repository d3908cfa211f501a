"""Peers over real circuits: who opens pipes to whom, introductions, gossip, and neighbours that misbehave."""

import pytest

from convergence.circuit.client import ClientCircuit
from convergence.codes import RtcWhy
from convergence.errors import EndReason, StreamError, Why
from convergence.introduction import pipes as module
from convergence.introduction.asker import KEEP, MAX_WAITING, CircuitCarrier
from convergence.introduction.gossip import GOSSIP_INTERVAL, GOSSIP_OVERLAP
from convergence.introduction.introducers import INTRODUCERS_PAUSE
from convergence.introduction.peers import SWEEP
from convergence.introduction.pipe import PEER_TARGET, SETUP_TIMEOUT
from convergence.introduction.pipes import ALONE_LIMIT, MAX_PIPES, MIN_PIPES, RETRY_AFTER
from convergence.introduction.signalling import MAX_PER_PAIR
from convergence.introduction.ways import CIRCUITS_PER_MINUTE
from convergence.netdir.headers import EPOCH, contradict
from convergence.wire.facilitator import Ask, Delivery, Hello, RecordCutter, RecordType, Signal, encode_record
from convergence.wire.target import Role
from tests.unit.circuit.rig import START
from tests.unit.introduction.ends import HOUR, PEERING, descriptor_of
from tests.unit.introduction.neighbourhood import Neighbourhood
from tests.unit.netdir.test_headers import header_at

NOTHING = Role(0)


@pytest.fixture
def net():
    return Neighbourhood("peers")


class Asked:
    """What came of a signal."""

    def __init__(self, carrier, to, sealed=b"offer"):
        self.answers = []
        self.refusals = []
        self._returned = False
        carrier.signal(to.identity, sealed, self._answered, self._refused, to.net.now)
        self._returned = True

    def _answered(self, sealed, now):
        assert self._returned
        self.answers.append(sealed)

    def _refused(self, why, now):
        assert self._returned and not self.refusals
        self.refusals.append(why)


def occupy(net, a, b):
    """A circuit of a's over its link to b, so that the link serves something."""
    return net.build(a, [b])


def stranger(net, at):
    """Somebody's stream to the peers of a node: the stream and what came back."""
    client = net.add("stranger", relays=False)
    circuit = net.build(client, [at])
    return net.open(circuit, PEER_TARGET)


def records(recorder):
    return RecordCutter(PEERING).feed(bytes(recorder.received))


# -- pipes


def test_neighbours_register_with_each_other_over_the_link_of_the_one_who_dialled(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    assert a.introducers == (b.identity,) and b.introducers == (a.identity,)
    assert a.pipe(b).ready and b.pipe(a) is None
    assert a.known == b.known == 1
    assert b.directory.get(a.identity).identity == a.identity


@pytest.mark.parametrize("roles", [Role.RDV, Role.EXIT])
def test_no_pipe_goes_to_a_node_that_does_not_relay(net, roles):
    a, b = net.node("a"), net.node("b", roles=roles)
    net.link(a, b)
    assert a.pipe(b) is None


def test_no_pipe_goes_to_a_node_that_is_not_listed_until_it_is(net):
    a, b = net.nodes("a", "b")
    net.link_between(a, b)
    net.pump()
    assert a.pipe(b) is None
    a.knows(b)
    net.wait(SWEEP)
    assert a.pipe(b).ready


def test_a_node_with_nothing_to_offer_has_pipes_and_stays_unknown(net):
    a, b = net.node("a", roles=NOTHING), net.node("b")
    net.link(a, b)
    assert a.pipe(b).ready and a.introducers == ()
    assert b.known == 0 and b.introducers == ()
    assert b.directory.get(a.identity) is None


def test_links_in_use_carry_up_to_max_pipes_and_idle_ones_fewer(net):
    a = net.node("a")
    others = net.nodes(*[f"b{index}" for index in range(MAX_PIPES + 2)])
    for other in others:
        net.link(a, other)
    assert sum(a.pipe(other) is not None for other in others) == MIN_PIPES
    for other in others:
        occupy(net, a, other)
    net.wait(SWEEP)
    assert sum(a.pipe(other) is not None for other in others) == MAX_PIPES


def test_another_link_is_chosen_when_one_is_gone(net):
    a = net.node("a")
    others = net.nodes(*[f"b{index}" for index in range(MIN_PIPES + 1)])
    links = [net.link(a, other) for other in others]
    assert a.pipe(others[-1]) is None
    net.break_link(a, links[0])
    assert a.pipe(others[0]) is None and a.pipe(others[-1]) is not None


def test_a_neighbour_that_ends_the_pipe_is_tried_again_later(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    (pipe,) = b.peers._pipes.accepted
    pipe.close("enough", net.now)
    net.pump()
    assert a.pipe(b) is None and a.introducers == ()
    net.wait(RETRY_AFTER - 2 * SWEEP)
    assert a.pipe(b) is None
    net.wait(3 * SWEEP)
    assert a.pipe(b).ready


def test_a_neighbour_that_says_nothing_is_given_up(net):
    a, b = net.nodes("a", "b")
    b.services.on_begin = b.services.accept
    net.link(a, b)
    assert a.pipe(b) is not None and not a.pipe(b).ready
    net.wait(SETUP_TIMEOUT)
    assert a.pipe(b) is None
    ((_, recorder),) = b.services.streams
    assert recorder.reason is not None and b.services.closed


def test_a_pipe_that_alone_keeps_its_link_is_closed_when_there_are_enough(net):
    a = net.node("a")
    others = net.nodes(*[f"b{index}" for index in range(MIN_PIPES + 1)])
    circuits = []
    for other in others:
        net.link(a, other)
        circuits.append(occupy(net, a, other))
    net.wait(SWEEP)
    assert all(a.pipe(other) is not None for other in others)
    for circuit in circuits[1:3]:
        circuit.destroy(0, net.now)
    net.wait(ALONE_LIMIT - SWEEP, SWEEP)
    assert all(a.pipe(other) is not None for other in others)
    net.wait(3 * SWEEP, SWEEP)
    assert [a.pipe(other) is not None for other in others] == [True, True, False, True]
    assert not net.link_between(a, others[2]).circuits  # which the link's own time limit now ends
    net.wait(ALONE_LIMIT, SWEEP)
    assert a.pipe(others[2]) is None and a.pipe(others[1]) is not None


def test_one_pipe_goes_over_a_circuit(net):
    b = net.node("b")
    stream, first = stranger(net, b)
    circuit = net.build(net.machines[-1], [b])
    assert first.reason is None
    net.open(circuit, PEER_TARGET)
    _, second = net.open(circuit, PEER_TARGET)
    assert second.reason == EndReason.RESOURCELIMIT and first.reason is None


def test_a_full_node_lets_those_go_that_did_not_register(net, monkeypatch):
    monkeypatch.setattr(module, "MAX_ACCEPTED", 2)
    b = net.node("b")
    _, first = stranger(net, b)
    for name in ("a1", "a2"):
        net.link(net.node(name), b)
    assert first.reason == EndReason.RESOURCELIMIT
    assert len(b.introducers) == 2
    _, last = stranger(net, b)
    assert last.reason == EndReason.RESOURCELIMIT
    assert len(b.introducers) == 2


def test_one_neighbour_does_not_take_all_places(net, monkeypatch):
    monkeypatch.setattr(module, "MAX_ACCEPTED", 3)
    b, greedy = net.nodes("b", "greedy")
    net.link(greedy, b)
    pipes = [net.open(net.build(greedy, [b]), PEER_TARGET)[1] for _ in range(2)]
    for index, pipe in enumerate(b.peers._pipes.accepted):
        pipe.peer = bytes([index]) * 32  # under many names
    a1, a2 = net.nodes("a1", "a2")
    net.link(a1, b)
    assert a1.pipe(b).ready and [pipe.reason for pipe in pipes] == [None, EndReason.RESOURCELIMIT]
    net.link(a2, b)
    assert a2.pipe(b).ready and greedy.pipe(b).ready and pipes[0].reason == EndReason.RESOURCELIMIT
    _, last = stranger(net, b)
    assert last.reason == EndReason.RESOURCELIMIT, "no link has more than its share now"


def test_one_address_with_many_links_does_not_take_all_places(net, monkeypatch):
    monkeypatch.setattr(module, "MAX_ACCEPTED", 3)
    b = net.node("b")
    for greedy in net.nodes("g1", "g2", "g3"):
        net.link(greedy, b)
    for entry in b.peers._pipes._accepted.values():
        entry.circuit.link.source = "an address"
    a = net.node("a")
    net.link(a, b)
    assert a.pipe(b).ready and len(b.peers._pipes.accepted) == 3


def test_a_port_is_no_pipe(net):
    b = net.node("b")
    circuit = net.build(net.add("stranger", relays=False), [b])
    _, recorder = net.open(circuit, "peer.node:80")
    assert recorder.reason is not None


def test_a_node_that_stops_closes_its_pipes_and_opens_none(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    a.peers.stop(net.now)
    net.wait(2 * RETRY_AFTER)
    assert a.known == b.known == 0 and b.introducers == ()
    circuit = net.build(net.add("stranger", relays=False), [a])
    assert net.open(circuit, PEER_TARGET)[1].reason is not None


# -- introducers


def test_the_node_is_told_of_its_introducers_at_once_and_then_after_a_pause(net):
    a, b, c, d, e = net.nodes(*"abcde")
    for other in (b, c, d):
        net.link(a, other)
        net.wait(1)
    assert a.told == [(b.identity,)]
    net.wait(INTRODUCERS_PAUSE)
    assert a.told == [(b.identity,), (b.identity, c.identity, d.identity)]
    occupy(net, a, e)
    net.link(a, e)
    net.wait(2 * INTRODUCERS_PAUSE)
    assert len(a.told) == 2  # three are enough
    net.break_link(a, net.link_between(a, b))
    net.wait(INTRODUCERS_PAUSE)
    assert a.told[2:] == [(c.identity, d.identity, e.identity)]


def test_what_is_undone_in_the_pause_is_not_told(net):
    a, b, c = net.nodes(*"abc")
    net.link(a, b)
    net.wait(1)
    net.break_link(a, net.link(a, c))
    net.wait(INTRODUCERS_PAUSE)
    assert a.told == [(b.identity,)]


def test_a_changed_descriptor_is_registered_with_all_neighbours(net):
    a, b, c = net.nodes(*"abc")
    for other in (b, c):
        net.link(a, other)
    net.wait(1)
    a.published = net.now
    a.peers.republish(net.now)
    net.pump()
    for other in (b, c):
        assert other.directory.get(a.identity).introducers == (b.identity, c.identity)


def test_a_descriptor_is_registered_again_before_it_expires(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    for _ in range(4):
        net.wait(1000, 10)
        a.published = b.published = net.now
    assert b.directory.get(a.identity, net.now) is not None
    assert a.directory.get(b.identity, net.now) is not None


def test_a_node_that_was_alone_for_long_registers_what_holds_then(net):
    a, b, c = net.nodes(*"abc")
    net.break_link(a, net.link(a, b))
    net.wait(2 * HOUR, HOUR / 2)
    a.published = c.published = net.now
    a.directory.hear(c.descriptor.encode(), net.now)
    net.link(a, c)
    assert a.introducers == (c.identity,)


def test_a_node_that_has_no_more_to_offer_withdraws_and_may_come_back(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    a.roles = NOTHING
    a.peers.republish(net.now)
    net.pump()
    assert b.introducers == () and a.introducers == ()
    assert a.pipe(b).anonymous
    a.roles = Role.RELAY
    a.peers.republish(net.now)
    net.pump()
    assert b.introducers == (a.identity,) and a.introducers == (b.identity,)


# -- introductions


def test_a_neighbour_of_both_introduces(net):
    a, b, c = net.nodes(*"abc")
    net.link(a, b)
    net.link(c, b)
    a.directory.hear(descriptor_of(c.keys, introducers=[b.identity]).encode(), net.now)
    asked = Asked(next(a.carriers(c.identity)), c)
    net.pump()
    ((sealed, reply, source),) = c.messages
    assert sealed == b"offer" and source == b.identity
    reply(b"answer", net.now)
    reply(b"candidates", net.now)
    net.pump()
    assert asked.answers == [b"answer", b"candidates"] and not b.messages


def test_the_introducer_itself_may_be_the_target(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    asked = Asked(next(a.carriers(b.identity)), b)
    net.pump()
    ((sealed, reply, _),) = b.messages
    reply(b"answer", net.now)
    net.pump()
    assert sealed == b"offer" and asked.answers == [b"answer"]


def test_who_dialled_us_is_asked_over_its_own_pipe(net):
    a, b = net.nodes("a", "b")
    net.link(a, b)
    Asked(next(b.carriers(a.identity)), a)
    net.pump()
    assert [sealed for sealed, *_ in a.messages] == [b"offer"]


def test_an_unknown_target_is_refused(net):
    a, b, c = net.nodes(*"abc")
    net.link(a, b)
    asked = Asked(next(a.carriers(c.identity)), c)
    net.pump()
    assert len(asked.refusals) == 1


def test_a_flood_of_signals_is_refused_and_the_pipe_lives(net):
    a, b, c = net.nodes(*"abc")
    net.link(a, b)
    net.link(c, b)
    carrier = next(a.carriers(c.identity, b.identity))
    asked = [Asked(carrier, c) for _ in range(MAX_PER_PAIR + 5)]
    net.pump()
    assert len(c.messages) == MAX_PER_PAIR
    assert sum(len(item.refusals) for item in asked) == 5
    assert a.pipe(b).ready


def carrier_names(node, carriers, pipes):
    """Names of whoever stands behind each carrier."""
    by_signals = {id(pipe.signals): name for name, pipe in pipes.items()}
    return [
        f"circuit to {carrier._node.identity.hex()[:8]}"
        if isinstance(carrier, CircuitCarrier)
        else by_signals.get(id(carrier), carrier)
        for carrier in carriers
    ]


def test_carriers_come_in_order_and_none_twice(net):
    names = ["introducer", "other1", "other2", "other3", "other4", "named"]
    a = net.node("a")
    others = dict(zip(names, net.nodes(*names), strict=True))
    far, far_named, target = net.nodes("far", "far named", "target")
    for other in others.values():
        net.link(a, other)
        occupy(net, a, other)
    net.wait(SWEEP)
    a.knows(far, far_named)
    introducers = [far.identity, others["introducer"].identity, others["named"].identity]
    a.directory.hear(descriptor_of(target.keys, introducers=introducers).encode(), net.now)
    a.by_facilitator = "facilitator"
    pipes = {name: a.pipe(other) for name, other in others.items()}
    by_circuit = f"circuit to {far.identity.hex()[:8]}"

    order = carrier_names(a, a.carriers(target.identity, others["named"].identity), pipes)
    assert order[:2] == ["named", "introducer"] and order[5:] == [by_circuit, "facilitator"]
    assert len({*order[2:5]}) == 3 and {*order[2:5]} < {"other1", "other2", "other3", "other4"}

    a.by_facilitator = None
    order = carrier_names(a, a.carriers(target.identity, far_named.identity), pipes)
    assert order[:3] == [f"circuit to {far_named.identity.hex()[:8]}", "introducer", "named"]
    assert order[-1] == by_circuit

    assert len(carrier_names(a, a.carriers(bytes(32)), pipes)) == 3  # nothing is known of it


def test_ways_that_appear_meanwhile_are_found(net):
    a, b, c = net.nodes(*"abc")
    a.knows(c)
    a.by_facilitator = "facilitator"
    carriers = a.carriers(c.identity)
    assert next(carriers) == "facilitator"
    net.link(a, b)
    assert next(carriers) is a.pipe(b).signals


def test_the_facilitator_is_asked_at_once_while_there_is_no_pipe_and_last_when_there_is_one(net):
    a, b, c = net.nodes(*"abc")
    a.knows(c)
    a.by_facilitator = "facilitator"
    assert list(a.carriers(c.identity)) == ["facilitator"]
    net.link(a, b)
    assert list(a.carriers(c.identity)) == [a.pipe(b).signals, "facilitator"]


def test_a_facilitator_that_is_back_by_then_is_asked(net):
    a, c = net.nodes(*"ac")
    a.knows(c)
    route = a.peers.route(c.identity, None, net.now)
    assert route.next(net.now) is None and route.last(net.now) is None
    a.by_facilitator = "facilitator"
    assert [route.last(net.now), route.last(net.now)] == ["facilitator", None]


# -- introductions through a circuit


@pytest.fixture
def far(net):
    """a, which knows of target and its introducer, but has links to a relay only."""
    a, relay, introducer, target = net.nodes("a", "relay", "introducer", "target")
    net.link(target, introducer)
    a.knows(introducer)
    a.directory.hear(descriptor_of(target.keys, introducers=[introducer.identity]).encode(), net.now)
    a.pool.via = relay
    return a, relay, introducer, target


def test_an_introducer_is_asked_through_a_circuit_and_does_not_learn_by_whom(net, far):
    a, relay, introducer, target = far
    (carrier,) = a.carriers(target.identity)
    asked = Asked(carrier, target)
    net.tick(0)
    ((sealed, reply, _),) = target.messages
    reply(b"answer", net.now)
    net.pump()
    assert sealed == b"offer" and asked.answers == [b"answer"]
    assert introducer.directory.get(a.identity) is None and introducer.known == 1
    follow_up = Asked(carrier, target, b"candidates")
    net.pump()
    assert target.messages[1][0] == b"candidates" and not follow_up.refusals
    assert len(a.pool.built) == 1


def test_whoever_has_lost_all_links_asks_a_relay_that_it_can_dial(net, far):
    a, relay, introducer, target = far
    assert a.directory.hear(descriptor_of(relay.keys, url="ws://relay/").encode(), net.now)
    a.addresses = {relay.identity, target.identity}
    *_, carrier = a.carriers(target.identity)
    asked = Asked(carrier, target)
    net.tick(0)
    assert asked.refusals == [Why(RtcWhy.UNKNOWN_NODE)]

    a.addresses.add(introducer.identity)
    *_, carrier = a.carriers(target.identity)
    asked = Asked(carrier, target)
    net.tick(0)
    ((sealed, reply, _),) = target.messages
    reply(b"answer", net.now)
    net.pump()
    assert sealed == b"offer" and asked.answers == [b"answer"]
    assert [len(circuit.path) for circuit in a.pool.built] == [1, 1]


def test_the_circuit_is_kept_for_late_answers_and_closed_then(net, far):
    a, _, introducer, target = far
    (carrier,) = a.carriers(target.identity)
    asked = Asked(carrier, target)
    net.tick(0)
    net.wait(KEEP - 1)
    ((_, reply, _),) = target.messages
    reply(b"late", net.now)
    net.pump()
    assert asked.answers == [b"late"]
    net.wait(1)
    assert a.pool.built[0].closed and introducer.known == 1
    assert introducer.services.closed and not asked.refusals
    Asked(carrier, target, b"once more")
    net.tick(0)
    assert target.messages[-1][0] == b"once more" and len(a.pool.built) == 2


def test_a_circuit_that_cannot_be_built_refuses(net, far):
    a, *_, target = far
    a.pool.via = None
    (carrier,) = a.carriers(target.identity)
    asked = Asked(carrier, target)
    assert not asked.refusals
    net.tick(0)
    assert asked.refusals == ["no path"]


def test_a_circuit_that_breaks_refuses(net, far):
    a, _, introducer, target = far
    (carrier,) = a.carriers(target.identity)
    asked = Asked(carrier, target)
    net.tick(0)
    introducer.circuits[-1].destroy(1, net.now)
    net.pump()
    assert len(asked.refusals) == 1


def test_only_so_many_signals_wait_for_a_circuit(net, far):
    a, *_, target = far
    (carrier,) = a.carriers(target.identity)
    asked = [Asked(carrier, target) for _ in range(MAX_WAITING + 2)]
    net.tick(0)
    assert [len(item.refusals) for item in asked[MAX_WAITING:]] == [1, 1]
    assert len(target.messages) == MAX_PER_PAIR


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RecordType.HELLO, Hello(bytes(32), bytes(32)).encode()),
        (RecordType.DELIVER, Delivery(2, b"sealed").encode()),
        (RecordType.ASK, Ask(0).encode()),
        (RecordType.REPLY, b"\0"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_introducer_that_breaks_the_rules_loses_the_circuit(net, far, kind, body):
    a, _, introducer, target = far
    introducer.services.on_begin = introducer.services.accept
    (carrier,) = a.carriers(target.identity)
    asked = Asked(carrier, target)
    net.tick(0)
    stream, recorder = introducer.services.streams[-1]
    assert [kind for kind, _ in records(recorder)] == [RecordType.SIGNAL]
    stream.write(encode_record(kind, body), net.now)
    net.pump()
    assert a.pool.built[0].closed and len(asked.refusals) == 1 and not a.messages


def test_only_so_many_circuits_a_minute_are_built_to_introducers(net):
    """Descriptors that name each other would otherwise keep every relay building circuits for the next one."""
    a = net.node("a")
    fakes = net.nodes(*[f"fake{index}" for index in range(CIRCUITS_PER_MINUTE)])
    for index, fake in enumerate(fakes):
        introducers = [fakes[(index + step) % len(fakes)].identity for step in (1, 2, 3)]
        a.directory.hear(descriptor_of(fake.keys, introducers=introducers).encode(), net.now)
    assert sum(len(list(a.carriers(fake.identity))) for fake in fakes) == CIRCUITS_PER_MINUTE
    assert list(a.carriers(fakes[0].identity, source="another")), "others have their part of them"
    net.wait(60)
    assert len(list(a.carriers(fakes[0].identity))) == 3


def test_a_circuit_that_takes_no_stream_refuses_and_is_not_kept(net, far, monkeypatch):
    a, *_, target = far

    def full(*args):
        raise StreamError("too many streams on this circuit")

    (carrier,) = a.carriers(target.identity)
    with monkeypatch.context() as patch:
        patch.setattr(ClientCircuit, "open_stream", full)
        asked = Asked(carrier, target)
        net.tick(0)
    assert len(asked.refusals) == 1 and a.pool.built[0].closed
    Asked(carrier, target, b"once more")
    net.tick(0)
    assert len(a.pool.built) == 2 and target.messages[-1][0] == b"once more"


# -- gossip


def test_descriptors_spread_over_a_new_pipe_and_the_node_is_told_once(net):
    a, b = net.nodes("a", "b")
    far = net.nodes(*[f"far{index}" for index in range(5)])
    b.knows(*far)
    net.link(a, b)
    assert all(a.directory.get(node.identity) for node in far)
    net.wait(2)
    assert a.nodes_changed == 1
    assert b.nodes_changed == 1  # a's registration


def test_news_travel_hop_by_hop(net):
    a, b, c, d = net.nodes(*"abcd")
    net.link(a, b)
    net.link(c, b)
    net.wait(GOSSIP_INTERVAL)
    net.link(d, c)
    net.wait(6 * GOSSIP_INTERVAL)
    assert a.directory.get(d.identity) is not None and d.directory.get(a.identity) is not None


def test_gossip_asks_for_what_is_new_since_the_last_answer(net):
    a, b = net.nodes("a", "b")
    asked = []
    newer = b.directory.newer
    b.directory.newer = lambda since, now: asked.append((since, now)) or newer(since, now)
    net.link(a, b)
    net.wait(4 * GOSSIP_INTERVAL)
    assert asked[0] == (0, START) and 3 <= len(asked) <= 7
    before = START
    for since, now in asked[1:]:
        assert since == int(before) - GOSSIP_OVERLAP
        assert GOSSIP_INTERVAL * 2 / 3 <= now - before + 1
        before = now


def test_links_that_come_and_go_do_not_make_a_node_ask_more_often(net):
    a, b = net.nodes("a", "b")
    asked = []
    newer = b.directory.newer
    b.directory.newer = lambda since, now: asked.append(now) or newer(since, now)
    link = net.link(a, b)
    for _ in range(3):
        net.break_link(a, link)
        net.wait(SWEEP)
        link = net.link(a, b)
    del asked[:]
    net.wait(10 * GOSSIP_INTERVAL)
    assert len(asked) <= 10 * 3 / 2


def test_who_answers_nothing_does_not_keep_us_from_asking_others_for_all(net):
    a, b, liar, far = net.nodes("a", "b", "liar", "far")
    liar.directory.newer = lambda since, now: []
    b.knows(far)
    net.link(a, liar)
    net.wait(GOSSIP_OVERLAP + 60)
    net.link(a, b)
    assert a.directory.get(far.identity) is not None


# -- headers


def test_a_facilitator_that_signs_two_headers_for_one_epoch_is_found_out_and_all_are_told(net):
    """It shows one network to `a` and another one to `d`."""
    a, b, c, d = net.nodes(*"abcd")
    a.headers.take(header_at(START).encode(), START)
    d.headers.take(header_at(START + 1).encode(), START + 1)
    for first, second in ((a, b), (b, c), (c, d)):
        net.link(first, second)
    net.wait(10 * GOSSIP_INTERVAL)
    for node in (a, b, c, d):
        [found] = node.contradictions
        assert contradict(found.first, found.second)


def test_headers_of_an_honest_facilitator_spread_and_nobody_is_told_anything(net):
    a, b, c = net.nodes(*"abc")
    newest = header_at(START)
    a.headers.take(newest.encode(), START)
    b.headers.take(header_at(START - EPOCH).encode(), START)
    net.link(a, b)
    net.link(c, b)
    net.wait(4 * GOSSIP_INTERVAL)
    assert a.headers.newest == b.headers.newest == c.headers.newest == newest
    assert not (a.contradictions or b.contradictions or c.contradictions)


def test_a_header_that_is_out_of_date_or_forged_costs_nobody_a_pipe(net):
    a, b = net.nodes("a", "b")
    false = [header_at(START - 4 * 3600), header_at(START, seed=b"e" * 32), header_at(START - 60, seed=b"e" * 32)]
    b.headers.to_tell = lambda now: [header.encode() for header in false]
    net.link(a, b)
    net.wait(1)
    assert a.pipe(b).ready and a.headers.newest is None and not a.contradictions


# -- hostile neighbours


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5, encode_record(RecordType.REGISTERED), b"\0\0\0\x01\x0bx"],
    ids=["http", "too large", "not due", "bad record"],
)
def test_a_stranger_that_breaks_the_rules_loses_the_stream_only(net, data):
    b = net.node("b")
    stream, recorder = stranger(net, b)
    assert records(recorder)[0][0] is RecordType.HELLO
    stream.write(data, net.now)
    net.pump()
    assert recorder.reason == EndReason.TORPROTOCOL
    assert not b.services.closed and not b.closed_links and not b.peers._pipes.accepted


def test_a_neighbour_that_lies_about_itself_is_left(net):
    a, b, c = net.nodes(*"abc")
    b.services.on_begin = b.services.accept
    net.link(a, b)
    ((stream, recorder),) = b.services.streams
    stream.write(encode_record(RecordType.HELLO, Hello(c.identity, bytes(32)).encode()), net.now)
    net.pump()
    assert a.pipe(b) is None and RecordType.REGISTER not in dict(records(recorder))
    assert not a.closed_links


def test_endless_descriptors_end_the_pipe(net):
    a, b = net.nodes("a", "b")
    b.services.on_begin = b.services.accept
    net.link(a, b)
    ((stream, recorder),) = b.services.streams
    stream.write(encode_record(RecordType.HELLO, Hello(b.identity, bytes(32)).encode()), net.now)
    net.pump()
    assert RecordType.ASK in dict(records(recorder))
    body = b"".join(b"\x01\x00" + bytes(256) for _ in range(120))
    for _ in range(40):
        stream.write(encode_record(RecordType.DESCRIPTORS, body), net.now)
        net.pump()
    assert a.pipe(b) is None and len(a.directory.nodes(NOTHING, net.now)) == 1


def test_a_strangers_signals_reach_the_node_itself_in_limits(net):
    b = net.node("b")
    stream, recorder = stranger(net, b)
    for tag in range(MAX_PER_PAIR + 3):
        stream.write(encode_record(RecordType.SIGNAL, Signal(tag, b.identity, b"sealed").encode()), net.now)
    net.pump()
    assert len(b.messages) == MAX_PER_PAIR
    b.messages[0][1](b"answer", net.now)
    net.pump()
    kinds = [kind for kind, _ in records(recorder)]
    assert kinds.count(RecordType.UNREACHABLE) == 3 and kinds[-1] is RecordType.REPLY


def test_a_link_that_sheds_the_circuit_at_once_leaves_nothing(net, monkeypatch):
    a, b = net.nodes("a", "b")
    made = []

    def shed(*args):
        circuit = ClientCircuit(*args)
        circuit.destroy(0, net.now)
        made.append(circuit)
        return circuit

    monkeypatch.setattr(module, "ClientCircuit", shed)
    net.link(a, b)
    assert made and a.pipe(b) is None
    monkeypatch.undo()
    net.wait(SWEEP)
    assert a.pipe(b).ready
