"""What Tor relays say about themselves: server descriptors (dir-spec 2.1.1) and extra-info documents (2.1.2).

Does: parse both, and write them up to their signatures.
Does not: sign, or check signatures and certificates (crypto/routersign.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1, sha256
from ipaddress import AddressValueError, IPv4Address

from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.certs import SIGNATURE_LEN, Ed25519Cert
from convergence.wire.exitpolicy import REJECT_ALL, ExitPolicy, PortPolicy, Rule
from convergence.wire.netdoc import (
    ED25519_CERT,
    KEY_LEN,
    RSA_KEY,
    SIGNATURE,
    Document,
    Item,
    OrAddress,
    encode_item,
    format_address,
    format_date,
    join,
    parse_address,
    parse_base64,
    parse_hex,
    parse_integer,
    unpadded,
)
from convergence.wire.protovers import Protocols

MAX_DESCRIPTOR = 20_000
MAX_EXTRA_INFO = 50_000
"""Bytes of the documents (dir-spec 2.1)."""
MAX_ADDRESSES = 8
MAX_FAMILY_CERTS = 3
ED25519_PREFIX = b"Tor router descriptor signature v1"
CROSSCERT, FAMILY_CERT = "CROSSCERT", "FAMILY CERT"
START, EXTRA_START = "router", "extra-info"

_NICKNAME = re.compile(r"[A-Za-z0-9]{1,19}", re.ASCII)
_ED25519_SIGNATURE, _RSA_SIGNATURE = "router-sig-ed25519", "router-signature"


@dataclass(frozen=True, slots=True)
class Signatures:
    """The two signatures at the end of a document, and what they are of.

    Args:
        ed25519_digest: SHA-256 of prefix and document through the first signature's keyword.
        rsa_digest: SHA-1 of the document through the second signature's line: in the flavor "ns" of a consensus, and in
            URLs, it names the document.
    """

    ed25519_digest: bytes
    ed25519: bytes
    rsa_digest: bytes
    rsa: bytes

    @classmethod
    def parse(cls, document: Document) -> Signatures:
        """Raises ParseError if they are not the last two items."""
        first, last = document.one(_ED25519_SIGNATURE), document.last(_RSA_SIGNATURE, SIGNATURE)
        if document.items[-2] is not first:
            raise ParseError(f'"{_ED25519_SIGNATURE}" in {document.what} is not the next-to-last item')
        return cls(
            sha256(ED25519_PREFIX + document.through_keyword(first)).digest(),
            parse_base64(first.words(1)[0], document.what, SIGNATURE_LEN),
            sha1(document.through_line(last)).digest(),
            last.data,
        )


@dataclass(frozen=True)
class RouterDescriptor:
    """What a relay says about itself. Keys, certificates and signatures are filled in when it is signed.

    Args:
        address: IPv4, dotted quad.
        dir_port: 0 for none.
        published: Unix seconds.
        bandwidth: bytes a second: average, burst, observed.
        policy, policy6: what it connects to, for IPv4 (and all by name) and IPv6.
        addresses: others under which it is reached.
        extra_info: digests of its extra-info document, SHA-1 of the signed part and SHA-256 of all.
        family: relays that it names, as in a microdescriptor, or as it was written.
        identity_cert: by the Ed25519 identity, for the signing key.
        rsa_key: RSA identity, PKCS#1 DER.
        ntor_key: X25519, 32 bytes; `ntor_cert`, made with that key in its Ed25519 form, whose sign is `ntor_sign`,
            certifies the identity.
        family_certs: by keys of families, for the identity (proposal 321).
        onion_key, onion_crosscert: the old RSA onion key and its vote for the identities, where a relay still has one.
    """

    nickname: str
    address: str
    or_port: int
    published: int
    bandwidth: tuple[int, int, int]
    protocols: Protocols
    policy: ExitPolicy
    policy6: PortPolicy = REJECT_ALL
    dir_port: int = 0
    addresses: tuple[OrAddress, ...] = ()
    platform: str = ""
    contact: str = ""
    uptime: int | None = None
    hibernating: bool = False
    hidden_service_dir: bool = False
    tunnelled_dir_server: bool = False
    caches_extra_info: bool = False
    extra_info: tuple[bytes, bytes | None] | None = None
    family: tuple[str, ...] = ()
    identity_cert: Ed25519Cert | None = None
    rsa_key: bytes = b""
    ntor_key: bytes = b""
    ntor_cert: Ed25519Cert | None = None
    ntor_sign: int = 0
    family_certs: tuple[Ed25519Cert, ...] = ()
    onion_key: bytes | None = None
    onion_crosscert: bytes | None = None
    signatures: Signatures | None = None

    @property
    def identity(self) -> bytes | None:
        """The Ed25519 identity, 32 bytes."""
        return self.identity_cert.signed_with if self.identity_cert else None

    @property
    def rsa_identity(self) -> bytes:
        """SHA-1 of the RSA identity, 20 bytes."""
        return sha1(self.rsa_key).digest()

    @classmethod
    def parse(cls, data: Buffer) -> RouterDescriptor:
        """Raises ParseError."""
        document = Document(data, "server descriptor", MAX_DESCRIPTOR)
        what = document.what
        nickname, address, or_port, _, dir_port = document.first(START).words(5)
        identity_cert = read_identity_cert(document)
        master = document.optional("master-key-ed25519")
        if master and parse_base64(master.words(1)[0], what, KEY_LEN) != identity_cert.signed_with:
            raise ParseError("a server descriptor names two identities")
        rsa_key = document.one("signing-key", RSA_KEY).data
        fingerprint = document.optional("fingerprint")
        if fingerprint and parse_hex("".join(fingerprint.args), what) != sha1(rsa_key).digest():
            raise ParseError("a server descriptor has not the fingerprint of its key")
        crosscert = document.one("ntor-onion-key-crosscert", ED25519_CERT)
        onion_key = document.optional("onion-key", RSA_KEY)
        onion_crosscert = document.optional("onion-key-crosscert", CROSSCERT)
        if (onion_key is None) != (onion_crosscert is None):
            raise ParseError("a server descriptor with an onion key that does not vouch for it, or the reverse")
        family_certs = document.many("family-cert", FAMILY_CERT)
        addresses = document.many("or-address")
        if len(family_certs) > MAX_FAMILY_CERTS or len(addresses) > MAX_ADDRESSES:
            raise ParseError("a server descriptor with too many addresses or families")
        family = document.optional("family")
        policy6 = document.optional("ipv6-policy")
        return cls(
            nickname=_nickname(nickname),
            address=_ipv4(address),
            or_port=_port(or_port),
            published=document.one("published").date(),
            bandwidth=_bandwidth(document.one("bandwidth")),
            protocols=Protocols.parse(document.one("proto").rest),
            policy=_policy(document),
            policy6=PortPolicy.parse(policy6.rest) if policy6 else REJECT_ALL,
            dir_port=_port(dir_port),
            addresses=tuple(parse_address(item.words(1)[0]) for item in addresses),
            platform=_text(document, "platform"),
            contact=_text(document, "contact"),
            uptime=_number(document.optional("uptime")),
            hibernating=bool(_number(document.optional("hibernating"))),
            hidden_service_dir=document.has("hidden-service-dir"),
            tunnelled_dir_server=document.has("tunnelled-dir-server"),
            caches_extra_info=document.has("caches-extra-info"),
            extra_info=_extra_info(document.optional("extra-info-digest")),
            family=tuple(family.entries()) if family else (),
            identity_cert=identity_cert,
            rsa_key=rsa_key,
            ntor_key=parse_base64(document.one("ntor-onion-key").words(1)[0], what, KEY_LEN),
            ntor_cert=Ed25519Cert.parse(crosscert.data),
            ntor_sign=crosscert.integer(most=1),
            family_certs=tuple(Ed25519Cert.parse(item.data) for item in family_certs),
            onion_key=onion_key.data if onion_key else None,
            onion_crosscert=onion_crosscert.data if onion_crosscert else None,
            signatures=Signatures.parse(document),
        )

    def body(self) -> bytes:
        """The document up to its signatures, in the order of tor's own."""
        return join(self._items())

    def _items(self) -> Iterable[str]:
        yield encode_item(START, self.nickname, self.address, self.or_port, 0, self.dir_port)
        if self.identity_cert:
            yield encode_item("identity-ed25519", label=ED25519_CERT, data=self.identity_cert.encode())
            yield encode_item("master-key-ed25519", unpadded(self.identity_cert.signed_with or b""))
        yield from (encode_item("or-address", format_address(address)) for address in self.addresses)
        if self.platform:
            yield encode_item("platform", self.platform)
        yield encode_item("proto", self.protocols)
        yield encode_item("published", format_date(self.published))
        name = self.rsa_identity.hex().upper()
        yield encode_item("fingerprint", *(name[at : at + 4] for at in range(0, len(name), 4)))
        if self.hibernating:
            yield encode_item("hibernating", 1)
        if self.uptime is not None:
            yield encode_item("uptime", self.uptime)
        yield encode_item("bandwidth", *self.bandwidth)
        if self.extra_info:
            first, second = self.extra_info
            yield encode_item("extra-info-digest", first.hex().upper(), *([unpadded(second)] if second else []))
        if self.onion_key:
            yield encode_item("onion-key", label=RSA_KEY, data=self.onion_key)
        yield encode_item("signing-key", label=RSA_KEY, data=self.rsa_key)
        if self.onion_crosscert:
            yield encode_item("onion-key-crosscert", label=CROSSCERT, data=self.onion_crosscert)
        if self.ntor_cert:
            cert = self.ntor_cert.encode()
            yield encode_item("ntor-onion-key-crosscert", self.ntor_sign, label=ED25519_CERT, data=cert)
        if self.caches_extra_info:
            yield encode_item("caches-extra-info")
        if self.hidden_service_dir:
            yield encode_item("hidden-service-dir")
        yield from (encode_item("family-cert", label=FAMILY_CERT, data=cert.encode()) for cert in self.family_certs)
        if self.family:
            yield encode_item("family", *self.family)
        if self.contact:
            yield encode_item("contact", self.contact)
        yield encode_item("ntor-onion-key", unpadded(self.ntor_key))
        yield from (encode_item("accept" if rule.accept else "reject", rule.pattern) for rule in self.policy.rules)
        if self.policy6 != REJECT_ALL:
            yield encode_item("ipv6-policy", self.policy6)
        if self.tunnelled_dir_server:
            yield encode_item("tunnelled-dir-server")


