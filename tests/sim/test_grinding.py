"""Somebody makes keys until some stand where he wants: how many rendezvous points of a name are his?

Of 1,000 nodes he has 100. He knows the name and today's shared random value, and takes the best of a million keys.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort

import pytest

from convergence.netdir.epochs import Epochs
from convergence.netdir.rings import BEFORE, check_bucket
from convergence.netdir.view import place_of, place_of_name
from convergence.rdv.ring import POINTS
from convergence.wire.buckets import BucketRequest, RingKind, SharedValue
from tests.unit.netdir.buckets import DAY, FACILITATOR, NOW, node_of, sign

HONEST, HIS = 900, 100
NAMES = 2000
TODAY = SharedValue(b"t" * 32, int(NOW) - DAY // 2)
YESTERDAY = SharedValue(b"y" * 32, TODAY.fixed - DAY)
OLD = YESTERDAY.fixed - 1


def ground(rng: random.Random, value: bytes, names: list[bytes], keys: int) -> list[bytes]:
    """For each name, the keys that stand closest behind it: POINTS of them."""
    places = sorted(place_of_name(value, name) for name in names)
    best: list[list[tuple[bytes, bytes]]] = [[] for _ in names]
    for _ in range(keys):
        key = rng.randbytes(32)
        place = place_of(value, key)
        closest = best[bisect_left(places, place) - 1]
        if len(closest) < POINTS or place < closest[-1][0]:
            insort(closest, (place, key))
            del closest[POINTS:]
    return [key for closest in best for _, key in closest]


def share(epochs: Epochs, his: set[bytes], kind: RingKind, names: list[bytes]) -> float:
    """Which part of the points of these names is his."""
    header = epochs.header
    assert header is not None
    ring, value = header.ring(kind), header.before if kind in BEFORE else header.value
    assert ring is not None
    nodes = []
    for index in range(1 << ring.depth):
        bucket = epochs.answer(BucketRequest(header.epoch, kind, index))
        assert bucket is not None
        nodes += check_bucket(header, bucket, {})
    places = [member.place for member in nodes]
    captured = 0
    for name in names:
        first = bisect_left(places, place_of_name(value.value, name))
        points = [nodes[(first + number) % len(nodes)] for number in range(POINTS)]
        captured += sum(point.node.identity in his for point in points)
    return captured / (POINTS * len(names))


@pytest.mark.parametrize("keys", [50_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_keys_that_are_made_for_a_value_capture_nothing(keys: int) -> None:
    rng = random.Random("grinding")
    targets = [rng.randbytes(32) for _ in range(HIS // POINTS)]
    names = [rng.randbytes(32) for _ in range(NAMES)]
    epochs = Epochs(FACILITATOR, sign)

    def register(identity: bytes, since: int) -> None:
        node = node_of(None, identity=identity)
        epochs.put(node, node.encode(), since)

    his = [rng.randbytes(32) for _ in range(HIS)]
    for identity in (*his, *(rng.randbytes(32) for _ in range(HONEST))):
        register(identity, OLD)
    made = ground(rng, TODAY.value, targets, keys)
    for identity in made:
        register(identity, int(NOW))
    epochs.sign(TODAY, YESTERDAY, None, NOW)
    everything = {*his, *made}
    for kind in (RingKind.POINTS, RingKind.POINTS_BEFORE):
        assert abs(share(epochs, everything, kind, names) - HIS / (HIS + HONEST)) < 0.02
        assert share(epochs, set(made), kind, targets) == 0
    # The same keys, had they been there before anybody knew the value, would have had all points of these names.
    for identity in made:
        register(identity, OLD)
    epochs.sign(TODAY, YESTERDAY, None, NOW + 600)
    assert share(epochs, everything, RingKind.POINTS, targets) > 0.9
    # ...and tomorrow they have what any keys have: the value is another one.
    tomorrow = SharedValue(b"m" * 32, TODAY.fixed + DAY)
    epochs.sign(tomorrow, TODAY, None, NOW + DAY)
    assert share(epochs, everything, RingKind.POINTS, targets) < 0.35
