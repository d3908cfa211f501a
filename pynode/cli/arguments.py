"""What argparse turns words of the command line into.

Does: check addresses, ports, names and hashes, and say what is allowed.
Does not: import what a node needs: `--help`, `completion` and the build read the parser without it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pynode.config import Address, check_identity, check_listen, check_stun, check_url, is_host_name
from pynode.origins import origin
from pynode.published.manifest import is_digest

T = TypeVar("T")


def _type(check: Callable[[Any], T]) -> Callable[[str], T]:
    def convert(text: str) -> T:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"it must be {error}") from None

    return convert


def whole_number(low: int, high: int) -> Callable[[str], int]:
    def check(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text[:10]) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return _type(check)


def _host_name(text: str) -> str:
    if not is_host_name(text):
        raise ValueError("a host name or address, without a port")
    return text


def _root_hash(text: str) -> str:
    if not is_digest(text.lower()):
        raise ValueError("a root hash: 64 hexadecimal digits")
    return text.lower()


def _url_path(text: str) -> str:
    if re.fullmatch(r"/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*", path := text.rstrip("/") + "/") is None:
        raise ValueError('a path such as "/convergence/"')
    return path


def _local_end(text: str) -> Address | Path:
    """A port is one of this machine only, unless a host says otherwise."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return Path(text.removeprefix("unix:"))
    try:
        return check_listen(
            f"127.0.0.1{text}" if text.startswith(":") else f"127.0.0.1:{text}" if ":" not in text else text
        )
    except ValueError:
        raise ValueError("HOST:PORT, a PORT of this machine, or unix:PATH") from None


listen_address = _type(check_listen)
local_end = _type(_local_end)
root_hash = _type(_root_hash)
url_path = _type(_url_path)
ws_address = _type(check_url)
identity = _type(check_identity)
stun_server = _type(check_stun)
page_origin = _type(origin)
host_name = _type(_host_name)
seconds = whole_number(0, 7 * 86400)
