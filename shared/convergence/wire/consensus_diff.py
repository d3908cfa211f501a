"""Consensus diffs (dir-spec 4.5 and appendix E): what changed since a consensus that the client has.

Does: apply one, if it is for this consensus and gives what it promises; make one.
Does not: trust the result: it is a consensus like one that was fetched whole.

A diff is applied from the end of the document to its start, as the specification demands, so that the work is one pass
over both, whatever the diff says.
"""

from __future__ import annotations

import re
from binascii import Error as BinasciiError
from binascii import a2b_base64
from hashlib import sha3_256

from convergence.errors import ParseError
from convergence.wire.consensus import MAX_CONSENSUS, MAX_LINES, Consensus
from convergence.wire.netdoc import parse_hex

MAX_DIFF = MAX_CONSENSUS
"""Bytes of one. A real one has a few hundred thousand."""
MAX_COMMANDS = 1 << 16
"""Real ones have some 10,000."""
START = b"network-status-diff-version"

_COMMAND = re.compile(rb"([0-9]{1,8})(?:,([0-9]{1,8}|\$))?([acd])")
_SIGNATURE = b"directory-signature "
_SHA3 = 32


def is_diff(data: bytes) -> bool:
    """Whether an answer is a diff and not a whole consensus."""
    return data.startswith(START)


def apply_diff(base: Consensus, diff: bytes) -> bytes:
    """The document that the diff makes of this consensus.

    Raises:
        ParseError: the diff is for another consensus, breaks a rule, or does not give what it promises.
    """
    if len(diff) > MAX_DIFF or diff.count(b"\n") > MAX_LINES or not diff.endswith(b"\n"):
        raise ParseError(f"a consensus diff that is cut short or of more than {MAX_DIFF} bytes or {MAX_LINES} lines")
    lines = diff[:-1].split(b"\n")
    if len(lines) < 2 or lines[0] != START + b" 1":
        raise ParseError("a consensus diff of an unknown version")
    words = lines[1].decode("latin-1").split(" ")
    if len(words) < 3 or words[0] != "hash":
        raise ParseError("a consensus diff without digests")
    before, after = (parse_hex(word, "a consensus diff", _SHA3) for word in words[1:3])
    if before.hex().upper() != base.diff_base:
        raise ParseError("a consensus diff for another consensus")
    result = b"\n".join(_edit(base.data.split(b"\n"), lines[2:]))
    if sha3_256(result).digest() != after:
        raise ParseError("a consensus diff that does not give what it promises")
    return result


def make_diff(before: bytes, base: str, after: bytes) -> bytes:
    """The diff from one consensus, which is called `base`, to another.

    Relays are listed by identity, so that both lists are walked once, side by side: the work is that of reading them,
    whatever they hold. It finds no line again that moved elsewhere.
    """
    old, new = before.split(b"\n")[:-1], after.split(b"\n")[:-1]
    # Others have the same consensus with other signatures: they all go, however many there are.
    signed = next((at for at, line in enumerate(old) if line.startswith(_SIGNATURE)), len(old))
    script = [b"%d,$d" % (signed + 1)] if signed < len(old) else []
    del old[signed:]
    for first, last, lines in reversed(_changes(old, new)):
        where = b"%d" % (first + 1) if last - first < 2 else b"%d,%d" % (first + 1, last)
        if first == last:
            script += [b"%da" % first, *lines, b"."]
        elif lines:
            script += [where + b"c", *lines, b"."]
        else:
            script.append(where + b"d")
    head = [START + b" 1", b"hash %s %s" % (base.encode(), sha3_256(after).hexdigest().upper().encode())]
    return b"".join(line + b"\n" for line in head + script)


Change = tuple[int, int, list[bytes]]
"""The lines from the first number up to the second, counted from 0, become these."""


def _changes(old: list[bytes], new: list[bytes]) -> list[Change]:
    """In the order of the document; none touches another."""
    found: list[Change] = []

    def change(first: int, last: int, lines: list[bytes]) -> None:
        if found and found[-1][1] == first:
            before = found.pop()
            first, lines = before[0], before[2] + lines
        found.append((first, last, lines))

    ours, theirs = _parts(old), _parts(new)
    at = 0
    for key, begin, end in theirs:
        while at < len(ours) and ours[at][0] < key:
            change(ours[at][1], ours[at][2], [])
            at += 1
        if at == len(ours) or ours[at][0] != key:
            place = ours[at][1] if at < len(ours) else len(old)
            change(place, place, new[begin:end])
            continue
        first, last = ours[at][1:]
        at += 1
        if old[first:last] == new[begin:end]:
            continue
        if last - first == end - begin:  # most often a relay whose bandwidth is another
            for offset in range(last - first):
                if old[first + offset] != new[begin + offset]:
                    change(first + offset, first + offset + 1, [new[begin + offset]])
        else:
            change(first, last, new[begin:end])
    for _, first, last in ours[at:]:
        change(first, last, [])
    return found


def _parts(lines: list[bytes]) -> list[tuple[tuple[int, bytes], int, int]]:
    """Head, relays and foot: what each is called, so that names rise, and its lines from the first up to the last."""
    marks: list[tuple[tuple[int, bytes], int]] = [((0, b""), 0)]
    for at, line in enumerate(lines):
        if line.startswith(b"r "):
            marks.append(((1, _identity(line)), at))
        elif line == b"directory-footer":
            marks.append(((2, b""), at))
    return [
        (key, at, following)
        for (key, at), following in zip(marks, [*(at for _, at in marks[1:]), len(lines)], strict=True)
    ]


def _identity(line: bytes) -> bytes:
    """That of the relay whose entry begins with this line; the line itself if it names none."""
    words = line.split(b" ", 3)
    try:
        return a2b_base64(words[2] + b"=")
    except (IndexError, BinasciiError):
        return line


def _edit(document: list[bytes], commands: list[bytes]) -> list[bytes]:
    """The lines that the commands make of these. The last, empty one stands for the newline at the end."""
    total = len(document) - 1
    kept_from = total + 1  # the first line, counted from 1, that is behind all commands so far
    parts: list[list[bytes]] = [document[total:]]
    at = count = 0
    while at < len(commands):
        match = _COMMAND.fullmatch(commands[at])
        at += 1
        count += 1
        if match is None or count > MAX_COMMANDS:
            raise ParseError("a consensus diff with an unknown command, or too many")
        first, kind = int(match[1]), match[3]
        last = total if match[2] == b"$" else int(match[2] or first)
        if (kind == b"a" and match[2]) or (kind != b"d" and match[2] == b"$"):
            raise ParseError("a consensus diff with a command that does not take such a range")
        following = last + 1  # the first line behind what this command changes
        if first > last or last > total or following > kept_from or (first == 0 and kind != b"a"):
            raise ParseError("a consensus diff whose commands are out of order or out of the document")
        parts.append(document[following - 1 : kept_from - 1])
        if kind != b"d":
            try:
                end = commands.index(b".", at)
            except ValueError:
                raise ParseError("a consensus diff with a block that does not end") from None
            parts.append(commands[at:end])
            at = end + 1
        kept_from = first + 1 if kind == b"a" else first
    parts.append(document[: kept_from - 1])
    return [line for part in reversed(parts) for line in part]
