"""The documents of the Tor network that a client needs: a consensus, the authorities' certificates, microdescriptors.

Does: ask for what is missing, check all of it, ask another directory when one fails or lies, keep what was checked for
the next run, ask again in time (dir-spec 5).
Does not: choose relays. Nothing counts because of who sent it: the authorities signed the consensus, and it names
everything else by digest.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from hashlib import sha256
from typing import Any

from convergence.chance import fraction
from convergence.errors import CryptoError, RemoteError
from convergence.events import DirectoryRefused
from convergence.netdir.consensus import ConsensusDirectory
from convergence.netdir.tor import TorRelay, TorView
from convergence.outbox import Outbox, Timer
from convergence.pipes.http import Headers
from convergence.ports import Rng
from convergence.tor.request import IF_MODIFIED_SINCE, DocumentRequest, NotModified
from convergence.tor.sources import DirectorySources
from convergence.wire.authority import parse_certificates
from convergence.wire.consensus import MAX_CONSENSUS, Consensus
from convergence.wire.microdescriptor import MAX_MICRODESCRIPTOR, find_microdescriptors

BUCKET = "tor-directory"
CHUNK = b"micro/"  # begins the names of microdescriptors that are kept together
BATCH = 92  # microdescriptors in one request (dir-spec 4.4)
MAX_EARLIER = 3  # consensuses, the latest, that a mirror keeps: clients ask anew before theirs is three hours old
PARALLEL = 3  # requests for microdescriptors at once
MAX_CERTIFICATES = 1 << 20  # bytes
CERTIFICATE_REQUESTS = 3  # directories that are asked for the certificates of one consensus
MODIFIED_SINCE = 180.0
"""A consensus that is not so many seconds newer than ours is not sent again. C Tor's clients say the same."""
RETRY_FIRST = 1.0  # seconds until what failed is tried again, doubled up to...
RETRY_MAX = 300.0


class Want(Enum):
    """What a request is for."""

    CONSENSUS = "consensus"
    CERTIFICATES = "certificates"
    MICRODESCRIPTORS = "microdescriptors"


class _Pause:
    """How long nothing is asked, longer after each failure. Calls `work` when it is over."""

    def __init__(self, outbox: Outbox, work: Callable[[float], None]) -> None:
        self._outbox = outbox
        self._work = work
        self._timer: Timer | None = None
        self._retry = RETRY_FIRST

    @property
    def over(self) -> bool:
        return self._timer is None or not self._timer.pending

    def failed(self, now: float) -> None:
        self.until(now + self._retry)
        self._retry = min(2 * self._retry, RETRY_MAX)

    def until(self, when: float) -> None:
        self.end()
        self._timer = self._outbox.call_at(when, self._work)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def reset(self) -> None:
        """Something went well."""
        self.end()
        self._retry = RETRY_FIRST


@dataclass(slots=True)
class _Unchecked:
    """A consensus whose certificates are missing."""

    consensus: Consensus
    source: bytes
    requests: int = CERTIFICATE_REQUESTS  # that may still be made