@dataclass(frozen=True)
class ExtraInfo:
    """Statistics of a relay.

    Args:
        rsa_identity: SHA-1 of its RSA identity, 20 bytes.
        lines: the others, keyword and arguments, as they were written.
        digests: what the relay's descriptor names it by, once it is signed.
    """

    nickname: str
    rsa_identity: bytes
    published: int
    lines: tuple[tuple[str, str], ...] = ()
    identity_cert: Ed25519Cert | None = None
    signatures: Signatures | None = None
    digests: tuple[bytes, bytes] | None = None

    @classmethod
    def parse(cls, data: Buffer) -> ExtraInfo:
        """Raises ParseError."""
        document = Document(data, "extra-info document", MAX_EXTRA_INFO)
        nickname, fingerprint = document.first(EXTRA_START).words(2)
        known = {EXTRA_START, "identity-ed25519", "published", _ED25519_SIGNATURE, _RSA_SIGNATURE}
        signatures = Signatures.parse(document)
        return cls(
            nickname=_nickname(nickname),
            rsa_identity=parse_hex(fingerprint, document.what),
            published=document.one("published").date(),
            lines=tuple((item.keyword, item.rest) for item in document.items if item.keyword not in known),
            identity_cert=read_identity_cert(document),
            signatures=signatures,
            digests=(signatures.rsa_digest, sha256(data).digest()),
        )

    def body(self) -> bytes:
        """The document up to its signatures."""
        cert = self.identity_cert
        return join(
            [
                encode_item(EXTRA_START, self.nickname, self.rsa_identity.hex().upper()),
                encode_item("identity-ed25519", label=ED25519_CERT, data=cert.encode()) if cert else "",
                encode_item("published", format_date(self.published)),
                *(encode_item(keyword, *([rest] if rest else [])) for keyword, rest in self.lines),
            ]
        )


