"""`convergence share`: offer files where they lie.

Does: hash them, print their links as soon as they can be fetched, serve until it is stopped. What belongs to links is
kept in `shares/` of the data folder, so that the same file gets the same link again; several commands may run at once.
Does not: copy files, or notice that one changes while it is shared (its pieces are then refused).
"""

from __future__ import annotations

import argparse
import asyncio
import io
import mimetypes
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import starmap
from pathlib import Path

import segno

from convergence.codes import FileFlaw
from convergence.errors import LocalError, Problem
from convergence.events import Event, ShareFailed, ShareProgress, ShareStands, TorDirectoryChanged, Trouble
from convergence.ordb.index import FileBuilder
from convergence.rdv.service import MAX_GROUPED, MAX_OFFERS
from convergence.wire.ordb import MAX_SIZE, PIECE_SIZE, FileInfo
from convergence.wire.sharelink import ShareLink
from pynode.app import App, Plan
from pynode.cli.codes import check_codes, offer_code
from pynode.cli.common import data_folder, joined, set_up_logs, settings, stun_servers, tell_directory, unless
from pynode.cli.output import CliError, Output, Rate, bar, shown, size_words
from pynode.cli.sites import chosen_site, network_of_files
from pynode.cli.words import error_words, trouble_words, words
from pynode.logs import log_event
from pynode.storage import StorageError

TELL_EVERY = 16 * PIECE_SIZE
GROUPED = (
    "The files share circuits: rendezvous points can tell that those which they know of are shared by one node. They "
    "learn neither which files these are nor your address."
)


def check_files(names: list[str], group: bool = False) -> list[Path]:
    """The files, each once. Raises CliError for a path that is no file, and if they are too many."""
    paths = list(dict.fromkeys(Path(name).absolute() for name in names))
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise CliError(f"{shown(str(path))}: {os.strerror(error.errno or 0)}.", 2) from None
        if stat.S_ISDIR(mode):
            raise CliError(f"{shown(str(path))} is a folder: pack it (zip, tar) and share the archive.", 2)
        if not stat.S_ISREG(mode):
            raise CliError(f"{shown(str(path))} is no file that can be read twice: copy it into one.", 2)
    most = MAX_GROUPED if group else MAX_OFFERS
    if len(paths) > most:
        more = "" if group else f", or use --group for up to {MAX_GROUPED}"
        raise CliError(f"{most} files can be shared at a time: pack some of them into an archive{more}.", 2)
    return paths


@dataclass(eq=False)
class _Shared:
    name: str
    size: int
    link: str
    standing: asyncio.Event = field(default_factory=asyncio.Event)
    sent: int = 0


