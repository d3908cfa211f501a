"""All links of a node: dialled once, reused only where it is safe, closed when idle, answered once."""

from dataclasses import replace
from hashlib import sha1

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Connect, Protocol, Send
from convergence.events import LinkClosed
from convergence.link.handshake import HANDSHAKE_TIMEOUT, Handshake
from convergence.link.neighbours import (
    DIAL_TIMEOUT,
    IDLE_TIMEOUT,
    INCOMING_IDLE_TIMEOUT,
    INTRODUCE_TIMEOUT,
    LOOKUP_TIMEOUT,
    MAX_LINKS,
    MAX_WAYS,
    SWEEP,
    LinkAddress,
    Neighbours,
)
from convergence.outbox import Outbox
from convergence.ports import DtlsBinding, TlsBinding
from convergence.wire.cells import CELL_LEN, PAYLOAD_LEN, Command
from pynode.torkeys import RsaSecret
from tests.unit.circuit.rig import CRYPTO, START, SeededRng

BINDING = DtlsBinding(b"binding")
TLS = TlsBinding(b"certificate", lambda context: bytes(32))


class Party:
    """One node's Neighbours; `effects` are what it asked for since the last look."""

    def __init__(self, name, addresses=None, *, on_create=None, on_unknown=lambda now: None):
        self.outbox = Outbox()
        self.now = START
        rng = SeededRng(name)
        self.keys = NodeKeys.generate(CRYPTO, rng)
        self.addresses = {} if addresses is None else addresses
        self.introduced = {}  # identity -> the channel that an introduction would give
        self.neighbours = Neighbours(
            self.outbox,
            CRYPTO,
            rng,
            self.keys,
            self._address,
            on_create,
            introduce=lambda identity, source, now: self.introduced.get(identity),
            on_unknown=on_unknown,
        )
        self.answers = []

    def _address(self, identity, now):
        address = self.addresses.get(identity)
        return LinkAddress(Protocol.LINK, address) if isinstance(address, str) else address

    @property
    def identity(self):
        return self.keys.identity

    def reach(self, identity, source=None, answers=None, address=None):
        answers = self.answers if answers is None else answers
        self.neighbours.reach(identity, lambda link, now: answers.append(link), self.now, source, address)

    def poll(self, kind):
        return [effect for effect in self.outbox.poll(self.now) if isinstance(effect, kind)]

    def dialled(self):
        return [effect.channel for effect in self.poll(Connect)]

    def tick(self, seconds):
        self.now += seconds
        self.outbox.run_timers(self.now)


def join(a, channel_a, b, channel_b, binding=None):
    """Open a channel between two parties and carry the handshake."""
    b.neighbours.opened(channel_b, binding, START)
    a.neighbours.opened(channel_a, binding, START)
    carry(a, channel_a, b, channel_b)


def carry(a, channel_a, b, channel_b):
    while True:
        moved = False
        for sender, source, receiver, target in ((a, channel_a, b, channel_b), (b, channel_b, a, channel_a)):
            for effect in sender.poll(Send):
                if effect.channel == source:
                    moved = True
                    receiver.neighbours.data(target, b"".join(effect.buffers), START)
        if not moved:
            return


@pytest.fixture
def pair():
    b = Party("b")
    a = Party("a", {b.identity: "ws://b/"})
    return a, b


def dial(a, b, channel_b=2, binding=None):
    """a reaches b; returns a's link."""
    a.reach(b.identity)
    [channel] = a.dialled()
    join(a, channel, b, channel_b, binding)
    return a.answers[-1]


def test_a_node_is_dialled_at_its_address(pair):
    a, b = pair
    a.reach(b.identity)
    assert [(effect.protocol, effect.address) for effect in a.poll(Connect)] == [(Protocol.LINK, "ws://b/")]
    assert a.answers == []


