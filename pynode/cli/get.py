"""`convergence get`: fetch what a share link names.

Does: fetch into `downloads/` of the data folder, where an interrupted run's pieces wait for the next run. When all is
there and verified, move the file, or put the folder, under a safe, free name into the folder that was asked for.
Does not: keep anything of a finished download, except while it goes on sharing the file, or of a larger one that was
interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from convergence.codes import TransferWhy
from convergence.errors import LocalError, Problem, Why
from convergence.events import (
    Event,
    ShareProgress,
    ShareStands,
    SourceDropped,
    TorDirectoryChanged,
    TransferDone,
    TransferFailed,
    TransferInfo,
    TransferListed,
    TransferPaused,
    TransferProgress,
    TransferStatus,
    Trouble,
)
from convergence.ordb.collection import Collection
from convergence.ordb.download import Download
from convergence.transfers import public_id
from convergence.wire.filename import saved_name
from convergence.wire.manifest import Entry
from convergence.wire.ordb import PIECE_SIZE, FileInfo
from convergence.wire.sharelink import ShareLink, find_link
from convergence.wire.wordcode import WordCode, find_code
from pynode.app import App, Plan
from pynode.cli.asking import ask_link
from pynode.cli.codes import link_of_code
from pynode.cli.common import data_folder, joined, locked, set_up_logs, settings, stun_servers, tell_directory, unless
from pynode.cli.output import CliError, Output, Rate, bar, discard, shown, size_words, time_words
from pynode.cli.sites import chosen_site, network_of_files, site_address
from pynode.cli.words import error_words, trouble_words, words
from pynode.logs import log_event
from pynode.storage import StorageError

WAITED = 3
"""Exit code when nothing came for as long as --wait says."""
WAITING = {
    *(TransferWhy.NOBODY, TransferWhy.SENDER_AWAY, TransferWhy.SENDER_BUSY, TransferWhy.IN_QUEUE),
    TransferWhy.NO_POINTS,
}
NO_MATCH = "Nothing in it is like the pattern of --only: see what there is with --list."
AGAIN = "What has arrived is kept: run the same command again to go on."


def link_in(text: str) -> tuple[ShareLink | WordCode, str | None]:
    """The link in a text, and the site that it names, or None; or the word code that it is. Raises CliError."""
    try:
        if (code := find_code(text)) is not None:
            return code, None
        found = find_link(text)
    except Problem as problem:
        raise CliError(words(problem.why), 2) from None
    return found.link, site_address(found.site) if found.site else None


@dataclass(frozen=True, slots=True)
class Target:
    """Where the file goes.

    Args:
        name: in the folder; "" for the sender's.
        stream: to standard output, in place of all that.
    """

    folder: Path
    name: str = ""
    stream: bool = False


def target_of(output: str | None) -> Target:
    """What -o says, as cp and curl take it: "-", a folder that is there or ends in "/", or a new file. Raises
    CliError."""
    if output == "-":
        return Target(Path(), stream=True)
    path = Path(output or ".")
    if path.is_dir() or (output or "").endswith(os.sep):
        target = Target(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CliError(
                f"{path} cannot be used as a folder ({error.strerror}): choose another with -o.", 2
            ) from None
    else:
        target = Target(path.parent, path.name)
        if os.path.lexists(path):
            raise CliError(f"{path} is there already, and nothing is overwritten: choose another name with -o.", 2)
        if not path.parent.is_dir():
            raise CliError(f"{path.parent} is no folder: make it first, or choose another with -o.", 2)
    if not os.access(target.folder, os.W_OK):
        raise CliError(f"{target.folder} cannot be written to: choose another folder with -o.")
    return target


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or a folder that it is in, is like one of the patterns, whose "*" takes "/" too."""
    parts = path.split("/")
    folders = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatchcase(folder, pattern.rstrip("/")) for pattern in patterns for folder in folders)


def _target(arguments: argparse.Namespace) -> Target:
    if arguments.share and (arguments.only or arguments.list):
        raise CliError("Only the whole can be shared on: leave --share, --only or --list away.", 2)
    target = target_of(arguments.output)
    if target.stream and (arguments.json or arguments.share):
        raise CliError("The file cannot go to standard output with --json or --share: name a file or a folder.", 2)
    return target


