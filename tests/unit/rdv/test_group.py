"""Very many names on one node: one circuit to each point carries them all, where the owner allows that."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from convergence.errors import DestroyReason, EndReason, Problem, StreamError
from convergence.rdv import service as service_module
from convergence.rdv.blind import DAY, common_names
from convergence.rdv.circuits import LINGER
from convergence.rdv.group import BUILD_LIMIT, MAX_SLOW, PAUSE, TURNS, Groups
from convergence.rdv.guests import FILES
from convergence.rdv.keys import Subject
from convergence.rdv.service import MAX_OFFERS, RdvService
from convergence.wire.rdv import Advert, DbInfo, Name, format_rdv_target
from convergence.wire.relay import RelayCommand
from convergence.wire.target import Role
from tests.unit.ordb.memory import CRYPTO, Node
from tests.unit.rdv.network import NODES, FakeCircuit, Rig
from tests.views import points_of

POINTS = [node for node in NODES if node.roles & Role.RDV]


def name_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


class GroupRig(Rig):
    """Whose nodes let their offers share circuits."""

    def new_service(self, node: Node) -> RdvService:
        return RdvService(self.network, self.view, node.outbox, CRYPTO, self.world.rng, FILES, group=True)

    def offer(self, *numbers: int) -> None:
        self.know(self.nodes, self.service)
        for number in numbers:
            self.service.offer(Subject.public(name_of(number)), self.sender.serve, self.world.now)

    def stand(self, *numbers: int) -> bool:
        return all(self.service.standing(name_of(number)) == (3, 3) for number in numbers)

    @property
    def open(self) -> list[FakeCircuit]:
        return [circuit for circuit in self.network.circuits if not circuit.closed]

    def check_adverts(self, *numbers: int, dead: bytes = b"") -> None:
        """Each point has the names that belong there, once, and no other."""
        wanted: dict[bytes, set[Name]] = {node.identity: set() for node in POINTS}
        for number in numbers:
            for point in points_of(name_of(number), [node for node in POINTS if node.identity != dead]):
                wanted[point.identity].update(common_names(name_of(number), point.identity, self.world.now))
        for identity, names in wanted.items():
            adverts = {name: held for name, held in self.network.point(identity).adverts.items() if held}
            assert set(adverts) == names and all(len(held) == 1 for held in adverts.values())


def test_very_many_names_take_no_more_circuits_than_there_are_points() -> None:
    rig, names = GroupRig(), range(2 * MAX_OFFERS)
    rig.offer(*names)
    rig.world.advance(3 * len(names) / TURNS + 1)
    assert rig.stand(*names) and len(rig.open) == len(rig.network.circuits) == len(POINTS)
    rig.check_adverts(*names)


def test_one_more_than_may_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_GROUPED", 5)
    rig = GroupRig()
    rig.offer(*range(5))
    with pytest.raises(Problem):
        rig.offer(5)


def test_a_client_gets_the_file_that_it_asks_for() -> None:
    rig = GroupRig()
    rig.offer(*range(20))
    rig.share()
    rig.world.advance(5)
    assert len(rig.open) <= len(POINTS)
    rig.get()
    rig.world.advance(10)
    rig.check_done()


def test_a_new_name_is_advertised_at_once() -> None:
    rig = GroupRig()
    rig.offer(*range(50))
    rig.world.advance(60)
    rig.offer(50)
    rig.world.advance(3 / TURNS + 0.5)  # a circuit is built within 0.1 s here, if there was none to that point
    assert rig.stand(50)


def test_it_is_said_to_stand_once_it_is_advertised_and_no_sooner() -> None:
    rig, names = GroupRig(), range(200)
    rig.offer(*names)
    while not rig.stand(*names):
        rig.world.advance(1)
        for number in names:
            points = sum(
                any(rig.network.point(point.identity).adverts.get(name) for point in POINTS)
                for node in POINTS
                for name in common_names(name_of(number), node.identity, rig.world.now)[:1]
            )
            assert rig.service.standing(name_of(number))[0] == points


def told(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> list[tuple[float, bytes]]:
    """When each message of adverts went out, and to which point."""
    times: list[tuple[float, bytes]] = []
    send = FakeCircuit.send_message

    def send_message(self: FakeCircuit, command: int, payload: bytes) -> None:
        times.append((rig.world.now, self.point.identity))
        send(self, command, payload)

    monkeypatch.setattr(FakeCircuit, "send_message", send_message)
    return times


def test_adverts_come_one_after_the_other_and_never_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, names = GroupRig(), range(200)
    times = told(monkeypatch, rig)
    rig.offer(*names)
    rig.world.advance(60)
    by = 3600.0
    rig.world.now += by
    rig.node.outbox.shift(by)
    rig.service.woke(by, rig.world.now)
    rig.world.advance(60)
    rig.network.kill_circuits(provider=True)
    rig.world.advance(60)
    assert rig.stand(*names) and len(times) >= 2 * 3 * len(names)
    seconds = Counter(int(when) for when, _ in times)
    assert max(seconds.values()) <= TURNS + 1


def test_each_point_is_told_the_new_names_of_a_day_at_a_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, names = GroupRig(), range(100)
    rig.offer(*names)
    rig.world.advance(DAY)
    times = told(monkeypatch, rig)
    rig.world.advance(DAY)
    rig.check_adverts(*names)
    assert len(times) == 2 * 3 * len(names), "the new name comes, and later the old one goes"
    assert len({int(when % DAY / 3600) for when, _ in times}) > len(POINTS)
    assert max(Counter(int(when / 60) for when, _ in times).values()) < 60, "not all at once, at any point"


def test_the_names_of_a_point_that_dies_move_to_others() -> None:
    rig, names = GroupRig(), range(200)
    rig.offer(*names)
    rig.world.advance(60)
    gone = rig.network.point(POINTS[0].identity)
    before = len(rig.network.built)
    rig.network.kill(gone)
    rig.world.advance(60)
    rig.check_adverts(*names, dead=gone.identity)
    assert rig.stand(*names) and len(rig.open) == len(POINTS) - 1
    assert len(rig.network.built) - before <= 60 / PAUSE, "one attempt speaks for all names"


def test_an_offer_that_ends_takes_no_other_with_it() -> None:
    rig, names = GroupRig(), range(40)
    rig.offer(*names)
    rig.world.advance(30)
    for number in names[:-1]:
        rig.service.withdraw(name_of(number), rig.world.now)
    rig.world.advance(2 * LINGER)
    rig.check_adverts(names[-1])
    assert len(rig.open) == 3, "where nothing is advertised any more, the circuit ends"
    rig.service.withdraw(name_of(names[-1]), rig.world.now)
    rig.world.advance(2 * LINGER)
    assert not rig.open and len(rig.service.groups or ()) == 0
    assert rig.node.outbox.deadline() is None


def test_other_circuits_from_now_on() -> None:
    rig, names = GroupRig(), range(40)
    rig.offer(*names)
    rig.world.advance(30)
    old = rig.open
    rig.service.use(rig.network, rig.world.now)
    rig.know(rig.nodes, rig.service)
    rig.world.advance(30)
    rig.check_adverts(*names)
    assert all(circuit.closed for circuit in old) and len(rig.open) == len(POINTS)


def test_an_owner_may_change_his_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, names = GroupRig(), range(5)
    rig.offer(*names)
    rig.world.advance(30)
    points = len({point.identity for number in names for point in points_of(name_of(number), POINTS)})
    for group in (False, True):
        before = rig.open
        rig.service.share_circuits(group, rig.world.now)
        rig.service.share_circuits(group, rig.world.now)
        rig.world.advance(120)
        assert rig.stand(*names) and all(circuit.closed for circuit in before)
        rig.check_adverts(*names)
        assert len(rig.open) == (points if group else 3 * len(names))
    monkeypatch.setattr(service_module, "MAX_OFFERS", 4)
    with pytest.raises(Problem) as caught:
        rig.service.share_circuits(False, rig.world.now)
    assert caught.value.why.values == {"most": 4} and len(rig.open) == points, "as before"


# -- hostile points, and names that very many ask for


def breaking(monkeypatch: pytest.MonkeyPatch, identity: bytes, breaks: Callable[[FakeCircuit, DbInfo], bool]) -> None:
    """This point closes a circuit whenever it likes, by what it is told."""
    send = FakeCircuit.send_message

    def send_message(self: FakeCircuit, command: int, payload: bytes) -> None:
        send(self, command, payload)
        if self.point.identity == identity and breaks(self, DbInfo.parse(payload)):
            self.network.soon(lambda now: self.destroy(DestroyReason.RESOURCELIMIT, now))

    monkeypatch.setattr(FakeCircuit, "send_message", send_message)


@pytest.mark.parametrize("reason", [DestroyReason.RESOURCELIMIT, DestroyReason.DESTROYED])
def test_a_point_that_closes_its_circuits_takes_nothing_from_other_points(
    monkeypatch: pytest.MonkeyPatch, reason: DestroyReason
) -> None:
    """Each time all its names wait for their turns again. They must not be ahead of those of others, and a new circuit
    at once, for the first name that comes back, would be the next one to break."""
    monkeypatch.setattr("convergence.rdv.group.TURNS", 2.0)  # as with ten times as many names
    rig, names = GroupRig(), range(300)
    hostile = POINTS[0].identity
    rig.offer(*names)
    seconds = 3 * len(names) / 2
    for _ in range(int(seconds / 3)):
        rig.world.advance(3)
        for circuit in rig.open:
            if circuit.point.identity == hostile:
                circuit.destroy(reason, rig.world.now)
    for number in names:
        honest = sum(node.identity != hostile for node in points_of(name_of(number), POINTS))
        assert rig.service.standing(name_of(number))[0] >= honest
    assert rig.network.built.count((hostile, True)) <= seconds / PAUSE + 1
    told_too_much = reason == DestroyReason.RESOURCELIMIT
    assert rig.service.groups is not None
    assert rig.service.groups.slow == ({hostile: MAX_SLOW} if told_too_much else {}), "relays come and go"
    new = next(n for n in range(1000, 2000) if all(p.identity != hostile for p in points_of(name_of(n), POINTS)))
    rig.offer(new)
    rig.world.advance(10)
    assert rig.stand(new)


def test_a_point_that_closes_the_circuit_at_each_name_costs_few_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names come back one by one, each at a time of its own."""
    rig, names = GroupRig(), range(300)
    hostile = POINTS[0].identity
    breaking(monkeypatch, hostile, lambda circuit, info: True)
    rig.offer(*names)
    rig.world.advance(300)
    assert rig.network.built.count((hostile, True)) <= 300 / PAUSE + 1
    for number in names:
        rig.service.withdraw(name_of(number), rig.world.now)
    rig.world.advance(60)
    assert rig.service.groups is not None and not rig.service.groups.slow and rig.node.outbox.deadline() is None