class TorDirectory:
    """Args:
    authorities: their v3 identities (20 bytes each).
    on_changed: called with `now` when there is another consensus, or there are more microdescriptors.
    mirror: whether others get the documents from here, so that there has to be a new consensus sooner.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        authorities: Collection[bytes],
        sources: DirectorySources,
        on_changed: Callable[[float], None],
        mirror: bool = False,
    ) -> None:
        self.documents = ConsensusDirectory(authorities)
        self.view: TorView | None = None  # of the consensus in use, with the microdescriptors that are here
        self._outbox = outbox
        self._rng = rng
        self._sources = sources
        self._on_changed = on_changed
        self._mirror = mirror
        self.earlier: dict[str, bytes] = {}  # of a mirror: consensuses that others may have, by their `diff_base`
        self._before: TorView | None = None  # of a mirror: others still have that consensus, and ask for what it names
        self._authorities = sorted(identity.hex().upper() for identity in authorities)
        self._requests: dict[DocumentRequest, Want] = {}
        self._asked: set[bytes] = set()  # digests of microdescriptors that are on their way
        self._unchecked: _Unchecked | None = None
        self._refresh_at = 0.0  # Unix seconds: when to ask for the next consensus
        consensus = _Pause(outbox, self._work)
        self._pauses = {
            Want.CONSENSUS: consensus,
            Want.CERTIFICATES: consensus,
            Want.MICRODESCRIPTORS: _Pause(outbox, self._work),
        }
        self._chunks: dict[bytes, frozenset[bytes]] = {}  # name of what is kept -> microdescriptors in it (digests)
        self._unread: list[bytes] = []  # names of what an earlier run kept
        self._reading = False
        self._portion: Timer | None = None  # reads the next portion of a consensus
        self._running = False
        # Documents have dates, so this wait alone does not go on as if the clock had not jumped.
        self._forget = outbox.on_shift(lambda by: None if consensus.over else consensus.until(self._refresh_at))

    # -- for the network

    def start(self, now: float) -> None:
        """Read what an earlier run kept, then ask for what is missing."""
        self._running = True
        self._load()

    def stop(self, now: float) -> None:
        self._running = False
        if self._portion is not None:
            self._portion.cancel()
        for pause in self._pauses.values():
            pause.reset()
        requests, self._requests = self._requests, {}
        for request in requests:
            request.cancel(now)
        self._asked.clear()
        self._unchecked = None
        self._sources.stop(now)
        self._forget()

    @property
    def consensus(self) -> Consensus | None:
        return self.documents.consensus

    @property
    def certificates(self) -> bytes:
        """Those of the authorities, one after the other, as they came."""
        return self.documents.certificates

    def microdescriptor(self, digest: bytes) -> bytes:
        """The one of this digest, as it came, or nothing; a mirror's may be of the consensus before."""
        views = [view for view in (self.view, self._before) if view is not None]
        return next((raw for view in views if (raw := view.microdescriptors.get(digest))), b"")

    def relay(self, fingerprint: bytes) -> TorRelay | None:
        """The usable relay of this RSA identity; a mirror's may be of the consensus before, which others still have."""
        for view in (self.view, self._before):
            status = None if view is None else view.get(fingerprint)
            relay = None if view is None or status is None else view.relay(status)
            if relay is not None:
                return relay
        return None

    def missing(self) -> list[bytes]:
        """Digests of the microdescriptors that are not here."""
        return [] if self.view is None else self.view.missing()

    def moved(self, now: float) -> None:
        """This machine is on another network, or slept: what failed may work now."""
        self._sources.moved()
        for pause in self._pauses.values():
            pause.reset()
        self._work(now)

    # -- what is needed

    def _work(self, now: float) -> None:
        """Ask for what is missing and not on its way."""
        if not self._running or self._reading:
            return
        busy, pause = set(self._requests.values()), self._pauses[Want.CONSENSUS]
        if pause.over and self._portion is None and not busy & {Want.CONSENSUS, Want.CERTIFICATES}:
            if self._unchecked is not None:
                self._ask_certificates(self._unchecked, now)
            elif now >= self._refresh_at:
                self._ask_consensus(now)
            else:
                pause.until(self._refresh_at)
        if self._unread and self.documents.usable(now):
            self._read_chunk()
        elif self.documents.usable(now):
            self._ask_microdescriptors(now)

    def _ask_consensus(self, now: float) -> None:
        names = "+".join(name[:6] for name in self._authorities)
        current = self.consensus
        headers: Headers = ()
        if current is not None:
            since = current.valid_after + min(MODIFIED_SINCE, (current.fresh_until - current.valid_after) / 2)
            headers = (
                ("X-Or-Diff-From-Consensus", current.diff_base),
                (IF_MODIFIED_SINCE, formatdate(since, usegmt=True)),
            )
        path = f"/tor/status-vote/current/consensus-microdesc/{names}"
        self._ask(Want.CONSENSUS, path, headers, MAX_CONSENSUS, self._consensus_came, now)

    def _ask_certificates(self, unchecked: _Unchecked, now: float) -> None:
        names = self.documents.missing(unchecked.consensus, now)
        path = "/tor/keys/fp-sk/" + "+".join(f"{one.hex().upper()}-{two.hex().upper()}" for one, two in names)
        unchecked.requests -= 1

        def came(data: bytes, source: bytes, now: float) -> None:
            refusals = self.documents.add_certificates(data, names, now)
            if len(self.documents.missing(unchecked.consensus, now)) == len(names):
                raise RemoteError("; ".join(["none of the certificates that were asked for", *refusals[:1]]))
            self._store([(b"certificates", self.documents.certificates)])
            self._unchecked = None
            try:
                self._take(unchecked.consensus, now)
            except RemoteError as error:
                self._refuse(Want.CONSENSUS, unchecked.source, error, now)

        def over(now: float) -> None:
            if unchecked.requests == 0 and self._unchecked is unchecked:
                self._unchecked = None
                error = RemoteError("nobody has the certificates of those who signed the consensus")
                self._refuse(Want.CONSENSUS, unchecked.source, error, now)

        self._ask(Want.CERTIFICATES, path, (), MAX_CERTIFICATES, came, now, over)

    def _ask_microdescriptors(self, now: float) -> None:
        wanted = [digest for digest in self.missing() if digest not in self._asked]
        pause = self._pauses[Want.MICRODESCRIPTORS]
        while wanted and pause.over and list(self._requests.values()).count(Want.MICRODESCRIPTORS) < PARALLEL:
            batch, wanted = wanted[:BATCH], wanted[BATCH:]
            self._ask_batch(frozenset(batch), now)

    def _ask_batch(self, batch: frozenset[bytes], now: float) -> None:
        def came(data: bytes, source: bytes, now: float) -> None:
            found = find_microdescriptors(data, batch)
            if found:
                self._pauses[Want.MICRODESCRIPTORS].reset()
                assert self.view is not None
                self.view.add(found)
                self._keep_chunk(found)
                self._on_changed(now)
            if len(found) < len(batch):
                raise RemoteError(f"{len(batch) - len(found)} of {len(batch)} microdescriptors are missing")

        def over(now: float) -> None:
            self._asked -= batch

        self._asked |= batch
        path = "/tor/micro/d/" + "-".join(b64encode(digest).decode().rstrip("=") for digest in sorted(batch))
        self._ask(Want.MICRODESCRIPTORS, path, (), len(batch) * MAX_MICRODESCRIPTOR, came, now, over)

    # -- asking

    def _ask(
        self,
        want: Want,
        path: str,
        headers: Headers,
        limit: int,
        came: Callable[[bytes, bytes, float], None],
        now: float,
        over: Callable[[float], None] = lambda now: None,
    ) -> None:
        """`came(document, source, now)` raises RemoteError to refuse it; `over(now)` is called at last, come or not."""
        pipe = self._sources.connect(now)
        if pipe is None:
            self._pauses[want].failed(now)
            over(now)
            return
        source = pipe.source

        def done(result: bytes | RemoteError, now: float) -> None:
            del self._requests[request]
            try:
                if isinstance(result, RemoteError):
                    raise result
                self._sources.worked(source)  # first: what came may be a certificate that shows an earlier lie of its
                came(result, source, now)
            except RemoteError as error:
                self._refuse(want, source, error, now)
            over(now)
            self._work(now)

        request = DocumentRequest(self._outbox, pipe, path, headers, limit, done, now)
        self._requests[request] = want

    def _refuse(self, want: Want, source: bytes, error: RemoteError, now: float) -> None:
        """Ask another one, after a pause."""
        if not isinstance(error, NotModified):
            self._outbox.emit(DirectoryRefused(want.value, source.hex(), str(error)))
        self._sources.rest(source, now)
        if self._running:
            self._pauses[want].failed(now)

    # -- a consensus

    def _consensus_came(self, data: bytes, source: bytes, now: float) -> None:
        def read(consensus: Consensus | RemoteError, now: float) -> None:
            try:
                self._judge(consensus, source, now)
            except RemoteError as error:
                self._refuse(Want.CONSENSUS, source, error, now)
            self._work(now)

        self._read(data, read, now)

    def _read(self, data: bytes, done: Callable[[Consensus | RemoteError, float], None], now: float) -> None:
        """Read a consensus, portion by portion, so that other input comes between."""
        portions = self.documents.reading(data)

        def go_on(now: float) -> None:
            self._portion = None
            try:
                next(portions)
            except StopIteration as end:
                done(end.value, now)
            except RemoteError as error:
                done(error, now)
            else:
                self._portion = self._outbox.call_at(now, go_on)

        self._portion = self._outbox.call_at(now, go_on)

    def _judge(self, consensus: Consensus | RemoteError, source: bytes, now: float) -> None:
        """Raises RemoteError."""
        if isinstance(consensus, RemoteError):
            raise consensus
        try:
            self._take(consensus, now)
        except CryptoError:
            if not self.documents.missing(consensus, now):
                raise
            self._unchecked = _Unchecked(consensus, source)

    def _take(self, consensus: Consensus, now: float) -> None:
        """Use it from now on. Raises RemoteError unless it is signed, timely and news."""
        before = self.consensus
        if not self.documents.update(consensus, now):
            raise RemoteError("the consensus in use once more, though it is time for another")
        if self._mirror and before is not None:
            self._before = self.view
            self.earlier[before.diff_base] = before.data
            if len(self.earlier) > MAX_EARLIER:
                del self.earlier[next(iter(self.earlier))]
        self.view = TorView(consensus) if self.view is None else self.view.renewed(consensus)
        self._store([(b"consensus", consensus.data), *self._spent_chunks()])
        self._plan(consensus)
        self._on_changed(now)

    def _plan(self, consensus: Consensus) -> None:
        """Ask for the next one at a random time before this one ends (dir-spec 5.1), or a mirror soon after it is fresh
        no more (4.2): all at once would be too many for the directories."""
        if self._mirror:
            first, last = 0.0, (consensus.fresh_until - consensus.valid_after) / 2
        else:
            left = consensus.valid_until - consensus.fresh_until
            first, last = left * 3 / 4, left * 15 / 16
        self._refresh_at = consensus.fresh_until + first + (last - first) * fraction(self._rng)
        self._pauses[Want.CONSENSUS].reset()

    # -- what is kept

    def _store(self, items: list[tuple[bytes, bytes | None]]) -> None:
        """What cannot be kept is asked for again by the next run."""
        self._outbox.store([(BUCKET, name, data) for name, data in items])

    def _keep_chunk(self, found: dict[bytes, bytes]) -> None:
        data = b"".join(found.values())
        name = CHUNK + sha256(data).hexdigest().encode()
        self._chunks[name] = frozenset(found)
        self._store([(name, data)])

    def _spent_chunks(self) -> list[tuple[bytes, bytes | None]]:
        """Those of which nothing is needed any more, to be deleted."""
        needed = {} if self.view is None else self.view.microdescriptors
        spent = [name for name, digests in self._chunks.items() if digests.isdisjoint(needed)]
        for name in spent:
            del self._chunks[name]
        return [(name, None) for name in spent]

    def _load(self) -> None:
        """All that was kept is checked like what comes from a directory. Other programs could have changed it."""

        def certificates(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                _recall(lambda: self._recall_certificates(value, now))
            self._outbox.load(BUCKET, b"consensus", consensus)

        def consensus(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                self._read(value, read, now)
            else:
                self._outbox.scan(BUCKET, CHUNK, chunks)

        def read(consensus: Consensus | RemoteError, now: float) -> None:
            if isinstance(consensus, Consensus):
                _recall(lambda: self._recall_consensus(consensus, now))
            self._outbox.scan(BUCKET, CHUNK, chunks)

        def chunks(keys: Any, now: float) -> None:
            self._unread = keys if isinstance(keys, list) else []
            self._reading = False
            if self._running and self.view is not None:
                self._on_changed(now)
            self._work(now)

        self._reading = True
        self._outbox.load(BUCKET, b"certificates", certificates)

    def _recall_certificates(self, data: bytes, now: float) -> None:
        names = [(cert.identity, cert.signing_digest) for cert in parse_certificates(data)]
        self.documents.add_certificates(data, names, now)

    def _recall_consensus(self, consensus: Consensus, now: float) -> None:
        if self.documents.update(consensus, now):
            self.view = TorView(consensus)
            self._plan(consensus)

    def _read_chunk(self) -> None:
        """Microdescriptors that an earlier run kept, one chunk after the other, once it is known which are needed."""
        name = self._unread.pop()

        def loaded(value: Any, now: float) -> None:
            self._reading = False
            self._chunks[name] = frozenset()
            if isinstance(value, bytes):
                _recall(lambda: self._recall_chunk(name, value))
            if self._running and not self._unread:
                self._on_changed(now)
            self._work(now)

        self._reading = True
        self._outbox.load(BUCKET, name, loaded)

    def _recall_chunk(self, name: bytes, data: bytes) -> None:
        found = find_microdescriptors(data, set(self.missing()))
        if self.view is not None:
            self.view.add(found)
        self._chunks[name] = frozenset(found)


def _recall(recall: Callable[[], None]) -> None:
    try:
        recall()
    except RemoteError:
        pass  # it has expired, or another version wrote it: a directory is asked
