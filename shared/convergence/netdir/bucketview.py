"""The View of a network that is too large for a list: of each class a few buckets, and others for a name or a node.

Does: draw candidates from the same few buckets for as long as they are there; find a name's points, and nodes by name,
in the buckets that hold their places; keep what it knows for the next run.
Does not: fetch or check buckets (buckets.py). While the facilitator has a list, the View of the list answers.

A sample is drawn from a few buckets with about SAMPLED nodes in all. Which ones these are is chosen at random once, and
kept over restarts: who saw us draw anew each time could tell us by what we know, and hostile buckets would all come up
one day. With the value of the day other nodes come to stand there. Relays are drawn from the ring of those that are
stable, if there are ENOUGH of these: what was fetched of them is of use for hours. Of all relays, where tabs come and
go, a client would have to fetch as much in ten minutes as of the stable ones in a day.

Who knows which buckets somebody samples can make keys whose places are in them. Where a bucket is so full that this may
be, only nodes that are older than the value are drawn from it: nobody could choose their places. Any node is as likely
to be in them as any other; how likely it then is drawn differs by a few percent, since some buckets have more nodes
than others.

The facilitator, or a neighbour, learns which buckets are sampled, and these say nothing. A bucket that holds the place
of a name is fetched through a circuit. One that holds a node which a relay is told to extend to is not: each relay of
that circuit might have to look for the next one in turn. So whoever is asked learns of about a hundred nodes that
somebody wants a circuit to one of them. For a node that a rendezvous point names to us nobody is asked: the point chose
it, and could see with a friend whose question follows. Even a circuit would be one more that it has us build.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import islice
from math import sqrt
from typing import Any

from convergence.chance import choose, random_below
from convergence.errors import ParseError, RemoteError
from convergence.netdir.buckets import Buckets, Members, Wanted, order_of
from convergence.netdir.headers import EPOCH, Headers
from convergence.netdir.memory import SeldomWrites
from convergence.netdir.nodes import HINT_LIFETIME, NodeDirectory
from convergence.netdir.rings import Member, index_of, rings_of
from convergence.netdir.view import Class, Found, Place, View, place_of, place_of_name, together
from convergence.outbox import Outbox, Timer
from convergence.ports import Crypto, Rng
from convergence.wire.buckets import DAY, MAX_IN_BUCKET, EpochHeader, RingKind
from convergence.wire.descriptor import Descriptor
from convergence.wire.reader import Reader
from convergence.wire.target import Role

STORE = "buckets"
SAMPLED = 300
"""Nodes of a ring that samples are drawn from, about: as many buckets as come nearest to that, however full they are.
Whoever is on a path knows two relays that we know. The fewer those are, the fewer others know the same two (Danezis and
Clayton 2006, "Route fingerprinting in anonymous communications")."""
MAX_SAMPLED = 6
"""Buckets of a ring that samples are drawn from: where they are as empty as they get (`epochs.FEW`)."""
ENOUGH = 64
"""Stable relays of a network for which the others are not drawn: as many as it needs of rendezvous points to be told by
header and buckets (`publisher.MIN_POINTS`). Not a share of all: who brings any number of tabs must not undo it."""
ENOUGH_SAMPLED = 16
"""Of a class among the stable relays that are sampled, for which the ring of the class itself is not."""
HELD = 3 * 3600 // EPOCH
"""Epochs for which a bucket serves that samples are drawn from: descriptors of stable relays hold for twice as long,
and are renewed at half of that (`client.STABLE_LIFETIME`)."""
SIGMAS = 1
"""A bucket with more nodes than there are on average, by so many standard deviations, may be one that somebody makes
keys for. Chance alone does it with one of six, which costs nothing but that young nodes are drawn a little less."""
MIN_OLD = 16
"""Nodes that such a bucket has to have that nobody made for it, else all count."""
OVERLAP = 3600
"""Seconds from midnight in which points in the order of the value before count too."""
SILENT = 3 * EPOCH
"""Seconds after a header without a newer one, from when on the facilitator counts as gone: nobody lists what nodes sign
anew, so descriptors run out. Those of nodes with an address then count for HINT_LIFETIME more, at both ends of a
transfer alike. Only to take those whose news came by hearsay would leave the choice to whoever tells news."""
MAX_WALKED = 8
"""Buckets looked at for the points of one name."""
MAX_UNREACHED = 256
"""Nodes that are to be looked for anew."""
NEWS_PAUSE = 1.0
"""Seconds in which news is gathered before the node is told."""
POSITION_LEN = 4
KINDS = {
    Class.ALL: (RingKind.ALL,),
    Class.RELAYS: (RingKind.RELAYS,),
    Class.DIALLED: (RingKind.DIALLED,),
    Class.EXITS: (RingKind.EXITS,),
    Class.TOR: (RingKind.TOR,),
    Class.POINTS: (RingKind.POINTS, RingKind.POINTS_BEFORE),
    Class.TOR_POINTS: (RingKind.TOR_POINTS, RingKind.TOR_POINTS_BEFORE),
}
"""The ring of a class, and the one in the order of the value before, where there is one."""


class BucketView:
    """A View.

    Args:
        directory: told of each node that is answered, so that others find its address.
        otherwise: the View of the list.
        network: names the network in the store.
        on_change: called with `now` when other nodes are known.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        headers: Headers,
        buckets: Buckets,
        directory: NodeDirectory,
        otherwise: View[Descriptor],
        network: str,
        on_change: Callable[[float], None],
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._headers = headers
        self._buckets = buckets
        self._directory = directory
        self._otherwise = otherwise
        self._network = network.encode()
        self._on_change = on_change
        self._positions: dict[RingKind, list[int]] = {}  # of the sampled buckets: 32 bits, parts of the range of places
        self._renewed: dict[tuple[RingKind, int], int] = {}  # of these: the epoch in which they were asked for last
        self._pools: dict[tuple[Class, RingKind], tuple[int, list[Member]]] = {}  # as of a version of the buckets
        self._false: set[bytes] = set()  # signatures of descriptors that their nodes did not make
        self._unreached: dict[bytes, bool] = {}
        self._news: Timer | None = None
        self._writes = SeldomWrites(outbox, self._write)

    @property
    def large(self) -> bool:
        """Whether the network is known by header and buckets: what the facilitator said last counts."""
        header = self._headers.newest
        return header is not None and header.published >= self._directory.published

    # -- View

    def count(self, kind: Class, now: float) -> int:
        header = self._headers.newest
        if not self.large or header is None:
            return self._otherwise.count(kind, now)
        ring = header.ring(KINDS[kind][0])
        return 0 if ring is None else ring.count

    def sample(self, kind: Class, count: int, now: float, then: Found[Sequence[Descriptor]]) -> None:
        header = self._headers.newest
        if not self.large or header is None:
            self._otherwise.sample(kind, count, now, then)
            return

        def ask(ring: RingKind, now: float) -> None:
            indices = self._sampled(ring, header)
            together([partial(self._hold, header, ring, index, now) for index in indices], partial(found, ring), now)

        def found(ring: RingKind, answers: list[Any], now: float) -> None:
            pool = self._pool(kind, ring, answers)
            if ring != own and len(pool) < ENOUGH_SAMPLED:
                ask(own, now)
            else:
                then(self._draw(pool, count, now), now)

        own = KINDS[kind][0]
        ask(RingKind.STABLE if kind in (Class.RELAYS, Class.DIALLED) and _has_stable(header) else own, now)

    def closest(
        self,
        kind: Class,
        name: bytes,
        count: int,
        now: float,
        then: Found[Sequence[Sequence[Descriptor]]],
        *,
        place: Place = place_of_name,
    ) -> None:
        """Never answered if a bucket cannot be had: half a ring would lead to other points than others use."""
        header = self._headers.newest
        if not self.large or header is None:
            self._otherwise.closest(kind, name, count, now, then, place=place)
            return
        kinds = KINDS[kind][: len(self.values(now))]
        together([partial(self._walk, header, ring, name, place, count, now) for ring in kinds], then, now)

    def values(self, now: float) -> tuple[bytes, ...]:
        header = self._headers.newest
        if not self.large or header is None:
            return ()
        values = header.value.value, header.before.value
        return values if header.published % DAY < OVERLAP else values[:1]

    def get(self, identity: bytes, now: float, then: Found[Descriptor | None], *, quietly: bool = False) -> None:
        header = self._headers.newest
        known = self._directory.get(identity, now)
        order = None if header is None else order_of(header, RingKind.ALL)
        anew = not quietly and self._unreached.pop(identity, False)
        if (known is not None and not anew) or not self.large or header is None or order is None:
            then(known, now)
            return
        value, _ = order
        place = place_of(value, identity)

        def found(members: Members | None, now: float) -> None:
            member = next((item for item in members or () if item.place == place), None)
            then(known if member is None else self._checked(member, now), now)

        def is_it(member: Member) -> bool:
            return member.place == place and self._is_current(member.node, now)

        def look(kind: RingKind, then: Wanted, now: float) -> None:
            ring = header.ring(kind)
            assert ring is not None
            self._buckets.want(kind, index_of(place, ring.depth), None, now, then)

        def in_stable(members: Members | None, now: float) -> None:
            if any(map(is_it, members or ())):
                found(members, now)
            else:
                look(RingKind.ALL, found, now)

        # A node stands at the same place of all rings in this order: one of its buckets may be here, of whatever age.
        kinds = (RingKind.STABLE, RingKind.RELAYS, RingKind.DIALLED, RingKind.POINTS, RingKind.EXITS)
        here = [member for kind in kinds for member in filter(is_it, self._buckets.here(kind, place, value))]
        if here and not anew:
            found((max(here, key=lambda member: member.node.published),), now)
        elif quietly:
            then(None, now)
        elif _has_stable(header):  # whom circuits are to go on to is stable, and in one of far fewer buckets
            look(RingKind.STABLE, in_stable, now)
        else:
            look(RingKind.ALL, found, now)

    def unreached(self, identity: bytes) -> None:
        """What is known of this node led nowhere: it may have moved. Whoever wants it next has it looked for anew."""
        self._unreached[identity] = True
        if len(self._unreached) > MAX_UNREACHED:
            del self._unreached[next(iter(self._unreached))]

    # -- for the node

    def hold(self, identity: bytes, roles: Role, now: float) -> None:
        """Have what others will want of this node. A relay knows some relays, to extend to them; a rendezvous point has
        the buckets in which it is itself."""
        header = self._headers.newest
        if not self.large or header is None:
            return
        if Role.RELAY in roles:
            self.sample(Class.RELAYS, 1, now, lambda nodes, now: None)
        if Role.RDV not in roles:
            return
        for kind in (*KINDS[Class.POINTS], *KINDS[Class.TOR_POINTS]):
            order = order_of(header, kind)
            if order is not None:
                value, depth = order
                index = index_of(place_of(value, identity), depth)
                self._buckets.refresh(kind, index, now, lambda members, now: None)

    def lists(self, identity: bytes, now: float, then: Found[bool]) -> None:
        """Whether the node is in the bucket where it belongs, and in one where its kind is looked for: another one each
        time. Asked through a circuit, so that who asks is shown what everybody is shown. No answer if a bucket cannot
        be had or is full, so that the youngest had to be left out; or where there is a list."""
        header = self._headers.newest
        if not self.large or header is None:
            return

        def inside(kind: RingKind, then: Found[Member | None], now: float) -> None:
            order = order_of(header, kind)
            if order is None:
                then(None, now)
                return
            value, depth = order

            def found(members: Members | None, now: float) -> None:
                member = next((member for member in members or () if member.node.identity == identity), None)
                if member is not None or (members is not None and len(members) < MAX_IN_BUCKET):
                    then(member, now)

            self._buckets.want(kind, index_of(place_of(value, identity), depth), "ourselves", now, found)

        def there(member: Member | None, now: float) -> None:
            if member is None:
                then(False, now)
                return
            kinds = rings_of(member, header)
            inside(choose(self._rng, kinds), lambda other, now: then(other is not None, now), now)

        inside(RingKind.ALL, there, now)

    def header_changed(self, now: float) -> None:
        """There is a newer header."""
        if self.large:
            self._changed(now)

    def restore(self, now: float) -> None:
        """Read what an earlier run kept."""

        def loaded(value: Any, now: float) -> None:
            if not isinstance(value, bytes):
                return
            try:
                self._read(value, now)
            except RemoteError:
                return  # another version wrote it, or another facilitator is pinned
            self._changed(now)

        self._outbox.load(STORE, self._network, loaded)

    # -- samples

    def _sampled(self, kind: RingKind, header: EpochHeader) -> list[int]:
        ring = header.ring(kind)
        if ring is None or not ring.count:
            return []
        count = min(max(round(SAMPLED * (1 << ring.depth) / ring.count), 1), MAX_SAMPLED, 1 << ring.depth)
        positions = self._positions.setdefault(kind, [])
        while len(positions) < count:
            positions.append(int.from_bytes(self._rng.random(POSITION_LEN), "big"))
        # Two positions may be in one bucket: then the next one is taken.
        chosen: dict[int, None] = {}
        for position in positions[:count]:
            index = position >> (32 - ring.depth)
            while index in chosen:
                index = (index + 1) % (1 << ring.depth)
            chosen[index] = None
        return list(chosen)

    def _hold(self, header: EpochHeader, ring: RingKind, index: int, now: float, then: Wanted) -> None:
        """Have a bucket that samples are drawn from. One that has served its time is fetched anew. Asked for is
        it once an epoch at most: if it cannot be had, what is here has to do."""
        kept = self._buckets.kept(ring, index)
        if kept is not None:
            late = kept.bucket.epoch <= header.epoch - HELD or kept.until <= now
            if not late or self._renewed.get((ring, index)) == header.epoch:
                then(kept.members, now)
                return
        self._renewed[ring, index] = header.epoch
        self._want(ring, index, None, now, then)

    def _want(self, ring: int, index: int, key: Hashable, now: float, then: Wanted) -> None:
        before = self._buckets.version

        def answered(members: Members | None, now: float) -> None:
            if self._buckets.version != before:
                self._writes.changed(now)
            then(members, now)

        self._buckets.want(ring, index, key, now, answered)

    def _pool(self, kind: Class, ring: RingKind, found: list[Members | None]) -> list[Member]:
        """Whom of these buckets samples of a class are drawn from, in any order."""
        version, members = self._pools.get((kind, ring), (-1, []))
        if version != self._buckets.version:
            buckets = [bucket for bucket in found if bucket is not None] or self._earlier(ring)
            drawn = [member for bucket in buckets for member in self._unmade(ring, bucket)]
            members = [member for member in drawn if kind.holds(member.node.target)]
            self._pools[kind, ring] = self._buckets.version, members
        return members

    def _earlier(self, ring: RingKind) -> list[Members]:
        """The buckets that samples were drawn from in an earlier order, which are here until others come in their
        place. The facilitator may have signed the first header of a day, or of a ring that grew, and then have gone."""
        return [
            kept.members
            for kept in self._buckets
            if kept.bucket.kind == ring and kept.bucket.index in self._sampled(ring, kept.header)
        ]

    def _draw(self, members: list[Member], count: int, now: float) -> list[Descriptor]:
        """The first steps of a Fisher-Yates shuffle, in place: each choice is as likely as any other."""
        drawn: list[Descriptor] = []
        for at in range(len(members)):
            if len(drawn) == count:
                break
            other = at + random_below(self._rng, len(members) - at)
            members[at], members[other] = members[other], members[at]
            node = self._checked(members[at], now)
            if node is not None:
                drawn.append(node)
        return drawn

    def _unmade(self, kind: RingKind, bucket: Members) -> Members:
        """Whom of one bucket samples are drawn from."""
        header = self._headers.newest
        ring = None if header is None else header.ring(kind)
        if header is None or ring is None:
            return bucket
        usual = ring.count / (1 << ring.depth)
        if len(bucket) <= usual + SIGMAS * sqrt(usual):
            return bucket
        old = tuple(member for member in bucket if member.entry.since < header.value.fixed)
        return old if len(old) >= MIN_OLD else bucket

    def _is_current(self, node: Descriptor, now: float) -> bool:
        header = self._headers.newest
        gone = header is None or now >= header.published + SILENT
        return node.expires > now or (gone and node.ws_url is not None and node.expires + HINT_LIFETIME > now)

    def _checked(self, member: Member, now: float) -> Descriptor | None:
        """The node, if it is usable and made its descriptor itself: the facilitator must not speak for it."""
        listed = member.node
        known = self._directory.get(listed.identity)
        if known is listed and listed.expires > now:  # as nearly all: it was checked before
            return listed
        node = listed if known is None or _counts_less(known, listed, now) else known
        lacks = listed.roles.value & ~node.roles.value  # numbers: arithmetic on flags takes microseconds
        if lacks or not self._is_current(node, now):
            return None
        if node is known:
            return node
        if node.signature in self._false:
            return None
        if not node.verify(self._crypto.ed25519_verify):
            if len(self._false) < 1024:
                self._false.add(node.signature)
            return None
        self._directory.learn(node, now)
        return node

    # -- rings

    def _walk(
        self,
        header: EpochHeader,
        ring: RingKind,
        name: bytes,
        place_in: Place,
        count: int,
        now: float,
        then: Found[list[Descriptor]],
    ) -> None:
        """The first `count` nodes from the place of the name on, bucket by bucket, round the end if need be."""
        order = order_of(header, ring)
        if order is None:
            then([], now)
            return
        value, depth = order
        place = place_in(value, name)
        first = index_of(place, depth)
        nodes: list[Descriptor] = []
        rest: list[Member] = []  # of the first bucket, what stands before the place
        walked = 0

        def take(members: Sequence[Member], now: float) -> None:
            able = (self._checked(member, now) for member in members)
            nodes.extend(islice((node for node in able if node is not None), count - len(nodes)))

        def found(members: Members | None, now: float) -> None:
            nonlocal walked, rest
            if members is None:
                return
            if not walked:
                at = bisect_left([member.place for member in members], place)
                members, rest = members[at:], list(members[:at])
            take(members, now)
            walked += 1
            if walked == 1 << depth:
                take(rest, now)
            if len(nodes) >= count or walked in (1 << depth, MAX_WALKED):
                then(nodes, now)
            else:
                ask(now)

        def ask(now: float) -> None:
            self._want(ring, (first + walked) % (1 << depth), name, now, found)

        ask(now)

    # -- news

    def _changed(self, now: float) -> None:
        self._writes.changed(now)
        if self._news is None or not self._news.pending:
            self._news = self._outbox.call_at(now + NEWS_PAUSE, self._on_change)

    # -- store

    def _write(self, now: float) -> None:
        """The newest header, where samples are drawn, and the buckets there. Names' buckets are not kept: they would
        tell whoever reads the store what is shared here."""
        header = self._headers.newest
        if header is None:
            return
        sampled = {(kind, index) for kind in self._positions for index in self._sampled(kind, header)}
        kept = [kept for kept in self._buckets if (kept.bucket.kind, kept.bucket.index) in sampled]
        headers = {item.epoch: item.encode() for item in (header, *(item.header for item in kept))}
        positions = [bytes([kind]) + _encode(positions) for kind, positions in self._positions.items()]
        sections = [[*headers.values()], positions, [item.bucket.encode() for item in kept]]
        value = b"".join(
            len(section).to_bytes(2, "big") + b"".join(len(part).to_bytes(4, "big") + part for part in section)
            for section in sections
        )
        self._outbox.store([(STORE, self._network, value)])

    def _read(self, value: bytes, now: float) -> None:
        reader = Reader(value, "stored buckets")
        headers, positions, buckets = (_section(reader) for _ in range(3))
        reader.finish()
        for header in headers:
            self._headers.recall(header, now)
        for item in positions:
            part = Reader(item, "stored positions")
            try:
                kind = RingKind(part.unsigned(1))
            except ValueError:
                raise ParseError("positions in a ring that there is not") from None
            self._positions[kind] = [part.unsigned(POSITION_LEN) for _ in range(part.left // POSITION_LEN)]
            part.finish()
        for bucket in buckets:
            self._buckets.restore(bucket)


def _counts_less(known: Descriptor, listed: Descriptor, now: float) -> bool:
    """Whether what a node told others is older than what it told the facilitator, or over sooner, as it is with
    neighbours of stable ones."""
    return known.published < listed.published or (bool(known.roles.value) and known.expires <= now < listed.expires)


def _has_stable(header: EpochHeader) -> bool:
    ring = header.ring(RingKind.STABLE)
    return ring is not None and ring.count >= ENOUGH


def _encode(positions: list[int]) -> bytes:
    return b"".join(position.to_bytes(POSITION_LEN, "big") for position in positions)


def _section(reader: Reader) -> list[bytes]:
    return [reader.take(reader.unsigned(4)) for _ in range(reader.unsigned(2))]
