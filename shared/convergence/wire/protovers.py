"""Versions of subprotocols: "Link=4-5 Relay=2-6" (tor-spec, "Subprotocol versioning"; dir-spec 2.1.1, "proto").

Does: parse, encode, and answer whether a version is among them.
Does not: know what a version means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from convergence.errors import ParseError
from convergence.wire.netdoc import blank_separated

MAX_VERSION = 63
"""The largest that there may be; a set of versions is one number of 64 bits."""
MAX_PROTOCOLS = 64
MAX_NAME = 100

_NAME = re.compile(rf"[A-Za-z0-9-]{{1,{MAX_NAME}}}", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,2})(?:-([0-9]{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Protocols:
    """The versions of each subprotocol: bit n of `masks[name]` stands for version n."""

    masks: Mapping[str, int]

    @classmethod
    def parse(cls, text: str) -> Protocols:
        """Raises ParseError for a version above MAX_VERSION: what a range may cost does not depend on its ends."""
        entries = blank_separated(text)
        if len(entries) > MAX_PROTOCOLS:
            raise ParseError(f"more than {MAX_PROTOCOLS} subprotocols")
        masks: dict[str, int] = {}
        for entry in entries:
            name, equals, versions = entry.partition("=")
            if not equals or not _NAME.fullmatch(name) or name in masks:
                raise ParseError("a subprotocol has no name, or occurs twice")
            masks[name] = _mask(versions) if versions else 0
        return cls(masks)

    def supports(self, name: str, version: int) -> bool:
        """Whether this version is among them."""
        return bool(self.masks.get(name, 0) >> version & 1)

    def covers(self, other: Protocols) -> bool:
        """Whether all versions of the other set are in this one."""
        return not other.beyond(self).masks

    def beyond(self, other: Protocols) -> Protocols:
        """Those versions that the other set lacks."""
        left = {name: mask & ~other.masks.get(name, 0) for name, mask in self.masks.items()}
        return Protocols({name: mask for name, mask in left.items() if mask})

    def __str__(self) -> str:
        """Sorted by name, ranges as compact as can be."""
        return " ".join(f"{name}={_ranges(mask)}" for name, mask in sorted(self.masks.items()))


def _mask(text: str) -> int:
    mask = 0
    last = -1
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ParseError("a subprotocol has no valid versions")
        low, high = int(match[1]), int(match[2] or match[1])
        if not last < low <= high <= MAX_VERSION:
            raise ParseError("a subprotocol's versions are out of order or too large")
        mask |= (2 << high) - (1 << low)
        last = high
    return mask


def _ranges(mask: int) -> str:
    parts = []
    low = 0
    while mask >> low:
        if mask >> low & 1:
            high = low
            while mask >> high + 1 & 1:
                high += 1
            parts.append(str(low) if low == high else f"{low}-{high}")
            low = high
        low += 1
    return ",".join(parts)
