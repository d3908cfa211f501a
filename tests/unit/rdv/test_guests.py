"""The clients of an offer at one point: who gets a place, and who gives way."""

from dataclasses import replace

import pytest

from convergence.codes import TransferWhy
from convergence.errors import EndReason
from convergence.rdv.guests import FILES, MAX_SEEN, QUEUE_INTERVAL
from convergence.rdv.keys import Subject
from convergence.rdv.service import START_SPREAD
from convergence.rdv.session import FIRST_TIMEOUT
from convergence.wire.ordb import Done
from tests.unit.ordb.memory import Script
from tests.unit.rdv.network import NODES, Rig, Visitor, first, offered


def test_who_comes_to_a_busy_sender_waits_for_its_turn() -> None:
    rig = Rig()
    rig.share()
    place = first(rig)
    served = [Visitor(rig, *place) for _ in range(FILES.served)]
    waiting = [Visitor(rig, *place) for _ in range(FILES.queue)]
    assert all(visitor.served for visitor in served) and not any(visitor.served for visitor in waiting)
    assert [visitor.places for visitor in waiting] == [[place] for place in range(1, FILES.queue + 1)]
    assert Visitor(rig, *place).refused == EndReason.RESOURCELIMIT, "the queue is full, and says so"
    served[5].script.say(Done())
    rig.world.advance(0.1)
    assert waiting[0].served and not waiting[1].served
    assert [visitor.places[-1] for visitor in waiting[1:]] == list(range(1, FILES.queue))
    waiting[1].near.cut_off()
    served[6].near.cut_off()
    rig.world.advance(0.1)
    assert waiting[2].served and waiting[3].places[-1] == 1
    assert not Visitor(rig, *place).refused


def test_who_waits_is_told_so_all_the_time() -> None:
    rig = Rig()
    rig.share()
    place = first(rig)
    served = [Visitor(rig, *place) for _ in range(FILES.served)]
    last = Visitor(rig, *place)
    for _ in range(10):
        for visitor in served:
            visitor.ask(rig)
        rig.world.advance(QUEUE_INTERVAL)
    assert last.places == [1] * len(last.places) and len(last.places) >= 10


def test_who_asks_for_nothing_gives_way_while_others_wait() -> None:
    rig = Rig()
    rig.share()
    place = first(rig)
    idle = [Visitor(rig, *place) for _ in range(2)]
    active = [Visitor(rig, *place) for _ in range(FILES.served - 2)]
    rig.world.advance(120)
    assert not any(visitor.script.closes for visitor in idle), "nobody waits for it"
    for visitor in active:
        visitor.ask(rig)
    last = Visitor(rig, *place)
    rig.world.advance(QUEUE_INTERVAL + 0.1)
    assert sorted(visitor.script.closes for visitor in idle) == [[], [EndReason.RESOURCELIMIT]], "one is enough"
    assert last.served and not any(visitor.script.closes for visitor in active)


def test_who_says_nothing_holds_no_place() -> None:
    """Whoever knows a name, as a point does, opens streams without end and proves nothing."""
    rig = Rig()
    rig.share()
    circuit, target = first(rig)
    mute = [Visitor(rig, circuit, target, mute=True) for _ in range(5 * FILES.shaking)]
    assert not any(visitor.refused for visitor in mute)
    assert sum(not visitor.near.over for visitor in mute) == FILES.shaking
    assert Visitor(rig, circuit, target).served
    rig.world.advance(FIRST_TIMEOUT + 1)
    assert len(rig.service.guests) == 1 and all(visitor.near.over for visitor in mute)


