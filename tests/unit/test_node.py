"""The composition root: configuration, dispatch by channel, what each role serves, start and stop."""

import json
from dataclasses import replace
from hashlib import sha1
from types import SimpleNamespace

import pytest

from convergence.codes import PathWhy
from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Connect, Failure, Load, Protocol, Resolve, Scan
from convergence.errors import DestroyReason, EndReason, LocalError
from convergence.events import Trouble, as_json
from convergence.facilitator.client import RTC_LIFETIME
from convergence.fetch import MAX_FETCHES
from convergence.node import Node, NodeConfig
from convergence.path.pool import POOL_SIZE
from convergence.tor.network import TorConfig
from convergence.wire.linkspec import or_address, rsa_fingerprint
from convergence.wire.rdv import Advert, AdvertOp, DbInfo
from convergence.wire.relay import AnswerType, Begin, RelayCommand
from convergence.wire.target import Role
from pynode.torkeys import RsaSecret
from tests.sim.people import arrived, connect, content, get, network, serve_and_stand, settle, share_and_stand, transfer
from tests.sim.world import SeededRng
from tests.unit.circuit.rig import CRYPTO, START, Recorder

URL = "ws://node/"
ORIGIN = Role(0)


def make(roles=ORIGIN, **config):
    rng = SeededRng("node")
    keys = NodeKeys.generate(CRYPTO, rng) if roles else None
    settings = NodeConfig("ws://facilitator/", roles=roles, urls=(URL,) if roles else (), **config)
    return Node(settings, CRYPTO, rng, keys=keys)


@pytest.fixture
def world():
    return network("node", 6)


def joined(world, name="client", roles=ORIGIN, **config):
    """A node that knows the network and has its circuits."""
    host = world.add(name, roles, **config)
    assert world.run(30, lambda: host.node.pool.ready == config.get("circuits", POOL_SIZE))
    return host


def node_of(world, circuit, at=-1):
    """The node at a hop of a circuit."""
    identity = circuit.path[at].identity
    return next(host.node for host in world.hosts.values() if host.keys and host.keys.identity == identity)


def events(host, kind):
    return [as_json(event) for event in host.events if event.kind == kind]


# -- configuration


@pytest.mark.parametrize(
    "config", [{"hops": 0}, {"hops": 6}, {"exit_hops": 0}, {"exit_hops": 6}, {"roles": Role.RELAY}]
)
def test_settings_that_cannot_work_are_refused(config):
    with pytest.raises(LocalError):
        NodeConfig("ws://facilitator/", **config)


def test_a_node_without_keys_is_another_one_each_time():
    config = NodeConfig("ws://facilitator/", roles=Role.RELAY, urls=(URL,))
    nodes = [Node(config, CRYPTO, SeededRng(name)) for name in ("one", "two")]
    identities = {node.announcement.describe(START).identity for node in nodes}
    assert len(identities) == 2


def test_rtc_makes_up_for_an_address():
    node = Node(NodeConfig("ws://facilitator/", roles=Role.RELAY, rtc=True), CRYPTO, SeededRng("rtc"))
    descriptor = node.announcement.describe(START)
    assert descriptor.rtc and descriptor.ws_url is None and descriptor.expires - descriptor.published == RTC_LIFETIME


def test_relays_of_tor_reach_a_node_that_says_so_by_an_rsa_identity():
    keys = replace(NodeKeys.generate(CRYPTO, SeededRng("tls")), rsa=RsaSecret.generate())
    config = NodeConfig("ws://facilitator/", roles=Role.RDV, urls=(URL,), tls="192.0.2.7:9443")
    node = Node(config, CRYPTO, SeededRng("node"), keys=keys)
    target = node.announcement.describe(START).target
    assert or_address(target.tor_specifiers) == ("192.0.2.7", 9443)
    assert rsa_fingerprint(target.tor_specifiers) == sha1(keys.rsa.public).digest()
    assert node.relaying.keys.onion.node_id == target.node_id, "handshakes of our own network name it as before"
    with pytest.raises(LocalError, match="RSA"):
        Node(config, CRYPTO, SeededRng("node"), keys=replace(keys, rsa=None))


@pytest.mark.parametrize("secure", [False, True])
def test_a_page_that_came_over_https_dials_no_plain_address(world, secure):
    host = joined(world, circuits=0, secure=secure)
    world.run(10)
    addresses = {
        host.node._address(node.identity, world.now) for node in host.node.directory.nodes(Role.RELAY, world.now)
    }
    assert (None in addresses) == secure and bool(addresses - {None}) != secure


# -- dispatch


