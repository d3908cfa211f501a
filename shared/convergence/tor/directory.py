"""The documents of the Tor network that a client needs: a consensus, the authorities' certificates, microdescriptors.

Does: ask for what is missing, check all of it, ask another directory when one fails or lies, keep what was checked for
the next run, ask again in time (dir-spec 5).
Does not: choose relays. Nothing counts because of who sent it: the authorities signed the consensus, and it names
everything else by digest.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

from convergence.errors import RemoteError
from convergence.events import DirectoryRefused
from convergence.netdir.consensus import ConsensusDirectory
from convergence.netdir.tor import TorView
from convergence.outbox import Outbox, Timer
from convergence.path.select import fraction
from convergence.pipes.http import Headers
from convergence.ports import Rng
from convergence.tor.request import DocumentRequest, Outcome
from convergence.tor.sources import DirectorySources
from convergence.wire.authority import parse_certificates
from convergence.wire.consensus import MAX_CONSENSUS, Consensus
from convergence.wire.microdescriptor import MAX_MICRODESCRIPTOR, find_microdescriptors

BUCKET = "tor-directory"
CHUNK = "micro/"  # begins the names of microdescriptors that are kept together
BATCH = 92  # microdescriptors in one request (dir-spec 4.4)
PARALLEL = 3  # requests for microdescriptors at once
MAX_CERTIFICATES = 1 << 20  # bytes
RETRY_FIRST = 1.0  # seconds until what failed is tried again, doubled up to...
RETRY_MAX = 300.0
REFRESH_PARTS = 60  # of the time between two consensuses: so much lies between two requests for one at least
MAX_KEPT_CERTIFICATES = 1 << 18  # bytes


class Want(Enum):
    """What a request is for."""

    CONSENSUS = "consensus"
    CERTIFICATES = "certificates"
    MICRODESCRIPTORS = "microdescriptors"


class TorDirectory:
    """Args:
    authorities: their v3 identities (20 bytes each).
    on_changed: called with `now` when there is another consensus, or there are more microdescriptors.
    """

    def __init__(
        self,
        outbox: Outbox,
        rng: Rng,
        authorities: Iterable[bytes],
        sources: DirectorySources,
        on_changed: Callable[[float], None],
    ) -> None:
        self.documents = ConsensusDirectory(authorities)
        self.view: TorView | None = None  # of the consensus in use, with the microdescriptors that are here
        self._outbox = outbox
        self._rng = rng
        self._sources = sources
        self._on_changed = on_changed
        self._authorities = [identity.hex().upper() for identity in authorities]
        self._requests: dict[DocumentRequest, Want] = {}
        self._asked: set[bytes] = set()  # digests of microdescriptors that are on their way
        self._unchecked: Consensus | None = None  # its certificates are missing
        self._certificates = b""  # as they are kept
        self._chunks: dict[str, frozenset[bytes]] = {}  # name of what is kept -> digests of the microdescriptors in it
        self._numbers = 0
        self._retry = RETRY_FIRST
        self._timer: Timer | None = None
        self._refresh_at = 0.0  # Unix seconds
        self._running = False

    # -- for the network

    def start(self, now: float) -> None:
        """Read what an earlier run kept, then ask for what is missing."""
        self._running = True
        self._load(now)

    def stop(self, now: float) -> None:
        self._running = False
        self._wait(None)
        requests, self._requests = self._requests, {}
        for request in requests:
            request.cancel(now)
        self._sources.stop(now)

    @property
    def consensus(self) -> Consensus | None:
        return self.documents.consensus

    def missing(self) -> list[bytes]:
        """Digests of the microdescriptors that are not here."""
        return [] if self.view is None else self.view.missing()

    def moved(self, now: float) -> None:
        """This machine is on another network, or slept: what failed may work now."""
        self._retry = RETRY_FIRST
        if self._running:
            self._work(now)

    # -- what is needed

    def _work(self, now: float) -> None:
        """Ask for what is missing and not on its way."""
        self._wait(None)
        if not self._running:
            return
        busy = set(self._requests.values())
        if self._unchecked is not None:
            if Want.CERTIFICATES not in busy:
                self._ask_certificates(self._unchecked, now)
        elif now >= self._refresh_at and Want.CONSENSUS not in busy:
            self._ask_consensus(now)
        if self.documents.usable(now):
            self._ask_microdescriptors(now)
        if not self._requests:
            self._wait(self._refresh_at)

    def _ask_consensus(self, now: float) -> None:
        names = "+".join(name[:6] for name in self._authorities)
        current = self.consensus
        diff: Headers = () if current is None else (("X-Or-Diff-From-Consensus", current.diff_base),)
        path = f"/tor/status-vote/current/consensus-microdesc/{names}"
        self._ask(Want.CONSENSUS, path, diff, MAX_CONSENSUS, self._consensus_came, now)

    def _ask_certificates(self, consensus: Consensus, now: float) -> None:
        names = self.documents.missing(consensus, now)
        path = "/tor/keys/fp-sk/" + "+".join(f"{one.hex().upper()}-{two.hex().upper()}" for one, two in names)

        def came(data: bytes, source: bytes, now: float) -> None:
            for refusal in self.documents.add_certificates(data, names, now):
                self._refused(Want.CERTIFICATES, source, refusal)
            if len(self.documents.missing(consensus, now)) == len(names):
                raise RemoteError("none of the certificates that were asked for")
            self._certificates = (self._certificates + data)[-MAX_KEPT_CERTIFICATES:]
            self._store([("certificates", self._certificates)])
            self._judge(consensus, now)

        self._ask(Want.CERTIFICATES, path, (), MAX_CERTIFICATES, came, now)

    def _ask_microdescriptors(self, now: float) -> None:
        wanted = [digest for digest in self.missing() if digest not in self._asked]
        while wanted and sum(want is Want.MICRODESCRIPTORS for want in self._requests.values()) < PARALLEL:
            batch, wanted = wanted[:BATCH], wanted[BATCH:]
            names = "-".join(b64encode(digest).decode().rstrip("=") for digest in batch)
            if not self._ask_batch(frozenset(batch), f"/tor/micro/d/{names}", now):
                return

    def _ask_batch(self, batch: frozenset[bytes], path: str, now: float) -> bool:
        def came(data: bytes, source: bytes, now: float) -> None:
            found = find_microdescriptors(data, batch)
            if not found:
                raise RemoteError("none of the microdescriptors that were asked for")
            assert self.view is not None
            self.view.add(found)
            self._keep_chunk(found)
            self._on_changed(now)

        def over(now: float) -> None:
            self._asked -= batch

        self._asked |= batch
        limit = BATCH * MAX_MICRODESCRIPTOR
        return self._ask(Want.MICRODESCRIPTORS, path, (), limit, came, now, over)

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
    ) -> bool:
        """Whether somebody could be asked. `came(document, source, now)` raises RemoteError to refuse it."""
        pipe = self._sources.connect(now)
        if pipe is None:
            over(now)
            self._fail(now)
            return False
        source = pipe.source

        def done(result: bytes | Outcome | RemoteError, now: float) -> None:
            del self._requests[request]
            over(now)
            try:
                if isinstance(result, RemoteError):
                    raise result
                if isinstance(result, bytes):
                    came(result, source, now)
            except RemoteError as error:
                self._refused(want, source, str(error))
                result = error
            if isinstance(result, bytes) or result is Outcome.NOT_MODIFIED:
                self._retry = RETRY_FIRST
                self._work(now)
            else:
                self._sources.rest(source, now)
                self._fail(now)

        request = DocumentRequest(self._outbox, pipe, path, headers, limit, done, now)
        self._requests[request] = want
        return True

    def _refused(self, want: Want, source: bytes, reason: str) -> None:
        self._outbox.emit(DirectoryRefused(want.value, source.hex(), reason))

    def _fail(self, now: float) -> None:
        self._wait(now + self._retry)
        self._retry = min(2 * self._retry, RETRY_MAX)

    def _wait(self, until: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if until is None else self._outbox.call_at(until, self._work)

    # -- a consensus

    def _consensus_came(self, data: bytes, source: bytes, now: float) -> None:
        self._judge(self.documents.read(data), now)

    def _judge(self, consensus: Consensus, now: float) -> None:
        """Take it over, unless certificates are missing: then it waits for them."""
        if self._unchecked is None and self.documents.missing(consensus, now):
            self._unchecked = consensus
            return
        self._unchecked = None
        if self.documents.update(consensus, now):
            self.view = TorView(consensus) if self.view is None else self.view.renewed(consensus)
            self._store([("consensus", consensus.data), *self._spent_chunks()])
            self._plan(consensus, now)
            self._on_changed(now)
        else:
            self._plan(consensus, now)

    def _plan(self, consensus: Consensus, now: float) -> None:
        """Ask for the next one at a random time before this one ends (dir-spec 5.1): all clients at once would be too
        many for the directories."""
        left = consensus.valid_until - consensus.fresh_until
        first, last = consensus.fresh_until + left * 3 / 4, consensus.fresh_until + left * 15 / 16
        soonest = now + (consensus.fresh_until - consensus.valid_after) / REFRESH_PARTS
        self._refresh_at = max(first + (last - first) * fraction(self._rng), soonest)

    # -- what is kept

    def _store(self, items: list[tuple[str, bytes | None]]) -> None:
        """What cannot be kept is asked for again by the next run."""
        self._outbox.store([(BUCKET, name.encode(), data) for name, data in items], lambda result, now: None)

    def _keep_chunk(self, found: Mapping[bytes, bytes]) -> None:
        self._numbers += 1
        name = f"{CHUNK}{self._numbers:08}"
        self._chunks[name] = frozenset(found)
        self._store([(name, b"".join(found.values()))])

    def _spent_chunks(self) -> list[tuple[str, bytes | None]]:
        """Those of which nothing is needed any more, to be deleted."""
        needed = {} if self.view is None else self.view.microdescriptors
        spent = [name for name, digests in self._chunks.items() if digests.isdisjoint(needed)]
        for name in spent:
            del self._chunks[name]
        return [(name, None) for name in spent]

    def _load(self, now: float) -> None:
        """All that was kept is checked like what comes from a directory. Other programs could have changed it."""

        def certificates(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                self._recalled(lambda: self._recall_certificates(value, now))
            self._outbox.load(BUCKET, b"consensus", consensus)

        def consensus(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                self._recalled(lambda: self._judge(self.documents.read(value), now))
                self._unchecked = None
            self._outbox.scan(BUCKET, CHUNK.encode(), chunks)

        def chunks(keys: Any, now: float) -> None:
            self._load_chunks([key.decode("ascii", "replace") for key in keys] if isinstance(keys, list) else [], now)

        self._outbox.load(BUCKET, b"certificates", certificates)

    def _recalled(self, recall: Callable[[], None]) -> None:
        try:
            recall()
        except RemoteError:
            pass  # it has expired, or another version wrote it: a directory is asked

    def _recall_certificates(self, data: bytes, now: float) -> None:
        names = [(cert.identity, cert.signing_digest) for cert in parse_certificates(data)]
        self.documents.add_certificates(data, names, now)
        self._certificates = data

    def _load_chunks(self, names: list[str], now: float) -> None:
        if not names or self.view is None:
            if self.view is not None:
                self._on_changed(now)
            self._work(now)
            return
        name, rest = names[0], names[1:]

        def loaded(value: Any, now: float) -> None:
            if isinstance(value, bytes):
                self._recalled(lambda: self._recall_chunk(name, value))
            self._load_chunks(rest, now)

        self._outbox.load(BUCKET, name.encode(), loaded)

    def _recall_chunk(self, name: str, data: bytes) -> None:
        found = find_microdescriptors(data, set(self.missing()))
        if self.view is not None:
            self.view.add(found)
        self._chunks[name] = frozenset(found)
        self._numbers = max(self._numbers, int(name.removeprefix(CHUNK) or 0) if name[len(CHUNK) :].isdecimal() else 0)
