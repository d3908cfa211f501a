"""Which points one end works with, of a ring that a View tells at once, late, in part, for two values, or never."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

from convergence.codes import ConnectWhy, TransferWhy
from convergence.netdir.view import Class
from convergence.outbox import Outbox
from convergence.rdv.client import REACH_LIMIT
from convergence.rdv.connector import PATIENCE
from convergence.rdv.ring import ASK_LIMIT, FIRST_ASKED, MAX_WALK, POINTS, Ring, walk
from convergence.wire.linkspec import tor_specifiers
from convergence.wire.target import Protocols, RelayTarget, Role
from tests.unit.rdv import test_connector
from tests.unit.rdv.network import Rig
from tests.views import SlowView

NAME = b"n" * 32
NOW = 1_800_000_000.0


def ring_with(*reached: int) -> list[RelayTarget]:
    """Ten points, those of these places with an address for relays of Tor."""
    none = RelayTarget(b"", (), bytes(20), bytes(32), Protocols(0), Role.RDV, frozenset(), False)
    specifiers = tor_specifiers(IPv4Address("192.0.2.7"), 9443, bytes(20), bytes(32))
    return [
        replace(none, identity=bytes([place]) * 32, tor_specifiers=specifiers if place in reached else ())
        for place in range(10)
    ]


def along(ring: list[RelayTarget], answers: Callable[[RelayTarget], bool | None], wanted: int) -> list[RelayTarget]:
    """A walk along one ring."""
    return walk([ring], [[point for point in ring if point.tor_specifiers]], answers, wanted)[0]


def places(chosen: list[RelayTarget]) -> list[int]:
    return [point.identity[0] for point in chosen]


def test_where_some_points_take_links_of_relays_of_tor_each_end_works_with_one_of_them() -> None:
    """So that it meets ends behind Tor, who see no others."""
    assert places(along(ring_with(5, 7), lambda point: None, 3)) == [0, 1, 2, 5]
    assert places(along(ring_with(1, 7), lambda point: None, 3)) == [0, 1, 2]
    assert places(along(ring_with(), lambda point: None, 3)) == [0, 1, 2]
    only = [point for point in ring_with(5, 7) if point.tor_specifiers]
    assert places(along(only, lambda point: None, 3)) == [5, 7]


def test_one_that_does_not_answer_counts_for_nothing_there() -> None:
    def silent(*numbers: int) -> Callable[[RelayTarget], bool | None]:
        return lambda point: point.identity[0] not in numbers

    assert places(along(ring_with(5, 7), silent(5), 3)) == [0, 1, 2, 7]
    assert places(along(ring_with(1, 7), silent(1), 3)) == [0, 1, 2, 3, 7]
    assert places(along(ring_with(5, 7), silent(5, 7), 3)) == [0, 1, 2]


def test_around_a_change_of_value_an_end_works_with_points_of_both_rings() -> None:
    """So that it meets an end that knows one of the two only; whoever stands on both is one point."""
    ring = ring_with()
    before, after = ring[:6], [*ring[6:], ring[0]]
    chosen, ended = walk([after, before], [], lambda point: None, POINTS)
    assert places(chosen) == [6, 7, 8, 0, 1, 2] and not ended
    assert places(walk([after, after[1:]], [], lambda point: None, POINTS)[0]) == [6, 7, 8, 9]
    for known in (before, after):
        assert {*along(known, lambda point: None, POINTS)} <= {*chosen}


def test_points_reached_from_tor_are_found_beyond_the_places_that_are_walked() -> None:
    ring, far = ring_with()[:5], ring_with(9)[9]
    assert places(walk([ring], [[far]], lambda point: None, POINTS)[0]) == [0, 1, 2, 9]


class Rings:
    """A View of a ring that counts how much is asked for."""

    def __init__(self, size: int) -> None:
        none = RelayTarget(b"", (), bytes(20), bytes(32), Protocols(0), Role.RDV, frozenset(), False)
        self.ring = [SimpleNamespace(target=replace(none, identity=place.to_bytes(32, "big"))) for place in range(size)]
        self.asked: list[int] = []
        self.held: list[Callable[[], None]] = []
        self.slow = False

    def closest(self, kind: Class, name: bytes, count: int, now: float, then: Any) -> None:
        assert name == NAME
        ring = self.ring if kind is Class.POINTS else []
        if kind is Class.POINTS:
            self.asked.append(count)
        if self.slow:
            self.held.append(lambda: then([ring[:count]], now))
        else:
            then([ring[:count]], now)


def new_ring(view: Rings) -> tuple[Ring, list[float], Outbox]:
    heard: list[float] = []
    outbox = Outbox()
    ring = Ring(view, outbox, NAME, heard.append)  # type: ignore[arg-type]
    return ring, heard, outbox


def test_more_of_the_ring_is_asked_for_only_while_its_points_are_silent() -> None:
    view = Rings(1000)
    ring, heard, _ = new_ring(view)
    ring.use(Class.POINTS, NOW)
    assert len(ring.choose(lambda point: None, POINTS, NOW)) == POINTS and view.asked == [FIRST_ASKED]
    silent = 40
    chosen = ring.choose(lambda point: int.from_bytes(point.identity, "big") >= silent, POINTS, NOW)
    assert len(chosen) == silent + POINTS and view.asked == [12, 24, 48]
    assert len(ring.choose(lambda point: False, POINTS, NOW)) == MAX_WALK and view.asked[-1] == MAX_WALK
    assert heard == [], "what is answered at once is known at once"
    count = len(view.asked)
    ring.choose(lambda point: False, POINTS, NOW)
    assert len(view.asked) == count


def test_nobody_is_asked_for_more_of_a_ring_that_has_no_more() -> None:
    view = Rings(5)
    ring, _, _ = new_ring(view)
    ring.use(Class.POINTS, NOW)
    assert len(ring.choose(lambda point: False, POINTS, NOW)) == 5 and view.asked == [FIRST_ASKED]


def test_late_answers_are_heard_of_and_the_latest_question_counts() -> None:
    view = Rings(6)
    view.slow = True
    ring, heard, outbox = new_ring(view)
    ring.use(Class.POINTS, NOW)
    assert len(ring) == 0 and ring.choose(lambda point: None, POINTS, NOW) == []
    first, view.held = view.held, []
    view.ring = view.ring[3:]
    ring.use(Class.POINTS, NOW)
    second, view.held = view.held, []
    for answer in second:
        answer()
    for answer in first:
        answer()
    assert len(ring) == 3 and len(heard) == 1
    outbox.run_timers(NOW + 10 * ASK_LIMIT)
    assert view.held == []


def test_questions_that_follow_faster_than_answers_do_not_starve_it() -> None:
    view = Rings(6)
    view.slow = True
    ring, heard, _ = new_ring(view)
    for _ in range(20):
        ring.use(Class.POINTS, NOW)
        for answer in view.held[-4:-2]:
            answer()
    assert len(ring) == 6 and len(heard) == 19


def test_who_gets_no_answer_asks_again_until_nobody_wants_one() -> None:
    view = Rings(6)
    view.slow = True
    ring, heard, outbox = new_ring(view)
    ring.use(Class.POINTS, NOW)
    for number in range(1, 4):
        outbox.run_timers(NOW + number * ASK_LIMIT)
        assert len(view.asked) == 1 + number
    ring.use(None, NOW + 4 * ASK_LIMIT)
    for answer in view.held:
        answer()
    assert len(ring) == 0 and heard == [] and outbox.deadline() is None


# The users of a ring


def slow_rig() -> tuple[Rig, SlowView]:
    rig = Rig()
    slow = rig.view = SlowView(rig.view)  # type: ignore[assignment]
    rig.service = rig.new_service(rig.node)
    return rig, slow


def test_over_a_view_that_answers_late_a_file_is_shared_and_fetched_all_the_same() -> None:
    rig, slow = slow_rig()
    rig.share()
    rig.get()
    rig.world.advance(10)
    assert not rig.network.built and rig.standing == []
    assert slow.answer(rig.world.now) >= 4
    rig.world.advance(20)
    assert rig.standing[-1] == (3, 3)
    rig.check_done()


def test_a_ring_that_is_known_in_part_still_leads_both_ends_together() -> None:
    rig, slow = slow_rig()
    slow.part = 2
    rig.share()
    rig.get()
    slow.answer(rig.world.now)
    rig.world.advance(20)
    assert rig.standing[-1] == (2, 2)
    rig.check_done()


def test_where_the_view_never_answers_people_are_told_and_nothing_is_left() -> None:
    rig, slow = slow_rig()
    rig.share()
    getter = rig.get()
    rig.world.advance(REACH_LIMIT + 1)
    assert getter.statuses == [TransferWhy.LOOKING, TransferWhy.NO_POINTS] and not rig.network.built
    held, slow.held = slow.held, []
    rig.world.advance(4 * ASK_LIMIT)
    assert 0 < len(slow.held) <= 5 * len(held)
    getter.client.stop(rig.world.now)
    getter.download.cancel(rig.world.now)
    rig.service.stop(rig.world.now)
    for call in held:
        call(rig.world.now)
    slow.answer(rig.world.now)
    rig.world.advance(10)
    assert not rig.network.built and not slow.held and rig.node.outbox.deadline() is None


def test_connections_wait_for_a_view_no_longer_than_their_patience() -> None:
    rig = test_connector.Rig()
    slow = SlowView(rig.view)
    rig.view = slow  # type: ignore[assignment]
    rig.serve()
    rig.connector._ring._view = slow
    rig.connector.set_points(None, rig.world.now)
    rig.connector.set_points(Class.POINTS, rig.world.now)
    early = rig.connect()
    rig.world.advance(PATIENCE + 1)
    assert early.why is ConnectWhy.NO_POINTS
    late = rig.connect()
    rig.world.advance(PATIENCE / 2)
    slow.answer(rig.world.now)
    rig.world.advance(PATIENCE / 2 + 20)
    assert late.open
