"""A rendezvous point: who is asked, in which order, what is joined, and that its counts always come back to zero."""

import random

import pytest

from convergence.circuit.flow import STREAM_WINDOW
from convergence.errors import DestroyReason, EndReason, StreamError
from convergence.link import link as link_module
from convergence.rdv import adverts as adverts_module
from convergence.rdv.adverts import MAX_OF_CIRCUIT, MAX_PROVIDERS
from convergence.rdv.point import ANSWER_LIMIT, MAX_REST, NB_DB, REST, RdvPoint
from convergence.wire.rdv import MAX_ADVERTS, Advert, AdvertOp, DbInfo, Name, format_rdv_target
from convergence.wire.relay import MAX_DATA, REFERRALS_OKAY, RelayCommand
from tests.unit.circuit.rig import CRYPTO, Net, Recorder, endpoint_of, say

NAME = Name(bytes(range(32)))


def advert(name=NAME, op=AdvertOp.ADD):
    return Advert(name.blinded, op)


class Place:
    """A point in the rig, with providers and clients around it; everyone has an entry of its own."""

    def __init__(self, seed="place"):
        self.net = Net(seed)
        self.machine = self.net.add("point")
        self.point = RdvPoint(self.machine.outbox, CRYPTO)
        services = self.machine.services
        services.on_begin = lambda *begin: self.point.begin(*begin, self.net.now)
        services.message = lambda circuit, command, payload, now: self.point.message(circuit, payload, now)
        self._told = services.circuit_closed
        services.circuit_closed = self._closed
        self.people = 0

    def _closed(self, circuit, now):
        self._told(circuit, now)
        self.point.circuit_closed(circuit)

    def circuit(self, beside=None):
        """`beside`: a circuit whose entry it shares, and so the link to the point."""
        self.people += 1
        person = self.net.add(f"person{self.people}", relays=False)
        entry = self.net.add(f"entry{self.people}") if beside is None else beside.entry
        circuit = self.net.build(person, [entry, self.machine])
        circuit.entry = entry
        return circuit

    def provider(self, name=NAME, accept=True, beside=None):
        """A circuit that advertises `name`; its `asked` holds (stream, recorder) of each query."""
        circuit = self.circuit(beside)
        circuit.asked = []
        circuit.refusals = 0

        def on_begin(target, stream, now):
            if not accept:
                circuit.refusals += 1
                return None
            recorder = Recorder(stream)
            circuit.asked.append((stream, recorder))
            return recorder

        circuit.on_begin = on_begin
        self.advertise(circuit, advert(name))
        return circuit

    def advertise(self, circuit, *adverts):
        circuit.send_message(RelayCommand.DB_INFO, DbInfo(adverts).encode())
        self.net.pump()

    def query(self, circuit=None, name=NAME, flags=0):
        return self.net.open(circuit or self.circuit(), format_rdv_target(name), flags=flags)

    def offers(self, name=NAME):
        return list(self.point._adverts.of(name))

    def load(self):
        return sorted(offer.nb for offers in self.point._adverts.names.values() for offer in offers.values())

    def consistent(self):
        """The registry's own books agree."""
        adverts = self.point._adverts
        pairs = {(circuit, name) for name, offers in adverts.names.items() for circuit in offers}
        held = {circuit: offer.names[True] | offer.names[False] for circuit, offer in adverts.providers.items()}
        assert pairs == {(circuit, name) for circuit, names in held.items() for name in names}
        assert len(adverts) == len(pairs)
        assert all(offers for offers in adverts.names.values())
        assert not any(circuit.closed for circuit in adverts.providers)


@pytest.fixture
def place():
    return Place()


# -- joining


def test_a_client_is_joined_to_a_provider(place):
    provider = place.provider()
    stream, handler = place.query()
    [(far, recorder)] = provider.asked
    assert handler.calls == ["opened"] and recorder.calls == ["opened"]
    stream.write(b"question", place.net.now)
    far.write(b"answer", place.net.now)
    place.net.pump()
    assert recorder.received == b"question" and handler.received == b"answer"