@pytest.mark.parametrize("remembered", [1, MAX_SEEN])
def test_a_recorded_handshake_is_nobody(monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    """A point has it of a client that came. It could fill all places with it, and have what serves begin to act."""
    monkeypatch.setattr("convergence.rdv.guests.MAX_SEEN", remembered)
    rig = Rig()
    rig.share()
    circuit, target = first(rig)
    visitor = Visitor(rig, circuit, target, mute=True)
    recorded: list[bytes] = []
    write = visitor.near.write

    def noted(data: bytes, now: float) -> None:
        recorded.append(data)
        write(data, now)

    monkeypatch.setattr(visitor.near, "write", noted)
    visitor.session.opened(rig.world.now)
    rig.world.run()
    assert visitor.served and len(recorded) == 1 and rig.service.clients(rig.file.hash_name) == 1
    for _ in range(3):
        near, middle = rig.world.pair()
        near.handler = Script(near)
        middle.handler = circuit.on_begin(target, middle, rig.world.now)
        middle.handler.opened(rig.world.now)
        near.write(recorded[0], rig.world.now)
        rig.world.run()
        assert near.over and rig.service.clients(rig.file.hash_name) == 1
    assert Visitor(rig, circuit, target).served, "others are welcome"
    posts = rig.service._offers[rig.file.hash_name].posts.values()
    assert [size for post in posts if (size := len(post.guests._seen))] == [min(2, remembered)]


def test_those_who_prove_nothing_take_no_place_at_other_points() -> None:
    rig = Rig()
    rig.service.limits = replace(FILES, all=2)
    rig.share()
    hostile, *others = offered(rig)
    for _ in range(FILES.shaking):
        Visitor(rig, *hostile, mute=True)
    assert [Visitor(rig, *place).served for place in others] == [True, True]


def test_at_a_full_sender_the_most_crowded_post_gives_way() -> None:
    rig = Rig()
    rig.service.limits = replace(FILES, all=6)
    rig.share()
    crowded, other, _ = offered(rig)
    crowd = [Visitor(rig, *crowded) for _ in range(6)]
    assert not Visitor(rig, *crowded).served, "it would not give way to its own"
    come = [Visitor(rig, *other) for _ in range(4)]
    assert [visitor.served for visitor in come] == [True, True, True, False]
    assert [bool(visitor.script.closes) for visitor in crowd] == [False] * 3 + [True] * 3, "who came first stays"
    assert len(rig.service.guests) == 6


def test_a_receiver_waits_in_the_queue_and_is_served() -> None:
    rig = Rig()
    rig.nodes = NODES[:1]
    rig.share()
    place = first(rig)
    served = [Visitor(rig, *place) for _ in range(FILES.served)]
    getter = rig.get(1)
    for _ in range(12):
        for visitor in served:
            visitor.ask(rig)
        rig.world.advance(10)
    assert getter.download.position == 1 and getter.download.sources == 0 and getter.receiver.dropped == []
    served[0].near.cut_off()
    rig.world.advance(10)
    rig.check_done()
    assert getter.download.position == 0


def test_a_receiver_past_the_queue_hears_that_all_are_busy_and_comes_back() -> None:
    rig = Rig()
    rig.nodes = NODES[:1]
    rig.share()
    place = first(rig)
    crowd = [Visitor(rig, *place) for _ in range(FILES.served + FILES.queue)]
    getter = rig.get(1)
    rig.world.advance(2)
    assert getter.statuses == [TransferWhy.LOOKING, TransferWhy.SENDER_BUSY] and getter.gave_up == []
    for visitor in crowd:
        visitor.near.cut_off()
    rig.world.advance(30)
    rig.check_done()


def test_how_busy_one_file_is_cannot_be_told_at_another() -> None:
    rig = Rig()
    rig.share()
    rig.service.offer(Subject.public(b"o" * 32), rig.sender.serve, rig.world.now)
    rig.world.advance(START_SPREAD + 1)
    busy, *others = offered(rig)
    for _ in range(FILES.served + FILES.queue):
        Visitor(rig, *busy)
    assert Visitor(rig, *busy).refused
    assert len(others) == 5
    assert not any(Visitor(rig, *other).refused for other in others)
