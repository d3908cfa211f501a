"""Sticky entries: few, kept while they work, stored without the name of what they are for, forgotten with it."""

import pytest

from convergence.effects import Failure, Load, Scan, Store
from convergence.outbox import Outbox
from convergence.path.entries import BUCKET, ENTRIES, MAX_KEPT, MAX_USERS, PRIMARY, StickyEntries, user_of
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


# -- the one entry into the Tor network


def test_the_first_entry_comes_back_when_it_works_again(disk):
    entries = start(disk)[0]
    first = entries.first(USER, NODES, [])
    assert all(entries.first(USER, NODES, []) is first for _ in range(9))
    assert entries.first(USER, NODES, [first.identity]) is not first
    assert entries.first(USER, NODES, []) is first


def test_however_often_entries_fail_few_are_used_also_over_restarts(disk):
    used = {}
    for number in range(5):
        entries, outbox = start(disk, f"run {number}")[:2]
        failed = []
        for _ in range(10):
            entry = entries.first(USER, NODES, failed)
            used[entry.identity] = None
            failed = [*(identity for identity in failed if identity != entry.identity), entry.identity]
        disk.serve(outbox)
        assert entries.first(USER, NODES, []).identity == next(iter(used))
    assert len(used) == PRIMARY


def test_while_all_of_them_fail_the_one_that_may_work_first_is_tried(disk):
    entries = start(disk)[0]
    failed = []
    for _ in range(PRIMARY):
        failed.append(entries.first(USER, NODES, failed).identity)
    assert entries.first(USER, NODES, failed[1:] + failed[:1]).identity == failed[1]
    everybody = [node.identity for node in NODES]
    assert start(Disk())[0].first(USER, NODES, everybody) is NODES[0]


def test_entries_that_are_gone_are_replaced_and_their_memory_is_bounded(disk):
    entries, outbox = start(disk)[:2]
    for at in range(len(NODES)):
        assert entries.first(USER, NODES[at : at + 1], []) is NODES[at]
    disk.serve(outbox)
    assert len(disk.items[BUCKET, USER]) == 32 * MAX_KEPT
