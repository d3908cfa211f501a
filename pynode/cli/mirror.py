"""`convergence mirror`: serve the published code, or hand it on through the network.

Does: compare every file with the manifest before it serves one; fetch such a folder first, from sites or over circuits.
Does not: run a network: pages from here join the one that --network names.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pynode.app import bound, page_folder
from pynode.cli import get, parser, share
from pynode.cli.common import data_folder, settings, unless
from pynode.cli.output import CliError, Output, Rate, bar, sentence
from pynode.cli.sites import network_document, site_address
from pynode.cli.verify import checked_folder
from pynode.config import Address
from pynode.published.archive import MAX_ARCHIVE, archive_name, pack, take_out
from pynode.published.folder import check_target, write_folder
from pynode.published.manifest import Manifest, Refused
from pynode.published.served import browsing, gather
from pynode.published.serving import mirror_app
from pynode.site import Site

DEFAULT_LISTEN = Address("127.0.0.1", 8080)
MAX_SOURCES = 16


async def mirror(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    if arguments.sources or arguments.link:
        if not (arguments.root and arguments.dist):
            raise CliError("Say with --root which version to fetch, and with --dist where to put it.", 2)
    elif arguments.share and (arguments.listen or arguments.network or arguments.path != "/"):
        raise CliError("With --share nothing is served here: leave out --listen, --path and --network.", 2)
    elif arguments.fetch_only:
        raise CliError("Say with --from or --get where --fetch-only is to fetch from.", 2)
    folder = dist_folder(arguments.dist)
    if arguments.sources or arguments.link:
        if code := await _fetch(arguments, output, stop, folder):
            return code
        if arguments.fetch_only:
            return 0
    manifest = checked_folder(folder)
    if arguments.root not in (None, manifest.root):
        raise CliError(f"{folder} has root hash {manifest.root}, which is not the one in --root.")
    if arguments.share:
        return await _share(arguments, output, stop, folder, manifest)
    return await _serve(arguments, output, stop, folder, manifest)


def dist_folder(option: str | None) -> Path:
    """The folder that --dist names, or what was built beside this program. Raises CliError."""
    folder = Path(option).expanduser() if option else page_folder()
    if folder is None:
        raise CliError("There is no dist/ here: run `python3 build.py build`, or name a folder with --dist.", 2)
    return folder.absolute()  # after it is replaced, "." is another folder


async def _serve(
    arguments: argparse.Namespace, output: Output, stop: asyncio.Event, folder: Path, manifest: Manifest
) -> int:
    network = None
    if arguments.network:
        network = await unless(stop, network_document(site_address(arguments.network)))
        if network is None:
            return 130
    path = arguments.path
    site = Site(mirror_app(folder, manifest, network=network, path=path))
    listen = arguments.listen or DEFAULT_LISTEN
    try:
        port = await bound(listen, site.start(listen.host, listen.port))
        url = f"http://{Address(listen.host, port)}{path}"
        output.say(f"Mirror of version {manifest.version}, root hash {manifest.root}, at {url}. Stop with Ctrl-C.")
        if network is None:
            output.say("It names no network (--network): bookmarklets can fetch code here, visitors cannot join.")
        output.record("ready", url=url, root=manifest.root, version=manifest.version, files=len(manifest.files))
        await stop.wait()
    finally:
        await site.close()
    output.say("Stopped.")
    return 0


async def _fetch(arguments: argparse.Namespace, output: Output, stop: asyncio.Event, target: Path) -> int:
    """Put a verified copy into --dist. Returns an exit code, 0 when it is there."""
    try:
        check_target(target)
        if arguments.link:
            files = await _by_circuits(arguments, output, stop)
        else:
            files = await unless(stop, _from_sites(arguments, output))
        if files is None:
            return 130
        write_folder(target, files)
    except Refused as error:
        raise CliError(f"Nothing was written: {error}.") from None
    except OSError as error:
        raise CliError(f"{error.filename or target} cannot be written: {os.strerror(error.errno or 0)}.") from None
    output.say(f"Verified copy of {arguments.root} in {target}.")
    output.record("fetched", root=arguments.root, files=len(files))
    return 0


async def _from_sites(arguments: argparse.Namespace, output: Output) -> Mapping[str, bytes]:
    sites = list(dict.fromkeys(site_address(url) for url in arguments.sources))
    if len(sites) > MAX_SOURCES:
        raise CliError(f"{MAX_SOURCES} sites can be fetched from at a time.", 2)
    rate = Rate()

    def progress(done: int, total: int) -> None:
        rate.add(done)
        output.progress(bar("Fetching", done, total, rate.value), last=done == total, have=done, size=total)

    async with browsing() as session:
        return await gather(session, sites, arguments.root, progress)


# -- through the network


class _WithoutPath(Output):
    """An output without the archive's own path: the archive is deleted once it is unpacked."""

    def result(self, text: str) -> None:
        pass


def _for_command(line: list[str], arguments: argparse.Namespace, **own: Any) -> argparse.Namespace:
    """The arguments of another command: what its line says or leaves as it is, what was said to this one, and `own`."""
    return argparse.Namespace(**{**vars(parser().parse_args(line)), **vars(arguments), **own})


async def _by_circuits(
    arguments: argparse.Namespace, output: Output, stop: asyncio.Event
) -> Mapping[str, bytes] | None:
    own = data_folder(arguments, settings(arguments), "mirror")
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=own) as folder:
        wanted = _for_command(["get"], arguments, output=folder, share=False)
        if await get.get(wanted, _WithoutPath(output.as_json), stop, MAX_ARCHIVE):
            return None
        [archive] = Path(folder).iterdir()
        with open(archive, "rb") as file:
            return take_out(file, arguments.root)


async def _share(
    arguments: argparse.Namespace, output: Output, stop: asyncio.Event, folder: Path, manifest: Manifest
) -> int:
    archive = data_folder(arguments, settings(arguments), "mirror") / archive_name(manifest)
    part = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(part, "wb") as file:
            pack(folder, manifest, file)
        part.replace(archive)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise CliError(f"{archive} cannot be written: {sentence(error.strerror or str(error))}") from None
    output.say(f"Root hash {manifest.root}: whoever gets the link needs it too, from somebody they trust.")
    output.record("packed", root=manifest.root)
    return await share.share(_for_command(["share", str(archive)], arguments), output, stop)
