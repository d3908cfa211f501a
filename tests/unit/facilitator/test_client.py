"""Both ends in memory: FacilitatorClient and FacilitatorService through real Drivers, under a virtual clock."""

from itertools import pairwise

import pytest

from convergence.codes import FacilitatorWhy, RtcWhy
from convergence.effects import CloseLink, Connect, Protocol, Send
from convergence.errors import Why
from convergence.events import Trouble
from convergence.facilitator.client import (
    ANSWER_TIMEOUT,
    CHECK_TIMEOUT,
    CONNECT_TIMEOUT,
    FEW_RELAYS,
    LIFETIME,
    MAX_FETCHES,
    REFRESH,
    REFRESH_FIRST,
    REGISTER_RETRY,
    REST,
    RETRY_FIRST,
    RETRY_MAX,
    STABLE_AFTER,
    STALE,
    FacilitatorClient,
)
from convergence.facilitator.service import ACCEPTED, IDLE_TIMEOUT
from convergence.netdir.headers import EPOCH, Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox
from convergence.wire.buckets import BucketRequest
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import (
    Delivery,
    ErrorRecord,
    Hello,
    ListRequest,
    NodeList,
    RecordCutter,
    RecordType,
    Register,
    Signal,
    Unreachable,
    encode_record,
    register_statement,
)
from convergence.wire.target import Role
from tests.unit.facilitator.world import ADDRESS, CRYPTO, SEED, START, HashRng, World, describe, node_keys
from tests.unit.netdir.test_headers import header_at


def trouble(code, detail=""):
    return Trouble(Why(code, {"detail": detail}), retrying=True)


def refusal(detail):
    return Trouble(Why(FacilitatorWhy.REFUSES, {"detail": detail}))


@pytest.fixture
def world():
    return World()


# With a real service


def test_a_node_registers_and_sees_itself(world):
    node = world.client(1)
    world.run(REFRESH_FIRST)
    assert node.client.connected
    assert [item.identity for item in node.directory.nodes(Role.RELAY, world.now())] == [describe(1, 0).identity]
    assert (node.updates, node.registrations, node.troubles) == (1, 1, [])
    assert node.directory.facilitator == world.service.identity


def test_a_node_without_descriptor_only_lists(world):
    world.client(1)
    world.settle()
    watcher = world.client(2, with_descriptor=False)
    world.settle()
    assert len(watcher.directory.nodes(Role.RELAY, world.now())) == 1
    assert watcher.registrations == 0


def test_while_there_are_few_relays_the_list_is_asked_for_often(world):
    first = world.client(1)
    for number in (2, 3):
        world.run(10 * REFRESH_FIRST)
        world.client(number)
        world.run(REFRESH_FIRST + 1)
        assert len(first.directory.nodes(Role.RELAY, world.now())) == number


def test_pauses_between_lists_double_up_to_their_limit():
    peer = Hostile(directory=Relays(FEW_RELAYS))
    peer.open()
    for pause in (REFRESH_FIRST, 2 * REFRESH_FIRST, 4 * REFRESH_FIRST, 8 * REFRESH_FIRST, REFRESH, REFRESH):
        peer.receive(nodes(int(peer.now)))
        peer.pass_time(pause - 1)
        assert peer.sent() == []
        peer.pass_time(1)
        assert peer.sent() == [RecordType.LIST]


def test_a_descriptor_is_renewed_before_it_expires(world):
    node = world.client(1)
    world.run(3 * LIFETIME)
    assert node.registrations >= 5
    assert node.troubles == []
    assert len(world.service.health(world.now())["nodes"]) == 1
    assert "node-lost" not in world.kinds()


def test_a_change_is_registered_at_once(world):
    node = world.client(1)
    world.run(1)
    node.roles = Role.RELAY
    node.port.driver.run(node.client.register)
    world.run(1)
    assert world.service.health(world.now())["nodes"][0]["roles"] == ["relay"]
    assert node.registrations == 2


def test_a_change_while_registering_is_registered_next(world):
    node = world.client(1)
    while not world.service.health(world.now())["nodes"]:  # its answer is on the way then
        world.queue.popleft()()
    assert node.registrations == 0
    node.roles = Role.RELAY | Role.EXIT
    world.time += 1
    node.port.driver.run(node.client.register)
    world.settle()
    assert world.service.health(world.now())["nodes"][0]["roles"] == ["relay", "exit"]
    assert node.registrations == 1, "it is found at its address once"


