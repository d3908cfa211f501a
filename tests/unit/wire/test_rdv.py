import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.rdv import (
    MAX_ADVERTS,
    Advert,
    AdvertOp,
    DbInfo,
    Name,
    Proof,
    format_rdv_target,
    parse_rdv_target,
)
from convergence.wire.relay import Begin

BLINDED = bytes(range(32))


def test_adverts():
    record = DbInfo((Advert(BLINDED, AdvertOp.ADD), Advert(BLINDED, AdvertOp.REMOVE)))
    assert record.encode() == BLINDED + b"\x01" + BLINDED + b"\x02"
    assert DbInfo.parse(memoryview(record.encode())) == record


def test_adverts_of_an_owner():
    name, proof = Name(BLINDED, owned=True), Proof(20_000, b"s" * 64)
    record = DbInfo((Advert.add(name, proof), Advert.remove(name), Advert.add(Name(BLINDED))))
    day = (20_000).to_bytes(4, "big")
    assert record.encode() == BLINDED + b"\x03" + day + b"s" * 64 + BLINDED + b"\x04" + BLINDED + b"\x01"
    assert DbInfo.parse(memoryview(record.encode())) == record
    assert [advert.name for advert in record.adverts] == [name, name, Name(BLINDED)]
    assert [advert.adds for advert in record.adverts] == [True, False, True]


def test_four_proofs_fit_one_message():
    adverts = (Advert.add(Name(BLINDED, owned=True), Proof(1, bytes(64))),) * 5
    assert DbInfo.parse(DbInfo(adverts[:4]).encode()).adverts == adverts[:4]
    with pytest.raises(LocalError):
        DbInfo(adverts).encode()


def test_fifteen_adverts_fit_one_message():
    record = DbInfo((Advert(BLINDED, AdvertOp.ADD),) * MAX_ADVERTS)
    assert MAX_ADVERTS == 15
    assert DbInfo.parse(record.encode()) == record
    with pytest.raises(ParseError):
        DbInfo.parse(record.encode() + record.adverts[0].encode())
    with pytest.raises(LocalError):
        DbInfo(record.adverts * 2).encode()


@pytest.mark.parametrize(
    "data",
    [b"", BLINDED, *(BLINDED + rest for rest in (b"\0", b"\5", b"\3", b"\3" + bytes(67), b"\1" + BLINDED))],
)
def test_malformed_adverts(data):
    with pytest.raises(ParseError):
        DbInfo.parse(data)


def test_only_whole_adverts_are_encoded():
    with pytest.raises(LocalError):
        DbInfo(()).encode()
    with pytest.raises(LocalError):
        DbInfo((Advert(b"short", AdvertOp.ADD),)).encode()
    with pytest.raises(LocalError):
        DbInfo((Advert(BLINDED, AdvertOp.ADD_OWNED),)).encode()
    with pytest.raises(LocalError):
        DbInfo((Advert(BLINDED, AdvertOp.ADD, Proof(1, bytes(64))),)).encode()


@pytest.mark.parametrize(("owned", "suffix"), [(False, ".rdv:0"), (True, ".owner.rdv:0")])
def test_targets_survive_begin(owned, suffix):
    name = Name(BLINDED, owned)
    target = format_rdv_target(name)
    assert target == BLINDED.hex() + suffix
    assert parse_rdv_target(Begin.parse(Begin.to(target).encode()).target) == name


@pytest.mark.parametrize(
    "target",
    ["", "a.rdv:0", "g" * 64 + ".rdv:0", *("0" * 64 + end for end in (".rdv:1", ".own.rdv:0")), "A" * 64 + ".rdv:0"],
)
def test_other_targets(target):
    with pytest.raises(ParseError):
        parse_rdv_target(target)
