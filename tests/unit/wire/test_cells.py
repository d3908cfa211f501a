import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.cells import (
    CELL_LEN,
    MAX_VARIABLE,
    PAYLOAD_LEN,
    CellCutter,
    Command,
    encode_cell,
    is_variable,
)

VERSIONS = encode_cell(0, Command.VERSIONS, b"\x00\x04\x00\x05")


def test_fixed_cell_is_padded_to_514_bytes():
    cell = encode_cell(0x80000001, Command.CREATE2, b"abc")
    assert len(cell) == CELL_LEN
    assert cell[:8] == b"\x80\x00\x00\x01\x0aabc"
    assert not any(cell[8:])


def test_versions_cell_has_a_two_byte_circuit_id():
    assert VERSIONS == bytes.fromhex("0000 07 0004 0004 0005")


def test_variable_cell_carries_its_length():
    assert encode_cell(0, Command.CERTS, b"xyz") == bytes.fromhex("00000000 81 0003") + b"xyz"


def test_variable_commands_are_versions_and_those_from_128():
    assert [command for command in range(256) if is_variable(command)] == [7, *range(128, 256)]


def test_payloads_that_do_not_fit_are_refused():
    with pytest.raises(LocalError):
        encode_cell(1, Command.RELAY, bytes(PAYLOAD_LEN + 1))
    with pytest.raises(LocalError):
        encode_cell(0, Command.VPADDING, bytes(MAX_VARIABLE + 1))
    assert len(encode_cell(0, Command.VPADDING, bytes(MAX_VARIABLE))) == MAX_VARIABLE + 7


def test_cutter_gives_cells_and_their_bytes_back():
    cells = [(0, 7, b"\0\4"), (0, 129, b"c"), (9, 3, b"r" * PAYLOAD_LEN), (0, 128, b""), (0, 8, bytes(PAYLOAD_LEN))]
    data = b"".join(encode_cell(*cell) for cell in cells)
    assert CellCutter().feed(data) == cells


def test_cells_are_cut_from_single_bytes():
    cells = [(0, 7, b"\0\4"), (0, 129, b"c"), (9, 3, b"r" * PAYLOAD_LEN)]
    cutter = CellCutter()
    data = b"".join(encode_cell(*cell) for cell in cells)
    assert [cell for byte in data for cell in cutter.feed(bytes([byte]))] == cells


def test_an_incomplete_cell_can_be_taken_back():
    cutter = CellCutter()
    cutter.feed(VERSIONS + b"\0\0\0\0\x81\0")
    assert cutter.release() == b"\0\0\0\0\x81\0"
    assert cutter.feed(encode_cell(0, 129, b"c")) == [(0, 129, b"c")]


def test_padding_may_come_before_versions():
    cutter = CellCutter()
    assert cutter.feed(bytes.fromhex("0000 80 0001 00") + VERSIONS) == [(0, 128, b"\0"), (0, 7, VERSIONS[5:])]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes.fromhex("0000 03"), id="fixed cell before VERSIONS"),
        pytest.param(VERSIONS + bytes.fromhex("00000000 07"), id="second VERSIONS"),
        pytest.param(bytes.fromhex("0000 07 4001"), id="VERSIONS over the limit"),
        pytest.param(VERSIONS + bytes.fromhex("00000000 81 ffff"), id="CERTS over the limit"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="HTTP"),
    ],
)
def test_bad_header_is_refused_before_its_payload(data):
    with pytest.raises(ParseError):
        CellCutter().feed(data)


def test_cutter_holds_one_incomplete_cell_at_most():
    cutter = CellCutter()
    cutter.feed(VERSIONS + bytes.fromhex("00000000 81 4000"))
    cutter.feed(bytes(MAX_VARIABLE - 1))
    assert cutter.held == MAX_VARIABLE + 6
    assert len(cutter.feed(b"\0")) == 1
    assert cutter.held == 0


def test_cutter_stays_broken_after_an_error():
    cutter = CellCutter()
    for data in (b"\0\0\3", VERSIONS):
        with pytest.raises(ParseError):
            cutter.feed(data)
    assert cutter.held == 0


def test_cutter_takes_memoryviews():
    assert CellCutter().feed(memoryview(VERSIONS)) == [(0, 7, VERSIONS[5:])]
