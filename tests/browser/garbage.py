"""What strangers send to a listening port: nothing that makes sense, in several ways.

Does: open connections that send garbage, too much, or nothing, and keep them open; read what a process keeps in memory.
Does not: judge the answers: a server may close or ignore such connections as it likes.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from pathlib import Path
from random import Random

PATIENCE = 5.0
FRAME = 65536  # bytes of payload in one WebSocket message
PUSHED = 8 << 20  # bytes after the announcement of a huge frame, if the server lets us
HALF_OPEN = 50  # connections of each kind at one port

CLIENT_HELLO = bytes.fromhex(  # TLS 1.2 record of a ClientHello with one cipher suite
    "160301002f0100002b0303" + "42" * 32 + "00" + "0002" + "1301" + "01" + "00"
)


def upgrade(path: str) -> bytes:
    """A WebSocket handshake that a server accepts."""
    key = base64.b64encode(bytes(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(payload: bytes, opcode: int = 2) -> bytes:
    """One masked message, with a mask of zeros."""
    return bytes([0x80 | opcode, 0x80 | 127]) + len(payload).to_bytes(8, "big") + bytes(4) + payload


def send(port: int, *parts: bytes) -> socket.socket:
    """A connection that has sent these parts, or as many of them as the server took."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with contextlib.suppress(OSError):
        for part in parts:
            connection.sendall(part)
    return connection


def torment(port: int, path: str, seed: int) -> list[socket.socket]:
    """All of it at one port. The connections are still open."""
    random = Random(seed)
    noise = random.randbytes(FRAME)
    huge = bytes([0x82, 0xFF]) + ((1 << 63) - 1).to_bytes(8, "big") + bytes(4)
    tall_cell = bytes(4) + bytes([7]) + b"\xff\xff"  # VERSIONS that says to be 65,535 bytes long
    open_ones = [
        send(port, noise),
        send(port, CLIENT_HELLO),
        send(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        send(port, b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        send(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"x" * PUSHED),
        send(port, upgrade(path), huge, *([noise] * (PUSHED // FRAME))),
        send(port, upgrade(path), *([frame(noise)] * 32)),
        send(port, upgrade(path), frame(bytes(514) * 127)),
        send(port, upgrade(path), frame(tall_cell), *([frame(bytes(FRAME))] * 32)),
        send(port, upgrade(path), frame("\u202e".encode() * 1000, opcode=1)),
        send(port, upgrade(path), frame(noise[:200], opcode=9)),
        send(port, upgrade(path), *(frame(bytes([number])) for number in range(256))),
    ]
    for _ in range(HALF_OPEN):
        open_ones += [send(port), send(port, b"GET / HTT"), send(port, upgrade(path))]
    return open_ones


def resident(pid: int) -> int:
    """Bytes of memory that a process has resident."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
