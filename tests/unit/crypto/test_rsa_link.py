"""RSA identities on links: the self-signed certificate, and its word for an Ed25519 identity.

Sources: tor-spec "CERTS cells", cert-spec "RSA->Ed25519 cross-certificate", RFC 8017. Keys and signatures by OpenSSL.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from convergence.crypto.rsa import RsaKey
from convergence.crypto.rsa_link import EARLY, LATE, check_certificate, check_cross
from convergence.errors import CryptoError, RemoteError
from convergence.wire.certs import CrossCert
from pynode.torkeys import RsaSecret, certify

NOW = 1_800_000_000.0
KEY, OTHER = RsaSecret.generate(), RsaSecret.generate()
IDENTITY = bytes(range(32))
PUBLIC = RsaKey.parse(KEY.public)
HOUR = 3600


def cross(key=KEY, identity=IDENTITY, expires=NOW + HOUR):
    made = CrossCert(identity, int(expires // HOUR) + 1)
    return replace(made, signature=key.sign(made.digest()))


def test_a_certificate_gives_its_key():
    assert check_certificate(KEY.certificate(NOW), NOW).der == KEY.public


@pytest.mark.parametrize(("bits", "exponent"), [(2048, 65537), (1024, 3), (1032, 65537)])
def test_keys_of_another_size_or_exponent_are_refused(bits, exponent):
    made = certify(rsa.generate_private_key(exponent, bits), datetime.fromtimestamp(NOW, UTC))
    with pytest.raises(RemoteError, match="an RSA key"):
        check_certificate(made.public_bytes(Encoding.DER), NOW)


def test_a_certificate_that_another_key_signed_is_refused():
    key, signer = rsa.generate_private_key(65537, 1024), rsa.generate_private_key(65537, 1024)
    name, now = x509.Name([]), datetime.fromtimestamp(NOW, UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + timedelta(days=9))
    with pytest.raises(CryptoError, match="not signed by itself"):
        check_certificate(made.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER), NOW)


def test_every_changed_byte_of_a_certificate_is_noticed():
    data = KEY.certificate(NOW)
    for index in range(len(data)):
        with pytest.raises(RemoteError):
            check_certificate(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :], NOW)


def test_the_dates_of_a_certificate_count_with_some_tolerance():
    data = KEY.certificate(NOW)
    cert = x509.load_der_x509_certificate(data)
    first, last = cert.not_valid_before_utc.timestamp() - EARLY, cert.not_valid_after_utc.timestamp() + LATE
    for moment in (first, last):
        check_certificate(data, moment)
    for moment in (first - 1, last + 1):
        with pytest.raises(CryptoError, match="not valid now"):
            check_certificate(data, moment)


def test_the_word_for_an_identity():
    check_cross(cross().encode(), PUBLIC, IDENTITY, NOW)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (cross(identity=bytes(32)), "another Ed25519 identity"),
        (cross(expires=NOW - 2 * HOUR), "expired"),
        (cross(key=OTHER), "not signed by it"),
        (replace(cross(), signature=b""), "not signed by it"),
        (replace(cross(), expires=cross().expires + 1), "not signed by it"),
    ],
    ids=["for another", "expired", "by another key", "not signed", "prolonged"],
)
def test_a_word_that_does_not_hold_is_refused(made, why):
    with pytest.raises(CryptoError, match=why):
        check_cross(made.encode(), PUBLIC, IDENTITY, NOW)
