"""Names that came from the network, made fit for a folder.

Does: turn any text into one file name that is harmless on every system.
Does not: check whether the name is taken.
"""

from __future__ import annotations

import re
import unicodedata

MAX_BYTES = 150
"""Longest name in UTF-8 bytes: file systems take 255, and " (1)" or ".part" may be added."""

MAX_EXTENSION = 20
"""Longest ending, with its dot, that is kept when a name is cut."""

_FORBIDDEN = re.compile(r'[<>:"|?*]')  # Windows refuses them; slashes are removed before
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)


def safe_name(name: str, fallback: str = "file") -> str:
    """The last part of `name` without anything that could mislead a file system, a shell or a reader.

    Path separators, control and format characters (bidi overrides, zero-width ones), line breaks, leading dots and
    dashes and Windows' device names are removed. At most 150 bytes remain; the ending is kept. When nothing is left,
    the result is `fallback` (a safe name).
    """
    parts = [_clean(part) for part in re.split(r"[/\\]", name)]
    cleaned = next((part for part in reversed(parts) if part), "")
    if _DEVICE.match(cleaned):
        cleaned = "_" + cleaned
    return _shorten(cleaned) or fallback


def _clean(part: str) -> str:
    kept = (
        " " if unicodedata.category(c) in ("Zs", "Zl", "Zp") else c
        for c in part
        if not unicodedata.category(c).startswith("C")
    )
    name = unicodedata.normalize("NFC", "".join(kept))
    return _FORBIDDEN.sub("_", name).strip().lstrip(".-~ ").rstrip(". ")


def _shorten(name: str) -> str:
    if len(name.encode()) <= MAX_BYTES:
        return name
    stem, dot, ending = name.rpartition(".")
    extension = dot + ending if stem and len((dot + ending).encode()) <= MAX_EXTENSION else ""
    stem = name.removesuffix(extension) if extension else name
    room = MAX_BYTES - len(extension.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + extension
