"""Servers for tls_suite.py: an authority of the test's own, and what it signs or should not have.

Does: make certificates; answer a client in memory with the standard library's TLS, or with what breaks it.
Does not: listen anywhere.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pynode.tls import names_of

DAY = timedelta(days=1)
GOOD = ("good.example",)


@dataclass
class Signer:
    """A certificate, its key, and those between it and a root."""

    certificate: x509.Certificate
    key: Any
    above: tuple[x509.Certificate, ...] = ()

    def sign(
        self,
        name: str,
        hosts: Iterable[str] = (),
        *,
        key: Any = None,
        days: tuple[int, int] = (-1, 30),
        authority: bool = False,
        more: Iterable[tuple[x509.ExtensionType, bool]] = (),
    ) -> Signer:
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = issue(name, self.certificate.subject, self.key, key, hosts, days, authority, more)
        chain = () if self.certificate.issuer == self.certificate.subject else (self.certificate, *self.above)
        return Signer(certificate, key, chain)

    def files(self, folder: Path) -> tuple[Path, Path]:
        """The chain and the key, in PEM."""
        stem = hashlib.sha256(self.certificate.public_bytes(Encoding.DER)).hexdigest()
        chain, key = folder / f"{stem}.pem", folder / f"{stem}.key"
        chain.write_bytes(b"".join(part.public_bytes(Encoding.PEM) for part in (self.certificate, *self.above)))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, key


def issue(
    name: str,
    issuer: x509.Name | None,
    signing: Any,
    key: Any,
    hosts: Iterable[str],
    days: tuple[int, int],
    authority: bool,
    more: Iterable[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    now, subject = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if hosts and not more:
        more = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)]
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing, SHA256())


def root(name: str) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    return Signer(issue(name, None, key, key, (), (-1, 30), True, ()), key)


def signed_with_sha1(by: Signer) -> Signer:
    """Made by OpenSSL's command: the library that makes the others refuses to."""
    key, names = ec.generate_private_key(ec.SECP256R1()), x509.SubjectAlternativeName([x509.DNSName(GOOD[0])])
    wish = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    with tempfile.TemporaryDirectory() as name:
        above, signing = by.files(Path(name))
        request = Path(name, "request.pem")
        request.write_bytes(wish.sign(key, SHA256()).public_bytes(Encoding.PEM))
        command = ["openssl", "x509", "-req", "-in", request, "-CA", above, "-CAkey", signing, "-set_serial", "7"]
        options = ["-sha1", "-days", "9", "-copy_extensions", "copyall"]
        made = subprocess.run([*command, *options], check=True, capture_output=True).stdout
    return Signer(x509.load_pem_x509_certificate(made), key, (by.certificate, *by.above))


