"""One of several facilitators: its side of the store that they share.

Does: read the store when it is there, keep who else is, notice when the store fails and when it works again; seal what
is left in the store.
Does not: know the store (questions.py), keep nodes (registry.py), or pass signals on (exchange.py).

Every facilitator keeps all nodes in memory: a store that fails stops nobody. It decides where two facilitators could
decide differently, and carries what they tell each other.

What is left there is encrypted and authenticated with ChaCha20-Poly1305 (RFC 8439). Each process has a random name, and
a key made of the facilitators' seed and that name by HKDF (RFC 5869), so that a counter is its nonce.

Whoever can write there may say again what a facilitator once said. So each takes only what is numbered higher than all
that it heard of that one, and believes that somebody lives once his beat names it: its own name did not exist before.
Until then he is a stranger: his records of nodes count, for as long as those of one who died, and his signals do not.
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
from convergence.events import ClockTrouble, FacilitatorFound, FacilitatorLost, StorageTrouble, StorageWorks
from convergence.facilitator import questions
from convergence.facilitator.questions import Counter, Drop, Put, Question, Read, Spend, Tell, Written
from convergence.limits import TokenBucket
from convergence.outbox import Outbox, ignore
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
    Passed,
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
"""Seconds that some hundred records may take which are read."""
MAX_QUESTIONS = 1024
"""Questions under way. One more fails at once."""
MAX_TROUBLES = 8
"""Reasons that are told until the store works again."""
MAX_FACILITATORS = 64
CLOCKS_DIFFER = 30
"""Seconds between two clocks that are told: nodes refuse a list that is 60 seconds older than the one they have."""
MAX_STRANGERS = 1024
"""Those that were heard and do not live, as far as is known. One more, and the first is forgotten."""
GREETINGS_BURST = 8.0
"""Beats that answer strangers at once..."""
GREETINGS_PER_SECOND = 0.5
"""...and how fast that allowance comes back. The next beat answers the others."""


class State(Enum):
    """Of the store, as it looks from here."""

    AWAY = auto()  # cannot be reached
    READING = auto()
    SHARED = auto()
    AILING = auto()  # it takes nothing, as far as is known, or is slow
    LEFT = auto()  # this facilitator stops


_PART = {"part": State.AWAY, "leave": State.LEFT}
_FAIL = {"fail": State.AILING, **_PART}
STORE = Table(
    "store of several facilitators",
    State.AWAY,
    {
        State.AWAY: {"join": State.AILING, "leave": State.LEFT},
        State.READING: {
            "some": State.READING,
            "work": State.SHARED,
            "fail": State.AILING,
            TIMEOUT: State.AILING,
            **_PART,
        },
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
        self._keys: dict[bytes, bytes] = {}  # by name

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
        key = self._keys.get(name)
        if key is None:
            key = hkdf_sha256(self._seed, info=b"convergence:shared:seal" + name, length=32)
            if len(self._keys) >= MAX_FACILITATORS:
                self._keys.clear()
            self._keys[name] = key
        return key


class Nodes(Protocol):
    """Who is told of nodes that are registered elsewhere."""

    def reading(self) -> None:
        """All records in the store follow, one by one..."""

    def read(self, record: NodeRecord, now: float) -> None: ...

    def all_read(self, now: float) -> None:
        """...until here, or until they are read anew."""

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
    """Another facilitator, or a stranger. `heard`: on the steady clock; `last`: number of what it sealed last."""

    heard: float
    last: int
    beat: Beat | None = None
    ahead: int = 0  # its clock of ours, seconds


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
        self._strangers: dict[bytes, Peer] = {}
        self._greetings = TokenBucket(outbox, GREETINGS_PER_SECOND, GREETINGS_BURST)
        self._machine: StateMachine[State] | None = None
        self._under_way = 0  # questions
        self._readings = 0
        self._troubles: set[str] = set()

    @property
    def state(self) -> State:
        return State.AWAY if self._machine is None else self._machine.state

    @property
    def connected(self) -> bool:
        """Whether what is told others arrives, as far as is known."""
        return self.state not in (State.AWAY, State.LEFT)

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
        self.tell_all(self._own_beat(now, leaves=True), now)
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
        self._write_beat(now)

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
        peer = self.peers.get(name) or self._stranger(name)
        if number <= peer.last:
            return
        peer.last, peer.heard = number, self._outbox.steady(now)
        match item:
            case NodeRecord():
                self.nodes.recorded(item, now)
            case Dropped(identity, published):
                self.nodes.dropped(identity, published, now)
            case Decided(epoch):
                self.headers.decided(epoch, now)
            case Drawn(draw):
                self.headers.heard(draw, now)
            case Beat():
                self._beat(name, peer, item, now)
            case Passed(items) if name in self.peers:
                for one in items:
                    if isinstance(one, Forward):
                        self.signals.forwarded(name, one, now)
                    else:
                        self.signals.answered(name, one, now)

    def _stranger(self, name: bytes) -> Peer:
        if name not in self._strangers:
            self._estrange(name, Peer(0.0, 0))
        return self._strangers[name]

    def _estrange(self, name: bytes, peer: Peer) -> None:
        if len(self._strangers) >= MAX_STRANGERS:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[name] = peer

    def _beat(self, name: bytes, peer: Peer, beat: Beat, now: float) -> None:
        if name not in self.peers:
            self._greet(now)
            if self.name not in beat.hears or len(self.peers) >= MAX_FACILITATORS:
                return
            self.peers[name] = self._strangers.pop(name)
            self._outbox.emit(FacilitatorFound(name.hex()[:8], beat.version))
            self.nodes.came(name, now)
        before, peer.ahead = peer.ahead, beat.clock - int(now)
        if abs(before) <= CLOCKS_DIFFER < abs(peer.ahead):
            self._outbox.emit(ClockTrouble(name.hex()[:8], peer.ahead))
        peer.beat = beat
        if beat.leaves:
            self._lost(name, "leaves", now)

    def _greet(self, now: float) -> None:
        """So that nobody is a stranger for long: a beat out of turn, in which he finds his name."""
        if self._greetings.take(now):
            self.tell_all(self._own_beat(now), now)

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

    def drop(self, dropped: Dropped, only_from: str | None, now: float) -> None:
        """Also where the store is full: that helps."""
        if self.connected:
            drop = Drop(dropped.identity, dropped.published, self.seal(dropped), only_from)
            self.ask(drop, ignore, now)

    def tell(self, to: bytes, item: Shared, now: float, then: Callable[[Any, float], None] = ignore) -> None:
        """Tell one facilitator, or all (NOBODY). `then` gets how many listened, None if that is unknown, or a
        Failure."""
        name = "" if to == NOBODY else to.hex()
        self.ask(Tell(name, self.seal(item)), then, now)

    def tell_all(self, item: Shared, now: float) -> None:
        """If that can be done."""
        if self.connected:
            self.tell(NOBODY, item, now)

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

        limit = READ_TIMEOUT if isinstance(question, Read) else QUESTION_TIMEOUT
        slow = Failure("slow", f"no answer in {limit:.0f} seconds")
        if self._under_way >= MAX_QUESTIONS:
            limit, slow = 0.0, Failure("slow", "too many questions wait for an answer")
        else:
            self._under_way += 1
            self._outbox.consult(question, answered)
        timer = self._outbox.call_at(now + limit, lambda now: end(slow, now))

    # How the store is

    def _read(self, now: float) -> None:
        """Read all records. What is asked meanwhile does not wait for the last of them."""
        self._readings += 1
        reading = self._readings

        def some(result: tuple[list[bytes], int] | Failure, now: float) -> None:
            if isinstance(result, Failure) or self._machine is None or self.state is not State.READING:
                return  # a beat that works brings another try
            if reading != self._readings:
                return  # it has begun
            bodies, after = result
            for data in bodies:
                item = self.open(data)
                if isinstance(item, NodeRecord):
                    self.nodes.read(item, now)
            self._machine.move("some" if after else "work", now)
            if after:
                self.ask(Read(after), some, now)
            else:
                self.starting = False
                self.nodes.all_read(now)
                self._tell_works()
                self.headers.works(now)

        self.nodes.reading()
        self.ask(Read(), some, now)

    def _failed(self, failure: Failure, now: float) -> None:
        if self._machine is not None and self._machine.allows("fail"):
            self._machine.move("fail", now)
        if self.state is not State.AWAY:  # else it is known why
            self._tell_trouble(failure.kind, failure.message)

    def _next_beat(self, now: float) -> None:
        self._outbox.call_at(now + BEAT, self._next_beat)
        if self.connected:
            self._write_beat(now)
            heard = self._heard(self.peers, now)
            for name in [name for name in self.peers if name not in heard]:
                self._lost(name, "silent", now)

    def _write_beat(self, now: float) -> None:
        self.ask(questions.Beat(self.seal(self._own_beat(now))), self._beaten, now)

    def _heard(self, peers: dict[bytes, Peer], now: float) -> list[bytes]:
        """Those that are not silent."""
        silent = self._outbox.steady(now) - SILENT
        return [name for name, peer in peers.items() if peer.heard >= silent]

    def _own_beat(self, now: float, leaves: bool = False) -> Beat:
        hears = [*self.peers, *reversed(self._heard(self._strangers, now))][:MAX_FACILITATORS]
        return Beat(*self._own(), int(now), self._since, self._version, leaves, tuple(hears))

    def _beaten(self, result: None | Failure, now: float) -> None:
        """The store takes what is written: read what it has after all that it may have taken or not."""
        if not isinstance(result, Failure) and self._machine is not None and self.state is State.AILING:
            self._machine.move("read", now)
            self._read(now)

    def _lost(self, name: bytes, reason: str, now: float) -> None:
        self._estrange(name, self.peers.pop(name))
        self._outbox.emit(FacilitatorLost(name.hex()[:8], reason))
        self.nodes.gone(name, now)
        self.signals.gone(name, now)

    def _tell_trouble(self, kind: str, detail: str) -> None:
        """Each reason once, until it works again."""
        self.starting = False
        self.trouble = kind
        if detail not in self._troubles and len(self._troubles) < MAX_TROUBLES:
            self._troubles.add(detail)
            self._outbox.emit(StorageTrouble(kind, detail))

    def _tell_works(self) -> None:
        self.trouble = ""
        if self._troubles:
            self._troubles.clear()
            self._outbox.emit(StorageWorks())

    def health(self) -> dict[str, Any]:
        """JSON-able, for everybody: the store's state, and every facilitator, this one first."""
        own = Peer(0.0, 0, Beat(*self._own(), 0, self._since, self._version))
        all = {self.name: own} | dict(sorted(self.peers.items()))
        return {
            "store": {"state": self.state.name.lower(), "trouble": self.trouble},
            "facilitators": [
                {
                    "name": name.hex()[:8],
                    "channels": peer.beat.channels,
                    "nodes": peer.beat.nodes,
                    "since": peer.beat.since,
                    "version": peer.beat.version,
                    "ahead": peer.ahead if abs(peer.ahead) > CLOCKS_DIFFER else 0,
                }
                for name, peer in all.items()
                if peer.beat is not None
            ],
        }
