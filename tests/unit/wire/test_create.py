import pytest

from convergence.errors import DestroyReason, LocalError, ParseError
from convergence.wire.create import Create2, Created2, Destroy, HandshakeType


def test_create2_layout():
    cell = Create2(HandshakeType.NTOR, b"skin")
    assert cell.encode() == bytes.fromhex("0002 0004") + b"skin"
    assert Create2.parse(cell.encode().ljust(509, b"\xff")) == cell


def test_created2_layout():
    cell = Created2(b"reply")
    assert cell.encode() == b"\0\5reply"
    assert Created2.parse(memoryview(cell.encode().ljust(509, b"\0"))) == cell


@pytest.mark.parametrize("record", [Create2, Created2])
@pytest.mark.parametrize("data", [b"", b"\0", b"\0\2\0", b"\xff\xff\xff\xff" + bytes(505)])
def test_lengths_are_checked(record, data):
    with pytest.raises(ParseError):
        record.parse(data)


def test_handshake_data_has_to_fit_a_cell():
    assert len(Create2(2, bytes(505)).encode()) == 509
    assert len(Created2(bytes(507)).encode()) == 509
    with pytest.raises(LocalError):
        Create2(2, bytes(506)).encode()
    with pytest.raises(LocalError):
        Created2(bytes(508)).encode()


def test_destroy_keeps_unknown_reasons_and_needs_none():
    assert Destroy(DestroyReason.TIMEOUT).encode() == b"\x0a"
    assert Destroy.parse(b"\xfe" + bytes(508)) == Destroy(254)
    assert Destroy.parse(b"") == Destroy(DestroyReason.NONE)