async def share(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    config = settings(arguments)
    set_up_logs(arguments, config, "share", "error")
    circuits = replace(config.circuits, group=config.circuits.group or arguments.group)
    paths = check_files(arguments.files, circuits.group)
    if arguments.code:
        check_codes(len(paths))
    site = chosen_site(arguments.site)
    network = await unless(stop, network_of_files(arguments, site))
    if network is None:
        return 130
    command = _Command(output, site, arguments.qr, arguments.code)
    stun = stun_servers(arguments, config)
    plan = Plan(network, data_folder(arguments, config, "shares"), stun=stun, circuits=circuits)
    if circuits.group:
        output.say(GROUPED)
    app = App(plan, command.event)
    await app.start()
    try:
        return await command.run(app, paths, stop)
    finally:
        await app.stop()


class _Command:
    def __init__(self, output: Output, site: str, qr: bool, code: bool) -> None:
        self._output = output
        self._qr = qr
        self._code = code
        self._site = site
        self._shared: dict[str, _Shared] = {}
        self._said: Trouble | None = None
        self._adding: asyncio.Future[str] | None = None

    async def run(self, app: App, paths: list[Path], stop: asyncio.Event) -> int:
        failed = 0
        for path in paths:
            try:
                if await unless(stop, self._add(app, path)) is None:
                    return 130
            except CliError as error:
                failed += 1
                if failed == len(paths):
                    raise
                self._output.say(str(error))
                self._output.record("failed", path=shown(str(path), 4096), message=str(error))
        if await unless(stop, self._stand(app)) is None:
            return 130
        count = "file" if len(self._shared) == 1 else f"{len(self._shared)} files"
        self._output.say(f"Sharing the {count} for as long as this runs. Stop with Ctrl-C.")
        await stop.wait()
        sent = sum(shared.sent for shared in self._shared.values())
        self._output.say(f"Stopped. {size_words(sent)} were sent.")
        self._output.record("stopped", sent=sent)
        return 0

    async def _add(self, app: App, path: Path) -> bool:
        info, leaves = await self._hash(path)
        adding = self._adding = asyncio.get_running_loop().create_future()
        try:
            await app.storage.add_external(info.root, path, info.size)
            app.call(lambda now: app.node.transfers.share(info, leaves, lambda name, now: adding.set_result(name), now))
        except StorageError as error:
            raise CliError(f"{shown(path.name)} cannot be shared: {error}.") from None
        share_id = await adding
        link = app.node.transfers.link(share_id, self._site)
        self._shared[share_id] = _Shared(info.name, info.size, link)
        if os.fsencode(path.name) != info.name.encode():
            self._output.say(f"{shown(path.name)} is shared as {shown(info.name)}: its name is no UTF-8.")
        return True

    async def _hash(self, path: Path) -> tuple[FileInfo, bytes]:
        rate = Rate()
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()
        size = path.stat().st_size

        def progress(done: int) -> None:
            rate.add(done)
            self._output.progress(
                bar("Reading " + path.name, done, size, rate.value), stage="hash", have=done, size=size
            )

        def tell(done: int) -> None:
            if not cancelled.is_set():
                loop.call_soon_threadsafe(progress, done)

        try:
            return await asyncio.to_thread(hash_file, path, tell, cancelled)
        except OSError as error:
            raise CliError(f"{shown(str(path))} cannot be read: {os.strerror(error.errno or 0)}.") from None
        except LocalError as error:
            raise CliError(f"{shown(path.name)} cannot be shared. {error_words(error)}") from None
        finally:
            cancelled.set()

    async def _stand(self, app: App) -> bool:
        """Print each link once somebody can use it. No file waits for another one."""
        await joined(app)
        await asyncio.gather(*starmap(partial(self._say_link, app), self._shared.items()))
        return True

    async def _say_link(self, app: App, share_id: str, shared: _Shared) -> None:
        await shared.standing.wait()
        self._output.say(f"{shown(shared.name)} ({size_words(shared.size)}) can be fetched with this link:")
        self._output.result(shared.link)
        if self._qr:
            self._output.picture(qr_code(shared.link))
        self._output.record("shared", id=share_id, name=shared.name, size=shared.size, link=shared.link)
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


def hash_file(path: Path, tell: Callable[[int], None], cancelled: threading.Event) -> tuple[FileInfo, bytes]:
    """Read a file once; runs in a thread. `tell` gets the bytes read so far.

    Raises:
        OSError: it cannot be read.
        LocalError: it is too large, or `cancelled` was set.
    """
    builder = FileBuilder()
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_SIZE:
            raise Problem(FileFlaw.TOO_LARGE, most=MAX_SIZE)
        while piece := file.read(PIECE_SIZE):
            builder.add(piece)
            if builder.size % TELL_EVERY == 0:
                tell(builder.size)
            if cancelled.is_set():
                raise LocalError("it was stopped")
    # A name that does not decode on this machine gets replacement characters.
    name = os.fsencode(path.name).decode("utf-8", "replace")
    return builder.finish(name, mimetypes.guess_type(name)[0] or "")


def qr_code(text: str) -> str:
    """In half blocks, two rows of the code a line: a full block is light, as on a dark terminal. 51 columns for a link
    to a short name, and where lines are shorter nobody can read it."""
    drawn = io.StringIO()
    segno.make_qr(text, error="l").terminal(drawn, border=2, compact=True)
    return drawn.getvalue()