def test_the_answer_comes_when_the_link_is_open(pair):
    a, b = pair
    link = dial(a, b)
    assert link.open and link.peer == b.identity
    assert a.answers == [link]


def test_all_who_ask_meanwhile_share_one_dial(pair):
    a, b = pair
    for _ in range(3):
        a.reach(b.identity)
    channels = a.dialled()
    assert len(channels) == 1
    join(a, channels[0], b, 2)
    assert len(a.answers) == 3 and len(set(map(id, a.answers))) == 1


def test_a_dialled_link_is_used_again(pair):
    a, b = pair
    link = dial(a, b)
    a.reach(b.identity)
    assert a.answers == [link, link] and a.dialled() == []


def test_an_unproven_incoming_link_is_never_used_to_reach_its_peer(pair):
    """Without a binding a CERTS cell can be replayed: circuits must not be attracted by it."""
    a, b = pair
    dial(a, b)
    b.addresses[a.identity] = "ws://a/"
    b.reach(a.identity)
    assert b.answers == [] and len(b.dialled()) == 1


def test_an_authenticated_incoming_link_is_used_to_reach_its_peer(pair):
    a, b = pair
    dial(a, b, binding=DtlsBinding(b"the same connection"))
    b.reach(a.identity)
    assert len(b.answers) == 1 and b.answers[0].peer == a.identity and b.dialled() == []


def test_unknown_nodes_and_we_ourselves_cannot_be_reached(pair):
    a, _ = pair
    a.addresses[a.identity] = "ws://a/"
    a.reach(a.identity)
    assert a.answers == [None]
    a.reach(bytes(32))
    a.tick(LOOKUP_TIMEOUT)
    assert a.answers == [None, None] and a.dialled() == []


def test_another_node_at_the_address_is_refused(pair):
    a, b = pair
    impostor = Party("impostor")
    a.reach(b.identity)
    [channel] = a.dialled()
    join(a, channel, impostor, 2)
    assert a.answers == [None] and not a.neighbours.links


@pytest.mark.parametrize("how", ["refused", "no answer", "silent", "broken"])
def test_a_failed_dial_is_answered_once(pair, how):
    a, b = pair
    a.reach(b.identity)
    a.reach(b.identity)
    [channel] = a.dialled()
    if how == "refused":
        a.neighbours.closed(channel, "connection refused", START)
    elif how == "no answer":
        a.tick(DIAL_TIMEOUT)
        assert a.poll(CloseLink) == [CloseLink(channel, "no answer")]
    else:
        a.neighbours.opened(channel, None, START)
        if how == "silent":
            a.tick(HANDSHAKE_TIMEOUT)
            assert [effect.channel for effect in a.poll(CloseLink)] == [channel]
        else:
            a.neighbours.closed(channel, "connection lost", START)
    assert a.answers == [None, None]
    a.neighbours.closed(channel, "late", START)
    a.tick(10 * DIAL_TIMEOUT)
    assert a.answers == [None, None] and not a.neighbours.links


@pytest.fixture
def tor():
    """A client, and a relay of the Tor network that takes links on TLS."""
    relay = Party("relay")
    relay.keys = relay.neighbours._keys = replace(relay.keys, rsa=RsaSecret.generate())
    client = Party("client")
    fingerprint = sha1(relay.keys.rsa.public).digest()
    client.addresses[fingerprint] = LinkAddress(Protocol.TLS, "192.0.2.1:9001", fingerprint)
    client.addresses[relay.identity] = LinkAddress(Protocol.TLS, "192.0.2.1:9001", fingerprint)
    return client, relay, fingerprint


def connect(client, relay, channel_b=2):
    [asked] = client.poll(Connect)
    assert (asked.protocol, asked.address) == (Protocol.TLS, "192.0.2.1:9001")
    join(client, asked.channel, relay, channel_b, TLS)