def test_a_channel_of_a_facilitator_that_we_did_not_open_is_closed():
    node = make(Role.RELAY)
    node.start(START)
    node.poll(START)
    node.link_opened(2, START, protocol=Protocol.FACILITATOR, binding=None)
    assert node.poll(START) == [CloseLink(2, "this node is no facilitator")]


def test_a_tcp_channel_nobody_asked_for_is_closed():
    node = make(Role.EXIT)
    node.link_opened(2, START, protocol=Protocol.TCP, binding=None)
    assert node.poll(START) == [CloseLink(2)]


def test_input_of_unknown_channels_is_ignored():
    node = make(Role.RELAY)
    node.link_data(9, b"data", START)
    node.link_closed(9, START, "why")
    node.link_congested(9, True, START)
    node.done(77, None, START)
    assert node.poll(START) == [] and node.deadline() is None


@pytest.mark.parametrize("roles", [Role.RELAY, Role.RDV, Role.EXIT, Role(7)])
def test_whoever_works_for_others_takes_links(roles):
    """A point or an exit that is no relay ends circuits all the same."""
    node = make(roles)
    node.link_opened(2, START, protocol=Protocol.LINK, binding=None)
    assert not any(isinstance(effect, CloseLink) for effect in node.poll(START)) and len(node.neighbours.links) == 1


def test_a_node_without_roles_extends_nothing():
    assert make().relaying.paused and not make(Role.RELAY).relaying.paused


# -- in a network


def test_a_node_gets_its_circuits_and_says_so_once(world):
    host = joined(world)
    assert len(events(host, "ready")) == 1
    snapshot = host.node.snapshot(world.now)
    assert snapshot["ready"] and snapshot["ready_after"] > 0 and snapshot["facilitator"] and snapshot["nodes"] == 6
    assert [item["state"] for item in snapshot["circuits"]] == ["ready"] * POOL_SIZE
    assert snapshot["bytes_in"] > 0 and snapshot["bytes_out"] > 0
    circuit = host.node.pool._ready[0].circuit
    circuit.destroy(DestroyReason.FINISHED, world.now)
    world.run(5)
    assert len(events(host, "ready")) == 1


def test_relays_count_what_they_do(world):
    host = joined(world)
    world.run(1)  # pipes are told from other circuits by their first stream
    relays = [other.node.snapshot(world.now) for other in world.hosts.values() if other.name.startswith("r")]
    assert sum(item["relay"]["circuits"] for item in relays) == 2 * POOL_SIZE
    cells = sum(item["relay"]["cells"] for item in relays)
    host.driver.run(host.node.stop)
    world.run(5)
    relays = [other.node.snapshot(world.now) for other in world.hosts.values() if other.name.startswith("r")]
    assert sum(item["relay"]["cells"] for item in relays) >= cells, "what closed circuits did still counts"


def test_the_snapshot_is_plain_data(world):
    host = joined(world)
    text = json.dumps(host.node.snapshot(world.now))
    assert "hash_name" not in text


def open_at_last_hop(world, host, target):
    circuit = host.node.pool._ready[0].circuit
    handler = Recorder()
    host.driver.run(lambda now: circuit.open_stream(target, handler, now))
    world.run(2)
    return circuit, handler


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("host.example:80", EndReason.EXITPOLICY),  # no exit
        (f"{'ab' * 32}.rdv:0", EndReason.RESOLVEFAILED),  # a point, and nobody provides
        ("nonsense.rdv:0", EndReason.TORPROTOCOL),
    ],
)
def test_begin_at_a_relay_that_is_a_point(world, target, reason):
    host = joined(world)
    circuit, handler = open_at_last_hop(world, host, target)
    assert handler.reason == reason and circuit.built


def test_begin_rdv_where_no_point_is():
    world = network("no point", 0)
    for number in range(3):
        world.add(f"x{number}", Role.RELAY | Role.EXIT, circuits=0)
    world.run(60)
    host = joined(world)
    circuit, handler = open_at_last_hop(world, host, f"{'ab' * 32}.rdv:0")
    assert handler.reason == EndReason.EXITPOLICY and circuit.built


def test_adverts_are_for_points_only(world):
    host = joined(world)
    circuit = host.node.pool._ready[0].circuit
    payload = DbInfo((Advert(bytes(32), AdvertOp.ADD),)).encode()
    host.driver.run(lambda now: circuit.send_message(RelayCommand.DB_INFO, payload))
    world.run(2)
    point = node_of(world, circuit)
    assert circuit.built and len(point._point._adverts) == 1
    circuit.destroy(DestroyReason.FINISHED, world.now)
    host.driver.run(lambda now: None)
    world.run(2)
    assert not point._point._adverts


