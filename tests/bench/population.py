"""A network of many nodes, as a facilitator sees it: each is made from its number, and forgotten again.

Does: sign real descriptors and proofs; register nodes on channels of a real FacilitatorService, answer what it asks of
its storage, and charge to it the CPU time that it takes.
Does not: open sockets. Nobody dials nodes with an address: all of them are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any

from nacl.signing import SigningKey

from convergence.effects import CloseLink, Load, Protocol, Scan, Send, Store
from convergence.facilitator.registry import RegistryLimits
from convergence.facilitator.service import FacilitatorService
from convergence.netdir.draw import COMMIT_PHASE
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.descriptor import DESCRIPTOR_PREFIX, Descriptor, Transport, TransportKind
from convergence.wire.facilitator import Hello, RecordType, Register, encode_record, register_statement
from convergence.wire.target import Role
from tests.bench.lab import CRYPTO, RNG

EPOCH = 600
NOON = 20_700 * DAY + DAY // 2
"""When a network begins: Unix seconds."""
SEED = b"f" * 32
WITH_ADDRESS = 16
"""Every 16th node is a server. The others are browsers, which name three introducers."""
OF_NETWORK = 4
"""Nodes that come from one network."""
ROLES = Role.RELAY | Role.RDV


def key_of(number: int) -> SigningKey:
    return SigningKey(sha256(b"node %d" % number).digest())


def identity_of(number: int) -> bytes:
    return bytes(key_of(number).verify_key)


def network_of(number: int) -> str:
    """As the facilitator's shell names where a channel comes from."""
    network = number // OF_NETWORK
    return f"{network >> 16 & 255}.{network >> 8 & 255}.{network & 255}.0/24"


def describe(number: int, now: float, key: SigningKey | None = None) -> bytes:
    """The encoded descriptor of a node, signed."""
    key = key or key_of(number)
    if number % WITH_ADDRESS:
        # Identities of three others would take as long as all else: these look like some.
        way = Transport.rtc(sha256(b"%d of %d" % (at, number)).digest() for at in range(3))
    else:
        way = Transport(TransportKind.WS, f"wss://relay-{number}.example:9001/convergence")
    node = Descriptor(
        bytes(key.verify_key), sha256(b"onion %d" % number).digest(), int(now), int(now) + 3600, ROLES, (way,)
    )
    body = node.body()
    return body + key.sign(DESCRIPTOR_PREFIX + body).signature


def aged_values(day: int) -> bytes:
    """A stored draw in which all who come now are old enough to be rendezvous points."""
    fixed = (day + 2) * DAY + COMMIT_PHASE
    values = SharedValue(b"v" * 32, fixed).encode() + SharedValue(b"b" * 32, fixed - 1).encode()
    return day.to_bytes(4, "big") + values


class Network:
    """A facilitator and the nodes that are registered at it.

    Attributes:
        busy: CPU seconds of the facilitator so far.
        longest: of one call into it.
        answers: what it sent last, by channel.
    """

    def __init__(self, nodes: int) -> None:
        self.now = float(NOON)
        self.busy = self.longest = 0.0
        self.answers: dict[int, bytes] = {}
        self.closed: list[str] = []
        self.service = FacilitatorService(
            CRYPTO, RNG, SEED, source=self._source, limits=RegistryLimits(max(nodes, 1024), channels=max(nodes, 1024))
        )
        self.service._prober.probe = lambda node, source, now, known=False: self.service._reaching._probed(  # type: ignore
            node, True, now
        )
        self.work(self.service.start)

    def register(self, numbers: Iterable[int]) -> None:
        """Each on a channel of its own, which stays open."""
        for number in numbers:
            channel = 2 * number + 2
            self.work(lambda now, channel=channel: self.service.link_opened(channel, now, protocol=Protocol.FACILITATOR))  # type: ignore
            hello = Hello.parse(self.answers.pop(channel)[5:])
            key = key_of(number)
            proof = key.sign(register_statement(hello)).signature
            body = Register(proof, describe(number, self.now, key)).encode()
            self.say(channel, RecordType.REGISTER, body)
            self.answers.clear()

    def say(self, channel: int, kind: RecordType, body: bytes = b"") -> None:
        record = encode_record(kind, body)
        self.work(lambda now: self.service.link_data(channel, record, now))

    def work(self, call: Callable[[float], Any]) -> float:
        """Have the facilitator do something, and what follows. Returns CPU seconds."""
        started = time.process_time()
        call(self.now)
        effects: Sequence[Any] = self.service.poll(self.now)
        spent = time.process_time() - started
        while effects:
            for effect in effects:
                if isinstance(effect, Send):
                    self.answers[effect.channel] = effect.buffers[0]
                elif isinstance(effect, CloseLink):
                    self.closed.append(effect.reason)
            started = time.process_time()
            for effect in effects:
                if isinstance(effect, Store):
                    self.service.done(effect.request, None, self.now)
                elif isinstance(effect, Scan):
                    self.service.done(effect.request, [], self.now)
                elif isinstance(effect, Load):
                    values = aged_values(int(self.now // DAY)) if effect.key == b"draw" else None
                    self.service.done(effect.request, values, self.now)
            effects = self.service.poll(self.now)
            spent += time.process_time() - started
        self.busy += spent
        self.longest = max(self.longest, spent)
        return spent

    def until(self, when: float) -> None:
        """Time passes."""
        while (deadline := self.service.deadline()) is not None and deadline <= when:
            self.now = max(self.now, deadline)
            self.work(self.service.timer)
        self.now = when

    def _source(self, channel: int) -> str:
        return network_of(channel // 2 - 1)
