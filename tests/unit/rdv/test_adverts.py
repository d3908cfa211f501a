"""Who gets a place at a point: the owner, whatever others do; others, each link its part."""

from dataclasses import dataclass, replace
from random import Random

import pytest

from convergence.errors import DestroyReason, RemoteError
from convergence.outbox import Outbox
from convergence.rdv import adverts as adverts_module
from convergence.rdv.adverts import (
    MAX_MACHINES,
    MAX_PROOFS,
    MAX_PROVIDERS,
    PROOFS_BURST,
    PROOFS_RATE,
    PROOFS_SOURCES,
    Adverts,
)
from convergence.rdv.blind import DAY, OVERLAP, common_name, day_begins, days_in_use, owners_advert, owners_name
from convergence.wire.rdv import Advert, DbInfo, Name, Proof
from tests.unit.ordb.memory import CRYPTO

TODAY = 20_000
NOW = TODAY * DAY + DAY / 2
POINT = b"p" * 32
SECRET = b"o" * 32
OWNER = CRYPTO.x25519_public(SECRET)
PLACE = owners_name(CRYPTO, OWNER, POINT, TODAY)


class Link:
    """What limits count by: its source, by default one of its own."""

    def __init__(self, source=None):
        self.source = source or self


@dataclass(eq=False)
class Circuit:
    """What the register asks of a circuit."""

    link: Link
    binding: bytes
    adverts: Adverts | None = None
    closed: int | None = None

    def destroy(self, reason, now):
        self.closed = reason
        self.adverts.closed(self)


class Point:
    def __init__(self):
        self.rng = Random(1)
        self.outbox = Outbox()
        self.adverts = Adverts(self.outbox, CRYPTO)

    def circuit(self, link=None):
        return Circuit(link or Link(), self.rng.randbytes(20), self.adverts)

    def say(self, circuit, *adverts, now=NOW):
        self.adverts.carry_out(circuit, DbInfo(adverts).encode(), now)
        self.outbox.run_timers(now)

    def own(self, circuit=None, day=TODAY):
        circuit = circuit or self.circuit()
        self.say(circuit, owners_advert(CRYPTO, SECRET, POINT, day, circuit.binding), now=NOW + (day - TODAY) * DAY)
        return circuit

    def at(self, name=PLACE):
        return [provider.circuit for provider in self.adverts.of(name)]


@pytest.fixture
def point():
    return Point()


@pytest.mark.parametrize("first", [True, False])
def test_10_000_adverts_of_somebody_with_the_link_take_nothing_from_the_owner(point, first):
    """From 500 places, under every name that the link yields, with the proofs that he can make."""
    owner = point.own() if first else None
    common = common_name(OWNER, POINT, TODAY)
    links = [Link() for _ in range(500)]
    for number in range(2_500):
        circuit = point.circuit(links[number % 500])
        for advert in (Advert.add(common), Advert.add(Name(PLACE.blinded))):
            point.say(circuit, advert)
        forged = point.rng.randbytes(64) if number % 50 else bytes(64)
        for day in (TODAY, TODAY + number % 4 - 1):
            with pytest.raises(RemoteError):
                point.say(circuit, Advert.add(PLACE, Proof(day, forged)))
    owner = owner or point.own()
    assert point.at() == [owner]
    assert MAX_PROVIDERS <= len(point.at(common)) < 2_500, "his own place is bounded too"


def test_an_advert_is_good_on_its_circuit_only(point):
    """Whoever sees it, the point or who takes it over, can play it again nowhere."""
    circuit, other = point.circuit(), point.circuit()
    advert = owners_advert(CRYPTO, SECRET, POINT, TODAY, circuit.binding)
    with pytest.raises(RemoteError):
        point.say(other, advert)
    assert point.at() == []
    point.say(circuit, advert)
    assert point.at() == [circuit]


def test_an_advert_of_one_point_is_of_no_use_at_another(point):
    circuit = point.circuit()
    elsewhere = owners_advert(CRYPTO, SECRET, b"q" * 32, TODAY, circuit.binding)
    with pytest.raises(RemoteError):
        point.say(circuit, replace(elsewhere, blinded=PLACE.blinded))
    point.say(circuit, elsewhere)
    assert point.at() == [], "it is another name there, which nobody asks this point for"


