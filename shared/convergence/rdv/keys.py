"""What the two ends of an end-to-end session share, and how the end that serves proves who it is.

    what is served     pre-shared key, from            who serves is proved by
    a file             the link's key                  the file's bytes, each checked (ordb)
    public service     the name: anybody knows it      nothing
    private service    the owner's key, in the link    the owner's secret (Noise NK)

Does: derive the keys of each kind. The prologue tells the kinds apart, so that none can be taken for another.
Does not: run handshakes (rdv/session.py), or parse links and addresses (wire/).
"""

from __future__ import annotations

from dataclasses import dataclass

from convergence.crypto.kdf import hkdf_sha256


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
    def of_public(cls, hash_name: bytes) -> SessionKeys:
        """Of a public service: whoever knows its name may serve it and ask for it."""
        return cls(_psk(hash_name, b"convergence:public-psk"), b"convergence:public:1")

    @classmethod
    def of_private(cls, key: bytes, secret: bytes | None = None) -> SessionKeys:
        """Of a private service.

        Args:
            key: the link's, which is the owner's public key.
            secret: the owner's, at the owner only.
        """
        return cls(_psk(key, b"convergence:private-psk"), b"convergence:private:1", secret or key)


def _psk(key: bytes, info: bytes) -> bytes:
    return hkdf_sha256(key, info=info, length=32)
