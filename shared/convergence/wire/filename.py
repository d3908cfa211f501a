"""File names that strangers chose, made fit to save a file under: the same name from the page and from the command.

Does: replace, character by character, what would mislead a file system, a shell or a reader, and nothing else.
Does not: check whether the name is taken.
"""

from __future__ import annotations

import re
import unicodedata

MAX_BYTES = 240
"""Of a name in UTF-8: file systems take 255, and " (1)" may be added."""
MAX_EXTENSION = 32
"""Bytes of an ending, with its dot, that is kept when a name is cut."""
REPLACEMENT = "_"

_FORBIDDEN = re.compile(r'[/\\<>:"|?*]')  # separators, and what Windows refuses
_EDGES = re.compile(r"^-|[. ]+$")  # options of commands; Windows drops dots and spaces at the end
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
_JOINERS = "\u200c\u200d"  # of Persian and Indic words, and of emoji


def saved_name(name: str) -> str:
    """`name` with "_" for each control, line break, mark that reorders text or is invisible, path separator and other
    character that some system forbids. At most MAX_BYTES remain, and the ending. "file" if nothing was there."""
    plain = _FORBIDDEN.sub(REPLACEMENT, "".join(REPLACEMENT if _misleads(char) else char for char in name))
    plain = _EDGES.sub(lambda match: REPLACEMENT * len(match[0]), plain)
    return _shorten(REPLACEMENT + plain if _DEVICE.match(plain) else plain) or "file"


def _misleads(char: str) -> bool:
    kind = unicodedata.category(char)
    if kind == "Cf":
        return char not in _JOINERS and not "\U000e0020" <= char <= "\U000e007f"  # the tags that make up flags
    return kind in ("Cc", "Cs", "Zl", "Zp")


def _shorten(name: str) -> str:
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, ending = name.rpartition(".")
    extension = dot + ending if stem and len((dot + ending).encode()) <= MAX_EXTENSION else ""
    stem = name.removesuffix(extension) if extension else name
    room = MAX_BYTES - len(extension.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + extension