class Authority:
    """Everything that the servers need.

    Attributes:
        roots: in PEM, what clients trust.
        revoked: names of certificates, as pynode/tls.py has them.
        signers: a server's certificate by the name of its case; those that are not here have the good one.
    """

    def __init__(self) -> None:
        trusted, unknown = root("root"), root("unknown root")
        between = trusted.sign("intermediate", authority=True)
        taken, stolen = (trusted.sign(name, authority=True) for name in ("revoked by serial", "revoked by key"))
        constraint = x509.NameConstraints([x509.DNSName("other.example")], None)
        narrow = trusted.sign("constrained", authority=True, more=[(constraint, True)])
        leaf = between.sign("leaf", GOOD)
        alone = ec.generate_private_key(ec.SECP256R1())
        forged = Signer(between.certificate, ec.generate_private_key(ec.SECP256R1()), between.above)
        clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        self.good = between.sign("good", GOOD)
        self.signers = {
            "rsa": between.sign("rsa", GOOD, key=rsa.generate_private_key(65537, 2048)),
            "wildcard": between.sign("wildcard", ["*.wild.example"]),
            "address": between.sign("address", ["192.0.2.7"]),
            "expired": between.sign("expired", GOOD, days=(-9, -1)),
            "not yet": between.sign("not yet", GOOD, days=(1, 9)),
            "wrong host": between.sign("wrong host", ["bad.example"]),
            "common name": between.sign("good.example", ["bad.example"]),
            "self-signed": Signer(issue("self", None, alone, alone, GOOD, (-1, 30), False, ()), alone),
            "unknown root": unknown.sign("unknown", authority=True).sign("unknown leaf", GOOD),
            "no intermediate": Signer(self.good.certificate, self.good.key),
            "leaf as authority": leaf.sign("below a leaf", GOOD),
            "constrained": narrow.sign("outside", GOOD),
            "for clients": between.sign("for clients", GOOD, more=[(clients, False)]),
            "bad signature": forged.sign("forged", GOOD),
            "revoked": taken.sign("below revoked", GOOD),
            "revoked key": stolen.sign("below stolen", GOOD),
            "weak key": between.sign("weak", GOOD, key=rsa.generate_private_key(65537, 1024)),
        }
        self.signers["weak digest"] = signed_with_sha1(between)
        self.signers["wildcard too deep"] = self.signers["wildcard"]
        self.signers["wrong address"] = self.signers["address"]
        self.roots = trusted.certificate.public_bytes(Encoding.PEM).decode()
        self.roots_der = trusted.certificate.public_bytes(Encoding.DER)
        by_serial, _ = names_of(taken.certificate.public_bytes(Encoding.DER))
        _, by_key = names_of(stolen.certificate.public_bytes(Encoding.DER))
        self.revoked = {by_serial, by_key}

    def signer(self, case: str) -> Signer:
        return self.signers.get(case, self.good)

    @functools.cache  # noqa: B019 (as many as there are cases)
    def context(self, case: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        versions = {"tls 1.0": ssl.TLSVersion.TLSv1, "tls 1.1": ssl.TLSVersion.TLSv1_1}
        versions |= dict.fromkeys(("tls 1.2", "tls 1.2 aes", "no common cipher"), ssl.TLSVersion.TLSv1_2)
        context.minimum_version = min(versions.get(case, ssl.TLSVersion.TLSv1_2), ssl.TLSVersion.TLSv1_2)
        context.maximum_version = versions.get(case, ssl.TLSVersion.TLSv1_3)
        if case == "tls 1.2 aes":
            context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        if case == "large chacha":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
        if case == "large aes":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        if case == "no common cipher":
            context.set_ciphers("ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0")
        context.set_alpn_protocols(["http/1.1"])
        with tempfile.TemporaryDirectory() as folder:
            context.load_cert_chain(*self.signer(case).files(Path(folder)))
        return context

    def server(self, case: str) -> Callable[[bytes], bytes | None]:
        """A conversation (tls_suite.Exchange) with a new connection."""
        if case == "http":
            return Replies([b"HTTP/1.0 400 Bad Request\r\n\r\n"])
        return Server(self.context(case), case)


class Replies:
    """Says the same whatever it hears, then ends."""

    def __init__(self, replies: list[bytes]) -> None:
        self._replies = replies

    def __call__(self, data: bytes) -> bytes | None:
        return self._replies.pop(0) if self._replies else None


class Server:
    """Reads until the client ends, answers with the digest of what it read, then ends."""

    def __init__(self, context: ssl.SSLContext, case: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._case = case
        self._shaken = self._over = False
        self._digest = hashlib.sha256()

    def __call__(self, data: bytes) -> bytes | None:
        if self._over:
            return None
        self._in.write(data)
        try:
            self._go_on()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._over = True  # with an alert, if there is one
        out = self._out.read()
        if self._case == "cut in the handshake":
            self._over, out = True, out[:1000]
        if self._case == "altered" and self._over:
            out = out[:-1] + bytes([out[-1] ^ 1])
        return out or (None if self._over else b"")

    def _go_on(self) -> None:
        if not self._shaken:
            self._tls.do_handshake()
            self._shaken = True
        while data := self._tls.read(1 << 16):
            self._digest.update(data)
        self._over = True
        self._tls.write(bytes(20_000_000) if "large" in self._case else self._digest.digest())
        if self._case not in ("cut", "altered"):
            self._tls.unwrap()
