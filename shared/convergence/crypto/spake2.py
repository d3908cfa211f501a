"""SPAKE2 (RFC 9382): two who share a password, however weak, agree on a key, and a stranger has one guess a try.

    A                                          B
    pA = w*M + x*G           pA ->
                             <- pB             pB = w*N + y*G
    K = 8x * (pB - w*N)                        K = 8y * (pA - w*M)
    cA                       cA ->             checks cA
    checks cB                <- cB

Does: the suite edwards25519, SHA-256, HKDF-SHA256, HMAC-SHA256. Secrets are arguments.
Does not: send anything, count tries, or know what the password is. Whoever confirms first gives the other one an answer
to its guess; A does here. What is secret serves for one run (crypto/edwards.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from convergence.crypto.edwards import BASE, COFACTOR, ORDER, POINT_LEN, Point
from convergence.crypto.kdf import hkdf_expand, hkdf_sha256, hmac_sha256
from convergence.ports import Crypto

SHARE_LEN = POINT_LEN
CONFIRMATION_LEN = 32
SECRET_LEN = 64  # random bytes: 256 bits more than the order, so that the remainder has no bias
MEMORY = 8192
"""KiB of Argon2id for a password: section 3.2 asks for a function that is hard on memory."""

# Section 6: found by hashing their names, so that nobody knows how they depend on each other.
M = Point.decode(bytes.fromhex("d048032c6ea0b6d697ddc2e86bda85a33adac920f1bf18e1b0c6d166a5cecdaf"))
N = Point.decode(bytes.fromhex("d3bfb518f44f3430f29d0c92af503865a1ed3281dc69b35dd868ba85f886c4ab"))


def password_scalar(crypto: Crypto, password: bytes, context: bytes) -> int:
    """w = MHF(password) mod the order: Argon2id, drawn out to 48 bytes, 128 bits more than the order has.

    Args:
        context: what the password is for; the same words give another w elsewhere.
    """
    digest = crypto.argon2id(password, sha256(context).digest()[:16], MEMORY)
    return int.from_bytes(hkdf_expand(digest, b"convergence:spake2:w", 48), "big") % ORDER


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What a run gives (section 4).

    Args:
        shared: Ke, 16 bytes: the same at both ends if their passwords were.
        confirm_a, confirm_b: cA and cB, 32 bytes.
    """

    shared: bytes
    confirm_a: bytes
    confirm_b: bytes


def key_schedule(a: bytes, b: bytes, share_a: bytes, share_b: bytes, k: bytes, w: bytes, aad: bytes = b"") -> Keys:
    """Section 4, for any group.

    Args:
        a, b: identities.
        share_a, share_b, k: encoded elements.
        w: big-endian, as long as the group's order.
    """
    transcript = b"".join(len(part).to_bytes(8, "little") + part for part in (a, b, share_a, share_b, k, w))
    digest = sha256(transcript).digest()
    confirming = hkdf_sha256(digest[16:], info=b"ConfirmationKeys" + aad, length=32)
    return Keys(digest[:16], hmac_sha256(confirming[:16], transcript), hmac_sha256(confirming[16:], transcript))


class Spake2:
    """One end of one run.

    Args:
        w: of `password_scalar`.
        secret: SECRET_LEN fresh random bytes.
        a, b: identities of both ends.
        first: whether this is A.

    Attributes:
        share: pA or pB, 32 bytes, for the other end.
    """

    def __init__(self, w: int, secret: bytes, a: bytes, b: bytes, *, first: bool) -> None:
        self._w = w
        self._x = int.from_bytes(secret, "big") % ORDER
        self._identities = a, b
        self._first = first
        self.share = ((M if first else N) * w + BASE * self._x).encode()

    def finish(self, theirs: bytes) -> Keys:
        """With the other end's share. Raises CryptoError if it is no point.

        A share for which K is neutral is to be refused (section 6), but not now: only for w*M, or w*N, it is, so that a
        refusal would say which w is right before any confirmation. Such a run gets keys that nobody else can compute.
        """
        point = Point.decode(theirs) - (N if self._first else M) * self._w
        k = point * (COFACTOR * self._x)
        secret = self._x.to_bytes(POINT_LEN, "big")
        encoded = sha256(b"convergence:spake2:refused" + secret).digest() if k.neutral else k.encode()
        shares = (self.share, theirs) if self._first else (theirs, self.share)
        return key_schedule(*self._identities, *shares, encoded, self._w.to_bytes(POINT_LEN, "big"))
