"""The headers of one of several facilitators, which share a store: all of them say the same.

Does: what publisher.py does, and agree with the others on each header before it is signed; leave what its buckets are
made of in the store, and take that from there; go on from what was agreed on before.
Does not: know the store, or how it is (sharing.py).

All have one key, and two headers of one epoch are a proof of a lie. So they agree on the header itself, unsigned, and
then each of them signs it: Ed25519 gives all of them the same signature. The store decides: one *decision* follows the
other, and one is taken only on top of the one before (`questions.Propose`). Whoever was paused, or cut off, or did not
hear of the latest decision, therefore proposes in vain. A decision has all that the next one depends on.

One of them makes a header, the others stand ready: each next one begins `PATIENCE` later, in an order that all agree
on. It leaves the nodes of its cut in the store before it proposes, so that all can answer for its buckets, also one
that starts later. Whoever was not connected to the store since `SETTLED` seconds before an epoch makes no proposal for
it: a store that was restored from a backup may have lost a decision that somebody knows. A decision for an epoch that
has not begun on the store's clock is not taken: one facilitator with a wrong clock must not decide for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from convergence.effects import Failure
from convergence.errors import ParseError
from convergence.events import StorageTrouble
from convergence.facilitator.ages import MAX_GONE, NEVER
from convergence.facilitator.publisher import LEAD, STEP_PAUSE, Publisher
from convergence.facilitator.questions import Keep, Kept, Latest, Propose
from convergence.facilitator.sharing import Sharing
from convergence.netdir.epochs import KEPT, Cut, Listed, Listing, epoch_of
from convergence.netdir.headers import EPOCH, contradict
from convergence.outbox import Outbox
from convergence.ports import Crypto, Rng
from convergence.wire.buckets import EpochHeader
from convergence.wire.certs import SIGNATURE_LEN
from convergence.wire.sharing import MAX_IN_PART, NAME_LEN, CutNode, CutPart, Decided, Decision, Drawn, Shared

PATIENCE = 60.0
"""Seconds after which the next facilitator makes the header that is still missing, and after which a proposal that
failed is made again."""
SETTLED = 60.0
"""Seconds by which clocks may differ."""
LIFETIME = LEAD + (KEPT + 1) * EPOCH
"""Seconds that the store keeps a cut: 0.3 KB a node, of three or four epochs."""


class _Left:
    """A cut of ours in the store: its name, and how many parts are there."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.parts = 0
        self.whole = False