@pytest.mark.parametrize("first", ["fingerprint", "identity"])
def test_a_relay_of_the_tor_network_is_reached_by_either_of_its_names(tor, first):
    client, relay, fingerprint = tor
    names = [fingerprint, relay.identity] if first == "fingerprint" else [relay.identity, fingerprint]
    client.reach(names[0])
    connect(client, relay)
    [link] = client.answers
    assert link.open and link.handshake.authenticated
    assert (link.peer, link.handshake.peer_rsa) == (relay.identity, fingerprint)
    for name in names:
        client.reach(name)
    assert client.answers == [link] * 3 and client.dialled() == []


def test_one_link_answers_those_who_wait_for_either_name(tor):
    client, relay, fingerprint = tor
    client.reach(fingerprint)
    client.reach(relay.identity)
    channels = client.dialled()
    assert len(channels) == 2
    join(client, channels[1], relay, 2, TLS)
    assert len(client.answers) == 2 and client.answers[0] is client.answers[1] is not None
    client.tick(DIAL_TIMEOUT + 1)
    assert len(client.answers) == 2


@pytest.mark.parametrize("reached_by", ["fingerprint", "identity"])
@pytest.mark.parametrize("wrong", ["rsa", "ed25519", "both"])
def test_a_relay_has_to_prove_the_names_by_which_it_was_dialled(tor, wrong, reached_by):
    client, relay, fingerprint = tor
    impostor = Party("impostor")
    keys = impostor.keys if wrong in ("ed25519", "both") else relay.keys
    impostor.neighbours._keys = replace(keys, rsa=relay.keys.rsa if wrong == "ed25519" else RsaSecret.generate())
    client.reach(fingerprint if reached_by == "fingerprint" else relay.identity)
    connect(client, impostor)
    if wrong == "ed25519" and reached_by == "fingerprint":  # the RSA key vouches for it, and nothing else is known
        assert client.answers[0].peer == impostor.neighbours._keys.identity
    else:
        assert client.answers == [None] and not client.neighbours.links


@pytest.fixture
def impostor(tor):
    """It has broken the relay's RSA key, and has an Ed25519 identity of its own."""
    client, relay, _ = tor
    impostor = Party("impostor")
    impostor.keys = impostor.neighbours._keys = replace(impostor.keys, rsa=relay.keys.rsa)
    client.known = {}
    client.neighbours._ed25519_of = lambda name: client.known.get(name)
    return impostor


def test_who_has_broken_an_rsa_key_cannot_answer_for_a_relay_whose_identity_is_known(tor, impostor):
    client, relay, fingerprint = tor
    client.known[fingerprint] = relay.identity
    client.reach(fingerprint)
    connect(client, impostor)
    assert client.answers == [None] and not client.neighbours.links
    client.reach(fingerprint)
    connect(client, relay, 4)
    assert client.answers[1].peer == relay.identity


@pytest.mark.parametrize("known", ["before", "after"])
def test_a_link_to_who_has_broken_an_rsa_key_serves_only_those_who_want_him(tor, impostor, known):
    client, relay, fingerprint = tor
    if known == "before":
        client.known[fingerprint] = relay.identity
    client.reach(impostor.identity, address=client.addresses[fingerprint])
    connect(client, impostor)
    assert client.answers[0].handshake.peer_rsa == fingerprint
    client.known[fingerprint] = relay.identity
    client.reach(fingerprint)
    connect(client, relay, 4)
    assert [link.peer for link in client.answers] == [impostor.identity, relay.identity]


def test_a_relay_whose_link_is_gone_is_dialled_again_by_either_name(tor):
    client, relay, fingerprint = tor
    client.reach(fingerprint)
    connect(client, relay)
    [link] = client.answers
    link.close("over", START)
    client.poll(object)
    for channel_b, name in ((4, relay.identity), (6, fingerprint)):
        client.reach(name)
        connect(client, relay, channel_b)
        assert client.answers[-1] is not link and client.answers[-1].open
        client.answers[-1].close("over", START)
        client.poll(object)


