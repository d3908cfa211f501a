"""What a full collection leaves is set aside; what is in cycles there is found before memory has doubled."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref

import pytest

from pynode import garbage
from pynode.garbage import collected_often, set_aside
from tests.unit.pynode.toy import run

MANY = 200_000


class Held:
    """In a cycle with itself."""

    def __init__(self) -> None:
        self.held = self


def test_a_collection_looks_only_at_what_came_since_the_last_one() -> None:
    there = [[] for _ in range(MANY)]  # type: ignore[var-annotated]
    with set_aside():
        aside = gc.get_freeze_count()
        assert aside > MANY
        new = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        looked_at = len(gc.get_objects())  # what is set aside is not among them
        assert 1000 <= looked_at < MANY / 10
        gc.collect()
        assert gc.get_freeze_count() > aside
        del there[MANY // 2 :]
        assert gc.get_freeze_count() < aside, "what nothing refers to goes at once"
    assert gc.get_freeze_count() == 0 and len(gc.get_objects()) > MANY / 2 and new


def test_cycles_among_what_was_set_aside_are_found_once_memory_has_grown() -> None:
    held = Held()
    seen = weakref.ref(held)
    with set_aside(growth=1.1):
        del held
        gc.collect()
        assert seen() is not None
        new = [object() for _ in range(int(sys.getallocatedblocks() * 0.2))]
        gc.collect()
        assert seen() is None
        assert gc.get_freeze_count() > 0 and new, "and the rest is set aside again"


def test_cycles_that_hold_large_buffers_are_found_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is few objects: whoever sends half a message and goes may leave one."""
    held = Held()
    seen = weakref.ref(held)
    with set_aside():
        del held
        blocks, resident = garbage._in_use()
        monkeypatch.setattr(garbage, "_in_use", lambda: (blocks, int(1.9 * resident)))
        gc.collect()
        assert seen() is not None
        monkeypatch.setattr(garbage, "_in_use", lambda: (blocks, int(2.2 * resident)))
        gc.collect()
        assert seen() is None


def test_garbage_that_is_new_is_found_as_ever() -> None:
    with set_aside():
        held = Held()
        seen = weakref.ref(held)
        del held
        gc.collect()
        assert seen() is None


def test_when_it_ends_all_is_as_it_was() -> None:
    before = list(gc.callbacks)
    with set_aside():
        assert len(gc.callbacks) == len(before) + 1
    assert gc.callbacks == before and gc.get_freeze_count() == 0


def test_garbage_is_found_by_and_by_though_nothing_new_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PAUSE", 0.01)

    async def test() -> None:
        with collected_often():
            held = Held()
            seen = weakref.ref(held)
            del held
            async with asyncio.timeout(20):
                while seen() is not None:
                    await asyncio.sleep(0.01)
        collections = gc.get_stats()[garbage.FULL]["collections"]
        await asyncio.sleep(0.1)
        assert gc.get_stats()[garbage.FULL]["collections"] <= collections + 1, "it ends with the block"

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()
