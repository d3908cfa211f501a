"""What this node shares and fetches: files joined to rendezvous, remembered between runs.

Does: put RdvService and Upload together for shares, RdvClient and Download for transfers; restore both at start; tell
people their state through Events and `snapshot`.
Does not: read or write files (the shell imports and exports pieces), or build circuits.

A share or transfer is named by an id that is safe to show and log; hash_name and key are capabilities, and not safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, TypeAlias

from convergence.codes import Gone, Limit, LinkFlaw, StorageWhy, TransferWhy
from convergence.crypto.merkle import MerkleTree
from convergence.effects import Failure
from convergence.errors import ParseError, Problem, Why
from convergence.events import (
    ShareFailed,
    ShareProgress,
    ShareStands,
    SourceDropped,
    TransferDone,
    TransferFailed,
    TransferInfo,
    TransferListed,
    TransferPaused,
    TransferProgress,
    TransferStatus,
    Trouble,
    as_json,
)
from convergence.netdir.view import Class, Known, View
from convergence.ordb.collection import Collection
from convergence.ordb.download import Download
from convergence.ordb.index import SharedFile, file_key, piece_key
from convergence.ordb.phases import Phase
from convergence.ordb.upload import Upload
from convergence.outbox import Outbox
from convergence.pipes.duplex import Duplex
from convergence.ports import Crypto, Rng
from convergence.rdv.circuits import CircuitSource
from convergence.rdv.client import RdvClient
from convergence.rdv.guests import FILES, Served
from convergence.rdv.keys import Subject
from convergence.rdv.own import OwnPoint
from convergence.rdv.service import RdvService
from convergence.wire.address import PrivateAddress
from convergence.wire.ordb import FileInfo
from convergence.wire.sharelink import ShareLink

MAX_TRANSFERS = 64  # under way at once
SECRET_LEN = 32
Choose: TypeAlias = Callable[[Collection], Sequence[int]]
"""Says which entries of a collection are wanted."""


def public_id(hash_name: bytes) -> str:
    """16 hex digits that name a share or transfer to people and logs without giving the capability away."""
    return sha256(b"convergence:public-id" + hash_name).hexdigest()[:16]


class State(StrEnum):
    """States of a transfer."""

    LOOKING = "looking"  # nothing has come yet
    RUNNING = "running"
    WAITING = "waiting"  # for a sender, with a part of the file
    PAUSED = "paused"  # storage failed
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


_STATES = {
    Phase.PAUSED: State.PAUSED,
    Phase.DONE: State.DONE,
    Phase.FAILED: State.FAILED,
    Phase.STOPPED: State.STOPPED,
}


@dataclass(eq=False)
class Share:
    """One file we offer."""

    file: SharedFile
    sent: int = 0
    points: int = 0
    points_wanted: int = 0


@dataclass(eq=False)
class Transfer:
    """One file we fetch."""

    link: ShareLink
    download: Download
    choose: Choose | None = None
    client: RdvClient | None = None
    status: TransferWhy = TransferWhy.LOOKING  # what finding sources says
    ended: TransferWhy | None = None  # why it paused, failed or was stopped
    told: Why | None = None

    @property
    def state(self) -> State:
        download = self.download
        if download.phase in _STATES:
            return _STATES[download.phase]
        if download.sources:
            return State.RUNNING
        return State.WAITING if download.have_bytes else State.LOOKING

    @property
    def why(self) -> Why:
        """What it waits for, or why it ended."""
        if self.ended is not None and self.download.phase in _STATES:
            return Why(self.ended)
        if self.status is TransferWhy.CONNECTED and self.download.position:
            return Why(TransferWhy.IN_QUEUE, {"position": self.download.position})
        return Why(self.status)


class Transfers:
    """All shares and transfers of a node.

    Args:
        circuits: builds circuits to rendezvous points.
        sources: how many streams a transfer draws from at once.
        own, group: as in RdvService.
    """

    def __init__(
        self,
        outbox: Outbox,
        crypto: Crypto,
        rng: Rng,
        circuits: CircuitSource,
        view: View[Known],
        *,
        sources: int = 3,
        own: OwnPoint | None = None,
        group: bool = False,
    ) -> None:
        self.shares: dict[str, Share] = {}
        self.transfers: dict[str, Transfer] = {}
        self._outbox = outbox
        self._crypto = crypto
        self._rng = rng
        self._circuits = circuits
        self._sources = sources
        self._points: Class | None = None
        self._leaving = False
        self._view = view
        self._service = RdvService(
            circuits, view, outbox, crypto, rng, FILES, own=own, group=group, on_standing=self._on_standing
        )

    def restore(self, now: float) -> None:
        """Share again what was shared, and go on with what was being fetched."""
        self._outbox.scan("file", b"", lambda keys, now: self._restore("file", keys, self._share, now))
        self._outbox.scan("transfer", b"", lambda keys, now: self._restore("transfer", keys, self._resume, now))

    def set_points(self, points: Class | None, now: float) -> None:
        """Rendezvous points are nodes of this class (None: there are none yet), and other nodes may be known."""
        self._points = points
        self._service.set_points(points, now)
        for transfer in list(self.transfers.values()):
            if transfer.client is not None:
                transfer.client.set_points(points, now)

    def use(self, circuits: CircuitSource, now: float) -> None:
        """Other circuits from now on: what goes through those before ends, and goes on once there are points."""
        self._circuits = circuits
        self._points = None
        self._service.use(circuits, now)
        for transfer_id, transfer in self.transfers.items():
            if transfer.client is not None:
                self._stop_client(transfer, now)
                self._need_source(transfer_id, now)

    def share_circuits(self, group: bool, now: float) -> None:
        """Whether all that is offered here shares circuits, from now on. Raises Problem for too much that is not to."""
        self._service.share_circuits(group, now)

    def use_own(self, own: OwnPoint | None, now: float) -> None:
        """As in RdvService."""
        self._service.use_own(own, now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped: files may have other names at their points, and what failed may work now."""
        self._service.woke(by, now)
        for transfer in list(self.transfers.values()):
            if transfer.client is not None:
                transfer.client.woke(by, now)

    def leave(self) -> None:
        """The node is about to close its links. Streams end by that, which says nothing about their senders."""
        self._leaving = True

    def stop(self, now: float) -> None:
        """End all streams; everything stays stored."""
        self._service.stop(now)
        for transfer in self.transfers.values():
            self._stop_client(transfer, now)
            transfer.download.cancel(now)

    # -- sharing

    def share(self, info: FileInfo, leaves: bytes, on_shared: Callable[[str, float], None], now: float) -> None:
        """Offer a file whose pieces are in storage (or can be read there). The same content and name keep the link.

        Args:
            on_shared: (id, now); not called if ShareFailed is emitted.
        """

        def find(keys: Sequence[bytes], now: float) -> None:
            if not keys:
                secret, salt = self._rng.random(SECRET_LEN), self._rng.random(SECRET_LEN)
                name = self._crypto.x25519_public(secret)
                self._keep(SharedFile.share(info, leaves, name, salt, secret), on_shared, now)
                return

            def loaded(result: Any, now: float) -> None:
                file = _parse(result)
                if file is not None and file.info == info:
                    self._keep(file, on_shared, now)
                else:
                    find(keys[1:], now)

            self._outbox.load("file", keys[0], loaded)

        def known(result: Any, now: float) -> None:
            find(() if isinstance(result, Failure) else result, now)

        self._outbox.scan("file", info.root, known)

    def share_received(self, transfer_id: str, on_shared: Callable[[str, float], None], now: float) -> None:
        """Serve a finished transfer on, under the same link. Raises Problem while a part of it is missing."""
        transfer = self._get(transfer_id)
        file = transfer.download.file
        if transfer.state is not State.DONE or file is None or not file.complete:
            raise Problem(Gone.FILE)
        share_id = public_id(file.hash_name)
        if share_id in self.shares:  # our own, perhaps: the record of its owner stays
            on_shared(share_id, now)
        else:
            self._keep(file, on_shared, now)

    def unshare(self, share_id: str, now: float) -> None:
        """Stop offering a file. Its pieces are deleted unless a transfer or another share of ours needs them."""
        share = self.shares.pop(share_id, None)
        if share is None:
            return
        file = share.file
        self._service.withdraw(file.hash_name, now)
        self._circuits.forget(file.hash_name, True)
        items: list[tuple[str, bytes, bytes | None]] = [("file", file_key(file.info.root, file.hash_name), None)]
        root = file.info.root
        if not self._fetches(root) and not any(other.file.info.root == root for other in self.shares.values()):
            items += [("piece", piece_key(root, index), None) for index in range(file.info.pieces)]

        def stored(result: Any, now: float) -> None:
            if isinstance(result, Failure):
                self._tell_trouble(StorageWhy.UNSHARE, result)

        self._outbox.store(items, stored)

    def link(self, share_id: str, site: str = "") -> str:
        """The share link. Raises Problem for an unknown id."""
        share = self.shares.get(share_id)
        if share is None:
            raise Problem(Gone.SHARE)
        return ShareLink(share.file.hash_name, share.file.key).format(site)

    # -- fetching

    def get(self, text: str, now: float, choose: Choose | None = None) -> str:
        """Fetch what a link names, of a collection what `choose` says; returns its id.

        Raises Problem, which says what is wrong with the link.
        """
        link = ShareLink.parse(text)
        if PrivateAddress(link.key).hash_name == link.hash_name:
            raise Problem(LinkFlaw.SERVICE)
        return self._begin(link, now, choose)

    def cancel(self, transfer_id: str, now: float) -> None:
        """Stop fetching; what has arrived stays and `get` goes on from it."""
        transfer = self._get(transfer_id)
        if not transfer.download.active:
            return
        self._stop_client(transfer, now)
        transfer.download.cancel(now)
        transfer.ended = TransferWhy.STOPPED

    def retry(self, transfer_id: str, now: float) -> None:
        """Go on after a pause, a failure or a stop."""
        transfer = self._get(transfer_id)
        if transfer.download.paused:
            transfer.download.retry(now)
            if transfer.client is not None:
                transfer.client.wake(now)
        elif transfer.state in (State.FAILED, State.STOPPED):
            del self.transfers[transfer_id]
            self._begin(transfer.link, now, transfer.choose)

    def forget(self, transfer_id: str, now: float) -> None:
        """Stop, and delete what has arrived, unless a share or another transfer has the same content."""
        transfer = self._get(transfer_id)
        del self.transfers[transfer_id]
        self._stop_client(transfer, now)
        file = transfer.download.file
        self._circuits.forget(transfer.link.hash_name, False)
        transfer.download.forget(now, keep_pieces=file is not None and self._fetches(file.info.root))

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """JSON-able state of all shares and transfers, without their links."""
        return {
            "shares": [
                {
                    "id": share_id,
                    "name": share.file.info.name,
                    "size": share.file.info.size,
                    "sent": share.sent,
                    "points": share.points,
                    "points_wanted": share.points_wanted,
                }
                for share_id, share in self.shares.items()
            ],
            "transfers": [_describe(transfer_id, transfer) for transfer_id, transfer in self.transfers.items()],
        }

    # -- inside: sharing

    def _keep(self, file: SharedFile, on_shared: Callable[[str, float], None], now: float) -> None:
        def stored(result: Any, now: float) -> None:
            if isinstance(result, Failure):
                why = Why(StorageWhy.SHARE, {"failure": result.kind, "detail": result.message})
                self._outbox.emit(ShareFailed(file.info.root.hex(), why))
                return
            self._share(file, now)
            if public_id(file.hash_name) in self.shares:
                on_shared(public_id(file.hash_name), now)

        self._outbox.store([("file", file_key(file.info.root, file.hash_name), file.encode())], stored)

    def _share(self, file: SharedFile, now: float) -> None:
        share_id = public_id(file.hash_name)
        if share_id in self.shares:
            return
        tree = MerkleTree.of(file.leaves)
        share = self.shares[share_id] = Share(file)

        def serve(stream: Duplex) -> Served:
            before = 0

            def progress(sent: int, now: float) -> None:
                nonlocal before
                share.sent += sent - before
                before = sent
                self._outbox.emit(ShareProgress(share_id, share.sent))

            return Upload(stream, file, tree, self._outbox, on_progress=progress)

        try:
            self._service.offer(Subject.file(file.hash_name, file.key, file.secret), serve, now)
        except Problem as problem:
            del self.shares[share_id]
            self._outbox.emit(ShareFailed(file.info.root.hex(), problem.why))

    def _on_standing(self, hash_name: bytes, standing: int, wanted: int, now: float) -> None:
        share = self.shares.get(public_id(hash_name))
        if share is not None:
            share.points, share.points_wanted = standing, wanted
            self._outbox.emit(ShareStands(public_id(hash_name), standing, wanted))

    # -- inside: fetching

    def _begin(self, link: ShareLink, now: float, choose: Choose | None = None) -> str:
        transfer_id = public_id(link.hash_name)
        existing = self.transfers.get(transfer_id)
        if existing is not None:
            if existing.state in (State.FAILED, State.STOPPED) or existing.download.paused:
                self.retry(transfer_id, now)
            return transfer_id
        if sum(transfer.download.active for transfer in self.transfers.values()) >= MAX_TRANSFERS:
            raise Problem(Limit.TRANSFERS, most=MAX_TRANSFERS)
        download = self._download(link, transfer_id, choose, now)
        transfer = self.transfers[transfer_id] = Transfer(link, download, choose)
        transfer.download.start(now)
        return transfer_id

    def _download(self, link: ShareLink, transfer_id: str, choose: Choose | None, now: float) -> Download:
        told = False
        chosen: Sequence[int] = ()

        def progress(have: int, size: int, now: float) -> None:
            nonlocal told
            transfer = self.transfers[transfer_id]
            file = transfer.download.file
            if not told and file is not None:
                told = True
                info = file.info
                self._outbox.emit(TransferInfo(transfer_id, info.name, info.media_type, info.size))
            self._outbox.emit(TransferProgress(transfer_id, have, size))

        def chooses(collection: Collection) -> Sequence[int]:
            nonlocal chosen
            chosen = range(len(collection.entries)) if choose is None else choose(collection)
            return chosen

        def listed(collection: Collection, now: float) -> None:
            entries = len(collection.entries)
            self._outbox.emit(TransferListed(transfer_id, entries, len(chosen), collection.size(chosen)))

        def done(file: SharedFile, now: float) -> None:
            transfer = self.transfers[transfer_id]
            self._stop_client(transfer, now)
            self._outbox.emit(TransferDone(transfer_id, file.info.name, file.info.size))

        def paused(code: TransferWhy, now: float) -> None:
            transfer = self.transfers[transfer_id]
            transfer.ended = code
            self._outbox.emit(TransferPaused(transfer_id, transfer.why))

        return Download(
            link,
            self._outbox,
            now,
            wanted_sources=self._sources,
            choose=chooses,
            on_progress=progress,
            on_listed=listed,
            on_need_source=lambda now: self._need_source(transfer_id, now),
            on_done=done,
            on_paused=paused,
            on_queued=lambda now: self._tell_status(transfer_id),
            on_failed=lambda code, now: self._failed(transfer_id, code, now),
            on_dropped=lambda code, now: self._outbox.emit(SourceDropped(transfer_id, code)),
        )

    def _need_source(self, transfer_id: str, now: float) -> None:
        transfer = self.transfers.get(transfer_id)
        if transfer is None:
            return
        if transfer.client is None:
            transfer.client = self._client(transfer, transfer_id)
            transfer.client.start(self._points, now)
        else:
            transfer.client.wake(now)

    def _client(self, transfer: Transfer, transfer_id: str) -> RdvClient:
        download = transfer.download

        def status(code: TransferWhy, now: float) -> None:
            transfer.status = code
            self._tell_status(transfer_id)

        return RdvClient(
            Subject.file(transfer.link.hash_name, transfer.link.key),
            self._circuits,
            self._view,
            self._outbox,
            self._crypto,
            self._rng,
            attach=download.attach,
            needed=lambda: download.sources_wanted,
            progress=lambda: download.have_bytes,
            on_status=status,
            on_give_up=download.fail,
        )

    def _tell_status(self, transfer_id: str) -> None:
        transfer = self.transfers.get(transfer_id)
        if self._leaving or transfer is None:
            return
        if transfer.download.active and transfer.why != transfer.told:
            transfer.told = transfer.why
            self._outbox.emit(TransferStatus(transfer_id, transfer.state, transfer.why))

    def _failed(self, transfer_id: str, code: TransferWhy, now: float) -> None:
        transfer = self.transfers[transfer_id]
        self._stop_client(transfer, now)
        transfer.ended = code
        self._outbox.emit(TransferFailed(transfer_id, transfer.why))

    def _stop_client(self, transfer: Transfer, now: float) -> None:
        client, transfer.client = transfer.client, None
        if client is not None:
            client.stop(now)

    def _fetches(self, root: bytes) -> bool:
        """Whether a transfer has (or gets) the content with this root."""
        files = (transfer.download.file for transfer in self.transfers.values())
        return any(file is not None and file.info.root == root for file in files)

    def _get(self, transfer_id: str) -> Transfer:
        transfer = self.transfers.get(transfer_id)
        if transfer is None:
            raise Problem(Gone.TRANSFER)
        return transfer

    # -- inside: restoring

    def _restore(self, bucket: str, keys: Any, use: Callable[[SharedFile, float], None], now: float) -> None:
        if isinstance(keys, Failure):
            self._tell_trouble(StorageWhy.RESTORE, keys)
            return

        def loaded(result: Any, now: float) -> None:
            file = _parse(result)
            if file is not None:
                use(file, now)

        for key in keys:
            self._outbox.load(bucket, key, loaded)

    def _resume(self, file: SharedFile, now: float) -> None:
        try:
            self._begin(ShareLink(file.hash_name, file.key), now)
        except Problem as problem:
            self._outbox.emit(Trouble(problem.why))

    def _tell_trouble(self, code: StorageWhy, failure: Failure) -> None:
        self._outbox.emit(Trouble(Why(code, {"failure": failure.kind, "detail": failure.message})))


def _parse(result: Any) -> SharedFile | None:
    """A stored record; None for none, a Failure, or one that a newer version wrote."""
    if not isinstance(result, bytes):
        return None
    try:
        return SharedFile.parse(result)
    except ParseError:
        return None


def _describe(transfer_id: str, transfer: Transfer) -> dict[str, Any]:
    download = transfer.download
    info, collection = None if download.file is None else download.file.info, download.collection
    return {
        "id": transfer_id,
        "name": "" if info is None else info.name,
        "type": "" if info is None else info.media_type,
        "size": None if info is None else info.size,
        "files": None if collection is None else sum(entry.size is not None for entry in collection.entries),
        "have": download.have_bytes,
        "pieces": 0 if info is None else info.pieces,
        "fetched": download.pieces_fetched,  # verified ones, in this run
        "duplicates": download.duplicates,
        "sources": download.sources,
        "banned": download.banned,
        "state": transfer.state,
        "why": as_json(transfer.why),
    }
