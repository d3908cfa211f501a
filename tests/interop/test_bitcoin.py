"""Real Bitcoin nodes: an SPV node that follows a full node's chain, and transactions both ways.

What lies between the two is up to each test.
"""

from __future__ import annotations

from contextlib import closing

from tests.e2e.processes import PATIENCE
from tests.interop.bitcoin.nodes import STDIO, BitcoinNode, piped, running

BLOCKS = 200


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


def test_nodes_with_nothing_between_them_over_stdin_and_stdout() -> None:
    """bitcoin | bitcoin: the control of bitcoin | convergence | bitcoin."""
    with closing(BitcoinNode("full", STDIO, BLOCKS)) as full, closing(BitcoinNode("spv", STDIO)) as spv:
        with piped(spv.command, full.command) as (left, right):
            follow_and_pay(full, spv)
            full.close()
            assert right.wait(PATIENCE) == 0
            spv.until("closed")
            assert left.wait(PATIENCE) == 0
