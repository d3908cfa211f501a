"""Many nodes that come and go, and what it costs to have them in one process.

Does: make a network of servers that stay and browsers' tabs that come and go; keep account of who found names how soon
and which transfers stood still; count what a node holds. Computes once what every node computes alike from the same
bytes.
Does not: leave anything out of a node: each is the product's `Node`, with the same inputs and outputs as elsewhere.

What is shared are pure functions: a signature that was verified once is not verified again by the next node, and equal
descriptors are one object. Secrets, handshakes and ciphers of links and circuits are each node's own.

*Full* tabs keep ready circuits and have files to offer and to get. *Light* ones have no traffic of their own
(`circuits=0`, as servers have): they register, renew, keep header and buckets fresh, relay for others, answer
introductions, are drawn for paths and die in the middle of them.
"""

from __future__ import annotations

import gc
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from sys import getsizeof
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from convergence import driver
from convergence.events import TransferDone
from convergence.facilitator import newcomers, publisher
from convergence.facilitator.registry import RegistryLimits
from convergence.netdir import buckets, bucketview, epochs, rings
from convergence.netdir.headers import EPOCH
from convergence.netdir.rings import Member
from convergence.outbox import Outbox
from convergence.wire.buckets import Bucket, Entry, EpochHeader
from convergence.wire.descriptor import Descriptor
from pynode.crypto import CPythonCrypto
from tests.sim import several
from tests.sim.past import be_old, past
from tests.sim.people import RELAY, get, share, transfer
from tests.sim.world import START, Host, World

REMEMBERED = 1 << 17
"""Results of each pure function: more than there are descriptors in use in a network of 10^4."""
LOOK_EVERY = 5.0
"""Seconds between two looks at transfers."""
STALLED = 30.0
"""Seconds without a byte, while the sender is there, after which a transfer counts as stalled."""
AWAY = (1.0, 20.0)
"""Seconds until a tab that was closed is opened again."""
TABS_LIVE = 600.0
"""Median, in seconds."""


def cheap(monkeypatch: Any, request: Any) -> None:
    """In this test (pytest's `request`). No host may sleep, nor have its clock set."""
    crypto, verify_it, parse_it = CPythonCrypto(), CPythonCrypto.ed25519_verify, Descriptor.parse

    @lru_cache(REMEMBERED)
    def verify(public: bytes, signature: bytes, message: bytes) -> bool:
        return verify_it(crypto, public, signature, message)

    @lru_cache(REMEMBERED)
    def parse(data: bytes) -> Descriptor:
        return parse_it(data)

    checked: dict[tuple[bytes, int, int], tuple[tuple[Entry, ...], tuple[Member, ...]]] = {}

    def check_bucket(header: EpochHeader, bucket: Bucket, known: Mapping[bytes, Entry]) -> tuple[Member, ...]:
        key = header.signature, bucket.kind, bucket.index
        entries = tuple(known.get(item) if isinstance(item, bytes) else item for item in bucket.items)
        if key not in checked or checked[key][0] != entries:
            members = check_it(header, bucket, known)  # what it refuses is not remembered
            while len(checked) >= REMEMBERED:
                del checked[next(iter(checked))]
            checked[key] = entries, members
        return checked[key][1]

    @lru_cache(REMEMBERED)
    def parse_bucket(data: bytes) -> Bucket:
        return parse_bucket_it(data)

    check_it, parse_bucket_it = rings.check_bucket, Bucket.parse
    monkeypatch.setattr(buckets, "check_bucket", check_bucket)
    monkeypatch.setattr(Bucket, "parse", staticmethod(lambda data: parse_bucket(bytes(data))))
    monkeypatch.setattr(CPythonCrypto, "ed25519_verify", lambda self, *arguments: verify(*map(bytes, arguments)))
    monkeypatch.setattr(Descriptor, "parse", staticmethod(lambda data: parse(bytes(data))))
    monkeypatch.setattr(driver, "HEARTBEAT", 3600.0)  # it finds jumps of the clock, and there are none
    monkeypatch.setattr(newcomers, "FREE_A_MINUTE", 1 << 20)  # the crowd comes at once: nobody is to solve puzzles
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)  # nearly all there is lives on: to look through it often is most of the work
    request.addfinalizer(lambda: gc.set_threshold(*before))


