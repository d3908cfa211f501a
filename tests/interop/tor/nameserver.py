"""A name server for the exits of a private Tor network, which ask those that a resolv.conf names.

Does: answer what it was told to (RFC 1035), in a thread of its own; keep what it was asked.
Does not: know a name of the internet, or speak TCP.
"""

from __future__ import annotations

import socket
import struct
import threading
from ipaddress import ip_address
from pathlib import Path

ADDRESS = "127.0.0.53"
_HEADER = struct.Struct(">HHHHHH")
_ANSWER, _NO_NAME = 0x8580, 0x8583  # flags: a response, authoritative, recursive; without or with NXDOMAIN
_TYPES = {1: "A", 12: "PTR", 28: "AAAA"}
_TTL = 60


class NameServer:
    """Runs until `close`. Needs port 53, so a network namespace of its own.

    Args:
        folder: where it writes `configuration`, a resolv.conf that names it.
        names: host -> its addresses. Each address is looked up for its name, too: that of the first host.
    """

    def __init__(self, folder: Path, names: dict[str, list[str]]) -> None:
        self.configuration = folder / "resolv.conf"
        self.configuration.write_text(f"nameserver {ADDRESS}\n")
        self.asked: list[str] = []
        self._records: dict[tuple[str, str], bytes] = {}
        for host, addresses in names.items():
            for address in map(ip_address, addresses):
                self._records[host, "A" if address.version == 4 else "AAAA"] = address.packed
                labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
                self._records.setdefault((address.reverse_pointer, "PTR"), labels + b"\0")
        self._hosts = {host for host, _ in self._records}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((ADDRESS, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.sendto(b"", (ADDRESS, 53))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            at, labels = _HEADER.size, []
            while size := query[at]:
                labels.append(query[at + 1 : at + 1 + size].decode())
                at += 1 + size
            question = query[_HEADER.size : at + 5]
            host = ".".join(labels).lower()
            self.asked.append(host)
            kind = int.from_bytes(question[-4:-2], "big")
            data = self._records.get((host, _TYPES.get(kind, "")))
            flags = _ANSWER if host in self._hosts else _NO_NAME
            answer = _HEADER.pack(int.from_bytes(query[:2], "big"), flags, 1, int(data is not None), 0, 0) + question
            if data is not None:
                answer += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, _TTL, len(data)) + data
            self._socket.sendto(answer, client)