async def get(arguments: argparse.Namespace, output: Output, stop: asyncio.Event, most: int | None = None) -> int:
    """The command. Returns its exit code.

    Args:
        most: bytes that the file may have.
    """
    config = settings(arguments)
    set_up_logs(arguments, config, "get", "error")
    text = await ask_link(stop) if arguments.link in (None, "-") else arguments.link
    if text is None:
        return 130
    wanted, site = link_in(text)
    target = _target(arguments)
    downloads = data_folder(arguments, config, "downloads")
    site = site_address(arguments.site) if arguments.site else chosen_site(site)
    network = await unless(stop, network_of_files(arguments, site))
    if network is None:
        return 130
    download = _Download(arguments, output, target, most)
    plan = Plan(network, downloads, stun=stun_servers(arguments, config), circuits=config.circuits)
    app = App(plan, download.event)
    with ExitStack() as held:

        def hold(link: ShareLink) -> ShareLink:
            lock = downloads / f"{public_id(link.hash_name)}.lock"
            held.enter_context(locked(lock, "Another command here is fetching this link: wait for it to end."))
            return link

        async def link_of(code: WordCode) -> ShareLink:
            await joined(app)
            return await link_of_code(app, output, code, arguments.wait)

        link = hold(wanted) if isinstance(wanted, ShareLink) else None
        await app.start()
        try:
            if isinstance(wanted, WordCode):
                found = await unless(stop, link_of(wanted))
                link = None if found is None else hold(found)
            return 130 if link is None else await download.run(app, link, stop)
        finally:
            await app.stop()


