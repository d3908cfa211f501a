"""dir-spec 4.5 and appendix E."""

import random
import time
from hashlib import sha3_256
from types import SimpleNamespace

import pytest

from convergence.errors import ParseError
from convergence.wire import consensus_diff as module
from convergence.wire.consensus import Consensus
from convergence.wire.consensus_diff import apply_diff, is_diff, make_diff
from tests.unit.netdir.authorities import Authority, consensus, relays, vector

BASE = Consensus.parse(consensus([Authority(0)], relays=relays(3)))
LINES = BASE.data.split(b"\n")[:-1]


def diff(commands, result, base=BASE):
    """A diff with valid digests."""
    digest = sha3_256(result).hexdigest()
    return b"network-status-diff-version 1\nhash %s %s\n%s" % (base.diff_base.encode(), digest.encode(), commands)


def joined(lines):
    return b"".join(line + b"\n" for line in lines)


def test_a_diff_of_tor():
    base = Consensus.parse(vector("consensus-microdesc"))
    assert is_diff(vector("consensus-diff")) and not is_diff(base.data)
    assert apply_diff(base, vector("consensus-diff")) == vector("consensus-microdesc-next")


def test_a_diff_of_ours_between_two_of_tor():
    base, after = Consensus.parse(vector("consensus-microdesc")), vector("consensus-microdesc-next")
    made = make_diff(base.data, base.diff_base, after)
    assert apply_diff(base, made) == after and len(made) < 1.2 * len(vector("consensus-diff"))


def test_a_diff_is_for_a_consensus_with_whatever_signatures():
    few, many = (consensus([Authority(at) for at in range(count)], relays=relays(3)) for count in (1, 3))
    base = Consensus.parse(few)
    assert base.diff_base == Consensus.parse(many).diff_base
    made = make_diff(many, base.diff_base, many.replace(b"Bandwidth=", b"Bandwidth=1"))
    assert apply_diff(base, made) == many.replace(b"Bandwidth=", b"Bandwidth=1")


def test_a_diff_of_ours_leads_from_any_consensus_to_any_other():
    rng = random.Random("made")
    entries = [f"r name{rng.randrange(9)} {'A' * 25}{number:02d} 2038\nm x\nw 1\n".encode() for number in range(20)]
    foot = [b"directory-footer\n", b"bandwidth-weights\n", b"directory-signature a\n", b"directory-signature b\n"]

    def some():
        """Relays that stand in order or not, and lines of them that are others or missing."""
        chosen = rng.sample(entries, rng.randrange(20))
        if rng.random() < 0.8:
            chosen.sort(key=lambda entry: entry.split()[2])
        changed = [
            rng.choice((entry, entry, entry.replace(b"w 1", b"w 2"), entry.replace(b"m x\n", b""))) for entry in chosen
        ]
        head = [b"network-status-version 3\n", *rng.sample([b"known-flags\n", b"params\n", b"shared\n"], 2)]
        return b"".join([*head, *changed, *rng.sample(foot, rng.randrange(5))]) + b"r\n" * rng.randrange(2)

    for _ in range(300):
        before, after = some(), some()
        base = SimpleNamespace(data=before, diff_base="A" * 64)
        assert apply_diff(base, make_diff(before, "A" * 64, after)) == after


@pytest.mark.parametrize(
    ("commands", "result"),
    [
        (b"", LINES),
        (b"20,$d\n", LINES[:19]),
        (b"1,$d\n", []),
        (b"2d\n", LINES[:1] + LINES[2:]),
        (b"2,4d\n", LINES[:1] + LINES[4:]),
        (b"2c\nnew\n.\n", LINES[:1] + [b"new"] + LINES[2:]),
        (b"2,4c\nnew\nand more\n.\n", LINES[:1] + [b"new", b"and more"] + LINES[4:]),
        (b"2a\nnew\n.\n", LINES[:2] + [b"new"] + LINES[2:]),
        (b"0a\nnew\n.\n", [b"new", *LINES]),
        (b"%da\nnew\n.\n" % len(LINES), [*LINES, b"new"]),
        (b"9d\n5,6d\n2a\n2d\n.\n1c\n\n.\n", [b"", LINES[1], b"2d", *LINES[2:4], *LINES[6:8], *LINES[9:]]),
        (b"2a\nb\n.\n2a\na\n.\n", LINES[:2] + [b"a", b"b"] + LINES[2:]),
    ],
)
def test_commands(commands, result):
    assert apply_diff(BASE, diff(commands, joined(result))) == joined(result)


