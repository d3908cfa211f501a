"""One header for each epoch on a real redis-server, whoever is killed or stopped at the moment of signing."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import aiohttp
import pytest

from convergence.netdir.rings import check_bucket
from convergence.wire.buckets import Bucket, BucketRequest, EpochHeader, RingKind
from convergence.wire.facilitator import RecordType
from tests.e2e.processes import ENVIRONMENT
from tests.interop.redis.server import RedisServer
from tests.interop.redis.test_facilitators import PATIENCE, Node
from tests.unit.facilitator.world import CRYPTO, node_keys

PROGRAM = Path(__file__).parent / "hasty.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


class Hasty:
    def __init__(self, folder: Path, name: str, server: RedisServer, moment: str) -> None:
        self.folder = folder / name
        if name != "one":
            self.folder.mkdir(mode=0o700)
            shutil.copy(folder / "one" / "keys.json", self.folder / "keys.json")
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            command = (sys.executable, PROGRAM, self.folder, server.address, moment, folder / "fuse")
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT)
        until(lambda: self.words("port"))
        self.port = int(self.words("port")[0][0])

    def words(self, kind: str) -> list[list[str]]:
        lines = self.log.read_text().split("\n")[:-1]
        return [line.split()[1:] for line in lines if line.startswith(f"{kind} ")]

    @property
    def epochs(self) -> list[int]:
        return [int(epoch) for epoch, _ in self.words("signed")]

    @property
    def failed(self) -> bool:
        """Whether it is dead or stopped."""
        if self.process.poll() is not None:
            return True
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def go_on(facilitators: list[Hasty]) -> None:
    """Wait until all of these have signed two headers that none has signed yet."""
    before = {epoch for facilitator in facilitators for epoch in facilitator.epochs}
    until(lambda: all(len({*facilitator.epochs} - before) >= 2 for facilitator in facilitators))


async def ask(one: Hasty) -> tuple[EpochHeader, set[bytes]]:
    """The header that it tells, and who is in its bucket of all nodes."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{one.port}/facilitator") as ws,
    ):
        asker = Node(9, ws)
        assert (await asker.next())[0] is RecordType.HELLO
        await asker.say(RecordType.LIST)
        kind, body = await asker.next()
        assert kind is RecordType.HEADER
        header = EpochHeader.parse(body)
        await asker.say(RecordType.FETCH, BucketRequest(header.epoch, RingKind.ALL, 0).encode())
        members = check_bucket(header, Bucket.parse((await asker.next())[1]), {})
        return header, {member.node.identity for member in members}


@pytest.mark.parametrize(
    "moment",
    ["killed as it signs", "paused as it proposes", "paused as it has proposed"],
)
def test_one_header_of_each_epoch_is_signed(server: RedisServer, tmp_path: Path, moment: str) -> None:
    with (
        Hasty(tmp_path, "one", server, moment) as one,
        Hasty(tmp_path, "two", server, moment) as two,
    ):
        everyone = (one, two)

        async def scenario() -> None:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(f"http://127.0.0.1:{one.port}/facilitator") as ws,
            ):
                await Node(1, ws).register()
                (tmp_path / "fuse").touch()
                await asyncio.to_thread(until, lambda: any(facilitator.failed for facilitator in everyone))
                [failed] = [facilitator for facilitator in everyone if facilitator.failed]
                others = [facilitator for facilitator in everyone if facilitator is not failed]
                await asyncio.to_thread(go_on, others)
                if failed.process.poll() is None:
                    failed.process.send_signal(signal.SIGCONT)
                    others.append(failed)
                    await asyncio.to_thread(go_on, others)
                for header, members in [await ask(facilitator) for facilitator in others]:
                    assert header.verify(CRYPTO.ed25519_verify) and members == {node_keys(1).identity}

        asyncio.run(asyncio.wait_for(scenario(), 2 * PATIENCE))
        bodies = defaultdict(set)
        for facilitator in everyone:
            for epoch, body in facilitator.words("signed"):
                bodies[epoch].add(body)
        assert len(bodies) >= 2 and all(len(said) == 1 for said in bodies.values())
