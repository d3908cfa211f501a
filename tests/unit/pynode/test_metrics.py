"""Figures for Prometheus: what is written, and who may read it."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from pynode.config import Address
from pynode.metrics import TYPE, Metrics, written


def test_figures_are_written_as_gauges_and_counters() -> None:
    assert written({"links": 3, "sent_bytes_total": 2**53, "hibernating": True, "uptime_seconds": 1.23456}) == (
        "# TYPE convergence_hibernating gauge\nconvergence_hibernating 1\n"
        "# TYPE convergence_links gauge\nconvergence_links 3\n"
        "# TYPE convergence_sent_bytes_total counter\nconvergence_sent_bytes_total 9007199254740992\n"
        "# TYPE convergence_uptime_seconds gauge\nconvergence_uptime_seconds 1.235\n"
    )


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/metrics", {}, 200),
        ("/metrics", {"Host": "localhost:1"}, 200),
        ("/metrics", {"Host": "site.example"}, 403),
        ("/metrics", {"Origin": "https://site.example"}, 403),
        ("/", {}, 404),
    ],
    ids=["by address", "localhost", "a name that leads here", "a page", "another path"],
)
def test_programs_read_them_and_pages_do_not(path: str, headers: dict[str, str], status: int) -> None:
    async def test() -> None:
        metrics = Metrics(lambda: {"links": 1})
        port = await metrics.listen(Address("127.0.0.1", 0))
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer,
            ):
                assert answer.status == status
                if status == 200:
                    assert await answer.text() == written({"links": 1})
                    assert answer.headers["Content-Type"].startswith(TYPE.partition(";")[0])
        finally:
            await metrics.close()

    asyncio.run(test())
