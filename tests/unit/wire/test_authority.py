import pytest

from convergence.errors import ParseError
from convergence.wire import authority
from convergence.wire.authority import KeyCertificate, parse_certificates
from tests.unit.netdir.authorities import HOUR, NOW, Authority, vector


def test_certificates_of_tor():
    certs = parse_certificates(vector("certificates"))
    assert [cert.identity.hex().upper() for cert in certs] == [
        "C0F840CC0A398F1518E1ED35E996A1ACFB6290FB",
        "84C6881CD908577C255DE9629CE7F4518F401F36",
        "540D14C94599832D763E2458EE9333B0AB45E7C3",
    ]
    assert certs[0].signing_digest.hex().upper() == "4798F5133E0EB896426B485CF2528B9F649FB3A4"
    assert all(cert.expires - cert.published == 365 * 24 * 3600 for cert in certs)
    assert len(parse_certificates(vector("chutney-certificates"))) == 2


def test_a_certificate_without_its_tag_in_the_crosscert():
    made = Authority(0).certificate().replace(b"ID SIGNATURE", b"SIGNATURE")
    assert KeyCertificate.parse(made).crosscert == KeyCertificate.parse(Authority(0).certificate()).crosscert


def test_the_parts_of_a_certificate():
    cert = KeyCertificate.parse(Authority(0).certificate())
    assert (cert.identity, cert.signing_digest) == Authority(0).name
    assert (cert.published, cert.expires) == (NOW - HOUR, NOW + 1000 * HOUR)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"dir-key-certificate-version 3", b"dir-key-certificate-version 4", "unknown version"),
        (b"dir-key-certificate-version 3", b"dir-address 127.0.0.1:80", "lacks"),
        (b"\nfingerprint ", b"\nother ", 'lacks "fingerprint"'),
        (b"\ndir-key-expires ", b"\nother ", 'lacks "dir-key-expires"'),
        (b"\ndir-key-published 2", b"\ndir-key-published x", "valid date"),
        (b"-----BEGIN ID", b"-----BEGIN AN ID", "end"),
        (b"dir-key-crosscert\n", b"dir-key-crosscert\nother\n", "object"),
    ],
)
def test_what_is_no_certificate_is_refused(old, new, why):
    with pytest.raises(ParseError, match=why):
        KeyCertificate.parse(Authority(0).certificate().replace(old, new, 1))


def test_a_certificate_names_the_authority_of_its_key():
    with pytest.raises(ParseError, match="another authority"):
        KeyCertificate.parse(Authority(0).certificate(fingerprint=Authority(1).identity.hex()))


def test_a_certificate_ends_with_its_signature_and_is_bounded():
    with pytest.raises(ParseError, match="does not end"):
        KeyCertificate.parse(Authority(0).certificate() + b"more\n")
    with pytest.raises(ParseError, match="larger"):
        KeyCertificate.parse(b"x\n" * authority.MAX_CERTIFICATE)
    with pytest.raises(ParseError, match="documents"):
        parse_certificates(Authority(0).certificate() * (authority.MAX_CERTIFICATES + 1))
