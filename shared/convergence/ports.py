"""What a platform supplies.

Does: give the shapes. `Crypto` and `Rng` are synchronous and called by the core; `Transport`, `Storage`, `Resolver`,
`SharedStore`, `Clock` and `Timer` are called by the driver, never block, and answer later through the driver's
callbacks. A `Binding` comes with a channel that is tied to its transport's own cryptography. Check what backends of
`Crypto` have to refuse.
Does not: know any platform.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol as Shape

from convergence.effects import DescriptionKind, Failure, Protocol
from convergence.errors import CryptoError

Buffer = bytes | bytearray | memoryview


class CtrStream(Shape):
    """AES-CTR key stream, 128 or 256-bit key, counter block starting at zero, position kept between calls."""

    def crypt(self, data: Buffer, /) -> bytes:
        """XOR the next len(data) bytes of key stream onto data."""
        ...


def check_x25519(*keys: bytes) -> None:
    """For backends, whose libraries do not all check: libsodium would read memory behind a short key. Raises
    CryptoError."""
    if any(len(key) != 32 for key in keys):
        raise CryptoError("an X25519 key has 32 bytes")


class Crypto(Shape):
    """The primitives that the standard library lacks. Hashes, HMAC and HKDF come from hashlib and hmac."""

    def aes_ctr(self, key: bytes, /) -> CtrStream:
        """A new stream for a 16 or 32-byte key."""
        ...

    def x25519_public(self, secret: bytes, /) -> bytes:
        """Public key (32 bytes) of a secret key (any 32 bytes; clamped as RFC 7748 says). Raises CryptoError for a key
        of another length."""
        ...

    def x25519(self, secret: bytes, public: bytes, /) -> bytes:
        """Shared secret, 32 bytes. Raises CryptoError if it is all zero (a low-order public key), and for keys that do
        not have 32 bytes."""
        ...

    def ed25519_public(self, seed: bytes, /) -> bytes:
        """Public key (32 bytes) of a 32-byte seed."""
        ...

    def ed25519_sign(self, seed: bytes, message: bytes, /) -> bytes:
        """64-byte signature (RFC 8032)."""
        ...

    def ed25519_verify(self, public: bytes, signature: bytes, message: bytes, /) -> bool:
        """Whether the signature holds; False too for keys and signatures of a wrong length."""
        ...

    def chacha20poly1305_encrypt(self, key: bytes, nonce: bytes, data: Buffer, ad: bytes, /) -> bytes:
        """RFC 8439: 32-byte key, 12-byte nonce; returns ciphertext + 16-byte tag."""
        ...

    def chacha20poly1305_decrypt(self, key: bytes, nonce: bytes, data: Buffer, ad: bytes, /) -> bytes:
        """Raises CryptoError when the tag does not verify."""
        ...

    def argon2id(self, message: bytes, salt: bytes, memory: int, /) -> bytes:
        """RFC 9106, one pass, one lane: 32 bytes. `salt` has 16 bytes; `memory` is in KiB, 8 or more."""
        ...


class Rng(Shape):
    """Cryptographic randomness."""

    def random(self, size: int, /) -> bytes: ...


class RsaKeyPair(Shape):
    """An RSA-1024 key of a relay on the Tor network."""

    @property
    def public(self) -> bytes:
        """RSAPublicKey of PKCS #1, DER."""
        ...

    def sign(self, digest: bytes, /) -> bytes:
        """PKCS #1 v1.5 signature, 128 bytes, of a bare digest: Tor puts no DigestInfo around it."""
        ...


class RsaIdentity(RsaKeyPair, Shape):
    """The one that names it (tor-spec "Keys and names"): the SHA-1 of `public` is its fingerprint."""

    def certificate(self, now: float, /) -> bytes:
        """A self-signed X.509 certificate of this key, DER, that is valid at `now` and for some days more."""
        ...


@dataclass(frozen=True, slots=True)
class TlsBinding:
    """A link's TLS connection.

    Args:
        certificate: the responder's X.509 certificate, DER.
        export: the connection's exporter (RFC 5705) with the label EXPORTER_LABEL: context -> 32 bytes.
        remote: the IP address of the other end, as this side's socket has it.
    """

    certificate: bytes = field(repr=False)
    export: Callable[[bytes], bytes] = field(repr=False)
    remote: str | None = None

    @property
    def digest(self) -> bytes:
        """What names the connection in CERTS and AUTHENTICATE (tor-spec "CERTS cells"), 32 bytes."""
        return sha256(self.certificate).digest()

    def secrets(self, context: bytes) -> bytes:
        """TLSSECRETS of AUTHENTICATE, 32 bytes."""
        return self.export(context)


@dataclass(frozen=True, slots=True)
class DtlsBinding:
    """A WebRTC connection. The Tor network has none: what stands for it in the handshake is our own.

    Args:
        fingerprints: of both ends' DTLS certificates, in an order that both know.
    """

    fingerprints: bytes

    @property
    def digest(self) -> bytes:
        return sha256(b"convergence:binding" + self.fingerprints).digest()

    def secrets(self, context: bytes) -> bytes:
        return self.digest


Binding = TlsBinding | DtlsBinding
"""What ties a link handshake to its transport. Transports that prove nothing, as WebSockets, have None in its place."""


class Transport(Shape):
    """Opens and feeds channels. Reports through the driver: opened, described, received, closed, drained."""

    def connect(self, channel: int, protocol: Protocol, address: str, source: Hashable, /) -> None:
        """Open a channel on behalf of `source`, as in effects.Connect."""
        ...

    def describe(self, channel: int, kind: DescriptionKind, sdp: str, /) -> None:
        """Apply the other side's description to an RTC channel. What cannot be applied closes the channel."""
        ...

    def send(self, channel: int, buffers: Sequence[bytes], /) -> bool:
        """Queue the buffers. False when the channel is now congested: `drained` follows once it is not."""
        ...

    def close(self, channel: int, reason: str, /) -> None: ...

    def pause(self, channel: int, paused: bool, /) -> None: ...


class Storage(Shape):
    """Buckets of bytes (see effects.Store). Each call answers once through `reply`, never from within the call's
    caller's critical path being blocked; a Failure instead of a result tells what went wrong."""

    def store(
        self, items: Sequence[tuple[str, bytes, bytes | None]], reply: Callable[[None | Failure], None], /
    ) -> None: ...

    def load(self, bucket: str, key: bytes, reply: Callable[[bytes | None | Failure], None], /) -> None: ...

    def scan(self, bucket: str, prefix: bytes, reply: Callable[[list[bytes] | Failure], None], /) -> None: ...


class Resolver(Shape):
    """Name look-ups of an exit, under its policy."""

    def resolve(self, host: str, reply: Callable[[list[str] | Failure], None], source: Hashable, /) -> None: ...


class SharedStore(Shape):
    """What several facilitators have in common. It reports through FacilitatorService: joined, parted, told."""

    def consult(self, question: object, reply: Callable[[object], None], /) -> None:
        """Answer a question of facilitator/questions.py, once."""
        ...


class Clock(Shape):
    """Both are in seconds. The driver compares them: what they differ by between two inputs tells that the clock was
    set, or that the machine slept."""

    def now(self) -> float:
        """Unix time, as the system has it now."""
        ...

    def elapsed(self) -> float:
        """Time that passed since some moment before, whatever the clock was set to. It may stand still in sleep."""
        ...


class Timer(Shape):
    """One timer. `arm(deadline)` replaces the one before; None disarms. It calls `Driver.tick`."""

    def arm(self, deadline: float | None, /) -> None: ...