def test_the_last_good_list_stays_while_the_facilitator_is_down(world):
    node = world.client(1)
    world.run(STABLE_AFTER)
    world.reachable = False
    world.kill(world.service_port)
    world.run(1000)
    assert not node.client.connected
    assert len(node.directory.nodes(Role.RELAY, world.now())) == 1
    assert node.troubles[0] == trouble(FacilitatorWhy.LOST, "connection reset")
    assert node.troubles[1] == trouble(FacilitatorWhy.UNREACHABLE, "connection refused")
    assert len(node.troubles) < 20
    world.reachable = True
    world.start_service()
    world.run(2 * RETRY_MAX)
    assert node.client.connected
    assert world.service.health(world.now())["nodes"][0]["connected"]


def test_a_facilitator_that_never_answers_is_given_up(world):
    world.silent = True
    node = world.client(1)
    world.run(CONNECT_TIMEOUT)
    assert node.troubles == [trouble(FacilitatorWhy.SILENT)]
    world.silent = False
    world.run(2 * RETRY_FIRST)
    assert node.client.connected


def test_stop_is_quiet_until_start(world):
    node = world.client(1)
    world.settle()
    node.port.driver.run(node.client.stop)
    world.run(2 * RETRY_MAX)
    assert not node.client.connected
    assert node.troubles == []
    assert not world.service.health(world.now())["nodes"]
    node.port.driver.run(node.client.start)
    node.port.driver.run(node.client.start)
    world.run(1)
    assert node.client.connected
    assert len(world.service_port.peers) == 1


def test_start_leaves_a_planned_retry_alone(world):
    world.reachable = False
    node = world.client(1)
    world.settle()
    node.port.driver.run(node.client.start)
    assert node.client.channel is None


def test_on_another_network_a_new_channel_is_opened_at_once(world):
    node = world.client(1)
    world.settle()
    before = node.client.channel
    node.port.driver.run(node.client.moved)
    world.settle()
    assert node.client.connected and node.client.channel != before
    assert (node.registrations, node.troubles) == (2, [])
    world.reachable = False
    node.port.driver.run(node.client.moved)
    world.settle()
    world.reachable = True
    assert node.client.channel is None
    node.port.driver.run(node.client.moved)
    world.settle()
    assert node.client.connected, "a planned retry is not waited for"
    node.port.driver.run(node.client.stop)
    node.port.driver.run(node.client.moved)
    world.settle()
    assert node.client.channel is None


def test_a_refused_registration_is_tried_again_later(world):
    node = world.client(1)
    world.run(1)
    world.set_clock(-7200)  # its clock is set back: what it registers now is older
    node.port.driver.run(node.client.register)
    world.settle()
    assert node.troubles == [refusal("a newer descriptor of this node is registered")]
    assert node.client.connected
    world.set_clock(7200)
    world.run(REGISTER_RETRY)
    assert node.registrations == 2


def test_another_facilitator_than_the_pinned_one_is_refused(world):
    node = world.client(1, facilitator=bytes(32))
    world.settle()
    assert node.troubles == [trouble(FacilitatorWhy.UNUSABLE, "it is another facilitator")]
    assert node.registrations == 0
    assert not node.client.connected
    assert node.directory.nodes(Role(0), world.now()) == []


def test_a_callback_may_stop_the_client(world):
    node = world.client(1, callbacks={"on_registered": lambda now: node.client.stop(now)})
    world.settle()
    assert node.client.channel is None
    assert node.updates == 0


# Signals


def signal(node, to, sealed=b"offer"):
    """Sends it; returns the list in which answers and refusals appear."""
    heard = []
    node.port.driver.run(
        lambda now: node.client.carrier.signal(
            to, sealed, lambda answer, now: heard.append(answer), lambda why, now: heard.append(why), now
        )
    )
    return heard


def test_a_signal_goes_to_a_registered_node_and_answers_return(world):
    target, asker = world.client(1), world.client(2, with_descriptor=False)
    world.settle()
    heard = signal(asker, describe(1, 0).identity)
    world.settle()
    [(sealed, reply)] = target.delivered
    assert sealed == b"offer"
    for answer in (b"answer", b"candidates"):
        target.port.driver.run(lambda now, answer=answer: reply(answer, now))
    world.settle()
    assert heard == [b"answer", b"candidates"]


