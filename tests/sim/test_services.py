"""Services by hash in a simulated network: anybody reaches them, nobody in between can tell or pretend."""

from __future__ import annotations

from typing import Any

import pytest

from convergence.circuit.flow import STREAM_WINDOW
from convergence.circuit.streams import SEND_BUFFER_HIGH
from convergence.codes import AddressFlaw, ConnectWhy, Limit
from convergence.errors import EndReason, Problem
from convergence.rdv.blind import day_of
from convergence.rdv.connector import IDLE_LIMIT, PATIENCE, SECOND_AFTER
from convergence.rdv.keys import Subject
from convergence.rdv.session import ANSWER_TIMEOUT
from convergence.services import private_address
from convergence.wire.address import PrivateAddress, parse_address
from convergence.wire.rdv import Advert, Proof
from convergence.wire.relay import MAX_DATA
from tests.sim.people import Talker, assert_drained, connect, network, serve, serve_and_stand
from tests.sim.world import Host, World

NAME = "hash:Satoshi Nakamoto"
SECRET = b"s" * 32
BUILD_TIME = 3.0  # seconds that circuits to points take here, and the answer itself


def people(world: World, *names: str) -> list[Host]:
    hosts = [world.add(name) for name in names]
    world.run(20)
    return hosts


def started(**settings: Any) -> tuple[World, Host, Host]:
    world = network(11, 8, **settings)
    provider, client = people(world, "provider", "client")
    return world, provider, client


def heard(world: World, talker: Talker, data: bytes, seconds: float = 60) -> bool:
    return world.run(seconds, lambda: bytes(talker.heard) == data)


def test_a_public_service_is_reached_by_its_name_and_each_way_ends_by_itself() -> None:
    world, provider, client = started()
    came = serve_and_stand(world, provider, NAME, echo=True)
    talker = connect(client, NAME)
    talker.say(b"hello")
    assert heard(world, talker, b"hello")
    talker.say(b", world", end=True)
    assert world.run(60, lambda: talker.heard_end)
    assert talker.heard == b"hello, world" and came[0].heard_end
    assert talker.code is None and came[0].code is None
    assert provider.node.services.snapshot()["services"][0]["connections"] == 0
    assert client.node.services.snapshot()["connections"] == 0


def test_a_far_end_that_writes_on_after_our_end_is_heard() -> None:
    world, provider, client = started()
    came = serve_and_stand(world, provider, NAME)
    talker = connect(client, NAME)
    talker.say(b"question", end=True)
    assert world.run(60, lambda: bool(came) and came[0].heard_end)
    for _ in range(5):
        came[0].say(b"x" * 100_000)
        world.run(20)
    came[0].say(b"", end=True)
    assert world.run(60, lambda: talker.heard_end) and len(talker.heard) == 500_000


def test_an_abort_passes_with_its_code_and_other_connections_go_on() -> None:
    world, provider, client = started()
    came = serve_and_stand(world, provider, NAME, echo=True)
    one, other = connect(client, NAME), connect(client, NAME)
    assert world.run(60, lambda: one.open and other.open)
    came[0].abort(EndReason.CONNRESET)
    assert world.run(60, lambda: one.code is not None or other.code is not None)
    left = other if one.code is not None else one
    assert {one.code, other.code} == {EndReason.CONNRESET, None}
    left.say(b"still here")
    assert heard(world, left, b"still here")


def test_a_private_service_is_reached_by_its_link_only_and_by_nobody_else_served() -> None:
    world, provider, client = started()
    address = str(private_address(world.crypto, SECRET))
    with pytest.raises(Problem) as refused:
        serve(client, address, secret=b"x" * 32)
    assert refused.value.why.code is AddressFlaw.NO_SECRET
    serve_and_stand(world, provider, address, secret=SECRET, echo=True)
    talker = connect(client, address)
    talker.say(b"psst")
    assert heard(world, talker, b"psst")
    stranger = connect(client, str(private_address(world.crypto, b"y" * 32)))
    world.run(PATIENCE + 40)
    assert stranger.pipe.why.code is ConnectWhy.NOBODY and not stranger.open


@pytest.mark.parametrize(("lie", "why"), [(False, ConnectWhy.NOBODY), (True, ConnectWhy.MISLED)])
def test_who_has_the_link_of_a_private_service_cannot_pretend_to_be_its_owner(
    monkeypatch: pytest.MonkeyPatch, lie: bool, why: ConnectWhy
) -> None:
    """Points do not take his adverts; and if they did, nobody would take him for the owner."""
    world, liar, client = started()
    address = parse_address(str(private_address(world.crypto, SECRET)))

    def pretended(subject: Subject, crypto: Any, point: bytes, binding: bytes, now: float) -> list[Advert]:
        return [Advert.add(name, Proof(day_of(now, point), bytes(64))) for name in subject.names(crypto, point, now)]

    monkeypatch.setattr("convergence.services.private_address", lambda crypto, secret: address)
    monkeypatch.setattr(Subject, "adverts", pretended)
    if lie:
        monkeypatch.setattr("convergence.rdv.adverts.check_advert", lambda *_: None)
    came = serve(liar, str(address), secret=b"g" * 32, echo=True)
    world.run(30)
    talker = connect(client, str(address))
    talker.say(b"a secret for the owner")
    world.run(PATIENCE + 40)
    assert talker.pipe.why.code is why and not talker.open
    assert not any(visitor.open or visitor.heard for visitor in came)


