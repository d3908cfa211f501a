"""RELAY_DB_INFO adverts and the .rdv targets that query them. Both are this network's own.

Does: parse and encode them.
Does not: blind a hash_name or a key, or check proofs (rdv/blind.py); only blinded names are ever on this wire.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Reader
from convergence.wire.relay import MAX_DATA, RDV_SUFFIX

BLINDED_LEN = 32
SIGNATURE_LEN = 64
MAX_ADVERTS = MAX_DATA // (BLINDED_LEN + 1)
"""Adverts in one message: 15 without proofs. 4 with."""

_TARGET = re.compile(r"([0-9a-f]{64})(\.owner)?\.rdv:0", re.ASCII)


class AdvertOp(IntEnum):
    """What to do with an advert."""

    ADD = 1
    REMOVE = 2
    ADD_OWNED = 3  # with a proof
    REMOVE_OWNED = 4


@dataclass(frozen=True, slots=True)
class Name:
    """What something is called at one point on one day.

    Args:
        blinded: 32 bytes.
        owned: whether these are a blinded key: only its owner can advertise it.
    """

    blinded: bytes
    owned: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """That the owner of a blinded key advertises it.

    Args:
        day: of the key, Unix days.
        signature: with the key, 64 bytes.
    """

    day: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Advert:
    """One name that a provider offers or withdraws. ADD_OWNED has a proof, the others have none."""

    blinded: bytes
    op: AdvertOp
    proof: Proof | None = None

    @property
    def name(self) -> Name:
        return Name(self.blinded, self.op >= AdvertOp.ADD_OWNED)

    @property
    def adds(self) -> bool:
        return self.op in (AdvertOp.ADD, AdvertOp.ADD_OWNED)

    @classmethod
    def add(cls, name: Name, proof: Proof | None = None) -> Advert:
        """`proof`: of an owned name."""
        return cls(name.blinded, AdvertOp.ADD_OWNED if name.owned else AdvertOp.ADD, proof)

    @classmethod
    def remove(cls, name: Name) -> Advert:
        return cls(name.blinded, AdvertOp.REMOVE_OWNED if name.owned else AdvertOp.REMOVE)

    def encode(self) -> bytes:
        if len(self.blinded) != BLINDED_LEN or (self.proof is None) != (self.op != AdvertOp.ADD_OWNED):
            raise LocalError("not a whole advert")
        proof = b"" if self.proof is None else self.proof.day.to_bytes(4, "big") + self.proof.signature
        return self.blinded + bytes([self.op]) + proof

    @classmethod
    def read(cls, reader: Reader) -> Advert:
        blinded, op = reader.take(BLINDED_LEN), reader.unsigned(1)
        if not AdvertOp.ADD <= op <= AdvertOp.REMOVE_OWNED:
            raise ParseError("DB_INFO holds a value out of range")
        proof = Proof(reader.unsigned(4), reader.take(SIGNATURE_LEN)) if op == AdvertOp.ADD_OWNED else None
        return cls(blinded, AdvertOp(op), proof)


@dataclass(frozen=True, slots=True)
class DbInfo:
    """Adverts, to be carried out in order: 1 to as many as fit a message."""

    adverts: tuple[Advert, ...]

    def encode(self) -> bytes:
        data = b"".join(advert.encode() for advert in self.adverts)
        if not 1 <= len(data) <= MAX_DATA:
            raise LocalError(f"{len(self.adverts)} adverts are no DB_INFO")
        return data

    @classmethod
    def parse(cls, data: Buffer) -> DbInfo:
        """Raises ParseError for no advert, an incomplete one, and values out of range."""
        if not 1 <= len(data) <= MAX_DATA:
            raise ParseError("DB_INFO of a wrong length")
        reader = Reader(data, "DB_INFO")
        adverts = []
        while reader.left:
            adverts.append(Advert.read(reader))
        return cls(tuple(adverts))


def format_rdv_target(name: Name) -> str:
    """The BEGIN target that queries a name: "<64 hex>.rdv:0", or "<64 hex>.owner.rdv:0"."""
    return f"{name.blinded.hex()}{'.owner' if name.owned else ''}{RDV_SUFFIX}:0"


def parse_rdv_target(target: str) -> Name:
    """The name in a BEGIN target (lower case, as `Begin.target` gives it). Raises ParseError."""
    match = _TARGET.fullmatch(target)
    if match is None:
        raise ParseError("not a rendezvous target")
    return Name(bytes.fromhex(match[1]), match[2] is not None)
