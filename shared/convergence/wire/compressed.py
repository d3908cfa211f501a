"""Compressed answers of directories, whole and bounded; and the engines of all that decompresses.

Does: decompress deflate (zlib's format), gzip of any number of members, zstd of any number of frames, LZMA as Tor
sends it; refuse what ends too early, goes on after its end, or grows beyond a limit, all members together. Compress for
those who ask a directory of ours.
Does not: decompress what arrives in pieces (pipes/coding.py).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Any
from typing import Protocol as Shape

from convergence.errors import LocalError, ParseError

ZSTD_WINDOW = 23
"""log2 of the bytes that a frame may refer back: 8 MiB, what RFC 9659 allows, and what Tor uses at most."""
LZMA_MEMORY = 16 << 20
"""Bytes that LZMA may take, as in Tor."""
SLICE = 1 << 14
"""Bytes of input given to an engine at once: what it leaves over is copied, which costs a square."""
TAKEN = ("x-zstd", "gzip", "deflate")
"""What is compressed with, the best first. LZMA would save a twentieth more, and take 40 times as long as zstd."""
DEFLATE, GZIP = zlib.MAX_WBITS, zlib.MAX_WBITS | 16
"""What `ZlibDecompressor` reads."""


class Decompressor(Shape):
    """Python's own interface for decompressors: `bz2`, `lzma`, `compression.zstd`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class ZlibDecompressor:
    """`zlib.decompressobj` with that interface."""

    def __init__(self, wbits: int) -> None:
        self._engine = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output = self._engine.decompress(self._engine.unconsumed_tail + data, max_length)
        self.needs_input = len(output) < max_length  # else zlib may hold more, also of input that it has taken
        return output


def zstd_library() -> Any:
    """The standard library's since Python 3.14; before, its backport. Raises LocalError where there is none."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise LocalError("this platform has no zstd") from None
    return zstd


def zstd_decompressor(library: Any) -> Decompressor:
    """For one frame, with a window of ZSTD_WINDOW."""
    engine: Decompressor = library.ZstdDecompressor(
        options={library.DecompressionParameter.window_log_max: ZSTD_WINDOW}
    )
    return engine


def decompress(encoding: str, data: bytes, limit: int) -> bytes:
    """The whole of what was compressed.

    Args:
        encoding: of Content-Encoding: "identity", "deflate", "gzip", "x-zstd" or "x-tor-lzma".
        limit: the most bytes that may come out.

    Raises:
        ParseError: it is no such data, is cut short, has trailing bytes, or gives more than `limit`.
        LocalError: this platform lacks that encoding, or nobody knows it.
    """
    if encoding == "identity":
        if len(data) > limit:
            raise ParseError(f"an answer of more than {limit} bytes")
        return data
    make, error, several = _engine(encoding)
    engine = make()
    output = bytearray()
    for at in range(0, len(data), SLICE):
        rest = data[at : at + SLICE]
        while rest or not (engine.eof or engine.needs_input):
            if engine.eof:
                if not several:
                    raise ParseError("compressed data goes on after its end")
                engine = make()
            try:
                output += engine.decompress(rest, limit + 1 - len(output))
            except error:
                raise ParseError(f"no valid {encoding} data") from None
            if len(output) > limit:
                raise ParseError(f"compressed data of more than {limit} bytes")
            rest = engine.unused_data if engine.eof else b""
    if not engine.eof:
        raise ParseError("compressed data is cut short")
    return bytes(output)


def compress(encoding: str, data: bytes) -> bytes:
    """The reverse, for what `TAKEN` names. Raises LocalError for what this platform lacks."""
    if encoding == "x-zstd":
        packed: bytes = zstd_library().compress(data)
        return packed
    if encoding == "identity":
        return data
    return zlib.compress(data, wbits=GZIP if encoding == "gzip" else DEFLATE)


def chosen(accepted: Iterable[str]) -> str:
    """What to compress with for somebody who takes these."""
    return next((encoding for encoding in TAKEN if encoding in accepted and _has(encoding)), "identity")


def offered() -> tuple[str, ...]:
    """What this platform can decompress, the best first: for Accept-Encoding."""
    return tuple(encoding for encoding in ("x-zstd", "x-tor-lzma", "gzip", "deflate", "identity") if _has(encoding))


def _has(encoding: str) -> bool:
    try:
        return encoding == "identity" or bool(_engine(encoding))
    except LocalError:
        return False


def _engine(encoding: str) -> tuple[Callable[[], Decompressor], type[Exception], bool]:
    """What makes an engine, what it raises for bad data, and whether several streams may follow one another."""
    if encoding == "deflate":
        return (lambda: ZlibDecompressor(DEFLATE)), zlib.error, False
    if encoding == "gzip":
        return (lambda: ZlibDecompressor(GZIP)), zlib.error, True
    if encoding == "x-zstd":
        library = zstd_library()
        return (lambda: zstd_decompressor(library)), library.ZstdError, True
    if encoding == "x-tor-lzma":
        try:
            import lzma
        except ImportError:
            raise LocalError("this platform has no LZMA") from None
        return (lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, LZMA_MEMORY)), lzma.LZMAError, False
    raise LocalError("no such encoding")
