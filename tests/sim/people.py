"""What people do in a simulated network, and what an all-seeing observer can check about it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convergence.facilitator.client import REFRESH
from convergence.ordb.index import FileBuilder, piece_key
from convergence.path.pool import CircuitPool
from convergence.transfers import Transfer
from convergence.wire.address import parse_address
from convergence.wire.descriptor import Descriptor
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.target import Role
from tests.sim.world import Host, World

RELAY = Role.RELAY | Role.RDV
SETTLED = ("done", "failed")


def network(seed: int | str, relays: int, **settings: Any) -> World:
    """A facilitator and relays `r0`... that know each other."""
    world = World(seed, **settings)
    world.facilitator()
    for number in range(relays):
        world.add(f"r{number}", RELAY, circuits=0)
    world.run(REFRESH)
    return world


def relays_of(world: World) -> dict[bytes, Host]:
    """Living relays by identity."""
    return {host.keys.identity: host for host in world.hosts.values() if host.keys is not None and host.alive}


def content(seed: int | str, size: int) -> bytes:
    return random.Random(f"content-{seed}").randbytes(size)


def share(
    host: Host,
    data: bytes,
    on_link: Callable[[str], None] = lambda link: None,
    *,
    name: str = "file.bin",
    manifest_size: int = 0,
) -> None:
    """Offer `data`; on_link(link) follows."""
    builder = FileBuilder()
    pieces = [data[at : at + PIECE_SIZE] for at in range(0, len(data), PIECE_SIZE)]
    for piece in pieces:
        builder.add(piece)
    info, leaves = builder.finish(name, "application/octet-stream", manifest_size)
    for index, piece in enumerate(pieces):
        host.storage.items["piece", piece_key(info.root, index)] = piece
    transfers = host.node.transfers
    host.driver.run(
        lambda now: transfers.share(info, leaves, lambda share_id, now: on_link(transfers.link(share_id)), now)
    )


def share_and_stand(world: World, host: Host, data: bytes, **options: Any) -> str:
    """Offer `data` and wait until all its points know; returns the link."""
    links: list[str] = []
    share(host, data, links.append, **options)
    assert world.run(60, lambda: bool(links) and standing(host))
    world.run(1)  # the last advert arrives
    return links[0]


def standing(host: Host) -> bool:
    """Whether all that the host shares is advertised at all its points."""
    shares = host.node.transfers.snapshot()["shares"]
    return bool(shares) and all(item["points"] == item["points_wanted"] > 0 for item in shares)


def get(host: Host, link: str) -> str:
    """Open a link; returns the transfer's id."""
    ids: list[str] = []
    host.driver.run(lambda now: ids.append(host.node.transfers.get(link, now)))
    return ids[0]


def transfer(host: Host, transfer_id: str) -> Transfer:
    found: Transfer = host.node.transfers.transfers[transfer_id]
    return found


class Talker:
    """The user of a pipe in the simulator: keeps what it hears, consumes it unless `greedy` is off."""

    def __init__(self, host: Host, pipe: Any, *, echo: bool = False, greedy: bool = True) -> None:
        self.host = host
        self.pipe = pipe
        self.heard = bytearray()
        self.greedy = greedy
        self.open = False
        self.heard_end = False
        self.code: int | None = None
        self._echo = echo

    def say(self, data: bytes, *, end: bool = False) -> None:
        def write(now: float) -> None:
            if data:
                self.pipe.write(data, now)
            if end:
                self.pipe.end(now)

        self.host.driver.run(write)

    def abort(self, code: int) -> None:
        self.host.driver.run(lambda now: self.pipe.abort(code, now))

    def opened(self, now: float) -> None:
        assert not self.open
        self.open = True

    def data(self, data: bytes, now: float) -> None:
        assert self.open and data and not self.heard_end and self.code is None
        self.heard += data
        if self._echo:
            self.pipe.write(data, now)
        if self.greedy:
            self.pipe.consumed(len(data), now)

    def drained(self, now: float) -> None:
        pass

    def ended(self, now: float) -> None:
        assert not self.heard_end
        self.heard_end = True
        if self._echo:
            self.pipe.end(now)

    def aborted(self, code: int, now: float) -> None:
        assert self.code is None
        self.code = code


def serve(host: Host, address: str, *, secret: bytes | None = None, **options: Any) -> list[Talker]:
    """Offer a service; returns the list of those who will have come."""
    came: list[Talker] = []

    def accept(pipe: Any, now: float) -> Talker:
        came.append(Talker(host, pipe, **options))
        return came[-1]

    host.driver.run(lambda now: host.node.services.serve(parse_address(address), accept, now, secret=secret))
    return came


