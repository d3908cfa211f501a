"""`convergence relay` and `convergence facilitator`: one server in the foreground.

Does: put settings and options together, run until a signal, or until the parent that asked for it is gone.
Does not: go into the background: that is for systemd and the like.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from convergence.events import (
    Announced,
    DescriptorRefused,
    DescriptorTaken,
    Event,
    Nodes,
    OrPortReached,
    OrPortUnreached,
    ProtocolsLacking,
    Registered,
    TorDirectoryChanged,
    Trouble,
    as_json,
)
from convergence.facilitator.registry import RegistryLimits
from convergence.wire.target import Role
from pynode.app import App, Network, Plan, page_folder
from pynode.cli.common import data_folder, locked, set_up_logs, settings, stun_servers, unless
from pynode.cli.output import CliError, Output, shown
from pynode.cli.sites import network_of, tor_network
from pynode.cli.words import trouble_words
from pynode.config import ANYWHERE, Address, Config, Exit
from pynode.exit import ExitPolicy
from pynode.facilitator_app import FacilitatorApp
from pynode.garbage import collected_often
from pynode.logs import log_event

ROLES = {"relay": Role.RELAY, "rdv": Role.RDV, "exit": Role.EXIT}
RECORDED = DescriptorTaken | DescriptorRefused | OrPortReached | OrPortUnreached | ProtocolsLacking
"""Events of a relay of Tor that programs are told."""
TAKEN = "Another node uses the data folder {}: stop it, or give this one a folder of its own with --data."


def exit_policy(exits: Exit, allow: list[str]) -> ExitPolicy:
    """The exit policy from the settings, with what --exit-allow adds. Raises CliError."""
    try:
        return ExitPolicy(exits.ports, (*exits.hosts, *allow))
    except ValueError as error:
        raise CliError(f"--exit-allow: {error}.", 2) from None


def relay_plan(arguments: argparse.Namespace, config: Config, network: Network) -> Plan:
    """What `convergence relay` was asked to be. Raises CliError."""
    url = arguments.url or config.node.url
    stun = stun_servers(arguments, config)
    listen = arguments.listen or config.node.listen
    if listen is None and (stun is None or url or arguments.public):
        listen = Address("127.0.0.1", 0)
    if listen is not None and listen.host in ANYWHERE and url is None and arguments.public is None:
        message = f"Others cannot dial {listen.host}: say with --url or --public how they reach this node."
        raise CliError(message, 2)
    roles = Role(0)
    for name in config.node.roles or ("relay", "rdv"):
        roles |= ROLES[name]
    if arguments.exit or arguments.exit_allow:
        roles |= Role.EXIT
    entry = tor_network(config.tor.network) if config.tor.entry else None
    if entry is not None:
        roles |= Role.TOR | Role.RELAY
    return Plan(
        network,
        data_folder(arguments, config) if arguments.data else config.node.data / "relay",
        roles=roles,
        listen=listen,
        url=url,
        public=arguments.public,
        tls=config.node.tls,
        tls_address=config.node.tls_address,
        policy=exit_policy(config.exit, arguments.exit_allow),
        origins=(*config.node.origins, *arguments.origin),
        stun=stun,
        descriptor=None if arguments.descriptor is None else Path(arguments.descriptor),
        limits=config.limits,
        entry=entry,
        private=config.tor.private,
    )


def told_by(plan: Plan) -> str:
    """How others learn of a node without a facilitator, for people."""
    return "its neighbours only (no --descriptor)" if plan.descriptor is None else str(plan.descriptor)


async def relay(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    config = settings(arguments)
    set_up_logs(arguments, config, arguments.name or config.node.name, "warning" if arguments.parent_pipe else None)
    if config.tor.listen is not None:
        if config.tor.entry:
            raise CliError("A process is a relay of one network: set tor.entry or tor.listen, not both.", 2)
        return await _tor_relay(data_folder(arguments, config, "tor-relay"), config, output, stop)
    network = await unless(stop, _network(arguments, config))
    if network is None:
        return 0
    plan = relay_plan(arguments, config, network)
    assert plan.data is not None
    command = _Relay(output)
    with locked(plan.data / "lock", TAKEN.format(plan.data)):
        app = App(plan, command.event)
        await app.start()
        reader = None
        try:
            assert app.identity is not None
            output.record("listening", port=app.port, url=app.url, tls=app.tls, identity=app.identity.hex())
            reached = f"Listening at {app.url}" if app.url else "Reached over WebRTC only (no --listen)"
            known = f"registering with {network.facilitator}" if network.facilitator else f"told of by {told_by(plan)}"
            output.say(f"{reached}; {known}. Stop with Ctrl-C.")
            if arguments.parent_pipe:
                reader = asyncio.ensure_future(_obey_parent(app, stop))
            await stop.wait()
        finally:
            if reader is not None:
                reader.cancel()
            await app.stop()
    output.say("Stopped.")
    return 0


async def _tor_relay(data: Path, config: Config, output: Output, stop: asyncio.Event) -> int:
    from pynode.torrelay import TorRelayApp  # few nodes need it, and it loads X.509

    assert config.tor.listen is not None
    with locked(data / "lock", TAKEN.format(data)):

        def tell(event: Event) -> None:
            log_event(event)
            if isinstance(event, RECORDED):
                output.record(event.kind, **as_json(event))
            match event:
                case OrPortReached(address):
                    output.say(f"Other relays reach this one at {address}: the authorities are told of it.")
                case OrPortUnreached(address, minutes):
                    output.say(
                        f"In {minutes} minutes no other relay has reached this one at {address}: check the firewall, "
                        "and `address` in the settings. The authorities are told nothing of it until then."
                    )

        app = TorRelayApp(data, config.tor.listen, config.tor, config.limits, tell)
        await app.start()
        try:
            output.record("listening", port=app.port, fingerprint=app.fingerprint)
            output.say(f"A relay of Tor listens on port {app.port}: {app.fingerprint}. Stop with Ctrl-C.")
            await stop.wait()
        finally:
            await app.stop()
    output.say("Stopped.")
    return 0


class _Relay:
    def __init__(self, output: Output) -> None:
        self._output = output

    def event(self, event: Event) -> None:
        log_event(event)
        match event:
            case Announced():
                self._output.record("announced")
            case Registered():
                self._output.record("registered")
            case Nodes(count):
                self._output.record("nodes", count=count)
            case TorDirectoryChanged():
                self._output.record(event.kind, **as_json(event))
            case Trouble(why):  # people read the log
                self._output.record("trouble", code=why.code, message=trouble_words(event))


async def _obey_parent(app: App, stop: asyncio.Event) -> None:
    """`convergence up` holds the other end of standard input: it closes when that process ends,
    however it ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with contextlib.closing(pipe):
        while line := await reader.readline():
            if line == b"refresh\n":
                app.call(app.node.refresh)
    stop.set()


