"""The browser's shell around one Node.

Does: wire the node to the worker's channels, database, timer and cryptography; carry out the page's commands; keep the
one state that pages draw.
Does not: speak the protocol (the node does), share or save files itself (files.py), or carry pipes (page_pipes.py).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import convergence_shell as shell
from crypto import BrowserCrypto, BrowserRng
from files import FileStore
from js import Object
from links import LinkViews
from page_pipes import PagePipes
from pyodide.ffi import create_proxy, to_js
from reasons import FileWhy, HostWhy
from settings import Settings
from storage import IndexedDbStorage
from tls import BrowserTls
from tor import Tor
from transport import BrowserClock, BrowserTransport, WorkerTimer
from wordcodes import WordCodes

from convergence.circuit.relaying import RelayLimits
from convergence.codes import LIES, FacilitatorWhy, PathWhy
from convergence.crypto.keys import NodeKeys
from convergence.driver import Driver
from convergence.errors import LocalError, Problem, Why
from convergence.events import (
    DirectoryRefused,
    Event,
    FetchDone,
    FetchFailed,
    FetchProgress,
    FetchResponse,
    FetchStatus,
    Ready,
    Registered,
    Rtc,
    ServiceStands,
    ShareFailed,
    TorDirectoryChanged,
    Trouble,
    as_json,
)
from convergence.node import Node, NodeConfig
from convergence.wire.filename import saved_name
from convergence.wire.target import Role

MAX_CONNECTIONS = 64  # WebRTC connections that the page makes: as in bridge/rtc.js
GOES_OUT = frozenset(
    ("share", "get", "code", "retry", "fetch", "connect", "serve")
)  # through Tor where that is switched on
STATE_INTERVAL = 0.2  # seconds between two states while things change
IDLE_INTERVAL = 1.0  # seconds between looks at the node's counters
STORED_WITHIN = 30.0  # seconds; a record that is not stored by then will not be
TROUBLE_SHOWN = 20.0  # seconds that a trouble stays on the page unless a new one replaces it


class NodeHost:
    """One node and all that the pages may ask of it."""

    def __init__(self, network: dict[str, Any]) -> None:
        self._clock = BrowserClock()
        self._transport = BrowserTransport(shell.channels)
        self._storage = IndexedDbStorage(shell.database)
        self._settings = Settings.of(shell.settings.to_py())
        # Why no node could reach this one; without WebRTC it works for nobody.
        self._unreachable = "" if shell.rtc else "browser" if "rtc" in network else "site"
        facilitator = network["facilitator"]
        config = NodeConfig(
            facilitator=urljoin(shell.site, facilitator["path"]).replace("http", "ws", 1),
            facilitator_identity=bytes.fromhex(facilitator["identity"]),
            roles=self._roles,
            rtc=not self._unreachable,
            connections=MAX_CONNECTIONS,
            secure=shell.site.startswith("https:"),
            limits=self._limits,
            hops=self._settings.hops,
            direct=self._settings.direct,
            group=self._settings.group,
        )
        crypto, rng = BrowserCrypto(), BrowserRng()
        keys = NodeKeys.generate(crypto, rng)
        self._identity = keys.identity.hex()
        tls = BrowserTls(shell.tls, lambda call: self._driver.run(call))
        self._node = Node(config, crypto, rng, keys=keys, tls=tls)
        self._driver = Driver(
            self._node,
            self._transport,
            self._clock,
            WorkerTimer(shell.timer, self._clock),
            storage=self._storage,
            on_event=self._on_event,
            on_bug=lambda error: self.defect(type(error).__name__),
        )
        self._transport.attach(self._driver, shell.listener, create_proxy)
        self._transport.on_cut_off = lambda: self._driver.run(self._node.cut_off)
        self._storage.attach(shell.listener, create_proxy)
        shell.listener.tick = create_proxy(self._driver.tick)
        shell.listener.moved = create_proxy(lambda: self._driver.run(self._node.moved))
        self._pipes = PagePipes(self._node, crypto, shell.pipes, self._run)
        self._pipes.attach(shell.listener, create_proxy)
        self._files = FileStore(self._storage, shell.database, self._in_use, self._changed)
        self._fetches: dict[int, dict[str, Any]] = {}
        self._bodies: dict[int, Any] = {}
        self._transfers = self._node.transfers
        self._codes = WordCodes(self._node, self._run, self._changed)
        self._tor = Tor(self._node, self._run, shell.load, self._changed)
        self._links = LinkViews()
        self._trouble: tuple[dict[str, Any] | None, float] = (None, 0.0)
        self._warnings: dict[str, dict[str, Any]] = {}  # by code
        self._sharing: dict[str, asyncio.Future[str]] = {}  # by root: what the page waits for
        self._seconds: float | None = None
        self._posted = ""
        self._post_due = False
        self._next_post = 0.0

    async def start(self) -> None:
        self._tor.use(self._settings.tor)
        restore = shell.restore
        try:
            await self._tor.settled()
        except Problem:
            restore = False  # what earlier runs began is not to go another way
        self._run(lambda now: self._node.start(now, restore=restore))
        asyncio.get_running_loop().call_later(IDLE_INTERVAL, self._look)
        self._changed()

    # Commands of the pages -------------------------------------------------------------------------------------------

    async def command(self, name: str, args: Any) -> Any:
        """Carry out a command; returns what the page's promise gets, as a JavaScript object."""
        try:
            if name in GOES_OUT:
                await self._tor.settled()
            value = await self._COMMANDS[name](self, args)
            reply = {"ok": True, "value": value}
        except Problem as problem:
            reply = {"ok": False, "why": as_json(problem.why)}
        except LocalError as error:
            reply = {"ok": False, "message": str(error)}
        self._changed()
        return to_js(reply, dict_converter=Object.fromEntries)

    async def _share(self, args: Any) -> dict[str, Any]:
        """Answered with no id when the reading failed or was cancelled: the list of files then says why."""
        read = await self._files.read(args.file)
        if read is None:
            return {}
        info, leaves = read
        shared: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_shared(share_id: str, now: float) -> None:
            if not shared.done():
                shared.set_result(share_id)

        self._sharing[info.root.hex()] = shared
        self._run(lambda now: self._transfers.share(info, leaves, on_shared, now))
        try:
            return {"id": await asyncio.wait_for(shared, STORED_WITHIN)}
        except TimeoutError:
            raise Problem(FileWhy.NOT_STORED, detail="") from None
        finally:
            self._sharing.pop(info.root.hex(), None)

    async def _unshare(self, args: Any) -> None:
        if not self._files.cancel(args.id):
            self._run(lambda now: self._transfers.unshare(args.id, now))
            self._codes.drop(args.id)

    async def _code(self, args: Any) -> None:
        self._codes.offer(args.id, self._transfers.link(args.id))

    async def _get(self, args: Any) -> dict[str, Any]:
        code = getattr(args, "code", None)
        link = args.link if code is None else await self._codes.link_of(code)
        return {"id": self._run(lambda now: self._transfers.get(link, now))}

    async def _cancel(self, args: Any) -> None:
        self._run(lambda now: self._transfers.cancel(args.id, now))

    async def _retry(self, args: Any) -> None:
        self._run(lambda now: self._transfers.retry(args.id, now))

    async def _forget(self, args: Any) -> None:
        self._run(lambda now: self._transfers.forget(args.id, now))

    async def _save(self, args: Any) -> dict[str, Any]:
        transfer = self._transfers.transfers.get(args.id)
        file = None if transfer is None else transfer.download.file
        if file is None:
            raise Problem(FileWhy.NOT_HERE)
        info, collection = file.info, transfer.download.collection
        if collection is None:
            return {"blob": await self._files.assemble(info.root, info.size), "name": saved_name(info.name)}
        return {"blob": await self._files.archive(info, collection), "name": f"{saved_name(info.name)}.zip"}

    async def _fetch(self, args: Any) -> dict[str, Any]:
        self._tor.check()
        body = shell.body()
        number = self._run(lambda now: self._node.fetch(args.url, lambda data: body.add(to_js(data)), now))
        self._bodies[number] = body
        # The node may have reported already, from within the call.
        self._fetches.setdefault(number, _new_fetch(number))["url"] = args.url
        return {"id": number}

    async def _set(self, args: Any) -> None:
        self._settings = settings = Settings.of(args.to_py())

        def apply(now: float) -> None:
            self._node.relay(self._limits, self._roles, now)
            self._node.set_hops(settings.hops, now)
            self._node.serve_directly(settings.direct, now)

        self._run(apply)
        self._tor.use(settings.tor)
        try:
            self._run(lambda now: self._node.share_circuits(settings.group, now))
        except Problem:  # there are too many
            self._settings = replace(settings, group=True)
            raise

    @property
    def _roles(self) -> Role:
        return Role(0) if self._unreachable else self._settings.roles

    @property
    def _limits(self) -> RelayLimits | None:
        return None if self._unreachable else self._settings.limits

    def _in_use(self, root: bytes) -> bool:
        files = [share.file for share in self._transfers.shares.values()]
        files += [item.download.file for item in self._transfers.transfers.values() if item.download.file]
        return any(file.info.root == root for file in files)

    async def _body(self, args: Any) -> dict[str, Any]:
        if args.id not in self._bodies:
            raise Problem(FileWhy.BODY_NOT_HERE)
        return {"blob": self._bodies[args.id].blob(), "name": saved_name(_name_of(self._fetches[args.id]["url"]))}

    async def _drop_fetch(self, args: Any) -> None:
        self._run(lambda now: self._node.cancel_fetch(args.id, now))
        self._fetches.pop(args.id, None)
        self._bodies.pop(args.id, None)

    async def _connect(self, args: Any) -> None:
        self._pipes.connect(args)

    async def _serve(self, args: Any) -> dict[str, Any]:
        return {"address": self._pipes.serve(args)}

    async def _stop(self, args: Any) -> None:
        self._run(self._node.stop)

    _COMMANDS: dict[str, Callable[..., Any]] = {
        "share": _share,
        "unshare": _unshare,
        "code": _code,
        "get": _get,
        "cancel": _cancel,
        "retry": _retry,
        "forget": _forget,
        "save": _save,
        "fetch": _fetch,
        "body": _body,
        "drop-fetch": _drop_fetch,
        "settings": _set,
        "connect": _connect,
        "serve": _serve,
        "stop": _stop,
    }

    def _run(self, call: Callable[[float], Any]) -> Any:
        """Run a call of the node in the driver's pump; what it raises is raised here, after its effects are done."""
        result: list[Any] = []

        def guarded(now: float) -> None:
            try:
                result.extend((call(now), None))
            except LocalError as error:
                result.extend((None, error))

        self._driver.run(guarded)
        value, error = result
        if error is not None:
            raise error
        return value

    # What the node reports -------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Ready():
                self._seconds = (time.time() * 1000 - shell.opened) / 1000
                asyncio.get_running_loop().call_soon(self._post)  # this one is waited for
            case Trouble(why, retrying) if why.code is not PathWhy.NO_TOR_ENTRY:  # which stands beside its switch
                self._show_trouble(why, retrying)
            case Registered():
                shown, until = self._trouble
                if shown is not None and shown["code"] == FacilitatorWhy.NEWCOMERS:
                    self._trouble = (None, until)
            case ShareFailed(root, why):
                waiting = self._sharing.get(root)
                if waiting is not None and not waiting.done():
                    waiting.set_exception(Problem(why.code, **why.values))
                else:
                    self._show_trouble(why)
            case DirectoryRefused() | TorDirectoryChanged():
                self._tor.note(event)
            case ServiceStands(service_id, points):
                self._pipes.standing(service_id, points)
            case Rtc(peer, "failed", why):
                self._links.failed(peer, as_json(why), self._clock.now())
            case FetchStatus(number, stage):
                self._update_fetch(number, stage="asking", why=as_json(Why(stage)))
            case FetchResponse(number, status, kind):
                self._update_fetch(number, stage="receiving", status=status, type=kind)
            case FetchProgress(number, size):
                self._update_fetch(number, stage="receiving", size=size)
            case FetchDone(number, size):
                self._update_fetch(number, stage="done", size=size)
            case FetchFailed(number, why):
                self._update_fetch(number, stage="failed", why=as_json(why))
        self._changed()

    def _show_trouble(self, why: Why, retrying: bool = False) -> None:
        if why.code in LIES:  # stays on the page: whoever looks later sees it
            self._warnings[why.code] = {"code": why.code}
            return
        self._trouble = ({**as_json(why), "retrying": retrying}, self._clock.now() + TROUBLE_SHOWN)

    def _update_fetch(self, number: int, **values: Any) -> None:
        self._fetches.setdefault(number, _new_fetch(number)).update(values)

    def defect(self, name: str) -> None:
        """The driver, or JavaScript, caught an exception of the node's."""
        self._show_trouble(Why(HostWhy.DEFECT, {"name": name}))
        self._changed()

    # The state that pages draw ---------------------------------------------------------------------------------------

    def _changed(self) -> None:
        if not self._post_due:
            self._post_due = True
            loop = asyncio.get_running_loop()
            loop.call_later(max(0.0, self._next_post - loop.time()), self._post)  # Pyodide refuses a time in the past

    def _look(self) -> None:
        asyncio.get_running_loop().call_later(IDLE_INTERVAL, self._look)
        self._changed()

    def _post(self) -> None:
        self._post_due = False
        self._next_post = asyncio.get_running_loop().time() + STATE_INTERVAL
        state = json.dumps(self.state())
        if state != self._posted:
            self._posted = state
            shell.post(state)

    def state(self) -> dict[str, Any]:
        """All that a page shows; see the head of each card in web/ui/ for its part."""
        now = self._clock.now()
        snapshot = self._node.snapshot(now)
        circuits = snapshot["circuits"]
        wanted = self._node.config.circuits
        links = self._links.view(snapshot["links"], snapshot["introductions"], self._transport.rtc, now)
        reachable = snapshot["facilitator"] or any(link["state"] == "open" for link in links)
        standing = min(wanted, sum(circuit["state"] != "building" for circuit in circuits))
        return {
            "phase": {
                "percent": 80 + 20 * standing // wanted if circuits else 75,
                "text": "Building circuits" if circuits else "Looking for the network",
            },
            "ready": self._seconds is not None,
            "seconds": self._seconds or 0,
            "failed": "",
            "trouble": self._trouble[0] if now < self._trouble[1] else None,
            "warnings": list(self._warnings.values()),
            "identity": self._identity,
            "nodes": snapshot["nodes"],
            "epoch": snapshot["epoch"],
            "circuits": circuits,
            "links": links,
            "relay": self._relay_view(snapshot["relay"], reachable),
            "tor": self._tor.view(snapshot["tor"], snapshot["nodes"]),
            "settings": self._settings.view(),
            "bytes": {
                "sent": snapshot["bytes_out"],
                "received": snapshot["bytes_in"],
                "relayed": snapshot["relay"]["bytes"],
            },
            "shares": [*map(self._share_view, snapshot["shares"]), *self._files.reading()],
            "transfers": snapshot["transfers"],
            "fetches": list(self._fetches.values()),
        }

    def _relay_view(self, relay: dict[str, Any], reachable: bool) -> dict[str, Any]:
        why = self._unreachable or self._settings.paused or ("volume" if relay["spent"] else "")
        return {
            "on": not why,
            "why": why,
            "circuits": relay["circuits"],
            "circuitsTotal": relay["circuits_total"],
            "streams": relay["streams"],
            "bytes": relay["bytes"],
            "reachable": reachable and not self._unreachable,
        }

    def _share_view(self, share: dict[str, Any]) -> dict[str, Any]:
        stage = "ready" if share["points"] else "announcing"
        return {
            **share,
            "have": share["size"],
            "stage": stage,
            "link": self._transfers.link(share["id"]),
            "why": None,
            "code": self._codes.view(share["id"]),
        }


def _new_fetch(number: int) -> dict[str, Any]:
    return {"id": number, "url": "", "stage": "asking", "status": 0, "size": 0, "type": "", "why": None}


def _name_of(url: str) -> str:
    return url.split("?")[0].split("#")[0].rstrip("/").rpartition("/")[2] or "page"


async def start() -> Any:
    """Called once by worker.js; returns the host for its commands."""
    host = NodeHost(shell.network.to_py())
    await host.start()
    return create_proxy(host)
