"""Where requests for buckets go, and what others get."""

from types import SimpleNamespace

import pytest

from convergence.introduction import fetching as module
from convergence.introduction.asker import KEEP, CircuitCarrier
from convergence.introduction.fetching import FOR_OTHERS, BucketFetches
from convergence.netdir.buckets import Buckets
from convergence.netdir.headers import Headers
from convergence.netdir.rings import index_of
from convergence.netdir.view import Class, place_of
from convergence.outbox import Outbox
from convergence.wire.buckets import Bucket, BucketRequest, EpochHeader, RingKind
from tests.unit.circuit.rig import START, SeededRng
from tests.unit.introduction.neighbourhood import Neighbourhood
from tests.unit.netdir.buckets import CRYPTO, FACILITATOR, VALUE, Made, identity_of
from tests.unit.netdir.test_headers import header_at

REQUEST = BucketRequest(1, 2, 3)
NAMES = [f"{letter}" for letter in "abcd"]


class Fake:
    """The facilitator, or a pipe to a neighbour."""

    def __init__(self, name, log, up=True):
        self.name = name
        self.log = log
        self.connected = self.ready = up
        self.congested = False

    def fetch(self, request, then, now):
        self.log.append(self.name)
        then(self.name.encode(), now)


class One:
    """A pipe that somebody asks on."""

    def __init__(self, peer):
        self.peer = peer


class Rig:
    def __init__(self, monkeypatch):
        self.log = []
        self.outbox = Outbox()
        self.made = Made(300)
        self.headers = Headers(CRYPTO, lambda: FACILITATOR)
        self.facilitator = Fake("facilitator", self.log)
        self.pipes = [Fake("neighbour", self.log)]
        self.relays = [SimpleNamespace(target=SimpleNamespace(identity=name)) for name in NAMES]
        self.buckets = Buckets(self.outbox, self.headers, self._fetch)
        self.waiting = []  # of requests through circuits
        rig = self

        class Carrier:
            def __init__(self, outbox, circuits, relay, *, on_header):
                self.relay = relay.identity

            def fetch(self, request, then, now):
                rig.log.append(self.relay)
                rig.waiting.append(then)

        monkeypatch.setattr(module, "CircuitCarrier", Carrier)
        self.fetches = BucketFetches(
            self.outbox,
            SeededRng("fetches"),
            "own",
            self.headers,
            self.buckets,
            self,
            None,
            self.facilitator,
            lambda: self.pipes,
        )

    def sample(self, kind, count, now, then):
        assert kind is Class.RELAYS
        then(self.relays, now)

    def _fetch(self, request, key, attempt, then, now):
        self.log.append("fetched")
        then(self.made.epochs.answer(request).encode(), now)

    def fetch(self, key=None, attempt=1):
        got = []
        self.fetches.fetch(REQUEST, key, attempt, lambda body, now: got.append(body), START)
        return got

    def sign(self):
        header = self.made.sign()
        self.headers.take(header.encode(), self.made.now)
        return header

    def serve(self, request, source=None):
        got = []
        source = source or SimpleNamespace(peer=None)
        self.fetches.serve(request, source, lambda header, bucket, now: got.append((header, bucket)), self.made.now)
        [(header, bucket)] = got
        return header and EpochHeader.parse(header), bucket and Bucket.parse(bucket)


@pytest.fixture
def rig(monkeypatch):
    return Rig(monkeypatch)


def test_what_tells_nothing_is_asked_of_the_facilitator_and_of_a_neighbour_if_that_fails(rig):
    assert rig.fetch() == [b"facilitator"]
    assert rig.fetch(attempt=2) == [b"neighbour"]
    rig.facilitator.connected = False
    assert rig.fetch() == [b"neighbour"]
    rig.pipes[0].ready = False
    assert rig.fetch() == [b""]
    rig.facilitator.connected = True
    assert rig.fetch(attempt=2) == [b"facilitator"]


def test_what_would_tell_something_goes_through_a_circuit_of_its_own(rig):
    one, other = rig.fetch("one"), rig.fetch("other")
    assert set(rig.log) <= set(NAMES)
    again = rig.fetch("one")
    assert rig.log[2] == rig.log[0]  # the same circuit, for the same purpose
    for then in rig.waiting:
        then(b"bucket", START)
    assert one == other == again == [b"bucket"]
    assert "facilitator" not in rig.log and "neighbour" not in rig.log