class SharedPublisher(Publisher):
    """As Publisher. `Sharing` says when the store can be asked, and that others have decided."""

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        seed: bytes,
        sharing: Sharing,
        *,
        gone: int = MAX_GONE,
        list_up_to: int,
        others: Collection[bytes] = (),
    ) -> None:
        super().__init__(
            outbox, crypto, seed, lambda result, now: None, gone=gone, list_up_to=list_up_to, others=others
        )
        self._rng = rng
        self._sharing = sharing
        self._asked = False  # whether the store has said what it has
        self._lost = 0.0  # when it was found to have lost something
        self._decision: tuple[Decision, bytes] | None = None  # the latest that is known, also as the store has it
        self._left = _Left(b"")
        self._proposing = False
        self._repeated: Cut | None = None  # what others made, while it is made again

    @property
    def _number(self) -> int:
        return 0 if self._header is None else self._header.epoch

    def start(self, now: float) -> None:
        """What there is to load is in the store."""
        self._plan(now)

    # From Sharing

    def works(self, now: float) -> None:
        """It may have lost our decision, or have newer ones."""
        if self._decision is None:
            self._sharing.ask(Latest(), self._answered, now)
        else:
            self._sharing.ask(Propose(self._number, self._decision[1], None), self._learn, now)
            self._fetch(now)

    def decided(self, epoch: int, now: float) -> None:
        if epoch > self._number and self._sharing.works:
            self._sharing.ask(Latest(), self._answered, now)

    # Making

    def _may(self, epoch: int, now: float) -> bool:
        """Whether this facilitator may propose a header of this epoch now."""
        settled = max(self._sharing.joined_at, self._lost) + SETTLED <= epoch * EPOCH
        return self._sharing.works and settled and epoch_of(now) == epoch and self._due(now)

    def _turn(self, now: float) -> None:
        if self._asked:
            self._draws.turn(now)

    def _prepare(self, epoch: int, now: float) -> None:
        if self._sharing.works and self._sharing.rank == 0 and self._draws.day:
            super()._prepare(epoch, now)

    def _lead(self, now: float) -> None:
        self._outbox.call_at(now + PATIENCE * self._sharing.rank, partial(self._stand_in, epoch_of(now)))

    def _stand_in(self, epoch: int, now: float) -> None:
        """It is our turn to see to a header of this epoch, unless there is one by now."""

        def answered(result: Any, now: float) -> None:
            self._answered(result, now)
            if isinstance(result, Failure):
                self._again(epoch, now)
            elif self._may(epoch, now):
                self._turn(now)
                self._go(now)

        if self._may(epoch, now):
            self._sharing.ask(Latest(), answered, now)
        elif epoch_of(now) == epoch and self._due(now):
            self._again(epoch, now)

    def _again(self, epoch: int, now: float) -> None:
        self._outbox.call_at(now + PATIENCE, partial(self._stand_in, epoch))

    def _made(self, cut: Cut, now: float) -> None:
        """Leave it in the store first."""
        self._left = left = _Left(self._rng.random(NAME_LEN))
        parts = _parts(cut, self._ages.gone())

        def keep(result: Any, now: float) -> None:
            if cut is not self._cut:
                return
            if isinstance(result, Failure):
                self._cut = None
                self._again(epoch_of(now), now)
                return
            part = next(parts, None)
            if part is None:
                left.whole = True
                self._ready(cut, now)
            else:
                left.parts += 1
                body = self._sharing.seal(CutPart(part))
                self._sharing.ask(Keep(_name(left.name, left.parts), body, LIFETIME), keep, now)

        keep(None, now)

    def _finish(self, cut: Cut, now: float) -> None:
        """Propose."""
        epoch = epoch_of(now)
        if self._proposing or not self._left.whole:
            return  # `_again` or `_ready` follows
        if not self._may(epoch, now):
            self._cut = None
            if self._due(now):
                self._again(epoch, now)
            return
        header = self._epochs.propose(cut, self._draws.committed(now), now)
        left, after = self._left, self._number
        decision = Decision(header.body(), self._is_large(header), left.name, left.parts, self._draws.encode())

        def answered(result: Any, now: float) -> None:
            self._proposing = False
            self._answered(result, now)
            if self._number == epoch:
                self._sharing.tell_all(Decided(epoch), now)
            elif isinstance(result, Failure):
                self._again(epoch, now)
            elif self._number > after:
                if self._may(epoch, now):
                    self._go(now)  # on top of what was not known
            elif self._lost < now and _header_of(self._opened(result)) is not None:
                self._outbox.emit(StorageTrouble("other", "the clock of the store is behind ours"))

        proposal = Propose(epoch, self._sharing.seal(decision), after, int(epoch * EPOCH - SETTLED))
        self._proposing = True
        self._sharing.ask(proposal, answered, now)

    # Decisions

    def _answered(self, result: Any, now: float) -> None:
        """The latest decision."""
        header = _header_of(self._opened(result))
        older = result is None or (header is not None and header.epoch < self._number)
        if self._decision is not None and older and not isinstance(result, Failure):
            # The store has lost ours, and perhaps newer ones that others know: make no other one of this epoch.
            self._lost = now
            self._sharing.ask(Propose(self._number, self._decision[1], None), self._learn, now)
        else:
            self._learn(result, now)

    def _learn(self, result: Any, now: float) -> None:
        """Take a decision over if it is news."""
        self._asked = self._asked or not isinstance(result, Failure)
        decision = self._opened(result)
        header = _header_of(decision)
        if not isinstance(decision, Decision) or header is None or header.epoch <= self._number:
            return
        if header.signer != self._identity or (self._header is not None and contradict(self._header, header)):
            self._outbox.emit(StorageTrouble("other", "the store has lost what was agreed on, and began anew"))
        else:
            self._take(decision, header, result, now)

    def _opened(self, result: Any) -> Shared | None:
        return self._sharing.open(result) if isinstance(result, bytes) else None

    def _take(self, decision: Decision, header: EpochHeader, sealed: bytes, now: float) -> None:
        try:
            self._draws.restore(decision.draws, now)
        except ParseError:
            return
        cut, self._cut = self._cut, None
        self._decision, self._large, self._repeated = (decision, sealed), decision.large, None
        if cut is not None and decision.cut == self._left.name:
            self._header = self._epochs.serve(header, cut)
            return
        self._header = header.sign(self._sign)
        if cut is not None and cut.epoch > header.epoch:
            self._cut = cut  # it is for a later one
        self._fetch(now)

    def _fetch(self, now: float) -> None:
        """Have the buckets of the header that was decided on."""
        served, header = self._epochs.header, self._header
        if header is None or self._decision is None or (served is not None and served.epoch >= header.epoch):
            return
        decision, nodes = self._decision[0], Listing()

        def ask(part: int, now: float) -> None:
            def got(result: Any, now: float) -> None:
                item = self._opened(result)
                if header is not self._header or not isinstance(item, CutPart):
                    return  # there is a newer one, or the store fails: then `works` follows
                for node in item.nodes:
                    self._gather(node, nodes, now)
                ask(part + 1, now)

            if part > decision.parts:
                self._repeated = self._epochs.repeat(header, nodes)
                self._repeat(header, self._repeated, now)
            else:
                self._sharing.ask(Kept(_name(decision.cut, part)), got, now)

        ask(1, now)

    def _gather(self, node: CutNode, nodes: Listing, now: float) -> None:
        ours = self._epochs.nodes.get(node.identity)
        if (ours is None or ours.since != node.since) and node.since != NEVER:
            self._came_earlier(node.identity, node.since, now)
        if node.descriptor:
            same = ours is not None and ours.descriptor == node.descriptor
            raw = ours.descriptor if ours is not None and same else node.descriptor  # in memory once
            nodes.put(Listed(node.identity, raw, node.since, node.classes))

    def _repeat(self, header: EpochHeader, cut: Cut, now: float) -> None:
        if cut is not self._repeated:
            return
        if not cut.step():
            self._outbox.call_at(now + STEP_PAUSE, partial(self._repeat, header, cut))
        elif cut.rings == header.rings:
            self._epochs.serve(header, cut)
        else:
            self._outbox.emit(StorageTrouble("other", "what the store has of the nodes is not what was agreed on"))

    # Storage: what there is to keep is in decisions, and in cuts

    def _save(self, now: float) -> None:
        """Others cannot know yet what was heard of the draw here."""
        self._sharing.tell_all(Drawn(self._draws.draw(self._draws.day + 1)), now)

    def _keep_age(self, identity: bytes, since: int, value: bytes | None) -> None: ...


def _header_of(decision: Shared | None) -> EpochHeader | None:
    """Not signed. None if there is none."""
    try:
        return EpochHeader.parse(decision.header + bytes(SIGNATURE_LEN)) if isinstance(decision, Decision) else None
    except ParseError:
        return None


def _parts(cut: Cut, gone: Iterable[tuple[bytes, int]]) -> Iterator[tuple[CutNode, ...]]:
    """All that others need to make the same buckets, and to know who was there before."""

    def nodes() -> Iterator[CutNode]:
        for node in cut.nodes:
            yield CutNode(node.identity, node.since, node.classes, node.descriptor)
        for identity, since in gone:
            yield CutNode(identity, since)

    source = nodes()
    while part := tuple(islice(source, MAX_IN_PART)):
        yield part


def _name(cut: bytes, part: int) -> str:
    return f"{cut.hex()}:{part}"
