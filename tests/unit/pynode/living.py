"""A whole network in a thread of this process, over loopback: a facilitator with its site, and relays.

Does: start and stop it; give its site, and the descriptors of its nodes.
Does not: run anything of what is tested: that has event loops of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from convergence.events import Event, Nodes, Registered
from convergence.wire.target import Role
from pynode.app import App, Plan
from pynode.config import Address
from pynode.exit import ExitPolicy
from pynode.facilitator_app import FacilitatorApp
from pynode.nodes import to_text

ANY = Address("127.0.0.1", 0)
RELAY = Role.RELAY | Role.RDV
RELAYS = 5
START_LIMIT = 60.0  # seconds; only to end a hung test


@dataclass
class Living:
    """A network that runs.

    Attributes:
        nodes: descriptors of all relays as text.
    """

    loop: asyncio.AbstractEventLoop
    site: str = ""
    nodes: list[str] = field(default_factory=list)
    relays: list[App] = field(default_factory=list)


class _Heard:
    def __init__(self) -> None:
        self.registered = asyncio.Event()
        self.all = asyncio.Event()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Registered):
            self.registered.set()
        elif isinstance(event, Nodes) and event.count >= RELAYS:
            self.all.set()


async def _run(folder: Path, allowed: Sequence[str], network: Living, up: threading.Event, stop: asyncio.Event) -> None:
    facilitator = FacilitatorApp(folder / "facilitator", ANY)
    await facilitator.start()
    network.site = facilitator.network.site
    heard = [_Heard() for _ in range(RELAYS)]
    for number in range(RELAYS):
        roles, policy = (RELAY | Role.EXIT, ExitPolicy(hosts=allowed)) if number == 0 else (RELAY, None)
        plan = Plan(facilitator.network, folder / f"relay-{number}", roles, ANY, policy=policy)
        app = App(plan, heard[number])
        await app.start()
        network.relays.append(app)
    async with asyncio.timeout(START_LIMIT):
        for one in heard:
            await one.registered.wait()
        for app in network.relays:
            app.call(app.node.refresh)
        for one in heard:
            await one.all.wait()
    app = network.relays[0]
    network.nodes = [to_text(raw) for raw in app.call(lambda now: app.node.directory.newer(0, now))]
    up.set()
    await stop.wait()
    await asyncio.gather(*(app.stop() for app in network.relays))
    await facilitator.stop()


@contextmanager
def living(folder: Path, allowed: Sequence[str] = ()) -> Iterator[Living]:
    """Run one; `allowed`: what its exit may reach, HOST:PORT."""
    up, made = threading.Event(), threading.Event()
    box: list[tuple[Living, asyncio.Event]] = []
    failed: list[BaseException] = []

    async def main() -> None:
        box.append((Living(asyncio.get_running_loop()), asyncio.Event()))
        made.set()
        await _run(folder, allowed, box[0][0], up, box[0][1])

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            up.set()

    runner = threading.Thread(target=thread, name="network", daemon=True)
    runner.start()
    up.wait(START_LIMIT)
    network, stop = box[0]
    assert not failed, failed
    try:
        yield network
    finally:
        network.loop.call_soon_threadsafe(stop.set)
        runner.join(START_LIMIT)
