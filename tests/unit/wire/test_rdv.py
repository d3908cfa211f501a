import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.rdv import (
    MAX_ADVERTS,
    Advert,
    AdvertOp,
    DbInfo,
    format_rdv_target,
    parse_rdv_target,
)
from convergence.wire.relay import Begin

BLINDED = bytes(range(32))


def test_adverts():
    record = DbInfo((Advert(BLINDED, AdvertOp.ADD), Advert(BLINDED, AdvertOp.REMOVE)))
    assert record.encode() == BLINDED + b"\x01" + BLINDED + b"\x02"
    assert DbInfo.parse(memoryview(record.encode())) == record


def test_fifteen_adverts_fit_one_message():
    record = DbInfo((Advert(BLINDED, AdvertOp.ADD),) * MAX_ADVERTS)
    assert MAX_ADVERTS == 15
    assert DbInfo.parse(record.encode()) == record
    with pytest.raises(ParseError):
        DbInfo.parse(record.encode() + record.adverts[0].encode())
    with pytest.raises(LocalError):
        DbInfo(record.adverts * 2).encode()


@pytest.mark.parametrize("data", [b"", BLINDED, BLINDED + b"\0", BLINDED + b"\3", BLINDED + b"\1" + BLINDED])
def test_malformed_adverts(data):
    with pytest.raises(ParseError):
        DbInfo.parse(data)


def test_only_whole_adverts_are_encoded():
    with pytest.raises(LocalError):
        DbInfo(()).encode()
    with pytest.raises(LocalError):
        DbInfo((Advert(b"short", AdvertOp.ADD),)).encode()


def test_targets_survive_begin():
    target = format_rdv_target(BLINDED)
    assert target == BLINDED.hex() + ".rdv:0"
    assert parse_rdv_target(Begin.parse(Begin.to(target).encode()).target) == BLINDED


@pytest.mark.parametrize("target", ["", "a.rdv:0", "g" * 64 + ".rdv:0", "0" * 64 + ".rdv:1", "A" * 64 + ".rdv:0"])
def test_other_targets(target):
    with pytest.raises(ParseError):
        parse_rdv_target(target)
