"""The ntor handshake (tor-spec, "The ntor handshake"; proposal 216): a client and a relay it knows agree on keys.

Does: both sides as pure functions; the ephemeral secrets are arguments, so that published vectors can be replayed.
Does not: draw randomness, keep keys, or know about cells and circuits.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from convergence.crypto.kdf import hkdf_sha256, hmac_sha256
from convergence.errors import CryptoError
from convergence.ports import Crypto

NODE_ID_LEN = 20
KEY_LEN = 32
AUTH_LEN = 32
ONIONSKIN_LEN = NODE_ID_LEN + 2 * KEY_LEN  # 84
REPLY_LEN = KEY_LEN + AUTH_LEN  # 64

_PROTOID = b"ntor-curve25519-sha256-1"
_T_MAC = _PROTOID + b":mac"
_T_KEY = _PROTOID + b":key_extract"
_T_VERIFY = _PROTOID + b":verify"
_M_EXPAND = _PROTOID + b":key_expand"


@dataclass(frozen=True, slots=True, repr=False)
class NtorState:
    """What a client remembers between onionskin and reply. Holds a secret, so its repr shows nothing."""

    secret: bytes
    public: bytes
    node_id: bytes
    node_key: bytes


def client_start(crypto: Crypto, secret: bytes, node_id: bytes, node_key: bytes) -> tuple[NtorState, bytes]:
    """Begin as client.

    Args:
        secret: 32 fresh random bytes, used for this handshake only.
        node_id: the relay's NODEID, 20 bytes.
        node_key: the relay's ntor key, 32 bytes.

    Returns:
        The state for `client_finish` and the onionskin, 84 bytes: NODEID | KEYID | CLIENT_PK.
    """
    public = crypto.x25519_public(secret)
    return NtorState(secret, public, node_id, node_key), node_id + node_key + public


def client_finish(crypto: Crypto, state: NtorState, reply: bytes, key_len: int) -> bytes:
    """`key_len` bytes of key material from the relay's reply (64 bytes: SERVER_PK | AUTH).

    Raises:
        CryptoError: wrong length, a low-order key, or the reply is not from the holder of the relay's ntor key.
    """
    if len(reply) != REPLY_LEN:
        raise CryptoError("ntor reply of a wrong length")
    server_public, auth = reply[:KEY_LEN], reply[KEY_LEN:]
    shared = crypto.x25519(state.secret, server_public) + crypto.x25519(state.secret, state.node_key)
    expected, material = _derive(shared, state.node_id, state.node_key, state.public, server_public, key_len)
    if not hmac.compare_digest(expected, auth):
        raise CryptoError("ntor reply does not authenticate")
    return material


def server_reply(
    crypto: Crypto,
    secret: bytes,
    node_id: bytes,
    keys: Sequence[tuple[bytes, bytes]],
    onionskin: bytes,
    key_len: int,
) -> tuple[bytes, bytes]:
    """Answer as relay.

    Args:
        secret: 32 fresh random bytes, used for this handshake only.
        node_id: our NODEID, 20 bytes.
        keys: our ntor keys as (public, secret): the current one, and the one before while clients may still use it.
        onionskin: 84 bytes.

    Returns:
        The reply, 64 bytes, and `key_len` bytes of key material.

    Raises:
        CryptoError: wrong length, meant for another node or key, or a low-order key.
    """
    if len(onionskin) != ONIONSKIN_LEN:
        raise CryptoError("ntor onionskin of a wrong length")
    key_id = onionskin[NODE_ID_LEN : NODE_ID_LEN + KEY_LEN]
    client_public = onionskin[NODE_ID_LEN + KEY_LEN :]
    # Compare all keys, even after a match: the time must not tell how recent the client's key is.
    fitting = [pair for pair in keys if hmac.compare_digest(pair[0], key_id)]
    if not fitting or not hmac.compare_digest(onionskin[:NODE_ID_LEN], node_id):
        raise CryptoError("ntor onionskin is for another node or key")
    node_key, node_secret = fitting[0]
    shared = crypto.x25519(secret, client_public) + crypto.x25519(node_secret, client_public)
    public = crypto.x25519_public(secret)
    auth, material = _derive(shared, node_id, node_key, client_public, public, key_len)
    return public + auth, material


def _derive(
    shared: bytes, node_id: bytes, node_key: bytes, client: bytes, server: bytes, key_len: int
) -> tuple[bytes, bytes]:
    """AUTH and the key material; `shared` is EXP(X,y) | EXP(X,b), B = node_key, X = client, Y = server."""
    secret_input = shared + node_id + node_key + client + server + _PROTOID
    verify = hmac_sha256(_T_VERIFY, secret_input)
    auth_input = verify + node_id + node_key + server + client + _PROTOID + b"Server"
    material = hkdf_sha256(secret_input, salt=_T_KEY, info=_M_EXPAND, length=key_len)
    return hmac_sha256(_T_MAC, auth_input), material