class _Download:
    def __init__(self, arguments: argparse.Namespace, output: Output, target: Target, most: int | None) -> None:
        self._arguments = arguments
        self._output = output
        self._target = target
        self._most = most
        self._rate = Rate()
        self._said = ""
        self._id = ""
        self._kept: int | None = None  # bytes that an earlier run left
        self._info: FileInfo | None = None
        self._chosen: Sequence[int] = ()  # of a collection
        self._useless = False  # what has arrived
        self._arrived = 0  # how many of them, in their order, are here
        self._last_byte = time.monotonic()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app: App
        self._link: ShareLink

    async def run(self, app: App, link: ShareLink, stop: asyncio.Event) -> int:
        self._app, self._link = app, link
        started = time.monotonic()
        if app.plan.network.tor is not None and await unless(stop, joined(app)) is None:
            return 130
        self._last_byte = time.monotonic()
        try:
            self._id = app.call(lambda now: app.node.transfers.get(link.format(), now, self._choose))
        except LocalError as error:
            raise CliError(error_words(error), 2) from None
        watch = asyncio.ensure_future(self._watch())
        try:
            await unless(stop, self._finished)
        finally:
            watch.cancel()
            if self._useless:
                await self._forget(app)
        if self._finished.cancelled():
            self._output.say(f"Stopped. {AGAIN}" if self._kept is not None else "Stopped.")
            self._output.record("stopped", fetched=self._fetched)
            return 130
        self._finished.result()
        assert self._info is not None
        if self._arguments.list:
            self._list(self._info)
            if not self._kept:
                await self._forget(app)
            return 0
        seconds = time.monotonic() - started
        text = f"Complete and verified: {size_words(self._size)}"
        if self._fetched:
            part = "of it " if self._fetched <= self._size else ""  # some files bring the rest of their pieces along
            text += f", {size_words(self._fetched)} {part}fetched in {time_words(seconds)}"
            text += f" ({size_words(self._fetched / max(seconds, 0.001))}/s)"
        if self._target.stream:
            await self._pour(app)
            self._output.say(f"{text}.")
        else:
            path = await self._save(app, self._info)
            self._output.say(f"{text}.")
            self._say_names(self._info.name)
            self._output.result(str(path))
            data = {"path": str(path), "name": self._info.name, "size": self._size, "fetched": self._fetched}
            self._output.record("done", **data, seconds=round(seconds, 3))
        if self._arguments.share:
            await self._share(app, stop)
        if not self._download.present.bits & ~self._download.wanted.bits:  # else they are of a larger download
            await self._forget(app)
        return 0

    async def _forget(self, app: App) -> None:
        app.call(lambda now: app.node.transfers.forget(self._id, now))
        if self._info is not None:  # and by the answer, what that deletes has been given to the storage
            await app.storage.remove_external(self._info.root, self._link.hash_name)

    async def _save(self, app: App, info: FileInfo) -> Path:
        folder, download = self._target.folder, self._download
        destination = folder / (self._target.name or saved_name(info.name))
        assert download.file is not None
        try:
            if download.collection is None:
                return await app.storage.export(download.file, destination)
            return await app.storage.export_tree(download.file, download.collection, self._chosen, destination)
        except StorageError as error:
            raise CliError(f"All of it is here but cannot be put into {folder}: {error}. {AGAIN}") from None

    def _list(self, info: FileInfo) -> None:
        collection = self._download.collection
        entries = (Entry(info.name, info.size, info.media_type),) if collection is None else collection.entries
        for entry in entries:
            size = "folder" if entry.size is None else size_words(entry.size)
            self._output.result(f"{size:>12}  {entry.path}")
            self._output.record("entry", path=entry.path, size=entry.size, type=entry.media_type)
        files = sum(entry.size is not None for entry in entries)
        self._output.record("listed", name=info.name, size=info.size, files=files, collection=collection is not None)

    def _choose(self, collection: Collection) -> Sequence[int]:
        patterns = self._arguments.only
        numbers = () if self._arguments.list else range(len(collection.entries))
        self._chosen = [n for n in numbers if not patterns or matches(collection.entries[n].path, patterns)]
        return self._chosen

    def _say_names(self, name: str) -> None:
        collection = self._download.collection
        paths = [] if collection is None else [collection.entries[number].path for number in self._chosen]
        names = {part for path in paths for part in path.split("/")}
        if not self._target.name:
            names.add(name)
        if any(saved_name(one) != one for one in names):
            self._output.say('Characters in names that could mislead a system or a reader are "_" now.')

    async def _pour(self, app: App) -> None:
        """To standard output. Raises CliError if it is not read to the end."""
        data = app.plan.data
        assert data is not None
        assert self._download.file is not None
        path = await app.storage.export(self._download.file, data / f"{self._id}.whole")
        try:
            with open(path, "rb") as file:
                await asyncio.to_thread(shutil.copyfileobj, file, sys.stdout.buffer)
            sys.stdout.flush()
        except OSError as error:
            discard(sys.stdout)
            raise CliError(f"Standard output took not all of it: {os.strerror(error.errno or 0)}.") from None
        finally:
            path.unlink(missing_ok=True)

    async def _share(self, app: App, stop: asyncio.Event) -> None:
        ids: list[str] = []

        def shared(share_id: str, now: float) -> None:
            ids.append(share_id)

        app.call(lambda now: app.node.transfers.share_received(self._id, shared, now))
        self._output.say("Sharing it on under the same link. Stop with Ctrl-C.")
        await stop.wait()
        for share_id in ids:
            app.call(partial(app.node.transfers.unshare, share_id))

    @property
    def _download(self) -> Download:
        return self._app.node.transfers.transfers[self._id].download

    @property
    def _size(self) -> int:
        """Of what is fetched."""
        collection = self._download.collection
        if collection is None:
            return 0 if self._info is None else self._info.size
        return collection.size(self._chosen)

    @property
    def _fetched(self) -> int:
        transfer = self._app.node.transfers.transfers.get(self._id)
        return 0 if transfer is None else transfer.download.bytes_fetched

    async def _watch(self) -> None:
        """Give up when nothing came for a long time, not even a network."""
        limit = self._arguments.wait
        while limit:
            left = self._last_byte + limit - time.monotonic()
            if left <= 0:
                self._give_up(limit)
                return
            await asyncio.sleep(left)

    def _give_up(self, limit: int) -> None:
        transfer = self._app.node.transfers.transfers.get(self._id)
        why = "" if transfer is None or transfer.why.code not in WAITING else f"{words(transfer.why)} "
        if not self._app.has_joined and self._app.trouble is not None:
            why = f"{words(self._app.trouble.why)} "
        again = f" {AGAIN}" if self._kept is not None else ""
        self._fail(f"{why}Nothing came for {limit} seconds.{again}", WAITED)

    def _fail(self, message: str, code: int = 1) -> None:
        if not self._finished.done():
            self._finished.set_exception(CliError(message, code))

    # -- from the core

    def event(self, event: Event) -> None:
        log_event(event)
        match event:
            case TransferInfo():
                self._on_info()
            case TransferListed():
                self._on_listed()
            case TransferProgress(_, have, size):
                self._on_progress(have, size)
            case TransferDone() if not self._finished.done():
                self._finished.set_result(None)
            case TransferFailed(_, why):
                self._on_failed(why)
            case TransferPaused(_, why):
                self._fail(f"{words(why)} {AGAIN}")
            case TransferStatus(_, _, why):
                limit = f" for {self._arguments.wait} seconds at most (--wait)" if self._arguments.wait else ""
                self._status(why, words(why) + f" Waiting{limit}." * (why.code in WAITING))
            case Trouble(why):
                self._status(why, trouble_words(event))
            case ShareStands(share_id, points, wanted):
                self._output.record("points", id=share_id, standing=points, wanted=wanted)
            case TorDirectoryChanged():
                tell_directory(self._output, event)
            case ShareProgress(share_id, sent):
                self._output.progress(f"{size_words(sent)} sent", stage="send", id=share_id, sent=sent)
            case SourceDropped(_, code):
                self._output.record("source-dropped", code=code, message=words(code))

    def _status(self, why: Why, text: str) -> None:
        if text != self._said:
            self._said = text
            self._output.say(text)
            self._output.record("status", code=why.code, message=text)

    def _on_failed(self, why: Why) -> None:
        transfer = self._app.node.transfers.transfers.get(self._id)
        if transfer is None or not transfer.download.have_bytes:
            self._fail(words(why))
        elif why.code is TransferWhy.BAD_MANIFEST:  # more will not come of it
            self._useless = True
            self._fail(words(why))
        else:
            self._fail(f"{words(why)} {AGAIN}")

    def _on_info(self) -> None:
        download = self._download
        assert download.file is not None
        info = self._info = download.file.info
        self._kept = download.have_bytes
        words = f"{shown(info.name)}: {'a folder of ' if info.manifest_size else ''}{size_words(info.size)}"
        self._output.say(words + (f", {size_words(self._kept)} of it here already." if self._kept else "."))
        kind = "collection" if info.manifest_size else "file"
        self._output.record("file", name=info.name, size=info.size, kept=self._kept, kind=kind)
        if self._most is not None and (info.size > self._most or info.manifest_size):
            self._fail(f"This is not what the link should lead to, which has at most {size_words(self._most)}.")
        elif info.manifest_size:
            if self._target.stream and not self._arguments.list:
                self._fail("This is a folder, which cannot go to standard output: name another one with -o.", 2)
        elif self._arguments.list:
            if not self._finished.done():
                self._finished.set_result(None)
        elif self._arguments.only and not matches(info.name, self._arguments.only):
            self._fail(NO_MATCH, 2)
        elif lacking := self._lacking_room(info.size - self._kept, info.size):
            self._fail(lacking)

    def _on_listed(self) -> None:
        """It is known what is in a collection, and no more than its manifest was fetched."""
        download = self._download
        assert download.collection is not None
        missing = PIECE_SIZE * (download.wanted.bits & ~download.present.bits).bit_count()
        if self._arguments.only and not self._chosen:
            self._fail(NO_MATCH, 2)
        elif lacking := self._lacking_room(missing, self._size):
            self._fail(lacking)

    def _lacking_room(self, missing: int, size: int) -> str:
        """What to say when the file cannot fit: known before a byte of it is fetched."""
        data = self._app.plan.data
        assert data is not None
        wanted = {data: missing}
        folder = self._target.folder
        if not self._target.stream and data.stat().st_dev != folder.stat().st_dev:
            wanted[folder] = size
        elif self._download.collection is not None:  # its files are cut out of the pieces, which stay until then
            wanted[data] += size
        for folder, need in wanted.items():
            free = shutil.disk_usage(folder).free
            if need > free:
                option = "--data" if folder is data else "-o"
                return (
                    f"{size_words(need)} are needed in {folder} and only {size_words(free)} are free:"
                    f" free some space, or choose another folder with {option}."
                )
        return ""

    def _on_progress(self, have: int, size: int) -> None:
        self._last_byte = time.monotonic()
        self._rate.add(have)
        name = "" if self._info is None else self._info.name
        files: dict[str, int] = {}
        if self._chosen:
            self._tell_arrived()
            name = f"{self._arrived}/{len(self._chosen)} {name}"
            files = {"files": len(self._chosen), "arrived": self._arrived}
        line = bar(name, have, size, self._rate.value)
        self._output.progress(line, last=have == size, have=have, size=size, fetched=self._fetched, **files)

    def _tell_arrived(self) -> None:
        """They come in their order, but for what other sources are late with."""
        download = self._download
        assert download.collection is not None
        while self._arrived < len(self._chosen):
            number = self._chosen[self._arrived]
            if not download.collection.has(number, download.present):
                return
            entry = download.collection.entries[number]
            self._output.record("arrived", path=entry.path, size=entry.size)
            self._arrived += 1