def test_a_signal_to_whoever_is_not_there_is_refused(world):
    asker = world.client(1)
    world.settle()
    heard = signal(asker, bytes(32))
    world.settle()
    assert heard == [Why(RtcWhy.UNKNOWN_NODE)]


def test_signals_come_between_the_answers_to_requests(world):
    target, asker = world.client(1), world.client(2)
    world.settle()
    heard = [signal(asker, describe(1, 0).identity)]
    asker.port.driver.run(asker.client.refresh)
    target.port.driver.run(target.client.refresh)
    heard.append(signal(asker, bytes(32)))
    world.settle()
    target.port.driver.run(lambda now: target.delivered[0][1](b"answer", now))
    target.port.driver.run(target.client.register)
    asker.port.driver.run(asker.client.refresh)
    world.settle()
    assert heard == [[b"answer"], [Why(RtcWhy.UNKNOWN_NODE)]]
    assert (target.troubles, asker.troubles) == ([], [])


def test_without_a_channel_nothing_is_carried(world):
    asker = world.client(1)
    assert asker.client.carrier is None
    world.settle()
    carrier = asker.client.carrier
    heard = signal(asker, describe(1, 0).identity)
    asker.port.driver.run(asker.client.stop)
    assert asker.client.carrier is None
    assert heard == [Why(RtcWhy.NO_CARRIER)]
    refused = []
    carrier.signal(bytes(32), b"late", lambda answer, now: None, lambda why, now: refused.append(why), world.time)
    asker.port.driver.run(asker.client.start)
    world.run(1)
    assert refused == [Why(RtcWhy.NO_CARRIER)]
    assert asker.client.carrier not in (None, carrier)


def test_a_reply_after_the_channel_closed_is_dropped(world):
    target, asker = world.client(1), world.client(2)
    world.settle()
    signal(asker, describe(1, 0).identity)
    world.settle()
    target.port.driver.run(target.client.stop)
    world.settle()
    target.port.driver.run(lambda now: target.delivered[0][1](b"late", now))
    assert not world.queue


# With a hostile facilitator


class Relays(NodeDirectory):
    """Takes any good list, and always knows `count` relays."""

    def __init__(self, count):
        super().__init__(CRYPTO)
        self.count = count

    def nodes(self, role, now):
        return [describe(number, now) for number in range(self.count)]


IDENTITY = CRYPTO.ed25519_public(SEED)
HELLO = encode_record(RecordType.HELLO, Hello(IDENTITY, b"n" * 32).encode())


class Hostile:
    """A client whose facilitator is the test."""

    def __init__(self, directory=None, **arguments):
        self.now = START
        self.outbox = Outbox()
        self.troubles = []
        self.directory = directory or NodeDirectory(CRYPTO)
        self.headers = Headers(CRYPTO, lambda: self.directory.facilitator, self._on_header)
        self.told = 0  # of headers
        self.client = FacilitatorClient(
            self.outbox,
            CRYPTO,
            HashRng(),
            node_keys(1),
            self.directory,
            self.headers,
            ADDRESS,
            on_trouble=lambda message, now: self.troubles.append(message),
            **arguments,
        )
        self.client.start(self.now)
        assert self.outbox.poll(self.now) == [Connect(1, Protocol.FACILITATOR, ADDRESS)]

    def _on_header(self, now):
        self.told += 1

    def open(self, hello=True):
        self.client.opened(self.client.channel, self.now)
        sent = self.sent()
        if hello:
            self.receive(HELLO)
        return sent + self.sent()

    def sent(self):
        return [kind for kind, _ in self.records()]

    def records(self):
        cutter = RecordCutter(ACCEPTED)
        effects = self.outbox.poll(self.now)
        return cutter.feed(b"".join(b"".join(effect.buffers) for effect in effects if isinstance(effect, Send)))

    def receive(self, data):
        self.client.data(self.client.channel, data, self.now)

    def look_again(self):
        """A minute later the client asks what there is."""
        self.pass_time(REFRESH)
        self.client.refresh(self.now)

    def pass_time(self, seconds):
        self.now += seconds
        self.outbox.run_timers(self.now)


def nodes(published=int(START), seed=SEED):
    unsigned = NodeList(published, published + 1000, (), CRYPTO.ed25519_public(seed))
    return encode_record(RecordType.NODES, unsigned.sign(lambda m: CRYPTO.ed25519_sign(seed, m)).encode())


