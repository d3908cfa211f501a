"""The Tor network for this browser's node.

Does: load the client's code and the authorities' identities when Tor is first switched on, beside what runs already;
start and end the client; tell what the page shows of it.
Does not: hear from anybody which network it is: both files are of the pinned code.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from reasons import TorWhy

from convergence.errors import Why
from convergence.events import DirectoryRefused, as_json
from convergence.node import Node

if TYPE_CHECKING:
    from convergence.tor.network import TorConfig

ARCHIVE, NETWORK = "tor.zip", "tor.json"
# In this order each takes few others along, and between them the node does other things.
MODULES = (
    *("wire.netdoc", "wire.protovers", "wire.exitpolicy", "wire.consensus", "wire.authority", "wire.microdescriptor"),
    *("wire.consensus_diff", "netdir.consensus", "netdir.tor", "path.torpath", "tor.request", "tor.directory"),
    "tor.network",
)

Load = Callable[[str], Awaitable[Any]]


class Tor:
    """Args:
    run: runs a call of the node.
    load: gives a file of the bundle.
    changed: called when there is something new to show.
    """

    def __init__(self, node: Node, run: Callable[..., Any], load: Load, changed: Callable[[], None]) -> None:
        self._node = node
        self._run = run
        self._load = load
        self._changed = changed
        self._config: TorConfig | None = None  # once the code is there
        self._wanted = False
        self._loading: asyncio.Future[None] | None = None
        self._why: dict[str, Any] | None = None

    def use(self, wanted: bool) -> None:
        """From now on, or no more."""
        if wanted == self._wanted:
            return
        self._wanted, self._why = wanted, None
        if self._config is not None:
            self._apply()
        elif self._loading is None:
            self._loading = asyncio.ensure_future(self._begin())

    def note(self, event: DirectoryRefused) -> None:
        """A directory was refused; another one is asked."""
        self._why = as_json(Why(TorWhy.REFUSED, {"document": event.document, "detail": event.reason}))

    async def _begin(self) -> None:
        try:
            self._config = await load_client(self._load)
        except Exception as error:  # of JavaScript, or of a damaged file: without this part the node goes on
            words = str(error).strip().splitlines() or [type(error).__name__]
            self._why = as_json(Why(TorWhy.NO_CODE, {"detail": words[-1]}))
        else:
            self._apply()
        self._loading = None
        self._changed()

    def _apply(self) -> None:
        self._run(lambda now: self._node.use_tor(self._config if self._wanted else None, now))
        self._changed()


async def load_client(load: Load) -> TorConfig:
    """Import what a client of the Tor network is, out of an archive of its own. Returns the network."""
    for archive in (ARCHIVE, NETWORK):
        data = (await load(archive)).to_bytes()
        with open(f"/{archive}", "wb") as file:
            file.write(data)
    for name, package in list(sys.modules.items()):
        folder = f"/{ARCHIVE}/{name.replace('.', '/')}"
        if name.partition(".")[0] == "convergence" and folder not in getattr(package, "__path__", [folder]):
            package.__path__.append(folder)
    for name in MODULES:
        import_module(f"convergence.{name}")
        await asyncio.sleep(0)
    from convergence.tor.network import TorConfig

    return TorConfig(tuple(map(bytes.fromhex, json.loads(data)["authorities"])))
