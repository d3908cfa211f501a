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

from convergence.codes import PathWhy
from convergence.errors import Problem, Why
from convergence.events import DirectoryRefused, TorDirectoryChanged, as_json
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

LISTED = 10  # percent of the work until there is a consensus; the rest are descriptors of relays

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
        self._why: Why | None = None

    def use(self, wanted: bool) -> None:
        """From now on, or no more; see `settled`."""
        if wanted == self._wanted:
            return
        self._wanted, self._why = wanted, None
        if self._config is not None:
            self._apply()
        elif self._loading is None:
            self._loading = asyncio.ensure_future(self._begin())

    async def settled(self) -> None:
        """Wait until the node does what is wanted. Raises Problem if it cannot: then nothing may go out another way."""
        if self._loading is not None:
            await self._loading
        if self._wanted and self._config is None and self._why is not None:
            raise Problem(self._why.code, **self._why.values)

    def check(self) -> None:
        """Raises Problem while nothing can be reached through it yet."""
        if self._wanted and not (self._node.tor is not None and self._node.tor.ready):
            raise Problem(TorWhy.NOT_YET)

    def note(self, event: DirectoryRefused | TorDirectoryChanged) -> None:
        """A directory was refused, so that another one is asked; or more is known."""
        refused = isinstance(event, DirectoryRefused)
        self._why = Why(TorWhy.REFUSED, {"document": event.document, "detail": event.reason}) if refused else None

    def view(self, tor: dict[str, Any] | None, nodes: int) -> dict[str, Any]:
        """What the page shows; see web/ui/tor.js. `tor` and `nodes`: of the node's snapshot."""
        relays, known = (tor["relays"], tor["known"]) if tor else (0, 0)
        why = self._why
        if not self._wanted:
            stage, why = "off", None
        elif tor is None:
            stage = "code" if self._loading is not None else "failed"
        elif not tor["entries"]:
            stage, why = "entry", Why(PathWhy.NO_TOR_ENTRY) if nodes else None  # before, there was nobody to look at
        elif tor["ready"]:
            stage, why = "ready", None
        else:
            stage = "list"
        percent = LISTED + (100 - LISTED) * known // relays if relays else 0
        return {"stage": stage, "percent": percent, "relays": relays, "why": why and as_json(why)}

    async def _begin(self) -> None:
        try:
            if self._wanted:
                self._config = await load_client(self._load)
        except Exception as error:  # of JavaScript, or of a damaged file: without this part the node goes on
            words = str(error).strip().splitlines() or [type(error).__name__]
            self._why = Why(TorWhy.NO_CODE, {"detail": words[-1]})
        else:
            self._apply()
        self._loading = None
        self._changed()

    def _apply(self) -> None:
        self._run(lambda now: self._node.use_tor(self._config if self._wanted else None, now, points=True))
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
