from __future__ import annotations

import hashlib

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.wire.target import node_id_of
from pynode.crypto import CPythonCrypto, SystemRng

CRYPTO = CPythonCrypto()
SECRETS = {"identity_seed": b"\1" * 32, "signing_seed": b"\2" * 32, "ntor_secret": b"\3" * 32}


def test_public_keys_belong_to_the_secrets():
    keys = NodeKeys.from_secrets(CRYPTO, **SECRETS)
    assert keys.identity == CRYPTO.ed25519_public(b"\1" * 32)
    assert keys.signing == CRYPTO.ed25519_public(b"\2" * 32)
    assert keys.onion.ntor == ((CRYPTO.x25519_public(b"\3" * 32), b"\3" * 32),)


def test_the_previous_ntor_key_comes_second():
    keys = NodeKeys.from_secrets(CRYPTO, **SECRETS, previous_ntor_secret=b"\4" * 32)
    assert keys.onion.ntor == tuple((CRYPTO.x25519_public(s), s) for s in (b"\3" * 32, b"\4" * 32))


def test_the_node_id_is_derived_from_the_identity():
    keys = NodeKeys.from_secrets(CRYPTO, **SECRETS)
    assert keys.onion.node_id == node_id_of(keys.identity)
    assert node_id_of(bytes(32)) == hashlib.sha256(b"convergence:ntor-node-id" + bytes(32)).digest()[:20]


def test_generated_nodes_differ():
    one, other = (NodeKeys.generate(CRYPTO, SystemRng()) for _ in range(2))
    assert one.identity != other.identity and one.ntor_public != other.ntor_public
    assert len({one.identity_seed, one.signing_seed, one.ntor_secret}) == 3


def test_the_repr_shows_no_secret():
    keys = NodeKeys.from_secrets(CRYPTO, **SECRETS)
    assert keys.identity.hex()[:16] in repr(keys)
    for byte in (1, 2, 3):
        assert f"{byte:02x}" * 8 not in repr(keys) and f"\\x{byte:02x}" not in repr(keys)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_secrets_of_a_wrong_length_are_refused(name, secret):
    with pytest.raises(ValueError):
        NodeKeys.from_secrets(CRYPTO, **{**SECRETS, name: secret})