@dataclass
class File:
    owner: Host
    size: int
    link: str = ""


@dataclass(eq=False)
class Search:
    """Somebody opened a link."""

    file: File
    host: Host
    life: int
    transfer_id: str
    begun: float
    done: float | None = None
    bytes: int = 0
    moved: float = 0.0  # when bytes came last, or the sender came back
    stalled: bool = False

    @property
    def there(self) -> bool:
        """Whether whoever opened it is still the same."""
        return self.host.alive and self.host.life == self.life


class Crowd:
    """Servers `s0`... and tabs `t0`..., of which the first `full` are full.

    Args:
        circuits: ready ones of a full tab.
        large: told by header and buckets, instead of by a list.
        facilitators: more than one share a store (tests/sim/several.py); large then.
        settings: as World's.

    Attributes:
        settings: of the facilitator.
        ways: of each of several facilitators to their store.
    """

    def __init__(
        self,
        seed: int | str,
        *,
        servers: int,
        tabs: int,
        full: int,
        circuits: int = 2,
        large: bool = False,
        facilitators: int = 1,
        **settings: Any,
    ) -> None:
        begin = START - START % EPOCH - 30 if large else START
        self.world = world = World(seed, start=begin, **settings)
        self.chance = random.Random(f"{seed}-crowd")
        names = [f"s{number}" for number in range(servers)]
        self.settings: dict[str, Any] = {"limits": RegistryLimits(channels=1 << 15)}
        self.circuits = circuits
        self.ways: list[several.Way] = []
        if large:
            self.settings["list_up_to"] = 10
        if facilitators > 1:
            self.ways = several.facilitators(world, facilitators, past(world, names), **self.settings)
        else:
            if large:
                be_old(world, names)
            world.facilitator(**self.settings)
        self.servers = [self._add(name, rtc=True, circuits=0) for name in names]
        world.run(95)  # large: into the second epoch
        self.tabs = [
            self._add(f"t{number}", browser=True, circuits=circuits if number < full else 0) for number in range(tabs)
        ]
        self.full = self.tabs[:full]
        self.searches: list[Search] = []
        self.files: list[File] = []
        self.born: Callable[[Host], object] = lambda host: None
        self.births = 0
        self._late = count()
        world.later(LOOK_EVERY, self._look)

    def join(self) -> Host:
        """One more full tab."""
        return self._add(f"late{next(self._late)}", browser=True, circuits=self.circuits)

    def _add(self, name: str, **settings: Any) -> Host:
        host = self.world.add(name, RELAY, **settings)
        host.events = deque(host.events, maxlen=50)  # type: ignore[assignment]
        host.on_event = partial(self._heard, host)
        return host

    # -- lives

    def churn(self, hosts: Iterable[Host], median: float = TABS_LIVE) -> None:
        """Each of them ends after a while, drawn from an exponential distribution, and comes back as another node."""
        for host in hosts:
            self._live(host, median)

    def _live(self, host: Host, median: float) -> None:
        life = host.life

        def end() -> None:
            if host.alive and host.life == life:
                self.chance.choice([self.world.kill, self.world.leave, self.world.vanish])(host)
                self.world.later(self.chance.uniform(*AWAY), again)

        def again() -> None:
            if not host.alive:
                self.world.revive(host, anew=True)
                self.births += 1
                self._live(host, median)
                self.born(host)

        self.world.later(self.chance.expovariate(math.log(2) / median), end)

    # -- what people do

    def offer(self, owner: Host, data: bytes, name: str) -> File:
        file = File(owner, len(data))
        self.files.append(file)
        share(owner, data, partial(setattr, file, "link"), name=name)
        return file

    def want(self, host: Host, file: File) -> Search:
        search = Search(file, host, host.life, get(host, file.link), self.world.now, moved=self.world.now)
        if transfer(host, search.transfer_id).state == "done":
            search.done = search.begun  # it has the file of earlier
        self.searches.append(search)
        return search

    def _heard(self, host: Host, event: Any) -> None:
        if isinstance(event, TransferDone):
            for search in self.searches:
                if search.host is host and search.there and search.transfer_id == event.id:
                    search.done = search.done or self.world.now

    def _look(self) -> None:
        self.world.later(LOOK_EVERY, self._look)
        for search in self.searches:
            if search.done is not None or not search.there:
                continue
            known = transfer(search.host, search.transfer_id)
            if known.download.have_bytes != search.bytes or not search.file.owner.alive:
                search.bytes, search.moved = known.download.have_bytes, self.world.now
            elif self.world.now - search.moved > STALLED:
                search.stalled = True

    def late(self, within: float = 30.0) -> list[Search]:
        """Those that were not done so soon, though whoever searched was there for as long."""
        now = self.world.now
        return [
            search
            for search in self.searches
            if (search.done is None and search.there and now - search.begun > within)
            or (search.done is not None and search.done - search.begun > within)
        ]


