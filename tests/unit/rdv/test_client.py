from dataclasses import replace
from typing import Any

import pytest

from convergence.codes import TransferWhy
from convergence.effects import Failure
from convergence.errors import EndReason
from convergence.ordb.phases import Phase
from convergence.rdv import client as client_module
from convergence.rdv.blind import DAY, day_begins, owners_name
from convergence.rdv.client import BACKOFF_LIMIT, MAX_ATTEMPTS, MAX_POINTS, REACH_LIMIT, WAIT_LIMIT
from convergence.rdv.service import STABLE_AFTER
from convergence.rdv.session import OPEN_TIMEOUT
from convergence.wire.descriptor import Descriptor
from convergence.wire.ordb import PIECE_SIZE
from tests.unit.ordb.memory import CRYPTO, Script
from tests.unit.rdv.network import NODES, Getter, Rig, bad_server, target, target_of
from tests.views import points_of

# -- both ends


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_a_file_is_found_and_fetched(wanted: int) -> None:
    rig = Rig()
    rig.share()
    assert rig.service.standing(rig.file.hash_name) == (3, 3)
    getter = rig.get(wanted)
    rig.world.advance(10)
    rig.check_done()
    assert getter.statuses == [TransferWhy.LOOKING, TransferWhy.CONNECTED]
    assert {identity for identity, _ in rig.network.built} == {point.identity for point in rig.points}


def test_points_see_blinded_names_only() -> None:
    rig = Rig()
    rig.share()
    rig.get()
    rig.world.advance(10)
    names = {name for point in rig.points for name in point.adverts}
    begun = {name for _, name, _ in rig.network.begun}
    assert len(names) == 3 and len(names & begun) == 1
    assert rig.file.hash_name not in {name.blinded for name in begun}


def test_circuits_end_when_the_transfer_is_over() -> None:
    rig = Rig()
    rig.share()
    getter = rig.get()
    rig.world.advance(10)
    getter.client.stop(rig.world.now)
    rig.world.advance(10)
    assert all(circuit.closed for circuit in rig.network.circuits if not circuit.provider)
    assert len(rig.service.guests) == 0
    rig.service.stop(rig.world.now)
    rig.world.advance(10)
    assert all(circuit.closed for circuit in rig.network.circuits)
    assert not any(any(point.adverts.values()) for point in rig.points)


def test_clocks_on_both_sides_of_the_change_meet() -> None:
    for offset in (-1800, -30, 30, 1800):
        rig = Rig(size=1)
        point = rig.points[0]
        rig.nodes = [target_of(point.identity)]
        rig.world.now = 20_000 * DAY + day_begins(point.identity) + offset
        rig.share()
        assert len(point.adverts) == 2
        rig.get()
        rig.world.now += 40
        rig.world.advance(10)
        rig.check_done()


def test_the_other_days_name_is_asked_for_near_the_change() -> None:
    rig = Rig(size=1)
    point = rig.points[0]
    rig.nodes = [target_of(point.identity)]
    rig.world.now = 20_000 * DAY + day_begins(point.identity) + 60.0
    rig.share()
    yesterday = 19_999
    # a provider whose clock is an hour slow
    del point.adverts[owners_name(CRYPTO, rig.file.hash_name, point.identity, 20_000)]
    rig.get()
    rig.world.advance(10)
    rig.check_done()
    assert {name for _, name, _ in rig.network.begun} >= {
        owners_name(CRYPTO, rig.file.hash_name, rig.points[0].identity, yesterday)
    }


# -- nobody, and nowhere


def test_nobody_shares_it_yet() -> None:
    """It is said, and looked for on: with growing pauses, at more points, and over circuits that stand."""
    rig = Rig()
    getter = rig.get()
    rig.world.advance(20)
    assert getter.statuses == [TransferWhy.LOOKING, TransferWhy.NOBODY]
    asked = len(rig.network.begun)
    rig.world.advance(1000)
    assert getter.gave_up == [] and len(rig.network.built) == 2 * MAX_POINTS, (
        "for the owner's names, and for common ones"
    )
    assert 3 * 1000 / BACKOFF_LIMIT < len(rig.network.begun) - asked < 3 * 1000 / BACKOFF_LIMIT * 3
    getter.client.stop(rig.world.now)
    rig.world.advance(10)
    assert all(circuit.closed for circuit in rig.network.circuits) and getter.client.outbox.deadline() is None


@pytest.mark.parametrize("late", [25, 600, 7200])
def test_a_sender_that_comes_late_is_found(late: int) -> None:
    rig = Rig()
    getter = rig.get()
    rig.world.advance(late)
    assert getter.statuses[-1] == TransferWhy.NOBODY
    rig.share()
    rig.world.advance(BACKOFF_LIMIT + 5)
    rig.check_done()


def test_a_sender_that_is_a_moment_late_is_found() -> None:
    rig = Rig()
    rig.get()
    rig.world.advance(1)
    rig.share()
    rig.world.advance(20)
    rig.check_done()


