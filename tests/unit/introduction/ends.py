"""Two ends of a pipe joined by streams in memory, without circuits."""

from __future__ import annotations

from convergence.crypto.keys import NodeKeys
from convergence.errors import EndReason
from convergence.introduction.pipe import PEERING, PeerPipe
from convergence.introduction.signalling import Switchboard
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox
from convergence.pipes.duplex import Pipe
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import RecordCutter, encode_record
from convergence.wire.target import Role
from tests.unit.circuit.rig import CRYPTO, START, SeededRng

HOUR = 3600


def descriptor_of(keys, *, published=START, lifetime=HOUR, roles=Role.RELAY | Role.RDV, introducers=(), url=None):
    unsigned = Descriptor(
        keys.identity,
        keys.ntor_public,
        int(published),
        int(published + lifetime),
        roles,
        (Transport.rtc(introducers),) if url is None else (Transport.rtc(introducers), Transport(1, url)),
    )
    return unsigned.sign(lambda message: CRYPTO.ed25519_sign(keys.identity_seed, message))


class MemoryStream(Pipe):
    """A Duplex that keeps what was written."""

    def __init__(self):
        self.sent = bytearray()
        self.total = 0
        self.congested = False
        self.reason = None
        self.used = 0  # bytes that were consumed
        self.takes = None  # bytes until it is congested

    @property
    def closed(self):
        return self.reason is not None

    def write(self, data, now):
        self.sent += data
        self.total += len(data)
        if self.takes is not None and len(self.sent) >= self.takes:
            self.congested = True

    def end(self, now):
        self.abort(EndReason.DONE, now)

    def abort(self, code, now):
        assert self.reason is None, "ended twice"
        self.reason = int(code)

    def consumed(self, size, now):
        self.used += size

    def take(self):
        data, self.sent = bytes(self.sent), bytearray()
        return data

    def records(self):
        """What was sent, as (type, body)."""
        return RecordCutter(PEERING).feed(self.take())


class Clock(Outbox):
    """The timers of all ends that share it, and their time."""

    now = START


class End:
    """One end with all that a node has, and its owner."""

    def __init__(self, name, *, opens=None, offers=True, clock=None):
        rng = SeededRng(name)
        self.keys = NodeKeys.generate(CRYPTO, rng)
        self.outbox = clock or Clock()
        self.directory = NodeDirectory(CRYPTO)
        self.switchboard = Switchboard(self.outbox)
        self.offers = descriptor_of(self.keys) if offers else None
        self.calls = []
        self.news = []
        self.told, self.proves, self.headers_heard = [], [], []  # headers
        self.requests = []  # for buckets, with what takes the answer
        self.messages = []  # (sealed, reply)
        self.why = None
        self.stream = MemoryStream()
        peer = None if opens is None else opens.keys.identity
        self.pipe = PeerPipe(self.outbox, CRYPTO, rng, self.keys, self.directory, self.switchboard, self, peer, START)
        self.pipe.bind(self.stream)

    @property
    def now(self):
        return self.outbox.now

    # -- Peering

    def describe(self, now):
        return self.offers

    def met(self, pipe, now):
        self.calls.append("met")

    def registered(self, pipe, now):
        self.calls.append("registered")

    def delivered(self, pipe, sealed, reply, now):
        self.messages.append((sealed, reply))

    def heard(self, descriptors, now):
        self.news += descriptors
        for raw in descriptors:
            self.directory.hear(raw, now)

    def headers(self, now):
        return self.told

    def proof(self, now):
        return self.proves

    def heard_header(self, raw, now):
        self.headers_heard.append(raw)

    def wanted(self, pipe, request, give, now):
        self.requests.append((request, give))

    def answered(self, pipe, now):
        self.calls.append("answered")

    def over(self, pipe, why, now):
        assert pipe.closed and self.why is None, "over twice"
        self.why = why

    # -- for tests

    def get(self, kind, body=b""):
        """One record arrives."""
        self.pipe.data(encode_record(kind, body), self.now)

    def pass_time(self, seconds):
        self.outbox.now += seconds
        self.outbox.run_timers(self.now)


def carry(*ends):
    """Carry what two ends send until both are quiet."""
    one, two = ends
    while one.stream.sent or two.stream.sent:
        for source, target in ((one, two), (two, one)):
            data = source.stream.take()
            if data and not target.pipe.closed:
                target.pipe.data(data, target.now)


def joined(opener_offers=True, acceptor_offers=True):
    """An opener and the end that accepted it, after their greetings."""
    acceptor = End("acceptor", offers=acceptor_offers)
    opener = End("opener", opens=acceptor, offers=opener_offers, clock=acceptor.outbox)
    for end in (acceptor, opener):
        end.pipe.opened(end.now)
    carry(opener, acceptor)
    return opener, acceptor