def test_a_link_without_tls_proves_no_rsa_identity(tor):
    client, relay, fingerprint = tor
    client.addresses[fingerprint] = LinkAddress(Protocol.LINK, "ws://relay/", fingerprint)
    client.reach(fingerprint)
    [channel] = client.dialled()
    join(client, channel, relay, 2)
    assert client.answers == [None] and not client.neighbours.links


def test_a_node_can_be_dialled_again_after_a_failure(pair):
    a, b = pair
    a.reach(b.identity)
    [channel] = a.dialled()
    a.neighbours.closed(channel, "connection refused", START)
    assert dial(a, b).open


def test_who_dials_anew_because_the_link_broke_hears_of_the_new_dial(pair):
    """A circuit that dies with the link may be built again at once, over the same node."""
    a, b = pair
    link = dial(a, b)
    again = []

    class Circuit:
        def destroyed(self, reason, now):
            a.neighbours.reach(b.identity, lambda link, now: again.append(link), now)

    link.attach(Circuit())
    a.neighbours.closed(link.channel, "connection lost", START)
    assert again == []
    [channel] = a.dialled()
    join(a, channel, b, 4)
    assert len(again) == 1 and again[0].open


def test_a_silent_incoming_link_is_closed():
    b = Party("b")
    b.neighbours.opened(2, None, START)
    b.tick(HANDSHAKE_TIMEOUT)
    assert [effect.channel for effect in b.poll(CloseLink)] == [2] and not b.neighbours.links


def test_incoming_links_are_limited():
    b = Party("b")
    for number in range(MAX_LINKS):
        b.neighbours.links[-number - 1] = None
    b.neighbours.opened(2, None, START)
    assert [effect.channel for effect in b.poll(CloseLink)] == [2]


def test_idle_dialled_links_are_closed_and_used_ones_stay(pair):
    a, b = pair
    link = dial(a, b)

    class Circuit:
        def destroyed(self, reason, now):
            pass

    circ_id = link.attach(Circuit())
    for _ in range(20):
        a.tick(SWEEP)
    assert link.open
    link.destroy(circ_id, 0)
    for _ in range(int(IDLE_TIMEOUT / SWEEP) + 2):
        a.tick(SWEEP)
    assert not link.open and not a.neighbours.links
    reasons = [effect.reason for effect in a.poll(LinkClosed)]
    assert reasons == ["idle"]
    for _ in range(3):
        a.tick(SWEEP)
    assert a.outbox.deadline() is None, "nothing is swept where there is no link"


def test_on_another_network_links_that_were_dialled_at_an_address_are_given_up(pair):
    a, b = pair
    dial(a, b)
    b.neighbours.moved(START)
    assert len(b.neighbours.links) == 1, "it is for who dialled to know"
    a.neighbours.moved(START)
    assert not a.neighbours.links
    introduced = dial(a, b, channel_b=4, binding=DtlsBinding(b"both fingerprints"))
    a.neighbours.moved(START)
    assert introduced.open


def test_the_accepting_side_leaves_idle_links_to_the_dialler(pair):
    a, b = pair
    dial(a, b)
    for _ in range(int(INCOMING_IDLE_TIMEOUT / SWEEP)):
        b.tick(SWEEP)
    assert len(b.neighbours.links) == 1
    b.tick(SWEEP)
    assert not b.neighbours.links, "but not for ever: places are limited"


def test_bytes_of_closed_links_still_count(pair):
    a, b = pair
    dial(a, b)
    before = a.neighbours.bytes_in, a.neighbours.bytes_out
    assert min(before) > 0
    a.neighbours.close_all(START)
    assert (a.neighbours.bytes_in, a.neighbours.bytes_out) == before and not a.neighbours.links


