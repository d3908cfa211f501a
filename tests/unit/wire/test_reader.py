from enum import IntEnum

import pytest

from convergence.errors import ParseError
from convergence.wire.reader import Cutter, Reader


class Colour(IntEnum):
    RED = 1
    BLUE = 2


def test_fields_are_read_in_order():
    reader = Reader(memoryview(b"\x01\x02\x03abc"), "thing")
    assert reader.unsigned(1) == 1
    assert reader.unsigned(2) == 0x0203
    assert reader.left == 3
    assert reader.take(1) == b"a"
    assert reader.rest() == b"bc"
    reader.finish()


def test_reading_past_the_end_names_the_record():
    with pytest.raises(ParseError, match="thing is cut short"):
        Reader(b"ab", "thing").take(3)


def test_a_member_of_an_enumeration():
    reader = Reader(b"\x01\x03", "thing")
    assert reader.member(Colour) is Colour.RED
    with pytest.raises(ParseError, match="thing with an unknown Colour: 3"):
        reader.member(Colour)


def test_trailing_bytes_are_refused():
    with pytest.raises(ParseError, match="thing has trailing bytes"):
        Reader(b"a", "thing").finish()


def test_a_cutter_has_to_know_its_frames():
    cutter = Cutter[int]()
    with pytest.raises(NotImplementedError):
        cutter.feed(b"x")
    with pytest.raises(NotImplementedError):
        cutter._parse(b"x")
