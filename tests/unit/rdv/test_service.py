import pytest

from convergence.errors import EndReason, LocalError
from convergence.rdv.blind import DAY, blinded
from convergence.rdv.service import MAX_SESSIONS, MAX_SHARES
from convergence.wire.rdv import format_rdv_target
from tests.unit.rdv.network import Rig


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
