from dataclasses import replace
from hashlib import sha256

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire.ordb import (
    MAX_PIECES,
    MAX_PROOF,
    MAX_RANGES,
    PIECE_SIZE,
    Done,
    FileInfo,
    Have,
    Info,
    MessageCutter,
    Piece,
    Refuse,
    RefuseReason,
    Request,
    commitment,
    encode_message,
    fit_name,
)

ROOT = bytes(range(32))
INFO = FileInfo(ROOT, 300_000, "holiday.jpg", "image/jpeg")
MESSAGES = [
    Info(b"s" * 32, INFO),
    Request(3),
    Piece(1, (b"h" * 32, b"i" * 32), b"data"),
    Piece(0, (b"h" * 32,) * MAX_PROOF, bytes(PIECE_SIZE)),
    Refuse(9, RefuseReason.BUSY),
    Refuse(9, 200),
    Have(((0, 4), (5, 1))),
    Have(()),
    Done(),
]


# FileInfo


def test_file_info_layout():
    data = INFO.encode()
    assert data == ROOT + bytes.fromhex("00000000000493e0 00040000 000b") + b"holiday.jpg\x0aimage/jpeg"
    assert FileInfo.parse(memoryview(data)) == INFO


@pytest.mark.parametrize(("size", "pieces"), [(0, 0), (1, 1), (PIECE_SIZE, 1), (PIECE_SIZE + 1, 2)])
def test_number_of_pieces(size, pieces):
    assert replace(INFO, size=size).pieces == pieces


@pytest.mark.parametrize(
    "info",
    [
        replace(INFO, root=ROOT[1:]),
        replace(INFO, size=-1),
        replace(INFO, size=2**64),
        replace(INFO, size=MAX_PIECES * PIECE_SIZE + 1),
        replace(INFO, piece_size=PIECE_SIZE * 2),
        replace(INFO, piece_size=PIECE_SIZE - 1),
        replace(INFO, piece_size=512),
        replace(INFO, name="x" * 1025),
        replace(INFO, name="x" * 70_000),
        replace(INFO, name="\udc80"),
        replace(INFO, media_type="x" * 128),
        replace(INFO, media_type="x" * 256),
        replace(INFO, media_type="text/\n"),
        replace(INFO, media_type="té"),
    ],
)
def test_descriptions_out_of_range_are_not_encoded(info):
    with pytest.raises(LocalError):
        info.encode()


def test_malformed_descriptions():
    data = INFO.encode()
    name_at = data.index(b"holiday")
    for bad in (b"", data[:-1], data + b"\0", data[: name_at - 2] + b"\xff\xff" + bytes(70_000)):
        with pytest.raises(ParseError):
            FileInfo.parse(bad)
    for at in (name_at, len(data) - 1):
        with pytest.raises(ParseError, match="not text"):
            FileInfo.parse(data[:at] + b"\xff" + data[at + 1 :])


def test_commitment_binds_every_byte_of_the_description():
    expected = sha256(b"convergence:key" + b"s" * 32 + INFO.encode()).digest()
    assert commitment(b"s" * 32, INFO.encode()) == Info(b"s" * 32, INFO).commitment() == expected


@pytest.mark.parametrize(
    ("name", "fitted"),
    [
        ("a.txt", "a.txt"),
        ("x" * 5000, "x" * 1024),
        ("é" * 600, "é" * 512),
        ("x" + "é" * 600, "x" + "é" * 511),
        ("\udc80", "?"),
    ],
)
def test_names_are_fitted_at_a_character_boundary(name, fitted):
    assert fit_name(name) == fitted
    replace(INFO, name=fit_name(name)).encode()


def test_secrets_and_data_do_not_show():
    assert "data" not in repr(Piece(0, (), b"data")).replace("convergence.wire.ordb", "")


# Messages


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back(message):
    assert MessageCutter().feed(encode_message(message)) == [message]


def test_messages_are_cut_anywhere():
    cutter = MessageCutter()
    data = b"".join(encode_message(message) for message in MESSAGES if not isinstance(message, Piece))
    cut = [message for byte in data for message in cutter.feed(bytes([byte]))]
    assert cut == [message for message in MESSAGES if not isinstance(message, Piece)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0\0\0\0", id="unknown type"),
        pytest.param(b"\7\0\0\0", id="unknown type"),
        pytest.param(b"\3\x05\0\0", id="PIECE over the limit"),
        pytest.param(b"\1\xff\xff\xff", id="INFO over the limit"),
        pytest.param(b"\2\0\0\5", id="REQUEST over the limit"),
        pytest.param(b"\6\0\0\1", id="DONE with a body"),
        pytest.param(b"\2\0\0\3abc", id="short REQUEST"),
        pytest.param(b"\2\0\0\4\0\x40\0\0", id="REQUEST out of range"),
        pytest.param(b"\3\0\0\5\0\0\0\0\0", id="PIECE without data"),
        pytest.param(b"\3\0\0\5\0\0\0\0\x01", id="PIECE without its proof"),
        pytest.param(b"\3\0\0\6\0\0\0\0\x41x", id="PIECE with a long proof"),
        pytest.param(b"\4\0\0\4\0\0\0\0", id="short REFUSE"),
        pytest.param(b"\5\0\0\4\0\0\0\0", id="half a range"),
        pytest.param(b"\5\0\0\x08" + b"\0\0\0\1\0\0\0\0", id="empty range"),
        pytest.param(b"\5\0\0\x08" + b"\0\0\0\1\xff\xff\xff\xff", id="range out of range"),
        pytest.param(b"\5\0\0\x10" + b"\0\0\0\5\0\0\0\1\0\0\0\0\0\0\0\1", id="ranges out of order"),
        pytest.param(b"\5\0\0\x10" + b"\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\1", id="ranges that touch"),
    ],
)
def test_malformed_messages(data):
    with pytest.raises(ParseError):
        MessageCutter().feed(data)


@pytest.mark.parametrize(
    ("record", "data"),
    [
        (Request, bytes(5)),
        (Refuse, bytes(6)),
        (Done, b"x"),
        (Have, bytes(8 * MAX_RANGES + 8)),
        (Piece, bytes(PIECE_SIZE + 6)),
    ],
)
def test_records_are_bounded_without_the_cutter(record, data):
    with pytest.raises(ParseError):
        record.parse(data)


def test_records_out_of_range_are_not_encoded():
    for record in (
        Piece(0, (), b""),
        Piece(0, (), bytes(PIECE_SIZE + 1)),
        Piece(0, (ROOT,) * 65, b"x"),
        Have(((1, 0),)),
    ):
        with pytest.raises(LocalError):
            record.encode()


def test_most_ranges_fit():
    have = Have(tuple((2 * n, 1) for n in range(MAX_RANGES)))
    assert MessageCutter().feed(encode_message(have)) == [have]
