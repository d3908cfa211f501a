"""Which Tor network: directory authorities and fallbacks, as lines of a torrc.

Does: read `DirAuthority`, `FallbackDir` and `EnforceDistinctSubnets` lines of a file (tor(1)); know the file of the
public network.
Does not: fetch anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from convergence.errors import LocalError
from convergence.tor.network import DirectoryAddress, TorConfig
from convergence.tor.sets import Sets

PUBLIC = Path(__file__).with_name("tor-public.txt")
MAX_FILE = 1 << 20  # bytes

_HEX = re.compile(r"[0-9A-Fa-f]{40}", re.ASCII)


class TorNetworkError(Exception):
    """Why a file names no network, as a sentence without its full stop."""


def read_network(path: Path) -> TorConfig:
    """Raises TorNetworkError."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(MAX_FILE).splitlines()
    except OSError as error:
        raise TorNetworkError(f"{path} cannot be read: {error.strerror}") from None
    authorities: list[bytes] = []
    directories: list[DirectoryAddress] = []
    fallbacks: list[DirectoryAddress] = []
    distinct = True
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        keyword = words.pop(0)
        try:
            if keyword.lower() == "dirauthority":
                authority, directory = _authority(words)
                authorities.append(authority)
                directories.append(directory)
            elif keyword.lower() == "fallbackdir":
                fallbacks.append(_fallback(words))
            elif keyword.lower() == "enforcedistinctsubnets" and words in (["0"], ["1"]):
                distinct = words == ["1"]
            else:
                raise ValueError(f"{keyword} is none of DirAuthority, FallbackDir, EnforceDistinctSubnets")
        except ValueError as error:
            raise TorNetworkError(f"{path}, line {number}: {error}") from None
    try:
        if not authorities:
            raise LocalError("there is no DirAuthority in it")
        return TorConfig(tuple(authorities), (*directories, *fallbacks), distinct, Sets)
    except LocalError as error:
        raise TorNetworkError(f"{path}: {error}") from None


def _authority(words: list[str]) -> tuple[bytes, DirectoryAddress]:
    """NAME orport=PORT [no-v2] v3ident=HEX ADDRESS:DIRPORT FINGERPRINT, the last in groups or not."""
    flags = dict(_flags(words))
    plain = [word for word in words[1:] if "=" not in word and ":" in word]
    if not plain or "v3ident" not in flags:
        raise ValueError("a DirAuthority needs v3ident=HEX and ADDRESS:DIRPORT")
    fingerprint = "".join(words[words.index(plain[0]) + 1 :])
    address, _, dir_port = plain[0].rpartition(":")
    directory = _directory(address, flags, fingerprint)
    if dir_port.isdecimal() and 0 < int(dir_port) < 65536:
        directory = replace(directory, dir_address=f"{address}:{int(dir_port)}")
    return _digest(flags["v3ident"]), directory


def _fallback(words: list[str]) -> DirectoryAddress:
    """ADDRESS[:DIRPORT] orport=PORT id=HEX ..."""
    flags = dict(_flags(words))
    if not words:
        raise ValueError("a FallbackDir needs an address")
    return _directory(words[0].partition(":")[0], flags, flags.get("id", ""))


def _flags(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            yield name.lower(), value


def _directory(address: str, flags: dict[str, str], fingerprint: str) -> DirectoryAddress:
    port = flags.get("orport", "")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("orport=PORT is missing, or no port")
    return DirectoryAddress(f"{IPv4Address(address)}:{int(port)}", _digest(fingerprint))


def _digest(text: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise ValueError("a fingerprint has 40 hexadecimal digits")
    return bytes.fromhex(text)
