"""Whether a node answers at its address, as itself.

Does: dial, do the link handshake, and one circuit handshake with the keys of its descriptor; all within limits for each
source, each host, each address and in all.
Does not: decide what follows from it (reaching.py), or open sockets.

A WebSocket has no binding, so that CERTS can be copied from another link: the proof is ntor (CREATE2, CREATED2), which
only the owner of the descriptor's key can answer.

Anybody may register any address. So that nobody scans networks through a facilitator, an address is dialled once in
ADDRESS_PAUSE, a host DIALS_PER_HOST times a minute, and a failure is told FAILURE_TOLD seconds after the dial, whatever
it was that failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from functools import partial
from urllib.parse import urlsplit

from convergence.circuit.client import ClientCircuit
from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Protocol
from convergence.errors import DestroyReason, LocalError
from convergence.facilitator.questions import Counter as Limit
from convergence.limits import MINUTE, Once, PerMinute
from convergence.link.handshake import Handshake
from convergence.link.link import Link
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.descriptor import Descriptor

MAX_PROBES = 32
"""Probes under way..."""
MAX_PROBES_EACH = 4
"""...and how many of them for one source. Channels whose source is unknown ("") share half of all."""
MAX_WAITING_EACH = 256
"""Probes of one source that wait. One more is not done: its node comes back with its next registration."""
LOOKED_AT = 16
"""Of them, looked at in one turn of their source: where limits hold back many, the next ones have the next turn."""
MAX_SOURCES = 4096
"""Sources that wait."""
PROBES_PER_SOURCE = 30
"""First probes a minute for one source, as above..."""
DIALS_PER_HOST = 60
"""...and to one host, whoever asks."""
ADDRESS_PAUSE = 10.0
"""Seconds between two dials of one address at least."""
MAX_ADDRESSES = 8192
"""Addresses dialled in ADDRESS_PAUSE."""
STEP_TIMEOUT = 5.0
"""Seconds for each step: to a channel, to an open link, to CREATED2."""
FAILURE_TOLD = 3 * STEP_TIMEOUT
"""Seconds from a dial until its failure is told."""
LOOK_AGAIN = 1.0
"""Seconds until probes that a limit holds back are looked at again."""


class State(Enum):
    """Of one probe."""

    DIALLING = auto()
    SHAKING_HANDS = auto()
    PROVING = auto()
    PROVED = auto()
    FAILED = auto()


_FAILS = {"fail": State.FAILED, TIMEOUT: State.FAILED}
PROBE = Table(
    "probe of an address",
    State.DIALLING,
    {
        State.DIALLING: {"opened": State.SHAKING_HANDS, **_FAILS},
        State.SHAKING_HANDS: {"open": State.PROVING, **_FAILS},
        State.PROVING: {"built": State.PROVED, **_FAILS},
    },
    deadlines=dict.fromkeys((State.DIALLING, State.SHAKING_HANDS, State.PROVING), STEP_TIMEOUT),
)

Verdict = Callable[[Descriptor, bool, float], None]
"""Called with what was probed, whether it answered as itself, and `now`."""
Spend = Callable[[Sequence[Limit], Callable[[bool, float], None], float], None]
"""Asks whether all facilitators together may do this once more; answers by the callback."""


def _alone(limits: Sequence[Limit], then: Callable[[bool, float], None], now: float) -> None:
    """The only facilitator has kept its own limits, so it may."""
    then(True, now)


class Prober:
    """All probes of a facilitator.

    Args:
        keys: a link's initiator has some; over a WebSocket they are not shown.
        verdict: called once for each probe that began.
        spend: the limits of several facilitators.
    """

    def __init__(
        self, outbox: Outbox, crypto: Crypto, rng: Rng, keys: NodeKeys, verdict: Verdict, spend: Spend = _alone
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._verdict = verdict
        self._spend = spend
        self._waiting: dict[str, deque[tuple[Descriptor, bool]]] = {}  # by source, those whose turn is next first
        self._running: dict[int, _Probe] = {}  # by channel
        self._asking = 0  # probes that may begin if the others' limits allow
        self._under_way: Counter[str] = Counter()  # of both, by source
        self._by_source = PerMinute(outbox, PROBES_PER_SOURCE)
        self._by_host = PerMinute(outbox, DIALS_PER_HOST)
        self._addresses = Once(outbox, ADDRESS_PAUSE, MAX_ADDRESSES)
        self._again: Timer | None = None

    def probe(self, node: Descriptor, source: str, now: float, *, known: bool = False) -> None:
        """Find out about a node with an address. `known`: it has answered there before, so dialling scans nobody. The
        limits for first probes then do not hold it back, however often strangers name its address."""
        waiting = self._waiting.get(source)
        if waiting is None:
            if len(self._waiting) >= MAX_SOURCES:
                return
            waiting = self._waiting[source] = deque()
        for index, (other, _) in enumerate(waiting):
            if other.identity == node.identity:
                waiting[index] = (node, known)
                return
        if len(waiting) < MAX_WAITING_EACH:
            waiting.append((node, known))
        self._start((source,), now)

    # -- from the shell

    def knows(self, channel: int) -> bool:
        """Whether the channel is one of ours."""
        return channel in self._running

    def opened(self, channel: int, now: float) -> None:
        self._running[channel].opened(now)

    def data(self, channel: int, data: bytes, now: float) -> None:
        self._running[channel].data(data, now)

    def closed(self, channel: int, reason: str, now: float) -> None:
        self._running[channel].closed(reason, now)

    # -- turns

    def _start(self, sources: Iterable[str], now: float) -> None:
        """Begin what may begin of these sources, one of each in turn."""
        turns = deque(sources)
        while turns and len(self._running) + self._asking < MAX_PROBES:
            source = turns.popleft()
            if self._start_one(source, now):
                turns.append(source)
        if self._waiting and (self._again is None or not self._again.pending):
            self._again = self._outbox.call_at(now + LOOK_AGAIN, self._look_again)

    def _look_again(self, now: float) -> None:
        sources = list(self._waiting)
        first = int.from_bytes(self._rng.random(4), "big") % max(len(sources), 1)  # or the same ones would be first
        self._start(sources[first:] + sources[:first], now)

    def _start_one(self, source: str, now: float) -> bool:
        """Begin the next probe of this source, if it has one that may."""
        waiting = self._waiting.get(source, deque())
        if self._under_way[source] >= (MAX_PROBES_EACH if source else MAX_PROBES // 2):
            return False
        for _ in range(min(len(waiting), LOOKED_AT)):
            node, known = waiting.popleft()
            if self._may(node, source, now, known):
                if not waiting:
                    del self._waiting[source]
                self._under_way[source] += 1
                self._asking += 1
                self._spend(
                    () if known else self._limits(node, source),
                    partial(self._asked, node, source),
                    now,
                )
                return True
            waiting.append((node, known))
        return False

    def _asked(self, node: Descriptor, source: str, allowed: bool, now: float) -> None:
        self._asking -= 1
        if allowed:
            probe = _Probe(self._outbox, self._crypto, self._rng, self._keys, node, source, self._over, now)
            self._running[probe.channel] = probe
        else:
            self._under_way -= Counter([source])
            self.probe(node, source, now)  # not before ADDRESS_PAUSE

    def _limits(self, node: Descriptor, source: str) -> Sequence[Limit]:
        """Those of `_may`, which all facilitators count together."""
        host, port = _address(node)
        limits = [Limit(f"address {host} {port}", 1, ADDRESS_PAUSE), Limit(f"host {host}", DIALS_PER_HOST, MINUTE)]
        return limits + ([Limit(f"source {source}", PROBES_PER_SOURCE, MINUTE)] if source else [])

    def _may(self, node: Descriptor, source: str, now: float, known: bool) -> bool:
        """Whether this address may be dialled now; it is counted then."""
        if known:
            return True
        address = host, _ = _address(node)
        if self._addresses.seen(address, now):
            return False
        if not self._by_host.allows(host, now) or (source and not self._by_source.spend(source, now)):
            return False
        self._by_host.spend(host, now)
        return self._addresses.first(address, now)

    def _over(self, probe: _Probe, now: float) -> None:
        del self._running[probe.channel]
        self._under_way -= Counter([probe.source])  # drops those of which there is none left
        if probe.proved:
            self._verdict(probe.node, True, now)
        else:
            told = max(now, probe.since + self._outbox.shifted + FAILURE_TOLD)
            self._outbox.call_at(told, lambda now: self._verdict(probe.node, False, now))
        if len(self._running) < MAX_PROBES // 2:  # beyond, those who are slow would pass their places to each other
            self._start((probe.source,), now)


def _address(node: Descriptor) -> tuple[str | None, int]:
    assert node.ws_url is not None
    parts = urlsplit(node.ws_url)
    return parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)


class _Probe:
    """One probe, from its dial on."""

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        node: Descriptor,
        source: str,
        over: Callable[[_Probe, float], None],
        now: float,
    ) -> None:
        assert node.ws_url is not None
        self.node = node
        self.source = source
        self.since = outbox.steady(now)
        self.channel = outbox.connect(Protocol.LINK, node.ws_url, source)
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._over = over
        self._machine = StateMachine(PROBE, outbox, lambda state, now: self._end(now), now)
        self._link: Link | None = None

    @property
    def proved(self) -> bool:
        return self._machine.state is State.PROVED

    def opened(self, now: float) -> None:
        self._machine.move("opened", now)
        handshake = Handshake(
            self._crypto, self._rng, initiator=True, keys=self._keys, binding=None, expected=self.node.identity
        )
        self._link = Link(
            self._outbox,
            self._rng,
            self.channel,
            handshake,
            now,
            initiator=True,
            on_create=None,
            on_open=self._link_open,
            on_closed=lambda link, reason, now: self._fail(now),
        )

    def data(self, data: bytes, now: float) -> None:
        if self._link is not None:
            self._link.receive(data, now)

    def closed(self, reason: str, now: float) -> None:
        """The shell closed the channel, or could not open it."""
        link, self._link = self._link, None
        if link is not None:
            link.gone(reason, now)
        self._fail(now)

    def _link_open(self, link: Link, now: float) -> None:
        self._machine.move("open", now)
        try:
            ClientCircuit(
                self._outbox,
                self._crypto,
                self._rng,
                link,
                (self.node.target,),
                self._built,
                lambda circuit, reason, now: self._fail(now),
                now,
            )
        except LocalError:
            self._fail(now)

    def _built(self, circuit: ClientCircuit, now: float) -> None:
        self._machine.move("built", now)
        circuit.destroy(DestroyReason.FINISHED, now)
        self._end(now)

    def _fail(self, now: float) -> None:
        if not self._machine.final:
            self._machine.move("fail", now)
            self._end(now)

    def _end(self, now: float) -> None:
        """The machine is in its last state."""
        link, self._link = self._link, None
        if link is not None:
            link.close("this was a check", now)
        else:
            self._outbox.emit(CloseLink(self.channel, "this was a check"))
        self._over(self, now)