def small_buckets(monkeypatch: Any) -> None:
    """Few nodes make many buckets."""
    monkeypatch.setattr(publisher, "MIN_POINTS", 10)
    monkeypatch.setattr(bucketview, "ENOUGH", 10)
    monkeypatch.setattr(bucketview, "ENOUGH_SAMPLED", 4)
    monkeypatch.setattr(bucketview, "SAMPLED", 33)
    monkeypatch.setattr(epochs, "MANY", 16)
    monkeypatch.setattr(epochs, "FEW", 6)


def node_size(node: Any) -> Counter[str]:
    """Entries of all tables, queues and lists that a node holds, by the attribute that holds them: "Class.attribute".
    What has been pushed to a timer or waits for an answer is found through its closure."""
    sizes: Counter[str] = Counter()
    for item, name in _held(node):
        if isinstance(item, (dict, list, set, frozenset, tuple, deque)):
            sizes[name] += len(item)
    return sizes


def node_bytes(node: Any) -> Counter[str]:
    """The same in bytes, with all that they hold. What nodes share in one process counts for each of them; keys and
    ciphers of other libraries have no size here."""
    sizes: Counter[str] = Counter()
    for item, name in _held(node):
        sizes[name] += getsizeof(item)
    return sizes


def _held(node: Any) -> Iterator[tuple[Any, str]]:
    seen: set[int] = set()
    waiting: list[tuple[Any, str]] = [(node, "")]
    while waiting:
        item, name = waiting.pop()
        if id(item) in seen or isinstance(item, _NOT_OF_A_NODE):
            continue
        seen.add(id(item))
        yield item, name
        if isinstance(item, dict):
            waiting += [(part, name) for pair in item.items() for part in pair]
        elif isinstance(item, (list, set, frozenset, tuple, deque)):
            waiting += [(part, name) for part in item]
        elif isinstance(item, FunctionType):
            cells = item.__closure__ or ()
            waiting += [(cell.cell_contents, name) for cell in cells] + [(item.__defaults__, name)]
        elif isinstance(item, MethodType):
            waiting.append((item.__self__, name))
        elif isinstance(item, partial):
            waiting += [(item.func, name), (item.args, name), (item.keywords, name)]
        elif type(item).__module__.startswith(("convergence", "pynode")):
            waiting += [(value, f"{type(item).__name__}.{key}") for key, value in _attributes(item)]


_NOT_OF_A_NODE = (type, ModuleType, BuiltinFunctionType, World, Host)


def _attributes(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, Outbox):  # cancelled timers are taken out now and then only
        yield "_timers", [timer for *_, timer in item._timers if timer.pending]
        item = SimpleNamespace(**{key: value for key, value in vars(item).items() if key != "_timers"})
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(item, name):
                yield name, getattr(item, name)
