"""A node's own keys.

Does: hold the secrets with the public keys derived from them, and name the node.
Does not: store them, or certify them (certificates.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1

from convergence.ports import Crypto, Rng, RsaIdentity
from convergence.wire.target import node_id_of

IDENTITY_LEN = 32
SECRET_LEN = 32


@dataclass(frozen=True, slots=True, repr=False)
class OnionKeys:
    """What a relay answers circuit handshakes with.

    Args:
        identity: its Ed25519 identity (32 bytes), which ntor-v3 names it by.
        node_id: its NODEID (20 bytes), for ntor: on the Tor network the fingerprint of its RSA identity.
        ntor: (public, secret), 32 bytes each: the current key first, then the one before while clients may use it.
    """

    identity: bytes
    node_id: bytes
    ntor: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, repr=False)
class NodeKeys:
    """Secrets (32 bytes each) and public keys of one node.

    Attributes:
        identity: names the node for as long as it lives; certifies `signing` and signs descriptors.
        signing: medium term; certifies link keys. A new one at every start is fine.
        ntor_public: the key that others extend circuits with.
        previous: the ntor key before this one as (public, secret), accepted while clients may still use it.
        rsa: names a relay of the Tor network beside `identity`; None on other nodes.
    """

    identity_seed: bytes
    signing_seed: bytes
    ntor_secret: bytes
    identity: bytes
    signing: bytes
    ntor_public: bytes
    previous: tuple[bytes, bytes] | None = None
    rsa: RsaIdentity | None = None

    def __repr__(self) -> str:
        return f"NodeKeys({self.identity.hex()[:16]})"

    @classmethod
    def from_secrets(
        cls,
        crypto: Crypto,
        *,
        identity_seed: bytes,
        signing_seed: bytes,
        ntor_secret: bytes,
        previous_ntor_secret: bytes | None = None,
    ) -> NodeKeys:
        """Derive the public keys.

        Raises:
            ValueError: a secret is not 32 bytes.
        """
        secrets = [identity_seed, signing_seed, ntor_secret, previous_ntor_secret or bytes(SECRET_LEN)]
        if any(len(secret) != SECRET_LEN for secret in secrets):
            raise ValueError("each secret of a node is 32 bytes")
        previous = None
        if previous_ntor_secret is not None:
            previous = (crypto.x25519_public(previous_ntor_secret), previous_ntor_secret)
        return cls(
            identity_seed,
            signing_seed,
            ntor_secret,
            crypto.ed25519_public(identity_seed),
            crypto.ed25519_public(signing_seed),
            crypto.x25519_public(ntor_secret),
            previous,
        )

    @classmethod
    def generate(cls, crypto: Crypto, rng: Rng) -> NodeKeys:
        """A new node."""
        return cls.from_secrets(
            crypto,
            identity_seed=rng.random(SECRET_LEN),
            signing_seed=rng.random(SECRET_LEN),
            ntor_secret=rng.random(SECRET_LEN),
        )

    @property
    def onion(self) -> OnionKeys:
        current = (self.ntor_public, self.ntor_secret)
        keys = (current,) if self.previous is None else (current, self.previous)
        node_id = node_id_of(self.identity) if self.rsa is None else sha1(self.rsa.public).digest()
        return OnionKeys(self.identity, node_id, keys)