@pytest.mark.parametrize("size", [1, MAX_DATA, 300_000, 2 << 20])
def test_data_passes_whole_both_ways(place, size):
    provider = place.provider()
    stream, handler = place.query()
    far, recorder = provider.asked[0]
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    stream.write(up, place.net.now)
    far.write(down, place.net.now)
    place.net.pump()
    far.end(place.net.now)
    place.net.pump()
    assert handler.received == down and handler.reason == EndReason.DONE
    assert recorder.received == up and place.load() == [0]


def test_the_points_own_record_has_only_what_the_peers_said(place):
    """Stream ids on both sides are its own: neither side sees the other's."""
    provider = place.provider()
    stream, _ = place.query()
    far, _ = provider.asked[0]
    assert stream.id < 0x8000 < far.id


@pytest.mark.parametrize("side", ["client", "provider"])
def test_end_comes_behind_all_data_though_the_reader_still_talks(place, side):
    """The reader acknowledges and talks while what is pending goes out: it cannot know that the far side has ended."""
    provider = place.provider()
    client = place.circuit()
    stream, handler = place.query(client)
    far, recorder = provider.asked[0]
    sender, reader, received = (far, client, handler) if side == "client" else (stream, provider, recorder)
    back = stream if side == "client" else far
    # The link from the point to the reader's entry is full for a while.
    link = reader_link(place, reader)
    place.net.congest(place.machine, link)
    sender.write(bytes(MAX_DATA * (STREAM_WINDOW - 10)), place.net.now)
    sender.end(place.net.now)
    place.net.pump()
    assert received.received == b""
    back.write(b"x" * 2000, place.net.now)
    place.net.pump()
    place.net.congest(place.machine, link, False)
    assert len(received.received) == MAX_DATA * (STREAM_WINDOW - 10)
    assert received.reason == EndReason.DONE
    assert place.load() == [0] and client.built and provider.built


def reader_link(place, circuit):
    entry = place.net.by_identity[circuit.path[0].identity]
    return place.net.other_side(entry, place.net.link_between(entry, place.machine))


def test_a_slow_reader_stops_the_sender_and_no_more_than_a_window_waits(place):
    provider = place.provider()
    client = place.circuit()
    _, handler = place.query(client)
    far, _ = provider.asked[0]
    link = reader_link(place, client)
    place.net.congest(place.machine, link)
    far.write(bytes(3 << 20), place.net.now)
    place.net.pump()
    [end] = (entry for entry in place.machine.circuits[-1].endpoint.entries.values())
    assert len(end._pending) == STREAM_WINDOW
    assert far.congested and handler.received == b""
    place.net.congest(place.machine, link, False)
    assert len(handler.received) == 3 << 20


def test_a_reader_that_acknowledges_what_it_did_not_get_is_cut_off(place):
    """SENDMEs for cells that are still here would let a point's memory grow without limit."""
    provider = place.provider()
    client = place.circuit()
    stream, handler = place.query(client)
    far, _ = provider.asked[0]
    place.net.congest(place.machine, reader_link(place, client))
    far.write(bytes(1 << 20), place.net.now)
    place.net.pump()
    say(client, RelayCommand.SENDME, stream.id)
    place.net.pump()
    assert provider.asked[0][1].reason == EndReason.TORPROTOCOL
    place.net.congest(place.machine, reader_link(place, client), False)
    assert handler.reason == EndReason.TORPROTOCOL
    assert place.load() == [0] and provider.built


# -- choosing


def test_the_provider_that_serves_least_is_asked(place):
    providers = [place.provider() for _ in range(3)]
    for _ in range(6):
        place.query()
    assert [len(provider.asked) for provider in providers] == [2, 2, 2]
    assert place.load() == [2, 2, 2]


def test_who_serves_less_is_asked_even_if_asked_last(place):
    one, two = place.provider(), place.provider()
    place.query()
    stream, _ = place.query()
    assert (len(one.asked), len(two.asked)) == (1, 1)
    stream.end(place.net.now)
    place.net.pump()
    place.query()
    assert (len(one.asked), len(two.asked)) == (1, 2)


