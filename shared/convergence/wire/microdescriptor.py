"""Microdescriptors (dir-spec 3.3): the keys of a relay and what it allows, as the authorities condensed them.

Does: parse them, and cut an answer of a directory into those that were asked for.
Does not: know whether a consensus names them: their digest tells.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from hashlib import sha256

from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.exitpolicy import REJECT_ALL, PortPolicy
from convergence.wire.netdoc import (
    KEY_LEN,
    RSA_KEY,
    Document,
    Item,
    OrAddress,
    parse_address,
    parse_base64,
    split,
)
from convergence.wire.protovers import Protocols

MAX_MICRODESCRIPTOR = 1 << 15
"""Bytes of one; real ones have 300 to 13,000, the most of it families."""
MAX_MICRODESCRIPTORS = 1 << 13
"""In one answer."""
START = "onion-key"

_NICKNAME = re.compile(r"[A-Za-z0-9]{1,19}", re.ASCII)
_MEMBER = re.compile(r"(\$[A-Fa-f0-9]{40})(?:[=~][A-Za-z0-9]{1,19})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Microdescriptor:
    """One microdescriptor.

    Args:
        digest: its SHA-256, 32 bytes.
        ntor_key: X25519, 32 bytes.
        ed25519: its Ed25519 identity, 32 bytes. Not to be used where the consensus has the flag NoEdConsensus.
        ipv6: its first IPv6 address.
        family: the relays that it names, as "$" and 40 upper-case hex digits or a lower-case nickname. Two relays are
            of a family if each names the other...
        family_ids: ...or if they have one of these in common (proposal 321): "ed25519:" and a key in base64.
        policy, policy6: which ports it connects to, for IPv4 and IPv6.
    """

    digest: bytes
    ntor_key: bytes
    ed25519: bytes | None
    ipv6: OrAddress | None
    family: frozenset[str]
    family_ids: frozenset[str]
    policy: PortPolicy
    policy6: PortPolicy
    protocols: Protocols

    @classmethod
    def parse(cls, data: Buffer) -> Microdescriptor:
        """Raises ParseError. The old onion key may be missing."""
        document = Document(data, "microdescriptor", MAX_MICRODESCRIPTOR)
        document.first(START, "", RSA_KEY)
        family, family_ids = document.optional("family"), document.optional("family-ids")
        protocols = document.optional("pr")
        return cls(
            digest=sha256(data).digest(),
            ntor_key=parse_base64(document.one("ntor-onion-key").words(1)[0], "a microdescriptor", KEY_LEN),
            ed25519=_ed25519(document.many("id")),
            ipv6=first_ipv6(document.many("a")),
            family=frozenset() if family is None else frozenset(map(family_member, family.entries())),
            family_ids=frozenset() if family_ids is None else frozenset(family_ids.entries()),
            policy=_policy(document.optional("p")),
            policy6=_policy(document.optional("p6")),
            protocols=Protocols.parse(protocols.rest if protocols else ""),
        )


def find_microdescriptors(data: bytes, asked: Container[bytes]) -> dict[bytes, bytes]:
    """Those of an answer of a directory whose digests were asked for, by their digests, not parsed yet: nothing else
    that a directory sends counts.

    Raises:
        ParseError: it sends more than MAX_MICRODESCRIPTORS.
    """
    found = {sha256(part).digest(): part for part in split(data, START, MAX_MICRODESCRIPTORS)}
    return {digest: part for digest, part in found.items() if digest in asked}


def first_ipv6(items: list[Item]) -> OrAddress | None:
    """The first IPv6 address of items "a" or "or-address"; the specification has all others ignored."""
    for item in items:
        address = parse_address(item.words(1)[0])
        if address[0].version == 6:
            return address
    return None


def family_member(name: str) -> str:
    """An entry of a family in its canonical form (dir-spec 3.3); unknown forms stay as they are."""
    member = _MEMBER.fullmatch(name)
    if member:
        return member[1].upper()
    return name.lower() if _NICKNAME.fullmatch(name) else name


def _ed25519(items: list[Item]) -> bytes | None:
    keys = [item.words(2)[1] for item in items if item.words(1) == ["ed25519"]]
    if len(keys) > 1:
        raise ParseError("a microdescriptor with two Ed25519 identities")
    return parse_base64(keys[0], "a microdescriptor", KEY_LEN) if keys else None


def _policy(item: Item | None) -> PortPolicy:
    return REJECT_ALL if item is None else PortPolicy.parse(item.rest)
