"""A network of many nodes, as its facilitator sees it. Each node is made from its number, and forgotten again.

One in `SERVERS` stays for ever. The others are tabs, which live for 10 minutes (median, of an exponential
distribution): as many come as go. Most of them are never in a bucket that a client keeps, so it is enough that they
always have just come. One of `LONG` is there for two hours, and ends as soon as any.

Does: sign real descriptors and proofs; register nodes on channels of a real FacilitatorService, answer what it asks of
its storage, and count the CPU time that it takes.
Does not: open sockets. Nobody dials the nodes with addresses: all of them count as found. Newcomers pay nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from nacl.signing import SigningKey

from convergence.effects import CloseLink, Load, Protocol, Scan, Send, Store
from convergence.facilitator.registry import RegistryLimits
from convergence.facilitator.service import FETCHES_BURST, FacilitatorService
from convergence.netdir.draw import COMMIT_PHASE
from convergence.ports import Buffer
from convergence.wire.buckets import DAY, SharedValue
from convergence.wire.certs import SIGNATURE_LEN
from convergence.wire.descriptor import DESCRIPTOR_PREFIX, Descriptor, Transport, TransportKind
from convergence.wire.facilitator import Hello, RecordType, Register, encode_record, register_statement
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto
from pynode.garbage import PAUSE
from tests.bench.lab import CRYPTO, RNG

START = float(20_700 * DAY + DAY // 2)
"""When a network begins, Unix seconds: at noon, with an epoch."""
OLD = int(START) - 10 * DAY
"""Since when the facilitator knows the servers: so they may be rendezvous points..."""
STABLE = int(START) - 4 * 3600
"""...tabs that live for long..."""
YOUNG = int(START) + DAY
"""...and other tabs: later than any time of a bench."""
LONG = 1 << 12
SEED = b"f" * 32
SERVERS = 15
"""Every 15th node is a server, unless a network says otherwise. The others are browsers, which name three
introducers."""
OF_NETWORK = 4
"""Nodes that come from one network."""
LIFETIME = 6 * 3600
ROLES = Role.RELAY | Role.RDV
HEADER_LEN = 5  # of a record
NO_SIGNATURE = bytes(SIGNATURE_LEN)
_SIGNER, _SIGNATURE = CRYPTO.ed25519_public(SEED), CRYPTO.ed25519_sign(SEED, b"something else")
REST = 150.0
"""Seconds after which all nodes say something, lest their channels count as idle."""


class Unsigned(CPythonCrypto):
    """Cryptography for which nodes need not sign.

    Args:
        pays: whether each check of what is not signed takes as long as if it were.
    """

    def __init__(self, pays: bool = False) -> None:
        super().__init__()
        self._pays = pays

    def ed25519_verify(self, public: bytes, signature: bytes, message: Buffer) -> bool:
        if signature != NO_SIGNATURE:
            return super().ed25519_verify(public, signature, message)
        if self._pays:
            super().ed25519_verify(_SIGNER, _SIGNATURE, bytes(message))
        return True


def key_of(number: int) -> SigningKey:
    return SigningKey(sha256(b"node %d" % number).digest())


def network_of(number: int) -> str:
    """As the facilitator's shell names where a channel comes from."""
    network = number // OF_NETWORK
    return f"{network >> 16 & 255}.{network >> 8 & 255}.{network & 255}.0/24"


def describe(number: int, now: float, key: SigningKey | None, servers: int = SERVERS) -> bytes:
    """The encoded descriptor of a node, signed if there is a key. Its ntor key is no key: it tells the number."""
    identity = sha256(b"identity %d" % number).digest() if key is None else bytes(key.verify_key)
    if number % servers:
        # Real identities would take as long to make as all else: these only look like some.
        way = Transport.rtc(sha256(b"%d of %d" % (at, number)).digest() for at in range(3))
    else:
        way = Transport(TransportKind.WS, f"wss://relay-{number}.example:9001/convergence")
    ntor_key = number.to_bytes(8, "big") + sha256(b"%d" % number).digest()[8:]
    dates = int(now), int(now) + LIFETIME
    body = Descriptor(identity, ntor_key, *dates, ROLES, (way,)).body()
    return body + (NO_SIGNATURE if key is None else key.sign(DESCRIPTOR_PREFIX + body).signature)


def number_of(node: Descriptor) -> int:
    """The number it was made from."""
    return int.from_bytes(node.ntor_key[:8], "big")


def channel_of(number: int) -> int:
    return 2 * number + 2