def test_one_dead_point_does_not_matter() -> None:
    for dead in range(3):
        rig = Rig()
        rig.network.kill(rig.points[dead])
        rig.share()
        rig.get(1)
        rig.world.advance(20)
        rig.check_done()


def test_nobody_is_said_even_if_a_point_is_dead() -> None:
    rig = Rig()
    rig.network.kill(rig.points[0])
    getter = rig.get()
    rig.world.advance(60)
    assert getter.statuses[-1] == TransferWhy.NOBODY and getter.gave_up == []


def test_no_point_can_be_reached() -> None:
    for nodes in ([], NODES[-1:], NODES):
        rig = Rig()
        for node in NODES:
            rig.network.kill(rig.network.point(node.identity))
        rig.nodes = list(nodes)
        getter = rig.get()
        rig.world.advance(REACH_LIMIT + 1)
        assert getter.statuses[-1] == TransferWhy.NO_POINTS and getter.gave_up == []
        rig.world.advance(100)
        assert len(rig.network.built) < 100


def many(count: int) -> list[Descriptor]:
    return [target(number) for number in range(1, count + 1)]


@pytest.mark.parametrize(("fakes", "seconds"), [(20, 30), (100, 90)])
def test_points_that_do_not_answer_are_passed_over_by_both_ends(fakes: int, seconds: int) -> None:
    """Nodes that are listed and do not exist: both ends meet at the first points of the ring that live."""
    rig = Rig()
    rig.nodes = many(fakes + 5)
    rig.network.delay = 5.0
    for node in rig.nodes[5:]:
        rig.network.kill(rig.network.point(node.identity))
    rig.share()
    rig.world.advance(seconds)
    assert rig.service.standing(rig.file.hash_name) == (3, 3)
    rig.get()
    rig.world.advance(seconds)
    rig.check_done()
    living = [point for point in points_of(rig.file.hash_name, rig.nodes, len(rig.nodes)) if point.identity[0] <= 5]
    rig.world.advance(STABLE_AFTER)
    assert {circuit.point.identity for circuit in rig.network.circuits if circuit.provider and not circuit.closed} == {
        point.identity for point in living[:3]
    }


def test_the_first_points_may_answer_one_end_only() -> None:
    """The sender cannot reach those that know the receiver: it stands at the next ones, and is asked for there."""
    rig = Rig()
    rig.nodes = many(12)
    for point in rig.points:
        point.dead = True
    rig.share()
    rig.world.advance(10)
    assert rig.service.standing(rig.file.hash_name) == (3, 3)
    for point in rig.points:
        point.dead = False
    getter = rig.get()
    rig.world.advance(20)
    assert getter.statuses[-1] == TransferWhy.CONNECTED
    rig.check_done()


def test_a_point_that_comes_back_takes_its_place_again() -> None:
    rig = Rig()
    rig.share()
    first = rig.points[0]
    rig.network.kill(first)
    rig.world.advance(60)
    assert rig.service.standing(rig.file.hash_name) == (3, 3), "another stands in"
    first.dead = False
    rig.world.advance(60 + STABLE_AFTER)
    assert [sum(map(len, point.adverts.values())) for point in rig.points] == [1, 1, 1]
    assert sum(len(circuits) for point in rig.network.points.values() for circuits in point.adverts.values()) == 3


def test_nodes_that_become_known_later_are_used() -> None:
    rig = Rig()
    nodes, rig.nodes = rig.nodes, []
    getter = rig.get()
    rig.world.advance(5)
    rig.nodes = nodes
    rig.share()
    rig.know(nodes, getter.client)
    rig.world.advance(10)
    rig.check_done()


def test_a_point_that_does_not_answer_costs_a_timeout_only() -> None:
    rig = Rig()
    rig.share()
    for point in rig.points[:2]:
        point.silent = True
    rig.get(1)
    rig.world.advance(3 * OPEN_TIMEOUT)
    rig.check_done()
    assert [circuit.closed for circuit in rig.network.circuits if circuit.point is rig.points[0]][1]


# -- what breaks while a transfer runs


def start(rig: Rig, pieces: int = 3, wanted: int = 3) -> Getter:
    """A transfer that has begun and stands still, because what the sender sends is held up."""
    getter = rig.get(wanted)
    while len(getter.download.present) < pieces:
        if not rig.world.step():
            rig.world.now += 0.01
            for node in rig.world.nodes:
                node.outbox.run_timers(rig.world.now)
    assert getter.download.phase is Phase.RUNNING
    return getter


def test_a_circuit_that_dies_is_replaced() -> None:
    for provider in (True, False):
        rig = Rig(40 * PIECE_SIZE)
        rig.share()
        start(rig)
        rig.network.kill_circuits(provider)
        rig.world.advance(30)
        rig.check_done()


def test_a_point_that_dies_is_replaced_by_the_others() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    getter = start(rig, wanted=1)
    used = next(
        point for point in rig.points if any(point.identity == identity for identity, _, _ in rig.network.begun)
    )
    rig.network.kill(used)
    rig.world.advance(30)
    rig.check_done()
    assert TransferWhy.SENDER_AWAY in getter.statuses


