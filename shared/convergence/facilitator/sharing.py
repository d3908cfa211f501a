"""One of several facilitators: its side of the store that they share.

Does: read the store when it is there, keep who else is, notice when the store fails and when it works again; seal what
is left in the store.
Does not: know the store (questions.py), keep nodes (registry.py), or pass signals on (exchange.py).

Every facilitator keeps all nodes in memory: a store that fails stops nobody. It decides where two facilitators could
decide differently, and carries what they tell each other.

What is left there is encrypted and authenticated with ChaCha20-Poly1305 (RFC 8439). Each process has a random name, and
a key made of the facilitators' seed and that name by HKDF (RFC 5869), so that a counter is its nonce.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from math import inf
from typing import Any, Protocol

from convergence.crypto.kdf import hkdf_sha256, hmac_sha256
from convergence.effects import Failure
from convergence.errors import CryptoError, ParseError
from convergence.events import FacilitatorFound, FacilitatorLost, StorageTrouble, StorageWorks
from convergence.facilitator import questions
from convergence.facilitator.questions import Counter, Drop, Put, Question, ReadAll, Spend, Tell, Written
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.reader import Reader
from convergence.wire.sharedrandom import Draw
from convergence.wire.sharing import (
    NAME_LEN,
    NOBODY,
    Back,
    Beat,
    Decided,
    Drawn,
    Dropped,
    Forward,
    NodeRecord,
    Shared,
    encode_shared,
    parse_shared,
)

BEAT = 2.0
"""Seconds between two beats of a facilitator..."""
SILENT = 10.0
"""...and without one, until the others hold it for dead."""
QUESTION_TIMEOUT = 2.0
"""Seconds that a question may take; nodes wait for some of them."""
READ_TIMEOUT = 15.0
"""Seconds for reading all records."""
MAX_QUESTIONS = 1024
"""Questions under way. One more fails at once."""
MAX_FACILITATORS = 64


class State(Enum):
    """Of the store, as it looks from here."""

    AWAY = auto()  # cannot be reached
    READING = auto()
    SHARED = auto()
    AILING = auto()  # it takes nothing, or is slow
    LEFT = auto()  # this facilitator stops


_PART = {"part": State.AWAY, "leave": State.LEFT}
STORE = Table(
    "store of several facilitators",
    State.AWAY,
    {
        State.AWAY: {"join": State.READING, "leave": State.LEFT},
        State.READING: {"work": State.SHARED, "fail": State.AILING, TIMEOUT: State.AILING, **_PART},
        State.SHARED: {"fail": State.AILING, **_PART},
        State.AILING: {"read": State.READING, **_PART},
    },
    deadlines={State.READING: READ_TIMEOUT},
    standing={
        State.AWAY: "the shell connects again and says so",
        State.SHARED: "a question that fails, a beat among them; or the shell loses the store",
        State.AILING: "a beat, every two seconds, that the store takes; or the shell loses the store",
    },
)


class Seal:
    """Seals for every facilitator of one seed (32 bytes). `name`: of this process, used never again."""

    def __init__(self, crypto: Crypto, seed: bytes, name: bytes) -> None:
        self._crypto = crypto
        self._seed = seed
        self._name = name
        self._names = hkdf_sha256(seed, info=b"convergence:shared:names", length=32)
        self._sealed = 0

    def hidden(self, text: str) -> str:
        """What stands for a text in the store, 32 hexadecimal digits; "" for "". It tells nobody else the text."""
        return hmac_sha256(self._names, text.encode())[:NAME_LEN].hex() if text else ""

    def close(self, plain: bytes) -> bytes:
        self._sealed += 1
        counter = self._sealed.to_bytes(12, "big")
        return self._name + counter + self._crypto.chacha20poly1305_encrypt(self._key(self._name), counter, plain, b"")

    def open(self, data: bytes) -> tuple[bytes, int, bytes]:
        """Who sealed it, its number among what he sealed, and the content. Raises ParseError or CryptoError."""
        reader = Reader(data, "sealed item")
        name, counter = reader.take(NAME_LEN), reader.take(12)
        plain = self._crypto.chacha20poly1305_decrypt(self._key(name), counter, reader.rest(), b"")
        return name, int.from_bytes(counter, "big"), plain

    def _key(self, name: bytes) -> bytes:
        return hkdf_sha256(self._seed, info=b"convergence:shared:seal" + name, length=32)


class Nodes(Protocol):
    """Who is told of nodes that are registered elsewhere."""

    def read(self, records: Sequence[NodeRecord], now: float) -> None:
        """These are all records in the store."""

    def recorded(self, record: NodeRecord, now: float) -> None: ...

    def dropped(self, identity: bytes, published: int, now: float) -> None: ...

    def came(self, facilitator: bytes, now: float) -> None: ...

    def gone(self, facilitator: bytes, now: float) -> None: ...


class Signals(Protocol):
    """Who is told of signals."""

    def forwarded(self, sender: bytes, forward: Forward, now: float) -> None: ...

    def answered(self, sender: bytes, back: Back, now: float) -> None: ...

    def gone(self, facilitator: bytes, now: float) -> None: ...


class Headers(Protocol):
    """Who agrees on headers."""

    def works(self, now: float) -> None:
        """The store can be asked from now on. It may have lost what it had."""

    def decided(self, epoch: int, now: float) -> None:
        """Another one says that there is a header of this epoch."""

    def heard(self, draw: Draw, now: float) -> None:
        """Another one knows this of a draw."""


@dataclass(slots=True)
class Peer:
    """Another facilitator. `heard`: on the steady clock; `last`: number of what it sealed last, for old messages."""

    heard: float
    last: int
    beat: Beat | None = None


class Sharing:
    """Set `nodes`, `signals` and `headers` before `start`.

    Args:
        own: what this facilitator says of itself: channels, nodes.
    """

    nodes: Nodes
    signals: Signals
    headers: Headers

    def __init__(
        self, outbox: Outbox, crypto: Crypto, rng: Rng, seed: bytes, version: str, own: Callable[[], tuple[int, int]]
    ) -> None:
        self.name = rng.random(NAME_LEN)
        self.peers: dict[bytes, Peer] = {}
        self.trouble = ""  # kind of the last Failure, while there is trouble
        self.starting = True  # it is not known yet what the store has, nor that it cannot be asked
        self.joined_at = inf  # when the connection to the store was made
        self._outbox = outbox
        self._seal = Seal(crypto, seed, self.name)
        self._version = version
        self._own = own
        self._since = 0
        self._machine: StateMachine[State] | None = None
        self._under_way = 0

    @property
    def state(self) -> State:
        return State.AWAY if self._machine is None else self._machine.state

    @property
    def connected(self) -> bool:
        """Whether what is told others arrives, as far as is known."""
        return self.state in (State.SHARED, State.AILING)

    @property
    def works(self) -> bool:
        """Whether the store takes what is written."""
        return self.state is State.SHARED

    def hidden(self, text: str) -> str:
        return self._seal.hidden(text)

    def seal(self, item: Shared) -> bytes:
        """As it is left in the store."""
        return self._seal.close(encode_shared(item))

    def open(self, data: bytes) -> Shared | None:
        """What one of us has sealed; None if it is something else."""
        try:
            return parse_shared(self._seal.open(data)[2])
        except (ParseError, CryptoError):
            return None

    @property
    def rank(self) -> int:
        """This facilitator's place in an order that all agree on: 0 for the first of those that live."""
        return sum(sha256(name).digest() < sha256(self.name).digest() for name in self.peers)

    def there(self, facilitator: bytes) -> bool:
        """Whether this is a facilitator that lives, as far as is known."""
        return facilitator == self.name or facilitator in self.peers

    def start(self, now: float) -> None:
        self._since = int(now)
        self._machine = StateMachine(STORE, self._outbox, lambda state, now: None, now)
        self._next_beat(now)

    def leave(self, now: float) -> None:
        """Say goodbye: the others need not wait for our next beat."""
        self.tell_all(self._own_beat(leaves=True), now)
        if self._machine is not None:
            self._machine.move("leave", now)

    # From the shell

    def joined(self, now: float) -> None:
        """The store can be reached, and what is told there comes from now on."""
        if self._machine is None or self._machine.final:
            return
        if self._machine.allows("part"):
            self._machine.move("part", now)
        self._machine.move("join", now)
        self.joined_at = now
        for peer in self.peers.values():
            peer.heard = self._outbox.steady(now)  # nobody's beats were heard meanwhile
        self.ask(ReadAll(), self._all_read, now)

    def parted(self, reason: str, now: float) -> None:
        """The store cannot be reached."""
        if self._machine is not None and self._machine.allows("part"):
            self._machine.move("part", now)
        self._tell_trouble("io", reason)

    def told(self, data: bytes, now: float) -> None:
        """Somebody told us something. What is not of one of us, or not new, is ignored."""
        try:
            name, number, plain = self._seal.open(data)
            item = parse_shared(plain)
        except (ParseError, CryptoError):
            return
        if name == self.name:
            return
        peer = self.peers.get(name)
        if peer is None:
            if len(self.peers) >= MAX_FACILITATORS:
                return
            peer = self.peers[name] = Peer(0.0, 0)
            self.nodes.came(name, now)
        if number <= peer.last:
            return
        peer.last, peer.heard = number, self._outbox.steady(now)
        match item:
            case NodeRecord():
                self.nodes.recorded(item, now)
            case Dropped(identity, published):
                self.nodes.dropped(identity, published, now)
            case Forward():
                self.signals.forwarded(name, item, now)
            case Back():
                self.signals.answered(name, item, now)
            case Decided(epoch):
                self.headers.decided(epoch, now)
            case Drawn(draw):
                self.headers.heard(draw, now)
            case Beat():
                if peer.beat is None:
                    self._outbox.emit(FacilitatorFound(name.hex()[:8], item.version))
                peer.beat = item
                if item.leaves:
                    self._lost(name, "leaves", now)

    # Questions

    def put(
        self,
        record: NodeRecord,
        put: Callable[[bytes], Put],
        then: Callable[[Written | Failure, float], None],
        now: float,
    ) -> None:
        """`put` makes the question of the sealed record."""

        def answered(result: Any, now: float) -> None:
            then(result if isinstance(result, Failure) else Written(result), now)

        self.ask(put(self.seal(record)), answered, now)

    def drop(self, dropped: Dropped, source: str, only_from: str | None, now: float) -> None:
        """Also where the store is full: that helps."""
        if self.connected:
            body = self.seal(dropped)
            drop = Drop(dropped.identity, dropped.published, source, body, only_from)
            self.ask(drop, lambda result, now: None, now)

    def tell(self, to: bytes, item: Shared, then: Callable[[Any, float], None], now: float) -> None:
        """Tell one facilitator, or all (NOBODY). `then` gets how many listened, None if that is unknown, or a
        Failure."""
        name = "" if to == NOBODY else to.hex()
        self.ask(Tell(name, self.seal(item)), then, now)

    def tell_all(self, item: Shared, now: float) -> None:
        """If that can be done."""
        if self.connected:
            self.tell(NOBODY, item, lambda result, now: None, now)

    def spend(self, counters: Sequence[Counter], then: Callable[[bool, float], None], now: float) -> None:
        """Whether one more of each is within limits that all facilitators count together; True where the store does not
        say."""
        if not counters or not self.works:
            then(True, now)
            return
        hidden = [Counter(self.hidden(counter.name), counter.limit, counter.window) for counter in counters]
        self.ask(Spend(hidden), lambda result, now: then(isinstance(result, Failure) or bool(result), now), now)

    def ask(self, question: Question, then: Callable[[Any, float], None], now: float) -> None:
        """`then` is called once, within QUESTION_TIMEOUT, never before this returns."""
        waiting = True

        def end(result: Any, now: float) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                timer.cancel()
                if isinstance(result, Failure):
                    self._failed(result, now)
                then(result, now)

        def answered(result: Any, now: float) -> None:
            self._under_way -= 1
            end(result, now)

        limit = READ_TIMEOUT if isinstance(question, ReadAll) else QUESTION_TIMEOUT
        slow = Failure("slow", f"no answer in {limit:.0f} seconds")
        if self._under_way >= MAX_QUESTIONS:
            limit, slow = 0.0, Failure("slow", "too many questions wait for an answer")
        else:
            self._under_way += 1
            self._outbox.consult(question, answered)
        timer = self._outbox.call_at(now + limit, lambda now: end(slow, now))

    # How the store is

    def _all_read(self, result: list[bytes] | Failure, now: float) -> None:
        if isinstance(result, Failure) or self._machine is None or self.state is not State.READING:
            return  # a beat that works brings another try
        records = []
        for data in result:
            item = self.open(data)
            if isinstance(item, NodeRecord):
                records.append(item)
        self._machine.move("work", now)
        self.starting = False
        self.nodes.read(records, now)
        self._tell_works()
        self.headers.works(now)

    def _failed(self, failure: Failure, now: float) -> None:
        if self._machine is not None and self._machine.allows("fail"):
            self._machine.move("fail", now)
        self._tell_trouble(failure.kind, failure.message)

    def _next_beat(self, now: float) -> None:
        self._outbox.call_at(now + BEAT, self._next_beat)
        if self.connected:
            body = self.seal(self._own_beat())
            self.ask(questions.Beat(body), self._beaten, now)
            silent = self._outbox.steady(now) - SILENT
            for name in [name for name, peer in self.peers.items() if peer.heard < silent]:
                self._lost(name, "silent", now)

    def _own_beat(self, leaves: bool = False) -> Beat:
        return Beat(*self._own(), self._since, self._version, leaves)

    def _beaten(self, result: None | Failure, now: float) -> None:
        """The store takes again what is written: read what it has after all that it may have taken or not."""
        if not isinstance(result, Failure) and self._machine is not None and self.state is State.AILING:
            self._machine.move("read", now)
            self.ask(ReadAll(), self._all_read, now)

    def _lost(self, name: bytes, reason: str, now: float) -> None:
        del self.peers[name]
        self._outbox.emit(FacilitatorLost(name.hex()[:8], reason))
        self.nodes.gone(name, now)
        self.signals.gone(name, now)

    def _tell_trouble(self, kind: str, detail: str) -> None:
        """Once, until it works again."""
        self.starting = False
        if not self.trouble:
            self._outbox.emit(StorageTrouble(kind, detail))
        self.trouble = kind

    def _tell_works(self) -> None:
        if self.trouble:
            self.trouble = ""
            self._outbox.emit(StorageWorks())

    def health(self) -> dict[str, Any]:
        """JSON-able, for everybody: the store's state, and every facilitator, this one first."""
        own = self._own_beat()
        beats = [(self.name, own), *((name, peer.beat) for name, peer in sorted(self.peers.items()))]
        return {
            "store": {"state": self.state.name.lower(), "trouble": self.trouble},
            "facilitators": [
                {
                    "name": name.hex()[:8],
                    "channels": beat.channels,
                    "nodes": beat.nodes,
                    "since": beat.since,
                    "version": beat.version,
                }
                for name, beat in beats
                if beat is not None
            ],
        }