def test_equals_take_turns(place):
    providers = [place.provider() for _ in range(3)]
    for _ in range(6):
        stream, _ = place.query()
        stream.end(place.net.now)
        place.net.pump()
    assert [len(provider.asked) for provider in providers] == [2, 2, 2]


def test_a_provider_that_hangs_up_on_everybody_gets_no_more_than_its_turn(place):
    """It is always the least busy. Who comes back over the same circuit is given another."""
    good, bad = place.provider(), place.provider()
    for number in range(1, 5):
        asker = place.circuit()
        for _ in range(2):
            stream, _ = place.query(asker)
            if len(good.asked) < number:
                stream.end(place.net.now)
                place.net.pump()
        assert len(good.asked) >= number and len(bad.asked) <= number


def test_who_withdraws_and_comes_again_is_no_stranger(place):
    """It would be given to every asker again, and be the least busy one although its streams go on."""
    bad, good = place.provider(), place.provider()
    asker = place.circuit()
    for number in range(1, 4):
        for _ in range(2):
            place.query(asker)
            place.advertise(bad, advert(op=AdvertOp.REMOVE), advert())
        assert len(good.asked) == number and place.load() == [number, number]
    for circuit in (bad, good):
        circuit.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert not place.point._adverts.providers


def test_what_is_remembered_of_an_asker_is_bounded_and_goes_with_his_circuit(place, monkeypatch):
    monkeypatch.setattr("convergence.rdv.point.MAX_GIVEN", 3)
    for _ in range(5):
        place.provider()
    asker = place.circuit()
    for _ in range(20):
        place.query(asker)
    (given,) = place.point._given.values()
    assert len(given) == 3
    asker.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert not place.point._given


def test_nobody_provides(place):
    _, handler = place.query()
    assert handler.reason == EndReason.RESOLVEFAILED


def test_a_refusal_goes_on_to_the_next(place):
    bad = [place.provider(accept=False) for _ in range(3)]
    good = place.provider()
    _, handler = place.query()
    assert handler.calls == ["opened"] and len(good.asked) == 1
    assert all(provider.refusals <= 1 for provider in bad)
    assert place.load() == [0, 0, 0, 1]


def test_a_provider_that_does_not_answer_is_passed_over_and_rests(place):
    """It would be the least busy one for ever, as nobody stays with it."""
    mute, good = place.provider(), place.provider()
    [link] = mute.client.links.values()
    place.net.hold(mute.client, link)
    _, handler = place.query()
    place.net.tick(ANSWER_LIMIT - 1)
    assert handler.calls == []
    place.net.tick(2)
    assert handler.calls == ["opened"] and len(good.asked) == 1 and place.load() == [0, 1]
    for number in range(2, 5):
        assert place.query()[1].calls == ["opened"] and len(good.asked) == number, "at once"
    place.net.tick(REST)
    place.net.hold(mute.client, link, False)
    place.query()
    assert [reason for _, recorder in mute.asked if (reason := recorder.reason)] == [EndReason.TIMEOUT]
    assert len(mute.asked) == 2 and place.load() == [1, 4]


def test_who_never_answers_rests_ever_longer(place):
    """An owner's relay may hold his old circuits open, each time that it tells him that they have ended."""
    mute = [place.provider() for _ in range(4)]
    held = [(provider.client, link) for provider in mute for link in provider.client.links.values()]
    for client, link in held:
        place.net.hold(client, link)
    good = place.provider()
    waits = []
    for _ in range(12):
        _, handler = place.query()
        waits.append(0)
        while not handler.calls:
            place.net.tick(ANSWER_LIMIT)
            waits[-1] += 1
        place.net.tick(REST)
    assert len(good.asked) == 12 and sum(waits[:4]) > 4 and sum(waits[-4:]) <= 4
    assert all(provider.silences > 2 for provider in place.offers()[:4])
    for client, link in held:
        place.net.hold(client, link, False)
    place.net.tick(MAX_REST)
    assert all(place.query()[1].calls == ["opened"] for _ in range(4))
    assert sum(provider.silences > 0 for provider in place.offers()) == 0


