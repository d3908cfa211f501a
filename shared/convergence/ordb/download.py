"""The receiving end: fetches one file from one or several sources, verifies, stores, resumes.

Does: hold each source to the link, request missing pieces, verify and store each. Only a stored piece counts and lets
the download ask for more: the speed of the disk throttles the senders.
Does not: find sources (rdv/client.py does; `on_need_source` asks for them), or read the clock.

Of a collection the manifest comes first and alone: one that lies ends the download before anything else is asked for.
Its reader then chooses files, and the download is done with the pieces that these need (`wanted`). Only a download of
all pieces checks again what an earlier run stored.

phases.py has the phases. A phase that waits for storage pauses when storage fails or does not answer. `retry` repeats
the step that failed and fetches nothing again.

A piece is in exactly one of four places: open (nobody was asked), requested (from one source), verified and waiting
for the store, or present. It moves on only in that order, or back to open when its source is lost; this is why no
piece is ever fetched twice. No second source races a slow one: the slow one's stream is ended first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from convergence.codes import Dropped, TransferWhy
from convergence.crypto.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, verify_leaf
from convergence.effects import Failure
from convergence.errors import EndReason, ParseError
from convergence.ordb.collection import Collection, manifest_pieces
from convergence.ordb.index import SharedFile, piece_key, piece_length
from convergence.ordb.phases import STORAGE_TIMEOUT, TABLE, Phase
from convergence.ordb.pieces import PieceSet
from convergence.ordb.source import Source
from convergence.outbox import Outbox, Timer
from convergence.pipes.duplex import Duplex
from convergence.states import StateMachine
from convergence.wire.ordb import HASH_LEN, FileInfo, Info
from convergence.wire.sharelink import ShareLink

MAX_SOURCES = 4
MAX_PENDING_STORES = 32  # verified pieces that wait for the disk (8 MiB); at this number, requests stop
MAX_BATCH = 8  # pieces in one transaction, if so many wait
LOADS_AHEAD = 4  # stored pieces read at once: of a manifest, or to complete the tree of a resumed file
FORGET_BATCH = 1024  # keys deleted in one transaction
SOURCE_TIMEOUT = 30.0  # seconds of silence after which a source that owes us something is dropped
PIECE_PATIENCE = 240.0  # seconds for one piece of a source that is slow, or says other things meanwhile
QUEUE_PATIENCE = 60.0  # seconds that we wait in a second queue: another source may serve at once
STEAL_AFTER = 5.0  # seconds of silence after which an idle source takes over what another owes
STEAL_FACTOR = 4.0  # or when a piece takes this many times as long as from the idle source
WATCH_INTERVAL = 1.0  # seconds


def _ignore(*_: Any) -> None:
    pass


class Download:
    """One file on its way here.

    Args:
        link: what to fetch, and the commitment that every source must meet.
        wanted_sources: how many sources to draw from at once, 1 to MAX_SOURCES.
        choose: gives the numbers of the entries of a collection that are wanted; by default all are.
        on_progress: (bytes had, bytes in all, now), after each store. What is not chosen counts in neither.
        on_listed: (Collection, now): it is known what is in it, and `wanted` what is fetched.
        on_done: (SharedFile, now): all that is wanted is here; a complete record lets the node serve the file on.
        on_need_source: (now): another source would help; see `sources_wanted`.
        on_paused: (TransferWhy, now): storage failed; `retry` goes on.
        on_queued: (now): the place in a busy source's queue changed; see `position`.
        on_failed: (TransferWhy, now): for good.
        on_dropped: (Dropped, now): a source misbehaved or stalled; for logs.
    """

    def __init__(
        self,
        link: ShareLink,
        outbox: Outbox,
        now: float,
        *,
        wanted_sources: int = 3,
        choose: Callable[[Collection], Iterable[int]] = lambda collection: range(len(collection.entries)),
        on_progress: Callable[[int, int, float], None] = _ignore,
        on_listed: Callable[[Collection, float], None] = _ignore,
        on_done: Callable[[SharedFile, float], None] = _ignore,
        on_need_source: Callable[[float], None] = _ignore,
        on_paused: Callable[[TransferWhy, float], None] = _ignore,
        on_queued: Callable[[float], None] = _ignore,
        on_failed: Callable[[TransferWhy, float], None] = _ignore,
        on_dropped: Callable[[Dropped, float], None] = _ignore,
    ) -> None:
        self.pieces_fetched = 0
        self.bytes_fetched = 0
        self.duplicates = 0  # pieces that came although they were here already
        self.banned = 0  # sources that were dropped for what they sent
        self.file: SharedFile | None = None  # known once a source proved it, or from an earlier run
        self.present = PieceSet(0)
        self.wanted = PieceSet(0)  # of a collection first those of the manifest
        self.collection: Collection | None = None  # once its manifest was read
        self.tree = MerkleTree(0)
        self._link = link
        self._outbox = outbox
        self._wanted_sources = min(max(wanted_sources, 1), MAX_SOURCES)
        self._choose = choose
        self._on_progress = on_progress
        self._on_listed = on_listed
        self._on_done = on_done
        self._on_need_source = on_need_source
        self._on_paused = on_paused
        self._on_queued = on_queued
        self._on_failed = on_failed
        self._on_dropped = on_dropped
        self._sources: list[Source] = []
        self._open = PieceSet(0)
        self._verified: deque[tuple[int, bytes, Source]] = deque()  # MAX_PENDING_STORES, and what was under way by then
        self._storing: list[tuple[int, bytes, Source]] = []  # MAX_BATCH
        self._manifest: dict[int, bytes] = {}  # its pieces, while they are read
        self._unread: deque[int] = deque()  # stored pieces: of the manifest, or such whose leaf is not known
        self._leaves_read: dict[int, bytes] = {}
        self._reading = 0
        self._round = 0  # counts rounds of reading, to know late answers
        self._unreadable: list[int] = []
        self._machine = StateMachine(TABLE, outbox, self._timed_out, now)
        self._paused_at = Phase.LOADING  # the phase that `retry` takes up again
        self._stored_at = 0.0  # when the batch under way was given to storage, in steady time
        self._watch: Timer | None = None

    # -- what the node calls

    def start(self, now: float) -> None:
        """Go on from what an earlier run left, else wait for a source."""
        self._outbox.load("transfer", self._link.hash_name, self._on_record)

    def attach(self, stream: Duplex) -> Source:
        """A handler for a session with a node that shares this file (`Session`'s `attach`)."""
        return Source(stream, self, self._outbox)

    @property
    def sources_wanted(self) -> int:
        """How many more open sources would help now."""
        if self.phase in (Phase.WAITING, Phase.SAVING, Phase.SCANNING, Phase.RUNNING):
            return self._wanted_sources - len(self._sources)
        return 0

    @property
    def phase(self) -> Phase:
        return self._machine.state

    @property
    def sources(self) -> int:
        """How many sources it draws from now."""
        return sum(not source.position for source in self._sources)

    @property
    def position(self) -> int:
        """Its best place in the queues of busy sources; 0 if it waits in none, or a source serves it."""
        places = [source.position for source in self._sources]
        return min(places) if places and all(places) else 0

    @property
    def have_bytes(self) -> int:
        """Bytes of all pieces that are here."""
        return self._bytes(self.present)

    @property
    def paused(self) -> bool:
        return self.phase is Phase.PAUSED

    @property
    def active(self) -> bool:
        """Whether it can still complete."""
        return not self._machine.final

    def retry(self, now: float) -> None:
        """Go on after a pause, at the step that failed."""
        if not self.paused:
            return
        self._machine.move(f"retry {self._paused_at.value}", now)
        for source in self._sources:
            source.begin(now)
        match self._paused_at:
            case Phase.LOADING:
                self.start(now)
            case Phase.SAVING:
                self._save()
            case Phase.SCANNING:
                self._scan()
            case Phase.RUNNING:
                self._store_batch(now)
            case Phase.LISTING:
                self._read_manifest(now)
            case Phase.READING:
                self._read_leaves(now)
            case _:
                self._save_complete()
        self._request_all(now)
        self._need_source(now)

    def cancel(self, now: float) -> None:
        """Stop. What was stored stays, and a later Download of the same link resumes from it."""
        self._stop("stop", now)

    def fail(self, why: TransferWhy, now: float) -> None:
        """Give up for good; what was stored stays."""
        if self.active:
            self._stop("fail", now)
            self._on_failed(why, now)

    def forget(self, now: float, *, keep_pieces: bool = False) -> None:
        """Stop, and delete record and pieces; the pieces stay if the node shares a file of the same content."""
        file = self.file
        stored = self.present.indexes() + [index for index, _, _ in self._storing]
        self._stop("stop", now)
        self._outbox.store([("transfer", self._link.hash_name, None)], _ignore)
        if file is None or keep_pieces:
            return
        root = file.info.root

        def delete(shared: Any, now: float) -> None:
            if shared == []:
                for at in range(0, len(stored), FORGET_BATCH):
                    batch = stored[at : at + FORGET_BATCH]
                    self._outbox.store([("piece", piece_key(root, index), None) for index in batch], _ignore)

        self._outbox.scan("file", root, delete)

    # -- from link to RUNNING

    def _on_record(self, result: Any, now: float) -> None:
        if self.phase is not Phase.LOADING:
            return
        if isinstance(result, Failure):
            self._pause(result, now)
            return
        if result is not None:
            try:
                record = SharedFile.parse(result)
            except ParseError:
                record = None  # damaged, or of a newer version: the pieces are found again by the root
            if record is not None and record.key == self._link.key and self._usable(record.info):
                self.file = record
                self._machine.move("found", now)
                self._scan()
                return
        self._machine.move("nothing", now)
        self._need_source(now)

    @staticmethod
    def _usable(info: FileInfo) -> bool:
        return info.size > 0 or info.root == EMPTY_ROOT

    def _save(self) -> None:
        """Store the record before any piece, so that no piece is ever without a record."""

        def reply(result: Any, now: float) -> None:
            if self.phase is not Phase.SAVING:
                return
            if isinstance(result, Failure):
                self._pause(result, now)
            else:
                self._machine.move("saved", now)
                self._scan()

        if self.file is not None:
            self._outbox.store([("transfer", self._link.hash_name, self.file.encode())], reply)

    def _scan(self) -> None:
        def reply(result: Any, now: float) -> None:
            if self.phase is not Phase.SCANNING:
                return
            if isinstance(result, Failure):
                self._pause(result, now)
            else:
                self._begin(result, now)

        if self.file is not None:
            self._outbox.scan("piece", self.file.info.root, reply)

    def _begin(self, keys: Sequence[bytes], now: float) -> None:
        assert self.file is not None
        info = self.file.info
        complete = self.file.complete and MerkleTree.of(self.file.leaves).root == info.root
        self.tree = MerkleTree.of(self.file.leaves) if complete else MerkleTree(info.pieces)
        self.present = PieceSet.of_keys(info.pieces, keys)
        self.wanted = manifest_pieces(info) if info.manifest_size else PieceSet.full(info.pieces)
        self._machine.move("scanned", now)
        self._tell_progress(now)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        """RUNNING begins, with some pieces wanted that may be here."""
        self._open = PieceSet(self.wanted.count, self.present.missing().bits & self.wanted.bits)
        if not self._finish(now):
            self._request_all(now)
            self._need_source(now)

    # -- SourceOwner

    def source_opened(self, source: Source, now: float) -> None:
        if self.active and len(self._sources) < MAX_SOURCES:
            self._sources.append(source)
            self._start_watch(now)
        else:
            source.stop(EndReason.DONE, now)

    def source_info(self, source: Source, info: Info, now: float) -> int | None:
        if info.commitment() != self._link.key:
            self.drop(source, Dropped.OTHER_FILE, now, ban=True)
            return None
        if not self._usable(info.info):
            self.fail(TransferWhy.UNKNOWN_KIND, now)
            return None
        if self.file is None:
            self.file = SharedFile(self._link.hash_name, self._link.key, info.salt, info.info)
        if self.phase is Phase.WAITING:
            self._machine.move("described", now)
            self._save()
        return self.file.info.pieces

    def source_piece(self, source: Source, index: int, proof: Sequence[bytes], data: bytes, now: float) -> None:
        assert self.file is not None
        info = self.file.info
        leaf = leaf_hash(data)
        right = len(data) == piece_length(info.size, index, info.piece_size)
        if not right or not verify_leaf(info.root, info.pieces, index, leaf, proof):
            self._open.add(index)
            self.drop(source, Dropped.WRONG_BYTES, now, ban=True)
            return
        self.pieces_fetched += 1
        self.bytes_fetched += len(data)
        if index in self.present:
            self.duplicates += 1
        self.tree.learn(index, leaf, proof)
        source.storing += 1
        self._verified.append((index, data, source))
        self._flush(now)

    def source_queued(self, source: Source, now: float) -> None:
        self._on_queued(now)

    def source_ready(self, source: Source, now: float) -> None:
        self._request(source, now)

    def source_returned(self, indexes: Sequence[int], now: float) -> None:
        for index in indexes:
            self._open.add(index)
        self._request_all(now)

    def source_closed(self, source: Source, now: float) -> None:
        self._remove(source, EndReason.DONE, now)

    def drop(self, source: Source, why: Dropped, now: float, *, ban: bool) -> None:
        if not source.alive:
            return
        if ban:
            self.banned += 1
        self._on_dropped(why, now)
        self._remove(source, EndReason.TORPROTOCOL if ban else EndReason.TIMEOUT, now)

    def _remove(self, source: Source, reason: int, now: float) -> None:
        outstanding = source.stop(reason, now)
        if source in self._sources:
            self._sources.remove(source)
        if self.active:
            self.source_returned(outstanding, now)
            self._need_source(now)

    # -- which piece from whom

    def _request_all(self, now: float) -> None:
        for source in list(self._sources):
            self._request(source, now)

    def _request(self, source: Source, now: float) -> None:
        if self.phase is not Phase.RUNNING or source.has is None or not source.alive:
            return
        if len(self._verified) + len(self._storing) >= MAX_PENDING_STORES:
            return
        wanted = []
        for _ in range(source.free_slots):
            index = PieceSet(self._open.count, self._open.bits & source.has.bits).first()
            if index is None:
                break
            self._open.discard(index)
            wanted.append(index)
        if wanted:
            source.request(wanted, now)

    def _start_watch(self, now: float) -> None:
        if self._watch is None or not self._watch.pending:
            self._watch = self._outbox.call_at(now + WATCH_INTERVAL, self._on_watch)

    def _on_watch(self, now: float) -> None:
        for source in list(self._sources):
            owes = source.requested or source.has is None
            serves = self.phase in (Phase.WAITING, Phase.RUNNING) and not (source.position or source.storing)
            if (owes and source.silence(now) >= SOURCE_TIMEOUT) or (serves and source.age(now) >= PIECE_PATIENCE):
                self.drop(source, Dropped.SILENT, now, ban=False)
        self._leave_queues(now)
        if self.phase is Phase.RUNNING:
            self._steal(now)
            if self._storing and self._outbox.steady(now) - self._stored_at >= STORAGE_TIMEOUT:
                self._pause(Failure("io", "no answer"), now)
        if (self._sources or self._storing) and self.active:
            self._start_watch(now)

    def _leave_queues(self, now: float) -> None:
        """Stay in the queue where we have waited longest, and leave the others to find sources that serve: a hostile
        sender could let us wait for ever."""
        queues = sorted([source for source in self._sources if source.position], key=lambda source: source.queued)
        for source in queues[1:]:
            if source.waiting(now) >= QUEUE_PATIENCE:
                self.drop(source, Dropped.QUEUED, now, ban=False)

    def _steal(self, now: float) -> None:
        """At the end, when every piece is requested: a source with nothing to do takes over from one that is stuck."""
        for idle in self._sources:
            if idle.requested or idle.has is None or self._open.bits & idle.has.bits:
                continue
            for slow in self._sources:
                age = slow.oldest_age(now)
                silent = bool(slow.requested) and slow.silence(now) >= STEAL_AFTER
                outpaced = idle.pieces > 0 and age > STEAL_AFTER + STEAL_FACTOR * idle.piece_time
                if (silent or outpaced) and any(index in idle.has for index in slow.requested):
                    self.drop(slow, Dropped.SLOW, now, ban=False)
                    return

    # -- store, then count

    def _flush(self, now: float) -> None:
        if self._storing or self.phase is not Phase.RUNNING or not self._verified:
            return
        self._storing = [self._verified.popleft() for _ in range(min(MAX_BATCH, len(self._verified)))]
        self._store_batch(now)

    def _store_batch(self, now: float) -> None:
        assert self.file is not None
        root, batch = self.file.info.root, self._storing
        self._stored_at = self._outbox.steady(now)
        self._start_watch(now)

        def reply(result: Any, now: float) -> None:
            if self.phase is Phase.RUNNING and batch is self._storing:  # else the answer came too late
                self._on_stored(result, now)

        self._outbox.store([("piece", piece_key(root, index), data) for index, data, _ in batch], reply)

    def _on_stored(self, result: Any, now: float) -> None:
        if isinstance(result, Failure):
            self._pause(result, now)
            return
        batch, self._storing = self._storing, []
        for index, _, source in batch:
            self.present.add(index)
            source.storing -= 1
        self._flush(now)
        self._tell_progress(now)
        if not self._finish(now):
            self._request_all(now)

    def _pause(self, failure: Failure, now: float) -> None:
        self._paused_at = self.phase
        self._machine.move("broken", now)
        self._on_paused(TransferWhy.NO_ROOM if failure.kind == "quota" else TransferWhy.STORAGE, now)

    def _timed_out(self, phase: Phase, now: float) -> None:
        """Storage does not answer."""
        self._paused_at = phase
        self._on_paused(TransferWhy.STORAGE, now)

    # -- all that was wanted is here

    def _finish(self, now: float) -> bool:
        """Whether it is: the next step begins then."""
        assert self.file is not None
        if self.wanted.bits & ~self.present.bits:
            return False
        if self.file.info.manifest_size and self.collection is None:
            self._machine.move("manifest here", now)
            self._read_manifest(now)
            return True
        whole = self.present.complete
        self._machine.move("all here" if whole else "part here", now)  # before sources end: none is wanted any more
        for source in self._sources:
            source.stop(EndReason.DONE, now)
        self._sources.clear()
        if whole:
            self._read_leaves(now)
        else:
            self._on_done(self.file, now)
        return True

    def _read_manifest(self, now: float) -> None:
        self._manifest.clear()
        self._read(self.wanted.indexes(), now)

    def _on_manifest(self, now: float) -> None:
        assert self.file is not None
        info, pieces = self.file.info, self._manifest
        data = b"".join([pieces[index] for index in sorted(pieces)])[: info.manifest_size]
        doubtful = self._unreadable or [index for index in pieces if self.tree.leaf(index) is None]
        self._manifest, self._unreadable = {}, []
        try:
            collection = Collection.parse(info, data)
        except ParseError:
            if doubtful:  # else its pieces came in this run, and were verified
                self._refetch(doubtful, now)
            else:
                self.fail(TransferWhy.BAD_MANIFEST, now)
            return
        self.collection = collection
        self.wanted = collection.pieces(self._choose(collection))
        self._machine.move("listed", now)
        self._on_listed(collection, now)
        self._tell_progress(now)
        self._go_on(now)

    def _read_leaves(self, now: float) -> None:
        """Complete the tree: leaves of pieces that an earlier run stored may be missing."""
        self._leaves_read.clear()
        self._read([index for index in range(self.present.count) if self.tree.leaf(index) is None], now)

    def _read(self, indexes: Iterable[int], now: float) -> None:
        self._unreadable = []
        self._round += 1
        self._reading = 0
        self._unread = deque(indexes)
        self._read_more(now)

    def _read_more(self, now: float) -> None:
        assert self.file is not None
        while self._unread and self._reading < LOADS_AHEAD:
            index = self._unread.popleft()
            self._reading += 1

            def reply(piece: Any, now: float, index: int = index, number: int = self._round) -> None:
                if number == self._round and self.phase in (Phase.LISTING, Phase.READING):
                    self._on_read(index, piece, now)

            self._outbox.load("piece", piece_key(self.file.info.root, index), reply)
        if not self._unread and not self._reading:
            if self.phase is Phase.LISTING:
                self._on_manifest(now)
            else:
                self._on_tree(now)

    def _on_read(self, index: int, piece: Any, now: float) -> None:
        assert self.file is not None
        self._reading -= 1
        self._machine.extend(now)
        info = self.file.info
        if not isinstance(piece, bytes) or len(piece) != piece_length(info.size, index, info.piece_size):
            self._unreadable.append(index)
        elif self.phase is Phase.LISTING:
            self._manifest[index] = piece
        else:
            self._leaves_read[index] = leaf_hash(piece)
        self._read_more(now)

    def _on_tree(self, now: float) -> None:
        assert self.file is not None
        leaves = bytearray(self.tree.leaves)
        for index, leaf in self._leaves_read.items():
            leaves[index * HASH_LEN : (index + 1) * HASH_LEN] = leaf
        tree = MerkleTree.of(bytes(leaves))
        suspects = self._unreadable or (list(self._leaves_read) if tree.root != self.file.info.root else [])
        self._leaves_read, self._unreadable = {}, []
        if suspects:
            self._refetch(suspects, now)
            return
        self.tree = tree
        file = self.file
        self.file = SharedFile(file.hash_name, file.key, file.salt, file.info, tree.leaves)
        self._machine.move("read", now)
        self._save_complete()

    def _refetch(self, suspects: Sequence[int], now: float) -> None:
        """Storage lost or damaged these pieces since an earlier run."""
        for index in suspects:
            self.present.discard(index)
        self._machine.move("damaged", now)
        self._go_on(now)

    def _save_complete(self) -> None:
        def reply(result: Any, now: float) -> None:
            if self.phase is not Phase.COMPLETING or self.file is None:
                return
            if isinstance(result, Failure):
                self._pause(result, now)
                return
            self._machine.move("saved", now)
            self._on_done(self.file, now)

        if self.file is not None:
            self._outbox.store([("transfer", self._link.hash_name, self.file.encode())], reply)

    def _stop(self, end: str, now: float) -> None:
        if self.active:
            self._machine.move(end, now)
        for source in self._sources:
            source.stop(EndReason.DONE, now)
        self._sources.clear()
        self._verified.clear()
        self._storing = []

    def _need_source(self, now: float) -> None:
        if self.sources_wanted > 0:
            self._on_need_source(now)

    def _tell_progress(self, now: float) -> None:
        assert self.file is not None
        if self.collection is None:  # it is not known yet what else is wanted
            self._on_progress(self.have_bytes, self.file.info.size, now)
        else:
            here = PieceSet(self.present.count, self.present.bits & self.wanted.bits)
            self._on_progress(self._bytes(here), self._bytes(self.wanted), now)

    def _bytes(self, pieces: PieceSet) -> int:
        if self.file is None or not pieces.bits:
            return 0
        info, count = self.file.info, len(pieces)
        if info.pieces - 1 in pieces:
            return (count - 1) * info.piece_size + piece_length(info.size, info.pieces - 1, info.piece_size)
        return count * info.piece_size
