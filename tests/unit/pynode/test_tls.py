"""TLS channels over real sockets on the loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

from convergence.effects import Protocol
from convergence.ports import TlsBinding
from pynode.transports import HIGH_WATER
from pynode.transports import tls as module
from pynode.transports.slices import READ_SLICE
from pynode.transports.tls import OFFERED, TlsTransport
from tests.unit.pynode.toy import Toy, attach

MESSAGE = bytes(range(256)) * 254 + bytes(254)
"""65,278 bytes: 127 cells."""


class Machine(Toy):
    """Keeps the bindings, too."""

    def __init__(self) -> None:
        super().__init__()
        self.bindings: dict[int, TlsBinding] = {}

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Any) -> None:
        self.bindings[channel] = binding
        super().link_opened(channel, now, protocol=protocol, binding=binding)


def machine(transport: TlsTransport) -> Machine:
    toy = Machine()
    toy.driver = attach(transport).driver
    toy.driver.machine = toy
    return toy


async def listening(**options: Any) -> SimpleNamespace:
    transport = TlsTransport(**options)
    toy = machine(transport)
    port = await transport.listen("127.0.0.1", 0)
    return SimpleNamespace(transport=transport, toy=toy, port=port, address=f"127.0.0.1:{port}")


async def pair(**options: Any) -> SimpleNamespace:
    server = await listening(**options)
    transport = TlsTransport()
    client = machine(transport)
    client.connect(1, server.address, Protocol.TLS)
    await client.first("opened")
    await server.toy.first("opened")
    return SimpleNamespace(client=client, server=server.toy, transport=transport, listener=server.transport)


async def end(*transports: TlsTransport) -> None:
    for transport in transports:
        await transport.shutdown(0.2)
        assert transport.connections == 0


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def runner(test: Callable[[], Awaitable[None]]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(test())  # type: ignore[arg-type]

    return runner


def test_bytes_go_both_ways_in_order(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        data = os.urandom(3_000_000)
        both.client.send(1, *[data[at : at + len(MESSAGE)] for at in range(0, len(data), len(MESSAGE))])
        await both.server.until(lambda: len(both.server.received.get(2, b"")) >= len(data))
        both.server.send(2, data[:1000], data[1000:5000])
        await both.client.until(lambda: len(both.client.received.get(1, b"")) >= 5000)
        assert both.server.received[2] == data and both.client.received[1] == data[:5000]
        await end(both.transport, both.listener)

    run(test)


def test_both_ends_see_one_binding(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        ours, theirs = both.client.bindings[1], both.server.bindings[2]
        assert ours.certificate == theirs.certificate and ours.digest == sha256(ours.certificate).digest()
        secrets = [binding.secrets(context) for binding in (ours, theirs) for context in (b"one", b"two")]
        assert secrets[:2] == secrets[2:] and len(set(secrets)) == 2 and len(secrets[0]) == 32
        assert ours.remote == theirs.remote == "127.0.0.1"
        await end(both.transport, both.listener)

    run(test)


def test_each_connection_has_its_own_secrets(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.client.connect(3, f"127.0.0.1:{both.listener._listeners[0].sockets[0].getsockname()[1]}", Protocol.TLS)
        await both.client.until(lambda: 3 in both.client.bindings)
        first, second = both.client.bindings[1], both.client.bindings[3]
        assert first.certificate == second.certificate and first.secrets(b"x") != second.secrets(b"x")
        await end(both.transport, both.listener)

    run(test)


def test_tls_1_3_with_post_quantum_key_agreement(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        tls = both.transport._open[1]._tls
        assert tls.get_protocol_version_name() == "TLSv1.3"
        assert tls.get_group_name() == "X25519MLKEM768"
        await end(both.transport, both.listener)

    run(test)


def test_tls_1_2_still_works_and_older_ones_do_not(run: Any) -> None:
    async def test() -> None:
        server = await listening()
        for version, works in ((SSL.TLS1_2_VERSION, True), (SSL.TLS1_1_VERSION, False)):
            client = TlsTransport()
            toy = machine(client)
            context = module._context(OFFERED)
            context.set_min_proto_version(SSL.TLS1_VERSION)
            context.set_max_proto_version(version)
            client._client = context
            toy.connect(1, server.address, Protocol.TLS)
            if works:
                await toy.first("opened")
                await server.toy.first("opened")
                assert toy.bindings[1].secrets(b"x") == server.toy.bindings[2].secrets(b"x")
            else:
                assert (await toy.first("closed"))[2] == "TLS failed"
            await end(client)
        await end(server.transport)

    run(test)


def test_an_end_is_told_to_the_peer_behind_what_was_sent(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.client.send(1, MESSAGE, b"last")
        both.client.close(1)
        assert (await both.server.first("closed"))[1:] == (2, "closed by the peer")
        assert both.server.received[2] == MESSAGE + b"last"
        assert both.client.of("closed") == []
        await end(both.transport, both.listener)

    run(test)


def test_a_connection_that_breaks_is_told(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.transport._open[1].cut()
        await both.server.first("closed")
        assert (await both.client.first("closed"))[1] == 1
        await end(both.transport, both.listener)

    run(test)


def test_a_reader_that_stops_congests_the_writer_until_it_goes_on(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.server.pause(2, True)
        sent = 0
        while not both.client.of("congested"):
            both.client.send(1, *[MESSAGE] * 16)
            sent += 16 * len(MESSAGE)
            await asyncio.sleep(0)
            assert sent < 100 * HIGH_WATER
        assert both.client.of("congested")[0][2]
        both.server.pause(2, False)
        await both.client.until(lambda: both.client.of("congested")[-1][2] is False)
        await both.server.until(lambda: len(both.server.received.get(2, b"")) >= sent)
        await end(both.transport, both.listener)

    run(test)


def test_what_was_read_comes_as_one_batch(run: Any) -> None:
    """A relay's cost is its wake-ups: records that arrived together are handed over together."""

    async def test() -> None:
        both = await pair()
        both.server.pause(2, True)
        both.client.send(1, MESSAGE)
        while both.transport._open[1].unsent:  # it is all with the kernel of both then
            await asyncio.sleep(0)
        both.server.pause(2, False)
        await both.server.until(lambda: len(both.server.received.get(2, b"")) >= len(MESSAGE))
        assert len(both.server.messages) <= 2
        await end(both.transport, both.listener)

    run(test)


