"""Networks of a thousand to a million nodes: what they cost their facilitator, and what they cost one client.

A synthetic population (tests/bench/population.py) on the real FacilitatorService, and one client (newcomer.py) with all
of the core that depends on how many nodes there are. All in one process without sockets, so CPU time is the core's
alone. Each size has a process of its own, and memory is what that process grows by. Of a million nodes only the last
ones sign, and are those whose registrations are measured. The client pays for checking the others as well.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import log
from typing import Any

from convergence.facilitator.registry import NODE_MEMORY
from convergence.netdir.bucketview import HELD
from convergence.netdir.headers import EPOCH
from convergence.outbox import Outbox
from convergence.rdv.ring import POINTS
from convergence.rdv.sweep import Sweep
from convergence.wire.buckets import DAY, RingKind
from convergence.wire.facilitator import RecordType, encode_record
from pynode.garbage import set_aside
from tests.bench import introductions, names
from tests.bench.lab import Figure
from tests.bench.memory import resident
from tests.bench.newcomer import CIRCUITS, Newcomer
from tests.bench.population import LONG, SERVERS, START, Population, channel_of, number_of
from tests.bench.supervise import step
from tests.unit.circuit.rig import SeededRng

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (1_000, 10_000)
TINY = (150, 300)
PER_NODE = 0.01  # seconds until a step is late, for each node
AT_LEAST = 180.0
EPOCHS = HELD  # that a client is watched for: then it has fetched all anew once, and begins again
ROUNDS = 200
NAMES = 10_000  # of one node
FLAT = 1.2  # a client's cost in the largest network, in that of the smallest
START_BYTES = DAY_BYTES = 1e6
REGISTERING = 170.0  # seconds in which all come
SAMPLE = 1_000
ALL_SIGNED = 100_000  # nodes up to which each has keys, and its signatures are made and checked...
SIGNED = 5_000  # ...and of more, how many have: the last ones
LIVES = DAY * log(2) / 600  # of tabs, one after the other, a day
RENEWALS = (LIVES / (2 ** (450 / 600) - 1), DAY / 10_800)  # a day, of tabs (450 s, if they live on) and of a server
TINY_SERVERS = 2  # of so many nodes one, so that there are enough for a large network
LOOKS = 3 * 144  # for a newer header, a day


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds are of CPU time.

    Args:
        memory: bytes a node, once two epochs are signed; unsigned: before.
        registration, renewal, look: of the facilitator, each.
        epoch, block: of signing one, and of its longest call, collections of garbage counted.
        collection: of Python's garbage in all memory.
        pause, growing: of the longest one in these epochs, and while all came, as a facilitator's process has them.
        start_bytes, start: of a client until it has paths for CIRCUITS circuits, and knows the points of a name and one
            node by name.
        day_bytes, day: of a client that chooses paths in each epoch, while tabs come and go.
        paths, sample, closest, get: of a client that has what it needs, each.
        points: of many names, in all.
        swept, unordered: look-ups for them in the order that a node takes, and for fewer as the names come.
    """

    nodes: int
    memory: float
    unsigned: float
    registration: float
    renewal: float
    look: float
    epoch: float
    block: float
    collection: float
    pause: float
    growing: float
    start_bytes: float
    start: float
    day_bytes: float
    day: float
    paths: float
    sample: float
    closest: float
    get: float
    points: int
    swept: int
    unordered: int

    @property
    def node_day(self) -> float:
        """CPU seconds of the facilitator for a node and day."""
        renewals = (RENEWALS[0] * (SERVERS - 1) + RENEWALS[1]) / SERVERS
        comes = LIVES * (SERVERS - 1) / SERVERS * self.registration
        return comes + renewals * self.renewal + LOOKS * self.look + 144 * self.epoch / self.nodes


def run(tiny: bool = False, quick: bool = False) -> list[Figure]:
    costs = []
    for nodes in TINY if tiny else QUICK if quick else SIZES:
        step(f"{nodes:,} nodes", AT_LEAST + PER_NODE * nodes)
        if tiny:
            costs.append(measure(nodes, TINY_SERVERS))
        else:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                costs.append(pool.apply(measure, (nodes,)))
    figures = [figure for each in costs for figure in _figures(each)]
    return figures + _ratios(costs[0], costs[-1]) + names.run(tiny, quick) + introductions.run(tiny)