def test_input_for_channels_that_are_gone_is_ignored(pair):
    a, _ = pair
    a.neighbours.data(99, b"late", START)
    a.neighbours.closed(99, "late", START)
    a.neighbours.congested(99, True, START)
    assert a.poll(object) == []


def test_congestion_is_told_to_the_link(pair):
    a, b = pair
    link = dial(a, b)
    a.neighbours.congested(link.channel, True, START)
    assert link.congested


# Nodes that are not in the list yet


def test_an_unknown_node_is_dialled_when_a_fresh_list_has_it(pair):
    _, b = pair
    asked = []
    a = Party("c", on_unknown=asked.append)
    a.reach(b.identity)
    a.reach(b.identity)
    assert asked == [START] and a.dialled() == []
    a.neighbours.nodes_changed(START)
    assert a.dialled() == []
    a.addresses[b.identity] = "ws://b/"
    a.neighbours.nodes_changed(START)
    [channel] = a.dialled()
    join(a, channel, b, 2)
    assert [link.peer for link in a.answers] == [b.identity, b.identity]
    a.tick(LOOKUP_TIMEOUT)
    assert len(a.answers) == 2


def test_a_node_that_does_not_turn_up_is_given_up_once():
    a = Party("c", on_unknown=lambda now: None)
    a.reach(bytes(32))
    a.tick(LOOKUP_TIMEOUT - 0.1)
    assert a.answers == []
    a.tick(0.1)
    assert a.answers == [None]
    a.addresses[bytes(32)] = "ws://late/"
    a.neighbours.nodes_changed(START)
    assert a.dialled() == [] and a.answers == [None]


def silent_nodes(party, number):
    """Identities of nodes that never answer."""
    identities = [index.to_bytes(32, "big") for index in range(number)]
    party.addresses.update((identity, f"ws://{index}/") for index, identity in enumerate(identities))
    return identities


def test_a_source_that_wants_too_many_nodes_at_once_is_refused():
    a = Party("c", on_unknown=lambda now: None)
    for number in range(MAX_WAYS + 10):
        a.reach(number.to_bytes(32, "big"), "source")
    assert a.answers == [None] * 10


def test_the_source_that_has_most_gives_its_oldest_way_up_for_another(pair):
    a, b = pair
    greedy = []
    for identity in silent_nodes(a, MAX_WAYS):
        a.reach(identity, "greedy", greedy)
    first = a.dialled()[0]
    a.reach(b.identity, "modest")
    [closed] = [effect for effect in a.outbox.poll(a.now) if isinstance(effect, (CloseLink, Connect))][:1]
    assert closed == CloseLink(first, "too many nodes are being reached")
    assert greedy == [None] and a.answers == []


def open_links(party, number, source):
    """To so many more nodes, each of which answered when it was dialled."""
    answers, begun = [], len(party.addresses)
    for index in range(begun, begun + number):
        identity = index.to_bytes(32, "big")
        party.addresses[identity] = f"ws://{index}/"
        party.reach(identity, source, answers)
        for channel in party.dialled():
            party.neighbours.opened(channel, None, START)
            way = party.neighbours._ways[identity, None]
            party.neighbours._end(way, party.neighbours.links[channel], "", START)
    return [link is not None for link in answers]


def test_no_source_can_have_us_keep_links_without_end_or_shut_out_others(monkeypatch):
    monkeypatch.setattr("convergence.link.neighbours.MAX_DIALLED", 20)
    monkeypatch.setattr("convergence.link.neighbours.MAX_LINKS", 20)
    a = Party("a")
    assert open_links(a, 25, "greedy") == [True] * 20 + [False] * 5
    assert open_links(a, 12, "modest") == [True] * 10 + [False] * 2
    assert open_links(a, 5, None) == [True] * 5, "our own do not count"
    for channel in range(1000, 1020):
        a.neighbours.opened(channel, None, START)
    assert a.poll(CloseLink) == [], "whoever comes to us finds as many places as before"
    for link in list(a.neighbours.links.values())[:15]:
        link.close("idle", START)
    assert open_links(a, 1, "greedy") == [True]