def serve_and_stand(world: World, host: Host, address: str, **options: Any) -> list[Talker]:
    """Offer a service and wait until all its points know."""
    came = serve(host, address, **options)

    def stands() -> bool:
        services = host.node.services.snapshot()["services"]
        return all(item["points"] == item["points_wanted"] > 0 for item in services)

    assert world.run(60, stands)
    world.run(1)  # the last advert arrives
    return came


def connect(host: Host, address: str, **options: Any) -> Talker:
    """A connection to a service."""
    talkers: list[Talker] = []
    greedy = options.pop("greedy", True)

    def begin(now: float) -> None:
        pipe = host.node.services.connect(parse_address(address), now, **options)
        pipe.handler = Talker(host, pipe, greedy=greedy)
        talkers.append(pipe.handler)

    host.driver.run(begin)
    return talkers[0]


def settle(world: World, host: Host, transfer_id: str, seconds: float = 300.0) -> str:
    """Wait for the end of a transfer; returns its state."""
    world.run(seconds, lambda: transfer(host, transfer_id).state in SETTLED)
    return transfer(host, transfer_id).state


def arrived(host: Host, transfer_id: str) -> bytes:
    """What a finished transfer left in storage."""
    file = transfer(host, transfer_id).download.file
    assert file is not None
    keys = (piece_key(file.info.root, index) for index in range(file.info.pieces))
    return b"".join(host.storage.items["piece", key] for key in keys)


@dataclass(frozen=True)
class Attempt:
    """A path that an end of a transfer tried for a file, whether or not the circuit came to stand."""

    origin: str
    provider: bool
    path: tuple[Descriptor, ...]


class PathRecord:
    """Every path of every file's circuits in a world, from the moment this is made."""

    def __init__(self, world: World, monkeypatch: Any) -> None:
        self.files: dict[bytes, list[Attempt]] = {}  # by hash_name
        original = CircuitPool.rdv_circuit

        def rdv_circuit(
            pool: CircuitPool, point: Descriptor, hash_name: bytes, provider: bool, *rest: Any, **named: Any
        ) -> None:
            origin = next(host.name for host in world.hosts.values() if getattr(host.node, "pool", None) is pool)
            serve = pool._serve

            def recorded(request: Any, now: float) -> None:
                make_path = request.make_path

                def made(now: float, then: Any) -> None:
                    def chosen(path: Any, now: float) -> None:
                        if isinstance(path, tuple):
                            self.files.setdefault(hash_name, []).append(Attempt(origin, provider, path))
                        then(path, now)

                    make_path(now, chosen)

                request.make_path = made
                serve(request, now)

            pool.__dict__["_serve"] = recorded
            try:
                original(pool, point, hash_name, provider, *rest, **named)
            finally:
                del pool.__dict__["_serve"]

        monkeypatch.setattr(CircuitPool, "rdv_circuit", rdv_circuit)

    def neighbours(self, hash_name: bytes, *, provider: bool) -> set[bytes]:
        """Relays beside an end, on the circuits of a file."""
        return {item.path[0].identity for item in self.files.get(hash_name, ()) if item.provider == provider}


def assert_drained(world: World) -> None:
    """Nothing is left of anybody: call it some time after all peers left or stopped."""
    for host in world.hosts.values():
        if not host.alive or host.name == "facilitator":
            continue
        node = host.node
        # What stays is pipes between relays: on a link at most one that each side opened.
        links = list(node.neighbours.links.values())
        assert all(len(link.circuits) <= 2 for link in links), host.name
        assert node.relaying.snapshot()["circuits"] == 0, host.name
        assert not node.pool._places and not node.pool._ready, host.name
        assert not (node._point._adverts or node._point._adverts.names or node._point._adverts.providers), host.name
        neighbours = node.neighbours
        assert not (neighbours._ways or neighbours._unopened)
        assert len(neighbours._reusable) <= len(links) and set(neighbours._idle_since) <= set(neighbours.links)
        assert not (node._exit._streams if hasattr(node._exit, "_streams") else ()), host.name
        assert not node.outbox._replies and not node.outbox._to_flush, host.name
        assert len(host.pipes) <= 1 + len(links), host.name  # one to the facilitator
        pending = [timer for _, _, timer in node.outbox._timers if timer.pending]
        # Register, refresh, a look for idle links, a look at pipes, gossip; and the answer that a pipe waits for.
        assert len(pending) <= 5 + len(links), (host.name, len(pending), len(links))