@pytest.mark.parametrize("days", [-3, 2, 400])
def test_an_advert_of_another_day_is_refused(point, days):
    circuit = point.circuit()
    late = owners_advert(CRYPTO, SECRET, POINT, TODAY + days, circuit.binding)
    today = owners_advert(CRYPTO, SECRET, POINT, TODAY, circuit.binding)
    assert late.proof is not None and today.proof is not None
    for advert in (late, replace(late, proof=Proof(TODAY, late.proof.signature)), replace(today, proof=late.proof)):
        with pytest.raises(RemoteError):
            point.say(circuit, advert)
    assert point.at() == [] and point.at(late.name) == []


def test_a_point_whose_day_begins_late_takes_the_day_before_past_midnight(point):
    late = next(i for i in (n.to_bytes(32, "big") for n in range(1000)) if day_begins(i) > DAY - OVERLAP / 2)
    midnight, circuit = TODAY * DAY, point.circuit()
    days = days_in_use(midnight, late)
    assert days == (TODAY - 1, TODAY - 2)
    point.say(circuit, *(owners_advert(CRYPTO, SECRET, late, day, circuit.binding) for day in days), now=midnight)
    assert len(point.adverts) == 2


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_clocks_may_differ_by_hours(point, days):
    circuit = point.circuit()
    point.say(circuit, owners_advert(CRYPTO, SECRET, POINT, TODAY + days, circuit.binding))
    assert point.at(owners_name(CRYPTO, OWNER, POINT, TODAY + days)) == [circuit]


def test_every_byte_of_an_advert_counts(point):
    circuit = point.circuit()
    good = owners_advert(CRYPTO, SECRET, POINT, TODAY, circuit.binding).encode()
    for at in [*range(0, 32, 5), *range(33, len(good))]:
        bad = bytearray(good)
        bad[at] ^= 1
        with pytest.raises(RemoteError):
            point.adverts.carry_out(point.circuit(circuit.link), bytes(bad), NOW)
        with pytest.raises(RemoteError):
            point.adverts.carry_out(Circuit(circuit.link, circuit.binding), bytes(bad), NOW)
    assert len(point.adverts) == 0
    point.adverts.carry_out(circuit, good, NOW)


@pytest.mark.parametrize(
    "key",
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # not canonical: 0
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # not canonical: 1
    ],
)
def test_keys_for_which_anybody_can_sign_are_refused(point, key):
    """For a key of low order, R = key or the neutral point and S = 0 fulfil the equation for many messages."""
    name = Name(bytes.fromhex(key), owned=True)
    neutral = b"\1" + bytes(31)
    for start in (name.blinded, neutral):
        for number in range(8):
            circuit = Circuit(Link(), bytes([number]) * 20)
            with pytest.raises(RemoteError):
                point.say(circuit, Advert.add(name, Proof(TODAY, start + bytes(32))))


def test_a_signature_has_one_form(point):
    """Whoever sees one cannot make another: S + L stands for the same number as S. Nor is a key with the other sign the
    owner's."""
    circuit = point.circuit()
    advert = owners_advert(CRYPTO, SECRET, POINT, TODAY, circuit.binding)
    order = 2**252 + 27742317777372353535851937790883648493
    start, end = advert.proof.signature[:32], int.from_bytes(advert.proof.signature[32:], "little")
    other = replace(advert, proof=Proof(TODAY, start + (end + order).to_bytes(32, "little")))
    negative = replace(advert, blinded=PLACE.blinded[:31] + bytes([PLACE.blinded[31] | 128]))
    for false in (other, negative):
        with pytest.raises(RemoteError):
            point.say(circuit, false)
    assert len(point.adverts) == 0


def test_an_owner_has_several_machines_and_the_latest_are_kept(point):
    circuits = [point.own() for _ in range(MAX_MACHINES + 3)]
    assert point.at() == circuits[3:]
    assert len(point.adverts) == MAX_MACHINES
    point.own(circuits[0])
    assert point.at() == [*circuits[4:], circuits[0]]


def test_only_who_advertised_withdraws(point):
    owner, other = point.own(), point.own()
    point.say(other, Advert.remove(Name(PLACE.blinded)))
    point.say(point.circuit(), Advert.remove(PLACE))
    assert point.at() == [owner, other]
    point.say(owner, Advert.remove(PLACE))
    assert point.at() == [other]
    point.adverts.closed(other)
    assert len(point.adverts) == 0 and not point.adverts.names


