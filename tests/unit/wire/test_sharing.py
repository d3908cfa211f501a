from dataclasses import replace

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.descriptor import MAX_DESCRIPTOR
from convergence.wire.facilitator import MAX_SEALED
from convergence.wire.sharing import (
    MAX_IN_PART,
    MAX_PARTS,
    MAX_PASSED,
    NOBODY,
    VERSION,
    Back,
    Beat,
    CutNode,
    CutPart,
    Decided,
    Decision,
    Dropped,
    Forward,
    NodeRecord,
    Passed,
    SharedType,
    encode_shared,
    parse_shared,
)

KEY = b"k" * 32
FORWARD, BACK = Forward(1, KEY, 1, NOBODY, b""), Back(1, KEY, 1, b"")


def passed(kind, body):
    """As one that does not check what it says."""
    return bytes([VERSION, SharedType.PASSED, kind]) + len(body).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes([VERSION]),
        bytes([VERSION + 1, SharedType.DROPPED]) + Dropped(KEY, 9).encode(),
        bytes([VERSION, 99]) + Dropped(KEY, 9).encode(),
        encode_shared(Dropped(KEY, 9))[:-1],
        encode_shared(Dropped(KEY, 9)) + b"x",
        encode_shared(Beat(1, 1, 1, 1, "")) + b"v" * 65,
        encode_shared(Beat(1, 1, 1, 1, "")) + b"\xff",
        encode_shared(NodeRecord(NOBODY, 1, 1, NOBODY, b"")) + bytes(MAX_DESCRIPTOR + 1),
        bytes([VERSION, SharedType.FORWARD]) + FORWARD.encode(),
        passed(SharedType.FORWARD, FORWARD.encode() + bytes(MAX_SEALED + 1)),
        passed(SharedType.BACK, BACK.encode() + bytes(MAX_SEALED + 5)),
        passed(SharedType.DROPPED, Dropped(KEY, 9).encode()),
        encode_shared(Passed((FORWARD, BACK)))[:-1],
        encode_shared(Passed((BACK,) * (MAX_PASSED + 1))),
        encode_shared(Decision(KEY, True, NOBODY, MAX_PARTS + 1, b"")),
        encode_shared(Decided(1)) + b"x",
        encode_shared(CutPart((CutNode(KEY, 1),) * (MAX_IN_PART + 1))),
        encode_shared(CutPart((CutNode(KEY, 1, 1, bytes(MAX_DESCRIPTOR + 1)),))),
        encode_shared(CutPart((CutNode(KEY, 1, 1, b"d"),)))[:-1],
    ],
)
def test_what_is_of_another_form_or_too_long_is_refused(data):
    with pytest.raises(ParseError):
        parse_shared(data)


def test_nothing_too_long_is_made():
    with pytest.raises(LocalError):
        encode_shared(Passed((replace(FORWARD, sealed=bytes(MAX_SEALED + 1)),)))
    hears = (KEY[:16], NOBODY)
    long = Beat(1, 1, 1, 1, "v" * 99, hears=hears)
    assert parse_shared(encode_shared(long)) == Beat(1, 1, 1, 1, "v" * 64, hears=hears)
