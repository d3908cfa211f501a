"""Vector: tests/vectors/ed25519_cert.json, which says where it comes from."""

import json
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.errors import CryptoError, LocalError, ParseError
from convergence.wire.certs import CertType, Ed25519Cert, Extension, KeyType
from pynode.crypto import CPythonCrypto

CERT = b64decode(json.loads((Path(__file__).parents[2] / "vectors" / "ed25519_cert.json").read_text())["base64"])
CRYPTO = CPythonCrypto()
SEED = bytes(32)
SIGNER = CRYPTO.ed25519_public(SEED)
KEY = bytes(range(32))
NOW = 1_700_000_000.0


def sign(message):
    return CRYPTO.ed25519_sign(SEED, message)


def issue(expires=NOW + 3600):
    return Ed25519Cert.issue(CertType.IDENTITY_SIGNING, KEY, expires, SIGNER, sign)


def test_a_certificate_of_the_tor_network():
    cert = Ed25519Cert.parse(CERT)
    assert cert.cert_type == CertType.IDENTITY_SIGNING
    assert cert.key_type == KeyType.ED25519
    assert cert.encode() == CERT
    assert cert.signed_with is not None
    cert.check(cert.signed_with, cert.expires * 3600 - 1, CRYPTO.ed25519_verify)
    with pytest.raises(CryptoError, match="expired"):
        cert.check(cert.signed_with, cert.expires * 3600, CRYPTO.ed25519_verify)


def test_issued_certificates_check():
    cert = Ed25519Cert.parse(memoryview(issue().encode()))
    assert cert == issue()
    assert cert.signed_with == SIGNER
    assert NOW + 3600 <= cert.expires * 3600 < NOW + 7200
    cert.check(SIGNER, NOW, CRYPTO.ed25519_verify)


def test_a_certificate_need_not_name_its_signer():
    bare = Ed25519Cert(CertType.SIGNING_AUTH, KEY, 500_000)
    cert = Ed25519Cert.parse(replace(bare, signature=sign(bare.body())).encode())
    assert cert.signed_with is None
    cert.check(SIGNER, NOW, CRYPTO.ed25519_verify)


def test_unknown_extensions_do_no_harm_unless_they_affect_validity():
    bare = Ed25519Cert(CertType.SIGNING_AUTH, KEY, 500_000, extensions=(Extension(99, 0xFE, b"data"),))
    parsed = Ed25519Cert.parse(bare.body() + bytes(64))
    assert parsed.extensions == bare.extensions
    assert parsed.signed_with is None
    bad = replace(bare, extensions=(Extension(99, 1, b"data"),))
    with pytest.raises(ParseError, match="unknown extension"):
        Ed25519Cert.parse(bad.body() + bytes(64))


def test_another_signer_is_refused():
    other = CRYPTO.ed25519_public(bytes([1]) * 32)
    with pytest.raises(CryptoError, match="another signing key"):
        issue().check(other, NOW, CRYPTO.ed25519_verify)


def test_an_altered_certificate_is_refused():
    with pytest.raises(CryptoError, match="signature"):
        replace(issue(), key=bytes(32)).check(SIGNER, NOW, CRYPTO.ed25519_verify)


def test_a_signing_key_is_named_once_and_whole():
    twice = replace(issue(), extensions=(Extension(4, 0, SIGNER),) * 2)
    short = replace(issue(), extensions=(Extension(4, 0, SIGNER[:31]),))
    for cert in (twice, short):
        with pytest.raises(ParseError):
            Ed25519Cert.parse(cert.encode())


@pytest.mark.parametrize("data", [b"", b"\x02" + CERT[1:], CERT[:-1], CERT + b"\0", CERT[:39] + b"\x02" + CERT[40:]])
def test_malformed_certificates(data):
    with pytest.raises(ParseError):
        Ed25519Cert.parse(data)


def test_only_whole_certificates_are_encoded():
    with pytest.raises(LocalError):
        Ed25519Cert(CertType.SIGNING_AUTH, b"short", 1).body()
    with pytest.raises(LocalError):
        Ed25519Cert(CertType.SIGNING_AUTH, KEY, 1).encode()
