"""`convergence up`: a whole network on this machine.

Does: facilitator and site in this process, relays as children; say where to open the page and how the nodes are; write
the same for programs; end everything on a signal.
Does not: survive this process: the relays end with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pynode.app import AppError
from pynode.cli.children import Relay, Relays
from pynode.cli.common import data_folder, locked, set_up_logs, settings, stun_servers, unless
from pynode.cli.output import CliError, Output, table
from pynode.cli.serve import exit_policy, site_files
from pynode.config import ANYWHERE, Address, Config
from pynode.facilitator_app import FacilitatorApp
from pynode.garbage import collected_often

MIN_RELAYS = 3
"""Two hops and a third node for the entries of the other side."""
MAX_RELAYS = 50
EXITS = 2
START_TIMEOUT = 60.0
"""Seconds until all relays must have registered, on a slow machine."""
SPREAD_TIMEOUT = 10.0
"""Seconds for every relay to learn of all others."""


async def up(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    config = settings(arguments)
    set_up_logs(arguments, config, "up", "error")
    if not MIN_RELAYS <= arguments.relays <= MAX_RELAYS:
        raise CliError(f"--relays must be from {MIN_RELAYS} to {MAX_RELAYS}.", 2)
    if arguments.host in ANYWHERE and arguments.public is None:
        message = f"Others cannot dial {arguments.host or 'an empty host'}: say with --public by what name or address"
        raise CliError(f"{message} they reach this machine.", 2)
    exit_policy(config.exit, arguments.exit_allow)
    files = site_files(arguments.dist, config, output.say)
    data = data_folder(arguments, config) if arguments.data else config.node.data / "network"
    other = f"Another `convergence up` uses {data}: stop it, or name another folder with --data."
    with locked(data / "lock", other), collected_often():
        listen = Address(arguments.host, arguments.port)
        app = FacilitatorApp(
            data / "facilitator",
            listen,
            files=files,
            name=config.site.name,
            hosts=(*config.site.hosts, *([arguments.public] if arguments.public else [])),
            origins=config.node.origins,
            stun=stun_servers(arguments, config),
        )
        await app.start()
        network = _Network(arguments, config, output, app, data)
        try:
            return await network.run(stop)
        finally:
            await network.end()


class _Network:
    def __init__(
        self, arguments: argparse.Namespace, config: Config, output: Output, app: FacilitatorApp, data: Path
    ) -> None:
        self._output = output
        self._app = app
        self._ready_file = Path(arguments.ready_file) if arguments.ready_file else None
        self._changed = asyncio.Event()
        self._ready = False
        # Relays of this machine dial the facilitator from here; others dial the listed addresses.
        public = arguments.public or arguments.host
        self._site = f"http://{Address(public, app.port)}/"
        inside = Address("127.0.0.1" if arguments.host in ANYWHERE else arguments.host, app.port)
        common = ["--facilitator", f"ws://{inside}/facilitator", "--facilitator-identity"]
        common += [app.service.identity.hex(), *(["-v"] * (arguments.verbose or 0))]
        common += ["--public", arguments.public, "--origin", self._site] if arguments.public else []
        common += ["--config", arguments.config] if arguments.config else []
        common += ["--no-rtc"] if arguments.no_rtc else []
        common += [option for server in arguments.stun for option in ("--stun", server)]
        allow = [option for host in arguments.exit_allow for option in ("--exit-allow", host)]
        exits = 0 if arguments.no_exit else EXITS
        relays = []
        for number in range(1, arguments.relays + 1):
            is_exit = number > arguments.relays - exits
            own = ["--data", str(data / f"relay-{number}"), *(["--exit", *allow] if is_exit else [])]
            roles = ("relay", "rdv", *(("exit",) if is_exit else ()))
            relays.append(Relay(f"relay-{number}", arguments.host, roles, [*common, *own]))
        self._relays = Relays(relays, self._on_change)

    async def run(self, stop: asyncio.Event) -> int:
        relays = self._relays.relays
        self._output.say(f"Starting a facilitator, its site and {len(relays)} relays on this machine.")
        await self._relays.start()
        if not await unless(stop, self._start()):
            return 0
        self._ready = True
        self._tell("ready")
        self._output.say("")
        self._output.say("Open this address in a browser:")
        self._output.result(f"    {self._site}")
        self._output.say("")
        for line in self._table().split("\n"):
            self._output.say(line)
        self._output.say("")
        self._output.say(f"Stop everything with Ctrl-C (or: kill {os.getpid()}).")
        await stop.wait()
        return 0

    async def end(self) -> None:
        """End the network, within a few seconds."""
        self._output.say("Stopping.")
        await self._relays.stop()
        # They ended for good: the next run on this data must not use their old addresses.
        self._app.forget(bytes.fromhex(relay.identity) for relay in self._relays.relays)
        await self._app.stop()
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)
        self._output.say("Stopped.")

    async def _start(self) -> bool:
        relays = self._relays.relays
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._until(lambda relay: relay.state == "registered")
        except TimeoutError:
            missing = ", ".join(relay.name for relay in relays if relay.state != "registered")
            raise AppError(f"{missing} did not register in {START_TIMEOUT:.0f} seconds: try again with -v.") from None
        self._relays.refresh()
        try:
            async with asyncio.timeout(SPREAD_TIMEOUT):
                await self._until(lambda relay: relay.nodes >= len(relays))
        except TimeoutError:
            self._output.say("Some relays do not know all others yet: the first circuits may take longer.")
        return True

    async def _until(self, holds: Any) -> None:
        while True:
            failed = [relay for relay in self._relays.relays if relay.state == "failed"]
            if failed:
                raise AppError(f"{failed[0].name} could not start: its messages above say why.")
            if all(holds(relay) for relay in self._relays.relays):
                return
            self._changed.clear()
            await self._changed.wait()

    def _on_change(self, relay: Relay, text: str) -> None:
        self._changed.set()
        if text:
            self._output.say(text)
        if self._ready and text:
            self._tell(relay.state)
        registered = sum(other.state == "registered" for other in self._relays.relays)
        if not self._ready and registered:
            self._output.progress(f"{registered} of {len(self._relays.relays)} relays are registered.")

    def _tell(self, event: str) -> None:
        """The state for programs, on standard output and in the ready file, which is replaced whole."""
        state = self._state()
        if self._ready_file is not None:
            part = self._ready_file.with_name(f".{self._ready_file.name}.part")
            try:
                part.write_text(json.dumps(state) + "\n")
                os.replace(part, self._ready_file)
            except OSError as error:
                self._output.say(f"{self._ready_file} cannot be written: {os.strerror(error.errno or 0)}.")
        self._output.record(event, **state)

    def _state(self) -> Mapping[str, Any]:
        return {
            "site": self._site,
            "facilitator": self._app.service.identity.hex(),
            "pid": os.getpid(),
            "nodes": [
                {
                    "name": relay.name,
                    "state": relay.state,
                    "identity": relay.identity,
                    "port": relay.port,
                    "pid": relay.pid,
                    "roles": list(relay.roles),
                }
                for relay in self._relays.relays
            ],
        }

    def _table(self) -> str:
        rows = [["node", "state", "port", "pid", "does"]]
        rows.append(["site", "running", str(self._app.port), str(os.getpid()), "facilitator, page"])
        for relay in self._relays.relays:
            rows.append([relay.name, relay.state, str(relay.port), str(relay.pid), ", ".join(relay.roles)])
        return table(rows)
