"""The meta-format of Tor's directory documents (dir-spec 1.2): keyword lines, some with a PEM-like object.

Does: cut a document into items, read their objects, dates and keys, and hold them to the multiplicities that a kind of
document states; write items.
Does not: know any document. Keywords that a document does not ask for are ignored, as the specification demands.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from calendar import timegm
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice

from convergence.errors import LocalError, ParseError
from convergence.ports import Buffer
from convergence.wire.reader import utf8

MAX_LINE = 1 << 16
"""Bytes of one line. The longest real ones are lists of families and of versions, some 20 kB."""
MAX_OBJECT = 8192
"""Bytes of one object, encoded. The largest real one, a key of 4096 bits, takes 780."""
MAX_ITEMS = 4096
"""Items of one document. Only exit policies have hundreds."""
MAX_LIST = 4096
"""Entries of one line: flags, parameters, members of a family."""
DIGEST_LEN = 20
KEY_LEN = 32
RSA_KEY = "RSA PUBLIC KEY"
SIGNATURE = "SIGNATURE"
ED25519_CERT = "ED25519 CERT"

OrAddress = tuple[IPv4Address | IPv6Address, int]
"""Where a relay is reached: address and port."""

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*", re.ASCII)
_BEGIN = re.compile(r"-----BEGIN ([A-Za-z0-9][A-Za-z0-9-]*(?: [A-Za-z0-9][A-Za-z0-9-]*)*)-----", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)
_HEX = re.compile(r"[0-9A-Fa-f]*", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Item:
    """One item.

    Args:
        keyword: the first word.
        rest: the line after the keyword and the blanks that follow it.
        label: of the object; "" without one.
        data: the decoded object.
        start, end: where its keyword line begins in the document, and where the item ends, in bytes.
    """

    keyword: str
    rest: str
    label: str
    data: bytes
    start: int
    end: int

    @property
    def args(self) -> list[str]:
        """The arguments: what stands between blanks."""
        return blank_separated(self.rest)

    def words(self, count: int) -> list[str]:
        """The first `count` arguments; more are allowed. Raises ParseError if there are fewer."""
        words = self.args
        if len(words) < count:
            raise ParseError(f'"{self.keyword}" lacks arguments')
        return words[:count]

    def date(self, at: int = 0) -> int:
        """Unix seconds of the date in the arguments `at` and after."""
        return parse_date(" ".join(self.words(at + 2)[at:]))

    def integer(self, at: int = 0, least: int = 0, most: int = (1 << 63) - 1) -> int:
        """The argument `at` as a number."""
        return parse_integer(self.words(at + 1)[at], self.keyword, least, most)

    def entries(self) -> list[str]:
        """All arguments, at most MAX_LIST."""
        words = self.args
        if len(words) > MAX_LIST:
            raise ParseError(f'"{self.keyword}" has too many entries')
        return words

    def numbers(self) -> dict[str, int]:
        """`name=number` for each argument (dir-spec 3.4.1, "params"). One that is malformed or has more than 32 bits is
        left out, so that its default holds (path-spec 2.2); of several with one name the first counts."""
        found: dict[str, int] = {}
        for word in self.entries():
            name, _, value = word.partition("=")
            with suppress(ParseError):
                found.setdefault(name, parse_integer(value, self.keyword, -(1 << 31), (1 << 31) - 1))
        return found


class Document:
    """The items of one document, in order.

    Args:
        data: all of it; `what` names it in errors.
        limit: its most bytes.

    Raises:
        ParseError: it is too large, or does not have the meta-format.
    """

    def __init__(self, data: Buffer, what: str, limit: int) -> None:
        self.what = what
        if len(data) > limit:
            raise ParseError(f"{what} is larger than {limit} bytes")
        self._data = bytes(data)
        self.items = _items(self._data, what)
        self._by_keyword: dict[str, list[Item]] = {}
        for item in self.items:
            self._by_keyword.setdefault(item.keyword, []).append(item)

    def many(self, keyword: str, *labels: str) -> list[Item]:
        """All items of this keyword. Each has an object of one of these labels, or none if no label is given."""
        found = self._by_keyword.get(keyword, [])
        if any(item.label not in (labels or ("",)) for item in found):
            raise ParseError(f'"{keyword}" in {self.what} has not the object that it must have')
        return found

    def optional(self, keyword: str, *labels: str) -> Item | None:
        """The item of this keyword, which occurs once at most."""
        found = self.many(keyword, *labels)
        if len(found) > 1:
            raise ParseError(f'"{keyword}" occurs twice in {self.what}')
        return found[0] if found else None

    def one(self, keyword: str, *labels: str) -> Item:
        """The item of this keyword, which occurs exactly once."""
        found = self.optional(keyword, *labels)
        if found is None:
            raise ParseError(f'{self.what} lacks "{keyword}"')
        return found

    def first(self, keyword: str, *labels: str) -> Item:
        """The same for what stands at the start."""
        found = self.one(keyword, *labels)
        if found.start:
            raise ParseError(f'{self.what} does not begin with "{keyword}"')
        return found

    def last(self, keyword: str, *labels: str) -> Item:
        """The same for what stands at the end."""
        found = self.one(keyword, *labels)
        if found is not self.items[-1]:
            raise ParseError(f'{self.what} does not end with "{keyword}"')
        return found

    def through_line(self, item: Item) -> bytes:
        """From the start through the newline after the item's arguments: what most signatures cover (dir-spec 1.3)."""
        return self._data[: self._data.index(b"\n", item.start) + 1]

    def through_keyword(self, item: Item) -> bytes:
        """From the start through the blank after the item's keyword: what the other signatures cover."""
        return self._data[: item.start + len(item.keyword) + 1]

    def has(self, keyword: str) -> bool:
        """Whether this keyword, which occurs once at most, occurs."""
        return self.optional(keyword) is not None


