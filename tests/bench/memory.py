"""Memory of a relay with 5,000 idle circuits: growth of its process, by circuit.

A real relay in a process of its own. Its neighbours on both sides are real links whose circuits keep nothing: the
origin forgets its keys once the circuit stands, and the next node answers every CREATE2 with 64 random bytes, which a
relay hands on unread. What grows is then the relay alone.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path

from convergence.crypto import ntor
from convergence.crypto.onion import KEY_MATERIAL_LEN, HopKeys
from convergence.link.link import Link
from convergence.wire.cells import Command
from convergence.wire.create import Create2, Created2, HandshakeType
from convergence.wire.linkspec import ed25519_specifier
from convergence.wire.relay import Extend2, RelayCommand, pack_message
from tests.bench.lab import CRYPTO, NOW, RNG, Figure, Lab, LabNode
from tests.bench.supervise import step

CIRCUITS = 5000
GROWING = 180.0  # seconds for all of them


def run(tiny: bool = False) -> list[Figure]:
    circuits = 20 if tiny else CIRCUITS
    figures = []
    for name, extended in (("last hop", False), ("middle hop", True)):
        step(f"{circuits:,} circuits, {name}", GROWING)
        if tiny:
            before, after = grow(circuits, extended)
        else:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                before, after = pool.apply(grow, (circuits, extended))
        figures += [
            Figure(
                f"{circuits:,} circuits, {name}", (after - before) / 1e6, "MB", note=f"process: {after / 1e6:.0f} MB"
            ),
            Figure(f"one circuit, {name}", (after - before) / circuits, "bytes"),
        ]
    return figures


def grow(circuits: int, extended: bool) -> tuple[int, int]:
    """Resident bytes of this process before and after."""
    lab = Lab()
    origin, relay, beyond = lab.node("origin", keys=False), lab.node("relay"), lab.node("beyond")
    beyond.neighbours._on_create = lambda link, circ_id, create, now: link.send_one(
        circ_id, Command.CREATED2, Created2(RNG.random(ntor.REPLY_LEN)).encode()
    )
    links: list[Link] = []
    origin.neighbours.reach(relay.identity, lambda link, now: links.append(link) if link else None, NOW)
    lab.settle()
    open_circuit(lab, origin, relay, beyond, links[0], 1, extended)  # what is made once is made now
    before = resident()
    for number in range(circuits):
        open_circuit(lab, origin, relay, beyond, links[0], 2 + number, extended)
    after = resident()
    if len(relay.circuits) != circuits + 1:
        raise AssertionError("a circuit is missing")
    return before, after


def open_circuit(
    lab: Lab, origin: LabNode, relay: LabNode, beyond: LabNode, link: Link, number: int, extended: bool
) -> None:
    circ_id = number | 0x80000000
    answer = _Answer()
    link.adopt(circ_id, answer)
    node = relay.descriptor
    state, onionskin = ntor.client_start(CRYPTO, RNG.random(32), node.target.node_id, node.ntor_key)
    link.send_one(circ_id, Command.CREATE2, Create2(HandshakeType.NTOR, onionskin).encode())
    lab.settle()
    if extended:
        material = ntor.client_finish(CRYPTO, state, Created2.parse(answer.payload).handshake_data, KEY_MATERIAL_LEN)
        forward = HopKeys.from_material(CRYPTO, material).forward
        skin = Extend2((ed25519_specifier(beyond.identity),), HandshakeType.NTOR, bytes(ntor.ONIONSKIN_LEN)).encode()
        link.send(
            circ_id, Command.RELAY_EARLY, forward.crypt(forward.seal(pack_message(RelayCommand.EXTEND2, 0, skin)))
        )
        lab.settle()
        if not answer.cells:
            raise AssertionError("no EXTENDED2 came back")
    del link.circuits[circ_id]


class _Answer:
    """The link's CircuitHandler at the origin."""

    payload = b""
    cells = 0

    def created(self, payload: bytes, fast: bool, now: float) -> None:
        self.payload = payload

    def relay(self, run: bytes, early: bool, now: float) -> None:
        self.cells += 1

    def create(self, payload: bytes, now: float) -> None: ...

    def destroyed(self, reason: int, now: float) -> None: ...

    def broken(self, error: Exception, now: float) -> None: ...

    def drained(self, now: float) -> None: ...


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