class Population:
    """A facilitator and the nodes that are registered at it.

    Args:
        most: nodes that it takes.
        signed_from: number of the first node that has keys. Those before it sign nothing.
    servers: of so many nodes, one is a server.

    Attributes:
        nodes: how many have registered; signed: of them, with signatures; signed_busy: CPU seconds for these.
        busy: CPU seconds of the facilitator so far.
        longest: of one call into it.
        heard: what it sent, by channel, until somebody takes it.
        collects: whether garbage is collected each second, as in a facilitator's process.
    """

    def __init__(self, most: int, signed_from: int = 0, servers: int = SERVERS) -> None:
        self.nodes = self.signed = 0
        self.signed_busy = 0.0
        self._signed_from = signed_from
        self._servers = servers
        self._since = 0
        self.now = START
        self.busy = self.longest = 0.0
        self.heard: dict[int, list[bytes]] = {}
        self.collects = False
        self._rested = self._collected = START
        limits = RegistryLimits(most, channels=most)
        self.service = FacilitatorService(
            Unsigned(), RNG, SEED, source=lambda channel: network_of(channel // 2 - 1), limits=limits, list_up_to=64
        )
        self.service._prober.probe = self._probe  # type: ignore[method-assign]
        self.service._newcomers.puzzle = lambda channel, now: None  # type: ignore[method-assign]  # nobody pays
        ages = self.service._publisher._ages  # type: ignore[union-attr]
        came = ages.came
        ages.came = lambda *arguments: came(*arguments) and self._since  # type: ignore[method-assign]
        self.work(self.service.start)

    def register(self, numbers: Iterable[int]) -> None:
        """Each on a channel of its own, which stays open."""
        for number in numbers:
            channel, before = channel_of(number), self.busy
            self.work(partial(self.service.link_opened, channel, protocol=Protocol.FACILITATOR))
            self.renew(number, Hello.parse(self.heard.pop(channel)[0][HEADER_LEN:]))
            if self.heard.pop(channel)[0][4] != RecordType.REGISTERED:
                raise AssertionError("a node was refused")
            self.nodes += 1
            if number >= self._signed_from:
                self.signed += 1
                self.signed_busy += self.busy - before

    def renew(self, number: int, hello: Hello | None = None) -> None:
        """The node registers, with a descriptor of now."""
        self._since = OLD if not self.is_tab(number) else STABLE if number % LONG == 1 else YOUNG
        hello = hello or Hello(self.service.identity, self.service._channels[channel_of(number)].nonce)
        key = key_of(number) if number >= self._signed_from else None
        proof = NO_SIGNATURE if key is None else key.sign(register_statement(hello)).signature
        body = Register(proof, describe(number, self.now, key, self._servers)).encode()
        self.say(channel_of(number), encode_record(RecordType.REGISTER, body))

    def is_tab(self, number: int) -> bool:
        return number % self._servers > 0

    def end(self, number: int) -> None:
        """A node is gone, if it was there."""
        registry = self.service._registry
        for node in [node for node in registry.nodes.values() if channel_of(number) in node.channels]:
            self.work(partial(registry.drop, node, "disconnected"))

    def allow_fetches(self, channel: int) -> None:
        """Whoever comes on it has rested."""
        self.service._channels[channel].fetches.left = FETCHES_BURST

    def say(self, channel: int, data: bytes) -> float:
        """Something comes on this channel. Returns CPU seconds."""
        return self.work(lambda now: self.service.link_data(channel, data, now))

    def work(self, call: Callable[[float], Any]) -> float:
        """Have the facilitator do something, and what follows. Returns CPU seconds."""
        started = time.process_time()
        call(self.now)
        effects: Sequence[Any] = self.service.poll(self.now)
        spent = time.process_time() - started
        while effects:
            for effect in effects:
                if isinstance(effect, Send):
                    self.heard.setdefault(effect.channel, []).extend(effect.buffers)
                elif isinstance(effect, CloseLink):
                    raise AssertionError(f"a channel was closed: {effect.reason}")
            started = time.process_time()
            for effect in effects:
                self._store(effect)
            effects = self.service.poll(self.now)
            spent += time.process_time() - started
        self.busy += spent
        self.longest = max(self.longest, spent)
        return spent

    def until(self, when: float) -> None:
        """Time passes, and no channel is idle."""
        while self.now < when:
            if self.now >= self._rested + REST:
                self._rested = self.now
                for state in self.service._channels.values():
                    state.machine.extend(state.machine._since + REST)  # each at a time of its own
            then = min(when, self._rested + REST)
            while (deadline := self.service.deadline()) is not None and deadline <= then:
                self.now = max(self.now, deadline)
                self.work(self.service.timer)
                self._collect()
            self.now = then
            self._collect()

    def _collect(self) -> None:
        if self.collects and self.now >= self._collected + PAUSE:
            self._collected = self.now
            self.work(lambda now: gc.collect())

    def _store(self, effect: object) -> None:
        """A storage that has two values, for which all nodes are old enough."""
        if isinstance(effect, Store):
            self.service.done(effect.request, None, self.now)
        elif isinstance(effect, Scan):
            self.service.done(effect.request, [], self.now)
        elif isinstance(effect, Load):
            day = int(self.now // DAY)
            fixed = (day - 1) * DAY + COMMIT_PHASE
            values = SharedValue(b"v" * 32, fixed).encode() + SharedValue(b"b" * 32, fixed - DAY).encode()
            self.service.done(
                effect.request, day.to_bytes(4, "big") + values + bytes(2) if effect.key == b"draw" else None, self.now
            )

    def _probe(self, node: Descriptor, source: str, now: float, *, known: bool = False) -> None:
        self.service._reaching._probed(node, True, now)