def test_an_address_that_nobody_can_own_is_refused() -> None:
    world, _, client = started()
    with pytest.raises(Problem) as refused:
        connect(client, str(PrivateAddress(bytes(32))))
    assert refused.value.why.code is AddressFlaw.NO_KEY


def test_what_nobody_offers_fails_in_bounded_time_and_what_comes_meanwhile_is_found() -> None:
    world, provider, client = started()
    lost, hopeful = connect(client, "hash:nobody at all"), connect(client, NAME, patience=40)
    world.run(5)
    serve(provider, NAME, echo=True)
    assert world.run(PATIENCE + 30, lambda: lost.code is not None)
    assert lost.pipe.why.code is ConnectWhy.NOBODY and lost.code == EndReason.RESOLVEFAILED
    assert world.run(60, lambda: hopeful.open)


def test_connections_of_a_dead_provider_end_and_new_ones_find_another() -> None:
    world = network(12, 8)
    first, second, client = people(world, "first", "second", "client")
    serve_and_stand(world, first, NAME, echo=True)
    serve_and_stand(world, second, NAME, echo=True)
    talkers = [connect(client, NAME) for _ in range(12)]
    assert world.run(60, lambda: all(talker.open for talker in talkers))
    world.kill(first)
    assert world.run(120, lambda: any(talker.code is not None for talker in talkers))
    world.run(30)
    dead = [talker for talker in talkers if talker.code is not None]
    assert 0 < len(dead) < 12, "both served"
    again = [connect(client, NAME) for _ in range(12)]
    assert world.run(60, lambda: all(talker.open for talker in again))


class Mute:
    """What takes every stream, and says not a word on it."""

    def opened(self, now: float) -> None: ...

    def data(self, data: bytes, now: float) -> None: ...

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None: ...

    def aborted(self, code: int, now: float) -> None: ...


@pytest.mark.parametrize(
    ("hang", "seconds"), [(1, SECOND_AFTER), (2, ANSWER_TIMEOUT), (3, ANSWER_TIMEOUT + SECOND_AFTER)]
)
def test_providers_that_accept_and_hang_are_not_waited_for_one_after_the_other(hang: int, seconds: float) -> None:
    world = network(14, 8)
    *mute, good, client, other = people(world, *(f"mute{number}" for number in range(hang)), "good", "client", "other")
    for host in [*mute, good]:
        serve_and_stand(world, host, NAME, echo=True)
    for host in mute:
        for offer in host.node.services._rdv._offers.values():
            for post in offer.posts.values():
                post._circuit.on_begin = lambda target, stream, now: Mute()
    for asker in (client, other):
        begun = world.now
        talkers = [connect(asker, NAME, isolation=number) for number in range(4)]
        assert world.run(60, lambda talkers=talkers: all(talker.open for talker in talkers))
        assert world.now - begun <= seconds + BUILD_TIME
    world.run(5)
    assert good.node.services.snapshot()["services"][0]["connections"] == 8
    assert client.node.services.snapshot()["connections"] == other.node.services.snapshot()["connections"] == 4


def test_a_service_that_restarts_or_moves_keeps_its_address() -> None:
    world, provider, client = started()
    serve_and_stand(world, provider, NAME, echo=True)
    talker = connect(client, NAME)
    talker.say(b"one")
    assert heard(world, talker, b"one")
    world.leave(provider)
    assert world.run(60, lambda: talker.code is not None)
    (elsewhere,) = people(world, "elsewhere")
    serve_and_stand(world, elsewhere, NAME, echo=True)
    talker = connect(client, NAME, patience=60)
    talker.say(b"two")
    assert heard(world, talker, b"two")


def test_a_thousand_connections_at_once_over_a_few_circuits() -> None:
    world, provider, client = started()
    came = serve_and_stand(world, provider, NAME, echo=True)
    talkers = [connect(client, NAME) for _ in range(1000)]
    for number, talker in enumerate(talkers):
        talker.say(b"%d" % number, end=True)
    assert world.run(60, lambda: all(talker.heard_end for talker in talkers))
    assert [bytes(talker.heard) for talker in talkers] == [b"%d" % number for number in range(1000)]
    assert len(came) == 1000
    circuits = client.node.pool.snapshot()
    used = [circuit for circuit in circuits if circuit["purpose"] == "rendezvous"]
    assert 0 < len(used) <= 3, circuits


def test_ten_thousand_writes_of_one_byte_arrive_in_order() -> None:
    world, provider, client = started()
    came = serve_and_stand(world, provider, NAME)
    talker = connect(client, NAME)
    data = bytes(number % 251 for number in range(10_000))
    for at in range(len(data)):
        talker.say(data[at : at + 1])
        if at % 100 == 0:
            world.run(0.05)
    assert world.run(120, lambda: bool(came) and bytes(came[0].heard) == data)


