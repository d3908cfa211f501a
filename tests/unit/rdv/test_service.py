import pytest

from convergence.errors import EndReason, LocalError
from convergence.rdv.blind import DAY, OVERLAP, blinded
from convergence.rdv.service import MAX_SESSIONS, MAX_SHARES
from convergence.wire.rdv import format_rdv_target
from tests.unit.rdv.network import FakeCircuit, Rig


def test_a_share_has_limits() -> None:
    rig = Rig()
    for number in range(MAX_SHARES):
        rig.service.share(number.to_bytes(32, "big"), bytes(32), 1, rig.sender.serve, rig.world.now)
    rig.service.share(bytes(32), bytes(32), 1, rig.sender.serve, rig.world.now)
    with pytest.raises(LocalError):
        rig.service.share(b"x" * 32, bytes(32), 1, rig.sender.serve, rig.world.now)


def test_streams_for_other_names_and_too_many_streams_are_refused() -> None:
    rig = Rig()
    rig.share()
    circuit = next(circuit for circuit in rig.network.circuits if circuit.provider)
    (name,) = [name for name, circuits in circuit.point.adverts.items() if circuits]
    stream = rig.world.pair()[0]
    for target in ("example.com:80", "nonsense", format_rdv_target(bytes(32)), ""):
        assert circuit.on_begin(target, stream, rig.world.now) is None
    target = format_rdv_target(name)
    handlers = [circuit.on_begin(target, rig.world.pair()[0], rig.world.now) for _ in range(MAX_SESSIONS + 1)]
    assert all(handlers[:-1]) and handlers[-1] is None
    handlers[0].ended(EndReason.DONE, rig.world.now)
    assert circuit.on_begin(target, stream, rig.world.now) is not None


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


def test_every_file_has_circuits_of_its_own() -> None:
    rig = Rig()
    rig.share()
    other = b"o" * 32
    rig.service.share(other, bytes(32), 1, rig.sender.serve, rig.world.now)
    rig.world.advance(1)
    for circuit in rig.network.circuits:
        assert sum(circuit in circuits for circuits in circuit.point.adverts.values()) == 1


def test_a_circuit_that_comes_after_unsharing_is_destroyed() -> None:
    rig = Rig()
    rig.service.set_nodes(rig.nodes, rig.world.now)
    rig.service.share(rig.file.hash_name, rig.file.key, 1, rig.sender.serve, rig.world.now)
    rig.service.unshare(rig.file.hash_name, rig.world.now)
    rig.world.advance(10)
    assert rig.network.circuits and all(circuit.closed for circuit in rig.network.circuits)
    assert rig.node.outbox.deadline() is None


def test_adverts_follow_the_days() -> None:
    rig = Rig(size=1)
    rig.share()
    today = int(rig.world.now // DAY)
    rig.world.advance(DAY)
    for point in rig.points:
        names = {name for name, circuits in point.adverts.items() if circuits}
        assert names == {blinded(rig.file.hash_name, point.identity, today + 1)}
    rig.get()
    rig.world.advance(10)
    rig.check_done()


def test_a_point_that_left_the_list_is_left_once_its_last_stream_is_over() -> None:
    rig = Rig()
    rig.share()
    circuit = next(circuit for circuit in rig.network.circuits if circuit.provider)
    (name,) = [name for name, circuits in circuit.point.adverts.items() if circuits]
    handler = circuit.on_begin(format_rdv_target(name), rig.world.pair()[0], rig.world.now)
    rig.service.set_nodes([node for node in rig.nodes if node.identity != circuit.point.identity], rig.world.now)
    rig.world.advance(60)
    assert not any(circuit.point.adverts.values()) and not circuit.closed
    handler.ended(EndReason.DONE, rig.world.now)
    rig.world.advance(60)
    assert circuit.closed
    assert rig.service.standing(rig.file.hash_name) == (3, 3)


def offered(rig: Rig) -> list[tuple[FakeCircuit, str]]:
    """Every circuit of the node with the target that it answers."""
    return [
        (circuit, format_rdv_target(name))
        for point in rig.network.points.values()
        for name, circuits in point.adverts.items()
        for circuit in circuits
    ]


def test_how_busy_one_file_is_cannot_be_told_at_another() -> None:
    rig = Rig()
    rig.share()
    rig.service.share(b"o" * 32, bytes(32), 1, rig.sender.serve, rig.world.now)
    rig.world.advance(1)
    (busy, target), *others = offered(rig)
    for _ in range(2 * MAX_SESSIONS):
        busy.on_begin(target, rig.world.pair()[0], rig.world.now)
    assert busy.on_begin(target, rig.world.pair()[0], rig.world.now) is None
    assert len(others) == 5
    for circuit, target in others:
        assert circuit.on_begin(target, rig.world.pair()[0], rig.world.now) is not None


def test_the_circuits_of_a_node_do_not_change_their_day_at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.share()
    for number in range(8):
        rig.service.share(bytes([number]) * 32, bytes(32), 1, rig.sender.serve, rig.world.now)
    rig.world.advance(1)
    told: list[tuple[float, FakeCircuit]] = []
    send = FakeCircuit.send_message

    def send_message(self: FakeCircuit, command: int, payload: bytes) -> None:
        told.append((rig.world.now % DAY, self))
        send(self, command, payload)

    monkeypatch.setattr(FakeCircuit, "send_message", send_message)
    rig.world.advance(DAY)
    assert len(told) == 2 * 27 and len({when for when, _ in told}) == len(told)
    assert all(when < 2 * OVERLAP or DAY - OVERLAP <= when for when, _ in told)