def _items(data: bytes, what: str) -> list[Item]:
    if b"\0" in data:
        raise ParseError(f"{what} has a zero byte")
    if data and not data.endswith(b"\n"):
        raise ParseError(f"{what} is cut short")
    items: list[Item] = []
    at = 0
    while at < len(data):
        end = data.index(b"\n", at) + 1
        if end - at > MAX_LINE:
            raise ParseError(f"{what} has a line of more than {MAX_LINE} bytes")
        if end - at > 1:
            line = utf8(data[at : end - 1], what)
            keyword = _KEYWORD.match(line)
            if keyword is None or line[keyword.end() : keyword.end() + 1] not in ("", " ", "\t"):
                raise ParseError(f"{what} has a line without a keyword")
            label, decoded = "", b""
            start = at
            if data.startswith(b"-----BEGIN ", end):
                label, decoded, end = _object(data, end, what)
            items.append(Item(keyword[0], line[keyword.end() :].strip(" \t"), label, decoded, start, end))
            if len(items) > MAX_ITEMS:
                raise ParseError(f"{what} has more than {MAX_ITEMS} items")
        at = end
    if not items:
        raise ParseError(f"{what} is empty")
    return items


def _object(data: bytes, start: int, what: str) -> tuple[str, bytes, int]:
    """Label, bytes and end of the object at `start`."""
    body = data.index(b"\n", start) + 1
    begin = _BEGIN.fullmatch(data[start : body - 1].decode("latin-1"))
    if begin is None:
        raise ParseError(f"{what} has an object without a label")
    marker = b"-----END " + begin[1].encode() + b"-----\n"
    stop = data.find(marker, body, body + MAX_OBJECT + len(marker))
    if stop < 0:
        raise ParseError(f"{what} has an object without an end, or of more than {MAX_OBJECT} bytes")
    text = data[body:stop].decode("latin-1")
    if text and not text.endswith("\n"):
        raise ParseError(f"{what} has an object without an end")
    return begin[1], parse_base64(text.replace("\n", ""), what), stop + len(marker)


