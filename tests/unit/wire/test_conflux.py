"""Bodies of conflux messages, laid out by hand as proposal 329 sections 2.2 and 2.6 have them."""

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.conflux import MAX_GAP, NUMBERED, Link, Switch, Wish
from convergence.wire.relay import RelayCommand

NONCE = bytes(range(32))
LINK = b"\x01" + NONCE + bytes(6) + b"\x01\x02" + bytes(7) + b"\x09" + b"\x03"


def test_link_as_the_proposal_lays_it_out():
    link = Link(NONCE, 0x102, 9, Wish.HIGH_THROUGHPUT)
    assert link.encode() == LINK and Link.parse(LINK) == link
    assert Link.parse(LINK + b"later versions") == link


def test_the_nonce_is_not_told_to_logs():
    assert repr(NONCE) not in repr(Link(NONCE))


@pytest.mark.parametrize("size", range(len(LINK)))
def test_a_link_that_is_cut_short_is_refused(size):
    with pytest.raises(ParseError):
        Link.parse(LINK[:size])


@pytest.mark.parametrize("wrong", [b"\x00" + LINK[1:], b"\x02" + LINK[1:], LINK[:-1] + b"\x05"])
def test_another_version_and_an_unknown_wish_are_refused(wrong):
    with pytest.raises(ParseError):
        Link.parse(wrong)


def test_switch_has_32_bits():
    assert Switch(21).encode() == b"\0\0\0\x15" and Switch.parse(b"\0\0\0\x15" + bytes(494)) == Switch(21)
    assert Switch.parse(Switch(MAX_GAP).encode()).gap == 2**32 - 1
    for gap in (0, MAX_GAP + 1):
        with pytest.raises(LocalError):
            Switch(gap).encode()
    for wrong in (b"abc", bytes(4)):
        with pytest.raises(ParseError):
            Switch.parse(wrong)


def test_what_belongs_to_streams_is_numbered_and_nothing_else():
    own = {
        *("EXTEND", "EXTENDED", "EXTEND2", "EXTENDED2", "TRUNCATE", "TRUNCATED", "SENDME", "DROP", "BEGIN_DIR"),
        *("CONFLUX_LINK", "CONFLUX_LINKED", "CONFLUX_LINKED_ACK", "CONFLUX_SWITCH", "DB_INFO"),
    }
    assert {command.name for command in RelayCommand if command not in NUMBERED} == own
