"""What a neighbour may do to our relay of the Tor network over TLS: each ends only what it came from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from convergence.crypto import ntor
from convergence.crypto.onion import KEY_MATERIAL_LEN, HopKeys
from convergence.errors import DestroyReason
from convergence.link.link import MAX_CREATES, Link
from convergence.link.onionskins import ASKED_BURST
from convergence.wire.cells import Command, encode_cell
from convergence.wire.create import Create2, HandshakeType
from convergence.wire.relay import RelayCommand, pack_message
from pynode.config import Address, Limits, Tor
from pynode.torrelay import TorRelayApp
from tests.interop.test_tor_links import linked
from tests.interop.torlinks import CRYPTO, NOBODY, RNG, Circuit, Links, links

PROTOCOL = f"DESTROY {int(DestroyReason.PROTOCOL)}"


class Scene:
    """Our relay, and a stranger's link to it."""

    def __init__(self, app: TorRelayApp, stranger: Links, link: Link) -> None:
        self.app = app
        self.stranger = stranger
        self.link = link
        keys = app.relay.relaying.keys
        self._node = keys.onion.node_id, keys.ntor_public

    def send(self, *cells: bytes) -> None:
        self.stranger.driver.run(lambda now: self.link._send_now([b"".join(cells)]))

    def onionskin(self) -> tuple[ntor.ClientState, Create2]:
        state, onionskin = ntor.client_start(CRYPTO, RNG.random(32), *self._node)
        return state, Create2(HandshakeType.NTOR, onionskin)

    async def circuit(self) -> tuple[Circuit, HopKeys]:
        state, create = self.onionskin()
        circuit = Circuit(self.stranger, self.link)
        circuit.begin(create)
        material = ntor.client_finish(CRYPTO, state, await circuit.answer(1), KEY_MATERIAL_LEN)
        circuit._keys = HopKeys.from_material(CRYPTO, material)
        return circuit, circuit._keys

    async def ended(self, circuit: Circuit) -> str:
        await self.stranger.until(lambda: circuit.ended)
        assert circuit.ended is not None
        return circuit.ended


Run = Callable[[Callable[[Scene], Awaitable[None]]], None]
"""Runs a test, after which the stranger's link has to be open."""


def relay_cell(
    circuit: Circuit, keys: HopKeys, command: int = Command.RELAY, message: int = RelayCommand.DROP
) -> bytes:
    return encode_cell(circuit._id, command, keys.forward.crypt(keys.forward.seal(pack_message(message, 0, b""))))


@contextlib.asynccontextmanager
async def relaying(folder: Path) -> AsyncIterator[TorRelayApp]:
    network = folder / "network.txt"
    network.write_text(f"DirAuthority {NOBODY}\n")
    app = TorRelayApp(folder / "data", Address("127.0.0.1", 0), Tor(network=network, private=True), Limits())
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def runner(test: Callable[[Scene], Awaitable[None]]) -> None:
        async def scene() -> None:
            async with relaying(tmp_path) as app, links(rsa=False) as stranger:
                link = await linked(stranger, app.port)
                await test(Scene(app, stranger, link))
                assert link.open, "the link outlives it"

        asyncio.run(scene())

    return runner


def test_cells_of_circuits_that_are_not_there_are_dropped(run: Run) -> None:
    async def test(scene: Scene) -> None:
        commands = (Command.RELAY, Command.RELAY_EARLY, Command.DESTROY, Command.CREATED2, Command.PADDING)
        for number in range(1000):
            scene.send(*(encode_cell(0x80000000 | number + 1, command, RNG.random(400)) for command in commands))
        await scene.circuit()
        assert len(scene.app.relay.relaying.circuits) == 1

    run(test)


@pytest.mark.parametrize("what", ["replayed", "altered", "early", "not offered"])
def test_a_bad_cell_ends_its_circuit_and_no_other(run: Run, what: str) -> None:
    async def test(scene: Scene) -> None:
        circuit, keys = await scene.circuit()
        other, others = await scene.circuit()
        cell = relay_cell(circuit, keys)
        if what == "replayed":
            scene.send(cell, cell)
        elif what == "altered":
            scene.send(cell[:-1] + bytes([cell[-1] ^ 1]))
        elif what == "early":
            scene.send(*(relay_cell(circuit, keys, Command.RELAY_EARLY) for _ in range(9)))
        else:
            scene.send(relay_cell(circuit, keys, message=RelayCommand.EXTEND2))
        assert await scene.ended(circuit) == PROTOCOL
        scene.send(relay_cell(other, others), relay_cell(other, others, message=RelayCommand.TRUNCATE))
        assert await scene.ended(other) == f"relay command {int(RelayCommand.TRUNCATED)}", "it is served as before"

    run(test)


def test_an_onionskin_of_another_key_or_a_circuit_made_twice_ends_that_circuit(
    run: Run,
) -> None:
    async def test(scene: Scene) -> None:
        wrong = Circuit(scene.stranger, scene.link)
        node = scene.app.relay.relaying.keys.onion.node_id
        wrong.begin(Create2(HandshakeType.NTOR, ntor.client_start(CRYPTO, RNG.random(32), node, RNG.random(32))[1]))
        assert (await scene.ended(wrong)).startswith("DESTROY")
        circuit, _ = await scene.circuit()
        scene.send(encode_cell(circuit._id, Command.CREATE2, scene.onionskin()[1].encode()))
        assert await scene.ended(circuit) == PROTOCOL

    run(test)


def test_a_flood_of_circuits_is_answered_in_part_and_holds_up_no_other_neighbour(
    run: Run,
) -> None:
    async def test(scene: Scene) -> None:
        _, create = scene.onionskin()
        flood = [Circuit(scene.stranger, scene.link) for _ in range(4 * ASKED_BURST)]
        for circuit in flood:
            circuit.begin(create)  # the same one again and again: each is answered by a key of its own
        async with links(rsa=False) as client:
            honest = Scene(scene.app, client, await linked(client, scene.app.port))
            await honest.circuit()
        await scene.stranger.until(lambda: all(circuit.answers or circuit.ended for circuit in flood))
        answered = [circuit for circuit in flood if circuit.answers]
        assert MAX_CREATES <= len(answered) < len(flood)
        assert len({circuit.answers[0] for circuit in answered}) == len(answered)
        refused = {circuit.ended for circuit in flood if circuit.ended}
        assert refused == {f"DESTROY {int(DestroyReason.RESOURCELIMIT)}"}

    run(test)


@pytest.mark.parametrize("command", [Command.VERSIONS, Command.CERTS, Command.AUTHENTICATE, Command.NETINFO])
def test_a_cell_of_the_handshake_on_an_open_link_ends_that_link(tmp_path: Path, command: Command) -> None:
    async def test() -> None:
        async with relaying(tmp_path) as app, links(rsa=False) as stranger, links(rsa=False) as other:
            link, second = await linked(stranger, app.port), await linked(other, app.port)
            stranger.driver.run(lambda now: link._send_now([encode_cell(0, command, bytes(10))]))
            await stranger.until(lambda: stranger.closed)
            await Scene(app, other, second).circuit()

    asyncio.run(test())
