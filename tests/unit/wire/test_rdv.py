import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.rdv import (
    MAX_ADVERTS,
    Advert,
    AdvertOp,
    DbInfo,
    format_rdv_target,
    parse_rdv_target,
    size_class,
)
from convergence.wire.relay import Begin

BLINDED = bytes(range(32))


def test_adverts():
    record = DbInfo((Advert(BLINDED, 25, AdvertOp.ADD), Advert(BLINDED, 0, AdvertOp.REMOVE)))
    assert record.encode() == BLINDED + b"\x19\x01" + BLINDED + b"\x00\x02"
    assert DbInfo.parse(memoryview(record.encode())) == record


def test_fourteen_adverts_fit_one_message():
    record = DbInfo((Advert(BLINDED, 1, AdvertOp.ADD),) * MAX_ADVERTS)
    assert MAX_ADVERTS == 14
    assert DbInfo.parse(record.encode()) == record
    with pytest.raises(ParseError):
        DbInfo.parse(record.encode() + record.adverts[0].encode())
    with pytest.raises(LocalError):
        DbInfo(record.adverts * 2).encode()


@pytest.mark.parametrize(
    "data", [b"", BLINDED, BLINDED + b"\1", BLINDED + b"\x41\1", BLINDED + b"\1\0", BLINDED + b"\1\3"]
)
def test_malformed_adverts(data):
    with pytest.raises(ParseError):
        DbInfo.parse(data)


def test_only_whole_adverts_are_encoded():
    with pytest.raises(LocalError):
        DbInfo(()).encode()
    with pytest.raises(LocalError):
        DbInfo((Advert(b"short", 1, AdvertOp.ADD),)).encode()


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (255, 8), (256, 9), (2**64 - 1, 64)])
def test_size_class_tells_only_the_magnitude(size, expected):
    assert size_class(size) == expected


def test_targets_survive_begin():
    target = format_rdv_target(BLINDED)
    assert target == BLINDED.hex() + ".rdv:0"
    assert parse_rdv_target(Begin.parse(Begin.to(target).encode()).target) == BLINDED


@pytest.mark.parametrize("target", ["", "a.rdv:0", "g" * 64 + ".rdv:0", "0" * 64 + ".rdv:1", "A" * 64 + ".rdv:0"])
def test_other_targets(target):
    with pytest.raises(ParseError):
        parse_rdv_target(target)
