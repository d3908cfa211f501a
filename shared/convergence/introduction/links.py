"""Links to nodes that cannot be dialled: WebRTC connections, brought about by sealed messages that others carry.

Does: offer and answer, hold against replay, flood, glare and stale offers, restart ICE, bind both DTLS certificates
into the link handshake.
Does not: carry messages (signalling.py), try one carrier after the other (courier.py), choose them (`routes`), read SDP
(wire/sdp.py), or know links.

Both sides tell each other of their connection in `Introduction`s, sealed to the receiver and signed by the sender. What
belongs to one connection is a *session*, which its offerer names with 16 random bytes:

    offerer                                               answerer
    Connect(OFFERER), described(OFFER)
                     OFFER, by carrier after carrier ->   Connect(ANSWERER), Describe(OFFER), described(ANSWER)
    Describe(ANSWER)             <- ANSWER
                     <- CANDIDATES, as found ->
    described(OFFER) once more   OFFER ->                 ICE restart: as above, on the same channel

Replay: within a session, each message of one side has a later `sent` than the one before, so an old message shows.
Names of sessions are kept for as long as an offer could be replayed. Glare: if two nodes call each other at once, the
one with the lower identity goes on calling and the other one answers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from typing import Protocol as Shape

from convergence.codes import RtcWhy
from convergence.crypto import hpke
from convergence.crypto.keys import NodeKeys
from convergence.effects import ANSWERER, OFFERER, CloseLink, Describe, DescriptionKind, Protocol
from convergence.errors import CryptoError, RemoteError, Why
from convergence.events import Rtc
from convergence.introduction.courier import Carriers, Courier
from convergence.introduction.signalling import Carrier, Reply
from convergence.limits import MINUTE, Once, PerMinute, SharedPerMinute, gives_way, most_in_parts
from convergence.outbox import Outbox
from convergence.ports import Binding, Crypto, DtlsBinding, Rng
from convergence.states import TIMEOUT, StateMachine, Table
from convergence.wire.descriptor import Descriptor
from convergence.wire.sdp import Candidates, Description
from convergence.wire.signals import KEY_LEN, SESSION_LEN, Introduction, sealing_info

NO_REASON = Why(RtcWhy.NONE)
CONNECT_TIMEOUT = 20.0  # seconds from a session's first word, or from `connect`, to its open channel
RESTART_TIMEOUT = 20.0  # seconds that two nodes look for another way; then they keep the old one, if it still works
MAX_SKEW = 600  # seconds that `sent` may differ from our clock
MAX_PENDING = 64  # sessions that are not open yet: this many that others have us offer, and as many that we answer
MAX_SESSIONS = 256  # connections that a shell can hold, unless it says otherwise
OWN_SHARE = 4  # one in so many is kept for calls of our own
MAX_PER_PEER = 4  # sessions with one node: more than one only while old ones are closing
MAX_UPDATES = 32  # candidates taken after a description, until the next one: each has us send to an address
MAX_HELD = 16  # times that the shell may report candidates while there is nobody to send them to
OFFERS_PER_SENDER = 6  # a minute, restarts included
OFFERS_PER_SOURCE = 60  # a minute from one pipe; useless messages count too
OFFERS_IN_ALL = 120  # a minute; beyond, from each pipe its equal part of them
MAX_SEEN = most_in_parts(OFFERS_IN_ALL) * (2 * MAX_SKEW // int(MINUTE) + 1)  # that can begin while one may be replayed


class Links(Shape):
    """Whoever runs links on the channels: link/neighbours.py."""

    def opened(self, channel: int, binding: Binding | None, now: float, *, peer: bytes | None = None) -> None:
        """An RTC channel is open. `peer` is given if that node called us: it begins the handshake and has to prove its
        identity."""
        ...

    def closed(self, channel: int, reason: str, now: float) -> None:
        """An RTC channel is gone. It may never have been open, or not be known to links."""
        ...

    def replaced(self, channel: int, by: int) -> None:
        """Channel `by` takes the place of the channel that `connect` gave, because the same node calls us on it. The
        old channel gets no `closed`. Callers that wait for it now wait for `by`: its `opened` (with `peer`) or `closed`
        follows."""
        ...


class State(Enum):
    """Of a session, as people see it."""

    CONNECTING = "connecting"
    OPEN = "open"
    RESTARTING = "restarting"  # open, and the two look for another way between them
    FAILED = "failed"  # never opened
    CLOSED = "closed"  # was open


SESSION = Table(
    "rtc session",
    State.CONNECTING,
    {
        State.CONNECTING: {"opened": State.OPEN, "end": State.FAILED, TIMEOUT: State.FAILED},
        State.OPEN: {"restart": State.RESTARTING, "end": State.CLOSED},
        State.RESTARTING: {
            "restart": State.RESTARTING,
            "settled": State.OPEN,
            "end": State.CLOSED,
            TIMEOUT: State.OPEN,
        },
    },
    deadlines={State.CONNECTING: CONNECT_TIMEOUT, State.RESTARTING: RESTART_TIMEOUT},
    standing={State.OPEN: "the shell ends the channel, or the link on it is closed"},
)


@dataclass(slots=True, eq=False)
class _Session:
    channel: int
    peer: bytes
    name: bytes
    offerer: bool
    key: bytes  # X25519: what we seal to
    machine: StateMachine[State]
    since: float  # in this state
    source: Hashable  # who wants it, or where the call came from
    promised: float | None  # when `connect` first named this channel, or one that it replaced; in steady time
    ours: bytes = b""  # DTLS fingerprint, once it was described
    theirs: bytes = b""
    sent: int = 0  # of our latest message
    heard: int = 0  # of the peer's
    updates: int = 0  # candidates that came since the peer's latest description
    # The offerer's:
    courier: Courier | None = None
    held: list[str] = field(default_factory=list)
    # The answerer's:
    offered: int = 0  # `sent` of the latest offer
    answer: bytes = b""  # to it, sealed
    reply: Reply = lambda sealed, now: None

    @property
    def state(self) -> State:
        return self.machine.state


class RtcLinks:
    """All RTC channels of a node.

    Args:
        keys: ours.
        node_of: (identity, now) -> what is known of a node.
        links: told of the channels.
        routes: (identity, source, now) -> carriers that may lead to the node.
        places: connections at once that the shell bears.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        keys: NodeKeys,
        node_of: Callable[[bytes, float], Descriptor | None],
        links: Links,
        routes: Callable[[bytes, Hashable, float], Carriers],
        *,
        places: int = MAX_SESSIONS,
    ) -> None:
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._keys = keys
        self._node_of = node_of
        self._links = links
        self._routes = routes
        self._places = places
        self._sessions: dict[int, _Session] = {}
        self._by_name: dict[tuple[bytes, bytes], _Session] = {}  # by (peer, name), those that the peer offered
        self._sources = PerMinute(outbox, OFFERS_PER_SOURCE)
        self._senders = PerMinute(outbox, OFFERS_PER_SENDER)
        self._all = SharedPerMinute(outbox, OFFERS_IN_ALL)
        self._seen = Once(outbox, 2 * MAX_SKEW, MAX_SEEN)

    # -- from the node

    def connect(self, identity: bytes, now: float, source: Hashable = None) -> int | None:
        """Ask for a link to a node. Returns the channel that the link will be on, or None if the node cannot be asked;
        `links` is told when the channel opens or closes. If the node already calls us, this is the channel of its call,
        and `opened` then comes with `peer`."""
        steady = self._outbox.steady(now)
        pending = self._pending(identity)
        if pending is not None:
            if pending.promised is None:
                pending.promised = steady
            return pending.channel
        node = self._node_of(identity, now)
        if node is None or not node.rtc or identity == self._keys.identity:
            return None
        if not self._make_way(source, now, offerer=True):
            return None
        name = self._rng.random(SESSION_LEN)
        session = self._begin(identity, name, node.ntor_key, now, source, offerer=True, promised=steady)
        return session.channel

    def knows(self, channel: int) -> bool:
        """Whether the channel is one of ours."""
        return channel in self._sessions

    def link_closed(self, channel: int, now: float) -> None:
        """The link on this channel was closed, and the channel with it. Any channel may be named."""
        self._forget(channel, NO_REASON, now)

    def stop(self, now: float) -> None:
        """Give up what is not open yet; open channels end with their links."""
        for session in list(self._sessions.values()):
            if session.state is State.CONNECTING:
                self._close(session, Why(RtcWhy.STOPPING), now)

    def snapshot(self) -> list[dict[str, Any]]:
        """JSON-able, for people: peer (first 16 hex digits), state, and since when (Unix seconds)."""
        return [
            {"peer": _short(session.peer), "state": session.state.value, "since": session.since}
            for session in self._sessions.values()
        ]

    # -- from the shell

    def described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None:
        """Our side of a channel has something to tell the other one."""
        session = self._sessions.get(channel)
        if session is None:
            return
        try:
            if kind == DescriptionKind.CANDIDATES:
                self._describe_candidates(session, sdp, now)
            elif session.offerer and kind == DescriptionKind.OFFER:
                self._describe_offer(session, sdp, now)
            elif not session.offerer and kind == DescriptionKind.ANSWER:
                session.answer = self._seal(session, kind, self._own(session, sdp), now)
                session.reply(session.answer, now)
                self._restarted(session, now)
                self._send_held(session, now)
        except RemoteError as error:
            self._close(session, Why(RtcWhy.USELESS_OFFER, {"detail": str(error)}), now)

    def opened(self, channel: int, now: float) -> None:
        """The channel is open: a link may begin."""
        session = self._sessions.get(channel)
        if session is None or session.state is not State.CONNECTING:
            return
        if not (session.ours and session.theirs):
            self._close(session, Why(RtcWhy.TOO_EARLY), now)
            return
        self._move(session, "opened", now)
        self._links.opened(channel, self._binding(session), now, peer=None if session.offerer else session.peer)

    def closed(self, channel: int, reason: str, now: float) -> None:
        """The shell closed the channel, or could not open it."""
        if self.knows(channel):
            self._forget(channel, Why(RtcWhy.SHELL, {"detail": reason}), now)
            self._links.closed(channel, reason, now)

    # -- from carriers

    def delivered(self, sealed: bytes, reply: Reply, source: Hashable, now: float) -> None:
        """A message for us came. A useless one is dropped without an answer.

        Args:
            reply: takes sealed answers, now and later.
            source: the pipe it came by; limits count messages by source.
        """
        if self._sources.allows(source, now) and not self._take(sealed, reply, source, now):
            self._sources.spend(source, now)

    def _take(self, sealed: bytes, reply: Reply, source: Hashable, now: float) -> bool:
        """Whether the message was news in an existing session."""
        try:
            message = self._open(sealed, now)
        except RemoteError:
            return False
        name = (message.sender, message.session)
        session = self._by_name.get(name)
        if session is not None:
            return self._update(session, message, reply, source, now)
        # A replay counts against its source, not against the node that signed the message.
        if message.kind == DescriptionKind.OFFER and not self._seen.seen(name, now):
            self._called(message, reply, source, now)
        return False

    # -- the offerer's part

    def _describe_offer(self, session: _Session, sdp: str, now: float) -> None:
        """The first offer, or one that restarts ICE."""
        if session.courier is not None:
            session.courier.stop(now)
        session.held.clear()
        session.courier = courier = Courier(
            self._outbox,
            self._routes(session.peer, session.source, now),
            session.peer,
            self._seal(session, DescriptionKind.OFFER, self._own(session, sdp), now),
            heard=lambda sealed, carrier, now: self._heard(session, courier, sealed, carrier, now),
            failed=lambda why, now: self._unanswered(session, why, now),
            now=now,
        )
        if session.state is not State.CONNECTING:
            self._move(session, "restart", now)
        courier.start(now)

    def _heard(self, session: _Session, courier: Courier, sealed: bytes, carrier: Carrier, now: float) -> None:
        """A carrier brought something back. Answers are taken once an offer, candidates after the answer."""
        try:
            message = self._open(sealed, now)
        except RemoteError:
            return
        ours = (message.sender, message.session) == (session.peer, session.name) and message.sent > session.heard
        answer = message.kind == DescriptionKind.ANSWER
        if not ours or message.kind == DescriptionKind.OFFER or answer is (courier.carrier is not None):
            return
        session.key = message.reply_key
        if self._apply(session, message, now) and answer:
            courier.settle(carrier, now)
            self._restarted(session, now)
            self._send_held(session, now)

    def _unanswered(self, session: _Session, why: Why, now: float) -> None:
        """No carrier leads to the peer. The shell ends a restart that fails, because the old way may come back."""
        if session.state is State.CONNECTING:
            self._close(session, why, now)

    # -- the answerer's part

    def _called(self, offer: Introduction, reply: Reply, source: Hashable, now: float) -> None:
        """A node wants a link. Only an offer that we take counts against the node's budget: a refused offer may come
        again, by another carrier or as somebody's copy."""
        pending = self._pending(offer.sender)
        if pending is not None:
            glare_won = pending.offerer and self._keys.identity < offer.sender
            if glare_won or (not pending.offerer and offer.sent < pending.offered):
                return  # not `seen`: if our own call fails, the next copy of their offer may be taken
        others = sum(session.peer == offer.sender for session in self._sessions.values() if session is not pending)
        called_before = pending is not None and not pending.offerer  # this call then takes that one's place
        if (
            others >= MAX_PER_PEER
            or not self._within_budget(offer.sender, source, now)
            or not (called_before or self._make_way(source, now, offerer=False))
            or not self._seen.first((offer.sender, offer.session), now)
        ):
            return
        self._spend(offer.sender, source, now)
        promised = None if pending is None else pending.promised
        session = self._begin(
            offer.sender, offer.session, offer.reply_key, now, source, offerer=False, promised=promised
        )
        self._by_name[session.peer, session.name] = session
        if pending is not None:
            self._end(pending, now)
            self._outbox.emit(CloseLink(pending.channel, "the other side calls"))
            self._links.replaced(pending.channel, session.channel)
        self._take_offer(session, offer, reply, now)

    def _update(self, session: _Session, message: Introduction, reply: Reply, source: Hashable, now: float) -> bool:
        """Whether a message in a session that the peer offered is news."""
        offer = message.kind == DescriptionKind.OFFER
        if offer and message.sent == session.offered:
            # A copy by another carrier: our reply by the first carrier may not have arrived.
            session.reply = reply
            if session.answer:
                reply(session.answer, now)
            return False
        if message.sent <= session.heard or message.kind == DescriptionKind.ANSWER:
            return False
        if not offer:
            return self._apply(session, message, now)
        if not self._within_budget(session.peer, source, now):
            return False
        self._spend(session.peer, source, now)
        return self._take_offer(session, message, reply, now)

    def _take_offer(self, session: _Session, offer: Introduction, reply: Reply, now: float) -> bool:
        session.key, session.offered, session.reply = offer.reply_key, offer.sent, reply
        session.answer = b""
        session.held.clear()
        if not self._apply(session, offer, now):
            return False
        if session.state is State.OPEN:
            self._move(session, "restart", now)
        return True

    def _within_budget(self, sender: bytes, source: Hashable, now: float) -> bool:
        return self._all.allows(source, now) and self._senders.allows(sender, now)

    def _spend(self, sender: bytes, source: Hashable, now: float) -> None:
        self._all.spend(source, now)
        self._senders.spend(sender, now)

    # -- both

    def _make_way(self, source: Hashable, now: float, *, offerer: bool) -> bool:
        """Whether `source` may add a session that we offer, or that we answer. When others have all that they may have,
        the oldest such one that is not open yet, of the source that has most, may end."""
        if source is None:
            return len(self._sessions) < self._places
        pending = [
            session
            for session in self._sessions.values()
            if session.state is State.CONNECTING and session.offerer is offerer and session.source is not None
        ]
        if len(pending) < MAX_PENDING and len(self._sessions) < self._places - self._places // OWN_SHARE:
            return True
        crowded = gives_way(pending, source)
        if crowded is not None:
            self._close(crowded, Why(RtcWhy.BUSY), now)
        return crowded is not None

    def _begin(
        self,
        peer: bytes,
        name: bytes,
        key: bytes,
        now: float,
        source: Hashable,
        *,
        offerer: bool,
        promised: float | None,
    ) -> _Session:
        """A new session. If it replaces one that somebody waits for, it gets only the time that is left of that one: a
        peer that calls again and again must not make them wait for ever."""
        channel = self._outbox.connect(Protocol.RTC, OFFERER if offerer else ANSWERER)

        def timed_out(state: State, now: float) -> None:
            if state is State.CONNECTING:
                self._close(session, Why(RtcWhy.NO_CONNECTION), now)
            else:
                self._tell(session, now)

        since = now if promised is None else promised + self._outbox.shifted
        machine = StateMachine(SESSION, self._outbox, timed_out, since)
        session = self._sessions[channel] = _Session(channel, peer, name, offerer, key, machine, now, source, promised)
        self._tell(session, now)
        return session

    def _apply(self, session: _Session, message: Introduction, now: float) -> bool:
        """Hand the peer's description to the shell. Returns False if there are too many candidates, or if the
        certificate changed. The latter closes the session, because the link's handshake was bound to the old one."""
        description = message.description
        session.heard = message.sent
        if isinstance(description, Description):
            if session.theirs not in (b"", description.fingerprint):
                self._close(session, Why(RtcWhy.OTHER_CERTIFICATE), now)
                return False
            session.theirs = description.fingerprint
            session.updates = 0
            text = description.to_sdp(message.kind)
        else:
            session.updates += max(len(description.items), 1)
            if session.updates > MAX_UPDATES:
                return False
            text = description.to_lines()
        self._outbox.emit(Describe(session.channel, message.kind, text))
        return True

    def _own(self, session: _Session, sdp: str) -> Description:
        """Raises ParseError, and CryptoError for a certificate that changed."""
        description = Description.from_sdp(sdp)
        if session.ours not in (b"", description.fingerprint):
            raise CryptoError("its certificate changed")
        session.ours = description.fingerprint
        return description

    def _describe_candidates(self, session: _Session, lines: str, now: float) -> None:
        if len(session.held) < MAX_HELD:
            session.held.append(lines)
        self._send_held(session, now)

    def _send_held(self, session: _Session, now: float) -> None:
        """Send the candidates that were found meanwhile, once there is a way for them."""
        courier = session.courier
        ready = session.answer if courier is None else courier.carrier
        if not ready or not session.held:
            return
        lines = "\n".join(session.held)
        session.held.clear()
        try:
            candidates = Candidates.from_lines(lines)
            if candidates.items:
                sealed = self._seal(session, DescriptionKind.CANDIDATES, candidates, now)
                (session.reply if courier is None else courier.follow_up)(sealed, now)
        except RemoteError:
            return  # without these candidates the two may still find a way

    def _seal(
        self, session: _Session, kind: DescriptionKind, description: Description | Candidates, now: float
    ) -> bytes:
        """Raises CryptoError if the peer's key is invalid."""
        session.sent = max(int(now), session.sent + 1)
        keys = self._keys
        message = Introduction(kind, session.name, keys.identity, keys.ntor_public, session.sent, description)
        signed = message.sign(lambda data: self._crypto.ed25519_sign(keys.identity_seed, data), session.peer)
        ephemeral = self._rng.random(KEY_LEN)
        return hpke.seal(self._crypto, ephemeral, session.key, sealing_info(session.peer), signed.encode())

    def _open(self, sealed: bytes, now: float) -> Introduction:
        """Raises ParseError, and CryptoError for a message that is forged, not for us, our own, or too old or new."""
        own = self._keys.identity
        message = Introduction.parse(self._unseal(sealed, sealing_info(own)))
        if message.sender == own or abs(message.sent - now) > MAX_SKEW:
            raise CryptoError("an introduction by ourselves, or of another time")
        if not message.verify(self._crypto.ed25519_verify, own):
            raise CryptoError("an introduction's signature does not hold")
        return message

    def _unseal(self, sealed: bytes, info: bytes) -> bytes:
        *older, (_, oldest) = self._keys.onion.ntor
        for _, secret in older:
            try:
                return hpke.open_sealed(self._crypto, secret, info, sealed)
            except CryptoError:
                continue
        return hpke.open_sealed(self._crypto, oldest, info, sealed)

    def _binding(self, session: _Session) -> DtlsBinding:
        """What ties the link's handshake to this connection: b"rtc" | offerer's fingerprint 32 | answerer's 32."""
        pair = (session.ours, session.theirs) if session.offerer else (session.theirs, session.ours)
        return DtlsBinding(b"rtc" + b"".join(pair))

    def _pending(self, peer: bytes) -> _Session | None:
        """The session with this node that is not open yet; there is one at most."""
        waiting = (session for session in self._sessions.values() if session.state is State.CONNECTING)
        return next((session for session in waiting if session.peer == peer), None)

    def _restarted(self, session: _Session, now: float) -> None:
        if session.machine.allows("settled"):
            self._move(session, "settled", now)

    def _move(self, session: _Session, input: str, now: float) -> None:
        session.machine.move(input, now)
        self._tell(session, now)

    def _tell(self, session: _Session, now: float, why: Why = NO_REASON) -> None:
        """It is in another state."""
        session.since = now
        self._outbox.emit(Rtc(_short(session.peer), session.state.value, why))

    def _close(self, session: _Session, why: Why, now: float) -> None:
        self._outbox.emit(CloseLink(session.channel, why.code))
        self._forget(session.channel, why, now)
        self._links.closed(session.channel, why.code, now)

    def _forget(self, channel: int, why: Why, now: float) -> None:
        session = self._sessions.get(channel)
        if session is not None:
            self._end(session, now)
            self._tell(session, now, why)

    def _end(self, session: _Session, now: float) -> None:
        """Forget the session, except that its name was seen."""
        del self._sessions[session.channel]
        if not session.offerer:
            del self._by_name[session.peer, session.name]
        if not session.machine.final:
            session.machine.move("end", now)
        if session.courier is not None:
            session.courier.stop(now)


def _short(identity: bytes) -> str:
    return identity.hex()[:16]
