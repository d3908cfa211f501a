"""Several facilitators on one store, and their nodes, in one process under a virtual clock."""

from __future__ import annotations

import re
from collections import defaultdict
from copy import deepcopy
from functools import partial

from convergence.driver import Driver
from convergence.effects import Failure, Protocol
from convergence.facilitator.questions import (
    Beat,
    Drop,
    Keep,
    Kept,
    Latest,
    Propose,
    Put,
    Read,
    Spend,
    Tell,
)
from convergence.facilitator.service import FacilitatorService
from convergence.netdir.nodes import NodeDirectory
from convergence.wire.descriptor import Descriptor
from convergence.wire.facilitator import ErrorCode, ErrorRecord, NodeList, RecordCutter, RecordType, encode_record
from tests.unit.facilitator.test_service import SENT
from tests.unit.facilitator.world import CRYPTO, SEED, Port, World, node_keys, registration

MARK = re.compile("([0-9]+):([0-9a-f]+):([0-9a-f]*)")


class Store:
    """What tests/interop/redis asks of a real one.

    Attributes:
        fault: None; "full": takes nothing; "silent": answers nothing for now; "away": cannot be reached.
        seen: all that was ever written or told.
    """

    def __init__(self, world):
        self.world = world
        self.fault = None
        self.links = {}  # by name of a facilitator
        self.late = []
        self.seen = []
        self.decisions = []
        self.clear()

    def clear(self):
        self.nodes, self.marks, self.sources = {}, {}, defaultdict(set)
        self.spent, self.decision, self.kept = defaultdict(list), (0, None), {}

    def backup(self, old=None):
        """All records as they are now; they are as in `old` then."""
        now = deepcopy((self.nodes, self.marks, self.sources))
        if old is not None:
            self.nodes, self.marks, self.sources = deepcopy(old)
        return now

    def lost(self):
        """It cannot be reached, and whoever asks hears so."""
        self.fault = "away"
        for link in self.links.values():
            link.run(lambda now, link=link: link.service.parted("connection refused", now))

    def back(self):
        before, self.fault = self.fault, None
        late, self.late = self.late, []
        for ask in late:
            ask()
        if before == "away":
            for link in self.links.values():
                link.run(link.service.joined)

    def publish(self, body, to=""):
        self.seen.append(body)
        listeners = [self.links[to]] if to in self.links else [] if to else list(self.links.values())
        for link in listeners:
            self.world.later(partial(link.told, body))
        return len(listeners)

    def answer(self, name, question):
        match question:
            case Put():
                return self.put(question)
            case Drop():
                return self.drop(question)
            case Read(after):
                keys = sorted(self.nodes)
                return [self.nodes[key] for key in keys[after : after + 2]], after + 2 if keys[after + 2 :] else 0
            case Tell(to, body):
                return self.publish(body, to)
            case Beat(body):
                self.publish(body)
                return Failure("full", "no memory") if self.fault == "full" else None
            case Spend(counters):
                now = self.world.time
                times = [self.spent[counter.name] for counter in counters]
                for counter, spent in zip(counters, times, strict=True):
                    if sum(now - when < counter.window for when in spent) >= counter.limit:
                        return False
                for spent in times:
                    spent.append(now)
                return True
            case Propose(number, value, after, begins):
                if self.fault == "full":
                    return Failure("full", "no memory")
                if number > self.decision[0] and after in (None, self.decision[0]) and self.world.time >= begins:
                    self.decision = number, value
                    self.decisions.append((number, value))
                return self.decision[1]
            case Latest():
                return self.decision[1]
            case Keep(name, value, lifetime):
                if self.fault == "full":
                    return Failure("full", "no memory")
                self.kept[name] = value, self.world.time + lifetime
            case Kept(name):
                value, until = self.kept.get(name, (None, 0))
                return value if self.world.time < until else None

    def put(self, put):
        if self.fault == "full":
            return Failure("full", "no memory")
        mark = self.marks.get(put.identity)
        if mark is None:
            if put.only_from is not None:
                return "held"
            if put.source and len(self.sources[put.source]) >= put.most_each:
                return "crowded"
            if len(self.nodes) >= put.most:
                return "full"
        else:
            published, digest, holder, source = mark
            if published > put.published or (published == put.published and digest != put.digest):
                return "stale"
            if put.only_from not in (None, holder):
                return "held"
            self.sources[source].discard(put.identity)
        self.nodes[put.identity] = put.body
        self.marks[put.identity] = (put.published, put.digest, put.holder, put.source)
        if put.source:
            self.sources[put.source].add(put.identity)
        self.publish(put.body)
        return "ok"

    def drop(self, drop):
        published, _, holder, source = self.marks.get(drop.identity, (float("inf"), "", "", ""))
        if published > drop.published or drop.only_from not in (None, holder):
            return False
        del self.nodes[drop.identity], self.marks[drop.identity]
        self.sources[source].discard(drop.identity)
        self.publish(drop.body)
        return True


