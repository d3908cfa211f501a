"""IndexedDB as `ports.Storage`.

Does: number requests, hand rows to database.js and its answers back.
Does not: touch the pages' own storage. Values are copied out of Python's memory first: storing or posting a view of
that memory would copy the whole WebAssembly heap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from pyodide.ffi import to_js

from convergence.effects import Failure


class IndexedDbStorage:
    """`attach` before the first call."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._numbers = count(1)
        self._waiting: dict[int, tuple[Callable[[Any], None], Callable[..., Any]]] = {}

    def attach(self, listener: Any, entry: Callable[[Callable[..., None]], Any]) -> None:
        listener.answered = entry(self._answered)

    def store(
        self, items: Sequence[tuple[str, bytes, bytes | None]], reply: Callable[[None | Failure], None], /
    ) -> None:
        self._database.store(self._expect(reply, _bytes), to_js(items))

    def load(self, bucket: str, key: bytes, reply: Callable[[bytes | None | Failure], None], /) -> None:
        self._database.load(self._expect(reply, _bytes), bucket, to_js(key))

    def scan(self, bucket: str, prefix: bytes, reply: Callable[[list[bytes] | Failure], None], /) -> None:
        self._database.scan(self._expect(reply, _split), bucket, to_js(prefix))

    def _expect(self, reply: Callable[[Any], None], convert: Callable[..., Any]) -> int:
        number = next(self._numbers)
        self._waiting[number] = (reply, convert)
        return number

    def _answered(self, number: int, kind: str, *result: Any) -> None:
        reply, convert = self._waiting.pop(number)
        reply(Failure(kind, result[0]) if kind else convert(*result))


def _bytes(value: Any = None) -> bytes | None:
    return None if value is None else value.to_bytes()


def _split(joined: Any, lengths: Any) -> list[bytes]:
    whole, keys, at = joined.to_bytes(), [], 0
    for length in lengths.to_py():
        keys.append(whole[at : at + length])
        at += length
    return keys