def test_a_reader_that_never_reads_stops_the_writer_far_away() -> None:
    world, provider, client = started()
    came = serve_and_stand(world, provider, NAME, greedy=False)
    talker = connect(client, NAME)
    world.run(30)
    sent = 0
    while not talker.pipe.congested and sent < 64 << 20:
        talker.say(b"x" * 65536)
        sent += 65536
        world.run(1)
    assert talker.pipe.congested and sent < 2 << 20, sent
    at_the_point = STREAM_WINDOW * MAX_DATA
    assert sent - len(came[0].heard) <= SEND_BUFFER_HIGH + at_the_point + 65536
    other = connect(client, NAME)
    world.run(30)
    assert other.open
    other.say(b"alive")
    assert world.run(30, lambda: any(visitor.heard == b"alive" for visitor in came)), "a full one blocks no other"


def test_a_connection_that_idles_for_an_hour_still_works() -> None:
    world, provider, client = started()
    serve_and_stand(world, provider, NAME, echo=True)
    talker = connect(client, NAME)
    talker.say(b"before")
    assert heard(world, talker, b"before")
    world.run(3600)
    talker.say(b" and after")
    assert heard(world, talker, b"before and after")


def test_who_refuses_a_connection_hears_no_more_of_it() -> None:
    world, provider, client = started()
    calls: list[str] = []

    class Refusing(Talker):
        def opened(self, now: float) -> None:
            calls.append("opened")

    def accept(pipe: Any, now: float) -> Talker:
        pipe.abort(EndReason.RESOURCELIMIT, now)
        return Refusing(provider, pipe)

    provider.driver.run(lambda now: provider.node.services.serve(parse_address(NAME), accept, now))
    talker = connect(client, NAME, patience=30)
    assert world.run(60, lambda: talker.code is not None)
    assert talker.code == EndReason.RESOURCELIMIT and calls == []


def test_services_that_are_kept_for_later_give_way_to_what_is_asked_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergence.services.MAX_CONNECTORS", 2)
    world, provider, client = started()
    serve_and_stand(world, provider, NAME, echo=True)
    for number in range(5):
        talker = connect(client, NAME, isolation=number)
        assert world.run(30, lambda talker=talker: talker.open)
        talker.abort(EndReason.DONE)
    talkers = [connect(client, NAME, isolation=number) for number in (5, 6)]
    with pytest.raises(Problem) as refused:
        connect(client, NAME, isolation=7)
    assert refused.value.why.code is Limit.SERVICES
    assert world.run(30, lambda: all(talker.open for talker in talkers))
    world.run(30)
    assert len(client.node.services._connectors) == 2


def test_who_names_very_many_services_shuts_out_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convergence.services.MAX_CONNECTORS", 8)
    monkeypatch.setattr("convergence.services.MAX_OF_KEY", 6)
    world, provider, client = started()
    serve_and_stand(world, provider, NAME, echo=True)
    mine = connect(client, NAME, isolation="page")
    assert world.run(30, lambda: mine.open)
    page = [connect(client, f"hash:nobody {number}", isolation="page") for number in range(5)]
    with pytest.raises(Problem):
        connect(client, "hash:one more", isolation="page")
    other = [connect(client, f"hash:nobody {number}", isolation="other") for number in range(2)]
    people = [connect(client, NAME, isolation=number) for number in range(3)]
    assert world.run(30, lambda: all(talker.open for talker in people))
    given_up = [talker for talker in page + other if talker.code == EndReason.RESOURCELIMIT]
    assert given_up == page[:3] and page[0].pipe.why.code is Limit.SERVICES
    mine.say(b"still here")
    assert heard(world, mine, b"still here")


def test_of_services_that_are_kept_for_later_the_one_idle_for_longest_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("convergence.services.MAX_CONNECTORS", 2)
    world, provider, client = started()
    serve_and_stand(world, provider, NAME, echo=True)
    first, second = [connect(client, NAME, isolation=number) for number in range(2)]
    for talker in (second, first):  # the order in which they end
        assert world.run(30, lambda talker=talker: talker.open)
        talker.abort(EndReason.DONE)
        world.run(1)
    connect(client, NAME, isolation=2)
    assert [isolation for _, isolation in client.node.services._connectors] == [0, 2]


def test_circuits_end_some_time_after_the_last_connection_and_nothing_is_left() -> None:
    world, provider, client = started()
    serve_and_stand(world, provider, NAME, echo=True)
    talker = connect(client, NAME)
    talker.say(b"bye", end=True)
    assert world.run(60, lambda: talker.heard_end)
    world.run(IDLE_LIMIT + 30)
    purposes = [circuit["purpose"] for circuit in client.node.pool.snapshot()]
    assert "rendezvous" not in purposes and not client.node.services._connectors
    world.leave(provider)
    world.leave(client)
    world.run(120)
    assert_drained(world)