class Link:
    """One facilitator's way to the store: a ports.SharedStore."""

    def __init__(self, store, service):
        self.store = store
        self.service = service
        self.port = None
        self.cut = False  # the store cannot be reached from here
        self.asleep = None  # what waits for a process that is paused

    def run(self, command):
        if self.asleep is not None:
            self.asleep.append(lambda: self.run(command))
        elif self.port in self.store.world.ports:
            self.port.driver.run(command)

    def told(self, body):
        if self.store.fault != "away" and not self.cut:
            self.run(lambda now: self.service.told(body, now))

    def cut_off(self):
        self.cut = True
        self.run(lambda now: self.service.parted("connection refused", now))

    def connected(self):
        self.cut = False
        self.run(self.service.joined)

    def consult(self, question, reply):
        def ask():
            if self.asleep is not None:
                self.asleep.append(ask)
            elif self.store.fault == "away" or self.cut:
                reply(Failure("io", "connection refused"))
            elif self.store.fault == "silent":
                self.store.late.append(ask)
            else:
                reply(self.store.answer(self.service.sharing.name.hex(), question))

        self.store.world.later(ask)


class Channel:
    """What a stranger sends to one facilitator, and what comes back: types of records, codes of errors."""

    def __init__(self, world, at):
        self.world = world
        self.answers = []
        self.ended = False
        self.hello = None
        self._cutter = RecordCutter(SENT)
        self.driver = self
        self._target = world.service_ports[at]
        self._number = self._target.driver.accept()
        self.peers = {1: (self._target, self._number)}
        self._target.peers[self._number] = (self, 1)
        self._target.driver.opened(self._number, Protocol.FACILITATOR)
        world.settle()

    def received(self, channel, data):
        for kind, body in self._cutter.feed(data):
            if kind is RecordType.HELLO:
                self.hello = body
            else:
                self.answers.append(ErrorCode(ErrorRecord.parse(body).code) if kind is RecordType.ERROR else kind)

    def closed(self, channel, reason):
        self.ended = True

    def send(self, data):
        self.world.later(lambda: self._target.driver.received(self._number, data))

    def register(self, descriptor):
        number = next(number for number in range(1, 10) if node_keys(number).identity == descriptor.identity)
        self.send(encode_record(RecordType.REGISTER, registration(number, self.hello, descriptor.encode())))

    def close(self):
        self.world.later(lambda: self._target.peers.pop(self._number) and self._target.driver.closed(self._number, ""))


class Skewed(Port):
    """Transport, timer and clock of a driver whose clock is wrong."""

    def __init__(self, world, skew):
        super().__init__(world)
        self.skew = skew

    def now(self):
        return self.world.now() + self.skew

    def elapsed(self):
        return self.world.elapsed()

    def arm(self, deadline):
        self.deadline = None if deadline is None else deadline - self.skew


class Several(World):
    """`count` facilitators. Nodes connect where `prefer` says, or to any that lives.

    Attributes:
        services: the facilitators, None for one that is dead; `told[i]`: events of each.
        source: where all channels come from.
    """

    def __init__(self, count=2, limits=None):
        self.limits = limits
        self.services, self.service_ports, self.told = [], [], []
        self.prefer = {}  # port of a node -> number of a facilitator
        self.count = count
        self.store = None
        self.source = ""
        super().__init__()

    def start_service(self):
        self.store = Store(self)
        for _ in range(self.count):
            self.start_one()
        self.settle()

    def start_one(self, skew=0.0):
        service = FacilitatorService(
            CRYPTO,
            self.rng,
            SEED,
            shared=True,
            version="1.0",
            limits=self.limits,
            list_up_to=0,
            source=lambda channel: self.source,
        )
        link = Link(self.store, service)
        events = []
        link.port = port = Skewed(self, skew)
        port.driver = Driver(service, port, port, port, shared=link, on_event=events.append)
        self.ports.append(port)
        self.store.links[service.sharing.name.hex()] = link
        self.services.append(service)
        self.service_ports.append(link.port)
        self.told.append(events)
        link.port.driver.run(service.start)
        if self.store.fault != "away":
            link.port.driver.run(service.joined)
        else:
            link.port.driver.run(lambda now: service.parted("connection refused", now))

    def kill_service(self, number):
        """Nobody says goodbye; the store stays."""
        del self.store.links[self.services[number].sharing.name.hex()]
        self.kill(self.service_ports[number])
        self.services[number] = None
        self.settle()

    def connect(self, port, channel, protocol, address):
        if protocol is Protocol.FACILITATOR:
            alive = [number for number, service in enumerate(self.services) if service is not None]
            number = self.prefer.get(port)
            self.service_port = self.service_ports[number if number in alive else alive[0]]
        super().connect(port, channel, protocol, address)

    def node(self, number, at, **options):
        """Node `number` registers at facilitator `at`."""
        machine = self.client(number, **options)
        self.prefer[machine.port] = at
        self.settle()
        return machine

    def channel(self, at):
        return Channel(self, at)

    def link(self, number):
        return self.store.links[self.services[number].sharing.name.hex()]

    def listed(self, number):
        nodes = NodeList.parse(self.services[number].signed_list(self.time))
        return {Descriptor.parse(raw).identity for raw in nodes.descriptors}

    def kinds_of(self, number):
        return [event.kind for event in self.told[number]]


def directory(data, now):
    """A node that takes over these lists, one after the other."""
    nodes = NodeDirectory(CRYPTO)
    for one in data:
        nodes.update(one, now)
    return nodes