def test_a_new_point_takes_the_place_of_one_that_left_the_list() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    getter = start(rig)
    gone = rig.points[0]
    rig.network.kill(gone)
    rig.nodes = [node for node in rig.nodes if node.identity != gone.identity]
    rig.know(rig.nodes, rig.service)
    rig.know(rig.nodes, getter.client)
    rig.world.advance(30)
    rig.check_done()
    assert rig.service.standing(rig.file.hash_name) == (3, 3)


def test_the_sharing_page_is_closed_and_opened_again_much_later() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    getter = start(rig)
    rig.network.kill_circuits(True)
    rig.service.stop(rig.world.now)
    rig.world.advance(3600)
    assert getter.statuses[-1] == TransferWhy.SENDER_AWAY
    assert getter.gave_up == []
    attempts = len(rig.network.begun)
    assert attempts < 3 * 3600 / 10
    rig.share(rig.new_service(rig.node))
    rig.world.advance(60)
    rig.check_done()
    assert getter.statuses[-1] == TransferWhy.CONNECTED


def test_a_sender_that_unshares_ends_its_streams() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    getter = start(rig)
    rig.service.withdraw(rig.file.hash_name, rig.world.now)
    rig.world.advance(5)
    assert len(rig.service.guests) == 0
    assert getter.statuses[-1] == TransferWhy.SENDER_AWAY
    rig.share(rig.new_service(rig.node))
    rig.world.advance(60)
    rig.check_done()


def test_waiting_ends_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WAIT_LIMIT", 3600.0)
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    getter = start(rig)
    rig.service.stop(rig.world.now)
    rig.world.advance(3600 + 60)
    assert getter.gave_up == [TransferWhy.WAITED_LONG]
    assert len(rig.network.begun) <= MAX_ATTEMPTS * 3600 / WAIT_LIMIT
    rig.world.advance(10)
    assert getter.client.outbox.deadline() is None


def test_a_paused_download_asks_for_nobody_and_goes_on_after_retry() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    getter = start(rig)
    getter.receiver.node.failure = Failure("quota", "full")
    rig.world.advance(10)
    assert getter.download.paused
    rig.network.kill_circuits(True)
    begun = len(rig.network.begun)
    rig.world.advance(240)
    assert len(rig.network.begun) == begun and getter.gave_up == []
    getter.receiver.node.failure = None
    getter.download.retry(rig.world.now)
    rig.world.advance(30)
    rig.check_done()


# -- bad senders


def test_a_sender_of_wrong_bytes_is_left_for_an_honest_one_at_the_same_point() -> None:
    rig = Rig()
    rig.nodes = NODES[:1]
    scripts: list[Script] = []

    rig.share(rig.new_service(rig.world.node()), bad_server(rig, scripts))
    rig.share()
    getter = rig.get()
    rig.world.advance(5)
    rig.check_done()
    assert getter.download.banned == len(scripts) == 1


def test_bad_senders_only_are_asked_with_growing_delays_and_given_up() -> None:
    rig = Rig()
    rig.share(serve=bad_server(rig))
    getter = rig.get()
    rig.world.advance(180)
    assert getter.gave_up == [TransferWhy.MISLED]
    assert len(rig.network.begun) < 60
    assert getter.receiver.node.pieces(rig.file.info.root) == []


@pytest.mark.parametrize("slow", [3.0, 12.0])
def test_one_point_that_lies_ends_nothing_while_the_others_are_on_their_way(slow: float) -> None:
    rig = Rig()
    rig.share()
    liar, *_ = rig.points
    liar.begin = lambda asker, target, near, middle, now: middle.abort(EndReason.TORPROTOCOL, now)  # type: ignore[method-assign]
    build = rig.network.rdv_circuit

    def rdv_circuit(point: Descriptor, *rest: Any) -> None:
        rig.network.delay = 0.3 if point.identity == liar.identity else slow
        build(point, *rest)

    rig.network.rdv_circuit = rdv_circuit  # type: ignore[method-assign]
    getter = rig.get()
    rig.world.advance(2 * slow + 10)
    assert getter.gave_up == []
    rig.check_done()


def test_a_wrong_key_is_refused_by_the_sender_and_given_up() -> None:
    rig = Rig()
    rig.share()
    rig.file = replace(rig.file, key=b"w" * 32)
    getter = rig.get()
    rig.world.advance(130)
    assert getter.gave_up == [TransferWhy.MISLED]
    assert all(upload.bytes_sent == 0 for upload in rig.sender.uploads)


def test_one_that_wants_nothing_for_days_is_told_of_nodes_all_the_same() -> None:
    rig = Rig()
    getter = rig.get()
    wanted = getter.client._needed
    getter.client._needed = lambda: 0  # as while its storage is full
    rig.world.advance(WAIT_LIMIT + 60)
    rig.know(rig.nodes, getter.client)
    getter.client._needed = wanted
    rig.share()
    getter.client.wake(rig.world.now)
    rig.world.advance(60)
    rig.check_done()
