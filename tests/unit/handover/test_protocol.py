"""What the two ends of a word code say, byte by byte."""

from __future__ import annotations

import pytest

from convergence.crypto.spake2 import CONFIRMATION_LEN, SHARE_LEN
from convergence.errors import CryptoError
from convergence.handover.protocol import ANSWER_LEN, RECEIPT_LEN, Giving, Receiving, scalar_of
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode
from pynode.crypto import CPythonCrypto, SystemRng

CRYPTO, RNG = CPythonCrypto(), SystemRng()
CODE = WordCode(7, ("crossover", "clockwork"))
W = scalar_of(CRYPTO, CODE)
LINK = ShareLink(b"n" * 32, b"k" * 32)


def met(w: int = W) -> tuple[Receiving, Giving, bytes]:
    """Both ends after their shares, and the receiver's confirmation."""
    receiving = Receiving(CRYPTO, RNG, w)
    giving = Giving(CRYPTO, RNG, W, receiving.share)
    return receiving, giving, receiving.confirmation(giving.share)


def test_the_link_arrives_and_its_receipt_is_believed():
    receiving, giving, confirmation = met()
    assert (len(receiving.share), len(giving.share), len(confirmation)) == (SHARE_LEN, SHARE_LEN, CONFIRMATION_LEN)
    assert giving.right(confirmation)
    answer = giving.answer(LINK)
    assert len(answer) == ANSWER_LEN and receiving.link(answer) == LINK
    receipt = receiving.receipt()
    assert len(receipt) == RECEIPT_LEN and giving.received(receipt)
    assert not giving.received(bytes(RECEIPT_LEN)) and not met()[1].received(receipt)


def test_other_words_and_changed_bytes_are_refused():
    assert not met(W + 1)[1].right(met(W + 1)[2])
    receiving, giving, confirmation = met()
    assert not giving.right(bytes(CONFIRMATION_LEN)) and not giving.right(confirmation[:-1] + b"x")
    answer = giving.answer(LINK)
    for place in (0, CONFIRMATION_LEN - 1, CONFIRMATION_LEN, ANSWER_LEN - 1):  # also where only one of both proofs is
        with pytest.raises(CryptoError):
            receiving.link(answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :])
    with pytest.raises(CryptoError):
        met()[0].link(answer)  # of another connection


def test_a_scalar_is_of_words_and_number():
    others = (WordCode(8, CODE.words), WordCode(7, ("crossover", "cobra")), WordCode(7, ("crucifix", "clockwork")))
    assert len({W, *(scalar_of(CRYPTO, other) for other in others)}) == 4
    assert W == scalar_of(CRYPTO, WordCode(7, ("crossover", "clockwork")))
