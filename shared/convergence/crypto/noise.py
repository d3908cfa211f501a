"""Noise_NNpsk0 and Noise_NKpsk0, 25519_ChaChaPoly_SHA256 (Noise specification, revision 34): end-to-end encryption
inside a stream.

    NNpsk0                NKpsk0
                          <- s
                          ...
    -> psk, e             -> psk, e, es
    <- e, ee              <- e, ee

Both know the pre-shared key; with NK the responder also proves that it holds the secret of a static key that the
initiator knows.

Does: the handshake of these two patterns and the two cipher states after it. The ephemeral secret is an argument.
Does not: frame messages, draw randomness, or implement other patterns. Every failure is a CryptoError.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from convergence.crypto.kdf import hkdf_expand, hmac_sha256
from convergence.errors import CryptoError
from convergence.ports import Buffer, Crypto

PROTOCOL_NAME = b"Noise_%b_25519_ChaChaPoly_SHA256"
KEY_LEN = 32
TAG_LEN = 16
MAX_MESSAGE = 65535  # section 3: no message is longer, tag included
MAX_PLAINTEXT = MAX_MESSAGE - TAG_LEN
HANDSHAKE_OVERHEAD = KEY_LEN + TAG_LEN  # each of the two messages with an empty payload: 48 bytes

_RESERVED_NONCE = 2**64 - 1  # section 5.1


class CipherState:
    """One direction: a key and the number of messages so far."""

    __slots__ = ("_crypto", "_key", "_nonce")

    def __init__(self, crypto: Crypto, key: bytes, nonce: int = 0) -> None:
        self._crypto = crypto
        self._key = key
        self._nonce = nonce

    def encrypt(self, plaintext: Buffer, ad: bytes = b"") -> bytes:
        """Ciphertext and 16-byte tag of at most MAX_PLAINTEXT bytes.

        Raises:
            CryptoError: too long, or the nonces are used up.
        """
        if len(plaintext) > MAX_PLAINTEXT:
            raise CryptoError("Noise message too long")
        sealed = self._crypto.chacha20poly1305_encrypt(self._key, self._nonce_bytes(), plaintext, ad)
        self._nonce += 1
        return sealed

    def decrypt(self, message: Buffer, ad: bytes = b"") -> bytes:
        """Plaintext of the next message. The nonce moves on only if the message verifies.

        Raises:
            CryptoError: too long or too short, forged or out of order, or the nonces are used up.
        """
        if not TAG_LEN <= len(message) <= MAX_MESSAGE:
            raise CryptoError("Noise message of an impossible length")
        plaintext = self._crypto.chacha20poly1305_decrypt(self._key, self._nonce_bytes(), message, ad)
        self._nonce += 1
        return plaintext

    def _nonce_bytes(self) -> bytes:
        if self._nonce >= _RESERVED_NONCE:
            raise CryptoError("Noise nonces are used up")
        return bytes(4) + self._nonce.to_bytes(8, "little")  # section 12.3


@dataclass(frozen=True, slots=True, repr=False)
class Transport:
    """The result of a finished handshake. `handshake_hash` (32 bytes) is public and names the session."""

    send: CipherState
    receive: CipherState
    handshake_hash: bytes


class Handshake:
    """One side of one handshake.

    The initiator calls `write`, `read`, `transport`; the responder `read`, `write`, `transport`.
    A call out of this order, or after a failure, raises CryptoError.
    """

    def __init__(
        self,
        crypto: Crypto,
        ephemeral: bytes,
        psk: bytes,
        *,
        initiator: bool,
        prologue: bytes = b"",
        static: bytes | None = None,
    ) -> None:
        """
        Args:
            ephemeral: 32 fresh random bytes, used for this handshake only.
            psk: the pre-shared key, 32 bytes.
            prologue: what both sides must agree on beforehand; not sent.
            static: the responder's static key for NK (32 bytes): its secret at the responder, the public key at the
                initiator. None for NN.
        """
        if any(len(key) != KEY_LEN for key in (psk, ephemeral, static or psk)):
            raise CryptoError("Noise keys are 32 bytes")
        self._crypto = crypto
        self._initiator = initiator
        self._ephemeral = ephemeral
        self._static = static
        self._remote = b""
        messages = ("write", "read") if initiator else ("read", "write")
        self._steps: tuple[str, ...] = (*messages, "transport")
        # InitializeSymmetric: the name is longer than a hash, so it is hashed (section 5.2).
        name = PROTOCOL_NAME % (b"NNpsk0" if static is None else b"NKpsk0")
        self._hash = self._chaining_key = sha256(name).digest()
        self._mix_hash(prologue)
        if static is not None:  # the pre-message "<- s"
            self._mix_hash(static if initiator else crypto.x25519_public(static))
        self._chaining_key, mixed, key = self._hkdf(psk, 3)  # token "psk": MixKeyAndHash
        self._mix_hash(mixed)
        self._cipher = CipherState(crypto, key)

    def write(self, payload: bytes = b"") -> bytes:
        """Our message: ephemeral key 32 | encrypted payload | tag 16."""
        steps = self._begin("write")
        if len(payload) > MAX_MESSAGE - HANDSHAKE_OVERHEAD:
            raise CryptoError("Noise message too long")
        public = self._crypto.x25519_public(self._ephemeral)
        self._mix_ephemeral(public)
        self._mix_secrets(self._initiator)
        sealed = self._cipher.encrypt(payload, self._hash)
        self._mix_hash(sealed)
        self._steps = steps
        return public + sealed

    def read(self, message: bytes) -> bytes:
        """The payload of the other side's message."""
        steps = self._begin("read")
        if not HANDSHAKE_OVERHEAD <= len(message) <= MAX_MESSAGE:
            raise CryptoError("Noise message of an impossible length")
        self._remote, sealed = message[:KEY_LEN], message[KEY_LEN:]
        self._mix_ephemeral(self._remote)
        self._mix_secrets(not self._initiator)
        payload = self._cipher.decrypt(sealed, self._hash)
        self._mix_hash(sealed)
        self._steps = steps
        return payload

    def transport(self) -> Transport:
        """Split (section 5.2): the cipher states for all that follows. Both messages must have passed."""
        self._begin("transport")
        of_initiator, of_responder = (CipherState(self._crypto, key) for key in self._hkdf(b"", 2))
        if self._initiator:
            return Transport(of_initiator, of_responder, self._hash)
        return Transport(of_responder, of_initiator, self._hash)

    def _begin(self, step: str) -> tuple[str, ...]:
        """The steps that follow this one. The caller keeps them once this step has succeeded."""
        steps, self._steps = self._steps, ()
        if steps[:1] != (step,):
            raise CryptoError("Noise handshake out of order")
        return steps[1:]

    def _mix_ephemeral(self, public: bytes) -> None:
        """Token "e": in psk handshakes the ephemeral key goes into the chaining key too (section 9.2)."""
        self._mix_hash(public)
        self._mix_key(public)

    def _mix_secrets(self, first: bool) -> None:
        """Token "es" of the first message, if there is a static key; token "ee" of the second."""
        if not first:
            self._mix_key(self._crypto.x25519(self._ephemeral, self._remote))
        elif self._static is not None:
            pair = (self._ephemeral, self._static) if self._initiator else (self._static, self._remote)
            self._mix_key(self._crypto.x25519(*pair))

    def _mix_key(self, secret: bytes) -> None:
        self._chaining_key, key = self._hkdf(secret, 2)
        self._cipher = CipherState(self._crypto, key)

    def _mix_hash(self, data: bytes) -> None:
        self._hash = sha256(self._hash + data).digest()

    def _hkdf(self, secret: bytes, outputs: int) -> list[bytes]:
        """HKDF of section 4.3: RFC 5869 with the chaining key as salt and no info, in pieces of 32 bytes."""
        material = hkdf_expand(hmac_sha256(self._chaining_key, secret), b"", outputs * 32)
        return [material[i : i + 32] for i in range(0, len(material), 32)]
