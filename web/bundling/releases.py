"""The part of docs/releases that goes into a build; its README describes the files.

Does: read who signs the next release, where a bookmark looks for mirrors and a network, and what proves a release.
Does not: judge signatures, or write anything there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynode.published.manifest import LOG, RELEASE, Refused, check_keys, parse_json

_FOLDER = re.compile(r"https?://[^/?#\s]+/(?:[^?#\s]*/)?")
_IDENTITY = re.compile(r"[0-9a-f]{64}")


class Unfit(Exception):
    """A file there is not as it should be; the message says what to do."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, Refused) as error:
        raise Unfit(f"{path} is not as docs/releases/README.md describes it ({error}): mend it.") from None


def signers(folder: Path) -> tuple[Sequence[str], int]:
    """Who may sign what comes after a build: minisign public keys, and how many of them have to. Raises Unfit."""
    with _reading(path := folder / "keys.json"):
        value = json.loads(path.read_bytes())
        check_keys(value["keys"], value["threshold"])
        return value["keys"], value["threshold"]


def ways_in(folder: Path) -> tuple[list[str], dict[str, Any] | None]:
    """The mirrors that a bookmark asks, and the network that it joins; None: the one that a mirror names. Raises
    Unfit."""
    network = None
    with _reading(path := folder / "mirrors.txt"):
        mirrors = path.read_text(encoding="utf-8").split()
        if wrong := [mirror for mirror in mirrors if not _FOLDER.fullmatch(mirror)]:
            raise ValueError(f"{wrong[0]} is no http or https address that ends in a slash")
    if (path := folder / "network.json").exists():
        with _reading(path):
            network = json.loads(path.read_bytes())
            facilitator = network["facilitator"]
            if not _FOLDER.fullmatch(network["url"]):
                raise ValueError("its url is no http or https address that ends in a slash")
            if not (
                facilitator["path"].startswith(("http://", "https://")) and _IDENTITY.fullmatch(facilitator["identity"])
            ):
                raise ValueError("its facilitator has no whole address, or no identity")
    return mirrors, network


def proof(folder: Path, version: str, root: str, note: Callable[[str], object]) -> dict[str, bytes]:
    """release.json and releases.txt, which prove that this very build was released; nothing for any other build, and
    `note` gets why. Raises Unfit."""
    record, log = folder / f"{version}.json", folder / "log.txt"
    if not (record.is_file() and log.is_file()):
        return {}
    lines = log.read_bytes().splitlines()
    with _reading(record):
        index = parse_json(record.read_bytes(), "the record")["index"]
        if lines[index : index + 1] != [f"{version} {root}".encode()]:
            note(f"{record.name} of docs/releases is for other bytes than these: left out")
            return {}
    return {RELEASE: record.read_bytes(), LOG: log.read_bytes()}
