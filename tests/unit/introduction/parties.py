"""Nodes that have an RtcLinks each, a shell played by the test, and carriers between them that do as told.

`World.run` lets virtual time pass and carries messages, 10 ms each. A party's shell describes at once, and its channels
open when both ends were given each other's description with its true certificate, as DTLS has it.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

from convergence.codes import RtcWhy
from convergence.crypto import hpke
from convergence.crypto.keys import NodeKeys
from convergence.effects import OFFERER, CloseLink, Connect, Describe, DescriptionKind, Protocol
from convergence.errors import Why
from convergence.events import Event, Rtc
from convergence.introduction.links import RtcLinks
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.sdp import Candidate, Candidates, CandidateType, Description, Setup
from convergence.wire.signals import Introduction, sealing_info
from convergence.wire.target import Role
from tests.unit.circuit.rig import CRYPTO, START, SeededRng

OFFER, ANSWER, CANDIDATES = DescriptionKind.OFFER, DescriptionKind.ANSWER, DescriptionKind.CANDIDATES
LATENCY = 0.01


def candidate(number):
    return Candidate(CandidateType.HOST, number, 1000 + number, f"192.0.2.{number % 250 + 1}", 4000 + number)


def lines(*numbers):
    return Candidates(tuple(candidate(number) for number in numbers)).to_lines()


def description(kind, name, generation=0):
    """What the shell of a channel of this name says."""
    setup = Setup.ACTPASS if kind is OFFER else Setup.ACTIVE
    ufrag = hashlib.sha256(f"{name} {generation}".encode()).hexdigest()[:8]
    return Description(setup, hashlib.sha256(name.encode()).digest(), ufrag, "p" * 24, (candidate(generation),))


class End:
    """One end of a channel, as a shell keeps it."""

    def __init__(self, channel, name, offers):
        self.channel = channel
        self.name = name
        self.offers = offers
        self.generation = 0
        self.given = []  # (kind, Description or Candidates) of the other side, in order
        self.open = False
        self.closed = None

    def sdp(self, kind):
        return description(kind, self.name, self.generation).to_sdp(kind)

    def own(self):
        return description(OFFER if self.offers else ANSWER, self.name, self.generation)

    @property
    def remote(self):
        return next((what for kind, what in reversed(self.given) if kind is not CANDIDATES), None)


class Party:
    """A node: its RtcLinks, its shell, and what its links were told."""

    def __init__(self, world, name, rtc=True):
        self.world = world
        self.name = name
        self.outbox = Outbox()
        self.rng = SeededRng(name)
        self.keys = NodeKeys.generate(CRYPTO, self.rng)
        self.rtc = rtc
        self.silent = False  # a shell that describes nothing
        self.unjoined = False  # a NAT that lets no connection through
        self.carriers = []
        self.drawn = 0  # carriers that were asked for
        self.ends = {}
        self.told = []  # ("opened", channel, binding, peer), ("closed", channel, reason), ("replaced", channel, by)
        self.events = []
        self.links = RtcLinks(self.outbox, CRYPTO, self.rng, self.keys, world.node_of, self, self.routes)

    @property
    def identity(self):
        return self.keys.identity

    def routes(self, identity, source, now):
        def next_carrier(now):
            carrier = next(carriers, None)
            self.drawn += carrier is not None
            return carrier

        carriers = iter(self.carriers)
        return SimpleNamespace(next=next_carrier, last=lambda now: None)

    def connect(self, other, source=None):
        channel = self.links.connect(getattr(other, "identity", other), self.world.now, source)
        self.poll()
        return channel

    # -- Links

    def opened(self, channel, binding, now, *, peer=None):
        self.told.append(("opened", channel, binding, peer))

    def closed(self, channel, reason, now):
        self.told.append(("closed", channel, reason))

    def replaced(self, channel, by):
        self.told.append(("replaced", channel, by))

    def heard(self, what):
        """Of what links were told: this kind."""
        return [item[1:] for item in self.told if item[0] == what]

    # -- shell

    def poll(self):
        for effect in self.outbox.poll(self.world.now):
            match effect:
                case Connect(channel, protocol, address):
                    assert protocol is Protocol.RTC
                    end = self.ends[channel] = End(channel, f"{self.name}-{channel}", address == OFFERER)
                    if end.offers:
                        self.describe(end, OFFER)
                case Describe(channel, kind, sdp):
                    end = self.ends[channel]
                    assert end.closed is None, "a description for a channel that is closed"
                    parse = Candidates.from_lines if kind is CANDIDATES else Description.from_sdp
                    end.given.append((kind, parse(sdp)))
                    if kind is OFFER:
                        self.describe(end, ANSWER)
                    self.world.meet()
                case CloseLink(channel, reason):
                    assert self.ends[channel].closed is None, "closed twice"
                    self.ends[channel].closed = reason
                case Event():
                    self.events.append(effect)
                case _:
                    raise AssertionError(effect)

    def describe(self, end, kind, sdp=None):
        if not self.silent:
            text = end.sdp(kind) if sdp is None else sdp
            self.world.later(LATENCY, lambda: self.described(end.channel, kind, text))

    def described(self, channel, kind, sdp):
        self.links.described(channel, kind, sdp, self.world.now)
        self.poll()

    def restart(self, channel):
        """The network changed: new ICE credentials, the same certificate."""
        end = self.ends[channel]
        end.generation += 1
        self.described(channel, OFFER, end.sdp(OFFER))

    def lose(self, channel, reason="the connection is lost"):
        self.ends[channel].closed = reason
        self.links.closed(channel, reason, self.world.now)
        self.poll()

    def delivered(self, sealed, reply=lambda sealed, now: None, source="pipe"):
        self.links.delivered(sealed, reply, source, self.world.now)
        self.poll()

    def states(self):
        return [event.state for event in self.events if isinstance(event, Rtc)]

    def of(self, kind):
        """The descriptions of this kind that the shell was given, of all channels."""
        return [what for end in self.ends.values() for given, what in end.given if given is kind]


class Way:
    """A Carrier to one party. `mode` is "pass", "refuse", "lose", or "no answers"."""

    def __init__(self, world, target, mode="pass"):
        self.world = world
        self.target = target
        self.mode = mode
        self.signals = []  # sealed messages, in order
        self.replies = []
        self.answered = None  # of the latest signal

    def signal(self, to, sealed, answered, refused, now):
        assert to == self.target.identity
        assert len(sealed) <= 2048
        self.signals.append(sealed)
        self.answered = answered
        if self.mode == "refuse":
            self.world.later(LATENCY, lambda: refused(Why(RtcWhy.REFUSED), self.world.now))
        elif self.mode != "lose":
            self.world.later(LATENCY, lambda: self.target.delivered(sealed, self.reply_to(answered), self))

    def reply_to(self, answered):
        def reply(sealed, now):
            self.replies.append(sealed)
            if self.mode == "pass":
                self.world.later(LATENCY, lambda: answered(sealed, self.world.now))

        return reply

    def bring(self, sealed):
        """Give the asker something that may have come from the target."""
        self.answered(sealed, self.world.now)
        for party in self.world.parties:
            party.poll()


class World:
    def __init__(self):
        self.now = START
        self.parties = []
        self.clock = Outbox()

    def add(self, name, **settings):
        party = Party(self, name, **settings)
        self.parties.append(party)
        return party

    def pair(self):
        """Two nodes, the one of the lower identity first, with a way each to the other."""
        low, high = sorted((self.add("a"), self.add("b")), key=lambda party: party.identity)
        for party, other in ((low, high), (high, low)):
            party.carriers = [Way(self, other)]
        return low, high

    def node_of(self, identity, now):
        for party in self.parties:
            if party.identity == identity:
                transports = (Transport.rtc(),) if party.rtc else ()
                return Descriptor(identity, party.keys.ntor_public, 1, 2, Role.RELAY, transports)
        return None

    def later(self, seconds, call):
        self.clock.call_at(self.now + seconds, lambda now: call())

    def run(self, seconds=1.0):
        end = self.now + seconds
        while True:
            boxes = [self.clock, *(party.outbox for party in self.parties)]
            deadlines = [box.deadline() for box in boxes]
            due = min((when for when in deadlines if when is not None), default=end)
            if due > end:
                break
            self.now = max(self.now, due)
            if not any(when is not None and when <= self.now for when in deadlines):
                break
            for box in boxes:
                box.run_timers(self.now)
            for party in self.parties:
                party.poll()
        self.now = end

    def meet(self):
        """Open all channels that are ready for it."""
        ends = [(party, end) for party in self.parties for end in party.ends.values()]
        for party, end in ends:
            for other_party, other in ends:
                if end.offers and not other.offers and not (end.open or other.open or end.closed or other.closed):
                    if party.unjoined or other_party.unjoined:
                        continue
                    if end.remote == other.own() and other.remote == end.own():
                        end.open = other.open = True
                        self.later(LATENCY, lambda p=party, e=end: self._open(p, e))
                        self.later(LATENCY, lambda p=other_party, e=other: self._open(p, e))

    def _open(self, party, end):
        if end.closed is None:
            party.links.opened(end.channel, self.now)
            party.poll()


def forge(
    sender, to, kind=OFFER, *, session=b"s" * 16, sent=None, what=None, reply_key=None, signer=None, signed_for=None
):
    """A sealed message of `sender` (a Party) for `to`, whatever is wrong with it."""
    if what is None:
        what = Candidates((candidate(1),)) if kind is CANDIDATES else description(kind, f"forged {sender.name}")
    sent = int(sender.world.now) if sent is None else sent
    message = Introduction(kind, session, sender.identity, reply_key or sender.keys.ntor_public, sent, what)
    seed = (signer or sender).keys.identity_seed
    message = message.sign(lambda data: CRYPTO.ed25519_sign(seed, data), (signed_for or to).identity)
    return seal(message.encode(), to, sender.rng)


def seal(plaintext, to, rng):
    return hpke.seal(CRYPTO, rng.random(32), to.keys.ntor_public, sealing_info(to.identity), plaintext)


def unseal(sealed, to):
    """What a party that got this would read."""
    return Introduction.parse(hpke.open_sealed(CRYPTO, to.keys.ntor_secret, sealing_info(to.identity), sealed))