def test_a_provider_that_is_alone_may_take_its_time(place):
    slow = place.provider()
    [link] = slow.client.links.values()
    place.net.hold(slow.client, link)
    _, handler = place.query()
    place.net.tick(ANSWER_LIMIT + 1)
    place.net.hold(slow.client, link, False)
    assert handler.calls == ["opened"] and place.load() == [1]


def test_no_more_than_nb_db_are_tried(place):
    providers = [place.provider(accept=False) for _ in range(NB_DB + 3)]
    _, handler = place.query()
    assert handler.reason == EndReason.RESOLVEFAILED
    assert sum(provider.refusals for provider in providers) == NB_DB
    assert set(place.load()) == {0}


def test_the_last_reason_is_told(place):
    provider = place.provider()
    provider.on_begin = None  # END with NOTDIRECTORY
    _, handler = place.query()
    assert handler.reason == EndReason.NOTDIRECTORY


def test_a_provider_whose_circuit_is_full_is_passed_over(place):
    full, other = place.provider(), place.provider()
    offer = place.offers()[0]
    entries = offer.circuit.endpoint.entries
    entries.update((-number, None) for number in range(1, 1025))
    _, handler = place.query()
    for number in range(1, 1025):
        del entries[-number]
    assert handler.calls == ["opened"] and len(other.asked) == 1 and not full.asked
    assert place.load() == [0, 1]


@pytest.mark.parametrize("target", ["host.example:80", "abc.rdv:0", f"{'zz' * 32}.rdv:0", f"{'ab' * 32}.rdv:80"])
def test_other_targets_are_refused(place, target):
    place.provider()
    _, handler = place.net.open(place.circuit(), target)
    assert handler.reason == EndReason.TORPROTOCOL


# -- ends in the middle


def test_the_client_goes_away_before_the_answer(place):
    provider = place.provider()
    client = place.circuit()
    [link] = provider.client.links.values()
    place.net.hold(provider.client, link)
    stream, handler = place.query(client)
    assert place.load() == [1]
    stream.end(place.net.now)
    place.net.pump()
    place.net.hold(provider.client, link, False)
    assert place.load() == [0]
    assert provider.asked[0][1].reason == EndReason.DONE and handler.calls == ["ended"]
    assert client.built and provider.built


def test_the_clients_circuit_dies_before_the_answer(place):
    provider = place.provider()
    client = place.circuit()
    [link] = provider.client.links.values()
    place.net.hold(provider.client, link)
    place.query(client)
    client.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    place.net.hold(provider.client, link, False)
    assert place.load() == [0] and provider.asked[0][1].reason == EndReason.DONE


def test_a_provider_that_dies_before_its_answer_is_replaced(place):
    one, two = place.provider(), place.provider()
    [link] = one.client.links.values()
    place.net.hold(one.client, link)
    _, handler = place.query()
    assert handler.calls == []
    one.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert handler.calls == ["opened"] and len(two.asked) == 1
    assert place.load() == [1]
    place.consistent()


@pytest.mark.parametrize("who", ["provider", "client"])
def test_a_circuit_that_dies_in_the_middle_ends_the_other_side(place, who):
    provider, client = place.provider(), place.circuit()
    _, handler = place.query(client)
    far, recorder = provider.asked[0]
    far.write(bytes(200_000), place.net.now)
    dying, other = (provider, handler) if who == "provider" else (client, recorder)
    dying.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert other.reason == EndReason.DESTROY
    assert place.load() == ([] if who == "provider" else [0])
    place.consistent()


def test_the_point_forgets_a_dead_provider(place):
    provider = place.provider()
    provider.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert place.offers() == [] and len(place.point._adverts) == 0
    assert place.query()[1].reason == EndReason.RESOLVEFAILED