def prove(point, circuit, count, now=NOW):
    """Names of so many owners, on one circuit; returns how many it got before it was refused."""
    day = TODAY + int((now - NOW) / DAY)
    for done in range(int(count)):
        try:
            point.say(circuit, owners_advert(CRYPTO, point.rng.randbytes(32), POINT, day, circuit.binding), now=now)
        except RemoteError as error:
            assert error.reason == DestroyReason.RESOURCELIMIT
            return done
    return int(count)


@pytest.fixture
def any_proof(monkeypatch):
    """Proofs are counted, and not checked: the test takes less time."""
    monkeypatch.setattr(adverts_module, "check_advert", lambda *proof: None)

    def advert(crypto, secret, *rest):
        return Advert.add(Name(secret, owned=True), Proof(TODAY, bytes(64)))

    monkeypatch.setattr(f"{__name__}.owners_advert", advert)


def test_checks_of_proofs_are_limited(point):
    """The circuits of a source share a rate, whichever of them ask, over whichever link, and new ones too. Beside it
    each has a few of its own: whoever has few names is not kept out by somebody behind the same relay. Other sources
    have rates of their own."""
    many, link = point.circuit(), Link()
    circuit, other = point.circuit(link), point.circuit(link)
    assert prove(point, circuit, 1000) == MAX_PROOFS + PROOFS_BURST
    again = owners_advert(CRYPTO, SECRET, POINT, TODAY, many.binding)
    point.say(many, again, again)  # a second time says nothing, and is not checked
    assert point.adverts.providers[many].proofs.left == MAX_PROOFS - 1
    assert prove(point, circuit, 1) == 0
    for late in (other, point.circuit(link), point.circuit(Link(link.source))):
        assert prove(point, late, 1000) == MAX_PROOFS
        point.adverts.closed(late)
    assert prove(point, many, 2 * MAX_PROOFS) == 2 * MAX_PROOFS
    later = point.circuit(link)
    assert prove(point, later, 1000, now=NOW + 1) == MAX_PROOFS + PROOFS_RATE


def test_more_sources_share_the_checks_of_a_few(point, any_proof):
    circuits = [point.circuit() for _ in range(10 * PROOFS_SOURCES)]
    for circuit in circuits:
        prove(point, circuit, 1000)
    done = sum(prove(point, circuit, 1000, now=NOW + 1) for circuit in circuits)
    assert 0.5 * PROOFS_SOURCES * PROOFS_RATE < done <= PROOFS_SOURCES * PROOFS_RATE
    later = NOW + 1 + 10 * PROOFS_BURST / PROOFS_RATE
    assert prove(point, point.circuit(), 1000, now=later) > PROOFS_BURST, "when they have left, nobody shares with them"


def test_a_circuit_lives_through_many_days(point):
    circuit = point.circuit()
    for day in range(TODAY, TODAY + 60):
        point.own(circuit, day)
        if day > TODAY:
            point.say(circuit, Advert.remove(owners_name(CRYPTO, OWNER, POINT, day - 1)))
    assert len(point.adverts) == 1 and not point.adverts._rates
    assert prove(point, circuit, 1000, now=NOW + 60 * DAY) <= MAX_PROOFS + PROOFS_BURST, "it did not save any up"


def test_who_crowds_out_others_under_the_common_name_needs_as_many_links_as_they(point):
    common, crowd = common_name(OWNER, POINT, TODAY), Link()
    for _ in range(2 * MAX_PROVIDERS):
        point.say(point.circuit(crowd), Advert.add(common))
    assert len(point.at(common)) == MAX_PROVIDERS
    honest = [point.circuit() for _ in range(20)]
    for circuit in honest:
        point.say(circuit, Advert.add(common))
    assert set(honest) <= set(point.at(common))


def test_one_address_with_very_many_links_is_one_of_those_who_crowd(point):
    common = common_name(OWNER, POINT, TODAY)
    for _ in range(2 * MAX_PROVIDERS):
        point.say(point.circuit(Link("an address")), Advert.add(common))
    honest = [point.circuit() for _ in range(20)]
    for circuit in honest:
        point.say(circuit, Advert.add(common))
    assert set(honest) <= set(point.at(common)) and len(point.at(common)) == MAX_PROVIDERS + len(honest)
    for _ in range(MAX_PROVIDERS):
        point.say(point.circuit(Link("another address")), Advert.add(common))
    others = [circuit for circuit in point.at(common) if circuit.link.source == "another address"]
    assert len(others) == MAX_PROVIDERS // 22
    for circuit in others:
        point.adverts.closed(circuit)
    for circuit in honest[:5]:
        point.adverts.closed(circuit)
        point.say(point.circuit(circuit.link), Advert.add(common))
    assert len(point.at(common)) == MAX_PROVIDERS + len(honest), "who leaves makes room for others"
    for circuit in point.at(common):
        point.adverts.closed(circuit)
    assert not point.adverts._crowds and not point.adverts.names