# -- values


def blank_separated(text: str) -> list[str]:
    """What stands between spaces and tabs: no other character separates arguments."""
    return [word for word in text.replace("\t", " ").split(" ") if word]


def parse_base64(text: str, what: str, size: int | None = None) -> bytes:
    """The bytes of base64 with its padding or without; `size` of them, if it is given. Raises ParseError."""
    if not _BASE64.fullmatch(text):
        raise ParseError(f"{what} has no valid base64")
    try:
        data = a2b_base64(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    except Base64Error:
        raise ParseError(f"{what} has no valid base64") from None
    if size is not None and len(data) != size:
        raise ParseError(f"{what} has a value of a wrong length")
    return data


def parse_hex(text: str, what: str, size: int = DIGEST_LEN) -> bytes:
    """`size` bytes in hex. Raises ParseError."""
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        raise ParseError(f"{what} has no valid digest")
    return bytes.fromhex(text)


def parse_integer(text: str, what: str, least: int = 0, most: int = (1 << 63) - 1) -> int:
    """A decimal number within these bounds. Raises ParseError."""
    if not _INTEGER.fullmatch(text) or not least <= int(text) <= most:
        raise ParseError(f'"{what}" has no valid number')
    return int(text)


def parse_date(text: str) -> int:
    """Unix seconds of "YYYY-MM-DD HH:MM:SS", UTC. Raises ParseError."""
    match = _DATE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        return timegm(datetime(*map(int, match.groups())).timetuple())  # type: ignore[arg-type]
    except ValueError:
        raise ParseError("a directory document has no valid date") from None


def format_date(when: float) -> str:
    """The reverse of `parse_date`."""
    return datetime.fromtimestamp(int(when), UTC).replace(tzinfo=None).isoformat(" ")


def unpadded(data: bytes) -> str:
    """Base64 without padding, as most directory documents have it."""
    return b64encode(data).decode().rstrip("=")


def encode_item(keyword: str, *args: object, label: str = "", data: bytes = b"") -> str:
    """One item, with an object if `label` is given. Raises LocalError for arguments that would be read as others."""
    line = " ".join([keyword, *map(str, args)])
    if any(char in line for char in "\n\r\0") or not _KEYWORD.fullmatch(keyword):
        raise LocalError(f'"{keyword}" cannot be written on a line')
    if not label:
        return line + "\n"
    return f"{line}\n{encode_object(label, data)}"


def encode_object(label: str, data: bytes) -> str:
    """An object, wrapped at 64 characters."""
    text = b64encode(data).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def split(data: bytes, keyword: str, limit: int) -> list[bytes]:
    """Cut documents that follow one another where a line begins with `keyword`: at most `limit`. What precedes the
    first is dropped. Raises ParseError if there are more."""
    begin = rb"\n" + keyword.encode() + rb"(?=[ \n])"
    starts = [match.start() for match in islice(re.finditer(begin, b"\n" + data), limit + 1)]
    if len(starts) > limit:
        raise ParseError(f"more than {limit} documents at once")
    return [data[start:end] for start, end in zip(starts, [*starts, len(data)][1:], strict=True)]


def join(parts: Iterable[str]) -> bytes:
    """Items as one document."""
    return "".join(parts).encode()


def parse_address(text: str) -> OrAddress:
    """Address and port, 1 to 65535, of "192.0.2.1:443" or "[2001:db8::1]:443". Raises ParseError."""
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        if (address.version == 6) != host.startswith("[") or getattr(address, "scope_id", None):
            raise ValueError
    except ValueError:
        raise ParseError("a directory document has an address that is none") from None
    return address, parse_integer(port, "port", 1, 65535)


def format_address(address: OrAddress) -> str:
    """The reverse of `parse_address`."""
    host, port = address
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