def test_a_way_tells_the_shell_for_whom_it_is(pair):
    a, b = pair
    a.reach(b.identity, "source")
    assert [effect.source for effect in a.poll(Connect)] == ["source"]


def test_ways_of_our_own_are_neither_refused_nor_given_up(pair):
    a, b = pair
    own, others = [], []
    *silent, last = silent_nodes(a, 3 * MAX_WAYS)
    for identity in silent[:MAX_WAYS]:
        a.reach(identity, None, own)
    for identity in silent[MAX_WAYS:]:
        a.reach(identity, "source", others)
    a.reach(last, None, own)
    assert own == [] and len(others) == MAX_WAYS - 1


def test_a_way_that_another_source_wants_too_is_not_given_up_with_those_of_the_first(pair):
    a, b = pair
    greedy = []
    a.reach(b.identity, "greedy", greedy)
    for identity in silent_nodes(a, MAX_WAYS - 1):
        a.reach(identity, "greedy", greedy)
    a.reach(b.identity, "modest")
    channel = a.dialled()[0]
    a.addresses[bytes([9]) * 32] = "ws://more/"
    a.reach(bytes([9]) * 32, "third", [])
    assert greedy == [None]
    join(a, channel, b, 2)
    assert [link.peer for link in a.answers] == [b.identity]


def test_what_waits_on_all_links_has_one_limit(pair, monkeypatch):
    monkeypatch.setattr("convergence.link.neighbours.MAX_QUEUED_ALL", 100 * CELL_LEN)
    _, b = pair
    parties = [Party(name) for name in "xyz"]
    a = Party("a", {party.identity: f"ws://{index}/" for index, party in enumerate(parties)})
    links = [dial(a, party) for party in parties]
    for link in links:
        link.set_congested(True, START)
    quiet, busy = Handler(), Handler()
    links[0].send(links[0].attach(quiet), Command.RELAY, bytes(40 * PAYLOAD_LEN))
    links[1].send(links[1].attach(busy), Command.RELAY, bytes(59 * PAYLOAD_LEN))
    assert busy.errors == []
    links[0].send(links[0].attach(quiet), Command.RELAY, bytes(2 * PAYLOAD_LEN))
    a.outbox.poll(a.now)
    assert len(busy.errors) == 1 and quiet.errors == [], "the link with most queued gives way"
    assert links[1].queued == 0
    links[0].gone("lost", START)
    links[2].send(links[2].attach(quiet), Command.RELAY, bytes(99 * PAYLOAD_LEN))
    assert quiet.errors == []


class Handler:
    """A circuit that keeps what it is told."""

    def __init__(self):
        self.errors = []

    def broken(self, error, now):
        self.errors.append(error)

    def destroyed(self, reason, now): ...

    def drained(self, now): ...


# Introduced nodes


def test_a_node_without_an_address_is_introduced(pair):
    a, b = pair
    a.addresses.clear()
    a.introduced[b.identity] = 31
    a.reach(b.identity)
    assert a.dialled() == [] and a.answers == []
    b.neighbours.opened(2, DtlsBinding(b"both fingerprints"), START, peer=a.identity)
    a.neighbours.opened(31, DtlsBinding(b"both fingerprints"), START)
    carry(a, 31, b, 2)
    assert [link.peer for link in a.answers] == [b.identity]
    b.reach(a.identity)
    assert [link.peer for link in b.answers] == [a.identity], "the answerer uses the same link"


def test_an_address_is_preferred_to_an_introduction(pair):
    a, b = pair
    a.introduced[b.identity] = 31
    a.reach(b.identity)
    assert a.dialled() == [1]


