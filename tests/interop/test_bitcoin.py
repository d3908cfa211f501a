"""Real Bitcoin nodes: an SPV node that follows a full node's chain, and transactions both ways.

What lies between the two is up to each test.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import closing
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

from tests.e2e.processes import PATIENCE
from tests.interop.bitcoin.nodes import STDIO, BitcoinNode, piped, running

BLOCKS = 200


class Relay(ThreadingTCPServer):
    """A TCP relay on loopback that can cut what passes through it."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), RelayHandler)
        self.far = ("127.0.0.1", port)
        self.passing: list[socket.socket] = []

    def cut(self) -> None:
        for near in self.passing:
            shut(near)
        self.passing.clear()


class RelayHandler(BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.far) as far:
            self.server.passing.append(self.request)
            back = Thread(target=pump, args=(far, self.request))
            back.start()
            pump(self.request, far)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        shut(end)


def shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the far side was quicker
        end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relayed(port: int) -> Iterator[Relay]:
    with Relay(port) as relay:
        Thread(target=relay.serve_forever, daemon=True).start()
        yield relay
        relay.cut()
        relay.shutdown()


def follow_and_pay(full: BitcoinNode, spv: BitcoinNode) -> None:
    """The SPV node gets the chain, a transaction and a new block of the full node, which gets a transaction of its."""
    tip, theirs, ours = full.ready, full.ready["address"], spv.ready["address"]
    assert tip["height"] == BLOCKS
    assert spv.until("block", lambda block: block["height"] == BLOCKS)["hash"] == tip["hash"]

    full.say(f"pay {ours} 70000")
    paid = full.until("tx")["txid"]
    assert spv.until("tx") == {"event": "tx", "txid": paid, "value": 70000}

    spv.say(f"pay {theirs} 30000")
    sent = spv.until("sent")["txid"]
    assert full.until("tx")["txid"] == sent != paid

    full.say("mine 1")
    mined = full.until("mined")
    assert spv.until("block") == mined | {"event": "block", "height": BLOCKS + 1}


def test_nodes_with_nothing_between_them_over_tcp() -> None:
    with closing(BitcoinNode("full", "127.0.0.1:0", BLOCKS)) as full, running(full.command):
        address = f"127.0.0.1:{full.ready['port']}"
        with closing(BitcoinNode("spv", address)) as spv, running(spv.command):
            follow_and_pay(full, spv)


def test_a_node_whose_connection_is_cut_makes_another_and_goes_on() -> None:
    with closing(BitcoinNode("full", "127.0.0.1:0", BLOCKS)) as full, running(full.command):
        with relayed(full.ready["port"]) as relay:
            with closing(BitcoinNode("spv", f"127.0.0.1:{relay.server_address[1]}")) as spv, running(spv.command):
                follow_and_pay(full, spv)
                relay.cut()
                spv.until("closed")
                full.say("mine 1")
                assert spv.until("block") == full.until("mined") | {"event": "block"}


def test_nodes_with_nothing_between_them_over_stdin_and_stdout() -> None:
    """bitcoin | bitcoin: the control of bitcoin | convergence | bitcoin."""
    with closing(BitcoinNode("full", STDIO, BLOCKS)) as full, closing(BitcoinNode("spv", STDIO)) as spv:
        with piped(spv.command, full.command) as (left, right):
            follow_and_pay(full, spv)
            full.close()
            assert right.wait(PATIENCE) == 0
            spv.until("closed")
            assert left.wait(PATIENCE) == 0
