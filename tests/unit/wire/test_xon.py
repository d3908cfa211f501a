import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.xon import UNLIMITED, XOFF_COMMAND, XON_COMMAND, Xoff, Xon


def test_commands():
    """As in C tor's or.h."""
    assert (XOFF_COMMAND, XON_COMMAND) == (43, 44)


def test_layouts():
    assert Xoff().encode() == b"\0"
    assert Xon(0x01020304).encode() == bytes.fromhex("00 01020304")
    assert Xon().encode() == bytes.fromhex("00 00000000")


def test_zero_is_no_limit():
    assert Xon.parse(bytes(5)).kbps_ewma == UNLIMITED


def test_bytes_after_the_fields_are_ignored():
    assert Xoff.parse(memoryview(b"\0more")) == Xoff()
    assert Xon.parse(memoryview(b"\0\0\0\x13\x88more")) == Xon(5000)


@pytest.mark.parametrize("version", [1, 255])
def test_other_versions_break_the_protocol(version):
    for record in (Xoff(), Xon(5000)):
        with pytest.raises(ParseError):
            type(record).parse(bytes([version]) + record.encode()[1:])


def test_records_cut_short():
    for record in (Xoff(), Xon(5000)):
        data = record.encode()
        for size in range(len(data)):
            with pytest.raises(ParseError):
                type(record).parse(data[:size])


@pytest.mark.parametrize("rate", [-1, 2**32])
def test_rates_have_32_bits(rate):
    with pytest.raises(LocalError):
        Xon(rate).encode()
