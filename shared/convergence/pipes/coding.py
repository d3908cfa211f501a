"""Stages that compress what goes out and decompress what comes in: deflate, gzip, brotli, zstd.

Does: flush after each write, so that nothing waits for more; a final block at the end of the way; decompress no faster
than the reader consumes; refuse what is no such data, ends too early, or goes on after its end.
Does not: choose: both sides have to know which one it is.

Formats: deflate is zlib's (RFC 1950), as HTTP and browsers mean it; gzip RFC 1952, of any number of members; brotli RFC
7932; zstd RFC 8878, of any number of frames, with windows up to ZSTD_WINDOW. In a browser, brotli is missing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from typing import Protocol as Shape

from convergence.errors import LocalError
from convergence.pipes.stage import CHUNK, Flaw, Stage, StageError

SLICE = 1 << 14  # bytes of input given to an engine at once; what it leaves over is copied, which costs a square
ZSTD_WINDOW = 23  # log2 of the bytes that a frame may refer back: 8 MiB, what RFC 9659 allows
MAX_ZSTD_LEVEL = 19  # higher ones refer back further
BROTLI_QUALITY = 5  # of 11: higher ones take many times as long
_DEFLATE, _GZIP = zlib.MAX_WBITS, zlib.MAX_WBITS | 16


class Decompressor(Shape):
    """Python's own interface for decompressors: `bz2`, `lzma`, `compression.zstd`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Compressor(Shape):
    """`write` gives all that the far end needs to read `data`; `finish` the last block."""

    def write(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


def deflate(level: int = 6) -> Stage[bytes, bytes]:
    """zlib format. `level`: 0 (none) to 9."""
    return Stage(_Encoder(_ZlibCompressor(level, _DEFLATE)), _Decoder(lambda: _ZlibDecompressor(_DEFLATE), zlib.error))


def gzip(level: int = 6) -> Stage[bytes, bytes]:
    """`level`: 0 (none) to 9."""
    decoder = _Decoder(lambda: _ZlibDecompressor(_GZIP), zlib.error, several=True)
    return Stage(_Encoder(_ZlibCompressor(level, _GZIP)), decoder)


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
    library = _zstd_library()
    options = {library.DecompressionParameter.window_log_max: ZSTD_WINDOW}
    decoder = _Decoder(lambda: library.ZstdDecompressor(options=options), library.ZstdError, several=True)
    return Stage(_Encoder(_ZstdCompressor(library.ZstdCompressor(level=level))), decoder)


def _zstd_library() -> Any:
    """The standard library's since Python 3.14; before, its backport."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise LocalError("this platform has no zstd") from None
    return zstd


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


class _ZlibDecompressor:
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