def test_nothing_stays_of_a_point_where_nothing_is_offered_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = GroupRig()
    for node in POINTS:
        breaking(monkeypatch, node.identity, lambda circuit, info: True)
    rig.offer(1)
    while not (rig.network.circuits and not rig.open):
        rig.world.advance(0.01)
    rig.service.withdraw(name_of(1), rig.world.now)
    assert rig.service.groups is not None and rig.service.groups.slow
    rig.world.advance(60)
    assert not rig.service.groups.slow and len(rig.service.groups) == 0 and rig.node.outbox.deadline() is None


def test_a_point_that_allows_less_is_told_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others behind the same relay may use up what it allows a link."""
    rig, names = GroupRig(), range(500)
    strict, times = POINTS[0].identity, []

    def breaks(circuit: FakeCircuit, info: DbInfo) -> bool:
        times.append(rig.world.now)
        return sum(rig.world.now - when < 10 for when in times) > 15

    breaking(monkeypatch, strict, breaks)
    rig.offer(*names)
    rig.world.advance(900)
    assert rig.stand(*names) and rig.service.groups is not None and not rig.service.groups.slow
    rig.check_adverts(*names)


def test_a_name_that_very_many_ask_for_leaves_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams of a circuit are those of all names on it. Whoever has one link has all the clients that he likes."""
    monkeypatch.setattr("convergence.rdv.group.MAX_CLIENTS", 20)
    rig = GroupRig()
    rig.offer(*range(8))
    rig.world.advance(5)
    [circuit, *_] = rig.open
    crowded, other, *_ = (name for name, held in circuit.point.adverts.items() if held)
    sessions: list[Any] = []

    def come(name: Name) -> None:
        near, middle = rig.world.pair()
        middle.handler = circuit.on_begin(format_rdv_target(name), middle, rig.world.now)
        sessions.append(middle.handler)

    for _ in range(20):
        come(crowded)
    with pytest.raises(StreamError):
        come(crowded)
    for _ in range(5):
        come(other)
    assert [session.closed for session in sessions] == [False] * 15 + [True] * 5 + [False] * 5
    sessions[0].expel(EndReason.DONE, rig.world.now)
    come(crowded)
    assert not sessions[-1].closed and sum(not session.closed for session in sessions) == 20


