"""Figures of a relay, as text for Prometheus, at a port of this machine.

Does: answer GET /metrics with how much there is of everything now, and how much there was since the start.
Does not: tell anything of users: no address, identity, name or time of one; answer pages of the web (a request that
names another host, or an origin, is refused).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from pynode.config import Address
from pynode.origins import is_address

TYPE = "text/plain; version=0.0.4"


class Metrics:
    """Args:
    figures: gives name -> value as of now. Names that end in "_total" only grow.
    """

    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self._figures = figures
        self._runner: web.AppRunner | None = None

    async def listen(self, address: Address) -> int:
        """Returns the port. Raises OSError."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address.host, address.port)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        host = request.url.host or ""
        if "Origin" in request.headers or not (host == "localhost" or is_address(host)):
            raise web.HTTPForbidden
        return web.Response(text=written(self._figures()), headers={"Content-Type": TYPE})


def written(figures: Mapping[str, float]) -> str:
    """In Prometheus' text format."""
    lines = []
    for name, value in sorted(figures.items()):
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# TYPE convergence_{name} {kind}", f"convergence_{name} {_number(value)}"]
    return "\n".join((*lines, ""))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"