def test_adverts_to_a_node_that_is_no_point_close_the_circuit():
    world = network("plain relays", 0)
    for number in range(3):
        world.add(f"x{number}", Role.RELAY, circuits=0)
    world.run(60)
    host = joined(world)
    circuit = host.node.pool._ready[0].circuit
    payload = DbInfo((Advert(bytes(32), AdvertOp.ADD),)).encode()
    host.driver.run(lambda now: circuit.send_message(RelayCommand.DB_INFO, payload))
    world.run(2)
    assert circuit.closed


def test_names_are_looked_up_by_exits_only(world):
    host = joined(world)
    circuit = host.node.pool._ready[0].circuit
    answers = []
    host.driver.run(lambda now: circuit.resolve("host.example", lambda resolved, now: answers.append(resolved)))
    world.run(2)
    assert answers[0].answers[0].kind == AnswerType.ERROR_PERMANENT
    assert not any(isinstance(effect, Resolve) for effect in node_of(world, circuit).poll(world.now))


def test_an_exit_connects_and_resolves():
    node = make(Role.EXIT)
    endpoint = SimpleNamespace(entries={}, accept_stream=lambda stream_id: SimpleNamespace())
    circuit = SimpleNamespace(link=SimpleNamespace(channel=2), endpoint=endpoint)
    node.begin(circuit, 5, Begin("host.example", 80), START)
    node.resolve(circuit, 6, "host.example", START)
    assert [(type(effect), effect.source) for effect in node.poll(START)] == [(Connect, 2), (Resolve, 2)]


def test_an_exit_keeps_to_what_its_shell_can_hold():
    node, refused = make(Role.EXIT, exit_streams=1), []
    endpoint = SimpleNamespace(
        entries={}, accept_stream=lambda stream_id: SimpleNamespace(), refuse=lambda *what: refused.append(what)
    )
    circuit = SimpleNamespace(link=SimpleNamespace(channel=2), endpoint=endpoint)
    for stream_id in (5, 6):
        node.begin(circuit, stream_id, Begin("host.example", 80), START)
    assert refused == [(6, EndReason.RESOURCELIMIT)]


# -- commands


def test_fetches_are_limited_and_forgotten_when_over(world):
    host = joined(world)
    numbers = []

    def many(now):
        for _ in range(MAX_FETCHES):
            numbers.append(host.node.fetch("http://host.example/", lambda data: None, now))
            host.node.fetches._fetches[numbers[-1]].over = False

    host.driver.run(many)
    with pytest.raises(LocalError, match="limit-fetches"):
        host.driver.run(lambda now: host.node.fetch("http://host.example/", lambda data: None, now))
    for number in numbers:
        host.driver.run(lambda now, number=number: host.node.cancel_fetch(number, now))
    host.driver.run(lambda now: host.node.cancel_fetch(999, now))
    host.driver.run(lambda now: numbers.append(host.node.fetch("http://host.example/", lambda data: None, now)))
    assert len(set(numbers)) == MAX_FETCHES + 1


def test_a_fetch_without_an_exit_fails_in_plain_words(world):
    host = joined(world)
    host.driver.run(lambda now: host.node.fetch("http://host.example/", lambda data: None, now))
    world.run(2)
    assert events(host, "fetch-failed")[0]["why"] == {"code": PathWhy.NO_EXIT}


def test_on_another_network_a_node_finds_its_way_back(world):
    host = joined(world)
    before = set(host.node.neighbours.links)
    host.driver.run(host.node.moved)
    assert not before & set(host.node.neighbours.links)

    def back():
        return host.node.snapshot(host.now())["facilitator"] and host.node.pool.ready == POOL_SIZE

    assert not back() and world.run(60, back)


def test_a_node_that_may_be_cut_off_asks_and_loses_nothing(world):
    host = joined(world)
    before = set(host.node.neighbours.links)
    host.driver.run(host.node.cut_off)
    world.run(10)
    assert host.node.snapshot(host.now())["facilitator"] and before <= set(host.node.neighbours.links)


def test_circuits_get_as_many_hops_as_are_set(world):
    host = joined(world)
    host.driver.run(lambda now: host.node.set_hops(3, now))

    def replaced():
        lengths = {len(circuit["hops"]) for circuit in host.node.snapshot(host.now())["circuits"]}
        return host.node.pool.ready == POOL_SIZE and lengths == {3}

    assert world.run(60, replaced)
    with pytest.raises(LocalError):
        host.node.set_hops(6, host.now())


