"""Many nodes of which a third, or half, act together: what of what the threat model promises holds at 10,000 nodes.

Real: the facilitator's rings and buckets, headers, what a client fetches, checks and keeps, its View, its requests for
buckets, its pool of circuits, which chooses paths and judges relays. Not real: nodes are descriptors without a process
behind them and without signatures of their own; circuits are rules without cells, as in test_coalitions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import lru_cache
from math import sqrt
from typing import Any

import pytest

from convergence.errors import DestroyReason
from convergence.introduction import fetching
from convergence.introduction.fetching import BucketFetches
from convergence.link.neighbours import DIAL_TIMEOUT
from convergence.netdir import bucketview
from convergence.netdir.buckets import ATTEMPTS, FETCH_LIMIT, Buckets
from convergence.netdir.bucketview import SIGMAS, BucketView
from convergence.netdir.headers import Headers
from convergence.netdir.listview import ListView
from convergence.netdir.nodes import MAX_HEARD, NodeDirectory
from convergence.netdir.rings import index_of
from convergence.netdir.view import Class, place_of, place_of_name
from convergence.outbox import Outbox
from convergence.path import building
from convergence.path.pool import POOL_SIZE, CircuitPool
from convergence.rdv.ring import POINTS
from convergence.wire.buckets import BucketRequest, RingKind
from convergence.wire.descriptor import Descriptor
from convergence.wire.target import RelayTarget, Role
from pynode.crypto import CPythonCrypto
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.buckets import DAY, FACILITATOR, NOW, OLD, VALUE, Made, identity_of, node_of
from tests.unit.path.test_coalitions import RuledCircuit

ROLES = Role.RELAY | Role.RDV
SIZES = [1_500, pytest.param(10_000, marks=pytest.mark.long)]
SHARES = [0.3, 0.5]
BEGIN = NOW // DAY * DAY + 5 * 3600
"""No midnight is near, and who came when the value was known is stable."""


class Trusting(CPythonCrypto):
    """Nodes' own signatures are not what is tested here."""

    def ed25519_verify(self, public: bytes, signature: bytes, message: bytes, /) -> bool:
        return True


CRYPTO = Trusting()


def described(identity: bytes) -> Descriptor:
    node = node_of(None, ROLES, identity=identity)
    return replace(node, expires=node.published + 6 * 3600)


class Crowd:
    """A population, the first ones of which are hostile, and a facilitator that is honest."""

    def __init__(self, size: int, share: float) -> None:
        self.made = Made()
        self.made.now = BEGIN
        self.identities = [identity_of((size, share, number)) for number in range(size)]
        self.hostile = set(self.identities[: int(size * share)])
        for identity in self.identities:
            self.made.put(described(identity), since=OLD)
        self.made.sign()

    def add(self, identities: set[bytes]) -> None:
        """Nodes that came an hour after the value was known."""
        self.hostile |= identities
        for identity in identities:
            self.made.put(described(identity), since=int(NOW))
        self.made.sign()


@lru_cache
def crowd(size: int, share: float) -> Crowd:
    return Crowd(size, share)


class RuledCarrier:
    """Stands for CircuitCarrier: what a relay answers when it is asked for a bucket, through a circuit."""

    def __init__(self, outbox: Outbox, client: Any, relay: RelayTarget, **more: Any) -> None:
        self.outbox, self.client, self.relay = outbox, client, relay

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        self.client.asked += 1
        if self.relay.identity not in self.client.crowd.hostile:
            bucket = self.client.crowd.made.epochs.answer(request)
            assert bucket is not None
            self.outbox.call_at(now + 1, lambda now: then(bucket.encode(), now))
        elif self.client.lies:
            self.outbox.call_at(now + 1, lambda now: then(b"garbage", now))


