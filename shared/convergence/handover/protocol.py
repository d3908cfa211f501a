"""What the two ends of a word code say to each other, over a connection to the service that the number names.

    receiver                                    giver
    pA (32 bytes)              ->
                               <-               pB (32)
    cA (32)                    ->               wrong: the code is used up, and so is this connection
                               <-               cB (32) | the link, sealed (64 + 16)
    receipt (16) and its end   ->

The receiver confirms first: whoever came to guess hears nothing before the giver has counted the guess, and a
connection that breaks earlier has told nobody anything.

Does: the arithmetic of one such connection. Does not: count guesses (offer.py), or connect (ask.py).
"""

from __future__ import annotations

from hmac import compare_digest

from convergence.crypto.kdf import hkdf_sha256
from convergence.crypto.noise import TAG_LEN, CipherState
from convergence.crypto.spake2 import CONFIRMATION_LEN, SECRET_LEN, Keys, Spake2, password_scalar
from convergence.errors import CryptoError
from convergence.ports import Crypto, Rng
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode

RECEIVER, GIVER = b"convergence:code:1:receiver", b"convergence:code:1:giver"
LINK_LEN = 64
ANSWER_LEN = CONFIRMATION_LEN + LINK_LEN + TAG_LEN
RECEIPT_LEN = TAG_LEN


def scalar_of(crypto: Crypto, code: WordCode) -> int:
    """The password of SPAKE2. Costs some milliseconds, on purpose."""
    return password_scalar(crypto, code.password, b"convergence:code:1:%d" % code.number)


class _End:
    """Both ends, once each has the other's share."""

    _crypto: Crypto
    _keys: Keys

    def _cipher(self, purpose: bytes) -> CipherState:
        return CipherState(
            self._crypto, hkdf_sha256(self._keys.shared, info=b"convergence:code:1:" + purpose, length=32)
        )


class Receiving(_End):
    """The end that has the code from the telephone.

    Attributes:
        share: what it says first.
    """

    def __init__(self, crypto: Crypto, rng: Rng, w: int) -> None:
        self._crypto = crypto
        self._run = Spake2(w, rng.random(SECRET_LEN), RECEIVER, GIVER, first=True)
        self.share = self._run.share

    def confirmation(self, share: bytes) -> bytes:
        """Tells whoever answered with this share whether its words are ours. Raises CryptoError."""
        self._keys = self._run.finish(share)
        return self._keys.confirm_a

    def link(self, answer: bytes) -> ShareLink:
        """Raises CryptoError if whoever answered does not have our words."""
        if not compare_digest(self._keys.confirm_b, answer[:CONFIRMATION_LEN]):
            raise CryptoError("the words differ")
        link = self._cipher(b"link").decrypt(answer[CONFIRMATION_LEN:])
        return ShareLink(link[:32], link[32:])

    def receipt(self) -> bytes:
        return self._cipher(b"receipt").encrypt(b"")


class Giving(_End):
    """The end that has the link.

    Args:
        share: that of whoever came. Raises CryptoError for what is none.

    Attributes:
        share: what to say to it.
    """

    def __init__(self, crypto: Crypto, rng: Rng, w: int, share: bytes) -> None:
        self._crypto = crypto
        run = Spake2(w, rng.random(SECRET_LEN), RECEIVER, GIVER, first=False)
        self._keys = run.finish(share)
        self.share = run.share

    def right(self, confirmation: bytes) -> bool:
        """Whether whoever came has our words. It is a guess, whatever it is."""
        return compare_digest(self._keys.confirm_a, confirmation)

    def answer(self, link: ShareLink) -> bytes:
        """Only for who was `right`."""
        return self._keys.confirm_b + self._cipher(b"link").encrypt(link.hash_name + link.key)

    def received(self, receipt: bytes) -> bool:
        try:
            return self._cipher(b"receipt").decrypt(receipt) == b""
        except CryptoError:
            return False
