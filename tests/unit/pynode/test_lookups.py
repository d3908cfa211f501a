"""Look-ups of host names: a silent name server holds up whoever named it, and nobody else."""

from __future__ import annotations

import asyncio
import socket

import pytest

from convergence.limits import most_in_parts
from pynode.transports.lookups import LookUps, TooManyLookUpsError
from tests.unit.pynode.resolver import Resolver
from tests.unit.pynode.resolver import resolver as resolver
from tests.unit.pynode.toy import PATIENCE

AT_ONCE = 4


def ask(look_ups: LookUps, source: object, times: int = 1, host: str = "a.silent") -> list[asyncio.Task[object]]:
    return [asyncio.ensure_future(look_ups.find(host, 80, source)) for _ in range(times)]


async def refused(asked: list[asyncio.Task[object]]) -> int:
    """How many of these were refused at once."""
    await asyncio.sleep(0)
    return sum(task.done() and isinstance(task.exception(), TooManyLookUpsError) for task in asked)


@pytest.fixture
def look_ups(resolver: Resolver) -> LookUps:
    resolver.silent = (".silent",)
    return LookUps("test-look-up", AT_ONCE)


def test_a_source_whose_look_ups_are_stuck_is_refused_and_others_go_on(look_ups: LookUps, resolver: Resolver) -> None:
    async def test() -> None:
        stuck = ask(look_ups, "greedy", AT_ONCE)
        assert await refused(stuck) == 0
        assert await refused(ask(look_ups, "greedy")) == 1
        resolver.answers = [["192.0.2.1"]]
        found = await asyncio.wait_for(look_ups.find("b.example", 80, "modest"), PATIENCE)
        assert [entry[4] for entry in found] == [("192.0.2.1", 80)]

    asyncio.run(test())


def test_whoever_no_longer_waits_still_has_the_thread(look_ups: LookUps) -> None:
    async def test() -> None:
        stuck = ask(look_ups, "greedy", AT_ONCE)
        await asyncio.sleep(0)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert await refused(ask(look_ups, "greedy")) == 1

    asyncio.run(test())


def test_a_thread_that_is_free_again_counts_no_more(look_ups: LookUps, resolver: Resolver) -> None:
    async def test() -> None:
        stuck = ask(look_ups, "source", AT_ONCE)
        await asyncio.sleep(0)
        resolver.over.set()
        await asyncio.gather(*stuck, return_exceptions=True)
        assert await refused(ask(look_ups, "source", AT_ONCE)) == 0

    asyncio.run(test())


def test_threads_are_bounded_however_many_sources_come(look_ups: LookUps) -> None:
    async def test() -> None:
        asked = [task for source in range(20) for task in ask(look_ups, source, AT_ONCE)]
        assert len(asked) - await refused(asked) == most_in_parts(AT_ONCE)

    asyncio.run(test())


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_a_numeric_address_needs_no_thread(look_ups: LookUps, resolver: Resolver, host: str) -> None:
    async def test() -> None:
        await refused(ask(look_ups, "source", AT_ONCE))
        [(*_, address)] = await look_ups.find(host, 80, "source")
        assert address[:2] == (host, 80) and host not in resolver.asked

    asyncio.run(test())


def test_a_name_that_does_not_exist_is_an_error(look_ups: LookUps, resolver: Resolver) -> None:
    async def test() -> None:
        resolver.answers = [socket.gaierror(socket.EAI_NONAME, "unknown")]
        with pytest.raises(socket.gaierror):
            await look_ups.find("b.example", 80, "source")
        with pytest.raises(UnicodeError):
            await look_ups.find("a" * 64 + ".example", 80, "source")

    asyncio.run(test())