def test_who_provides_and_asks_on_one_circuit_gets_itself(place):
    both = place.provider()
    stream, handler = place.query(both)
    far, recorder = both.asked[0]
    stream.write(b"hello", place.net.now)
    place.net.pump()
    assert recorder.received == b"hello"
    both.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    place.consistent()
    assert handler.reason == recorder.reason == EndReason.DESTROY


def test_connected_from_a_provider_for_nothing_ends_that_stream(place):
    provider, client = place.provider(), place.circuit()
    _, handler = place.query(client)
    far, _ = provider.asked[0]
    endpoint_of(provider).send_message(RelayCommand.CONNECTED, far.id)
    place.net.pump()
    assert handler.reason == EndReason.TORPROTOCOL and place.load() == [0]
    assert provider.built and client.built


# -- adverts


def test_an_advert_counts_once_and_can_be_withdrawn(place):
    provider = place.provider()
    place.advertise(provider, advert(), advert())
    assert len(place.offers()) == 1 and len(place.point._adverts) == 1
    place.advertise(provider, advert(op=AdvertOp.REMOVE), advert(op=AdvertOp.REMOVE))
    assert place.offers() == [] and len(place.point._adverts) == 0
    place.consistent()


def test_a_running_stream_outlives_its_advert(place):
    provider = place.provider()
    stream, handler = place.query()
    place.advertise(provider, advert(op=AdvertOp.REMOVE))
    provider.asked[0][0].write(b"still here", place.net.now)
    place.net.pump()
    assert handler.received == b"still here"
    stream.end(place.net.now)
    place.net.pump()
    place.consistent()


def test_nobody_withdraws_for_another(place):
    place.provider()
    other = place.circuit()
    place.advertise(other, advert(op=AdvertOp.REMOVE))
    assert len(place.offers()) == 1 and other.built


def names(count, first=0):
    return [Name(number.to_bytes(32, "big")) for number in range(first, first + count)]


def advertise_many(place, circuit, count):
    batch = [advert(name) for name in names(count)]
    for at in range(0, count, MAX_ADVERTS):
        circuit.send_message(RelayCommand.DB_INFO, DbInfo(tuple(batch[at : at + MAX_ADVERTS])).encode())
    place.net.pump()


def test_adverts_of_a_circuit_are_limited(place):
    circuit = place.circuit()
    advertise_many(place, circuit, MAX_OF_CIRCUIT)
    assert circuit.built and len(place.point._adverts) == MAX_OF_CIRCUIT
    place.advertise(circuit, advert(Name(b"\xff" * 32)))
    assert circuit.gone == [DestroyReason.RESOURCELIMIT]
    place.consistent()
    assert len(place.point._adverts) == 0


def test_adverts_of_a_point_are_limited_and_who_has_most_gives_way(place, monkeypatch):
    monkeypatch.setattr(adverts_module, "MAX_ADVERTS", 4)
    one, two = place.circuit(), place.provider()
    stream, handler = place.query()
    advertise_many(place, one, 3)
    place.advertise(one, advert())
    assert one.gone == [DestroyReason.RESOURCELIMIT] and two.built, "it would have more than the other"
    one, three = place.circuit(), place.provider()
    advertise_many(place, one, 2)
    four = place.provider()
    place.net.tick(0)
    assert one.gone == [DestroyReason.RESOURCELIMIT] and two.built and three.built and four.built
    assert "aborted" not in handler.calls
    place.consistent()


def test_providers_of_a_name_are_limited_and_nothing_stays_of_those_beyond(place, monkeypatch):
    assert MAX_PROVIDERS > 2
    monkeypatch.setattr(adverts_module, "MAX_PROVIDERS", 2)
    first = place.provider()
    providers = [first, *(place.provider(beside=first) for _ in range(3))]
    assert len(place.offers()) == 2 and all(provider.built for provider in providers)
    other = place.provider()
    assert len(place.offers()) == 2 + 1, "from another link"
    for provider in [*providers, other]:
        provider.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert place.point._adverts.providers == {} and place.point._adverts.names == {}


