"""dir-spec 1.2, the meta-format."""

import pytest

from convergence.errors import LocalError, ParseError
from convergence.wire import netdoc
from convergence.wire.netdoc import Document, encode_item, format_address, format_date, parse_address, parse_date, split

OBJECT = "-----BEGIN SOME THING-----\nAAEC\n-----END SOME THING-----\n"


def document(text, limit=1 << 20):
    return Document(text.encode() if isinstance(text, str) else text, "document", limit)


def test_items_come_in_order_with_their_objects():
    first, second, third = document(f"one a  b\tc\n\ntwo\n{OBJECT}three x\n").items
    assert (first.keyword, first.args, first.label) == ("one", ["a", "b", "c"], "")
    assert (second.keyword, second.args, second.label, second.data) == ("two", [], "SOME THING", b"\0\1\2")
    assert third.rest == "x"


def test_only_blanks_separate_arguments():
    [item] = document("one a\x0bb\u00a0c\t d\n").items
    assert item.args == ["a\x0bb\u00a0c", "d"]


def test_what_is_signed_goes_through_the_line_or_through_the_keyword():
    doc = document(f"one\ntwo a b\n{OBJECT}")
    assert doc.through_line(doc.one("two", "SOME THING")) == b"one\ntwo a b\n"
    assert doc.through_keyword(doc.one("two", "SOME THING")) == b"one\ntwo "


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("one", "cut short"),
        ("one\0\n", "zero byte"),
        ("-one\n", "without a keyword"),
        (" one\n", "without a keyword"),
        ("one_two\n", "without a keyword"),
        ("one\r\n", "without a keyword"),
        (b"one \xff\n", "not UTF-8"),
        ("one\n-----BEGIN -----\nAAEC\n-----END -----\n", "without a label"),
        ("one\n-----BEGIN A----- \nAAEC\n-----END A-----\n", "without a label"),
        ("one\n-----BEGIN A-----\nAAEC\n-----END B-----\n", "without an end"),
        ("one\n-----BEGIN A-----\nAAEC-----END A-----\n", "without an end"),
        ("one\n-----BEGIN A-----\nAA EC\n-----END A-----\n", "base64"),
        ("one\n-----BEGIN A-----\nAAECA\n-----END A-----\n", "base64"),
        ("one\n-----BEGIN A-----\n" + "AAEC\n" * 2000 + "-----END A-----\n", "without an end, or of more than"),
        ("-----BEGIN A-----\nAAEC\n-----END A-----\n", "without a keyword"),
        ("one " + "x" * netdoc.MAX_LINE + "\n", "a line of more than"),
        ("a\n" * (netdoc.MAX_ITEMS + 1), "items"),
        ("a\n" * 600_000, "larger than"),
    ],
)
def test_what_is_no_document_is_refused_with_a_reason(text, why):
    with pytest.raises(ParseError, match=why):
        document(text)


def test_items_occur_as_often_and_where_they_must():
    doc = document(f"one\ntwo\ntwo\nthree\n{OBJECT}")
    assert doc.first("one") is doc.items[0] and doc.last("three", "SOME THING") is doc.items[-1]
    assert doc.optional("four") is None and len(doc.many("two")) == 2
    for ask, why in (
        (lambda: doc.one("four"), 'lacks "four"'),
        (lambda: doc.one("two"), "twice"),
        (lambda: doc.optional("two"), "twice"),
        (lambda: doc.first("three", "SOME THING"), "does not begin"),
        (lambda: doc.last("one"), "does not end"),
        (lambda: doc.one("three"), "object"),
        (lambda: doc.one("three", "OTHER"), "object"),
        (lambda: doc.one("one", "SOME THING"), "object"),
    ):
        with pytest.raises(ParseError, match=why):
            ask()


@pytest.mark.parametrize("text", ["a", "a=", "a=1.5", "a=2147483648", "a=" + "9" * 5000, "a=+1", "a=1_0", "a=\u0661"])
def test_a_number_that_is_none_is_left_out(text):
    [item] = document(f"params c=0 {text} b=-5\n").items
    assert item.numbers() == {"c": 0, "b": -5}


def test_the_first_of_several_numbers_of_one_name_counts():
    assert document("params a=x a=1 a=2\n").items[0].numbers() == {"a": 1}


def test_arguments_are_counted():
    with pytest.raises(ParseError, match="too many"):
        document("params " + "a " * (netdoc.MAX_LIST + 1) + "\n").items[0].entries()
    with pytest.raises(ParseError, match="lacks arguments"):
        document("one a\n").items[0].words(2)


def test_dates():
    assert parse_date("2026-11-29 20:40:00") == 1795984800
    assert format_date(1795984800) == "2026-11-29 20:40:00"
    for text in (
        "",
        "2026-11-29",
        "2026-13-29 20:40:00",
        "2026-11-29 24:00:00",
        "2026-11-29T20:40:00",
        "0000-01-01 00:00:00",
    ):
        with pytest.raises(ParseError):
            parse_date(text)


def test_addresses():
    for text in ("192.0.2.1:443", "[2001:db8::1]:9001", "[::]:1"):
        assert format_address(parse_address(text)) == text
    for text in (
        "",
        "192.0.2.1",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "2001:db8::1:80",
        "[192.0.2.1]:80",
        "[fe80::1%a]:80",
    ):
        with pytest.raises(ParseError):
            parse_address(text)


def test_documents_in_a_row_are_cut_where_their_keyword_begins_a_line():
    assert split(b"@note\nkey a\nx key\nkeys\nkey\nz\n", "key", 2) == [b"key a\nx key\nkeys\n", b"key\nz\n"]
    assert split(b"key\nkey\n", "key", 2) == [b"key\n", b"key\n"]
    assert split(b"keys\n", "key", 2) == [] == split(b"", "key", 2)
    with pytest.raises(ParseError, match="more than 2"):
        split(b"key\n" * 3, "key", 2)


def test_what_would_be_read_as_another_item_is_not_written():
    for keyword, value in (("one", "a\nrouter b"), ("one", "a\0"), ("one two", "a"), ("", "a")):
        with pytest.raises(LocalError):
            encode_item(keyword, value)


def test_an_object_is_wrapped_at_64_characters():
    text = encode_item("one", label="A", data=bytes(100))
    assert max(map(len, text.splitlines())) == 64
    assert document(text).one("one", "A").data == bytes(100)