def fill(point, links, names, *, owned=False):
    """Circuits with so many made up names each, over these links in turn, until nothing more fits."""
    for _ in range(3 * adverts_module.MAX_ADVERTS // names):
        circuit = point.circuit(links[len(point.adverts.providers) % len(links)])
        for _ in range(names):
            advert = Advert.add(Name(point.rng.randbytes(32), owned), Proof(TODAY, bytes(64)) if owned else None)
            try:
                point.say(circuit, advert)
            except RemoteError as error:
                circuit.destroy(error.reason, NOW)
                break


@pytest.mark.parametrize("owned", [True, False])
def test_who_fills_a_point_over_all_relays_keeps_nobody_out(point, monkeypatch, any_proof, owned):
    """Each relay has its equal part then, so that nothing is left for those who come over the same relays."""
    monkeypatch.setattr(adverts_module, "MAX_ADVERTS", 300)
    links = [Link() for _ in range(5)]
    fill(point, links, 4, owned=owned)
    assert 290 <= len(point.adverts) <= 300
    name, proof = (PLACE, Proof(TODAY, bytes(64))) if owned else (common_name(OWNER, POINT, TODAY), None)
    honest = [point.circuit(link) for link in links]
    for circuit in honest:
        point.say(circuit, Advert.add(name, proof))
    fill(point, links, 4, owned=owned)
    assert point.at(name) == honest and len(point.adverts) <= 300


def many(point, circuit, count, owned=False):
    """So many made up names."""
    for _ in range(count):
        proof = Proof(TODAY, bytes(64)) if owned else None
        point.say(circuit, Advert.add(Name(point.rng.randbytes(32), owned), proof))
    return circuit


def test_the_circuit_with_most_names_is_closed_when_all_places_are_taken(point, monkeypatch):
    monkeypatch.setattr(adverts_module, "MAX_ADVERTS", 100)
    link, other = Link(), Link()
    large = many(point, point.circuit(link), 50)
    small, elsewhere = many(point, point.circuit(link), 20), many(point, point.circuit(other), 30)
    with pytest.raises(RemoteError):
        many(point, large, 1)
    assert [circuit.closed for circuit in (large, small, elsewhere)] == [None] * 3
    many(point, elsewhere, 1)
    assert large.closed == DestroyReason.RESOURCELIMIT and len(point.adverts) == 51
    for circuit in (small, elsewhere):
        point.adverts.closed(circuit)
    assert len(point.adverts) == 0 and not any(point.adverts._held.values()) and not point.adverts.providers


def test_whose_source_has_most_takes_from_his_own(point, monkeypatch):
    monkeypatch.setattr(adverts_module, "MAX_ADVERTS", 100)
    link = Link()
    elsewhere, large = many(point, point.circuit(), 50), many(point, point.circuit(link), 50)
    many(point, point.circuit(link), 1)
    assert large.closed and not elsewhere.closed


def test_very_many_small_circuits_of_one_source_are_one_crowd(point, monkeypatch):
    monkeypatch.setattr(adverts_module, "MAX_ADVERTS", 100)
    link = Link()
    crowd = [many(point, point.circuit(link), 3) for _ in range(20)]
    alone = many(point, point.circuit(), 40)
    many(point, alone, 1)
    assert sum(circuit.closed is not None for circuit in crowd) == 1 and not alone.closed


def test_owners_do_not_share_places_with_others(point, monkeypatch, any_proof):
    monkeypatch.setattr(adverts_module, "MAX_ADVERTS", 10)
    kinds = [many(point, point.circuit(), 9, owned) for owned in (True, False)]
    for circuit, owned in zip(kinds, (True, False), strict=True):
        many(point, circuit, 1, owned)
    assert len(point.adverts) == 20 and not any(circuit.closed for circuit in kinds)
