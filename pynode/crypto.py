"""The CPython platform's `Crypto` and `Rng`.

Does: the primitives, by the faster library for each. PyNaCl computes X25519 and Ed25519 in half the time that
cryptography takes, has Argon2id, and judges odd signatures as the browser's libsodium does; cryptography (OpenSSL) has
AES-CTR, and ChaCha20-Poly1305 at 2.5 times PyNaCl's speed.
Does not: fall back to anything: a missing library fails the import.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from nacl import bindings as sodium
from nacl.exceptions import BadSignatureError
from nacl.exceptions import RuntimeError as SodiumRuntimeError

from convergence.errors import CryptoError
from convergence.ports import Buffer, check_x25519

_PUBLIC_LEN = 32
_SIGNATURE_LEN = 64
_HASH_LEN = 32
_COUNTER_START = bytes(16)


class _CtrStream:
    """ports.CtrStream; `crypt` is the cipher's own method, since it is called for every run of cells."""

    __slots__ = ("crypt",)

    def __init__(self, key: bytes) -> None:
        context: CipherContext = Cipher(AES(key), CTR(_COUNTER_START)).encryptor()
        self.crypt = context.update


class CPythonCrypto:
    """ports.Crypto for CPython."""

    def aes_ctr(self, key: bytes, /) -> _CtrStream:
        return _CtrStream(key)

    def x25519_public(self, secret: bytes, /) -> bytes:
        check_x25519(secret)
        return sodium.crypto_scalarmult_base(secret)

    def x25519(self, secret: bytes, public: bytes, /) -> bytes:
        check_x25519(secret, public)
        try:
            return sodium.crypto_scalarmult(secret, public)
        except SodiumRuntimeError:
            raise CryptoError("X25519 public key of low order") from None

    def ed25519_public(self, seed: bytes, /) -> bytes:
        return sodium.crypto_sign_seed_keypair(seed)[0]

    def ed25519_sign(self, seed: bytes, message: bytes, /) -> bytes:
        return sodium.crypto_sign(message, sodium.crypto_sign_seed_keypair(seed)[1])[:_SIGNATURE_LEN]

    def ed25519_verify(self, public: bytes, signature: bytes, message: bytes, /) -> bool:
        if len(public) != _PUBLIC_LEN or len(signature) != _SIGNATURE_LEN:
            return False
        try:
            sodium.crypto_sign_open(signature + message, public)
        except BadSignatureError:
            return False
        return True

    def chacha20poly1305_encrypt(self, key: bytes, nonce: bytes, data: Buffer, ad: bytes, /) -> bytes:
        return ChaCha20Poly1305(key).encrypt(nonce, data, ad)

    def chacha20poly1305_decrypt(self, key: bytes, nonce: bytes, data: Buffer, ad: bytes, /) -> bytes:
        try:
            return ChaCha20Poly1305(key).decrypt(nonce, data, ad)
        except InvalidTag:
            raise CryptoError("ChaCha20-Poly1305 tag does not verify") from None

    def argon2id(self, message: bytes, salt: bytes, memory: int, /) -> bytes:
        return sodium.crypto_pwhash_alg(_HASH_LEN, message, salt, 1, memory << 10, sodium.crypto_pwhash_ALG_ARGON2ID13)


class SystemRng:
    """ports.Rng from the operating system."""

    def random(self, size: int, /) -> bytes:
        return os.urandom(size)