@pytest.mark.parametrize("payload", [b"", b"x", advert().encode() + b"x", bytes(33) + b"\3"])
def test_malformed_adverts_close_their_circuit(place, payload):
    circuit = place.circuit()
    circuit.send_message(RelayCommand.DB_INFO, payload)
    place.net.pump()
    assert circuit.gone and len(place.point._adverts) == 0


# -- any order of things


@pytest.mark.parametrize("seed", range(12))
def test_after_any_schedule_the_counts_are_those_of_what_runs(seed):
    choose = random.Random(seed)
    place = Place(f"schedule-{seed}")
    names_used = names(3)
    circuits, streams, held = [], [], []

    def provide():
        circuits.append(place.provider(choose.choice(names_used), accept=choose.random() < 0.7))

    def ask():
        client = choose.choice(circuits) if circuits and choose.random() < 0.3 else place.circuit()
        if client not in circuits:
            circuits.append(client)
        if client.built:
            streams.append(place.query(client, choose.choice(names_used)))

    def talk():
        everyone = [stream for stream, _ in streams] + [
            stream for circuit in circuits for stream, _ in getattr(circuit, "asked", ())
        ]
        if everyone:
            choose.choice(everyone).write(bytes(choose.randrange(1, 120_000)), place.net.now)

    def end():
        if streams:
            stream = choose.choice(streams)[0]
            stream.end(place.net.now) if choose.random() < 0.5 else stream.abort(EndReason.DONE, place.net.now)

    def end_far():
        providers = [circuit for circuit in circuits if getattr(circuit, "asked", ())]
        if providers:
            choose.choice(choose.choice(providers).asked)[0].end(place.net.now)

    def die():
        if circuits:
            choose.choice(circuits).destroy(DestroyReason.FINISHED, place.net.now)

    def stall():
        if circuits:
            client = choose.choice(circuits).client
            for link in client.links.values():
                place.net.hold(client, link)
                held.append((client, link))

    def go_on():
        while held:
            place.net.hold(*held.pop(), False)

    def withdraw():
        if circuits and (circuit := choose.choice(circuits)).built:
            place.advertise(circuit, advert(choose.choice(names_used), AdvertOp.REMOVE))

    steps = [provide, ask, ask, talk, talk, end, end_far, die, stall, go_on, withdraw]
    for _ in range(50):
        choose.choice(steps)()
        if choose.random() < 0.8:
            place.net.pump()
        place.consistent()
        assert min(place.load(), default=0) >= 0
    go_on()
    for stream, _ in streams:
        stream.abort(EndReason.DONE, place.net.now)
    place.net.pump()
    place.consistent()
    assert set(place.load()) <= {0}
    for circuit in circuits:
        circuit.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert not place.point._adverts.names and not place.point._adverts.providers and len(place.point._adverts) == 0
    assert place.point._waiting.used == 0
    assert all(not link.circuits for machine in place.net.machines for link in machine.links.values())


def test_a_point_that_holds_too_much_ends_the_stream_where_most_wait(place):
    """A limit for all splices together: readers that take nothing cannot fill the memory of a point, nor
    push others out."""
    place.point._waiting.limit = 3 * STREAM_WINDOW // 2
    pairs = []
    for number in range(3):
        name = Name(bytes([number]) * 32)
        provider, client = place.provider(name), place.circuit()
        place.net.congest(place.machine, reader_link(place, client))
        place.query(client, name)
        provider.asked[0][0].write(bytes(1 << 20), place.net.now)
        place.net.pump()
        pairs.append((provider, client))
    reasons = [provider.asked[0][1].reason for provider, _ in pairs]
    assert reasons == [EndReason.RESOURCELIMIT, EndReason.RESOURCELIMIT, None]
    assert place.point._waiting.used <= place.point._waiting.limit
    for _, client in pairs:
        place.net.congest(place.machine, reader_link(place, client), False)
    assert place.point._waiting.used == 0 and all(provider.built and client.built for provider, client in pairs)