def error(text, code=7):
    return encode_record(RecordType.ERROR, ErrorRecord(code, text).encode())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="HTTP"),
        pytest.param(b"\0\0\0\0\3", id="a record it does not take"),
        pytest.param(b"\xff\xff\xff\xff\4", id="a list over the limit"),
        pytest.param(encode_record(RecordType.NODES, b"junk"), id="a list that is none"),
        pytest.param(encode_record(RecordType.REGISTERED), id="an answer to something else"),
        pytest.param(nodes() + nodes(), id="an answer too many"),
        pytest.param(b"\0\0\0\0\5", id="an error that is none"),
        pytest.param(nodes() + b"\0\0\0\0\5", id="a farewell that is none"),
        pytest.param(HELLO, id="a second HELLO"),
        pytest.param(encode_record(RecordType.DELIVER, b"x"), id="a delivery that is none"),
        pytest.param(encode_record(RecordType.REPLY, b"x"), id="a reply that is none"),
        pytest.param(encode_record(RecordType.UNREACHABLE, b"x"), id="a refusal that is none"),
        pytest.param(encode_record(RecordType.SIGNAL, bytes(40)), id="a signal to pass on"),
    ],
)
def test_whatever_comes_the_channel_closes_and_another_try_follows(data):
    peer = Hostile()
    assert peer.open() == [RecordType.LIST]
    peer.receive(data)
    closed(peer)


# Large networks


def header(published=START, **changes):
    return encode_record(RecordType.HEADER, header_at(published, **changes).encode())


SAME = encode_record(RecordType.HEADER)
"""An answer to who has that header."""


def test_a_header_in_place_of_a_list_pins_its_signer_as_a_list_does():
    peer = Hostile(describe=lambda now: describe(1, now))
    peer.open()
    peer.receive(header())
    assert peer.directory.facilitator == IDENTITY and peer.headers.newest is not None and peer.told == 1
    assert peer.sent() == [RecordType.REGISTER]
    peer.receive(encode_record(RecordType.REGISTERED))
    peer.pass_time(REST)
    assert peer.sent() == [RecordType.LIST]
    peer.receive(header())
    assert peer.told == 1  # the same
    peer.pass_time(REST)
    peer.receive(nodes(int(START)))  # the network is small again
    assert peer.client.connected and peer.directory.published == START


def test_a_header_is_asked_for_when_there_may_be_a_newer_one_and_before_the_channel_is_idle():
    peer = Hostile()
    peer.open()
    begins = START - START % EPOCH
    peer.receive(header(begins))
    asked = []
    while peer.now < begins + 3 * EPOCH:
        peer.pass_time(1)
        if peer.sent() == [RecordType.LIST]:
            asked.append(peer.now)
            peer.receive(header(peer.now - peer.now % EPOCH))
    assert len(asked) <= 3 * 3
    assert all(later - earlier < IDLE_TIMEOUT for earlier, later in pairwise([START, *asked]))
    for number in (1, 2):
        assert 0 <= min(when for when in asked if when >= begins + number * EPOCH) - begins - number * EPOCH <= REFRESH
    peer.pass_time(1000)  # no answer
    later = Hostile()
    later.open()
    later.receive(header(begins - EPOCH))  # the facilitator is late with the next one
    later.pass_time(REFRESH)
    assert later.sent() == [RecordType.LIST]


@pytest.mark.parametrize(
    ("first", "data"),
    [
        (b"", header(seed=b"e" * 32)),
        (b"", header()[:-1] + b"\0"),
        (nodes(), header(seed=b"e" * 32)),
        (b"", encode_record(RecordType.HEADER, b"junk")),
    ],
    ids=["somebody's", "forged", "of another than the pinned", "none"],
)
def test_a_header_that_cannot_be_used_closes_the_channel(first, data):
    peer = Hostile()
    peer.open()
    if first:
        peer.receive(first)
        peer.pass_time(REFRESH)
    newest = peer.headers.newest
    peer.outbox.poll(peer.now)
    peer.receive(data)
    closed(peer)
    assert peer.headers.newest is newest
    assert peer.directory.facilitator == (IDENTITY if first else None)


