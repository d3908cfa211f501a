"""Entry guards of the Tor network (guard-spec): the few relays that all circuits of a client begin with.

Does: sample guards from the consensus, keep them over restarts, confirm those that worked, use the primary ones while
any of them works, try others only if none does, and retry those that failed after a while.
Does not: know what a circuit is for, or the rest of its path (torpath.py).

A client that takes a new guard whenever one fails has, sooner or later, one of every attacker who can make guards fail.
So the sample is bounded, and what fails is kept and tried again. A guard is said to have failed only by whoever had no
answer from itself. What goes wrong behind it says nothing of it.

A circuit through a guard that is not primary may be built, but it waits: it is used only when all better guards have
failed too, and given up when one of them has worked or nobody is trying it. `USE` is the table of this.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from convergence.chance import choose, fraction
from convergence.codes import PathWhy
from convergence.errors import ParseError, Problem
from convergence.netdir.tor import TorView
from convergence.outbox import Outbox
from convergence.path.guardrecord import Guard, GuardParams, Reachable, decode_guards, encode_guards
from convergence.path.weights import Lottery, Position, Suits, is_guard
from convergence.ports import Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.consensus import RelayStatus

BUCKET = "guard"
IDLE_TIMEOUT = 600.0
"""Seconds that a circuit waits for better guards (NONPRIMARY_GUARD_IDLE_TIMEOUT)."""


class Stage(Enum):
    """Of one use of a guard."""

    BUILDING = auto()
    WAITING = auto()
    COMPLETE = auto()
    GONE = auto()


_BEST, _WAITS, _OVER = "best", "waits", "over"
USE = Table(
    "use of a guard",
    Stage.BUILDING,
    {
        Stage.BUILDING: {_BEST: Stage.COMPLETE, _WAITS: Stage.WAITING, _OVER: Stage.GONE},
        Stage.WAITING: {_BEST: Stage.COMPLETE, _OVER: Stage.GONE, TIMEOUT: Stage.GONE},
        Stage.COMPLETE: {_OVER: Stage.GONE},
    },
    deadlines={Stage.WAITING: IDLE_TIMEOUT},
    standing={
        Stage.BUILDING: "whoever builds the circuit has a deadline for each hop",
        Stage.COMPLETE: "the circuit ends",
    },
)


class GuardUse:
    """One circuit that begins with a guard. Whoever asked for it says how it went: `worked` or `failed`, and `over`
    when the circuit is gone for whatever reason.

    Attributes:
        status: the guard.
        primary: whether the circuit may be used as soon as it stands.
        on_usable: called with `now` when it may be, from within `worked` or later.
        on_over: called with `now` when it has waited and is not to be used any more: for too long, or because there are
            better ones.
    """

    def __init__(
        self, owner: Guards, outbox: Outbox, guard: Guard, status: RelayStatus, suits: Suits, now: float
    ) -> None:
        self.status = status
        self.guard = guard
        self.suits = suits
        self.primary = guard in owner.primary
        self.on_usable: Callable[[float], None] = lambda now: None
        self.on_over: Callable[[float], None] = lambda now: None
        self.started = outbox.steady(now)
        self.machine = StateMachine(USE, outbox, self._timed_out, now)
        self._owner = owner

    @property
    def stage(self) -> Stage:
        return self.machine.state

    def worked(self, now: float) -> None:
        """The circuit stands. Does nothing the second time."""
        if self.stage is Stage.BUILDING:
            self._owner.worked(self, now)

    def failed(self, now: float) -> None:
        """The guard itself cannot be reached, or did not answer as it should."""
        if self.stage is Stage.BUILDING:
            self._owner.failed(self, now)
        self.over(now)

    def over(self, now: float) -> None:
        """The circuit is gone. Says nothing about the guard. Idempotent."""
        if self.stage is not Stage.GONE:
            self.machine.move(_OVER, now)
            self._owner.ended(self, now)

    def _timed_out(self, stage: Stage, now: float) -> None:
        self._owner.ended(self, now)
        self.on_over(now)


class Guards:
    """The guards of one client on one network. `restore`, then `update`, come before all else.

    Args:
        network: names the network in the store.
    """

    def __init__(self, outbox: Outbox, rng: Rng, network: str) -> None:
        self.primary: list[Guard] = []
        self._outbox = outbox
        self._rng = rng
        self._key = network.encode()
        self._sample: list[Guard] = []  # in the order in which they were sampled
        self._confirmed: list[Guard] = []  # in the order in which they were confirmed
        self._uses: dict[GuardUse, None] = {}
        self._view: TorView | None = None
        self._guards: list[RelayStatus] = []  # all that there are
        self._params = GuardParams()
        self._online = float("-inf")  # when a guard last worked, in steady time
        self._saved = b""

    def restore(self, now: float, then: Callable[[float], None]) -> None:
        """Read what earlier runs kept; then(now) follows, whatever storage answers."""

        def loaded(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                try:
                    self._sample, self._confirmed = decode_guards(value)
                except ParseError:
                    pass  # another version wrote it: we know nothing then
            then(now)

        self._outbox.load(BUCKET, self._key, loaded)

    def update(self, view: TorView, now: float) -> None:
        """The consensus is a new one. One that is not live adds guards to the sample, but takes none away: with a clock
        that is wrong, all would be gone."""
        self._view = view
        self._guards = [status for status in view.relays if is_guard(status)]
        self._params = GuardParams.of(view.consensus)
        consensus = view.consensus
        for guard in self._sample:
            listed = self._listed(guard) is not None
            if listed:
                guard.unlisted = None
            elif guard.unlisted is None:
                guard.unlisted = self._before(consensus.valid_after, self._params.unlisted_lifetime / 5)
        if consensus.valid_after <= now < consensus.valid_until:
            for guard in self._sample:
                guard.correct(now)
            kept = [guard for guard in self._sample if not guard.expired(self._params, now)]
            self._sample = kept
            self._confirmed = [guard for guard in self._confirmed if guard in kept]
        self._expand(now)
        self._choose_primary()
        self._save()

    def needed(self, now: float) -> list[RelayStatus]:
        """The primary guards that circuits would begin with now, whether their microdescriptors are known or not. While
        they are not, no circuit is to be built: who withholds them would get us to use other guards (guard-spec
        4.12)."""
        self._retry(now)
        found = [self._listed(guard) for guard in self.primary if guard.reachable is not Reachable.NO]
        return [status for status in found if status is not None][: self._params.primary_used]

    def select(self, suits: Suits, now: float, *, directory: bool = False) -> GuardUse:
        """The guard for one circuit (guard-spec 4.6).

        Args:
            suits: what this circuit asks of its guard.
            directory: whether the circuit goes to the guard itself, to ask it for documents.

        Raises Problem (PathWhy.NO_ENTRY).
        """
        self._retry(now)
        guard = self._select(suits, directory, now)
        if guard is None:
            self._forgive(suits)
            guard = self._select(suits, directory, now)
        status = None if guard is None else self._listed(guard)
        if guard is None or status is None:
            raise Problem(PathWhy.NO_ENTRY)
        guard.tried = self._outbox.steady(now)
        use = GuardUse(self, self._outbox, guard, status, suits, now)
        self._uses[use] = None
        if not use.primary:
            guard.pending = True
            self._outbox.call_at(now + self._params.connect_timeout, self._update_waiting)
        return use

    # -- what uses tell

    def worked(self, use: GuardUse, now: float) -> None:
        guard, steady = use.guard, self._outbox.steady(now)
        guard.worked(steady)
        if guard not in self._confirmed and guard in self._sample:
            guard.confirmed = self._before(now, self._params.confirmed_lifetime / 10)
            self._confirmed.append(guard)
            self._choose_primary()
            self._save()
        offline = steady - self._online > self._params.offline_after
        self._online = steady
        if offline and not use.primary:  # our line was down: that the primary guards failed proves nothing
            for primary in self.primary:
                if primary.reachable is Reachable.NO:
                    primary.reachable = Reachable.MAYBE
        if use.primary:
            self._complete(use, now)
            self._look_later(now)
        else:
            use.machine.move(_WAITS, now)
            if self._better(use, now) is None:
                self._complete(use, now)
            self._look_later(now)

    def failed(self, use: GuardUse, now: float) -> None:
        """A guard that has worked since this use began is not to blame."""
        if use.guard.answered < use.started:
            use.guard.failed(self._rng, self._outbox.steady(now), use.guard in self.primary)

    def ended(self, use: GuardUse, now: float) -> None:
        self._uses.pop(use, None)
        use.guard.pending = any(
            other.guard is use.guard and other.stage is Stage.BUILDING and not other.primary for other in self._uses
        )
        self._look_later(now)

    # -- inside

    def _look_later(self, now: float) -> None:
        if any(use.stage is Stage.WAITING for use in self._uses):
            self._outbox.call_at(now, self._update_waiting)

    def _listed(self, guard: Guard) -> RelayStatus | None:
        """Its entry in the consensus, if it is a guard there."""
        assert self._view is not None
        status = self._view.get(guard.identity)
        return status if status is not None and is_guard(status) else None

    def _usable(self, guard: Guard, suits: Suits) -> bool:
        status = self._listed(guard)
        return status is not None and guard.reachable is not Reachable.NO and suits(status)

    def _select(self, suits: Suits, directory: bool, now: float) -> Guard | None:
        params = self._params
        primary = [guard for guard in self.primary if self._usable(guard, suits)]
        if primary:
            return choose(self._rng, primary[: params.directory_used if directory else params.primary_used])
        self._expand(now)
        confirmed = [guard for guard in self._confirmed if guard not in self.primary and self._usable(guard, suits)]
        others = [
            guard
            for guard in self._sample
            if guard.confirmed is None and guard not in self.primary and self._usable(guard, suits)
        ]
        return next((guard for guard in (*confirmed, *others) if not guard.pending), next(iter(confirmed), None))

    def _forgive(self, suits: Suits) -> None:
        """If all that suit have failed, perhaps our line did: each is worth another try."""
        listed = [(guard, self._listed(guard)) for guard in self._sample]
        suiting = [guard for guard, status in listed if status is not None and suits(status)]
        if all(guard.reachable is Reachable.NO for guard in suiting):
            for guard in suiting:
                guard.reachable = Reachable.MAYBE

    def _retry(self, now: float) -> None:
        steady = self._outbox.steady(now)
        for guard in self._sample:
            if guard.reachable is Reachable.NO and steady >= guard.retry_at:
                guard.reachable = Reachable.MAYBE

    def _expand(self, now: float) -> None:
        """Sample more, while too few are usable and there is room."""
        assert self._view is not None
        usable = sum(self._usable(guard, lambda status: True) for guard in self._sample)
        room = self._params.max_sample(len(self._guards)) - len(self._sample)
        lacking = min(self._params.min_filtered - usable, room)
        if lacking <= 0:
            return
        lottery = Lottery(self._view.consensus, self._guards, Position.GUARD)
        sampled = {guard.identity for guard in self._sample}
        for _ in range(lacking):
            status = lottery.draw(self._rng, lambda status: status.identity not in sampled)
            if status is None:
                break
            sampled.add(status.identity)
            self._sample.append(Guard(status.identity, self._before(now, self._params.lifetime / 10)))
        self._save()

    def _choose_primary(self) -> None:
        """The first confirmed ones, then those that were primary before, then others in the order of the sample."""
        before = [guard for guard in self.primary if guard in self._sample]
        listed = [guard for guard in (*self._confirmed, *before, *self._sample) if self._listed(guard) is not None]
        self.primary = list(dict.fromkeys(listed))[: self._params.primary]

    def _complete(self, use: GuardUse, now: float) -> None:
        use.machine.move(_BEST, now)
        use.on_usable(now)

    def _update_waiting(self, now: float) -> None:
        """Let circuits be used that waited for better guards in vain (guard-spec 4.9), and give up those for which
        better guards work, or are not even tried: whoever needs a circuit begins it with one of these then."""
        for use in sorted(self._uses, key=self._rank):
            if use.stage is not Stage.WAITING:
                continue
            better = self._better(use, now)
            if better is None:
                self._complete(use, now)
            elif Stage.BUILDING not in better:
                use.over(now)
                use.on_over(now)

    def _better(self, use: GuardUse, now: float) -> set[Stage] | None:
        """How far the uses of better guards are, none perhaps; or that there is no better guard."""
        steady = self._outbox.steady(now)
        # It may have become primary itself, as it worked before others did.
        primary = self.primary[: self.primary.index(use.guard)] if use.guard in self.primary else self.primary
        usable = [guard for guard in primary if self._usable(guard, use.suits)]
        found = {other.stage for other in self._uses if other.guard in usable or self._blocks(other, use, steady)}
        return found if found or usable else None

    def _blocks(self, better: GuardUse, use: GuardUse, steady: float) -> bool:
        slow = better.stage is Stage.BUILDING and steady - better.started >= self._params.connect_timeout
        return not slow and self._rank(better) < self._rank(use) and use.suits(better.status)

    def _rank(self, use: GuardUse) -> tuple[int, float]:
        """The lower, the better is its guard (guard-spec 4.3)."""
        guard = use.guard
        if guard in self._confirmed:
            return 0, self._confirmed.index(guard)
        return (1, guard.tried) if guard.pending else (2, 0)

    def _before(self, now: float, span: float) -> int:
        """A time up to `span` seconds before: nobody is to foretell when what it begins will end."""
        return max(int(now - fraction(self._rng) * span), 1)

    def _save(self) -> None:
        data = encode_guards(self._sample, self._confirmed)
        if data != self._saved:
            self._saved = data
            self._outbox.store([(BUCKET, self._key, data)])
