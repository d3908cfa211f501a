"""The manifest: the list of every file that a browser runs. Its own SHA-256 is the root hash.

Does: read and write manifest.json, format 2, in its one canonical form; say how a file differs from its entry.
Does not: fetch, sign, or need more than the standard library, because a build starts with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MANIFEST, RELEASE, LOG, NETWORK = "manifest.json", "release.json", "releases.txt", "network.json"
UNLISTED = {MANIFEST, RELEASE, LOG, NETWORK}
"""Documents that may lie beside the files and are never listed."""
PACKED_ENDINGS = (".br", ".gz")
"""Servers send such a file in place of the one without the ending."""

FORMAT = 2
MAX_MANIFEST = 256 << 10
"""Bytes of manifest.json."""
MAX_FILES = 1000
MAX_NAME = 200
"""Characters of a file's name with its folders."""
MAX_FILE = 64 << 20
"""Bytes of one file."""
MAX_ALL = 256 << 20
"""Bytes of all files."""
MAX_KEYS = 16

KEY_LEN = 42  # a minisign public key: "Ed", 8 bytes that name it, 32 bytes of Ed25519
KEY_AT = 10
# The y of all Ed25519 points of small order, and the second encodings of 0 and 1. With such a key, WebCrypto accepts
# signatures that anybody can make, so no manifest may name one (web/code/manifest.js has the same list). With a key off
# the curve nobody can sign. That is no worse than a lost key: a manifest may name one, but release.sign refuses it.
_P = 2**255 - 19
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _P - 1, _P, _P + 1, _Y8, _P - _Y8}

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8})){0,3}")


class Refused(Exception):
    """Something published is not what it should be. The message is a clause that tells people why."""


class Entry(NamedTuple):
    """One file: its SHA-256 in lower-case hex, its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> Entry:
        """What the manifest says of a file with these bytes."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of format 2. The constructor raises Refused for one that breaks the rules.

    Args:
        version: one to four numbers with dots.
        files: by name, relative and with slashes.
        keys: minisign public keys whose holders may sign the release that follows this one.
        threshold: how many of them must sign; 0 exactly when there are none (an unsigned build).
    """

    version: str
    files: Mapping[str, Entry]
    keys: Sequence[str] = ()
    threshold: int = 0
    root: str = field(init=False)

    def __post_init__(self) -> None:
        _need(is_version(self.version), "names no version")
        _check_files(self.files)
        check_keys(self.keys, self.threshold)
        data = self.encode()
        _need(len(data) <= MAX_MANIFEST, "is too long")
        object.__setattr__(self, "root", hashlib.sha256(data).hexdigest())

    @classmethod
    def of(cls, files: Mapping[str, bytes], version: str, keys: Sequence[str] = (), threshold: int = 0) -> Manifest:
        """The manifest of files that were just made. Raises Refused."""
        return cls(version, {name: Entry.of(data) for name, data in files.items()}, tuple(keys), threshold)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest from untrusted bytes. Raises Refused."""
        _need(len(data) <= MAX_MANIFEST, "is too long")
        value = parse_json(data, "the list of files")
        _need(isinstance(value, dict) and set(value) == {"files", "format", "keys", "threshold", "version"}, _NOT_2)
        _need(type(value["format"]) is int and value["format"] == FORMAT, _NOT_2)
        entries, keys = value["files"], value["keys"]
        _need(isinstance(entries, dict) and len(entries) <= MAX_FILES, "lists no files, or too many")
        for name, entry in entries.items():
            _need(isinstance(entry, dict) and set(entry) == {"sha256", "size"}, f"describes {name[:MAX_NAME]} wrongly")
        _need(isinstance(keys, list), "has no list of keys")
        files = {name: Entry(entry["sha256"], entry["size"]) for name, entry in entries.items()}
        return cls(value["version"], files, tuple(keys), value["threshold"])

    def encode(self) -> bytes:
        """manifest.json, whose SHA-256 is `root`."""
        files = {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()}
        keys = list(self.keys)
        return canonical_json(
            {"files": files, "format": FORMAT, "keys": keys, "threshold": self.threshold, "version": self.version}
        )


_NOT_2 = "is not of format 2"


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, in UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_json(data: bytes, what: str) -> Any:
    """The value in an untrusted document. Raises Refused if `what` is not as `canonical_json` writes it.

    Equal values have equal bytes, so that a hash names what every reader sees.
    """
    try:
        value = json.loads(data.decode("utf-8"))
        canonical = canonical_json(value) == data
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise Refused(f"{what} is no JSON in canonical form")
    return value


def is_version(text: Any) -> bool:
    """Whether it is one to four numbers of at most nine digits, with dots between them."""
    return isinstance(text, str) and _VERSION.fullmatch(text) is not None


def is_digest(text: Any) -> bool:
    """Whether it is a SHA-256 in lower-case hex."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def version_order(version: str) -> tuple[int, ...]:
    """The key by which versions are compared: 1.0 and 1.0.0 are equal."""
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def check_keys(keys: Sequence[Any], threshold: Any) -> None:
    """Raises Refused when these are not at most 16 distinct keys, of which `threshold` can sign."""
    _need(len(keys) <= MAX_KEYS, "has too many keys")
    read = [key_bytes(key) for key in keys]
    # A key under two names would count twice.
    _need(len({key[2:KEY_AT] for key in read}) == len({key[KEY_AT:] for key in read}) == len(read), "has a key twice")
    possible = type(threshold) is int and (1 if keys else 0) <= threshold <= len(keys)
    _need(possible, "asks for an impossible number of signatures")


def key_bytes(text: Any) -> bytes:
    """The 42 bytes of a minisign public key in base64. Raises Refused."""
    try:
        key = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        key = b""
    well_formed = len(key) == KEY_LEN and key.startswith(b"Ed") and base64.b64encode(key).decode() == text
    _need(well_formed, "has a key that is none of minisign's")
    y = int.from_bytes(key[KEY_AT:], "little") & ((1 << 255) - 1)  # without the sign of x
    _need(y not in _SMALL_ORDER, "has a key for which anybody can sign")
    return key


def _check_files(files: Mapping[str, Entry]) -> None:
    _need(0 < len(files) <= MAX_FILES, "lists no files, or too many")
    for name, entry in files.items():
        _need(len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None, "has a file name that is not allowed")
        _need(is_digest(entry.sha256), f"has no SHA-256 of {name}")
        _need(type(entry.size) is int and 0 <= entry.size <= MAX_FILE, f"has no possible size of {name}")
    _need(sum(entry.size for entry in files.values()) <= MAX_ALL, "lists files that are too long together")
    # Some file systems take a.js and A.js for one file.
    names = {name.lower() for name in files}
    _need(len(names) == len(files), "lists a file name twice")
    _need(names.isdisjoint(UNLISTED), "lists what lies beside the files")
    plain = names | UNLISTED
    _need(
        not any(name.endswith(PACKED_ENDINGS) and name[:-3] in plain for name in names),
        "lists a packed file beside the plain one",
    )


def _need(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(f"the list of files {why}")
