"""The names under which something is advertised at rendezvous points.

Does: blind a hash_name, or the key of an owner, for one point and one day; prove to a point that an advert is the
owner's, and check that; handle the change of day.
Does not: talk to points, or choose them (ring.py). A point learns no hash_name and no key. It cannot tell whether two
blinded names belong to one file, except around the change, when the names of two days come on one circuit.

The days of a point begin at a time of its own: whoever has names at many points renews them all through the day, at
each point once, and not all of them at midnight. Were it a time of each name, it would show which names of two days
belong together.
"""

from __future__ import annotations

from hashlib import sha3_256
from hmac import digest as hmac_digest
from math import floor

from convergence.crypto.blinding import blinded_key, sign_blinded
from convergence.errors import CryptoError, RemoteError
from convergence.ports import Crypto
from convergence.wire.rdv import Advert, Name, Proof

DAY = 86400  # seconds
OVERLAP = 3600  # seconds before and after a change in which two days' names are in use: clocks differ


def day_begins(identity: bytes) -> int:
    """When a point's days begin, in seconds after midnight (UTC)."""
    return int.from_bytes(sha3_256(b"convergence:day" + identity).digest()[:4], "big") * DAY >> 32


def day_of(now: float, identity: bytes) -> int:
    """A point's day: the Unix day on which it began."""
    return floor((now - day_begins(identity)) / DAY)


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
    # Ours began today or yesterday.
    if proof is None or not -2 <= proof.day - floor(now / DAY) <= 1:
        raise RemoteError("an owner's advert of another day")
    if not crypto.ed25519_verify(advert.blinded, proof.signature, _proven(advert.name, proof.day, binding)):
        raise RemoteError("an advert that its owner did not make for this circuit")


def _factor(owner: bytes, identity: bytes, day: int) -> bytes:
    return sha3_256(b"convergence:owner" + owner + identity + day.to_bytes(4, "big")).digest()


def _proven(name: Name, day: int, binding: bytes) -> bytes:
    return b"convergence:advert:1" + binding + day.to_bytes(4, "big") + name.blinded


def days_in_use(now: float, identity: bytes) -> tuple[int, ...]:
    """A point's day, and within OVERLAP of its change the neighbouring day too. A provider advertises these days'
    names; a client asks for them in this order."""
    day, since = _into_day(now, identity)
    if since < OVERLAP:
        return day, day - 1
    if since >= DAY - OVERLAP:
        return day, day + 1
    return (day,)


def next_change(now: float, identity: bytes) -> float:
    """When the result of `days_in_use` changes next (Unix seconds)."""
    _, since = _into_day(now, identity)
    change = next(at for at in (OVERLAP, DAY - OVERLAP, DAY + OVERLAP) if since < at)
    return now - since + change


def _into_day(now: float, identity: bytes) -> tuple[int, float]:
    """A point's day, and the seconds since it began."""
    day = day_of(now, identity)
    return day, now - day * DAY - day_begins(identity)


def common_names(hash_name: bytes, identity: bytes, now: float) -> list[Name]:
    """The names in use now, today's first."""
    return [common_name(hash_name, identity, day) for day in days_in_use(now, identity)]


def owners_names(crypto: Crypto, owner: bytes, identity: bytes, now: float) -> list[Name]:
    """The same of an owner; none where nobody can own this key, as links may hold any."""
    try:
        return [owners_name(crypto, owner, identity, day) for day in days_in_use(now, identity)]
    except CryptoError:
        return []