class Client:
    """A node's knowledge and its pool.

    Args:
        lies: whether hostile relays answer with garbage, or with nothing.
        refuses: whether hostile relays extend to each other only.
    """

    def __init__(self, crowd: Crowd, seed: Hashable, *, lies: bool = False, refuses: bool = False) -> None:
        self.crowd, self.lies, self.refuses = crowd, lies, refuses
        self.now = crowd.made.now
        self.asked = 0
        self.connected = True
        self.outbox = Outbox()
        rng = SeededRng(str(seed))
        self.directory = NodeDirectory(CRYPTO, FACILITATOR)
        self.headers = Headers(CRYPTO, lambda: FACILITATOR, lambda now: self.view.header_changed(now))
        self.buckets = Buckets(self.outbox, self.headers, lambda *asked: self.fetches.fetch(*asked))
        self.view = BucketView(
            self.outbox,
            CRYPTO,
            rng,
            self.headers,
            self.buckets,
            self.directory,
            ListView(self.directory, rng),
            "network",
            lambda now: None,
        )
        own: Any = self
        self.fetches = BucketFetches(
            self.outbox, rng, b"own", self.headers, self.buckets, self.view, own, own, lambda: ()
        )
        self.pool = CircuitPool(self.outbox, CRYPTO, rng, own, self.view)
        header = crowd.made.epochs.header
        assert header is not None
        self.headers.take(header.encode(), self.now)

    def fetch(self, request: BucketRequest, then: Callable[[bytes, float], None], now: float) -> None:
        """As the facilitator."""
        bucket = self.crowd.made.epochs.answer(request)
        assert bucket is not None
        then(bucket.encode(), now)

    def reach(self, identity: bytes, reply: Callable[..., None], now: float) -> None:
        """As the neighbours: what follows is the rule for extensions."""
        bad = self.crowd.hostile
        reply(lambda one, other: not self.refuses or (one in bad) == (other in bad), now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.outbox.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.outbox.run_timers(self.now)
        self.now = end

    def points(self, name: bytes, tries: int) -> list[bytes] | None:
        """The points of a name; None if no look-up of so many gave an answer."""
        found: list[list[bytes]] = []
        for _ in range(tries):
            self.view.closest(
                Class.POINTS,
                name,
                POINTS,
                self.now,
                lambda rings, now: found.append([node.identity for node in rings[0]]),
            )
            self.run(ATTEMPTS * FETCH_LIMIT + 5)
            if found:
                return found[0]
        return None

    def paths(self, circuits: int) -> list[tuple[bytes, ...]]:
        """Of so many circuits, one after the other."""
        self.pool.fill(self.now)
        paths: list[tuple[bytes, ...]] = []
        while len(paths) < circuits:
            self.run(20)
            assert self.pool._ready
            for place in list(self.pool._ready):
                paths.append(tuple(node.identity for node in place.path))
                place.circuit.destroy(DestroyReason.FINISHED, self.now)
        return paths

    def captured(self, circuits: int) -> float:
        """The share of its circuits whose both relays are hostile."""
        paths = self.paths(circuits)
        return sum(self.crowd.hostile.issuperset(path) for path in paths) / len(paths)


@pytest.fixture(autouse=True)
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "ClientCircuit", RuledCircuit)
    monkeypatch.setattr(fetching, "CircuitCarrier", RuledCarrier)


def names(count: int) -> list[bytes]:
    return [identity_of(("name", number)) for number in range(count)]


def true_points(crowd: Crowd, name: bytes) -> list[bytes]:
    """Worked out from all nodes."""
    start = int.from_bytes(place_of_name(VALUE.value, name), "big")
    place = {key: int.from_bytes(place_of(VALUE.value, key), "big") for key in crowd.identities}
    return sorted(place, key=lambda key: (place[key] - start) % (1 << 256))[:POINTS]


# Look-ups


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("lies", [False, True], ids=["keep back", "lie"])
def test_who_looks_for_a_name_finds_its_true_points_whatever_colluders_keep_back(
    size: int, share: float, lies: bool
) -> None:
    """One look-up asks three relays for a bucket, one after the other, so it fails in `share` to the power of three."""
    client = Client(crowd(size, share), "look-ups", lies=lies)
    wanted = names(40)
    answers = {name: client.points(name, tries=5) for name in wanted}
    assert all(answers.values()), "one of 32,000 look-ups fails five times, with half of the relays hostile"
    for name in wanted[:10]:
        assert answers[name] == true_points(client.crowd, name)
    # Three in ten, or half, of the points are hostile, as of all nodes: a name has an honest one in 97 or 87 %.
    points = [point in client.crowd.hostile for answer in answers.values() for point in answer or ()]
    assert abs(sum(points) / len(points) - share) < 0.15
    honest = sum(not set(answer or ()) <= client.crowd.hostile for answer in answers.values())
    assert honest / len(wanted) > 1 - share**3 - 0.15


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
def test_the_two_ends_of_a_name_have_the_same_points(size: int, share: float) -> None:
    """Though each asks other relays, and some of these lie: an honest point of a name is one to both."""
    ends = [Client(crowd(size, share), end, lies=True) for end in ("sender", "receiver")]
    for name in names(10):
        sender, receiver = (client.points(name, tries=5) for client in ends)
        assert sender == receiver is not None


# Paths


def mean_captured(size: int, share: float, circuits: int, seeds: int, **how: Any) -> float:
    return sum(Client(crowd(size, share), seed, **how).captured(circuits) for seed in range(seeds)) / seeds


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
def test_both_ends_of_a_path_are_hostile_as_often_as_chance_gives(size: int, share: float) -> None:
    assert abs(mean_captured(size, share, 100, 4) - share**2) < 0.05


@pytest.mark.parametrize("size", SIZES)
def test_colluders_that_refuse_all_others_gain_little(size: int) -> None:
    """In so large a network no relay is met often enough to be found out, so that what they refuse is tried anew."""
    chance, refusing = (mean_captured(size, 0.3, 100, 4, refuses=refuses) for refuses in (False, True))
    print(f"{size}: {chance:.3f} {refusing:.3f}")
    assert refusing < chance + 0.05


