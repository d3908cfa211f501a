import pytest

from convergence.errors import EndReason, LocalError
from convergence.rdv.blind import DAY, OVERLAP, day_begins, owners_names
from convergence.rdv.circuits import LINGER
from convergence.rdv.keys import Subject
from convergence.rdv.service import MAX_OFFERS, START_SPREAD, WAKE_SPREAD
from convergence.wire.rdv import Name, format_rdv_target
from tests.unit.ordb.memory import CRYPTO
from tests.unit.rdv.network import FakeCircuit, Network, Rig, Visitor, first, offered


def test_one_file_stands_at_once_and_several_each_at_a_time_of_their_own() -> None:
    rig = Rig()
    rig.share()
    built, start = rig.network.built, rig.world.now
    assert len(built) == 3
    for number in range(8):
        rig.service.offer(Subject.public(bytes([number]) * 32), rig.sender.serve, start)
    begun: list[float] = []
    while len(begun) < 8:
        rig.world.advance(0.1)
        begun += [rig.world.now] * (len(built) // 3 - len(begun) - 1)
        assert rig.world.now - start <= 8 * START_SPREAD + 1
    assert len(set(begun)) >= 6 and begun[-1] - start > START_SPREAD


def test_over_other_circuits_a_file_stands_again_and_nothing_goes_on_over_those_before() -> None:
    rig = Rig()
    rig.share()
    visitor = Visitor(rig, *first(rig))
    before, other = rig.network, Network(rig.world)
    rig.service.use(other, rig.world.now)
    assert visitor.served and rig.standing[-1] == (0, 0)
    rig.world.advance(LINGER + 1)
    assert visitor.near.over and all(circuit.closed for circuit in before.circuits) and not other.built, (
        "nobody said where they lead"
    )
    rig.know(rig.nodes[:2], rig.service)
    rig.world.advance(START_SPREAD + 1)
    assert rig.standing[-1] == (2, 2) and len(other.circuits) == 2
    assert not Visitor(rig, *offered(rig, other)[0]).refused


def test_what_was_on_its_way_to_a_point_is_not_used_after_a_change_of_circuits() -> None:
    rig = Rig()
    rig.know(rig.nodes, rig.service)
    rig.service.offer(rig.subject, rig.sender.serve, rig.world.now)
    assert rig.network.built and not rig.network.circuits
    rig.service.use(Network(rig.world), rig.world.now)
    rig.world.advance(1)
    assert rig.network.circuits and all(circuit.closed for circuit in rig.network.circuits)


def test_a_share_has_limits() -> None:
    rig = Rig()
    for number in range(MAX_OFFERS):
        rig.service.offer(Subject.public(number.to_bytes(32, "big")), rig.sender.serve, rig.world.now)
    rig.service.offer(Subject.public(bytes(32)), rig.sender.serve, rig.world.now)
    with pytest.raises(LocalError):
        rig.service.offer(Subject.public(b"x" * 32), rig.sender.serve, rig.world.now)


def test_streams_for_other_names_are_refused() -> None:
    rig = Rig()
    rig.share()
    circuit, _ = first(rig)
    stream = rig.world.pair()[0]
    for target in ("example.com:80", "nonsense", format_rdv_target(Name(bytes(32))), ""):
        assert circuit.on_begin(target, stream, rig.world.now) is None


def test_a_providers_circuits_are_rebuilt_with_growing_delays() -> None:
    rig = Rig()
    rig.share()
    for point in rig.points:
        rig.network.kill(point)
    assert rig.standing[-1] == (0, 3)
    built = len(rig.network.built)
    rig.world.advance(600)
    assert built < len(rig.network.built) < built + 3 * 25
    for point in rig.points:
        point.dead = False
    rig.world.advance(120)
    assert rig.standing[-1] == (3, 3)
    assert [sum(map(len, point.adverts.values())) for point in rig.points] == [1, 1, 1]


def test_entries_of_one_file_that_refuse_every_point_change_nothing_for_the_others() -> None:
    rig = Rig()
    victim = bytes(32)
    rig.network.refused = {victim}
    rig.know(rig.nodes, rig.service)
    rig.service.offer(Subject.public(victim), rig.sender.serve, rig.world.now)
    rig.world.advance(60)
    assert rig.service.standing(victim) == (0, 3)
    rig.share()
    assert rig.service.standing(rig.file.hash_name) == (3, 3)
    assert all(any(point.adverts.values()) for point in rig.points), "at its own first points"


def test_every_file_has_circuits_of_its_own() -> None:
    rig = Rig()
    rig.share()
    other = b"o" * 32
    rig.service.offer(Subject.public(other), rig.sender.serve, rig.world.now)
    rig.world.advance(1)
    for circuit in rig.network.circuits:
        assert sum(circuit in circuits for circuits in circuit.point.adverts.values()) == 1


def test_a_circuit_that_comes_after_unsharing_is_destroyed() -> None:
    rig = Rig()
    rig.know(rig.nodes, rig.service)
    rig.service.offer(rig.subject, rig.sender.serve, rig.world.now)
    rig.service.withdraw(rig.file.hash_name, rig.world.now)
    rig.world.advance(10)
    assert rig.network.circuits and all(circuit.closed for circuit in rig.network.circuits)
    assert rig.node.outbox.deadline() is None


def test_adverts_follow_the_days() -> None:
    rig = Rig(size=1)
    rig.share()
    before = {name for point in rig.points for name in point.adverts}
    rig.world.advance(DAY)
    for point in rig.points:
        names = {name for name, circuits in point.adverts.items() if circuits}
        assert names == set(owners_names(CRYPTO, rig.file.hash_name, point.identity, rig.world.now))
        assert len(names) == 1 and not names & before
    rig.get()
    rig.world.advance(10)
    rig.check_done()


def test_a_point_that_left_the_list_is_left_once_its_last_stream_is_over() -> None:
    rig = Rig()
    rig.share()
    circuit = next(circuit for circuit in rig.network.circuits if circuit.provider)
    (name,) = [name for name, circuits in circuit.point.adverts.items() if circuits]
    visitor = Visitor(rig, circuit, format_rdv_target(name))
    rig.know([node for node in rig.nodes if node.identity != circuit.point.identity], rig.service)
    rig.world.advance(60)
    assert not any(circuit.point.adverts.values()) and not circuit.closed
    visitor.near.cut_off(EndReason.DONE)
    rig.world.advance(60)
    assert circuit.closed
    assert rig.service.standing(rig.file.hash_name) == (3, 3)


def test_unsharing_ends_the_streams_at_points_that_have_left_the_list_too() -> None:
    rig = Rig()
    rig.share()
    circuit, target = first(rig)
    visitor = Visitor(rig, circuit, target)
    rig.know([node for node in rig.nodes if node.identity != circuit.point.identity], rig.service)
    rig.world.advance(60)
    rig.service.withdraw(rig.file.hash_name, rig.world.now)
    rig.world.run()
    assert visitor.script.closes == [EndReason.DONE]
    rig.world.advance(60)
    assert circuit.closed


def test_the_circuits_of_a_node_do_not_change_their_day_at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.share()
    for number in range(8):
        rig.service.offer(Subject.public(bytes([number]) * 32), rig.sender.serve, rig.world.now)
    rig.world.advance(8 * START_SPREAD + 1)
    told: list[tuple[float, FakeCircuit]] = []
    send = FakeCircuit.send_message

    def send_message(self: FakeCircuit, command: int, payload: bytes) -> None:
        told.append(((rig.world.now - day_begins(self.point.identity)) % DAY, self))
        send(self, command, payload)

    monkeypatch.setattr(FakeCircuit, "send_message", send_message)
    rig.world.advance(DAY)
    assert len(told) == 2 * 27 and len({when for when, _ in told}) == len(told)
    assert all(when < 2 * OVERLAP or DAY - OVERLAP <= when for when, _ in told)


def test_the_circuits_of_a_node_do_not_change_their_day_at_one_moment_when_it_wakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asleep for a day, with circuits that stand."""
    rig = Rig()
    rig.share()
    told: list[float] = []
    monkeypatch.setattr(FakeCircuit, "send_message", lambda *_: told.append(rig.world.now))
    rig.node.outbox.shift(DAY)
    rig.world.now += DAY
    rig.service.woke(DAY, rig.world.now)
    woken = rig.world.now
    while rig.world.now < woken + WAKE_SPREAD:
        rig.world.advance(0.1)
    assert len(told) == 3 and len(set(told)) == 3


@pytest.mark.parametrize("by", [-3600.0, 3600.0])
def test_a_file_that_is_to_begin_begins_though_the_clock_jumps(by: float) -> None:
    rig = Rig()
    rig.share()
    rig.service.offer(Subject.public(b"o" * 32), rig.sender.serve, rig.world.now)
    rig.world.now += by
    rig.node.outbox.shift(by)
    rig.service.woke(by, rig.world.now)
    rig.world.advance(START_SPREAD + 2)
    assert rig.service.standing(b"o" * 32) == (3, 3)
