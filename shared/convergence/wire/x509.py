"""X.509 certificates of RSA keys (RFC 5280), as far as links read them.

Does: find the key, the dates and what is signed; refuse another kind of key or signature.
Does not: look at names and extensions, verify, or encode. Only a relay's self-signed RSA identity is read by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from convergence.errors import ParseError
from convergence.ports import Buffer
from convergence.wire.der import INTEGER, SEQUENCE, Der

UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
VERSION = 0xA0
"""The tag of the certificate's version, which is there in all but version 1."""
RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
"""AlgorithmIdentifier sha256WithRSAEncryption (RFC 4055)."""
RSA_KEY = bytes.fromhex("300d06092a864886f70d0101010500")
"""AlgorithmIdentifier rsaEncryption (RFC 3279)."""
_YEAR_DIGITS = {UTC_TIME: 2, GENERALIZED_TIME: 4}


@dataclass(frozen=True, slots=True)
class X509:
    """One certificate.

    Args:
        signed: TBSCertificate, exactly as it was parsed.
        not_before, not_after: Unix seconds.
        key: RSAPublicKey (PKCS #1), DER: crypto/rsa.py reads it.
        signature: PKCS #1 v1.5 with SHA-256 over `signed`.
    """

    signed: bytes
    not_before: int
    not_after: int
    key: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: Buffer) -> X509:
        """Checks neither signature nor dates."""
        outer = Der(data, "X.509 certificate")
        whole = Der(outer.content(SEQUENCE), "X.509 certificate")
        outer.finish()
        tag, content, signed = whole.element()
        whole.expect(RSA_SHA256)
        signature = whole.bits()
        whole.finish()
        if tag != SEQUENCE:
            raise ParseError("X.509 certificate with nothing that is signed")
        fields = Der(content, "X.509 certificate")
        fields.content(VERSION)
        fields.content(INTEGER)  # the serial number
        fields.expect(RSA_SHA256)
        fields.content(SEQUENCE)  # the issuer
        dates = Der(fields.content(SEQUENCE), "X.509 dates")
        not_before, not_after = _time(dates), _time(dates)
        dates.finish()
        fields.content(SEQUENCE)  # the subject
        key = Der(fields.content(SEQUENCE), "X.509 key")
        key.expect(RSA_KEY)
        return cls(signed, not_before, not_after, key.bits(), signature)


def _time(reader: Der) -> int:
    """A date, always in UTC (RFC 5280, 4.1.2.5)."""
    tag, content, _ = reader.element()
    year_digits = _YEAR_DIGITS.get(tag, 0)
    digits = content[:-1]
    if not year_digits or len(digits) != year_digits + 10 or not digits.isdigit() or content[-1:] != b"Z":
        raise ParseError("X.509 date of an unknown form")
    year = int(digits[:year_digits])
    if tag == UTC_TIME:
        year += 2000 if year < 50 else 1900
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(year_digits, len(digits), 2))
    try:
        return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
    except ValueError:
        raise ParseError("X.509 date that is none") from None