# Attempts to be more than chance gives


@pytest.mark.parametrize("size", SIZES)
def test_whom_colluders_vouch_for_is_on_no_path(size: int) -> None:
    """Neighbours tell of as many nodes as they like."""
    client = Client(crowd(size, 0.3), "gossip")
    made = [
        replace(described(identity_of(("made", number))), published=int(BEGIN), expires=int(BEGIN) + 3600)
        for number in range(MAX_HEARD)
    ]
    assert all([client.directory.hear(node.encode(), client.now) for node in made])
    drawn: set[bytes] = set()
    for _ in range(50):
        client.view.sample(
            Class.RELAYS, 128, client.now, lambda nodes, now: drawn.update(node.identity for node in nodes)
        )
    assert drawn and drawn <= set(client.crowd.identities)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("made", "rule", "least", "most"),
    [("many", True, 0.0, 0.14), ("few", True, 0.09, 0.18), ("many", False, 0.3, 1.0)],
    ids=["many", "as few as are drawn", "without the rule"],
)
def test_nodes_that_are_made_for_one_victim_gain_little(
    monkeypatch: pytest.MonkeyPatch, size: int, made: str, rule: bool, least: float, most: float
) -> None:
    """He knows which buckets the victim samples, and today's value: hundreds of new nodes of his stand in these
    buckets; or only so many that chance might have put them there."""
    if not rule:
        monkeypatch.setattr(bucketview, "MIN_OLD", 1000)
    crowd = Crowd(size, 0.3)
    victim = Client(crowd, "victim")
    victim.view.sample(Class.RELAYS, 1, victim.now, lambda nodes, now: None)
    header = victim.headers.newest
    assert header is not None
    ring = header.ring(RingKind.STABLE)
    assert ring is not None
    sampled = set(victim.view._sampled(RingKind.STABLE, header))
    rng, ground = random.Random("victim"), set()
    usual = ring.count / (1 << ring.depth)
    room = {
        index: 150 if made == "many" else int(usual + SIGMAS * sqrt(usual)) - len(members)
        for index in sampled
        if (members := victim.buckets._kept[RingKind.STABLE, index].members)
    }
    while any(left > 0 for left in room.values()):
        key = rng.randbytes(32)
        index = index_of(place_of(VALUE.value, key), ring.depth)
        if room.get(index, 0) > 0:
            room[index] -= 1
            ground.add(key)
    crowd.add(ground)
    positions = victim.view._positions
    victim = Client(crowd, "victim")  # some hours later, when it fetches them anew
    victim.view._positions = positions
    paths = victim.paths(300)
    captured = sum(crowd.hostile.issuperset(path) for path in paths) / len(paths)
    print(f"{size} {made} {rule}: {captured:.3f}")
    assert least <= captured < most
    assert ground.isdisjoint(key for path in paths for key in path) is (rule and made == "many")


@pytest.mark.parametrize("size", SIZES)
def test_who_stays_has_the_share_of_those_that_stay(size: int) -> None:
    """One node in 15 stays, the others are tabs of an hour. Somebody has one in a hundred, all of which stay."""
    crowd = Crowd(size // 15, 0.15)
    for number in range(size - size // 15):
        crowd.made.put(described(identity_of(("tab", number))), since=int(crowd.made.now) - 3600)
    crowd.made.sign()
    paths = [path for seed in range(4) for path in Client(crowd, seed).paths(100)]
    met = sum(node in crowd.hostile for path in paths for node in path) / sum(map(len, paths))
    both = sum(crowd.hostile.issuperset(path) for path in paths) / len(paths)
    print(f"{size}: {met:.3f} of relays on paths, both ends of {both:.3f}")
    assert 0.1 < met < 0.2 and both < 0.05


# Relays that are gone


@pytest.mark.parametrize(("gone", "tries", "within"), [(0.3, 15, 60), (0.5, 30, 120)])
def test_circuits_are_built_though_many_of_the_relays_that_are_kept_are_gone(
    gone: float, tries: int, within: float
) -> None:
    """The first ones of the crowd are, without a word, just after it was fetched."""
    client = Client(crowd(1_500, gone), "gone")
    away, reached = client.crowd.hostile, []

    def reach(identity: bytes, reply: Any, now: float) -> None:
        reached.append(identity)
        if identity in away:
            client.outbox.call_at(now + DIAL_TIMEOUT, lambda now: reply(None, now))
        else:
            reply(lambda one, other: other not in away, now)

    client.reach = reach  # type: ignore[method-assign]
    begun = client.now
    client.pool.fill(client.now)
    while len(client.pool._ready) < POOL_SIZE and client.now < begun + within:
        client.run(1)
    print(f"{gone}: {len(client.pool._ready)} circuits after {client.now - begun:.0f} s, {len(reached)} tries")
    assert len(client.pool._ready) == POOL_SIZE and len(reached) <= tries