def measure(nodes: int, servers: int = SERVERS) -> Costs:
    network = Population(2 * nodes, max(nodes - SIGNED, 0) if nodes > ALL_SIGNED else 0, servers)
    network.until(START + EPOCH / 2)
    before = resident()
    with set_aside(), _collections() as pauses:
        network.collects = True
        batch = max(nodes // 1000, 1)
        for first in range(0, nodes, batch):
            network.register(range(first, min(first + batch, nodes)))
            network.until(START + EPOCH / 2 + REGISTERING * first / nodes)
        registration, unsigned = network.signed_busy / network.signed, (resident() - before) / nodes
        growing = max(pauses, default=0.0)
        pauses.clear()
        epochs = []
        for number in (1, 2):
            network.busy = network.longest = 0.0
            network.until(START + number * EPOCH + EPOCH / 2)
            epochs.append((network.busy, network.longest))
        pause = max(pauses, default=0.0)
    network.collects = False
    memory = (resident() - before) / nodes
    started = time.process_time()
    gc.collect()
    collection = time.process_time() - started
    gc.disable()  # whoever is at work would pay for all that there is
    some = range(max(nodes - ROUNDS, 0), nodes)
    renewal = _each(network, lambda: [network.renew(number) for number in some]) / len(some)
    ask = encode_record(RecordType.LIST)
    look = _each(network, lambda: [network.say(channel_of(number), ask) for number in some]) / len(some)
    network.heard.clear()

    client = Newcomer(network, nodes)
    client.start()
    known = client.closest(sha256(b"name").digest())[0]
    assert client.get(known.identity) == known
    start_bytes, start = client.bytes, client.busy
    paths = _median(client, client.paths)
    sample = _median(client, client.sample)
    closest = _median(client, lambda: client.closest(sha256(b"name").digest()))
    get = _median(client, lambda: client.get(known.identity))

    client.bytes, client.busy = 0, 0.0
    for number in range(3, 3 + EPOCHS):
        _live_on(network, client, number)
        network.heard.clear()
        while network.now < START + number * EPOCH + EPOCH / 2:
            network.until(network.now + 30)
            client.until(network.now)
        client.paths()
    day_bytes = client.bytes * DAY / EPOCH / EPOCHS + start_bytes  # each midnight all nodes change places
    day = client.busy * DAY / EPOCH / EPOCHS + start
    swept, points = _look_ups(network, nodes + 1, min(NAMES, nodes), in_order=True)
    unordered, _ = _look_ups(network, nodes + 2, min(SAMPLE, nodes), in_order=False)
    return Costs(
        nodes,
        memory,
        unsigned,
        registration,
        renewal,
        look,
        min(busy for busy, _ in epochs),
        max(block for _, block in epochs),
        collection,
        pause,
        growing,
        start_bytes,
        start,
        day_bytes,
        day,
        paths,
        sample,
        closest,
        get,
        points,
        swept,
        unordered,
    )


@contextmanager
def _collections() -> Iterator[list[float]]:
    """CPU seconds of each collection of garbage."""
    spent: list[float] = []
    started = 0.0

    def told(phase: str, info: dict[str, Any]) -> None:
        nonlocal started
        if phase == "start":
            started = time.process_time()
        else:
            spent.append(time.process_time() - started)

    gc.callbacks.insert(0, told)
    try:
        yield spent
    finally:
        gc.callbacks.remove(told)


def _live_on(network: Population, client: Newcomer, epoch: int) -> None:
    """What happens in ten minutes to the stable nodes that a client has heard of. They renew what they say every three
    hours. Half of the tabs end. As many of those that nobody has heard of become stable, somewhere on the ring."""
    for kept in client.knowledge.buckets:
        for member in kept.members if kept.bucket.kind == RingKind.STABLE else ():
            number = number_of(member.node)
            if network.is_tab(number) and number // LONG % 2 == epoch % 2:
                network.end(number)
            elif number // SERVERS % HELD == epoch % HELD:
                network.renew(number)


def _each(network: Population, act: Callable[[], object]) -> float:
    """CPU seconds of the facilitator."""
    before = network.busy
    act()
    return network.busy - before


def _median(client: Newcomer, act: Callable[[], object]) -> float:
    """CPU seconds of the client, of several times."""
    spent = []
    for _ in range(ROUNDS // 10):
        before = client.busy
        act()
        spent.append(client.busy - before)
    return statistics.median(spent)


def _look_ups(network: Population, number: int, count: int, *, in_order: bool) -> tuple[int, int]:
    """Buckets that a new client fetches for the points of many names, one after the other; and how many points."""
    client = Newcomer(network, number)
    client.start()
    header = client.knowledge.headers.newest
    assert header is not None
    value = header.value.value
    names = [sha256(b"%d" % number).digest() for number in range(count)]
    if in_order:
        sweep = Sweep(Outbox(), SeededRng("sweep"), names, lambda name, now: None)
        sweep.use((value,), network.now)
        names.sort(key=sweep.order)
    client.fetched.clear()
    points = set()
    for name in names:
        network.allow_fetches(client.channel)
        points.update(point.identity for point in client.closest(name)[:POINTS])
    return len(client.fetched), len(points)


def _figures(costs: Costs) -> list[Figure]:
    nodes = f"{costs.nodes:,} nodes"
    whole = costs.memory * costs.nodes
    names = min(NAMES, costs.nodes)
    return [
        Figure(f"{nodes}: registrations", 1 / costs.registration, "1/s", note="one core"),
        Figure(
            f"{nodes}: memory of the facilitator",
            costs.memory,
            "bytes/node",
            NODE_MEMORY,
            at_most=True,
            note=f"{whole / 1e6:,.0f} MB; {costs.unsigned:.0f} a node before an epoch is signed",
        ),
        Figure(f"{nodes}: CPU of the facilitator", costs.node_day * 1e3, "ms/node/day", note=_share(costs)),
        Figure(f"{nodes}: an epoch is signed", costs.epoch, "s"),
        Figure(f"{nodes}: its longest block, nodes placed anew", costs.block * 1e3, "ms"),
        Figure(f"{nodes}: a full collection of garbage", costs.collection * 1e3, "ms", note="of all objects"),
        Figure(f"{nodes}: the longest one that there was", costs.pause * 1e3, "ms", note=_growing(costs)),
        Figure(f"{nodes}: bytes of a client's start", costs.start_bytes / 1e3, "kB", START_BYTES / 1e3, True),
        Figure(f"{nodes}: CPU of it", costs.start * 1e3, "ms"),
        Figure(f"{nodes}: bytes of a client", costs.day_bytes / 1e3, "kB/day", DAY_BYTES / 1e3, True),
        Figure(f"{nodes}: CPU of it", costs.day, "s/day"),
        Figure(f"{nodes}: paths for {CIRCUITS} circuits", costs.paths * 1e3, "ms"),
        Figure(f"{nodes}: sample / closest / get", costs.sample * 1e6, "us", note=_times(costs)),
        Figure(f"{nodes}: points of {names:,} names, look-ups", costs.swept, "look-ups", note=_look_ups_note(costs)),
        Figure(f"{nodes}: circuits to them", costs.points, "circuits", note=f"one by one {POINTS * names:,}"),
    ]


def _share(costs: Costs) -> str:
    renewal, look = costs.renewal * 1e6, costs.look * 1e6
    return f"{costs.node_day * costs.nodes / DAY:.3f} of a core; {renewal:.0f} us a renewal, {look:.0f} us a header"


def _growing(costs: Costs) -> str:
    return f"{costs.growing * 1e3:,.0f} while all came"


def _times(costs: Costs) -> str:
    return f"closest {costs.closest * 1e6:.0f}, get {costs.get * 1e6:.1f} us"


def _look_ups_note(costs: Costs) -> str:
    names = min(NAMES, costs.nodes)
    others = f"{costs.unordered:,} for {min(SAMPLE, names):,}"
    return f"in the order that a node takes: {costs.swept / names:.3f} of one by one; in another order {others}"


def _ratios(small: Costs, large: Costs) -> list[Figure]:
    """What grows with the network, and what should not."""
    between = f"{large.nodes:,} / {small.nodes:,} nodes"
    flat = {
        "bytes of a client's start": large.start_bytes / small.start_bytes,
        "CPU of it": large.start / small.start,
        "bytes of a client's day": large.day_bytes / small.day_bytes,
        "paths": large.paths / small.paths,
        "sample": large.sample / small.sample,
        "closest": large.closest / small.closest,
        "get": large.get / small.get,
    }
    figures = [Figure(f"{between}: {name}", ratio, "times", FLAT, at_most=True) for name, ratio in flat.items()]
    grows = log(large.nodes) / log(small.nodes)
    for name, ratio in (
        ("a registration", large.registration / small.registration),
        ("a renewal", large.renewal / small.renewal),
    ):
        figures.append(Figure(f"{between}: {name}", ratio, "times", grows, at_most=True, note="log n"))
    return figures
