"""Several facilitators on a real redis-server: processes that are killed and upgraded, a store that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from convergence.events import as_json
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import (
    Delivery,
    Hello,
    NodeList,
    RecordCutter,
    RecordType,
    Register,
    Signal,
    Unreachable,
    UnreachableReason,
    encode_record,
    register_statement,
)
from pynode import version
from pynode.app import App, Network, Plan
from pynode.facilitator_app import FacilitatorApp
from pynode.loop import run
from pynode.redis_address import parse_redis
from tests.e2e.processes import ENVIRONMENT, PROGRAM, Command
from tests.interop.redis.server import RedisServer
from tests.unit.facilitator.test_service import SENT
from tests.unit.facilitator.world import CRYPTO, describe, node_keys, node_seed
from tests.unit.pynode.test_app import ANY, RELAY, Heard

PATIENCE = 60.0
RTC = (Transport.rtc(),)


def go(test: Callable[[], Awaitable[None]]) -> None:
    async def main(stop: asyncio.Event) -> int:
        async with asyncio.timeout(PATIENCE):
            await test()
        return 0

    assert run(main) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


class Facilitator(FacilitatorApp):
    """One in this process, that can be waited for."""

    def __init__(self, folder: Path, server: RedisServer, like: FacilitatorApp | None = None) -> None:
        self.heard = Heard()
        if like is not None:
            folder.mkdir(mode=0o700)
            shutil.copy(like._data / "keys.json", folder / "keys.json")
        super().__init__(folder, ANY, store=parse_redis(server.address), on_event=self.heard)

    @property
    def nodes(self) -> set[bytes]:
        nodes = NodeList.parse(self.service.signed_list(time.time()))
        return {Descriptor.parse(raw).identity for raw in nodes.descriptors}

    @property
    def store(self) -> str:
        return str(self.service.health(time.time())["store"]["state"])

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def two(folder: Path, server: RedisServer) -> AsyncIterator[tuple[Facilitator, Facilitator]]:
    first = Facilitator(folder / "one", server)
    await first.start()
    second = Facilitator(folder / "two", server, first)
    await second.start()
    try:
        for one in (first, second):
            await one.until(lambda one=one: one.store == "shared")
        yield first, second
    finally:
        await first.stop()
        await second.stop()


class Node:
    """A node without an address, which says records over a WebSocket."""

    def __init__(self, number: int, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.number = number
        self.identity = node_keys(number).identity
        self._ws = ws
        self._cutter = RecordCutter(SENT)
        self._records: list[tuple[RecordType, bytes]] = []

    async def next(self) -> tuple[RecordType, bytes]:
        while not self._records:
            async with asyncio.timeout(PATIENCE):  # not wait_for, which may swallow that its task is cancelled
                message = await self._ws.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise ConnectionError
            self._records += self._cutter.feed(message.data)
        return self._records.pop(0)

    async def say(self, kind: RecordType, body: bytes = b"") -> None:
        await self._ws.send_bytes(encode_record(kind, body))

    async def register(self) -> None:
        _, hello = await self.next()
        proof = CRYPTO.ed25519_sign(node_seed(self.number), register_statement(Hello.parse(hello)))
        descriptor = describe(self.number, time.time(), transports=RTC)
        await self.say(RecordType.REGISTER, Register(proof, descriptor.encode()).encode())
        assert await self.next() == (RecordType.REGISTERED, b"")


@asynccontextmanager
async def node(number: int, at: FacilitatorApp) -> AsyncIterator[Node]:
    async with aiohttp.ClientSession() as session, session.ws_connect(at.network.facilitator) as ws:
        one = Node(number, ws)
        await one.register()
        yield one


class Talker:
    """A node that signals others again and again, checks what they answer, and comes back when its channel ends."""

    def __init__(self, number: int, port: int, others: list[Talker]) -> None:
        self.number = number
        self.answers = 0
        self._port = port
        self._others = others

    async def talk(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                    async with session.ws_connect(f"http://localhost:{self._port}/facilitator") as ws:
                        node = Node(self.number, ws)
                        await node.register()
                        while True:
                            await self._ask(node)
                await asyncio.sleep(random.uniform(0.5, 1.5))

    async def _ask(self, node: Node) -> None:
        to, tag = node_keys(random.choice(self._others).number).identity, random.getrandbits(32)
        await node.say(RecordType.SIGNAL, Signal(tag, to, b"who are you?").encode())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.3, 0.7)):
                while True:
                    kind, body = await node.next()
                    if kind is RecordType.DELIVER:
                        await node.say(RecordType.REPLY, Delivery(Delivery.parse(body).tag, node.identity).encode())
                    elif kind is RecordType.REPLY and Delivery.parse(body).tag == tag:
                        assert Delivery.parse(body).sealed == to
                        self.answers += 1
                    else:
                        assert kind is not RecordType.ERROR, body


def test_two_facilitators_are_one_to_their_nodes(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two(tmp_path, server) as (first, second):
            relay = App(Plan(first.network, tmp_path / "relay", RELAY, ANY))
            await relay.start()
            async with node(1, first) as asker, node(2, second) as target:
                assert relay.identity is not None
                everyone = {asker.identity, target.identity, relay.identity}
                await second.until(lambda: first.nodes == second.nodes == everyone)
                await asker.say(RecordType.SIGNAL, Signal(7, target.identity, b"offer").encode())
                kind, body = await target.next()
                delivery = Delivery.parse(body)
                assert (kind, delivery.sealed) == (RecordType.DELIVER, b"offer")
                await target.say(RecordType.REPLY, Delivery(delivery.tag, b"answer").encode())
                assert await asker.next() == (RecordType.REPLY, Delivery(7, b"answer").encode())
                await asker.say(RecordType.SIGNAL, Signal(8, b"\0" * 32, b"offer").encode())
                unknown = Unreachable(8, UnreachableReason.UNKNOWN).encode()
                assert await asker.next() == (RecordType.UNREACHABLE, unknown)
            await relay.stop()

    go(scenario)


@pytest.mark.parametrize("fault", ["killed", "paused", "full"])
def test_a_store_that_fails_is_told_and_comes_back(
    server: RedisServer, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convergence.facilitator.sharing.BEAT", 0.2)
    monkeypatch.setattr("convergence.facilitator.sharing.QUESTION_TIMEOUT", 0.4)

    async def scenario() -> None:
        async with two(tmp_path, server) as both, node(1, both[0]) as old:
            first, second = both
            await second.until(lambda: second.nodes == {old.identity})
            match fault:
                case "killed":
                    await asyncio.to_thread(server.kill)
                case "paused":
                    server.command("CLIENT", "PAUSE", 60_000, "ALL")
                case "full":
                    server.command("CONFIG", "SET", "maxmemory", "1")
            for one in both:
                await one.heard.until("storage-trouble")
            async with node(2, second) as new:  # it is registered all the same
                assert second.nodes == {old.identity, new.identity}
                assert first.nodes >= {old.identity}
                match fault:
                    case "killed":  # with all that it knew
                        await asyncio.to_thread(server.start)
                    case "paused":
                        await asyncio.to_thread(server.kill)  # nobody could ask it to go on
                        await asyncio.to_thread(server.start)
                    case "full":
                        server.command("CONFIG", "SET", "maxmemory", "0")
                for one in both:
                    await one.heard.until("storage-works")
                    await one.until(lambda one=one: one.nodes == {old.identity, new.identity})
                await first.until(lambda: server.command("HLEN", "{convergence}:nodes") == 2)
                for one in both:
                    told = [as_json(event)["detail"] for event in one.heard.events if event.kind == "storage-trouble"]
                    assert len(told) == len(set(told)) <= 3
                    assert not [event for event in one.heard.events if event.kind == "node-lost"]

    go(scenario)


def test_a_facilitator_starts_without_its_store_and_joins_when_it_is_there(tmp_path: Path, server: RedisServer) -> None:
    async def scenario() -> None:
        await asyncio.to_thread(server.kill)
        one = Facilitator(tmp_path / "one", server)
        await one.start()
        trouble = as_json(await one.heard.until("storage-trouble"))
        assert trouble["failure"] == "io" and trouble["detail"]
        async with node(1, one) as early:
            assert one.nodes == {early.identity}
            await asyncio.to_thread(server.start)
            await one.heard.until("storage-works")
            await one.until(lambda: server.command("HLEN", "{convergence}:nodes") == 1)
        await one.stop()

    go(scenario)


# Processes


class Door:
    """What stands before several facilitators: a TCP port whose connections go in turn to those that listen."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(len(self.ports)):
            self.ports.append(self.ports.pop(0))
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.ports[-1])
            except OSError:
                continue
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
            return
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Process(Command):
    """`convergence facilitator`."""

    def __init__(self, folder: Path, name: str, settings: Path) -> None:
        self.folder = folder / name
        if name != "one" and not self.folder.exists():
            self.folder.mkdir(mode=0o700)
            shutil.copy(folder / "one" / "keys.json", self.folder / "keys.json")
        super().__init__(
            *("facilitator", "--no-site", "--config", settings, "--data", self.folder, "--listen", "127.0.0.1:0")
        )
        self.ready = self.until("ready")
        self.port = int(self.ready["site"].rstrip("/").rpartition(":")[2])