def read_identity_cert(document: Document) -> Ed25519Cert:
    """The certificate in second place, which names its signer. Raises ParseError."""
    item = document.one("identity-ed25519", ED25519_CERT)
    if document.items[1] is not item:
        raise ParseError(f'"identity-ed25519" in {document.what} is not the second item')
    cert = Ed25519Cert.parse(item.data)
    if cert.signed_with is None:
        raise ParseError(f"the certificate in {document.what} does not name its identity")
    return cert


def _nickname(text: str) -> str:
    if not _NICKNAME.fullmatch(text):
        raise ParseError("a relay's nickname is none")
    return text


def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ParseError("a relay's address is no IPv4 address") from None


def _port(text: str) -> int:
    return parse_integer(text, "port", 0, 65535)


def _bandwidth(item: Item) -> tuple[int, int, int]:
    return item.integer(0), item.integer(1), item.integer(2)


def _number(item: Item | None) -> int | None:
    return None if item is None else item.integer(least=-(1 << 63))


def _text(document: Document, keyword: str) -> str:
    item = document.optional(keyword)
    return item.rest if item else ""


def _policy(document: Document) -> ExitPolicy:
    rules = [item for item in document.items if item.keyword in ("accept", "reject")]
    if not rules:
        raise ParseError("a server descriptor without an exit policy")
    return ExitPolicy.of(Rule.parse(item.keyword, item.words(1)[0]) for item in rules)


def _extra_info(item: Item | None) -> tuple[bytes, bytes | None] | None:
    if item is None:
        return None
    words = item.args
    second = parse_base64(words[1], "a server descriptor", 32) if len(words) > 1 else None
    return parse_hex(item.words(1)[0], "a server descriptor"), second
