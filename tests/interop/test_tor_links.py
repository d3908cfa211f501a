"""Our TLS links and C Tor's: each side calls the other, and either may be a relay or a client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convergence.crypto import ntor
from convergence.crypto.onion import KEY_MATERIAL_LEN
from convergence.link.link import Link
from convergence.wire.cells import CELL_LEN
from convergence.wire.create import Create2, HandshakeType
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, ed25519_specifier
from convergence.wire.relay import Extend2
from tests.interop.programs import Server, free_port
from tests.interop.torlinks import CRYPTO, RNG, Circuit, Links, RelayKeys, complaints, links, running_tor

SKEW = 60.0
"""Seconds by which clocks on one machine never differ, however busy it is."""


class Relay:
    """A `tor` that relays, for whoever finds it."""

    def __init__(self, server: Server, port: int, folder: Path) -> None:
        self.server = server
        self.port = port
        self.keys = RelayKeys(folder)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder, port = tmp_path_factory.mktemp("tor") / "relay", free_port()
    options = ("AssumeReachable 1", "PublishServerDescriptor 0", "SocksPort 0", "ExitRelay 0", "Address 127.0.0.1")
    with running_tor(folder, f"ORPort 127.0.0.1:{port}", *options) as server:
        yield Relay(server, port, folder)


async def linked(machine: Links, port: int) -> Link:
    machine.dial(port)
    await machine.until(lambda: machine.opened or machine.closed)
    assert machine.opened, machine.closed
    return machine.opened[0]


def expecting(relay: Relay) -> dict[str, Any]:
    return {"expected": relay.keys.identity, "expected_rsa": relay.keys.fingerprint}


async def first_hop(machine: Links, link: Link, keys: RelayKeys) -> tuple[Circuit, bytes]:
    """A circuit to a relay, and the keys that both have then."""
    state, onionskin = ntor.client_start(CRYPTO, RNG.random(32), keys.fingerprint, keys.ntor)
    circuit = Circuit(machine, link)
    circuit.begin(Create2(HandshakeType.NTOR, onionskin))
    return circuit, ntor.client_finish(CRYPTO, state, await circuit.answer(1), KEY_MATERIAL_LEN)


@pytest.mark.parametrize("rsa", [True, False], ids=["relay", "client"])
def test_tor_takes_our_link_and_answers_create2_on_it(relay: Relay, rsa: bool) -> None:
    async def test() -> None:
        async with links(rsa=rsa, **expecting(relay)) as machine:
            link = await linked(machine, relay.port)
            shaken = link.handshake
            assert shaken.authenticated and shaken.version == 5 and shaken.anonymous != rsa
            assert (shaken.peer, shaken.peer_rsa) == (relay.keys.identity, relay.keys.fingerprint)
            assert shaken.netinfo is not None and shaken.netinfo.other_address == "127.0.0.1"
            assert shaken.skew is not None and abs(shaken.skew) < SKEW
            await first_hop(machine, link, relay.keys)
            assert link.open
            if rsa:
                name = machine.fingerprint.hex().upper()
                await asyncio.to_thread(relay.server.until, "Got good NETINFO cell on OR connection (open)")
                assert any(f"RSA_ID={name}" in line for line in relay.server.log)

    asyncio.run(test())
    assert complaints(relay.server) == []


@pytest.mark.parametrize("wrong", ["expected", "expected_rsa"])
def test_another_relay_than_the_one_dialled_is_refused(relay: Relay, wrong: str) -> None:
    async def test() -> None:
        expected = expecting(relay)
        expected[wrong] = bytes(len(expected[wrong]))
        async with links(**expected) as machine:
            machine.dial(relay.port)
            await machine.until(lambda: machine.closed)
            assert machine.closed == ["the node that answered is another than the one dialled"]
            assert not machine.opened

    asyncio.run(test())


def test_tor_proves_itself_when_it_extends_a_circuit_to_us(relay: Relay) -> None:
    async def test() -> None:
        async with links(**expecting(relay)) as client, links() as ours:
            port = await ours.transport.listen("127.0.0.1", 0)
            link = await linked(client, relay.port)
            circuit, material = await first_hop(client, link, relay.keys)
            state, onionskin = ntor.client_start(CRYPTO, RNG.random(32), ours.fingerprint, ours.keys.ntor_public)
            specifiers = (
                LinkSpecifier(SpecifierType.TLS_IPV4, socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big")),
                LinkSpecifier(SpecifierType.LEGACY_ID, ours.fingerprint),
                ed25519_specifier(ours.keys.identity),
            )
            circuit.extend(material, Extend2(specifiers, HandshakeType.NTOR, onionskin))
            ntor.client_finish(CRYPTO, state, await circuit.answer(2), KEY_MATERIAL_LEN)
            [caller] = ours.opened
            shaken = caller.handshake
            assert shaken.authenticated and not caller.initiator
            assert (shaken.peer, shaken.peer_rsa) == (relay.keys.identity, relay.keys.fingerprint)
            assert len(ours.created) == 1

    asyncio.run(test())
    assert complaints(relay.server) == []


@pytest.mark.parametrize(
    ("wish", "padded"),
    [("ConnectionPadding 1", True), ("ConnectionPadding 0", False), ("ReducedConnectionPadding 1", False)],
)
def test_a_tor_client_takes_us_for_its_bridge(tmp_path: Path, wish: str, padded: bool) -> None:
    """And says how we are to pad the link."""

    async def test() -> None:
        async with links() as ours:
            port = await ours.transport.listen("127.0.0.1", 0)
            bridge = f"Bridge 127.0.0.1:{port} {ours.fingerprint.hex()}"
            folder = tmp_path / "client"
            with running_tor(folder, "UseBridges 1", bridge, "SocksPort auto", wish) as client:
                await ours.until(lambda: ours.opened)
                shaken = ours.opened[0].handshake
                assert shaken.peer is None and not shaken.authenticated and shaken.version == 5
                name = ours.fingerprint.hex().upper()
                await asyncio.to_thread(client.until, "Got good NETINFO cell on OR connection (open)")
                assert any(f"RSA_ID={name}" in line for line in client.log)
                padding = ours.opened[0]._padding
                await ours.until(lambda: padding is not None and padding.pads == padded)
                if padded:
                    sent = ours.opened[0].bytes_out
                    await ours.until(lambda: ours.opened[0].bytes_out >= sent + CELL_LEN)
                assert ours.opened[0].open and complaints(client) == []

    asyncio.run(test())
