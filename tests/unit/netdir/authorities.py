"""A network of directory authorities and its documents, signed with keys that are made here."""

import random
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha1, sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from convergence.wire.netdoc import RSA_KEY, encode_item, encode_object, format_date, unpadded

VECTORS = Path(__file__).parents[2] / "vectors" / "tor"
NOW = 1_800_000_000
HOUR = 3600
PROTOCOLS = "Cons=2 Desc=2 FlowCtrl=1-2 Link=4-5 Microdesc=2 Relay=2-6"


def vector(name):
    return (VECTORS / name).read_bytes()


@dataclass(frozen=True)
class RsaSecret:
    """A ports.RsaKeyPair of any size."""

    public: bytes
    sign: object


@cache
def rsa_numbers(name, bits):
    """The RSA key of this name; they cost too much to make one for each test."""
    return rsa.generate_private_key(65537, bits).private_numbers()


def rsa_secret(name, bits=1024):
    """The same as what the core knows: a public key and a callback."""
    numbers, size = rsa_numbers(name, bits), bits // 8
    public = numbers.public_numbers

    def sign(digest):
        message = b"\0\1" + b"\xff" * (size - 3 - len(digest)) + b"\0" + digest
        return pow(int.from_bytes(message, "big"), numbers.d, public.n).to_bytes(size, "big")

    return RsaSecret(public.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1), sign)


@dataclass(frozen=True)
class Authority:
    """One directory authority. `epoch` numbers its signing keys."""

    number: int
    epoch: int = 0

    @cached_property
    def identity_key(self):
        return rsa_secret(("identity", self.number))

    @cached_property
    def signing_key(self):
        return rsa_secret(("signing", self.number, self.epoch))

    @property
    def identity(self):
        return sha1(self.identity_key.public).digest()

    @property
    def name(self):
        """What its certificate is asked for by."""
        return self.identity, sha1(self.signing_key.public).digest()

    def certificate(self, published=NOW - HOUR, expires=NOW + 1000 * HOUR, **other):
        """Its key certificate. `other` puts something else in the place of a part."""
        identity_key = other.get("identity_key", self.identity_key)
        crosscert = other.get("crosscert", self.signing_key).sign(sha1(identity_key.public).digest())
        body = "".join(
            [
                encode_item("dir-key-certificate-version", 3),
                encode_item("fingerprint", other.get("fingerprint", sha1(identity_key.public).hexdigest().upper())),
                encode_item("dir-key-published", format_date(published)),
                encode_item("dir-key-expires", format_date(expires)),
                encode_item("dir-identity-key", label=RSA_KEY, data=identity_key.public),
                encode_item("dir-signing-key", label=RSA_KEY, data=self.signing_key.public),
                encode_item("dir-key-crosscert", label="ID SIGNATURE", data=crosscert),
                "dir-key-certification\n",
            ]
        ).encode()
        signature = other.get("signed_by", identity_key).sign(sha1(body).digest())
        return body + encode_object("SIGNATURE", signature).encode()

    def signature(self, unsigned, algorithm="sha256", **other):
        """Its "directory-signature" for a consensus without signatures."""
        digest = (sha256 if algorithm == "sha256" else sha1)(unsigned + b"directory-signature ").digest()
        names = [part.hex().upper() for part in other.get("name", self.name)]
        words = names if algorithm == "sha1" else [algorithm, *names]
        signature = other.get("key", self.signing_key).sign(digest)
        return encode_item("directory-signature", *words, label="SIGNATURE", data=signature).encode()


def consensus_body(relays=(), valid_after=NOW, flavor="microdesc", extra="", weights="Wgg=5869 Wmm=10000", **dates):
    """A consensus without its signatures."""
    lines = [
        encode_item("network-status-version", *([3, flavor] if flavor else [3])),
        encode_item("vote-status", "consensus"),
        encode_item("consensus-method", 35),
        encode_item("valid-after", format_date(valid_after)),
        encode_item("fresh-until", format_date(dates.get("fresh_until", valid_after + HOUR))),
        encode_item("valid-until", format_date(dates.get("valid_until", valid_after + 3 * HOUR))),
        encode_item("voting-delay", 300, 300),
        encode_item("known-flags", "Authority Exit Fast Guard Running Stable Valid"),
        encode_item("recommended-client-protocols", "Link=4-5"),
        encode_item("required-client-protocols", "Link=4"),
        encode_item("required-relay-protocols", "Link=4-5"),
        encode_item("params", "bwweightscale=10000 circwindow=1000"),
        extra,
        *relays,
        "directory-footer\n",
        encode_item("bandwidth-weights", weights),
    ]
    return "".join(lines).encode()


def consensus(authorities, algorithm="sha256", **options):
    """A consensus that these authorities signed."""
    body = consensus_body(**options)
    return body + b"".join(authority.signature(body, algorithm) for authority in authorities)


def relay(identity, digest=bytes(32), flags="Running Valid", ipv6="", pr=PROTOCOLS, w="Bandwidth=100"):
    """The lines of one relay."""
    first = f"r relay {unpadded(identity)} 2038-01-01 00:00:00 192.0.2.1 9001 0\n"
    more = f"a {ipv6}\n" if ipv6 else ""
    return f"{first}{more}m {unpadded(digest)}\ns {flags}\nv Tor 0.4.9.11\npr {pr}\nw {w}\n"


def relays(count, seed="relays"):
    """The lines of so many relays, in order."""
    rng = random.Random(seed)
    flags = ("Fast Running Stable Valid", "Exit Fast Running Valid", "Fast Guard Running Stable Valid", "Running Valid")
    return [
        relay(
            identity,
            rng.randbytes(32),
            rng.choice(flags),
            rng.choice(["", f"[2001:db8::{rng.randrange(65536):x}]:9001"]),
            rng.choice([PROTOCOLS, "Cons=1-2 Link=1-5 Relay=1-4"]),
            f"Bandwidth={rng.randrange(100_000)}",
        )
        for identity in sorted(rng.randbytes(20) for _ in range(count))
    ]
