"""The consensus in use, and whether to believe another one (dir-spec 3.1, 3.4.1, 5.1).

Does: know the directory authorities; check their key certificates; take over a consensus that most of them signed, that
is valid by this clock, and that is newer than the one in use; apply diffs.
Does not: fetch anything, or choose relays. What a directory sends is never believed for who sent it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from convergence.crypto.rsa import RsaKey
from convergence.errors import ClockError, CryptoError, LocalError, RemoteError
from convergence.wire.authority import KeyCertificate, parse_certificates
from convergence.wire.consensus import Consensus, Flavor, Reading, whole
from convergence.wire.consensus_diff import apply_diff, is_diff

MAX_CLOCK_SKEW = 600
"""Seconds that a certificate may come from the future."""
TOLERANCE = 24 * 3600
"""Seconds before and after its time in which a consensus is taken, as in Tor: "reasonably live". Clocks are wrong, and
an old consensus is better than none."""
MAX_SIGNING_KEYS = 4
"""Signing keys that are kept of one authority, the newest. It has two while it changes from one to the next."""

CertificateName = tuple[bytes, bytes]
"""What a certificate is asked for by: SHA-1 of the authority's identity key and of its signing key."""


@dataclass(frozen=True, slots=True)
class _SigningKey:
    """A signing key that its authority vouched for."""

    key: RsaKey
    certificate: KeyCertificate


class ConsensusDirectory:
    """The newest consensus of one flavor.

    Args:
        authorities: their identities: SHA-1 of each identity key, 20 bytes ("v3ident").

    Raises:
        LocalError: there are none, or one occurs twice.
    """

    def __init__(self, authorities: Iterable[bytes], flavor: Flavor = Flavor.MICRODESC) -> None:
        identities = list(authorities)
        self._authorities = frozenset(identities)
        if not identities or len(identities) != len(self._authorities):
            raise LocalError("each directory authority has to be named once")
        self._flavor = flavor
        self._keys: dict[CertificateName, _SigningKey] = {}
        self._consensus: Consensus | None = None

    @property
    def consensus(self) -> Consensus | None:
        """The one in use; see `usable`."""
        return self._consensus

    @property
    def needed(self) -> int:
        """How many authorities have to sign: more than half."""
        return len(self._authorities) // 2 + 1

    def usable(self, now: float) -> bool:
        """Whether there is a consensus that may still be used."""
        return self._consensus is not None and now < self._consensus.valid_until + TOLERANCE

    def live(self, now: float) -> bool:
        """Whether there is one within its own time."""
        consensus = self._consensus
        return consensus is not None and consensus.valid_after <= now < consensus.valid_until

    def read(self, data: bytes) -> Consensus:
        """A consensus, not believed yet, of what a directory sent: a whole one, or a diff to the one in use.

        Raises ParseError; RemoteError for a diff that was not asked for.
        """
        return whole(self.reading(data))

    def reading(self, data: bytes) -> Reading:
        """`read`, portion by portion."""
        if is_diff(data):
            if self._consensus is None:
                raise RemoteError("a consensus diff, but there is no consensus")
            data = apply_diff(self._consensus, data)
        return (yield from Consensus.reading(data))

    def missing(self, consensus: Consensus, now: float) -> list[CertificateName]:
        """The certificates to ask for, to check this consensus."""
        names = dict.fromkeys((item.identity, item.signing_digest) for item in consensus.signatures)
        return [name for name in names if name[0] in self._authorities and self._signing_key(name, now) is None]

    def add_certificates(self, data: bytes, asked: Collection[CertificateName], now: float) -> list[str]:
        """Take over the certificates that were asked for. Returns why others were refused: one that has expired, say,
        does not make the rest worthless.

        Raises ParseError.
        """
        refused = []
        for cert in parse_certificates(data):
            name = cert.identity, cert.signing_digest
            try:
                if name[0] not in self._authorities or name not in asked:
                    raise CryptoError("a key certificate that was not asked for")
                self._keys[name] = _SigningKey(check_certificate(cert, now), cert)
            except RemoteError as error:
                refused.append(str(error))
        for identity in self._authorities:
            keys = sorted((key.certificate.published, name) for name, key in self._keys.items() if name[0] == identity)
            for _, name in keys[:-MAX_SIGNING_KEYS]:
                del self._keys[name]
        return refused

    @property
    def certificates(self) -> bytes:
        """Those that were taken over, to be kept."""
        return b"".join(key.certificate.data for key in self._keys.values())

    def update(self, consensus: Consensus, now: float) -> bool:
        """Take over a consensus. Returns whether it is news; the one in use is none.

        Raises:
            ClockError: it is not valid at this time.
            CryptoError: too few authorities signed it.
            RemoteError: it is older than the one in use, or of another flavor. The one in use then stays.
        """
        if consensus.flavor is not self._flavor:
            raise RemoteError(f"a consensus of the flavor {consensus.flavor}, but {self._flavor} is needed")
        if now < consensus.valid_after - TOLERANCE:
            raise ClockError("the consensus comes from the future", now - consensus.valid_after)
        if now >= consensus.valid_until + TOLERANCE:
            raise ClockError("the consensus has expired", now - consensus.valid_until)
        current = self._consensus
        if current is not None and consensus.data == current.data:
            return False
        if current is not None and consensus.valid_after <= current.valid_after:
            raise RemoteError("the consensus is not newer than the one in use")
        self._check_signatures(consensus, now)
        self._consensus = consensus
        return True

    def _check_signatures(self, consensus: Consensus, now: float) -> None:
        signed: set[bytes] = set()
        unknown: set[bytes] = set()
        digests = {algorithm: consensus.digest(algorithm) for algorithm in self._algorithms}
        for item in consensus.signatures:
            if item.identity not in self._authorities or item.identity in signed or item.algorithm not in digests:
                continue
            known = self._signing_key((item.identity, item.signing_digest), now)
            if known is None:
                unknown.add(item.identity)
            elif known.key.verify(item.signature, digests[item.algorithm]):
                signed.add(item.identity)
        if len(signed) < self.needed:
            raise CryptoError(
                f"the consensus is signed by {len(signed)} of {len(self._authorities)} authorities, {self.needed} are "
                f"needed; the keys of {len(unknown - signed)} more are not known"
            )

    @property
    def _algorithms(self) -> tuple[str, ...]:
        """SHA-1 counts only where there is nothing else."""
        return ("sha1", "sha256") if self._flavor is Flavor.NS else ("sha256",)

    def _signing_key(self, name: CertificateName, now: float) -> _SigningKey | None:
        key = self._keys.get(name)
        return key if key and now < key.certificate.expires else None


def check_certificate(cert: KeyCertificate, now: float) -> RsaKey:
    """The signing key of a certificate that holds and is valid at `now`.

    Raises:
        ParseError: it has a key that is none.
        CryptoError: the identity key did not sign it, or the signing key does not vouch for the identity.
        ClockError: it has expired, or comes from the future.
    """
    identity, signing = RsaKey.parse(cert.identity_key), RsaKey.parse(cert.signing_key)
    if not identity.verify(cert.signature, cert.signed_digest):
        raise CryptoError("a key certificate that its identity key did not sign")
    if not signing.verify(cert.crosscert, cert.identity):
        raise CryptoError("a key certificate whose signing key does not vouch for the identity")
    if now >= cert.expires:
        raise ClockError("a key certificate that has expired", now - cert.expires)
    if now < cert.published - MAX_CLOCK_SKEW:
        raise ClockError("a key certificate that comes from the future", now - cert.published)
    return signing
