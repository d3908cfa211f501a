"""Files as they travel: packed with gzip or brotli.

Does: unpack, piece by piece, to a limit.
Does not: pack; a build does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import brotli  # type: ignore[import-untyped]

from pynode.published.manifest import Refused

ENCODINGS = {"br": ".br", "gzip": ".gz"}
"""Content-Encoding -> ending of the packed file beside the plain one. Best first."""

_GZIP_ONLY = 16 + zlib.MAX_WBITS


class Unpacker(Protocol):
    """Bytes in, bytes out."""

    def feed(self, data: bytes) -> None:
        """Raises Refused when the data is damaged, or more than the limit."""

    def finish(self) -> None:
        """Raises Refused when the data ends too soon."""


def unpacker(encoding: str, limit: int, sink: Callable[[bytes], object]) -> Unpacker:
    """Hands what it unpacks to `sink`, at most `limit` bytes. Raises Refused for an unknown encoding."""
    bounded = _Bounded(limit, sink)
    match encoding:
        case "" | "identity":
            return _Plain(bounded)
        case "gzip" | "x-gzip":
            return _Gzip(bounded)
        case "br":
            return _Brotli(bounded)
    raise Refused("comes in an encoding that was not asked for")


def unpacked(encoding: str, data: bytes, limit: int) -> bytes:
    """All at once. Raises Refused."""
    parts: list[bytes] = []
    one = unpacker(encoding, limit, parts.append)
    one.feed(data)
    one.finish()
    return b"".join(parts)


class _Bounded:
    def __init__(self, limit: int, sink: Callable[[bytes], object]) -> None:
        self.left = limit
        self._sink = sink

    def put(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left < 0:
            raise Refused("is longer than it should be")
        if data:
            self._sink(data)


class _Plain:
    def __init__(self, out: _Bounded) -> None:
        self.feed = out.put

    def finish(self) -> None:
        pass


class _Gzip:
    def __init__(self, out: _Bounded) -> None:
        self._out = out
        self._stream = zlib.decompressobj(_GZIP_ONLY)

    def feed(self, data: bytes) -> None:
        try:
            while data:
                self._out.put(self._stream.decompress(data, self._out.left + 1))
                data = self._stream.unconsumed_tail
        except zlib.error:
            raise Refused("is damaged on its way (gzip)") from None
        if self._stream.unused_data:
            raise Refused("is followed by something else (gzip)")

    def finish(self) -> None:
        if not self._stream.eof:
            raise Refused("breaks off (gzip)")


class _Brotli:
    def __init__(self, out: _Bounded) -> None:
        self._out = out
        self._stream = brotli.Decompressor()

    def feed(self, data: bytes) -> None:
        try:
            self._out.put(self._stream.process(data, output_buffer_limit=self._out.left + 1))
            while not self._stream.can_accept_more_data():
                self._out.put(self._stream.process(b"", output_buffer_limit=self._out.left + 1))
        except brotli.error:
            raise Refused("is damaged on its way (brotli)") from None

    def finish(self) -> None:
        if not self._stream.is_finished():
            raise Refused("breaks off (brotli)")