@pytest.mark.parametrize("age", [2, 10])
def test_a_facilitator_that_shows_an_old_network_is_found_out_by_what_neighbours_told(age):
    peer = Hostile()
    peer.open()
    peer.receive(header())
    peer.look_again()
    peer.receive(header(START - EPOCH))  # one epoch: another facilitator of the same name may be as far behind
    assert peer.client.connected and not peer.troubles
    peer.look_again()
    newest = peer.headers.newest
    peer.outbox.poll(peer.now)
    peer.receive(header(START - age * EPOCH))
    closed(peer, FacilitatorWhy.OLD)
    assert peer.headers.newest is newest


def test_a_facilitator_that_shows_everybody_the_same_old_network_is_told_of():
    peer = Hostile()
    peer.open()
    peer.receive(header())
    for _ in range(int(STALE // REFRESH)):
        assert not peer.troubles and peer.client.connected
        peer.look_again()
        peer.receive(header())
    peer.look_again()
    peer.receive(header())
    assert [trouble.why.code for trouble in peer.troubles] == [FacilitatorWhy.OLD] and peer.client.connected


def test_the_header_that_we_have_is_not_sent_again():
    peer = Hostile()
    peer.open()
    peer.receive(header())
    peer.pass_time(REFRESH)
    peer.outbox.poll(peer.now)
    peer.client.refresh(peer.now)
    [(kind, body)] = peer.records()
    assert (kind, ListRequest.parse(body).have) == (RecordType.LIST, int(START // EPOCH))
    peer.receive(SAME)
    assert peer.client.connected and not peer.troubles
    peer.pass_time(EPOCH)
    assert peer.sent()[:1] == [RecordType.LIST]
    peer.receive(header(START + EPOCH))
    assert peer.headers.newest.epoch == START // EPOCH + 1


def test_who_got_a_list_since_wants_the_header_anew():
    """While the list is newer than it, nodes are chosen from the list."""
    peer = Hostile()
    peer.open()
    peer.receive(header())
    for answer, have in ((nodes(int(START) + 1), START // EPOCH), (nodes(int(START) + 2), 0)):
        peer.outbox.poll(peer.now)
        peer.look_again()
        [(kind, body)] = peer.records()
        assert (kind, ListRequest.parse(body).have) == (RecordType.LIST, have)
        peer.receive(answer)


@pytest.mark.parametrize("first", [b"", nodes()], ids=["nothing", "a list"])
def test_who_has_no_header_takes_none_for_a_false_one(first):
    peer = Hostile()
    peer.open()
    if first:
        peer.receive(first)
        peer.pass_time(REFRESH)
        peer.outbox.poll(peer.now)
    peer.receive(SAME)
    closed(peer)


def test_a_facilitator_that_knows_of_nothing_newer_for_an_hour_is_told_of():
    peer = Hostile()
    peer.open()
    peer.receive(header())
    for _ in range(int(STALE // REFRESH) + 1):
        assert not peer.troubles and peer.client.connected
        peer.look_again()
        peer.receive(SAME)
    assert [trouble.why.code for trouble in peer.troubles] == [FacilitatorWhy.OLD]


def test_a_wrong_clock_makes_no_header_an_old_one():
    """Ours is two hours ahead: each header looks old, and each is another one."""
    peer = Hostile()
    peer.now += 2 * 3600
    peer.open()
    for number in range(90):
        peer.receive(header(START + number * REFRESH // EPOCH * EPOCH))
        peer.pass_time(REFRESH)
    assert not peer.troubles and peer.client.connected


def test_a_header_of_another_time_tells_by_how_much_the_clocks_differ():
    peer = Hostile()
    peer.open()
    peer.receive(header(START + 10_000))
    closed(peer, FacilitatorWhy.CLOCK)


def test_buckets_are_fetched_in_order_and_nobody_waits_for_ever():
    peer, got = Hostile(), []

    def fetch(number):
        peer.client.fetch(BucketRequest(1, 1, number), lambda body, now: got.append((number, body)), peer.now)

    fetch(0)
    assert got == [(0, b"")]  # not connected
    peer.open()
    peer.receive(header())
    fetch(1)
    fetch(2)
    assert peer.sent() == [RecordType.FETCH] * 2
    peer.receive(encode_record(RecordType.BUCKET, b"one") + error("no more"))
    assert got[1:] == [(1, b"one"), (2, b"")] and not peer.troubles
    for number in range(MAX_FETCHES + 1):
        fetch(number)
    assert got[3:] == [(MAX_FETCHES, b"")]
    peer.client.stop(peer.now)
    assert len(got) == MAX_FETCHES + 4


def test_a_draw_is_asked_for_and_nobody_waits_for_ever():
    peer, got = Hostile(), []

    def ask():
        peer.client.draw(7, lambda body, now: got.append(body), peer.now)

    ask()
    assert got == [None]  # not connected
    peer.open()
    peer.receive(header())
    ask()
    assert peer.sent() == [RecordType.DRAW]
    ask()  # one at a time
    assert got == [None, None]
    peer.receive(encode_record(RecordType.DRAWN, b"draw"))
    ask()
    peer.receive(error("not now"))
    ask()
    peer.client.stop(peer.now)
    assert got[2:] == [b"draw", None, None]


def test_a_draw_that_was_not_asked_for_closes_the_channel():
    peer = Hostile()
    peer.open()
    peer.receive(header() + encode_record(RecordType.DRAWN, b""))
    closed(peer)


def test_buckets_that_were_not_asked_for_close_the_channel():
    peer = Hostile()
    peer.open()
    peer.receive(header() + encode_record(RecordType.BUCKET, b"one"))
    closed(peer)


@pytest.mark.parametrize("ahead", [-10_000, 10_000])
def test_a_list_of_another_time_tells_by_how_much_the_clocks_differ(ahead):
    peer = Hostile()
    peer.open()
    peer.receive(nodes(int(START) - ahead))
    closed(peer, FacilitatorWhy.CLOCK)
    assert abs(peer.troubles[0].why.values["ahead"] - ahead) < 60


def closed(peer, code=FacilitatorWhy.UNUSABLE):
    assert [type(effect) for effect in peer.outbox.poll(peer.now)] == [CloseLink]
    assert peer.troubles[0].why.code is code
    assert peer.client.channel is None
    peer.pass_time(2 * RETRY_FIRST)
    assert [type(effect) for effect in peer.outbox.poll(peer.now)] == [Connect]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(nodes(), id="no HELLO"),
        pytest.param(encode_record(RecordType.DELIVER, Delivery(2, b"x").encode()), id="a signal before HELLO"),
        pytest.param(encode_record(RecordType.HELLO, bytes(63)), id="a HELLO that is none"),
        pytest.param(
            encode_record(RecordType.HELLO, Hello(bytes(32), bytes(32)).encode()) + nodes(),
            id="a list of somebody else",
        ),
    ],
)
def test_a_facilitator_has_to_say_who_it_is(data):
    peer = Hostile(describe=lambda now: describe(1, now))
    assert peer.open(hello=False) == [RecordType.LIST]
    peer.receive(data)
    closed(peer)


def test_a_proof_is_for_this_facilitator_and_channel():
    peer = Hostile(NodeDirectory(CRYPTO, IDENTITY), describe=lambda now: describe(1, now))
    peer.client.opened(1, peer.now)
    assert peer.sent() == [RecordType.LIST]
    peer.receive(HELLO)
    [(_, body)] = peer.records()
    record = Register.parse(body)
    descriptor = Descriptor.parse(record.descriptor)
    assert descriptor == describe(1, peer.now)
    statement = register_statement(Hello(IDENTITY, b"n" * 32))
    assert CRYPTO.ed25519_verify(descriptor.identity, record.proof, statement)


def test_no_proof_is_given_before_the_facilitator_is_pinned():
    """It could say the HELLO of another node, and be taken for us there."""
    peer = Hostile(describe=lambda now: describe(1, now))
    assert peer.open() == [RecordType.LIST]
    peer.client.register(peer.now)
    assert peer.sent() == []
    peer.receive(nodes())
    assert peer.sent() == [RecordType.REGISTER]


def test_no_proof_is_given_to_another_facilitator_than_the_pinned_one():
    peer = Hostile(NodeDirectory(CRYPTO, bytes(32)), describe=lambda now: describe(1, now))
    assert peer.open(hello=False) == [RecordType.LIST]
    peer.receive(HELLO)
    closed(peer)


def test_answers_to_signals_that_were_not_sent_are_ignored():
    peer = Hostile()
    peer.open()
    for kind, record in (
        (RecordType.REPLY, Delivery(1, b"x")),
        (RecordType.UNREACHABLE, Unreachable(1, 1)),
    ):
        peer.receive(encode_record(kind, record.encode()))
    assert peer.client.connected
    assert peer.troubles == []


def test_signals_go_out_as_records():
    peer = Hostile()
    peer.open()
    peer.client.carrier.signal(b"B" * 32, b"offer", lambda answer, now: None, lambda why, now: None, START)
    [(kind, body)] = peer.records()
    signal = Signal.parse(body)
    assert (kind, signal.to, signal.sealed) == (RecordType.SIGNAL, b"B" * 32, b"offer")


def test_pauses_double_with_jitter_up_to_their_limit():
    peer = Hostile()
    pauses = []
    for _ in range(12):
        peer.client.closed(peer.client.channel, peer.now, "")
        pauses.append(peer.outbox.deadline() - peer.now)
        peer.pass_time(pauses[-1])
    for failures, pause in enumerate(pauses):
        usual = min(RETRY_FIRST * 2**failures, RETRY_MAX)
        assert 0.5 * usual <= pause < 1.5 * usual
    assert len({round(pause / min(2**n, RETRY_MAX), 3) for n, pause in enumerate(pauses)}) > 6
    assert all(told == trouble(FacilitatorWhy.UNREACHABLE) for told in peer.troubles) and peer.troubles


def test_only_a_channel_that_served_resets_the_pause():
    peer = Hostile()
    for _ in range(6):
        peer.open()
        peer.receive(nodes())
        peer.client.closed(peer.client.channel, peer.now, "bye")
        pause = peer.outbox.deadline() - peer.now
        peer.pass_time(pause)
    assert pause >= 16 * RETRY_FIRST
    peer.open()
    peer.receive(nodes())
    peer.now += STABLE_AFTER
    peer.client.closed(peer.client.channel, peer.now, "bye")
    assert peer.outbox.deadline() - peer.now < 1.5 * RETRY_FIRST


def test_in_doubt_the_channel_has_to_answer_soon(world):
    node = world.client(1)
    world.settle()
    node.port.driver.run(node.client.check)
    world.run(2 * CHECK_TIMEOUT)
    assert node.client.connected and node.troubles == []
    world.silent = True
    node.port.driver.run(node.client.check)
    world.run(CHECK_TIMEOUT / 2)
    node.port.driver.run(node.client.check)
    world.run(CHECK_TIMEOUT / 2 + 0.5)
    assert node.troubles == [trouble(FacilitatorWhy.SILENT)]
    node.port.driver.run(node.client.check)
    assert not node.client.connected


def test_an_unanswered_request_ends_the_channel():
    peer = Hostile(NodeDirectory(CRYPTO, IDENTITY), describe=lambda now: describe(1, now))
    assert peer.open() == [RecordType.LIST, RecordType.REGISTER]
    peer.pass_time(ANSWER_TIMEOUT - 1)
    peer.receive(nodes())
    peer.pass_time(ANSWER_TIMEOUT - 1)
    assert peer.client.connected
    peer.pass_time(1)
    assert not peer.client.connected
    assert peer.troubles == [trouble(FacilitatorWhy.SILENT)]


def test_a_refused_list_is_asked_for_again_later():
    peer = Hostile()
    peer.open()
    peer.receive(error("busy\n\x1b[31m..."))
    assert peer.troubles == [refusal("busy  [31m")]
    peer.pass_time(REGISTER_RETRY)
    assert peer.sent() == [RecordType.LIST]


def test_a_farewell_is_told():
    peer = Hostile()
    peer.open()
    peer.receive(nodes() + error("too many records."))
    assert peer.troubles == [refusal("too many records")]
    assert peer.client.connected


def test_what_belongs_to_another_channel_is_ignored():
    peer = Hostile()
    peer.client.opened(99, peer.now)
    assert not peer.client.connected
    peer.open()
    peer.client.data(99, b"junk", peer.now)
    peer.client.closed(99, peer.now, "")
    assert peer.client.connected
    assert peer.troubles == []


def test_nothing_is_asked_twice_or_without_a_channel():
    peer = Hostile(describe=lambda now: describe(1, now))
    peer.client.refresh(peer.now)
    peer.client.register(peer.now)
    assert peer.sent() == []
    peer.open()
    peer.receive(nodes())
    assert peer.sent() == [RecordType.REGISTER]
    peer.client.refresh(peer.now)
    assert peer.sent() == [RecordType.LIST]
    peer.client.refresh(peer.now)
    peer.client.register(peer.now)
    assert peer.sent() == []