def test_another_relay_is_asked_if_one_failed(rig):
    for attempt in range(1, 20):
        rig.fetch("one", attempt)
    assert set(rig.log) == set(NAMES)


def test_who_stands_in_the_bucket_is_asked_first(rig):
    header = rig.sign()
    depth = header.ring(RingKind.POINTS).depth
    rig.relays = [SimpleNamespace(target=SimpleNamespace(identity=identity_of(number))) for number in range(20)]
    for index in range(1 << depth):
        request = BucketRequest(header.epoch, RingKind.POINTS, index)
        rig.fetches.fetch(request, f"name {index}", 1, lambda body, now: None, START)
        assert index_of(place_of(VALUE.value, rig.log[-1]), depth) == index


def test_a_request_does_not_run_from_neighbour_to_neighbour(rig):
    header = rig.sign()
    wanted = BucketRequest(header.epoch, RingKind.ALL, 1)
    rig.facilitator.connected = False
    assert rig.serve(wanted, One(b"neighbour")) == (b"", b"") and rig.log == []
    assert rig.serve(wanted, One(None))[1] and rig.log == ["fetched"]  # of somebody through a circuit
    assert rig.serve(wanted, One(b"neighbour"))[1]  # now it is here


def test_we_do_not_ask_ourselves(rig):
    rig.relays = [SimpleNamespace(target=SimpleNamespace(identity="own"))]
    assert rig.fetch("one") == [b""]


def test_only_so_many_circuits_are_remembered(rig, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAYS", 2)
    for number in range(10):
        rig.fetch(number)
    assert len(rig.fetches._ways) == 2


# For others


def test_others_get_what_is_here_and_the_rest_is_fetched_for_them(rig):
    header = rig.sign()
    wanted = BucketRequest(header.epoch, RingKind.ALL, 1)
    for _ in range(3):
        assert rig.serve(wanted) == (b"", rig.made.epochs.answer(wanted))
    assert rig.log == ["fetched"]
    assert rig.serve(BucketRequest(header.epoch, 99, 1)) == (b"", b"")


def test_whoever_is_behind_gets_the_newer_header_too(rig):
    before = rig.sign()
    header = rig.sign()
    wanted = BucketRequest(before.epoch, RingKind.ALL, 1)
    assert rig.serve(wanted) == (header, rig.made.epochs.answer(BucketRequest(header.epoch, RingKind.ALL, 1)))


def test_strangers_cannot_have_us_fetch_without_end(rig):
    header = rig.sign()
    one, another = One(None), One(None)
    for number in range(3 * FOR_OTHERS):
        rig.serve(BucketRequest(header.epoch, RingKind.ALL, number % 4), one)
        rig.buckets._kept.clear()
    assert len(rig.log) == FOR_OTHERS
    assert rig.serve(BucketRequest(header.epoch, RingKind.ALL, 0), another)[1]


# Through real circuits


def test_a_relay_gives_a_bucket_and_a_newer_header_to_somebody_it_does_not_know():
    net = Neighbourhood("fetching")
    a, via, b = net.nodes("a", "via", "b")
    a.pool.via = via
    b.on_wanted = lambda request, source, give, now: give(header_at(START).encode(), b"bucket", now)
    got, headers = [], []
    carrier = CircuitCarrier(a.outbox, a.pool, b.descriptor.target, on_header=lambda raw, now: headers.append(raw))
    carrier.fetch(REQUEST, lambda body, now: got.append(body), net.now)
    net.wait(1)
    carrier.fetch(REQUEST, lambda body, now: got.append(body), net.now)
    net.wait(1)
    assert got == [b"bucket"] * 2 and headers == [header_at(START).encode()] * 2
    assert len(a.pool.built) == 1 and b.known == 0
    net.wait(2 * KEEP)
    assert a.pool.built[0].closed


def test_who_cannot_be_reached_or_does_not_answer_gives_nothing():
    net = Neighbourhood("fetching")
    a, via, b = net.nodes("a", "via", "b")
    got = []
    CircuitCarrier(a.outbox, a.pool, b.descriptor.target).fetch(REQUEST, lambda body, now: got.append(body), net.now)
    net.wait(1)
    assert got == [b""]
    a.pool.via = via
    b.on_wanted = lambda request, source, give, now: None
    CircuitCarrier(a.outbox, a.pool, b.descriptor.target).fetch(REQUEST, lambda body, now: got.append(body), net.now)
    net.wait(2 * KEEP)
    assert got == [b"", b""]
