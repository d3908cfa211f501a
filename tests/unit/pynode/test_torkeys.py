"""RSA keys and certificates of relays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from convergence.crypto.rsa import RsaKey
from convergence.crypto.rsa_link import check_certificate
from pynode.torkeys import LEFT, LONGEST, RsaSecret, certify, link_key, random_host

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


def test_a_key_is_kept_as_pem() -> None:
    key = RsaSecret.generate()
    same = RsaSecret.from_pem(key.pem())
    assert same.public == key.public
    assert RsaKey.parse(key.public).verify(same.sign(bytes(20)), bytes(20)), "SHA-1, as directory documents sign"
    assert key.pem().startswith(b"-----BEGIN RSA PRIVATE KEY-----"), "as C Tor's keys/secret_id_key"


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN RSA PRIVATE KEY-----\n", b"2048"])
def test_what_is_no_rsa_identity_is_refused(pem: bytes) -> None:
    if pem == b"2048":
        large = rsa.generate_private_key(65537, 2048)
        pem = large.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    with pytest.raises(ValueError):
        RsaSecret.from_pem(pem)


def test_the_certificate_is_renewed_before_it_ends() -> None:
    key, days = RsaSecret.generate(), 0
    seen = []
    while days < 2 * LONGEST:
        now = NOW + days * DAY
        data = key.certificate(now)
        assert check_certificate(data, now).der == key.public
        cert = x509.load_der_x509_certificate(data)
        assert now + DAY < cert.not_valid_after_utc.timestamp() and cert.not_valid_before_utc.timestamp() <= now
        seen.append(data)
        days += 1
    assert 2 <= len(set(seen)) < len(seen)


def test_dates_and_names_tell_nothing() -> None:
    now = datetime.fromtimestamp(NOW, UTC)
    key = rsa.generate_private_key(65537, 1024)
    made = [certify(key, now) for _ in range(40)]
    assert len({cert.not_valid_before_utc for cert in made}) > 20
    assert len({cert.subject for cert in made}) == len({cert.serial_number for cert in made}) == 40
    for cert in made:
        assert cert.not_valid_before_utc <= now <= cert.not_valid_after_utc - timedelta(days=LEFT - 1)
        assert cert.not_valid_before_utc.hour == cert.not_valid_before_utc.minute == 0
        assert cert.subject != cert.issuer and 0 < cert.serial_number < 1 << 64


def test_keys_of_tls_are_certified_by_themselves() -> None:
    key, cert = link_key()
    cert.public_key().public_numbers()
    assert key.key_size == 2048 and cert.public_key() == key.public_key()
    assert check_signature(cert)


def check_signature(cert: x509.Certificate) -> bool:
    assert cert.signature_hash_algorithm is not None
    key = cert.public_key()
    assert isinstance(key, rsa.RSAPublicKey) and cert.signature_algorithm_parameters is not None
    key.verify(
        cert.signature,
        cert.tbs_certificate_bytes,
        cert.signature_algorithm_parameters,  # type: ignore[arg-type]
        cert.signature_hash_algorithm,
    )
    return True


def test_names_are_those_of_nobody() -> None:
    names = {random_host(".com") for _ in range(100)}
    assert len(names) == 100
    for name in names:
        label = name.removeprefix("www.").removesuffix(".com")
        assert 8 <= len(label) <= 20 and label.isalnum() and label == label.lower()
