"""Keys and signatures: those of tor in tests/vectors/tor, and OpenSSL's."""

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from convergence.crypto.rsa import RsaKey
from convergence.errors import CryptoError, ParseError
from convergence.wire.authority import parse_certificates
from tests.unit.netdir.authorities import rsa_numbers, rsa_secret, vector

DIGEST = bytes(range(32))
SECRET = rsa_secret("rsa")
KEY = RsaKey.parse(SECRET.public)
SIZE = 128


def element(tag, body):
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(body).to_bytes(size, "big") + body


def number(value):
    return element(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def key_of(modulus=KEY.modulus, exponent=65537):
    return element(0x30, number(modulus) + number(exponent))


def signed(message):
    """The signature that gives this block."""
    numbers = rsa_numbers("rsa", 1024)
    return pow(int.from_bytes(message, "big"), numbers.d, KEY.modulus).to_bytes(SIZE, "big")


def test_the_keys_of_authorities_and_what_they_signed():
    for name in ("certificates", "chutney-certificates"):
        for cert in parse_certificates(vector(name)):
            identity, signing = RsaKey.parse(cert.identity_key), RsaKey.parse(cert.signing_key)
            assert (identity.modulus.bit_length(), signing.modulus.bit_length()) == (3072, 2048)
            assert identity.verify(cert.signature, cert.signed_digest)
            assert not signing.verify(cert.signature, cert.signed_digest)
            assert signing.recover(cert.crosscert) == cert.identity == identity.digest


@pytest.mark.parametrize("bits", [1024, 1032, 2048, 4096])
def test_openssl_signs_the_same(bits):
    secret = rsa.generate_private_key(65537, bits)
    key = RsaKey.parse(secret.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1), bits)
    signature = secret.sign(DIGEST, padding.PKCS1v15(), NoDigestInfo())
    assert key.recover(signature) == DIGEST and key.verify(signature, DIGEST)
    for bad in (signature[:-1], b"\0" + signature, bytes(len(signature)), signature[:-1] + bytes([signature[-1] ^ 1])):
        assert not key.verify(bad, DIGEST)
    assert not key.verify(signature, DIGEST[:20]) and not key.verify(signature, DIGEST + b"\0")


def test_a_signature_with_a_digest_info_is_another_thing():
    from cryptography.hazmat.primitives.hashes import SHA256

    secret = rsa.generate_private_key(65537, 1024)
    key = RsaKey.parse(secret.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1))
    signature = secret.sign(b"message", padding.PKCS1v15(), SHA256())
    assert len(key.recover(signature)) == 19 + 32


@pytest.mark.parametrize(
    "message",
    [
        b"\0\2" + b"\xff" * 93 + b"\0" + DIGEST,
        b"\0\1" + b"\xff" * 92 + b"\xfe\0" + DIGEST,
        b"\0\1" + b"\xff" * 7 + b"\0" + DIGEST + bytes(86),
        b"\0\1" + b"\0" + DIGEST + bytes(93),
        b"\0\1" + b"\xff" * 126,
    ],
)
def test_padding_is_checked_to_the_last_byte(message):
    assert len(message) == SIZE
    with pytest.raises(CryptoError, match="padding"):
        KEY.recover(signed(message))


def test_what_is_signed_is_the_digest_and_nothing_else():
    signature = signed(b"\0\1" + b"\xff" * 8 + b"\0" + DIGEST + bytes(85))
    assert KEY.recover(signature) == DIGEST + bytes(85) and not KEY.verify(signature, DIGEST)


def test_a_number_above_the_modulus_is_refused():
    signature = SECRET.sign(DIGEST)
    other = int.from_bytes(signature, "big") + KEY.modulus
    if other < 1 << 1024:
        with pytest.raises(CryptoError, match="size"):
            KEY.recover(other.to_bytes(SIZE, "big"))
    with pytest.raises(CryptoError, match="size"):
        KEY.recover(b"\xff" * SIZE)


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (b"", "cut short"),
        (SECRET.public[:-1], "cut short"),
        (SECRET.public + b"\0", "trailing"),
        (b"\x31" + SECRET.public[1:], "in place of"),
        (element(0x30, number(KEY.modulus)), "cut short"),
        (element(0x30, number(KEY.modulus) + number(65537) + number(1)), "trailing"),
        (element(0x30, element(2, b"\0" + number(KEY.modulus)[3:]) + number(65537)), "not minimal"),
        (element(0x30, element(2, b"") + number(65537)), "not positive"),
        (element(0x30, element(2, b"\x80" + bytes(127)) + number(65537)), "not positive"),
        (b"\x30\x84\0\0\0\x89" + SECRET.public[3:], "too long"),
        (b"\x30\x80" + SECRET.public[3:], "too long"),
        (b"\x30\x82\0\x89" + SECRET.public[3:], "shorter"),
        (key_of(exponent=3), "exponent"),
        (key_of(exponent=1 << 4000 | 1), "cannot be|exponent"),
        (key_of(modulus=KEY.modulus - 1), "cannot be"),
        (key_of(modulus=(1 << 1022) | 1), "1023 bits"),
        (key_of(modulus=(1 << 4096) | 1), "4097 bits"),
    ],
)
def test_what_is_no_key_that_tor_uses_is_refused(der, why):
    with pytest.raises(ParseError, match=why):
        RsaKey.parse(der)


def test_the_size_may_be_asked_for():
    with pytest.raises(ParseError, match="1024 bits"):
        RsaKey.parse(SECRET.public, 2048)
