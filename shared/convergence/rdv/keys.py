"""What the two ends of a rendezvous have in common, and how the end that serves proves who it is.

    what is served     pre-shared key, from            under the owner's name,         under the common name
    a file             the link's key                  the owner's secret (Noise NK)   the file's bytes, each checked
    public service     the name: anybody knows it      has none                        nothing
    private service    the owner's key, in the link    the owner's secret (Noise NK)   has none

Does: derive the keys of each kind, and its names. The prologue tells the kinds apart, so that none can be taken for
another.
Does not: run handshakes (rdv/session.py), or parse links and addresses (wire/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convergence.crypto.kdf import hkdf_sha256
from convergence.ports import Crypto
from convergence.rdv.blind import common_names, days_in_use, owners_advert, owners_names
from convergence.wire.rdv import Advert, Name


@dataclass(frozen=True, slots=True, repr=False)
class SessionKeys:
    """
    Args:
        psk: the pre-shared key, 32 bytes.
        prologue: names the kind.
        static: as in crypto/noise.py: the owner's X25519 key, the secret one where he serves.
    """

    psk: bytes
    prologue: bytes
    static: bytes | None = None

    @classmethod
    def of_file(cls, key: bytes) -> SessionKeys:
        """Of a share link's key, 32 bytes."""
        return cls(_psk(key, b"convergence:psk"), b"convergence:session:1")

    @classmethod
    def of_owner(cls, key: bytes, owner: bytes) -> SessionKeys:
        """The same with the file's owner.

        Args:
            owner: his X25519 key, the secret one where he serves.
        """
        return cls(_psk(key, b"convergence:psk"), b"convergence:owner:1", owner)

    @classmethod
    def of_public(cls, hash_name: bytes) -> SessionKeys:
        """Of a public service."""
        return cls(_psk(hash_name, b"convergence:public-psk"), b"convergence:public:1")

    @classmethod
    def of_private(cls, key: bytes, secret: bytes | None = None) -> SessionKeys:
        """Of a private service.

        Args:
            key: the link's, which is the owner's public key.
            secret: the owner's, at the owner only.
        """
        return cls(_psk(key, b"convergence:private-psk"), b"convergence:private:1", secret or key)


@dataclass(frozen=True, slots=True, repr=False)
class Subject:
    """What is served and asked for.

    Args:
        hash_name: chooses its points; who has it knows the common name, if there is one.
        owner: the X25519 key of the owner, if there is one.
        owned: the keys of sessions under the owner's name.
        common: the keys of sessions under the common name.
        secret: the owner's, at the owner only.
    """

    hash_name: bytes
    owner: bytes | None
    owned: SessionKeys | None
    common: SessionKeys | None
    secret: bytes | None = None

    @classmethod
    def file(cls, hash_name: bytes, key: bytes, secret: bytes | None = None) -> Subject:
        """Of a share link. Its hash_name is the owner's key; in links older than owners, nobody's."""
        owned = SessionKeys.of_owner(key, secret or hash_name)
        return cls(hash_name, hash_name, owned, SessionKeys.of_file(key), secret)

    @classmethod
    def public(cls, hash_name: bytes) -> Subject:
        """Of a public service: whoever knows its name may serve it and ask for it."""
        return cls(hash_name, None, None, SessionKeys.of_public(hash_name))

    @classmethod
    def private(cls, hash_name: bytes, key: bytes, secret: bytes | None = None) -> Subject:
        """Of a private service; `key` is the owner's."""
        return cls(hash_name, key, SessionKeys.of_private(key, secret), None, secret)

    def keys(self, name: Name) -> SessionKeys:
        """Of sessions under one of `names`."""
        keys = self.owned if name.owned else self.common
        assert keys is not None
        return keys

    def names(self, crypto: Crypto, point: bytes, now: float) -> list[Name]:
        """What it is called at a point now: the owner's names first."""
        owned = [] if self.owner is None else owners_names(crypto, self.owner, point, now)
        return owned + ([] if self.common is None else common_names(self.hash_name, point, now))

    def adverts(self, crypto: Crypto, point: bytes, binding: bytes, now: float) -> Sequence[Advert]:
        """What whoever serves it says to a point: the owner under his name only, others under the common one.

        Args:
            binding: of the circuit (circuit/hop.py).
        """
        if self.secret is not None:
            return [owners_advert(crypto, self.secret, point, day, binding) for day in days_in_use(now, point)]
        return [] if self.common is None else [Advert.add(name) for name in common_names(self.hash_name, point, now)]


def _psk(key: bytes, info: bytes) -> bytes:
    return hkdf_sha256(key, info=info, length=32)
