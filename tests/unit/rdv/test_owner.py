"""Whom a receiver is led to: the owner of a file first, others who serve it when he does not."""

from dataclasses import replace
from typing import Any

import pytest

from convergence.codes import TransferWhy
from convergence.errors import DestroyReason, EndReason, StreamError
from convergence.ordb.index import PIECE_SIZE
from convergence.rdv.blind import day_of
from convergence.rdv.keys import SessionKeys, Subject
from convergence.rdv.service import RdvService
from convergence.rdv.session import ANSWER_TIMEOUT
from convergence.wire.rdv import Advert, Proof, parse_rdv_target
from tests.unit.ordb.memory import Sender
from tests.unit.rdv.network import NODES, FakeCircuit, Rig, bad_server


class Others:
    """Somebody who has the link and serves the file, or says so."""

    def __init__(self, rig: Rig, serve: Any = None, *, owner: bool = False) -> None:
        self.node = rig.world.node()
        self.node.stored.update(rig.node.stored)
        self.sender = Sender(self.node, rig.file)
        self.service: RdvService = rig.share(rig.new_service(self.node), serve or self.sender.serve, owner=owner)


def asked(rig: Rig) -> list[bool]:
    """For each query so far, whether it was for an owner's name."""
    return [name.owned for _, name, _ in rig.network.begun]


def test_the_owner_is_found_first_however_many_others_say_they_serve_it() -> None:
    rig = Rig()
    liars: list[Any] = []
    for _ in range(30):
        Others(rig, bad_server(rig, liars))
    rig.share()
    getter = rig.get(wanted=1)
    rig.world.advance(5)
    rig.check_done()
    assert not liars and not getter.receiver.dropped and asked(rig) == [True]


def test_others_cost_further_sources_only() -> None:
    """The owner's stream goes on beside those that lead to liars, which are left."""
    rig = Rig()
    liars: list[Any] = []
    for _ in range(30):
        Others(rig, bad_server(rig, liars))
    rig.share()
    rig.get(wanted=3)
    rig.world.advance(10)
    rig.check_done()
    assert liars and len(rig.sender.sent) >= 8


def test_further_streams_are_asked_of_others_first() -> None:
    rig = Rig(40 * PIECE_SIZE)
    rig.share()
    other = Others(rig)
    rig.get(wanted=3)
    rig.world.advance(20)
    rig.check_done()
    assert sorted(asked(rig)) == [False, False, True]
    assert rig.sender.sent and other.sender.sent


def test_where_there_are_no_others_all_streams_lead_to_the_owner() -> None:
    rig = Rig()
    rig.share(serve=lambda stream: Mute())
    rig.get(wanted=3)
    rig.world.advance(10)
    assert len(rig.service.guests) == 3