def test_stop_leaves_nothing(world):
    host = joined(world)
    host.driver.run(lambda now: host.node.fetch("http://host.example/", lambda data: None, now))
    host.driver.run(host.node.stop)
    world.run(10)
    assert not host.node.neighbours.links and host.node.pool.snapshot() == [] and not host.pipes
    for other in world.hosts.values():
        if other.name.startswith("r"):
            assert other.node.relaying.snapshot()["circuits"] == 0


def test_a_failed_restore_is_told():
    node = make()
    node.start(START, restore=True)
    for expected in ("entry", "known"):  # what was known of the network does not matter for what is shared
        asked = [effect for effect in node.poll(START) if isinstance(effect, (Load, Scan))][-1]
        assert asked.bucket == expected
        node.done(asked.request, Failure("io", "disk broken"), START)
    scans = [effect for effect in node.poll(START) if isinstance(effect, Scan)]
    assert {effect.bucket for effect in scans} == {"file", "transfer"}
    for effect in scans:
        node.done(effect.request, Failure("io", "disk broken"), START)
    told = [effect for effect in node.poll(START) if isinstance(effect, Trouble)]
    assert len(told) == 2 and all(event.why.values["detail"] == "disk broken" for event in told)


def test_relays_keep_no_circuits_of_clients_that_left(world):
    host = joined(world)
    world.kill(host)
    world.run(30)
    relays = [other.node.relaying for other in world.hosts.values() if other.name.startswith("r")]
    assert all(relay.snapshot()["circuits"] == 0 for relay in relays)


# -- rendezvous points through the Tor network


TOR = TorConfig((bytes(20),))


def use_tor(host, config, points=True):
    host.driver.run(lambda now: host.node.use_tor(config, now, points=points))


def rendezvous(host):
    """Of a node's circuits of our own network, those to rendezvous points."""
    return [item for item in host.node.pool.snapshot() if item["purpose"] == "rendezvous"]


def test_files_that_are_to_go_through_tor_go_no_other_way(world):
    """Here nobody leads there, so they wait. They go on when they may take our own way again."""
    giver, taker = world.add("giver", circuits=0), world.add("taker", circuits=0)
    data = content(1, 3_000_000)
    link = share_and_stand(world, giver, data)
    transfer_id = get(taker, link)
    assert world.run(60, lambda: transfer(taker, transfer_id).download.have_bytes)
    for host in (giver, taker):
        use_tor(host, TOR)
    assert world.run(5, lambda: not rendezvous(giver) and not rendezvous(taker))
    have = transfer(taker, transfer_id).download.have_bytes
    world.run(60)
    assert not rendezvous(giver) and not rendezvous(taker)
    assert 0 < transfer(taker, transfer_id).download.have_bytes == have < len(data)
    for host in (giver, taker):
        use_tor(host, None)
    assert settle(world, taker, transfer_id) == "done" and arrived(taker, transfer_id) == data


def test_files_keep_their_way_when_only_the_web_is_reached_through_tor(world):
    giver = world.add("giver", circuits=0)
    share_and_stand(world, giver, content(1, 1000))
    before = [item["id"] for item in rendezvous(giver)]
    use_tor(giver, TOR, points=False)
    world.run(10)
    assert [item["id"] for item in rendezvous(giver)] == before != []


def test_that_no_rendezvous_point_can_be_reached_through_tor_is_told_once(world):
    host = joined(world, circuits=0)
    use_tor(host, TOR)
    host.node.tor.ready = True  # as if it had the documents
    for _ in range(3):
        host.driver.run(host.node.refresh)
        world.run(5)
    assert [item["why"]["code"] for item in events(host, "trouble")].count(PathWhy.NO_TOR_POINT) == 1


def test_a_service_that_is_to_go_through_tor_goes_no_other_way(world):
    owner, visitor = world.add("owner", circuits=0), world.add("visitor", circuits=0)
    came = serve_and_stand(world, owner, "hash:name")
    talker = connect(visitor, "hash:name")
    assert world.run(30, lambda: came)
    for host in (owner, visitor):
        use_tor(host, TOR)
    assert world.run(5, lambda: not rendezvous(owner) and not rendezvous(visitor) and talker.code is not None)
    again = connect(visitor, "hash:name")
    world.run(60)
    assert not rendezvous(owner) and not rendezvous(visitor) and len(came) == 1 and again.code is not None
    use_tor(owner, None)
    use_tor(visitor, None)
    assert world.run(60, lambda: owner.node.services.snapshot()["services"][0]["points"])
    connect(visitor, "hash:name")
    assert world.run(30, lambda: len(came) == 2)
