"""Minisign's keys and signatures (Ed25519), as its own program writes and reads them.

Does: read, make and write key pairs, with a password or without; sign and verify.
Does not: know what is signed. Signatures are over the file's own bytes (algorithm "Ed"), which WebCrypto can check.
Prehashed ones ("ED", minisign's default) are refused, with a message that says how to make the others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field

from nacl.exceptions import CryptoError
from nacl.pwhash import scrypt

from pynode.crypto import CPythonCrypto
from pynode.published.manifest import KEY_AT, Refused, key_bytes

ID_LEN = 8
SIGNATURE_LEN = 64
MAX_TEXT = 2048
"""Bytes of a key file or of a signature in UTF-8; minisign's own comments are shorter."""

OPSLIMIT, MEMLIMIT = scrypt.OPSLIMIT_SENSITIVE, scrypt.MEMLIMIT_SENSITIVE
"""What one use of a password costs, as in minisign: seconds, and 1 GiB of memory."""

_UNTRUSTED, _TRUSTED = "untrusted comment: ", "trusted comment: "
_ALGORITHM, _PREHASHED, _SCRYPT, _NO_KDF, _BLAKE2B = b"Ed", b"ED", b"Sc", bytes(2), b"B2"
_SECRET_LEN = 158
# Offsets in a secret key's bytes: of the salt, the limits and the part that a password hides.
_SALT_AT, _OPS_AT, _MEM_AT, _HIDDEN_AT = 6, 38, 46, 54
_SECRET_AT, _SUM_AT = _HIDDEN_AT + ID_LEN, _HIDDEN_AT + ID_LEN + 64
_CRYPTO = CPythonCrypto()