def test_an_incoming_link_from_another_than_was_introduced_is_refused(pair):
    a, b = pair
    a.introduced[b.identity] = 31
    a.addresses.clear()
    a.reach(b.identity)
    b.neighbours.opened(2, BINDING, START, peer=bytes(32))
    a.neighbours.opened(31, BINDING, START)
    carry(a, 31, b, 2)
    assert not b.neighbours.links


def test_different_ends_of_a_connection_refuse_each_other(pair):
    """Somebody sits between: each side sees his fingerprint, not the other's."""
    a, b = pair
    a.introduced[b.identity] = 31
    a.addresses.clear()
    a.reach(b.identity)
    b.neighbours.opened(2, DtlsBinding(b"rtc" + b"m" * 32 + b"b" * 32), START, peer=a.identity)
    a.neighbours.opened(31, DtlsBinding(b"rtc" + b"a" * 32 + b"m" * 32), START)
    carry(a, 31, b, 2)
    assert a.answers == [None] and not a.neighbours.links


def test_a_call_that_lost_to_the_other_sides_is_answered_by_theirs(pair):
    a, b = pair
    a.introduced[b.identity] = 31
    a.addresses.clear()
    a.reach(b.identity)
    a.neighbours.replaced(31, by=33)
    assert a.answers == []
    b.introduced[a.identity] = 41
    b.reach(a.identity)
    a.neighbours.opened(33, BINDING, START, peer=b.identity)
    b.neighbours.opened(41, BINDING, START)
    carry(a, 33, b, 41)
    assert [link.peer for link in a.answers] == [b.identity]
    assert [link.peer for link in b.answers] == [a.identity]


def test_a_call_of_theirs_that_comes_to_nothing_is_answered_too(pair):
    a, b = pair
    a.introduced[b.identity] = 31
    a.addresses.clear()
    a.reach(b.identity)
    a.neighbours.replaced(31, by=33)
    a.neighbours.closed(33, "no connection", START)
    assert a.answers == [None]


# Every wait has an end


def silent_caller(a, b, channel, binding=BINDING):
    """b, who is expected to call a on this channel, shakes hands as somebody who stays anonymous."""
    a.neighbours.opened(channel, binding, START, peer=b.identity)
    caller = Handshake(CRYPTO, SeededRng("caller"), initiator=True, keys=None, binding=binding)
    data = b"".join(caller.start())
    while data:
        a.neighbours.data(channel, data, START)
        answer = b"".join(buffer for effect in a.poll(Send) for buffer in effect.buffers)
        data = b"".join(caller.receive(answer, START)) if answer else b""


def test_a_node_that_calls_us_while_we_want_it_and_proves_nothing_is_no_answer(pair):
    a, b = pair
    a.addresses.clear()
    a.introduced[b.identity] = 31
    a.reach(b.identity)
    silent_caller(a, b, 31)
    assert a.answers == [None] and not a.neighbours.links
    a.addresses[b.identity] = "ws://b/"
    assert dial(a, b).open, "nobody joins the ones who gave up"


def lost_introduction(a, b): ...


def replaced_and_lost(a, b):
    a.neighbours.replaced(31, by=33)


def opened_and_silent(a, b):
    a.neighbours.opened(31, BINDING, START)


def replaced_opened_and_silent(a, b):
    a.neighbours.replaced(31, by=33)
    a.neighbours.opened(33, BINDING, START, peer=b.identity)


def no_room_for_their_call(a, b):
    a.neighbours.links.update((-number - 1, None) for number in range(MAX_LINKS))
    a.neighbours.opened(31, BINDING, START, peer=b.identity)
    a.neighbours.links.clear()


@pytest.mark.parametrize(
    "happens",
    [lost_introduction, replaced_and_lost, opened_and_silent, replaced_opened_and_silent, no_room_for_their_call],
)
def test_whatever_becomes_of_an_introduction_all_who_wait_are_answered(pair, happens):
    a, b = pair
    a.addresses.clear()
    a.introduced[b.identity] = 31
    a.reach(b.identity)
    a.reach(b.identity)
    happens(a, b)
    a.tick(INTRODUCE_TIMEOUT)
    assert a.answers == [None, None] and not a.neighbours.links
    a.addresses[b.identity] = "ws://b/"
    a.now = START
    assert dial(a, b, channel_b=4).open, "later ones get an answer of their own"


