"""The names under which a file is advertised at rendezvous points.

Does: blind a hash_name for one point and one day; handle the change of day.
Does not: talk to points, or choose them (ring.py). A point learns no hash_name. It cannot tell whether two blinded
names belong to one file, except around midnight, when the names of two days come on one circuit.
"""

from __future__ import annotations

from hmac import digest as hmac_digest
from math import floor

DAY = 86400  # seconds
OVERLAP = 3600  # seconds around midnight (UTC) in which two days' names are in use: clocks differ


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
