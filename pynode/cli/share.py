"""`convergence share`: offer files and folders where they lie, under one link or under one for each.

Does: hash them, print their links as soon as they can be fetched, serve until it is stopped. What belongs to links is
kept in `shares/` of the data folder, so that the same files get the same link again; several commands may run at once.
Does not: copy files, or notice that one changes while it is shared (its pieces are then refused).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import stat
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import starmap
from pathlib import Path

import segno

from convergence.errors import LocalError
from convergence.events import Event, ShareFailed, ShareProgress, ShareStands, TorDirectoryChanged, Trouble
from convergence.rdv.service import MAX_GROUPED, MAX_OFFERS
from convergence.wire.ordb import FileInfo
from convergence.wire.sharelink import ShareLink
from pynode.app import App, Plan
from pynode.cli.codes import check_codes, offer_code
from pynode.cli.common import data_folder, joined, set_up_logs, settings, stun_servers, tell_directory, unless
from pynode.cli.output import CliError, Output, Rate, bar, shown, size_words
from pynode.cli.sites import chosen_site, network_of_files
from pynode.cli.words import error_words, trouble_words, words
from pynode.logs import log_event
from pynode.offer import Offer, collection_offer, file_offer, hash_offer
from pynode.storage import StorageError

GROUPED = (
    "The files share circuits: rendezvous points can tell that those which they know of are shared by one node. They "
    "learn neither which files these are nor your address."
)


def check_paths(names: list[str]) -> list[Path]:
    """The files and folders, each once. Raises CliError for a path that is neither."""
    paths = list(dict.fromkeys(Path(os.path.abspath(name)) for name in names))
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise CliError(f"{shown(str(path))}: {os.strerror(error.errno or 0)}.", 2) from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CliError(f"{shown(str(path))} is no file that can be read twice: copy it into one.", 2)
    return paths


def parted(paths: list[Path], each: bool, group: bool = False) -> list[list[Path]]:
    """What each link leads to. Raises CliError if links are too many."""
    if not (each or group):
        return [paths]
    most = MAX_GROUPED if group else MAX_OFFERS
    if len(paths) > most:
        more = "" if group else f", or use --group for up to {MAX_GROUPED}"
        raise CliError(f"{most} links can be shared at a time: share a folder of them under one link{more}.", 2)
    return [[path] for path in paths]


def _offer(paths: list[Path], name: str) -> Offer:
    alone = len(paths) == 1 and paths[0].is_file()
    return file_offer(paths[0]) if alone and not name else collection_offer(paths, name)


@dataclass(eq=False)
class _Shared:
    name: str
    size: int
    files: int
    link: str
    standing: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0


async def share(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    config = settings(arguments)
    set_up_logs(arguments, config, "share", "error")
    circuits = replace(config.circuits, group=config.circuits.group or arguments.group)
    parts = parted(check_paths(arguments.files), arguments.each, circuits.group)
    if arguments.code:
        check_codes(len(parts))
    site = chosen_site(arguments.site)
    network = await unless(stop, network_of_files(arguments, site))
    if network is None:
        return 130
    command = _Command(output, site, arguments.qr, arguments.name or "", arguments.code)
    stun = stun_servers(arguments, config)
    plan = Plan(network, data_folder(arguments, config, "shares"), stun=stun, circuits=circuits)
    if circuits.group:
        output.say(GROUPED)
    app = App(plan, command.event)
    await app.start()
    try:
        return await command.run(app, parts, stop)
    finally:
        await app.stop()


class _Command:
    def __init__(self, output: Output, site: str, qr: bool, name: str, code: bool) -> None:
        self._output = output
        self._qr = qr
        self._name = name
        self._code = code
        self._site = site
        self._shared: dict[str, _Shared] = {}
        self._said: Trouble | None = None
        self._adding: asyncio.Future[str] | None = None

    async def run(self, app: App, parts: list[list[Path]], stop: asyncio.Event) -> int:
        failed = 0
        for paths in parts:
            try:
                if await unless(stop, self._add(app, paths)) is None:
                    return 130
            except CliError as error:
                failed += 1
                if failed == len(parts):
                    raise
                self._output.say(str(error))
                self._output.record("failed", path=shown(str(paths[0]), 4096), message=str(error))
        if await unless(stop, self._stand(app)) is None:
            return 130
        files = sum(shared.files for shared in self._shared.values())
        count = "file" if files == 1 else f"{files} files"
        self._output.say(f"Sharing the {count} for as long as this runs. Stop with Ctrl-C.")
        await stop.wait()
        sent = sum(shared.sent for shared in self._shared.values())
        self._output.say(f"Stopped. {size_words(sent)} were sent.")
        self._output.record("stopped", sent=sent)
        return 0

    async def _add(self, app: App, paths: list[Path]) -> bool:
        name = shown(paths[0].name)
        try:
            offer = await asyncio.to_thread(_offer, paths, self._name)
            info, leaves = await self._hash(offer)
        except OSError as error:
            path = shown(os.fsdecode(error.filename or paths[0]), 4096)
            raise CliError(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from None
        except LocalError as error:
            raise CliError(f"{name} cannot be shared. {error_words(error)}") from None
        except StorageError as error:
            raise CliError(f"{name} cannot be shared: {error}.") from None
        adding = self._adding = asyncio.get_running_loop().create_future()
        app.call(lambda now: app.node.transfers.share(info, leaves, lambda name, now: adding.set_result(name), now))
        share_id = await adding
        hash_name = app.node.transfers.shares[share_id].file.hash_name
        link = app.node.transfers.link(share_id, self._site)
        self._shared[share_id] = _Shared(info.name, info.size, offer.files, link)  # its points may stand any moment
        try:
            await app.storage.add_external(info.root, hash_name, offer.segments)
        except StorageError as error:
            del self._shared[share_id]
            raise CliError(f"{name} cannot be shared: {error}.") from None
        self._tell(offer, name)
        return True

    def _tell(self, offer: Offer, name: str) -> None:
        if offer.renamed and not offer.manifest_size:
            self._output.say(f"{name} is shared as {shown(offer.name)}: its name is no UTF-8.")
        elif offer.renamed:
            self._output.say(f"Names that are no UTF-8 or have backslashes, which are replaced: {offer.renamed}.")
        if offer.left_out:
            self._output.say(f"Left out, for they are links, pipes or the like: {offer.left_out}.")

    async def _hash(self, offer: Offer) -> tuple[FileInfo, bytes]:
        rate = Rate()
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def progress(done: int) -> None:
            rate.add(done)
            line = bar("Reading " + offer.name, done, offer.size, rate.value)
            self._output.progress(line, stage="hash", have=done, size=offer.size)

        def tell(done: int) -> None:
            if not cancelled.is_set():
                loop.call_soon_threadsafe(progress, done)

        try:
            return await asyncio.to_thread(hash_offer, offer, tell, cancelled)
        finally:
            cancelled.set()

    async def _stand(self, app: App) -> bool:
        """Print each link once somebody can use it. No file waits for another one."""
        await joined(app)
        await asyncio.gather(*starmap(partial(self._say_link, app), self._shared.items()))
        return True

    async def _say_link(self, app: App, share_id: str, shared: _Shared) -> None:
        await shared.standing.wait()
        files = f"{shared.files} files, " if shared.files != 1 else ""
        self._output.say(f"{shown(shared.name)} ({files}{size_words(shared.size)}) can be fetched with this link:")
        self._output.result(shared.link)
        if self._qr:
            self._output.picture(qr_code(shared.link))
        data = {"name": shared.name, "size": shared.size, "files": shared.files, "link": shared.link}
        self._output.record("shared", id=share_id, **data)
        if self._code:
            offer_code(app, self._output, share_id, shared.name, ShareLink.parse(shared.link))

    # -- from the core

    def event(self, event: Event) -> None:
        log_event(event)
        match event:
            case ShareStands(share_id, points, wanted):
                # The first points may stand before the share's own answer has come.
                asyncio.get_running_loop().call_soon(self._on_standing, share_id, points, wanted)
            case TorDirectoryChanged():
                tell_directory(self._output, event)
            case ShareProgress(share_id, sent) if share_id in self._shared:
                shared = self._shared[share_id]
                shared.sent = sent
                line = f"{shown(shared.name)}: {size_words(sent)} sent"
                self._output.progress(line, stage="send", id=share_id, sent=sent)
            case ShareFailed(_, why):
                if self._adding is not None and not self._adding.done():
                    self._adding.set_exception(CliError(words(why)))
            case Trouble(why) if event != self._said:
                self._said = event
                self._output.say(trouble_words(event))
                self._output.record("trouble", code=why.code, message=trouble_words(event))

    def _on_standing(self, share_id: str, points: int, wanted: int) -> None:
        shared = self._shared.get(share_id)
        if shared is None:
            return
        if points:
            shared.standing.set()
        elif shared.standing.is_set():
            self._output.say(f"{shown(shared.name)} cannot be found at the moment: connecting again.")
        self._output.record("points", id=share_id, standing=points, wanted=wanted)


def qr_code(text: str) -> str:
    """In half blocks, two rows of the code a line: a full block is light, as on a dark terminal. 51 columns for a link
    to a short name, and where lines are shorter nobody can read it."""
    drawn = io.StringIO()
    segno.make_qr(text, error="l").terminal(drawn, border=2, compact=True)
    return drawn.getvalue()
