"""Onion layers (tor-spec, "Relay cells"): one AES-128-CTR stream and one running SHA-1 for each hop and direction.

Does: encrypt, seal and recognise relay payloads.
Does not: cut runs (wire/cells.py), routing, windows, or parsing of what is inside.

A *run* is the 509-byte payloads of consecutive cells of one circuit, joined: one AES call for any length.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convergence.errors import CryptoError
from convergence.ports import Buffer, Crypto
from convergence.wire.cells import PAYLOAD_LEN, split

DIGEST_LEN = 20
KEY_LEN = 16
KEY_MATERIAL_LEN = 2 * DIGEST_LEN + 2 * KEY_LEN  # Df | Db | Kf | Kb: 72

# Payload layout: command 1 | recognized 2 | stream id 2 | digest 4 | length 2 | data
_RECOGNIZED = slice(1, 3)
_DIGEST = slice(5, 9)
_BEFORE_DIGEST = slice(0, 5)
_AFTER_DIGEST = slice(9, PAYLOAD_LEN)
_RECOGNIZED_ZERO = bytes(2)
_DIGEST_ZERO = bytes(4)


def recognized_candidates(run: bytes) -> list[int]:
    """Which cells of a run (0, 1, ...) have `recognized` == 0; only for these is a digest worth checking.

    A cell for another hop has this by chance, once in 65,536. So the usual answer, none, takes no work for each cell.
    """
    high, low = run[1::PAYLOAD_LEN], run[2::PAYLOAD_LEN]
    if 0 not in high or 0 not in low:
        return []
    return [index for index, pair in enumerate(zip(high, low, strict=True)) if pair == (0, 0)]


def _put_digests(run: bytearray, digests: bytes) -> None:
    """Write the digest field of every cell at once: the first 4 of every 20 bytes of `digests`."""
    for at in range(4):
        run[_DIGEST.start + at :: PAYLOAD_LEN] = digests[at::DIGEST_LEN]


def _stripes(data: bytes, start: int, step: int, width: int) -> bytes:
    """The field of `width` bytes at `start` of every `step` bytes: all first bytes, then all second bytes..."""
    return b"".join([data[start + at :: step] for at in range(width)])


class Layer:
    """One direction of one hop.

    Attributes:
        crypt: run -> run, XORed with the next len(run) bytes of the key stream. Encrypts and decrypts.
        digest: the running SHA-1 (20 bytes) after the cell last sealed or accepted; what a version 1 SENDME carries.
    """

    __slots__ = ("_hash", "crypt", "digest")

    def __init__(self, crypto: Crypto, digest_seed: bytes, key: bytes) -> None:
        """Args: digest_seed, 20 bytes (Df or Db); key, 16 bytes (Kf or Kb)."""
        self._hash = hashlib.sha1(digest_seed, usedforsecurity=False)
        self.digest = self._hash.digest()
        self.crypt: Callable[[Buffer], bytes] = crypto.aes_ctr(key).crypt

    def seal(self, cell: bytes) -> bytes:
        """Put the digest into a payload of 509 bytes that has zeros there. It is not encrypted yet."""
        self._hash.update(cell)
        self.digest = digest = self._hash.digest()
        return cell[_BEFORE_DIGEST] + digest[:4] + cell[_AFTER_DIGEST]

    def seal_run(self, cells: Sequence[bytes]) -> tuple[bytearray, list[bytes]]:
        """Seal several payloads, at least one, and join them; also returns the running digest after each."""
        digests = self._hash_all(cells)
        self.digest = digests[-1]
        run = bytearray().join(cells)
        _put_digests(run, b"".join(digests))
        return run, digests

    def accepts(self, cell: bytes) -> bool:
        """Whether a decrypted payload is for this hop: `recognized` is zero and the digest fits.

        The running digest moves on only for such cells: others belong to another hop.
        """
        if cell[_RECOGNIZED] != _RECOGNIZED_ZERO:
            return False
        running = self._hash.copy()
        running.update(cell[_BEFORE_DIGEST] + _DIGEST_ZERO + cell[_AFTER_DIGEST])
        digest = running.digest()
        if not hmac.compare_digest(digest[:4], cell[_DIGEST]):
            return False
        self._hash = running
        self.digest = digest
        return True

    def accept_all(self, run: bytes) -> tuple[tuple[bytes, ...], list[bytes]]:
        """The payloads of a decrypted run, each of which must be for this hop, and the running digest after each.

        For the last hop only: a cell that does not fit ends the circuit, so the hash needs no copy to go back to, and
        a run is compared as a whole. The payloads have zeros in their digest fields.

        Raises:
            CryptoError: a cell is not for this hop; do not use the layer again.
        """
        blank = bytearray(run)
        _put_digests(blank, bytes(len(run) // PAYLOAD_LEN * DIGEST_LEN))
        cells = split(blank)
        digests = self._hash_all(cells)
        expected = _stripes(b"".join(digests), 0, DIGEST_LEN, 4)
        found = _stripes(run, _DIGEST.start, PAYLOAD_LEN, 4)
        if not hmac.compare_digest(expected, found) or any(_stripes(run, _RECOGNIZED.start, PAYLOAD_LEN, 2)):
            raise CryptoError("a cell that no hop's digest fits")
        self.digest = digests[-1]
        return cells, digests

    def _hash_all(self, cells: Sequence[bytes]) -> list[bytes]:
        """The running digest after each of these payloads, whose digest fields are zero."""
        update, digest = self._hash.update, self._hash.digest
        digests = []
        for cell in cells:
            update(cell)
            digests.append(digest())
        return digests


@dataclass(frozen=True, slots=True, repr=False)
class HopKeys:
    """Both layers of one hop. `forward` is away from the circuit's origin."""

    forward: Layer
    backward: Layer

    @classmethod
    def from_material(cls, crypto: Crypto, material: bytes) -> HopKeys:
        """From 72 bytes of a handshake's key material: Df | Db | Kf | Kb (tor-spec, "Setting circuit keys").

        Raises:
            ValueError: the material is not 72 bytes.
        """
        if len(material) != KEY_MATERIAL_LEN:
            raise ValueError("a hop's key material is 72 bytes")
        seeds, keys = material[: 2 * DIGEST_LEN], material[2 * DIGEST_LEN :]
        return cls(
            Layer(crypto, seeds[:DIGEST_LEN], keys[:KEY_LEN]),
            Layer(crypto, seeds[DIGEST_LEN:], keys[KEY_LEN:]),
        )
