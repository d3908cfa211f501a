"""RELAY_DB_INFO adverts and the .rdv targets that query them. Both are this network's own.

Does: parse and encode them.
Does not: blind a hash_name (rdv/blind.py); only blinded hashes are ever on this wire.
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
ADVERT_LEN = BLINDED_LEN + 1
MAX_ADVERTS = MAX_DATA // ADVERT_LEN
"""Adverts in one message: 15."""

_TARGET = re.compile(r"([0-9a-f]{64})\.rdv:0", re.ASCII)


class AdvertOp(IntEnum):
    """What to do with an advert."""

    ADD = 1
    REMOVE = 2


@dataclass(frozen=True, slots=True)
class Advert:
    """One blinded hash (32 bytes) that a provider offers or withdraws."""

    blinded: bytes
    op: AdvertOp

    def encode(self) -> bytes:
        if len(self.blinded) != BLINDED_LEN:
            raise LocalError("a blinded hash has 32 bytes")
        return self.blinded + bytes([self.op])


@dataclass(frozen=True, slots=True)
class DbInfo:
    """1 to 15 adverts, to be carried out in order."""

    adverts: tuple[Advert, ...]

    def encode(self) -> bytes:
        if not 1 <= len(self.adverts) <= MAX_ADVERTS:
            raise LocalError(f"DB_INFO holds 1 to {MAX_ADVERTS} adverts, not {len(self.adverts)}")
        return b"".join(advert.encode() for advert in self.adverts)

    @classmethod
    def parse(cls, data: Buffer) -> DbInfo:
        """Raises ParseError for no advert, an incomplete one, and values out of range."""
        if not 1 <= len(data) <= MAX_DATA:
            raise ParseError("DB_INFO of a wrong length")
        reader = Reader(data, "DB_INFO")
        adverts = []
        while reader.left:
            blinded, op = reader.take(BLINDED_LEN), reader.unsigned(1)
            if op not in (AdvertOp.ADD, AdvertOp.REMOVE):
                raise ParseError("DB_INFO holds a value out of range")
            adverts.append(Advert(blinded, AdvertOp(op)))
        return cls(tuple(adverts))


def format_rdv_target(blinded: bytes) -> str:
    """The BEGIN target that queries a blinded hash: "<64 hex>.rdv:0"."""
    return f"{blinded.hex()}{RDV_SUFFIX}:0"


def parse_rdv_target(target: str) -> bytes:
    """The blinded hash of a BEGIN target (lower case, as `Begin.target` gives it). Raises ParseError."""
    match = _TARGET.fullmatch(target)
    if match is None:
        raise ParseError("not a rendezvous target")
    return bytes.fromhex(match[1])
