"""`convergence verify`: whether sites serve the published code.

Does: fetch what each site serves, as a browser would; say its root hash, who signed it, and which file differs.
Does not: vouch for what a site serves to somebody else.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from pathlib import Path

from pynode.cli.common import unless
from pynode.cli.output import CliError, Output, Rate, bar, sentence, shown
from pynode.cli.sites import site_address
from pynode.published.folder import differences, read_manifest
from pynode.published.manifest import MANIFEST, MAX_NAME, Manifest, Refused
from pynode.published.release import Verdict
from pynode.published.served import Site, begin, browsing, inspect
from pynode.published.words import root_words

MAX_SITES = 64
SITES_AT_ONCE = 4
MAX_TOLD = 20
"""Problems of one site that are told to people; programs get them all."""


async def verify(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code: 0 when all sites serve what is expected, and the same."""
    urls = list(dict.fromkeys(site_address(url) for url in arguments.urls))
    if len(urls) > MAX_SITES:
        raise CliError(f"{MAX_SITES} sites can be verified at a time.", 2)
    own = None if arguments.dist is None else checked_folder(Path(arguments.dist))
    root = own.root if own is not None else arguments.root
    sites = await unless(stop, _inspect_all(urls, own, root, output))
    if sites is None:
        return 130
    for site in sites:
        _tell(site, output)
    return _conclude(sites, root, output)


def checked_folder(folder: Path) -> Manifest:
    """The manifest of a folder whose files are all as it says. Raises CliError with the name of the first that is
    not."""
    try:
        manifest = read_manifest(folder).manifest
    except Refused as error:
        raise CliError(sentence(str(error)), 2) from None
    for name, why in differences(folder, manifest):
        file = f"{shown(name, MAX_NAME)} in {folder}"
        raise CliError(f"{file} {why}. Its {MANIFEST} lists other bytes: build or fetch anew.")
    return manifest


async def _inspect_all(urls: list[str], own: Manifest | None, root: str | None, output: Output) -> list[Site]:
    slots = asyncio.Semaphore(SITES_AT_ONCE)
    rate = Rate()
    done = total = 0

    async with browsing() as session:

        async def one_begins(url: str) -> Site:
            async with slots:
                return await begin(session, url)

        async def one(site: Site) -> None:
            async with slots:
                await inspect(session, site, expected, progress)
            if root is not None and expected is None:
                site.verdict = None  # a site's own keys prove nothing about a version that is not the expected one

        def progress(size: int) -> None:
            nonlocal done
            done += size
            rate.add(done)
            output.progress(bar("Verifying", done, max(done, total), rate.value), have=done, size=total)

        sites = await asyncio.gather(*map(one_begins, urls))
        expected = own or next((found for found in map(_manifest, sites) if found and found.root == root), None)
        for site in sites:
            if root is not None and site.root not in (None, root):
                site.problems.append((MANIFEST, f"has root hash {site.root}, which is not the expected one"))
            manifest = expected or _manifest(site)
            total += sum(entry.size for entry in manifest.files.values()) if manifest else 0
        await asyncio.gather(*map(one, sites))
    return sites


def _manifest(site: Site) -> Manifest | None:
    return None if site.published is None else site.published.manifest


def _tell(site: Site, output: Output) -> None:
    words = root_words(site.root) if site.root else None
    output.record(
        "site",
        url=site.url,
        root=site.root,
        words=words,
        version=manifest.version if (manifest := _manifest(site)) else None,
        signers=len(site.verdict.signers) if site.verdict else 0,
        needed=site.verdict.needed if site.verdict else None,
        signed=bool(site.verdict and site.verdict.ok),
        why=list(site.verdict.why) if site.verdict else [],
        notes=site.notes,
        problems=[{"file": name, "what": what} for name, what in site.problems],
        ok=not site.problems,
    )
    output.result(site.url)
    if manifest and words:
        output.result(f"  version    {manifest.version}")
        output.result(f"  root hash  {manifest.root}")
        for number, line in enumerate(word_lines(words)):
            output.result(f"  {'' if number else 'words':9}  {line}")
    if site.verdict:
        output.result(f"  signed     {signed_words(site.verdict)}")
    for note in site.notes:
        output.result(f"  note       {note}: browsers go on without it")
    for name, what in site.problems[:MAX_TOLD]:
        output.result(f"  {name}: {what}")
    if len(site.problems) > MAX_TOLD:
        output.result(f"  and {len(site.problems) - MAX_TOLD} more that differ")
    if manifest and not site.problems:
        output.result(f"  all {len(manifest.files)} files are as listed, and so is the page that visitors get")


def word_lines(words: str) -> list[str]:
    """24 words in four lines."""
    parts = words.split()
    return [" ".join(parts[start : start + 6]) for start in range(0, len(parts), 6)]


def signed_words(verdict: Verdict) -> str:
    """Who signed, in a line."""
    if not verdict.needed and verdict.index is None:
        return "by nobody: an unsigned build"
    if not verdict.needed:
        return "by nobody who counts: the version that judges it names no keys"
    line = f"by {len(verdict.signers)} of the keys, {verdict.needed} are needed"
    return line if verdict.ok else f"{line}. Not released: {'; '.join(verdict.why)}"


def _conclude(sites: list[Site], root: str | None, output: Output) -> int:
    groups: defaultdict[str | None, list[str]] = defaultdict(list)
    for site in sites:
        groups[None if site.problems else site.root].append(site.url)
    bad = groups.pop(None, [])
    ok = not bad and len(groups) == 1
    output.record("verified", ok=ok, expected=root, agreeing={str(one): urls for one, urls in groups.items()}, bad=bad)
    for one, urls in groups.items():
        same = "serves" if len(urls) == 1 else "agree: they serve"
        output.say(f"{', '.join(urls)} {same} the files of root hash {one}.")
    if bad:
        output.say(f"Do not use {', '.join(bad)}: see above for what is wrong.")
    elif len(groups) > 1:
        output.say("These are different versions. Ask a third party which root hash is the published one.")
    elif root is None:
        output.say("Compare the root hash or its words with a third party's: the release log, a repository, a friend.")
    return 0 if ok else 1