def test_an_introduction_that_leads_nowhere_is_called_off(pair):
    a, b = pair
    a.addresses.clear()
    a.introduced[b.identity] = 31
    refused = []
    a.neighbours.on_refused = lambda channel, now: refused.append(channel)
    a.reach(b.identity)
    a.tick(INTRODUCE_TIMEOUT)
    assert a.poll(CloseLink) == [CloseLink(31, "no answer")] and refused == [31]


def test_a_dial_that_another_link_made_needless_is_called_off(pair):
    a, b = pair
    a.reach(b.identity)
    [channel] = a.dialled()
    b.introduced[a.identity] = 41
    b.reach(a.identity)
    a.neighbours.opened(33, BINDING, START, peer=b.identity)
    b.neighbours.opened(41, BINDING, START)
    carry(b, 41, a, 33)
    assert [link.channel for link in a.answers] == [33]
    a.tick(10 * DIAL_TIMEOUT)
    assert [link.channel for link in a.answers] == [33], "answered once"


def test_opened_and_closed_links_are_told(pair):
    a, b = pair
    told = []
    a.neighbours.on_open = lambda link, now: told.append(("open", link.peer))
    a.neighbours.on_closed = lambda link, now: told.append(("closed", link.peer))
    link = dial(a, b)
    link.close("enough", START)
    assert told == [("open", b.identity), ("closed", b.identity)]


# -- addresses that the caller knows


def at(host, rsa=None):
    return LinkAddress(Protocol.TLS, f"{host}:9001", rsa)


def test_a_node_is_dialled_where_the_caller_says(pair):
    a, b = pair
    a.reach(b.identity, address=at("192.0.2.1"))
    [dial] = a.poll(Connect)
    assert (dial.protocol, dial.address) == (Protocol.TLS, "192.0.2.1:9001")
    join(a, dial.channel, b, 2)
    assert [link.peer for link in a.answers] == [b.identity]
    a.reach(b.identity, address=at("192.0.2.2"))
    assert a.answers[1] is a.answers[0] and a.dialled() == []


def test_a_wrong_address_holds_up_nobody_who_names_another(pair):
    a, b = pair
    a.reach(b.identity, "liar", address=at("192.0.2.66"))
    a.reach(b.identity, "honest", address=at("192.0.2.1"))
    _, right = a.dialled()
    join(a, right, b, 2)
    assert [link.peer for link in a.answers] == [b.identity] * 2, "both wait for the same node"


def test_a_link_does_not_serve_who_names_another_rsa_identity(pair):
    a, b = pair
    link = dial(a, b)
    a.reach(b.identity, address=at("192.0.2.1", bytes(20)))
    assert a.answers == [link, None] and a.dialled() == []


def test_who_is_not_where_it_was_dialled_or_proves_to_be_another_is_told_of(pair):
    a, b = pair
    unreached = []
    a.neighbours.on_unreached = unreached.append
    dial(a, b)
    assert not unreached
    a.addresses.update({b"closed": "ws://closed/", b"silent": "ws://silent/", b"other": "ws://b/"})
    a.reach(b"nowhere")
    a.tick(LOOKUP_TIMEOUT)
    assert not unreached
    for identity in (b"closed", b"silent", b"other"):
        a.reach(identity)
    closed, _, other = a.dialled()
    a.neighbours.closed(closed, "refused", a.now)
    join(a, other, b, 4)
    assert unreached == [b"closed", b"other"]
    a.tick(DIAL_TIMEOUT)
    assert unreached == [b"closed", b"other", b"silent"]
