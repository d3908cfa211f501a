"""What a real redis-server answers to each question, and what the store of the unit tests answers: the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convergence.effects import Failure
from convergence.facilitator.questions import (
    Beat,
    Counter,
    Drop,
    Keep,
    Kept,
    Latest,
    Propose,
    Put,
    Read,
    Spend,
    Tell,
)
from pynode.redis_address import RedisAddress, parse_redis
from pynode.redis_store import MAX_BATCH, RedisStore
from tests.interop.programs import Authority, free_port
from tests.interop.redis.server import RedisServer
from tests.unit.facilitator.several import Store

ME, OTHER = "a" * 32, "b" * 32
NODE, SECOND, THIRD = b"\0" + b"n" * 31, b"\xff" * 32, b"t" * 32
PATIENCE = 30.0


class Facilitator:
    """What RedisStore knows of one: a service and its driver. Keeps what it was told."""

    def __init__(self, address: RedisAddress, name: str = ME, identity: bytes = b"i" * 32) -> None:
        self.identity = identity
        self.sharing = SimpleNamespace(name=bytes.fromhex(name))
        self.heard: list[bytes] = []
        self.reasons: list[str] = []
        self.news = asyncio.Event()
        self.has_joined = False
        self.store = RedisStore(address, self)  # type: ignore[arg-type]
        self.store.start(self)  # type: ignore[arg-type]

    def run(self, command: Callable[[float], None]) -> None:
        command(time.time())
        self.news.set()

    def joined(self, now: float) -> None:
        self.has_joined = True

    def parted(self, reason: str, now: float) -> None:
        self.has_joined = False
        self.reasons.append(reason)

    def told(self, data: bytes, now: float) -> None:
        self.heard.append(data)

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def ask(self, question: object) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.store.consult(question, answer.set_result)
        return await asyncio.wait_for(answer, PATIENCE)


def go(
    test: Callable[..., Awaitable[None]], address: str | RedisAddress, *names: str, identity: bytes = b"i" * 32
) -> None:
    """Run a test with facilitators of these names that have joined."""

    async def main() -> None:
        where = parse_redis(address) if isinstance(address, str) else address
        ours = [Facilitator(where, name, identity) for name in names or (ME,)]
        try:
            for one in ours:
                await one.until(lambda one=one: one.has_joined)
            await test(*ours)
        finally:
            for one in ours:
                await one.store.close()

    asyncio.run(main())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def empty(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


def put(
    identity: bytes = NODE,
    published: int = 10,
    digest: str = "d1",
    source: str = "",
    holder: str = ME,
    only_from: str | None = None,
    *,
    most: int = 3,
) -> Put:
    body = identity + published.to_bytes(4, "big") + digest.encode() + holder.encode()
    return Put(identity, published, digest, source, holder, most, 2, body, only_from)


def drop(identity: bytes = NODE, published: int = 10, only_from: str | None = None) -> Drop:
    return Drop(identity, published, b"drop " + identity, only_from)


puts = st.builds(
    put,
    st.sampled_from([NODE, SECOND, THIRD, b"4" * 32]),
    st.sampled_from([9, 10, 11]),
    st.sampled_from(["d1", "d2"]),
    st.just(""),
    st.sampled_from(["", ME, OTHER]),
    st.sampled_from([None, None, "", ME]),
)
sourced = st.builds(
    put,
    st.sampled_from([bytes([number]) * 32 for number in range(4)]),
    source=st.sampled_from(["aa", "bb"]),
    most=st.just(100),
)
drops = st.builds(
    drop,
    st.sampled_from([NODE, SECOND, THIRD]),
    st.sampled_from([9, 10, 11]),
    only_from=st.sampled_from([None, "", ME, OTHER]),
)
sourced_drops = st.builds(drop, st.sampled_from([bytes([number]) * 32 for number in range(4)]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(puts, sourced, drops, sourced_drops), max_size=25))
def test_records_are_as_in_the_unit_tests(server: RedisServer, questions: list[Put | Drop]) -> None:
    server.command("FLUSHALL")
    model = Store(SimpleNamespace(later=lambda call: None))

    async def scenario(ours: Facilitator) -> None:
        for question in questions:
            assert await ours.ask(question) == model.answer(ME, question)
        assert sorted((await ours.ask(Read()))[0]) == sorted(model.nodes.values())
        await ours.ask(Tell("", b"the end"))
        await ours.until(lambda: b"the end" in ours.heard)
        assert ours.heard[:-1] == model.seen

    go(scenario, server.address)


def test_what_is_told_reaches_whom_it_is_for(empty: RedisServer) -> None:
    async def scenario(ours: Facilitator, other: Facilitator) -> None:
        assert await ours.ask(Tell(OTHER, b"to one")) == 1
        assert await ours.ask(Tell("c" * 32, b"to nobody")) == 0
        assert await ours.ask(Tell("", b"to all")) == 2
        assert await ours.ask(Beat(b"beat")) is None
        await other.until(lambda: len(other.heard) == 3)
        await ours.until(lambda: len(ours.heard) == 2)
        assert other.heard == [b"to one", b"to all", b"beat"] and ours.heard == [b"to all", b"beat"]

    go(scenario, empty.address, ME, OTHER)


def test_what_is_asked_first_is_told_first(empty: RedisServer) -> None:
    """Facilitators ignore what was sealed before something that they have heard."""

    async def scenario(ours: Facilitator, other: Facilitator) -> None:
        told = [b"%d" % number for number in range(2 * MAX_BATCH)]
        expected = []
        for number, body in enumerate(told):
            asked = [Tell(OTHER, body), Beat(body + b" beat"), put(published=number)][: 1 + 2 * (number % 50 == 0)]
            for question in asked:
                ours.store.consult(question, lambda answer: None)
                expected.append(question.body)
        await other.until(lambda: len(other.heard) == len(expected))
        assert other.heard == expected

    go(scenario, empty.address, ME, OTHER)


def test_limits_count_over_all_and_come_back_with_time(empty: RedisServer) -> None:
    one, two = Counter("1", 3, 0.3), Counter("2", 5, 60)

    async def scenario(ours: Facilitator, other: Facilitator) -> None:
        answers = await asyncio.gather(*(who.ask(Spend([one, two])) for who in (ours, other) * 4))
        assert answers.count(True) == 3
        await asyncio.sleep(0.35)  # the window of the real clock
        assert [await ours.ask(Spend([one, two])) for _ in range(3)] == [True, True, False]  # the second one is spent
        assert await other.ask(Spend([one]))

    go(scenario, empty.address, ME, OTHER)
    assert 0 < empty.command("PTTL", "{convergence}:spent:2") <= 60_000


proposals = st.builds(
    Propose,
    st.integers(1, 4),
    st.binary(max_size=3),
    st.sampled_from([None, 0, 1, 2, 3]),
    st.sampled_from([0, int(time.time()) - 1000, int(time.time()) + 10_000]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(proposals, max_size=12))
def test_decisions_are_as_in_the_unit_tests(server: RedisServer, proposals: list[Propose]) -> None:
    """One for each number, and each on top of the one before, when its time has come."""
    server.command("FLUSHALL")
    model = Store(SimpleNamespace(later=lambda call: None, time=time.time()))

    async def scenario(ours: Facilitator, other: Facilitator) -> None:
        assert await other.ask(Latest()) is None
        for proposal in proposals:
            assert await ours.ask(proposal) == model.answer(ME, proposal) == await other.ask(Latest())

    go(scenario, server.address, ME, OTHER)


def test_what_is_kept_is_there_for_a_while(empty: RedisServer) -> None:
    async def scenario(ours: Facilitator, other: Facilitator) -> None:
        assert await ours.ask(Keep("name", b"\0\xff", 60)) is None
        assert await other.ask(Kept("name")) == b"\0\xff"
        await ours.ask(Keep("name", b"value", 0.05))
        await asyncio.sleep(0.1)
        assert await other.ask(Kept("name")) is None

    go(scenario, empty.address, ME, OTHER)


def test_records_are_read_in_parts_while_others_are_written(empty: RedisServer) -> None:
    there = [number.to_bytes(32, "big") for number in range(3000)]
    bodies = {identity: identity + b"x" * 300 for identity in there}
    empty.command("HSET", "{convergence}:nodes", *(part for item in bodies.items() for part in item))

    async def scenario(ours: Facilitator) -> None:
        found, parts, after = set(), 0, 0
        while parts == 0 or after:
            some, after = await ours.ask(Read(after))
            found.update(some)
            parts += 1
            assert len(some) < 1500
            assert await ours.ask(put((10_000 + parts).to_bytes(32, "big"), most=10_000)) == "ok"
        assert parts > 3 and found >= set(bodies.values())

    go(scenario, empty.address)


def test_a_store_of_another_identity_is_not_touched(empty: RedisServer) -> None:
    async def first(ours: Facilitator) -> None:
        await ours.ask(put())

    go(first, empty.address)

    async def second() -> None:
        other = Facilitator(parse_redis(empty.address), identity=b"j" * 32)
        await other.until(lambda: other.reasons)
        assert "another identity" in other.reasons[0] and not other.has_joined
        assert isinstance(await other.ask(drop()), Failure)
        await other.store.close()

    asyncio.run(second())
    go(first, f"{empty.address}?prefix=second", identity=b"j" * 32)  # a network of its own in the same store
    assert empty.command("HLEN", "{convergence}:nodes") == 1 == empty.command("HLEN", "{second}:nodes")


def test_a_full_store_says_so_and_takes_what_makes_room(empty: RedisServer) -> None:
    async def scenario(ours: Facilitator) -> None:
        assert await ours.ask(put(source="aa")) == "ok"
        empty.command("CONFIG", "SET", "maxmemory", "1")
        try:
            for question in (put(SECOND), Beat(b"beat"), Keep("n", b"v", 60), Propose(1, b"v", 0)):
                answer = await ours.ask(question)
                assert isinstance(answer, Failure) and answer.kind == "full"
            await ours.until(lambda: b"beat" in ours.heard)
            assert await ours.ask(Tell("", b"still told")) == 1
            assert await ours.ask(Spend([Counter("1", 3, 60)])) is True  # limits hold all the same
            assert len((await ours.ask(Read()))[0]) == 1
            assert await ours.ask(drop()) is True
        finally:
            empty.command("CONFIG", "SET", "maxmemory", "0")
        assert await ours.ask(put(source="aa")) == "ok"

    go(scenario, empty.address)


def test_a_server_that_is_killed_and_comes_back_is_found_again(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:

        async def scenario(ours: Facilitator) -> None:
            await ours.ask(put())
            await asyncio.to_thread(server.kill)
            await ours.until(lambda: not ours.has_joined)
            assert isinstance(await ours.ask(put()), Failure)
            await asyncio.to_thread(server.start)
            await ours.until(lambda: ours.has_joined)
            assert await ours.ask(Read()) == ([], 0)
            assert await ours.ask(put()) == "ok"  # its scripts are there

        go(scenario, server.address)


@pytest.mark.parametrize("loss", ["emptied", "scripts", "copy"])
def test_a_server_that_lost_what_we_need_is_joined_anew(tmp_path: Path, loss: str) -> None:
    """Its connections stand: nothing but its answers tells."""
    with RedisServer(tmp_path) as server:

        async def scenario(ours: Facilitator) -> None:
            match loss:
                case "emptied":
                    server.command("FLUSHALL")
                case "scripts":
                    server.command("SCRIPT", "FLUSH")
                case "copy":
                    server.command("REPLICAOF", "127.0.0.1", 1)
            questions = (put(), Beat(b"beat"), put(SECOND), Beat(b"beat"))
            answers = await asyncio.gather(*(ours.ask(question) for question in questions))  # none is forgotten
            assert any(isinstance(answer, Failure) for answer in answers)
            await ours.until(lambda: ours.reasons)
            assert {"emptied": "deleted", "scripts": "script", "copy": "copy"}[loss] in ours.reasons[0]
            if loss == "copy":
                server.command("REPLICAOF", "NO", "ONE")
            await ours.until(lambda: ours.has_joined)
            assert [await ours.ask(question) for question in questions] == ["ok", None, "ok", None]

        go(scenario, server.address)


def test_what_others_left_under_our_keys_stops_no_node(empty: RedisServer) -> None:
    empty.command("HSET", "{convergence}:marks", NODE, "who wrote this?")
    empty.command("HSET", "{convergence}:nodes", NODE, "and this?")

    async def scenario(ours: Facilitator) -> None:
        assert await ours.ask(put()) == "ok"
        assert await ours.ask(drop()) is True
        empty.command("SET", "{convergence}:marks", "a string")
        answer = await ours.ask(put())
        assert isinstance(answer, Failure) and "another prefix" in answer.message

    go(scenario, empty.address)


def test_a_node_that_comes_from_another_network_counts_there_only(empty: RedisServer) -> None:
    async def scenario(ours: Facilitator) -> None:
        for source in ("aa", "bb", "", "aa", "bb"):
            assert await ours.ask(put(source=source)) == "ok"
        assert sorted(empty.command("KEYS", "*:of:*")) == [b"{convergence}:of:bb"]
        await ours.ask(drop())

    go(scenario, empty.address)
    assert empty.command("KEYS", "*") == [b"{convergence}:identity"]


def test_a_store_that_would_delete_what_it_keeps_is_not_used(empty: RedisServer) -> None:
    async def scenario() -> None:
        ours = Facilitator(parse_redis(empty.address))
        await ours.until(lambda: ours.reasons)
        assert "noeviction" in ours.reasons[0] and not ours.has_joined
        empty.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await ours.until(lambda: ours.has_joined)
        await ours.store.close()

    empty.command("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
    try:
        asyncio.run(scenario())
    finally:
        empty.command("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")


def test_what_is_wrong_with_an_address_is_said(empty: RedisServer, tmp_path: Path) -> None:
    port = free_port()

    async def scenario(server: RedisServer) -> None:
        for address, words in (
            (f"redis+sentinel://127.0.0.1:{port}/ours", "no Sentinel"),
            (f"redis+cluster://127.0.0.1:{port}", "no Cluster"),
            (f"redis://127.0.0.1:{port}", "user:password@"),
            (f"redis://:guess@127.0.0.1:{port}", "invalid username-password pair"),
        ):
            if words == "user:password@":
                server.command("CONFIG", "SET", "requirepass", "secret")
            ours = Facilitator(parse_redis(address))
            await ours.until(lambda ours=ours: ours.reasons)
            assert words in ours.reasons[0] and "guess" not in ours.reasons[0], ours.reasons
            await ours.store.close()

    with RedisServer(tmp_path, port=port) as server:
        asyncio.run(scenario(server))


def test_no_password_is_repeated_by_a_server_that_does_not_know_the_command(tmp_path: Path) -> None:
    port = free_port()

    async def scenario() -> None:
        ours = Facilitator(parse_redis(f"redis://me:secret@127.0.0.1:{port}"))
        await ours.until(lambda: ours.reasons)
        assert "unknown command" in ours.reasons[0] and "secret" not in ours.reasons[0]
        await ours.store.close()

    with RedisServer(tmp_path, "--rename-command", "AUTH", "", port=port):
        asyncio.run(scenario())


def test_a_server_that_hangs_is_given_up(empty: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pynode.redis_store.COMMAND_TIMEOUT", 0.3)

    async def scenario(ours: Facilitator) -> None:
        empty.command("CLIENT", "PAUSE", "1200", "ALL")
        answer = await ours.ask(put())
        assert isinstance(answer, Failure) and answer.kind == "io"
        await ours.until(lambda: ours.reasons)
        assert "does not answer" in ours.reasons[0]
        await ours.until(lambda: ours.has_joined)
        assert await ours.ask(put()) == "ok"

    go(scenario, empty.address)


# Where it is


def test_over_tls_with_a_password(tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    chain, secret = authority.certificate("127.0.0.1")
    options = ("--tls-port", str(port), "--tls-cert-file", chain, "--tls-key-file", secret, "--tls-auth-clients", "no")
    with RedisServer(tmp_path / "redis", *options, "--tls-ca-cert-file", authority.file) as server:
        server.command("ACL", "SETUSER", "me", "on", ">se:cret", "~*", "&*", "+@all")
        server.command("ACL", "SETUSER", "default", "off")

        async def scenario(ours: Facilitator) -> None:
            assert await ours.ask(put()) == "ok"

        go(scenario, f"rediss://me:se%3Acret@127.0.0.1:{port}/1?ca={authority.file}")

        async def refused() -> None:
            for address in (
                f"rediss://me:wrong@127.0.0.1:{port}?ca={authority.file}",
                f"rediss://me:se%3Acret@127.0.0.1:{port}",  # nobody whom this system trusts has signed it
            ):
                ours = Facilitator(parse_redis(address))
                await ours.until(lambda ours=ours: ours.reasons)
                assert not ours.has_joined and "wrong" not in ours.reasons[0] and "cret" not in ours.reasons[0]
                await ours.store.close()

        asyncio.run(refused())


def test_through_sentinels_which_name_another_server(tmp_path: Path) -> None:
    first, second, watch = free_port(), free_port(), free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor ours 127.0.0.1 {first} 1\n")
    config.chmod(0o600)
    copy = ("--replicaof", f"127.0.0.1 {first}", "--repl-diskless-sync-delay", "0")
    with (
        RedisServer(tmp_path / "first", "--repl-diskless-sync-delay", "0", port=first) as old,
        RedisServer(tmp_path / "second", *copy, port=second, ready="MASTER <-> REPLICA sync: Finished") as new,
        Sentinel(config, watch) as sentinel,
    ):

        async def scenario(ours: Facilitator) -> None:
            assert await ours.ask(put()) == "ok"
            while new.command("HLEN", "{convergence}:nodes") != 1:  # a copy is behind: what it lacks is written anew
                await asyncio.sleep(0.01)
            await asyncio.to_thread(sentinel.fail_over, old, new)
            await ours.until(lambda: ours.reasons)
            await ours.until(lambda: ours.has_joined)
            assert await ours.ask(put(SECOND)) == "ok"
            assert new.command("HLEN", "{convergence}:nodes") == 2

        go(scenario, f"redis+sentinel://127.0.0.1:{watch}/ours")


def test_in_a_cluster(tmp_path: Path) -> None:
    port = free_port()
    with cluster_node(tmp_path, port) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

        async def scenario(ours: Facilitator, other: Facilitator) -> None:
            assert await ours.ask(put(source="aa")) == "ok"
            assert await other.ask(put(published=9)) == "stale"
            assert await ours.ask(Spend([Counter("1", 1, 60), Counter("2", 1, 60)]))
            assert await ours.ask(Propose(1, b"value", 0)) == b"value"
            assert await ours.ask(Keep("name", b"value", 60)) is None
            assert await ours.ask(Tell(OTHER, b"to one")) is None
            await other.until(lambda: b"to one" in other.heard)
            assert await ours.ask(drop())

        go(scenario, f"redis+cluster://127.0.0.1:{port}", ME, OTHER)


def cluster_node(folder: Path, port: int) -> RedisServer:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    return RedisServer(folder, *options, port=port)


def test_a_cluster_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    port = free_port()

    async def scenario() -> None:
        ours = Facilitator(parse_redis(f"redis+cluster://127.0.0.1:{port}"))
        await ours.until(lambda: ours.reasons)
        with cluster_node(tmp_path, port) as server:
            server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await ours.until(lambda: ours.has_joined)
            assert await ours.ask(put()) == "ok"
            await ours.store.close()

    asyncio.run(scenario())


def test_keys_that_move_to_another_server_of_a_cluster_are_found_there(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    with cluster_node(tmp_path / "one", ports[0]) as one, cluster_node(tmp_path / "two", ports[1]) as two:
        bus = two.command("CONFIG", "GET", "cluster-port")[b"cluster-port"]
        one.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        one.command("CLUSTER", "MEET", "127.0.0.1", ports[1], bus)
        slot = one.command("CLUSTER", "KEYSLOT", "{convergence}:nodes")
        names = [server.command("CLUSTER", "MYID").decode() for server in (one, two)]

        async def scenario(ours: Facilitator, other: Facilitator) -> None:
            assert await ours.ask(put(source="aa")) == "ok"
            while b"cluster_state:ok" not in two.command("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)
            two.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
            one.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
            keys = one.command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            one.command("MIGRATE", "127.0.0.1", ports[1], "", 0, 5000, "KEYS", *keys)
            for server in (two, one):
                server.command("CLUSTER", "SETSLOT", slot, "NODE", names[1])
            for one_of_us in (ours, other):
                await one_of_us.ask(Beat(b"beat"))
                await one_of_us.until(lambda one_of_us=one_of_us: one_of_us.reasons)
            for one_of_us in (ours, other):
                await one_of_us.until(lambda one_of_us=one_of_us: one_of_us.has_joined)
            assert len((await ours.ask(Read()))[0]) == 1
            assert await ours.ask(put(SECOND, source="aa")) == "ok"
            assert await other.ask(put(THIRD, source="aa")) == "crowded"
            await ours.ask(Tell(OTHER, b"to one"))
            await other.until(lambda: b"to one" in other.heard)

        go(scenario, f"redis+cluster://127.0.0.1:{ports[0]}", ME, OTHER)


class Sentinel(RedisServer):
    def __init__(self, config: Path, port: int) -> None:
        self.config = config
        super().__init__(config.parent, port=port, ready="Sentinel ID is")

    def start(self) -> None:
        self.start_as(self.config, "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1")

    def fail_over(self, old: RedisServer, new: RedisServer) -> None:
        """What Sentinels do when a server is gone: the copy becomes the one to write to."""
        new.command("REPLICAOF", "NO", "ONE")
        self.sentinel("SENTINEL", "REMOVE", "ours")
        self.sentinel("SENTINEL", "MONITOR", "ours", "127.0.0.1", str(new.port), "1")
        old.kill()

    def sentinel(self, *words: str) -> None:
        import redis

        with redis.Redis(port=self.port) as client:
            client.execute_command(*words)  # type: ignore[no-untyped-call]