@contextmanager
def stopped_at_the_end(*running: Command) -> Iterator[list[Command]]:
    processes = list(running)
    try:
        yield processes
    finally:
        for process in processes:
            process.stop(signal.SIGKILL)


async def status(port: int) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/status.json") as response:
        answer: dict[str, Any] = json.loads(await response.read())
        return answer


async def until(port: int, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    while not holds(answer := await status(port)):
        await asyncio.sleep(0.05)
    return answer


def held_by(answer: dict[str, Any]) -> set[str]:
    """The facilitators that have the nodes' channels."""
    return {node["facilitator"] if node["connected"] else None for node in answer["nodes"]}


def found(answer: dict[str, Any]) -> int:
    """How many nodes were found at an address."""
    return sum(node["reached"] is not None for node in answer["nodes"])


def test_facilitators_are_killed_and_upgraded_and_their_nodes_stay(server: RedisServer, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(f'[site]\nhosts = ["localhost"]\n[facilitator]\nstore = "{server.address}"\n')
    one = Process(tmp_path, "one", settings)
    with stopped_at_the_end(one) as processes:
        two = Process(tmp_path, "two", settings)
        processes.append(two)

        async def scenario() -> None:
            door = Door()
            await door.open()
            door.ports = [one.port, two.port]
            identity = bytes.fromhex(one.ready["facilitator"])
            assert one.ready["facilitator"] == two.ready["facilitator"]
            network = Network(f"ws://localhost:{door.port}/facilitator", identity)
            relays = [App(Plan(network, tmp_path / f"relay-{number}", RELAY, ANY)) for number in range(6)]
            for relay in relays:
                await relay.start()
            talkers: list[Talker] = []
            talkers += [Talker(number, door.port, talkers) for number in range(1, 9)]
            load = [asyncio.ensure_future(talker.talk()) for talker in talkers]
            everyone = len(relays) + len(talkers)
            for port in door.ports:
                await until(port, lambda answer: len(answer["nodes"]) == everyone and len(held_by(answer)) == 2)
                await until(port, lambda answer: found(answer) == len(relays))

            one.process.kill()
            killed = time.monotonic()
            own = two_name = (await status(two.port))["facilitators"][0]["name"]
            while held_by(answer := await status(two.port)) != {own}:
                assert len(answer["nodes"]) == everyone
                assert found(answer) == len(relays)
                await asyncio.sleep(0.05)
            assert time.monotonic() - killed < 20
            before = sum(talker.answers for talker in talkers)

            again = await asyncio.to_thread(Process, tmp_path, "one", settings)
            processes.append(again)
            door.ports[door.ports.index(one.port)] = again.port
            await until(
                again.port, lambda answer: len(answer["nodes"]) == everyone and len(answer["facilitators"]) == 2
            )
            shown = await asyncio.to_thread(Command, "status", "--site", f"http://127.0.0.1:{again.port}/")
            _, record = await asyncio.to_thread(shown.end)
            assert {item["name"] for item in record["facilitators"]} >= {two_name} and len(record["nodes"]) == everyone

            words = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, *PROGRAM, "status", "--site", f"http://127.0.0.1:{again.port}/"],
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            assert f"{everyone} of {everyone} known nodes" in words.stdout and "Their store works." in words.stdout, (
                words
            )
            assert words.stdout.count(version()) == 2

            two.process.send_signal(signal.SIGINT)  # it is upgraded: its nodes go elsewhere in turn
            await until(again.port, lambda answer: held_by(answer) == {answer["facilitators"][0]["name"]})
            assert len((await status(again.port))["nodes"]) == everyone
            assert await asyncio.to_thread(two.process.wait, PATIENCE) == 0

            client = App(Plan(network))
            await client.start()
            await client.joined(10)
            assert client.call(client.node.snapshot)["nodes"] == everyone
            assert not any(task.done() for task in load)  # no answer was wrong
            assert sum(talker.answers for talker in talkers) > before
            for task in load:
                task.cancel()
            await asyncio.gather(*load, return_exceptions=True)
            for app in (client, *relays):
                await app.stop()
            door.close()

        go(scenario)
