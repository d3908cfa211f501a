"""Sticky entries: few, kept while they work, stored without the name of what they are for, forgotten with it."""

import pytest

from convergence.effects import Failure, Load, Scan, Store
from convergence.outbox import Outbox
from convergence.path.entries import BUCKET, ENTRIES, MAX_USERS, StickyEntries, user_of
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role
from tests.unit.circuit.rig import SeededRng

NOW = 1000.0
NODES = [
    Descriptor(bytes([number]) * 32, bytes(32), 0, 1 << 40, Role.RELAY, (Transport(1, f"ws://n{number}/"),)).target
    for number in range(8)
]
USER = user_of(b"n" * 32, True)


class Disk:
    """Answers what an Outbox asks of storage."""

    def __init__(self):
        self.items = {}
        self.broken = False

    def serve(self, outbox):
        while effects := outbox.poll(NOW):
            for effect in effects:
                outbox.done(effect.request, self._answer(effect), NOW)

    def _answer(self, effect):
        if self.broken:
            return Failure("io", "broken")
        match effect:
            case Store(_, items):
                for bucket, key, value in items:
                    if value is None:
                        self.items.pop((bucket, key))
                    else:
                        self.items[bucket, key] = value
                return None
            case Load(_, bucket, key):
                return self.items.get((bucket, key))
            case Scan(_, bucket, _):
                return sorted(key for kind, key in self.items if kind == bucket)


@pytest.fixture
def disk():
    return Disk()


def start(disk, seed="entries"):
    """A node's entries after it has started."""
    outbox = Outbox()
    entries, began = StickyEntries(outbox, SeededRng(seed)), []
    entries.restore(NOW, began.append)
    disk.serve(outbox)
    assert began == [NOW]
    return entries, outbox


def choose(entries, user=USER, side=NODES, leading=None, avoided=()):
    chosen = entries.choose(user, side, {node.identity for node in (side if leading is None else leading)}, avoided)
    return {node.identity for node in chosen}


def test_a_user_keeps_its_entries_and_another_one_has_others(disk):
    entries, _ = start(disk)
    first = choose(entries)
    assert len(first) == ENTRIES and all(choose(entries) == first for _ in range(20))
    others = [choose(entries, user_of(bytes([number]) * 32, True)) for number in range(10)]
    assert any(other != first for other in others)
    assert user_of(b"n" * 32, True) != user_of(b"n" * 32, False)


def test_those_that_fail_come_back_and_no_more_are_used_than_ever(disk):
    entries, _ = start(disk)
    first = choose(entries)
    second = choose(entries, avoided=first)
    assert len(second) == ENTRIES and not first & second
    assert choose(entries, avoided=second) == first
    assert len(choose(entries)) == ENTRIES, "four are kept, and never more than two are used at once"
    assert choose(entries) <= first | second


def test_only_those_that_lead_there_are_used(disk):
    entries, _ = start(disk)
    assert choose(entries, leading=NODES[:1]) == {NODES[0].identity}
    assert choose(entries, leading=[]) == {node.identity for node in NODES}


def test_they_are_the_same_after_a_restart_and_the_store_does_not_tell_for_what(disk):
    entries, outbox = start(disk)
    first = choose(entries)
    disk.serve(outbox)
    assert choose(start(disk, "another start")[0]) == first
    [(bucket, key)] = disk.items
    assert bucket == BUCKET and b"n" * 32 not in key + disk.items[bucket, key]


def test_they_are_forgotten_with_the_file(disk):
    entries, outbox = start(disk)
    choose(entries)
    entries.forget(USER)
    entries.forget(user_of(b"never shared", True))
    disk.serve(outbox)
    assert not disk.items


@pytest.mark.parametrize("value", [b"", b"short", bytes(33)])
def test_a_record_that_makes_no_sense_is_none(disk, value):
    disk.items[BUCKET, USER] = value
    disk.items[BUCKET, b"no key of ours"] = bytes(32)
    entries, _ = start(disk)
    assert len(choose(entries)) == ENTRIES


def test_broken_storage_keeps_nobody_from_starting(disk):
    disk.broken = True
    entries, outbox = start(disk)
    first = choose(entries)
    disk.serve(outbox)
    assert choose(entries) == first


def test_memory_of_users_is_bounded(disk):
    entries, outbox = start(disk)
    for number in range(MAX_USERS + 5):
        choose(entries, user_of(number.to_bytes(32, "big"), True))
    disk.serve(outbox)
    assert len(disk.items) == MAX_USERS
    assert (BUCKET, user_of(bytes(32), True)) not in disk.items
