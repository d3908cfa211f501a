"""Nodes, epochs and headers for tests of signed buckets."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from convergence.netdir.epochs import Epochs
from convergence.wire.buckets import BucketRequest, Entry, SharedValue
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
SEED = b"f" * 32
FACILITATOR = CRYPTO.ed25519_public(SEED)
DAY = 86400
NOW = 20_000 * DAY + 3600.0
"""One hour after a midnight."""
NOON = int(NOW) // DAY * DAY - DAY // 2
"""From when on the value of NOW's day may have been known."""
VALUE = SharedValue(b"v" * 32, NOON)
BEFORE = SharedValue(b"b" * 32, NOON - DAY)
OLD = BEFORE.fixed - 1
EVERYTHING = Role.RELAY | Role.RDV | Role.EXIT | Role.TOR


def sign(message: bytes) -> bytes:
    return CRYPTO.ed25519_sign(SEED, message)


def identity_of(name: object) -> bytes:
    """32 bytes that look like a key: nothing here checks nodes' own signatures."""
    return sha256(repr(name).encode()).digest()


def node_of(name: object, roles: Role = EVERYTHING, *, version: int = 0, identity: bytes = b"") -> Descriptor:
    published = int(NOW) + version
    transports = (Transport(1, "ws://192.0.2.1:9000/"), Transport.tls("192.0.2.1:9001", b"f" * 20))
    return Descriptor(
        identity or identity_of(name), b"k" * 32, published, published + 3600, roles, transports, b"s" * 64
    )


class Made:
    """A facilitator's epochs with some nodes."""

    def __init__(self, count: int = 0, **more: Any) -> None:
        self.epochs = Epochs(FACILITATOR, sign)
        self.now = NOW
        for number in range(count):
            self.put(node_of(number, **more))

    def put(self, node: Descriptor, since: int = OLD) -> None:
        self.epochs.put(node, node.encode(), since)

    def sign(self, value: SharedValue = VALUE, before: SharedValue = BEFORE, committed: bytes | None = None) -> Any:
        """The header of the next epoch."""
        self.now += 600
        return self.epochs.sign(value, before, committed, self.now)

    def bucket(self, kind: int, index: int, *, epoch: int = 0, have: int = 0) -> Any:
        assert self.epochs.header is not None
        return self.epochs.answer(BucketRequest(epoch or self.epochs.header.epoch, kind, index, have))


def known(*buckets: Any) -> dict[bytes, Entry]:
    """What an asker has: the whole entries of buckets, by reference."""
    return {item.reference: item for bucket in buckets for item in bucket.items if isinstance(item, Entry)}
