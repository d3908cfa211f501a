"""X.509 certificates of RSA keys, and strict DER. Sources: RFC 5280, X.690; certificates by OpenSSL (cryptography)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from convergence.errors import ParseError
from convergence.wire.der import Der
from convergence.wire.x509 import X509

KEY = rsa.generate_private_key(65537, 1024)
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "www.example.net")])
BEGIN, END = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2051, 6, 7, tzinfo=UTC)


def certificate(key=KEY, hash_=None, end=END, extended=False):
    made = x509.CertificateBuilder(NAME, NAME, key.public_key(), 5, BEGIN, end)
    if extended:
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return made.sign(key, hash_ or hashes.SHA256())


@pytest.mark.parametrize("extended", [False, True])
def test_what_a_certificate_says(extended):
    made = certificate(extended=extended)
    cert = X509.parse(made.public_bytes(Encoding.DER))
    assert cert.signed == made.tbs_certificate_bytes and cert.signature == made.signature
    assert (cert.not_before, cert.not_after) == (BEGIN.timestamp(), END.timestamp())
    assert cert.key == KEY.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050])
def test_dates_of_either_form(year):
    """UTCTime up to 2049, GeneralizedTime after (RFC 5280, 4.1.2.5)."""
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    before = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 5, datetime(1950, 1, 1, tzinfo=UTC), end)
    cert = X509.parse(before.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER))
    assert cert.not_after == end.timestamp()


@pytest.mark.parametrize(
    "made",
    [certificate(hash_=hashes.SHA512()), certificate(key=ec.generate_private_key(ec.SECP256R1()))],
    ids=["signed otherwise", "no RSA"],
)
def test_other_algorithms_are_refused(made):
    with pytest.raises(ParseError, match="algorithm"):
        X509.parse(made.public_bytes(Encoding.DER))


def test_a_certificate_cut_anywhere_or_with_a_tail_is_refused():
    data = certificate().public_bytes(Encoding.DER)
    for size in range(len(data)):
        with pytest.raises(ParseError):
            X509.parse(data[:size])
    with pytest.raises(ParseError, match="trailing"):
        X509.parse(data + b"\0")


@pytest.mark.parametrize(
    "data",
    [b"\x30\x80\0\0", b"\x30\x81\x7f" + bytes(127), b"\x30\x82\x00\xff" + bytes(255), b"\x30\x83\x01\x00\x00", b"\x30"],
    ids=["indefinite", "longer than need be", "the same with two bytes", "too long", "none"],
)
def test_lengths_that_der_forbids(data):
    with pytest.raises(ParseError):
        Der(data, "test").element()


@pytest.mark.parametrize("date", [b"260102030405+", b"260132030405Z", b"2601020304 5Z", b"26010203040\xb2Z"])
def test_dates_that_are_none(date):
    data, good = certificate().public_bytes(Encoding.DER), b"260102030405Z"
    assert data.count(good) == 1
    with pytest.raises(ParseError, match="date"):
        X509.parse(data.replace(good, date))


def test_bit_strings_are_whole_bytes():
    for content in (b"", b"\x01\xfe"):
        with pytest.raises(ParseError):
            Der(bytes([3, len(content)]) + content, "test").bits()
