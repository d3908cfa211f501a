"""Word codes as they are drawn, written down and typed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.codes import LinkFlaw
from convergence.errors import Problem, Why
from convergence.wire.pgpwords import THREE_SYLLABLES, TWO_SYLLABLES
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import BITS, MAX_NUMBER, WordCode, completions, find_code
from tests.sim.world import SeededRng

CODE = WordCode(7, ("crossover", "clockwork"))


def test_the_lists_are_whole_and_tell_their_words_apart():
    assert len(set(THREE_SYLLABLES)) == len(set(TWO_SYLLABLES)) == 256
    assert not set(THREE_SYLLABLES) & set(TWO_SYLLABLES)
    assert 2**BITS == len(THREE_SYLLABLES) * len(TWO_SYLLABLES)
    # Of the published list, by the bytes that they stand for.
    assert (THREE_SYLLABLES[0x3C], TWO_SYLLABLES[0x3B]) == ("crossover", "clockwork")
    assert (THREE_SYLLABLES[0xFF], TWO_SYLLABLES[0xFF]) == ("yucatan", "zulu")


def test_codes_are_drawn_from_all_numbers_and_words():
    rng = SeededRng("codes")
    drawn = [WordCode.draw(rng) for _ in range(3000)]
    assert {word for code in drawn for word in code.words} == {*THREE_SYLLABLES, *TWO_SYLLABLES}
    assert all(1 <= code.number <= MAX_NUMBER for code in drawn)
    assert len({code.number for code in drawn}) > 2000 and len({str(code) for code in drawn}) > 2990


@pytest.mark.parametrize(
    "text",
    [
        *("7-crossover-clockwork", "7-Crossover-Clockwork", " 7 crossover clockwork\n", "7, crossover, clockwork."),
        *("0007-crossover-clockwork", "7_CROSSOVER_CLOCKWORK"),
    ],
)
def test_a_code_is_found_however_it_was_written_down(text):
    assert find_code(text) == CODE and str(CODE) == "7-crossover-clockwork"


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "crossover-clockwork", "7-", "x-crossover-clockwork", "7-crossover-clockwork-adult", "hash:chess"),
        ShareLink(b"n" * 32, b"k" * 32).format("https://site.example"),
        ShareLink(b"\0" * 32, b"k" * 32).format(),
        "7-crossover-clockwork" + " " * 100,
    ],
)
def test_other_things_are_no_codes(text):
    assert find_code(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0-crossover-clockwork", Why(LinkFlaw.CODE_NUMBER, {"most": MAX_NUMBER})),
        ("10000-crossover-clockwork", Why(LinkFlaw.CODE_NUMBER, {"most": MAX_NUMBER})),
        ("7-crossover", Why(LinkFlaw.CODE_SHORT)),
        ("7-clockwork-crossover", Why(LinkFlaw.CODE_ORDER)),
        ("7-crosover-clockwork", Why(LinkFlaw.CODE_WORD, {"word": "crosover"})),
        ("7-crossover-clockwerk", Why(LinkFlaw.CODE_WORD, {"word": "clockwerk"})),
    ],
)
def test_a_mistake_is_found_before_it_uses_up_the_code(text, why):
    with pytest.raises(Problem) as flaw:
        find_code(text)
    assert flaw.value.why == why


@settings(max_examples=50)
@given(st.text(max_size=120))
def test_any_text_is_a_code_or_none_or_a_flaw(text):
    try:
        code = find_code(text)
    except Problem:
        return
    assert code is None or find_code(str(code)) == code


def test_words_are_completed():
    assert list(completions("7-cr")) == ["7-crossover", "7-crucifix"]
    assert list(completions("12-crossover-cl")) == [
        *("12-crossover-clamshell", "12-crossover-classic", "12-crossover-classroom", "12-crossover-cleanup"),
        "12-crossover-clockwork",
    ]
    assert len(list(completions("7-"))) == 256
    for typed in ("", "7", "cr", "0-cr", "7-crossover-clockwork-", "https://site-cr"):
        assert list(completions(typed)) == []


def test_a_code_does_not_show_in_logs_and_its_number_alone_leads_to_it():
    assert "clockwork" not in repr(CODE)
    assert CODE.hash_name == WordCode(7, ("adroitness", "zulu")).hash_name != WordCode(8, CODE.words).hash_name
