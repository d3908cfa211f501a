"""Where a pipe leads: the three kinds of address, as people write them.

    tcp://host:port            a host on the web, through an exit
    hash:Satoshi Nakamoto      a public service: whoever knows the text may offer it, none of them is authenticated
    <hash_name>.<key>          a private service: only who has this capability finds it, and its owner is authenticated

Does: parse and format them, and the host names that stand for services in programs that know host names only.
Does not: derive keys (rdv/keys.py), or find anything.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b32decode, b32encode
from dataclasses import dataclass
from hashlib import sha256

from convergence.codes import AddressFlaw
from convergence.errors import ParseError, Problem
from convergence.wire.relay import PEER_HOST, RDV_SUFFIX, format_target, parse_target
from convergence.wire.sharelink import ShareLink

MAX_NAME = 1024  # bytes of a public service's text in UTF-8
HASH_LEN = 32
HASH_SUFFIX = ".hash.conv"  # <name or base32 of its SHA-256>.hash.conv: a public service
KEY_SUFFIX = ".key.conv"  # <base32 of the key>.key.conv: a private service
RESERVED = ("." + PEER_HOST, RDV_SUFFIX, ".conv", ".onion", ".exit")  # names that no exit is to look up, or to hear

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BASE32 = re.compile(r"[a-z2-7]{51}[aq]", re.ASCII)  # 32 bytes: the last character holds one bit
_HOST_PORT = re.compile(r"(\[[^]]*]|[^:]*):[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (lower case, an IPv6 address without brackets) and a port, 1 to 65535."""

    host: str
    port: int

    @property
    def target(self) -> str:
        """For a BEGIN: "host:port"."""
        return format_target(self.host, self.port)

    def __str__(self) -> str:
        return f"tcp://{self.target}"


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """A public service.

    Args:
        hash_name: SHA-256 of the text in UTF-8 (NFC), 32 bytes.
        text: empty where only its hash was given.
    """

    hash_name: bytes
    text: str = ""

    @classmethod
    def of(cls, text: str) -> PublicAddress:
        """Of a text, or of 64 hex digits that are its hash. Raises Problem (AddressFlaw)."""
        text = unicodedata.normalize("NFC", text.strip())
        if _HEX.fullmatch(text.lower()):
            return cls(bytes.fromhex(text))
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise Problem(AddressFlaw.CHARACTERS) from None
        if not encoded:
            raise Problem(AddressFlaw.NO_NAME)
        if len(encoded) > MAX_NAME:
            raise Problem(AddressFlaw.LONG_NAME, most=MAX_NAME)
        if any(unicodedata.category(character) == "Cc" for character in text):
            raise Problem(AddressFlaw.CHARACTERS)
        return cls(sha256(encoded).digest(), text)

    @property
    def host(self) -> str:
        """Its name for programs that know host names only."""
        return _base32(self.hash_name) + HASH_SUFFIX

    def __str__(self) -> str:
        return f"hash:{self.text or self.hash_name.hex()}"


@dataclass(frozen=True, slots=True, repr=False)
class PrivateAddress:
    """A private service. Whoever has it can reach the service, so never log it (repr hides it).

    Args:
        key: the owner's public X25519 key, 32 bytes.
    """

    key: bytes

    @property
    def hash_name(self) -> bytes:
        return sha256(b"convergence:private" + self.key).digest()

    @property
    def host(self) -> str:
        """Its name for programs that know host names only."""
        return _base32(self.key) + KEY_SUFFIX

    def __str__(self) -> str:
        return ShareLink(self.hash_name, self.key).format()


ServiceAddress = PublicAddress | PrivateAddress
Address = TcpAddress | ServiceAddress


def parse_address(text: str) -> Address:
    """What people write; "host:port" and full links are taken too. Raises Problem (AddressFlaw, LinkFlaw)."""
    text = text.strip()
    scheme, _, rest = text.partition(":")
    match scheme.lower():
        case "":
            raise Problem(AddressFlaw.NO_ADDRESS)
        case "hash":
            return PublicAddress.of(rest)
        case "tcp":
            return _target(rest.removeprefix("//"))
    if _HOST_PORT.fullmatch(text):
        return _target(text)
    if not set(".#") & set(text):
        raise Problem(AddressFlaw.NO_ADDRESS)
    link = ShareLink.parse(text)
    address = PrivateAddress(link.key)
    if link.hash_name != address.hash_name:
        raise Problem(AddressFlaw.FILE)
    return address


def address_of(host: str, port: int) -> Address:
    """Of a host and port that a program asked for. Raises Problem (AddressFlaw)."""
    host = host.rstrip(".")
    name = host.lower()
    if name.endswith(KEY_SUFFIX):
        label = name.removesuffix(KEY_SUFFIX)
        if not _BASE32.fullmatch(label):
            raise Problem(AddressFlaw.NO_KEY)
        return PrivateAddress(_unbase32(label))
    if name.endswith(HASH_SUFFIX):
        label = name.removesuffix(HASH_SUFFIX)
        if _BASE32.fullmatch(label):
            return PublicAddress(_unbase32(label))
        try:
            return PublicAddress.of(label.encode().decode("idna"))
        except UnicodeError:
            raise Problem(AddressFlaw.CHARACTERS) from None
    host, port = _split(format_target(host, port))
    if is_reserved(host) or not port:
        raise Problem(AddressFlaw.NO_HOST)
    return TcpAddress(host, port)


def is_reserved(host: str) -> bool:
    """Whether this name (lower case) has no place in the DNS. An exit that is asked for it learns of it for nothing:
    <key>.key.conv is a capability."""
    return f".{host.rstrip('.')}".endswith(RESERVED)


def _target(target: str) -> Address:
    return address_of(*_split(target))


def _split(target: str) -> tuple[str, int]:
    try:
        return parse_target(target)
    except ParseError:
        raise Problem(AddressFlaw.NO_HOST) from None


def _base32(data: bytes) -> str:
    return b32encode(data).decode("ascii").rstrip("=").lower()


def _unbase32(label: str) -> bytes:
    return b32decode(label.upper() + "====")
