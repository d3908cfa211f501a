"""The names under which a file is advertised at rendezvous points, and the choice of these points.

Does: blind a hash_name for one point and one day; choose the points of a hash_name; handle the change of day.
Does not: talk to points. A point learns no hash_name. It cannot tell whether two blinded names belong to one file,
except around midnight, when the names of two days come on one circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hmac import digest as hmac_digest
from math import floor
from typing import Protocol as Shape
from typing import TypeVar

from convergence.wire.target import RelayTarget

DAY = 86400  # seconds
OVERLAP = 3600  # seconds around midnight (UTC) in which two days' names are in use: clocks differ
POINTS = 3  # k: points that a file is advertised at
MAX_WALK = 128  # places of the ring that one end tries, when earlier ones do not answer
MAX_AHEAD = 9  # of them tried at once, beyond those that are wanted


class Named(Shape):
    """Anything with an Ed25519 identity (a RelayTarget)."""

    @property
    def identity(self) -> bytes: ...


NamedT = TypeVar("NamedT", bound=Named)


def day_of(now: float) -> int:
    return floor(now / DAY)


def blinded(hash_name: bytes, identity: bytes, day: int) -> bytes:
    """HMAC-SHA256(hash_name, "convergence:rdv" | the point's identity | day u32), 32 bytes."""
    return hmac_digest(hash_name, b"convergence:rdv" + identity + day.to_bytes(4, "big"), "sha256")


def days_in_use(now: float) -> tuple[int, ...]:
    """Today, and within OVERLAP of midnight the neighbouring day too. A provider advertises these days' names; a
    client asks for them in this order."""
    today = day_of(now)
    since_midnight = now - today * DAY
    if since_midnight < OVERLAP:
        return today, today - 1
    if since_midnight >= DAY - OVERLAP:
        return today, today + 1
    return (today,)


def next_change(now: float) -> float:
    """When the result of `days_in_use` changes next (Unix seconds)."""
    midnight = day_of(now) * DAY
    if now - midnight < OVERLAP:
        return midnight + OVERLAP
    if now - midnight < DAY - OVERLAP:
        return midnight + DAY - OVERLAP
    return midnight + DAY + OVERLAP


def blinded_names(hash_name: bytes, identity: bytes, now: float) -> list[bytes]:
    """The names in use now, today's first."""
    return [blinded(hash_name, identity, day) for day in days_in_use(now)]


def ring_of(hash_name: bytes, candidates: Iterable[NamedT]) -> list[NamedT]:
    """All candidates in a file's order of preference: rendezvous hashing, so that both ends find the same one and a
    change of the node list moves few files."""
    return sorted(
        candidates,
        key=lambda node: hmac_digest(hash_name, b"convergence:points" + node.identity, "sha256"),
    )


def points_of(hash_name: bytes, candidates: Iterable[NamedT], count: int = POINTS) -> Sequence[NamedT]:
    """The first `count` points of a file while all of them answer."""
    return ring_of(hash_name, candidates)[:count]


def walk(ring: Sequence[RelayTarget], answers: Callable[[RelayTarget], bool | None], wanted: int) -> list[RelayTarget]:
    """The points that one end of a rendezvous works with: the first `wanted` of the ring that answer, and the silent
    ones before them, which may answer again. If relays of Tor reach none of these, the first that they do reach is one
    more: an end behind them goes there. Each end walks the ring by itself; they meet at points that both reach.

    Args:
        answers: whether a point answers; None while that is not known.
        wanted: how many are to answer.
    """
    chosen: list[RelayTarget] = []
    standing = unknown = silent = 0
    for point in ring[:MAX_WALK]:
        # The more points were silent, the more are tried at once.
        if standing >= wanted or standing + unknown >= wanted + min(silent, MAX_AHEAD):
            break
        chosen.append(point)
        answer = answers(point)
        standing += answer is True
        unknown += answer is None
        silent += answer is False

    def reached(point: RelayTarget) -> bool:
        return bool(point.tor_specifiers) and answers(point) is not False

    if not any(map(reached, chosen)):
        chosen += [point for point in ring[:MAX_WALK] if reached(point)][:1]
    return chosen