@pytest.mark.parametrize("full", ["provider", "client"])
def test_a_link_that_is_full_at_the_very_moment_of_joining(place, full, monkeypatch):
    provider, client = place.provider(), place.circuit()
    circuit = place.machine.circuits[0 if full == "provider" else 1]
    place.net.congest(place.machine, circuit._link)
    circuit.endpoint.send_message(RelayCommand.DROP, 0)
    monkeypatch.setattr(link_module, "MAX_QUEUED", 600)
    recorder = place.query(client)[1]
    assert circuit.closed
    assert place.point._ends == {} and set(place.load()) <= {0}
    place.consistent()
    place.net.congest(place.machine, circuit._link, False)
    assert recorder.reason is not None and not provider._endpoint.entries


def test_an_id_that_is_used_again_before_the_answer_to_its_first_use(place):
    provider, client = place.provider(), place.circuit()
    for _ in range(3):
        say(client, RelayCommand.BEGIN, 7, f"{format_rdv_target(NAME)}\0".encode())
        say(client, RelayCommand.END, 7, b"\6")
    endpoint_of(client)._last_id = 6
    stream, recorder = place.query(client)
    assert stream.id == 7 and recorder.calls == ["opened"]
    assert len(place.point._ends) == 2 and place.load() == [1]
    assert [recorder.reason for _, recorder in provider.asked] == [EndReason.DONE] * 3 + [None]
    client.destroy(DestroyReason.FINISHED, place.net.now)
    place.net.pump()
    assert place.point._ends == {} and place.load() == [0]


def test_a_client_that_leaves_many_streams_does_not_cost_the_provider_its_circuit(place):
    provider, client = place.provider(), place.circuit()
    streams = [place.query(client)[0] for _ in range(400)]
    entry = next(machine for machine in place.net.machines if machine.name == "entry1")
    link = next(link for link in entry.links.values() if not link.initiator)
    place.net.hold(entry, link)
    for stream, _ in provider.asked:
        stream.write(b"on its way", place.net.now)
    place.net.pump()
    for stream in streams:
        stream.end(place.net.now)
    place.net.pump()
    place.net.hold(entry, link, False)
    assert provider.built and place.load() == [0]


# -- referrals


def told_by(place, circuit):
    told = []
    circuit.on_info = told.append
    place.point.others = (b"one", b"two")
    return told


def test_where_nobody_is_there_other_points_are_named_to_whoever_wants_that(place):
    circuit = place.circuit()
    told = told_by(place, circuit)
    _, handler = place.query(circuit)
    assert handler.reason == EndReason.RESOLVEFAILED and told == []
    _, handler = place.query(circuit, flags=REFERRALS_OKAY)
    assert handler.reason == EndReason.RESOLVEFAILED and told == [b"one", b"two"]
    assert circuit.built


def test_no_other_points_are_named_where_somebody_serves_or_is_busy(place):
    circuit = place.circuit()
    told = told_by(place, circuit)
    busy = place.provider()

    def refuse(target, stream, now):
        raise StreamError("busy", EndReason.RESOURCELIMIT)

    serve, busy.on_begin = busy.on_begin, refuse
    _, handler = place.query(circuit, flags=REFERRALS_OKAY)
    assert handler.reason == EndReason.RESOURCELIMIT
    busy.on_begin = serve
    _, handler = place.query(circuit, flags=REFERRALS_OKAY)
    assert handler.calls == ["opened"] and not told


def test_they_are_named_where_all_who_advertise_have_gone_or_refuse(place):
    circuit = place.circuit()
    told = told_by(place, circuit)
    place.provider(accept=False)
    _, handler = place.query(circuit, flags=REFERRALS_OKAY)
    assert handler.reason == EndReason.RESOLVEFAILED and told == [b"one", b"two"]


def test_every_asker_hears_the_same(place):
    """Whatever name he asks for, and however often: what a point names says nothing about whom it knows."""
    heard = set()
    for number in range(3):
        circuit = place.circuit()
        told = told_by(place, circuit)
        place.query(circuit, name=Name(bytes([number]) * 32), flags=REFERRALS_OKAY)
        heard.add(tuple(told))
    assert heard == {(b"one", b"two")}
