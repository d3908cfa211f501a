"""The names under which something is advertised at rendezvous points, and the choice of these points.

Does: blind a hash_name, or the key of an owner, for one point and one day; prove to a point that an advert is the
owner's, and check that; choose the points of a hash_name; handle the change of day.
Does not: talk to points. A point learns no hash_name and no key. It cannot tell whether two blinded names belong to one
file, except around midnight, when the names of two days come on one circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha3_256
from hmac import digest as hmac_digest
from math import floor
from typing import Protocol as Shape
from typing import TypeVar

from convergence.crypto.blinding import blinded_key, sign_blinded
from convergence.errors import CryptoError, RemoteError
from convergence.ports import Crypto
from convergence.wire.rdv import Advert, Name, Proof
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


def common_name(hash_name: bytes, identity: bytes, day: int) -> Name:
    """HMAC-SHA256(hash_name, "convergence:rdv" | the point's identity | day u32): whoever has the hash_name advertises
    under it."""
    return Name(hmac_digest(hash_name, b"convergence:rdv" + identity + day.to_bytes(4, "big"), "sha256"))


def owners_name(crypto: Crypto, owner: bytes, identity: bytes, day: int) -> Name:
    """The blinded key of an owner: only who has its secret advertises under it.

    Args:
        owner: the owner's X25519 public key.

    Raises:
        CryptoError: nobody can own this key.
    """
    return Name(blinded_key(crypto, owner, _factor(owner, identity, day)), owned=True)


def owners_advert(crypto: Crypto, secret: bytes, identity: bytes, day: int, binding: bytes) -> Advert:
    """Of the owner's name, with the proof that this point demands.

    Args:
        secret: the owner's.
        binding: of the circuit (circuit/hop.py).
    """
    owner = crypto.x25519_public(secret)
    name, factor = owners_name(crypto, owner, identity, day), _factor(owner, identity, day)
    return Advert.add(name, Proof(day, sign_blinded(crypto, secret, factor, _proven(name, day, binding))))


def check_advert(crypto: Crypto, advert: Advert, binding: bytes, now: float) -> None:
    """As a point. Raises RemoteError unless it is the owner's, of a day around ours, and made for this circuit."""
    proof = advert.proof
    if proof is None or abs(proof.day - day_of(now)) > 1:
        raise RemoteError("an owner's advert of another day")
    if not crypto.ed25519_verify(advert.blinded, proof.signature, _proven(advert.name, proof.day, binding)):
        raise RemoteError("an advert that its owner did not make for this circuit")


def _factor(owner: bytes, identity: bytes, day: int) -> bytes:
    return sha3_256(b"convergence:owner" + owner + identity + day.to_bytes(4, "big")).digest()


def _proven(name: Name, day: int, binding: bytes) -> bytes:
    return b"convergence:advert:1" + binding + day.to_bytes(4, "big") + name.blinded


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


def common_names(hash_name: bytes, identity: bytes, now: float) -> list[Name]:
    """The names in use now, today's first."""
    return [common_name(hash_name, identity, day) for day in days_in_use(now)]


def owners_names(crypto: Crypto, owner: bytes, identity: bytes, now: float) -> list[Name]:
    """The same of an owner; none where nobody can own this key, as links may hold any."""
    try:
        return [owners_name(crypto, owner, identity, day) for day in days_in_use(now)]
    except CryptoError:
        return []


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
