from dataclasses import replace
from typing import Any

import pytest

from convergence.codes import TransferWhy
from convergence.errors import EndReason, LocalError, StreamError
from convergence.rdv.blind import DAY, OVERLAP, day_begins, owners_names
from convergence.rdv.circuits import LINGER
from convergence.rdv.keys import Subject
from convergence.rdv.service import (
    FILES,
    MAX_OFFERS,
    MAX_SEEN,
    QUEUE_INTERVAL,
    START_SPREAD,
    WAKE_SPREAD,
)
from convergence.rdv.session import FIRST_TIMEOUT, Session
from convergence.wire.ordb import Done, Info, Queued, Request
from convergence.wire.rdv import Name, format_rdv_target, parse_rdv_target
from tests.unit.ordb.memory import CRYPTO, Script
from tests.unit.rdv.network import NODES, FakeCircuit, Network, Rig


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


class Visitor:
    """Who comes to a provider's circuit with the link's key, or with none."""

    def __init__(self, rig: Rig, circuit: FakeCircuit, target: str, *, mute: bool = False) -> None:
        self.refused = 0
        self.near, middle = rig.world.pair()
        try:
            handler = circuit.on_begin(target, middle, rig.world.now)
        except StreamError as error:
            self.refused = error.reason
            return
        self.script: Script

        def attach(stream: Any) -> Script:
            self.script = Script(stream)
            return self.script

        name = parse_rdv_target(target)
        now, outbox = rig.world.now, rig.world.node().outbox
        keys = Subject.file(rig.file.hash_name, rig.file.key).keys(name)
        self.session = Session(
            CRYPTO, rig.world.rng, outbox, keys, name.blinded, now=now, initiator=True, attach=attach
        )
        self.session.bind(self.near)
        middle.handler, self.near.handler = handler, self.session
        handler.opened(now)
        if not mute:
            self.session.opened(now)
        rig.world.run()

    def ask(self, rig: Rig, index: int = 0) -> None:
        self.script.say(Request(index))
        rig.world.run()

    @property
    def places(self) -> list[int]:
        return [message.position for message in self.script.messages if isinstance(message, Queued)]

    @property
    def served(self) -> bool:
        return any(isinstance(message, Info) for message in self.script.messages)


def first(rig: Rig) -> tuple[FakeCircuit, str]:
    """One circuit of the node that shares, and the target that it answers."""
    return next(pair for pair in offered(rig))


def test_streams_for_other_names_are_refused() -> None:
    rig = Rig()
    rig.share()
    circuit, _ = first(rig)
    stream = rig.world.pair()[0]
    for target in ("example.com:80", "nonsense", format_rdv_target(Name(bytes(32))), ""):
        assert circuit.on_begin(target, stream, rig.world.now) is None


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
    assert rig.service.sessions == 1 and all(visitor.near.over for visitor in mute)


@pytest.mark.parametrize("remembered", [1, MAX_SEEN])
def test_a_recorded_handshake_is_nobody(monkeypatch: pytest.MonkeyPatch, remembered: int) -> None:
    """A point has it of a client that came. It could fill all places with it, and have what serves begin to act."""
    monkeypatch.setattr("convergence.rdv.service.MAX_SEEN", remembered)
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
    assert rig.service.sessions == 6


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


def offered(rig: Rig, network: Network | None = None) -> list[tuple[FakeCircuit, str]]:
    """Every circuit of the node with the target that it answers."""
    return [
        (circuit, format_rdv_target(name))
        for point in (network or rig.network).points.values()
        for name, circuits in point.adverts.items()
        for circuit in circuits
    ]


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