@pytest.mark.parametrize(
    "commands",
    [
        *(b"2d\n3d\n", b"2d\n2d\n", b"2a\nx\n.\n3a\ny\n.\n", b"3,5d\n4,6d\n", b"0d\n", b"0c\nx\n.\n", b"5,4d\n"),
        *(b"%dd\n" % (len(LINES) + 1), b"%da\nx\n.\n" % (len(LINES) + 1), b"2,99999999d\n", b"2,999999999999d\n"),
        *(b"2,3a\nx\n.\n", b"2,$c\nx\n.\n", b"$d\n", b"d\n", b"2i\nx\n.\n", b"2s/a/b/\n", b"w\n", b"2d \n", b"\n"),
        *(b"2a\nx\n", b"2c\n", b"-1d\n", b"2,-1d\n"),
    ],
)
def test_commands_out_of_order_or_unknown_are_refused(commands):
    with pytest.raises(ParseError, match="commands|command|block"):
        apply_diff(BASE, diff(commands, b""))


def test_both_digests_are_checked():
    made = diff(b"2d\n", joined(LINES[:1] + LINES[2:]))
    with pytest.raises(ParseError, match="does not give"):
        apply_diff(BASE, made.replace(b"\n2d\n", b"\n3d\n"))
    other = Consensus.parse(consensus([Authority(0)], relays=relays(2)))
    with pytest.raises(ParseError, match="another consensus"):
        apply_diff(other, made)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "cut short"),
        (b"network-status-diff-version 1", "cut short"),
        (b"network-status-diff-version 1\n", "version"),
        (b"network-status-diff-version 2\nhash a b\n", "version"),
        (b"network-status-diff-version 1\nhash a\n", "without digests"),
        (b"network-status-diff-version 1\nhash a b\n", "digest"),
        (b"network-status-diff-version 1\nmash " + b"0" * 64 + b" " + b"0" * 64 + b"\n", "without digests"),
    ],
)
def test_what_is_no_diff_is_refused(text, why):
    with pytest.raises(ParseError, match=why):
        apply_diff(BASE, text)


def test_sizes_are_bounded(monkeypatch):
    many = b"".join(b"%da\n.\n" % (3 - min(2, number)) for number in range(module.MAX_COMMANDS + 1))
    with pytest.raises(ParseError, match="too many"):
        apply_diff(BASE, diff(many, b""))
    monkeypatch.setattr(module, "MAX_LINES", 3)
    with pytest.raises(ParseError, match="3 lines"):
        apply_diff(BASE, diff(b"2d\n1d\n", b""))
    monkeypatch.setattr(module, "MAX_DIFF", 100)
    with pytest.raises(ParseError, match="more than 100"):
        apply_diff(BASE, diff(b"2d\n", b""))


def test_the_work_does_not_depend_on_what_a_diff_says():
    """A hostile cache sends as many commands as it may, each of them at the start of a long document."""
    base = Consensus.parse(consensus([Authority(0)], relays=relays(9000)))
    commands = b"".join(b"%da\n.\n" % max(1, 60_000 - number) for number in range(module.MAX_COMMANDS))
    began = time.process_time()
    with pytest.raises(ParseError, match="out of|does not give"):
        apply_diff(base, diff(commands, b"", base))
    assert time.process_time() - began < 2.0


def test_any_change_of_lines_can_be_applied():
    rng = random.Random("diff")
    for _ in range(50):
        kept = sorted(rng.sample(range(len(LINES)), rng.randrange(len(LINES))))
        result, commands, last = [], [], len(LINES)
        for at in reversed([-1, *kept]):
            block = [b"new %d" % rng.randrange(100) for _ in range(rng.randrange(3))]
            if at + 1 < last:
                commands += [b"%d,%d%s" % (at + 2, last, b"c" if block else b"d")]
            elif block:
                commands += [b"%da" % (at + 1)]
            commands += [*block, b"."] if block else []
            result = ([LINES[at]] if at >= 0 else []) + block + result
            last = at
        assert apply_diff(BASE, diff(joined(commands), joined(result))) == joined(result)
