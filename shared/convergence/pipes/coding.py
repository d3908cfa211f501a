"""Stages that compress what goes out and decompress what comes in: deflate, gzip, brotli, zstd.

Does: flush after each write, so that nothing waits for more; a final block at the end of the way; decompress no faster
than the reader consumes; refuse what is no such data, ends too early, or goes on after its end.
Does not: choose: both sides have to know which one it is.

Formats: deflate is zlib's (RFC 1950), as HTTP and browsers mean it; gzip RFC 1952, of any number of members; brotli RFC
7932; zstd RFC 8878, of any number of frames, with windows up to 8 MiB. In a browser, brotli is missing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from typing import Protocol as Shape

from convergence.errors import LocalError
from convergence.pipes.stage import CHUNK, Flaw, Stage, StageError
from convergence.wire.compressed import (
    DEFLATE,
    GZIP,
    SLICE,
    Decompressor,
    ZlibDecompressor,
    zstd_decompressor,
    zstd_library,
)

MAX_ZSTD_LEVEL = 19  # higher ones refer back further
BROTLI_QUALITY = 5  # of 11: higher ones take many times as long


class Compressor(Shape):
    """`write` gives all that the far end needs to read `data`; `finish` the last block."""

    def write(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


def deflate(level: int = 6) -> Stage[bytes, bytes]:
    """zlib format. `level`: 0 (none) to 9."""
    return Stage(_Encoder(_ZlibCompressor(level, DEFLATE)), _Decoder(lambda: ZlibDecompressor(DEFLATE), zlib.error))


def gzip(level: int = 6) -> Stage[bytes, bytes]:
    """`level`: 0 (none) to 9."""
    decoder = _Decoder(lambda: ZlibDecompressor(GZIP), zlib.error, several=True)
    return Stage(_Encoder(_ZlibCompressor(level, GZIP)), decoder)


def brotli(quality: int = BROTLI_QUALITY) -> Stage[bytes, bytes]:
    """`quality`: 0 to 11. Raises LocalError where the platform has no brotli."""
    try:
        import brotli as library  # type: ignore[import-untyped]
    except ImportError:
        raise LocalError("this platform has no brotli") from None
    encoder = _Encoder(_BrotliCompressor(library, quality))
    return Stage(encoder, _Decoder(lambda: _BrotliDecompressor(library), library.error))


def zstd(level: int = 3) -> Stage[bytes, bytes]:
    """`level`: 1 to MAX_ZSTD_LEVEL. Raises LocalError for another one, and where the platform has no zstd."""
    if not 1 <= level <= MAX_ZSTD_LEVEL:
        raise LocalError("no such level of zstd")
    library = zstd_library()
    decoder = _Decoder(lambda: zstd_decompressor(library), library.ZstdError, several=True)
    return Stage(_Encoder(_ZstdCompressor(library.ZstdCompressor(level=level))), decoder)


# -- both directions


class _Encoder:
    def __init__(self, compressor: Compressor) -> None:
        self._compressor = compressor

    def feed(self, data: bytes, now: float) -> Iterator[bytes]:
        for at in range(0, len(data), CHUNK):
            yield from _chunks(self._compressor.write(data[at : at + CHUNK]))

    def finish(self, now: float) -> Iterable[bytes]:
        return _chunks(self._compressor.finish())


class _Decoder:
    """Decompresses one stream after the other, if several may come.

    Args:
        make: gives an engine for one stream.
        error: what it raises for bad data.
    """

    def __init__(self, make: Callable[[], Decompressor], error: type[Exception], several: bool = False) -> None:
        self._make = make
        self._engine = make()
        self._error = error
        self._several = several

    def feed(self, data: bytes, now: float) -> Iterator[bytes]:
        for at in range(0, len(data), SLICE):
            rest = data[at : at + SLICE]
            while rest or not (self._engine.eof or self._engine.needs_input):
                if self._engine.eof:
                    if not self._several:
                        raise StageError(Flaw.TRAILING)
                    self._engine = self._make()
                try:
                    output = self._engine.decompress(rest, CHUNK)
                except self._error:
                    raise StageError(Flaw.GARBAGE) from None
                rest = self._engine.unused_data if self._engine.eof else b""
                if output:
                    yield output

    def finish(self, now: float) -> Iterable[bytes]:
        if not self._engine.eof:
            raise StageError(Flaw.TRUNCATED)
        return ()


def _chunks(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), CHUNK):
        yield data[at : at + CHUNK]


# -- the libraries


class _ZlibCompressor:
    def __init__(self, level: int, wbits: int) -> None:
        self._engine = zlib.compressobj(level, wbits=wbits)

    def write(self, data: bytes) -> bytes:
        return self._engine.compress(data) + self._engine.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._engine.flush()


class _BrotliCompressor:
    def __init__(self, library: Any, quality: int) -> None:
        self._engine = library.Compressor(quality=quality)

    def write(self, data: bytes) -> bytes:
        return bytes(self._engine.process(data) + self._engine.flush())

    def finish(self) -> bytes:
        return bytes(self._engine.finish())


class _BrotliDecompressor:
    """The library refuses data after the end by itself."""

    unused_data = b""

    def __init__(self, library: Any) -> None:
        self._engine = library.Decompressor()
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._engine.is_finished())

    def decompress(self, data: bytes, max_length: int) -> bytes:
        limit = min(max_length, 1 << 14)  # the library's buffer grows by 32 and 64 KiB while it is below the limit
        output = bytes(self._engine.process(data, output_buffer_limit=limit))
        self.needs_input = self._engine.can_accept_more_data() and len(output) < limit
        return output


class _ZstdCompressor:
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def write(self, data: bytes) -> bytes:
        return bytes(self._engine.compress(data, self._engine.FLUSH_BLOCK))

    def finish(self) -> bytes:
        return bytes(self._engine.flush())