def test_connections_that_send_much_take_turns(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.client.connect(3, f"127.0.0.1:{both.listener._listeners[0].sockets[0].getsockname()[1]}", Protocol.TLS)
        await both.server.until(lambda: len(both.server.of("opened")) == 2)
        for channel in (2, 4):
            both.server.pause(channel, True)
        for channel in (1, 3):
            both.client.send(channel, *[MESSAGE] * 64)
        for channel in (2, 4):
            both.server.pause(channel, False)
        received = both.server.received
        await both.server.until(lambda: min(len(received.get(channel, b"")) for channel in (2, 4)) == 64 * len(MESSAGE))
        order = [channel for _, channel in both.server.of("data")]
        assert sum(before != after for before, after in zip(order, order[1:], strict=False)) >= 3, order
        assert max(map(len, both.server.messages)) <= READ_SLICE
        await end(both.transport, both.listener)

    run(test)


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1", "127.0.0.1:99999", "ws://127.0.0.1:1/"])
def test_what_is_no_address_is_refused(address: str) -> None:
    async def test() -> None:
        transport = TlsTransport()
        toy = machine(transport)
        toy.connect(1, address, Protocol.TLS)
        assert "target" in (await toy.first("closed"))[2]
        await end(transport)

    asyncio.run(test())


def test_nobody_there(run: Any) -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            transport = TlsTransport()
            toy = machine(transport)
            toy.connect(1, f"127.0.0.1:{taken.getsockname()[1]}", Protocol.TLS)
            assert await toy.first("closed") == ("closed", 1, "connection refused")
        await end(transport)

    run(test)


def test_private_addresses_are_refused_on_the_public_network() -> None:
    async def test() -> None:
        server = await listening()
        transport = TlsTransport(public_only=True)
        toy = machine(transport)
        toy.connect(1, server.address, Protocol.TLS)
        assert await toy.first("closed") == ("closed", 1, "not an address on the internet")
        await end(transport, server.transport)

    asyncio.run(test())


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300), b""])
def test_a_caller_that_speaks_no_tls_is_cut_off(run: Any, said: bytes) -> None:
    async def test() -> None:
        server = await listening()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(said)
        if not said:
            writer.write_eof()
        with_tail = await asyncio.wait_for(reader.read(), 10)
        assert len(with_tail) < 100  # an alert at most
        writer.close()
        assert server.toy.log == []
        await end(server.transport)

    run(test)


