"""Consensus diffs (dir-spec 4.5 and appendix E): what changed since a consensus that the client has.

Does: apply one, if it is for this consensus and gives what it promises.
Does not: trust the result: it is a consensus like one that was fetched whole.

A diff is applied from the end of the document to its start, as the specification demands, so that the work is one pass
over both, whatever the diff says.
"""

from __future__ import annotations

import re
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