async def _network(arguments: argparse.Namespace, config: Config) -> Network:
    if arguments.facilitator is not None:
        return Network(arguments.facilitator, arguments.facilitator_identity)
    if arguments.site is None and arguments.nodes is None and config.node.facilitator is not None:
        return Network(config.node.facilitator, config.node.facilitator_identity)
    network = await network_of(arguments)
    if arguments.nodes is None and arguments.facilitator_identity not in (None, network.identity):
        raise CliError(f"{shown(network.site)} names another facilitator than --facilitator-identity: do not use it.")
    return network


def site_files(option: str | None, config: Config, say: Callable[[str], None]) -> Path | None:
    """The folder with the page. Raises CliError when one was named that holds none."""
    named = Path(option).expanduser() if option else config.site.files
    if named is not None and not (named / "index.html").is_file():
        raise CliError(f"{shown(str(named))} holds no page: run `python3 build.py build`, or name another folder.", 2)
    folder = named or page_folder()
    if folder is None:
        say("There is no page to serve (nothing was built): only commands can use this network.")
    return folder


async def facilitator(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    config = settings(arguments)
    set_up_logs(arguments, config, "facilitator")
    files = None if arguments.no_site else site_files(arguments.dist, config, output.say)
    data = data_folder(arguments, config) if arguments.data else config.node.data / "facilitator"
    with locked(data / "lock", TAKEN.format(data)), collected_often():
        app = FacilitatorApp(
            data,
            arguments.listen or config.site.listen,
            files=files,
            name=config.site.name,
            hosts=(*config.site.hosts, *([arguments.public] if arguments.public else [])),
            origins=config.node.origins,
            stun=stun_servers(arguments, config),
            limits=RegistryLimits(config.facilitator.nodes, channels=config.facilitator.channels),
            draws_with=config.facilitator.draws_with,
            store=config.facilitator.store,
        )
        await app.start()
        try:
            network = app.network
            what = "Site and facilitator" if files else "Facilitator"
            output.say(f"{what} at {network.site} with identity {app.service.identity.hex()}. Stop with Ctrl-C.")
            output.record("ready", site=network.site, url=network.facilitator, facilitator=app.service.identity.hex())
            await stop.wait()
        finally:
            await app.stop()
    output.say("Stopped.")
    return 0
