"""Share links, as they are made and as people bring them.

    https://site.example/#<hash_name>.<key>        43 letters, digits, - or _ on each side of the dot

Links travel through mails, messengers and paper. Does: find the link in what somebody pastes, whatever was put around
or into it on the way, and the site that it names; say what is wrong where there is none. Does not: open sites.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from convergence.codes import LinkFlaw
from convergence.errors import Problem

MAX_TEXT = 65_536
"""Characters in which a link is looked for."""

_LETTER = r"[A-Za-z0-9_-]"
_BREAK = r"(?:=?[ \t]{0,8}\r?\n[ \t>|]{0,32})?"  # mail programs end lines anywhere, and quote the next one
_PART = rf"({_LETTER}(?:{_BREAK}{_LETTER}){{42}})"  # 32 bytes in base64
_LINK = re.compile(rf"(?<!{_LETTER}){_PART}{_BREAK}\.{_BREAK}{_PART}(?!\.?{_LETTER})", re.ASCII)
_BASE64_OF_32 = re.compile(rf"{_LETTER}{{43}}", re.ASCII)
_SITE = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<place>[^\s<>\"'?]*)|(?P<bare>(?:[\w-]+(?:\.[\w-]+)+|localhost|\[[0-9a-f:]+\])"
    r"(?::\d+)?(?:/[^\s<>\"'?]*)?))(?:\?[^\s<>\"']*)?\Z",
    re.IGNORECASE | re.ASCII,
)
# What programs put in place of a character, once or twice ("%2523" is "#").
_ESCAPED = (
    (re.compile(r"%(?:25)*23"), "#"),
    (re.compile(r"%(?:25)*2e", re.IGNORECASE), "."),
    (re.compile(r"%(?:25)*(?:e2%(?:25)*80%(?:25)*8[b-d]|ef%(?:25)*bb%(?:25)*bf|c2%(?:25)*ad)", re.IGNORECASE), ""),
)


@dataclass(frozen=True, slots=True, repr=False)
class ShareLink:
    """`<site>/#<hash_name>.<key>`: whoever has it can get the file, so never log it (repr hides it).

    Args:
        hash_name: 32 bytes, finds providers.
        key: 32 bytes, the commitment to salt and FileInfo; secures the channel to a provider.
    """

    hash_name: bytes
    key: bytes

    def format(self, site: str = "") -> str:
        """The full link for a site's address, or the bare `<hash_name>.<key>`."""
        bare = f"{_encode_part(self.hash_name)}.{_encode_part(self.key)}"
        return f"{site.rstrip('/')}/#{bare}" if site else bare

    @classmethod
    def parse(cls, text: str) -> ShareLink:
        """The only link in a text: see `find_link`. Raises Problem (LinkFlaw)."""
        return find_link(text).link


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """What a text holds.

    Args:
        site: the address of the site that it names, without a query; as it is written, perhaps without "https://".
            Empty where the link is a bare one.
    """

    link: ShareLink
    site: str = ""


def find_link(text: str) -> Found:
    """The link in what somebody pasted: with text, quotes or brackets around it, broken lines, a query, invisible
    characters, "%23" for "#". Raises Problem (LinkFlaw) where there is none, or more than one."""
    text = _tidied(text[:MAX_TEXT])
    matches = list(_LINK.finditer(text))
    if not matches:
        raise _flaw(text.strip())
    found = [_found(text, match) for match in matches]
    if any(other.link != found[0].link for other in found):
        raise Problem(LinkFlaw.SEVERAL)
    return next((item for item in found if item.site), found[0])


def _tidied(text: str) -> str:
    for pattern, meant in _ESCAPED:
        text = pattern.sub(meant, text)
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def _found(text: str, match: re.Match[str]) -> Found:
    name, key = ("".join(re.findall(_LETTER, part)) for part in match.groups())
    link = ShareLink(_decode_part(name, "first"), _decode_part(key, "second"))
    before = re.sub(rf"{_BREAK}\Z", "", text[: match.start()])
    around = _SITE.search(re.sub(rf"{_BREAK}\Z", "", before[:-1])) if before.endswith("#") else None
    if around is None:
        return Found(link)
    scheme, place, bare = around["scheme"], around["place"], around["bare"]
    if scheme and scheme.lower() not in ("http", "https"):
        return Found(link)  # it names no site
    return Found(link, f"{scheme}://{place}" if scheme else bare)


def _flaw(text: str) -> Problem:
    """What is wrong with a text that holds no link."""
    if not text:
        return Problem(LinkFlaw.NO_LINK)
    fragment = text.rpartition("#")[2]
    if "://" in text and "#" not in text:
        return Problem(LinkFlaw.CUT)
    name, dot, key = fragment.partition(".")
    if not dot:
        return Problem(LinkFlaw.HALF)
    part, which = (key, "second") if _BASE64_OF_32.fullmatch(name) else (name, "first")  # both would be a link
    return Problem(LinkFlaw.SHORT_PART if len(part) < 43 else LinkFlaw.LONG_PART, part=which)


def _decode_part(text: str, which: str) -> bytes:
    data = urlsafe_b64decode(text + "=")
    if _encode_part(data) != text:
        raise Problem(LinkFlaw.ALTERED_PART, part=which)
    return data


def _encode_part(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")