class Mute:
    """Builders of circuits that say nothing, or late."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def rdv_circuit(self, point: Any, hash_name: bytes, provider: bool, ready: Any, failed: Any, now: float) -> None:
        self.asked.append((ready, failed))


def joined(rig: Rig, groups: Groups) -> tuple[list[Any], list[Any]]:
    ready: list[Any] = []
    failed: list[Any] = []
    for _ in range(2):
        groups.join(POINTS[0], lambda part, now: ready.append(part), lambda why, now: failed.append(why), rig.world.now)
    return ready, failed


def test_a_builder_that_never_answers_is_not_waited_for() -> None:
    rig, mute = Rig(), Mute()
    groups = Groups(mute, b"files", rig.node.outbox)  # type: ignore[arg-type]
    ready, failed = joined(rig, groups)
    rig.world.advance(BUILD_LIMIT + 1)
    assert len(mute.asked) == 1 and ready == [] and len(failed) == 2
    joined(rig, groups)
    assert len(mute.asked) == 1, "whoever asks soon afterwards hears the same"
    rig.world.advance(PAUSE)
    assert len(groups) == 0
    late = FakeCircuit(rig.network, rig.network.point(POINTS[0].identity), True)
    mute.asked[0][0](late, rig.world.now)
    assert late.closed and ready == []
    mute.asked[0][1](None, rig.world.now)
    assert len(failed) == 2


def test_no_offer_withdraws_what_another_advertises_or_speaks_once_it_has_left() -> None:
    rig, mute = Rig(), Mute()
    groups = Groups(mute, b"files", rig.node.outbox)  # type: ignore[arg-type]
    ready, _ = joined(rig, groups)
    mute.asked[0][0](FakeCircuit(rig.network, rig.network.point(POINTS[0].identity), True), rig.world.now)
    one, other = ready
    name = Name(b"n" * 32)
    adverts = rig.network.point(POINTS[0].identity).adverts

    def say(part: Any, advert: Advert) -> None:
        part.send_message(RelayCommand.DB_INFO, DbInfo((advert,)).encode())

    say(one, Advert.add(name))
    circuit = adverts[name][0]
    assert circuit.on_begin(format_rdv_target(name), None, rig.world.now) is None, "nobody takes clients yet"
    say(other, Advert.remove(name))
    assert len(adverts[name]) == 1
    one.destroy(DestroyReason.FINISHED, rig.world.now)
    say(one, Advert.remove(name))
    assert len(adverts[name]) == 1


@pytest.mark.parametrize("target", ["example.com:80", format_rdv_target(Name(b"n" * 32))])
def test_a_point_that_asks_for_what_was_never_advertised_gets_nothing(target: str) -> None:
    rig = GroupRig()
    rig.offer(1)
    rig.world.advance(5)
    for circuit in rig.open:
        assert circuit.on_begin(target, rig.world.pair()[0], rig.world.now) is None


def test_who_waited_for_a_circuit_that_is_gone_at_once_waits_for_the_next_one() -> None:
    rig, mute = Rig(), Mute()
    groups = Groups(mute, b"files", rig.node.outbox)  # type: ignore[arg-type]
    circuit = FakeCircuit(rig.network, rig.network.point(POINTS[0].identity), True)
    groups.join(POINTS[0], lambda part, now: circuit.destroy(0, now), lambda why, now: None, rig.world.now)
    ready, failed = joined(rig, groups)
    mute.asked[0][0](circuit, rig.world.now)
    assert len(mute.asked) == 2 and ready == failed == []
    mute.asked[1][0](FakeCircuit(rig.network, circuit.point, True), rig.world.now)
    assert len(ready) == 2