def test_no_circuit_is_asked_for_both_kinds_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its point could tell that they belong together."""
    rig = Rig()
    kinds: dict[FakeCircuit, set[bool]] = {}
    original = FakeCircuit.open_stream

    def noted(circuit: FakeCircuit, target: str, *rest: Any) -> Any:
        kinds.setdefault(circuit, set()).add(parse_rdv_target(target).owned)
        return original(circuit, target, *rest)

    monkeypatch.setattr(FakeCircuit, "open_stream", noted)
    rig.get()
    rig.world.advance(600)
    assert {True, False} == set().union(*kinds.values()) and all(len(asked) == 1 for asked in kinds.values())
    for circuit in list(kinds)[::2]:
        circuit.destroy(DestroyReason.DESTROYED, rig.world.now)
    rig.world.advance(600)
    assert len(kinds) > 12 and all(len(asked) == 1 for asked in kinds.values())


def test_two_machines_of_an_owner_stand_beside_each_other_and_one_serves_when_the_other_leaves() -> None:
    rig = Rig()
    rig.share()
    second = Others(rig, owner=True)
    assert len(owners_circuits(rig)) == 6
    rig.service.withdraw(rig.file.hash_name, rig.world.now)
    rig.get(wanted=1)
    rig.world.advance(20)
    rig.check_done()
    assert second.sender.sent and len(owners_circuits(rig)) == 3 and set(asked(rig)) == {True}


def test_others_serve_what_the_owner_has_left() -> None:
    rig = Rig()
    other = Others(rig)
    rig.get()
    rig.world.advance(10)
    rig.check_done()
    assert len(other.sender.sent) == 10


def test_others_serve_while_the_owner_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.share()
    other = Others(rig)

    def busy(target: str, stream: Any, now: float) -> None:
        raise StreamError("too many clients", EndReason.RESOURCELIMIT)

    for circuit in owners_circuits(rig):
        circuit.on_begin = busy
    rig.get(wanted=1)
    rig.world.advance(5)
    rig.check_done()
    assert len(other.sender.sent) == 10


def test_an_owner_who_is_busy_and_alone_is_waited_for() -> None:
    rig = Rig()
    rig.share()
    circuits = owners_circuits(rig)
    hooks = [circuit.on_begin for circuit in circuits]

    def busy(target: str, stream: Any, now: float) -> None:
        raise StreamError("too many clients", EndReason.RESOURCELIMIT)

    for circuit in circuits:
        circuit.on_begin = busy
    getter = rig.get(wanted=1)
    rig.world.advance(60)
    assert getter.statuses[-1] is TransferWhy.SENDER_BUSY and not getter.gave_up
    for circuit, hook in zip(circuits, hooks, strict=True):
        circuit.on_begin = hook
    rig.world.advance(60)
    rig.check_done()


def owners_circuits(rig: Rig) -> list[FakeCircuit]:
    adverts = [item for point in rig.points for item in point.adverts.items()]
    return [circuit for name, circuits in adverts if name.owned for circuit in circuits]


class Mute:
    """Takes every stream, and says not a word on it."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_others_serve_while_the_owner_hangs() -> None:
    rig = Rig()
    rig.share()
    other = Others(rig)
    for circuit in owners_circuits(rig):
        circuit.on_begin = lambda target, stream, now: Mute()
    rig.get(wanted=1)
    rig.world.advance(3 * ANSWER_TIMEOUT)
    rig.check_done()
    assert len(other.sender.sent) == 10


class Pretender(Subject):
    """Who has the link and, with points that check nothing, takes the owner's place."""

    def adverts(self, crypto: Any, point: bytes, binding: bytes, now: float) -> list[Advert]:
        return [Advert.add(name, Proof(day_of(now, point), bytes(64))) for name in self.names(crypto, point, now)]


@pytest.mark.parametrize(
    "keys",
    [
        lambda file: SessionKeys.of_file(file.key),
        lambda file: SessionKeys.of_owner(file.key, b"g" * 32),
        lambda file: SessionKeys.of_owner(file.key, file.hash_name),  # takes the public key for his secret
    ],
)
def test_whom_a_lying_point_gives_for_the_owner_is_found_out(keys: Any) -> None:
    rig = Rig()
    for node in NODES:
        rig.network.point(node.identity).lies = True
    met: list[Any] = []
    liar = rig.new_service(rig.world.node())
    rig.know(rig.nodes, liar)
    subject = Pretender(rig.file.hash_name, rig.file.hash_name, keys(rig.file), None)
    liar.offer(subject, bad_server(rig, met), rig.world.now)
    other = Others(rig)
    getter = rig.get(wanted=1)
    rig.world.advance(60)
    rig.check_done()
    assert asked(rig) == [True, False] and len(other.sender.sent) == 10
    assert met and not any(script.is_open for script in met) and not getter.receiver.dropped


def test_links_older_than_owners_are_found() -> None:
    rig = Rig()
    rig.file = replace(rig.file, hash_name=b"\7" * 32, secret=None)
    rig.sender = Sender(rig.node, rig.file)
    rig.share()
    rig.get()
    rig.world.advance(10)
    rig.check_done()
