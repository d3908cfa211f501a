"""Link cells: the fixed 514-byte ones and the variable ones (tor-spec, "Cell Packet format").

Does: encode cells; cut a byte pipe into cells for link protocols 4 and 5 (4-byte circuit ids); turn batches of fixed
cells into runs and back.
Does not: know what is inside a cell, or in which order cells may come.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import Cutter

CELL_LEN = 514
HEADER_LEN = 5
PAYLOAD_LEN = CELL_LEN - HEADER_LEN
MAX_VARIABLE = 16 * 1024
"""Longest payload of a variable cell that we accept. CERTS, the longest one in use, takes about 2 KiB on the Tor
network; the field itself would allow 65,535."""

Cell: TypeAlias = tuple[int, int, bytes]
"""Circuit id, command (any number; the caller judges unknown ones), payload with its padding."""

FIXED_HEADER = struct.Struct(">IB")
VARIABLE_HEADER = struct.Struct(">IBH")
VERSIONS_HEADER = struct.Struct(">HBH")
"""Until both sides agree on a version, the circuit id has two bytes."""


class Command(IntEnum):
    """Cell commands. CREATE, CREATED, CREATE_FAST and CREATED_FAST are named only to be refused."""

    PADDING = 0
    CREATE = 1
    CREATED = 2
    RELAY = 3
    DESTROY = 4
    CREATE_FAST = 5
    CREATED_FAST = 6
    VERSIONS = 7
    NETINFO = 8
    RELAY_EARLY = 9
    CREATE2 = 10
    CREATED2 = 11
    PADDING_NEGOTIATE = 12
    VPADDING = 128
    CERTS = 129
    AUTH_CHALLENGE = 130
    AUTHENTICATE = 131
    AUTHORIZE = 132


def is_variable(command: int) -> bool:
    """Whether cells of this command carry their own length (link protocol 3 and later)."""
    return command == Command.VERSIONS or command >= 128


def encode_cell(circ_id: int, command: int, payload: Buffer = b"") -> bytes:
    """One whole cell. A fixed cell is padded with zeros to 514 bytes; VERSIONS has a two-byte circuit id.

    Raises LocalError if the payload does not fit.
    """
    size = len(payload)
    if not is_variable(command):
        if size > PAYLOAD_LEN:
            raise LocalError(f"a fixed cell holds {PAYLOAD_LEN} bytes, not {size}")
        return FIXED_HEADER.pack(circ_id, command) + bytes(payload).ljust(PAYLOAD_LEN, b"\0")
    if size > MAX_VARIABLE:
        raise LocalError(f"a variable cell holds {MAX_VARIABLE} bytes, not {size}")
    header = VERSIONS_HEADER if command == Command.VERSIONS else VARIABLE_HEADER
    return header.pack(circ_id, command, size) + bytes(payload)


_CACHED_CUTTERS = 256  # a message holds at most 127 cells; longer runs are rare and their cutters are evicted


@lru_cache(_CACHED_CUTTERS)
def _cell_cutter(count: int) -> Callable[[Buffer], tuple[bytes, ...]]:
    return struct.Struct(f"{HEADER_LEN}x{PAYLOAD_LEN}s" * count).unpack


@lru_cache(_CACHED_CUTTERS)
def _header_cutter(count: int) -> Callable[[Buffer], tuple[bytes, ...]]:
    return struct.Struct(f"{HEADER_LEN}s{PAYLOAD_LEN}s" * count).unpack


@lru_cache(_CACHED_CUTTERS)
def _run_cutter(count: int) -> Callable[[Buffer], tuple[bytes, ...]]:
    return struct.Struct(f"{PAYLOAD_LEN}s" * count).unpack


def payloads(data: Buffer, count: int) -> bytes:
    """The run inside `data`: exactly `count` whole cells of 514 bytes, whose 5-byte headers are dropped."""
    return b"".join(_cell_cutter(count)(data))


def cut(data: Buffer, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Header and payload of each of exactly `count` whole cells."""
    fields = _header_cutter(count)(data)
    return zip(fields[::2], fields[1::2], strict=True)


def cells(header: bytes, run: bytes) -> bytes:
    """Whole cells from a run, each with the same 5-byte header (circuit id | command)."""
    return header.join((b"", *_run_cutter(len(run) // PAYLOAD_LEN)(run)))


def split(run: Buffer) -> tuple[bytes, ...]:
    """The payloads of a run, 509 bytes each."""
    return _run_cutter(len(run) // PAYLOAD_LEN)(run)


class CellCutter(Cutter[Cell]):
    """Cuts a link's bytes, which arrive in pieces of any size, into cells. For the handshake and variable cells.

    Until the first VERSIONS cell is cut, circuit ids have two bytes and only variable cells are accepted. After it,
    circuit ids have four bytes. Holds at most one incomplete cell of 7 + MAX_VARIABLE bytes. `encode_cell(*cell)`
    gives back exactly the bytes that were fed; the AUTHENTICATE hashes need them.

    Args:
        last: cutting stops after a cell with this command.
    """

    def __init__(self, last: Command | None = None) -> None:
        super().__init__()
        self._last = last
        self._versions_seen = False

    def _measure(self, buffer: bytearray, position: int) -> tuple[int, bool]:
        id_len = 4 if self._versions_seen else 2
        here = len(buffer) - position
        if here <= id_len:
            return id_len + 1, False
        command = buffer[position + id_len]
        if not is_variable(command):
            if not self._versions_seen:
                raise ParseError(f"cell command {command} came before VERSIONS")
            return CELL_LEN, True
        if self._versions_seen and command == Command.VERSIONS:
            raise ParseError("a second VERSIONS cell")
        if here < id_len + 3:
            return id_len + 3, False
        size = int.from_bytes(buffer[position + id_len + 1 : position + id_len + 3], "big")
        if size > MAX_VARIABLE:
            raise ParseError(f"variable cell of {size} bytes, the limit is {MAX_VARIABLE}")
        return id_len + 3 + size, True

    def _parse(self, frame: bytes) -> Cell:
        if not self._versions_seen:
            circ_id, command, _ = VERSIONS_HEADER.unpack_from(frame)
            self._versions_seen = command == Command.VERSIONS
            return circ_id, command, frame[VERSIONS_HEADER.size :]
        circ_id, command = FIXED_HEADER.unpack_from(frame)
        self._ended = command == self._last
        return circ_id, command, frame[VARIABLE_HEADER.size if is_variable(command) else HEADER_LEN :]