class WrongPassword(Refused):
    """The password does not open the key, or none was given for one that needs it."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Args:
    key_id: 8 bytes that name the key in signatures; they prove nothing.
    key: Ed25519, 32 bytes.
    """

    key_id: bytes
    key: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The base64 line of a public key, or a whole .pub file. Raises Refused."""
        lines = text[:MAX_TEXT].strip().split("\n")
        data = key_bytes(lines[-1] if len(lines) <= 2 else "")
        return cls(data[2:KEY_AT], data[KEY_AT:])

    @property
    def text(self) -> str:
        """The base64 line, as manifests have it."""
        return base64.b64encode(_ALGORITHM + self.key_id + self.key).decode()

    @property
    def name(self) -> str:
        """How minisign shows it to people: at most 16 hex digits."""
        return f"{int.from_bytes(self.key_id, 'little'):X}"

    def encode(self) -> str:
        """The .pub file."""
        return f"{_UNTRUSTED}minisign public key {self.name}\n{self.text}\n"


@dataclass(frozen=True, slots=True)
class Signature:
    """Args:
    signature: Ed25519 over the message, 64 bytes.
    trusted: the trusted comment.
    seal: Ed25519 over `signature` and the trusted comment, 64 bytes (minisign's "global signature").
    """

    key_id: bytes
    signature: bytes
    trusted: str
    seal: bytes

    @classmethod
    def parse(cls, text: str) -> Signature:
        """A .minisig file. Raises Refused."""
        lines = text.removesuffix("\n").split("\n") if len(text) <= MAX_TEXT else []
        if len(lines) != 4 or not lines[0].startswith(_UNTRUSTED) or not lines[2].startswith(_TRUSTED):
            raise Refused("a signature is none of minisign's")
        if not lines[2].isascii():
            raise Refused("a signature has a trusted comment that is not one of a release")
        data, seal = _base64(lines[1]), _base64(lines[3])
        if data.startswith(_PREHASHED):
            raise Refused("a signature is of the prehashed kind: sign with `minisign -S -l`")
        if len(data) != KEY_AT + SIGNATURE_LEN or not data.startswith(_ALGORITHM) or len(seal) != SIGNATURE_LEN:
            raise Refused("a signature is none of minisign's")
        return cls(data[2:KEY_AT], data[KEY_AT:], lines[2].removeprefix(_TRUSTED), seal)

    def encode(self) -> str:
        """The .minisig file."""
        data = base64.b64encode(_ALGORITHM + self.key_id + self.signature).decode()
        seal = base64.b64encode(self.seal).decode()
        return f"{_UNTRUSTED}signature of a Convergence release\n{data}\n{_TRUSTED}{self.trusted}\n{seal}\n"

    def verifies(self, key: PublicKey, message: bytes) -> bool:
        """Whether `key` made it, over `message` and the trusted comment."""
        return (
            self.key_id == key.key_id
            and _CRYPTO.ed25519_verify(key.key, self.signature, message)
            and _CRYPTO.ed25519_verify(key.key, self.seal, self.signature + self.trusted.encode())
        )


@dataclass(frozen=True, slots=True)
class SecretKey:
    """Args:
    seed: the Ed25519 seed, 32 bytes.
    """

    key_id: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SecretKey:
        return cls(os.urandom(ID_LEN), os.urandom(32))

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key_id, _CRYPTO.ed25519_public(self.seed))

    def sign(self, message: bytes, trusted: str) -> Signature:
        """`trusted`: the trusted comment, one line."""
        signature = _CRYPTO.ed25519_sign(self.seed, message)
        return Signature(self.key_id, signature, trusted, _CRYPTO.ed25519_sign(self.seed, signature + trusted.encode()))

    def encode(self, password: str = "") -> str:
        """The key file, encrypted with the password if there is one."""
        secret = self.key_id + self.seed + self.public.key
        hidden = secret + _checksum(secret)
        limits = bytes(_HIDDEN_AT - _SALT_AT)
        if password:
            salt = os.urandom(_OPS_AT - _SALT_AT)
            limits = salt + OPSLIMIT.to_bytes(8, "little") + MEMLIMIT.to_bytes(8, "little")
            hidden = _xor(hidden, _stream(password, salt, OPSLIMIT, MEMLIMIT))
        kdf, kind = (_SCRYPT, "encrypted secret key") if password else (_NO_KDF, "secret key without a password")
        data = _ALGORITHM + kdf + _BLAKE2B + limits + hidden
        return f"{_UNTRUSTED}minisign {kind}\n{base64.b64encode(data).decode()}\n"

    @classmethod
    def parse(cls, text: str, password: str = "") -> SecretKey:
        """A key file. With a password it takes seconds, and as much memory as the file says, at most MEMLIMIT.

        Raises:
            WrongPassword: the key needs a password, or another one.
            Refused: this is not a secret key file.
        """
        lines = text.removesuffix("\n").split("\n") if len(text) <= MAX_TEXT else []
        data = _base64(lines[1]) if len(lines) == 2 else b""
        head = (data[:2], data[4:_SALT_AT])
        if len(data) != _SECRET_LEN or head != (_ALGORITHM, _BLAKE2B) or data[2:4] not in (_SCRYPT, _NO_KDF):
            raise Refused("this is not a minisign secret key")
        hidden = data[_HIDDEN_AT:]
        if needs := data[2:4] == _SCRYPT:
            if not password:
                raise WrongPassword("this key needs its password")
            ops = int.from_bytes(data[_OPS_AT:_MEM_AT], "little")
            mem = int.from_bytes(data[_MEM_AT:_HIDDEN_AT], "little")
            if ops > OPSLIMIT or mem > MEMLIMIT:
                raise Refused("this key asks for more memory or time than minisign's own do")
            hidden = _xor(hidden, _stream(password, data[_SALT_AT:_OPS_AT], ops, mem))
        secret, checksum = hidden[: _SUM_AT - _HIDDEN_AT], hidden[_SUM_AT - _HIDDEN_AT :]
        key = cls(secret[:ID_LEN], secret[ID_LEN : ID_LEN + 32])
        # Minisign leaves the checksum of a key without a password empty.
        summed = checksum == _checksum(secret) or (not needs and checksum == bytes(len(checksum)))
        if not summed or key.public.key != secret[ID_LEN + 32 :]:
            raise WrongPassword("the password is wrong") if needs else Refused("this secret key is damaged")
        return key

    @staticmethod
    def is_hidden(text: str) -> bool:
        """Whether a key file needs a password."""
        lines = text[:MAX_TEXT].split("\n")
        return len(lines) > 1 and _base64(lines[1])[2:4] == _SCRYPT


def _checksum(secret: bytes) -> bytes:
    return hashlib.blake2b(_ALGORITHM + secret, digest_size=32).digest()


def _stream(password: str, salt: bytes, ops: int, mem: int) -> bytes:
    """scrypt. libsodium gets the parameters from the limits in the same way as minisign."""
    try:
        return scrypt.kdf(_SECRET_LEN - _HIDDEN_AT, password.encode(), salt, ops, mem)
    except (CryptoError, MemoryError):
        raise Refused(f"this machine does not have the {mem >> 20} MiB of memory that the password needs") from None


def _xor(data: bytes, stream: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def _base64(line: str) -> bytes:
    """The bytes of a line of canonical base64; empty for any other line."""
    try:
        data = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if base64.b64encode(data).decode() == line else b""
