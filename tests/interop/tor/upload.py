"""An upload through a SOCKS5 proxy to a server that does not read until nothing more finds room."""

from __future__ import annotations

import select
import socket
import threading

from tests.e2e.processes import PATIENCE
from tests.interop.website import LARGE

UPLOAD = LARGE * 6
STUCK = 2.0
"""Seconds without room for more, after which all on the way is full."""


def upload_to_a_server_that_waits(proxy: int) -> int:
    """How many bytes of UPLOAD came, in order. `proxy`: its port on loopback."""
    stuck, heard = threading.Event(), 0
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(("127.0.0.1", proxy)) as user:
        user.sendall(b"\5\1\0" + b"\5\1\0\1\x7f\0\0\1" + server.getsockname()[1].to_bytes(2, "big"))
        server.settimeout(PATIENCE)
        serving = server.accept()[0]

        def send() -> None:
            left = memoryview(UPLOAD)
            while left:
                if not select.select([], [user], [], STUCK)[1]:
                    stuck.set()
                left = left[user.send(left[: 1 << 16]) :]
            stuck.set()
            user.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        stuck.wait(PATIENCE)
        with serving:
            while part := serving.recv(1 << 20):
                assert UPLOAD[heard : heard + len(part)] == part
                heard += len(part)
        sender.join()
    return heard