def test_a_server_that_speaks_no_tls_is_told() -> None:
    async def test() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-nothing\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        transport = TlsTransport()
        toy = machine(transport)
        toy.connect(1, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", Protocol.TLS)
        assert (await toy.first("closed"))[1:] == (1, "TLS failed")
        await end(transport)
        server.close()

    asyncio.run(test())


def test_a_silent_peer_is_cut_off(run: Any) -> None:
    async def test() -> None:
        server = await listening(handshake_timeout=0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        silent = socket.create_server(("127.0.0.1", 0))
        transport = TlsTransport(handshake_timeout=0.05)
        toy = machine(transport)
        toy.connect(1, f"127.0.0.1:{silent.getsockname()[1]}", Protocol.TLS)
        assert await toy.first("closed") == ("closed", 1, "timed out")
        silent.close()
        await end(transport, server.transport)

    run(test)


def test_a_dial_that_is_no_longer_wanted_is_given_up(run: Any) -> None:
    async def test() -> None:
        silent = socket.create_server(("127.0.0.1", 0))
        transport = TlsTransport()
        toy = machine(transport)
        toy.connect(1, f"127.0.0.1:{silent.getsockname()[1]}", Protocol.TLS)
        while not transport.connections:
            await asyncio.sleep(0)
        toy.close(1)
        while transport.connections:
            await asyncio.sleep(0)
        assert toy.log == [] and 1 not in transport
        silent.close()
        await end(transport)

    run(test)


def test_no_more_connections_than_allowed(run: Any) -> None:
    async def test() -> None:
        both = await pair(max_connections=1)
        both.client.connect(3, f"127.0.0.1:{both.listener._listeners[0].sockets[0].getsockname()[1]}", Protocol.TLS)
        assert (await both.client.first("closed"))[1] == 3
        both.client.send(1, b"still")
        await both.server.until(lambda: both.server.received.get(2) == b"still")
        await end(both.transport, both.listener)

    run(test)


def test_a_tampered_record_ends_the_connection(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        connection = both.transport._open[1]
        connection.transport.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await both.server.first("closed") == ("closed", 2, "TLS failed")
        await end(both.transport, both.listener)

    run(test)


def test_a_peer_that_reads_nothing_is_ended_when_too_much_waits(run: Any) -> None:
    async def test() -> None:
        both = await pair()
        both.server.pause(2, True)
        while not both.client.of("closed"):
            both.client.send(1, *[MESSAGE] * 16)
            await asyncio.sleep(0)
        assert both.client.of("closed") == [("closed", 1, "too much waits to be sent")]
        await end(both.transport, both.listener)

    run(test)


class NewKeys:
    """A peer that asks for new keys of TLS 1.3 whenever it likes (RFC 8446 4.6.3), and reads nothing."""

    def __init__(self) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        context.set_keylog_callback(self._learned)
        self._secret = b""
        self._records = 0  # under this secret
        self._tls = SSL.Connection(context, None)
        self._tls.set_connect_state()
        self._socket = socket.socket()

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        await loop.sock_connect(self._socket, ("127.0.0.1", port))
        done = False
        while not done:
            with suppress(SSL.WantReadError):
                self._tls.do_handshake()
                done = True
            with suppress(SSL.WantReadError):
                await loop.sock_sendall(self._socket, self._tls.bio_read(1 << 16))
            if not done:
                self._tls.bio_write(await loop.sock_recv(self._socket, 1 << 16))

    async def ask(self, times: int) -> None:
        """Send as many KeyUpdates with update_requested, and one byte of data after them."""
        records = b""
        for _ in range(times):
            records += self._record(b"\x18\0\0\x01\x01", 22)
            self._secret, self._records = self._derive("traffic upd", 32), 0
        await asyncio.get_running_loop().sock_sendall(self._socket, records + self._record(b"!", 23))

    def close(self) -> None:
        self._socket.close()

    def _record(self, content: bytes, kind: int) -> bytes:
        """As 5.2 and 5.3 have it."""
        head = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        nonce = int.from_bytes(self._derive("iv", 12), "big") ^ self._records
        self._records += 1
        return head + AESGCM(self._derive("key", 16)).encrypt(nonce.to_bytes(12, "big"), content + bytes([kind]), head)

    def _derive(self, label: str, size: int) -> bytes:
        """HKDF-Expand-Label (7.1)."""
        name = b"tls13 " + label.encode()
        info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return HKDFExpand(SHA256(), size, info).derive(self._secret)

    def _learned(self, connection: SSL.Connection, line: bytes) -> None:
        name, _, secret = line.split()
        if name == b"CLIENT_TRAFFIC_SECRET_0":
            self._secret = bytes.fromhex(secret.decode())


def test_keys_may_change_but_not_all_the_time(run: Any) -> None:
    async def test() -> None:
        server, peer = await listening(), NewKeys()
        await peer.connect(server.port)
        await server.toy.first("opened")
        await peer.ask(100)
        await server.toy.until(lambda: server.toy.received.get(2) == b"!")
        await peer.ask(100)
        assert await server.toy.first("closed") == ("closed", 2, "TLS failed")
        peer.close()
        await end(server.transport)

    run(test)


def test_the_key_of_tls_changes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEY_LIFETIME", 0.05)

    async def test() -> None:
        both = await pair()
        first = both.client.bindings[1].certificate
        before = both.listener._key
        while both.listener._key is before:
            await asyncio.sleep(0.01)
        both.client.connect(3, f"127.0.0.1:{both.listener._listeners[0].sockets[0].getsockname()[1]}", Protocol.TLS)
        await both.client.until(lambda: 3 in both.client.bindings)
        assert both.client.bindings[3].certificate != first
        both.client.send(1, b"still")
        await both.server.until(lambda: both.server.received.get(2) == b"still")
        await end(both.transport, both.listener)

    run(test)


def test_connections_are_tuned() -> None:
    async def test() -> None:
        both = await pair()
        for connection in (both.transport._open[1], both.listener._open[2]):
            options = connection.transport.get_extra_info("socket")
            assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert options.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await end(both.transport, both.listener)

    asyncio.run(test())


def test_pythons_own_tls_is_understood() -> None:
    """Another OpenSSL at the other end."""

    async def test() -> None:
        server = await listening()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        writer.write(MESSAGE)
        await server.toy.until(lambda: server.toy.received.get(2) == MESSAGE)
        server.toy.send(2, b"answer")
        assert await reader.readexactly(6) == b"answer"
        writer.close()
        await server.toy.first("closed")
        await end(server.transport)

    asyncio.run(test())
