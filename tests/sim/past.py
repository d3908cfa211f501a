"""What there was before a simulation began: a large network needs days until its nodes are old enough for anything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from convergence.crypto.keys import NodeKeys
from convergence.netdir.draw import COMMIT_PHASE
from convergence.netdir.headers import EPOCH
from convergence.wire.buckets import DAY, EpochHeader, Ring, RingKind, SharedValue
from tests.sim.world import SeededRng, World, identity_seed


@dataclass(frozen=True)
class Past:
    """What there was before: the header of a large network, the draws of its values (facilitator/draws.py), and nodes
    with the time since when they are known. They are older than those values, and so rendezvous points from the first
    day on, and stable."""

    header: EpochHeader
    draws: bytes
    ages: list[tuple[bytes, int]]


def past(world: World, names: Iterable[str]) -> Past:
    """These nodes are old."""
    seed = identity_seed(world)
    day = int(world.now // DAY)
    fixed = (day - 1) * DAY + COMMIT_PHASE
    value, before = SharedValue(b"v" * 32, fixed), SharedValue(b"b" * 32, fixed - DAY)
    keys = [NodeKeys.generate(world.crypto, SeededRng(f"{world.seed}-{name}")) for name in names]
    empty = tuple(Ring(kind, 0, 200, bytes(32)) for kind in (RingKind.ALL, RingKind.POINTS))
    published = int(world.now) - EPOCH
    header = EpochHeader(
        *(published // EPOCH, published, published + 9999),
        *(value, before, bytes(32), empty, world.crypto.ed25519_public(seed)),
    ).sign(lambda message: world.crypto.ed25519_sign(seed, message))
    draws = day.to_bytes(4, "big") + value.encode() + before.encode() + bytes(2)
    return Past(header, draws, [(key.identity, fixed - 2 * DAY) for key in keys])


def be_old(world: World, names: Iterable[str]) -> None:
    """The facilitator goes on with nodes that are old."""
    before = past(world, names)
    items = world._host("facilitator", "ws://facilitator/").storage.items
    for identity, since in before.ages:
        items["age", identity + since.to_bytes(8, "big")] = b""
    items["epochs", b"header"] = before.header.encode()
    items["epochs", b"draw"] = before.draws
