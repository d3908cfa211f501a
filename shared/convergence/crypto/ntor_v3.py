"""The ntor-v3 handshake (tor-spec, "The ntor-v3 handshake"; proposal 332): ntor, and each side says something too.

Does: both sides as pure functions; the ephemeral secrets are arguments, so that published vectors can be replayed. Both
messages are encrypted and authenticated; the client's has no forward secrecy.
Does not: draw randomness, keep keys, know what the messages say (wire/extensions.py), or know about cells and circuits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convergence.errors import CryptoError
from convergence.ports import Crypto

IDENTITY_LEN = 32
KEY_LEN = 32
MAC_LEN = 32
AUTH_LEN = 32
MIN_ONIONSKIN_LEN = IDENTITY_LEN + 2 * KEY_LEN + MAC_LEN
"""128: an onionskin is this and the client's message."""
MIN_REPLY_LEN = KEY_LEN + AUTH_LEN
"""64: a reply is this and the relay's message."""

CIRCUIT_EXTEND = b"circuit extend"
"""The verification string (VER) of every circuit that CREATE2 or EXTEND2 makes, as in C tor and Arti."""


def _encap(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


_PROTOID = b"ntor3-curve25519-sha3_256-1"
_T_MSG_KDF = _encap(_PROTOID + b":kdf_phase1")
_T_MSG_MAC = _encap(_PROTOID + b":msg_mac")
_T_KEY_SEED = _encap(_PROTOID + b":key_seed")
_T_VERIFY = _encap(_PROTOID + b":verify")
_T_FINAL = _encap(_PROTOID + b":kdf_final")
_T_AUTH = _encap(_PROTOID + b":auth_final")


@dataclass(frozen=True, slots=True, repr=False)
class NtorV3State:
    """What a client remembers between onionskin and reply. Holds secrets, so its repr shows nothing."""

    secret: bytes
    public: bytes
    identity: bytes
    node_key: bytes
    shared: bytes  # EXP(B,x)
    mac: bytes
    verification: bytes


def client_start(
    crypto: Crypto,
    secret: bytes,
    identity: bytes,
    node_key: bytes,
    message: bytes,
    verification: bytes = CIRCUIT_EXTEND,
) -> tuple[NtorV3State, bytes]:
    """Begin as client.

    Args:
        secret: 32 fresh random bytes, used for this handshake only.
        identity: the relay's Ed25519 identity, 32 bytes.
        node_key: the relay's ntor key, 32 bytes.
        message: what the relay is to be told, of any length.
        verification: what both sides have to know. It is not sent.

    Returns:
        The state for `client_finish` and the onionskin, 128 bytes and the length of the message:
        NODEID | KEYID | CLIENT_PK | MSG | MAC.

    Raises:
        CryptoError: the relay's ntor key is of low order.
    """
    public = crypto.x25519_public(secret)
    shared = crypto.x25519(secret, node_key)
    enc_key, mac_key = _message_keys(shared, identity, node_key, public, verification)
    onionskin = identity + node_key + public + crypto.aes_ctr(enc_key).crypt(message)
    mac = _hash(_T_MSG_MAC, _encap(mac_key) + onionskin)
    return NtorV3State(secret, public, identity, node_key, shared, mac, verification), onionskin + mac


def client_finish(crypto: Crypto, state: NtorV3State, reply: bytes, key_len: int) -> tuple[bytes, bytes]:
    """The relay's message and `key_len` bytes of key material, from its reply (64 bytes or more: Y | AUTH | MSG).

    Raises:
        CryptoError: too short, a low-order key, or the reply is not from the holder of the relay's ntor key, or not to
            our message and verification string.
    """
    if len(reply) < MIN_REPLY_LEN:
        raise CryptoError("ntor-v3 reply is too short")
    server_public, auth, sealed = reply[:KEY_LEN], reply[KEY_LEN:MIN_REPLY_LEN], reply[MIN_REPLY_LEN:]
    shared = crypto.x25519(state.secret, server_public) + state.shared
    final = _Final(shared, state.identity, state.node_key, state.public, server_public, state.verification)
    if not hmac.compare_digest(final.auth(state.mac, sealed), auth):
        raise CryptoError("ntor-v3 reply does not authenticate")
    enc_key, material = final.keys(key_len)
    return crypto.aes_ctr(enc_key).crypt(sealed), material


def server_reply(
    crypto: Crypto,
    secret: bytes,
    identity: bytes,
    keys: Sequence[tuple[bytes, bytes]],
    onionskin: bytes,
    key_len: int,
    reply: Callable[[bytes], bytes | None],
    verification: bytes = CIRCUIT_EXTEND,
) -> tuple[bytes, bytes]:
    """Answer as relay.

    Args:
        secret: 32 fresh random bytes, used for this handshake only.
        identity: our Ed25519 identity, 32 bytes.
        keys: our ntor keys as (public, secret): the current one, and the one before while clients may still use it.
        onionskin: 128 bytes or more.
        reply: called once, with the client's message when it has authenticated; gives our message, or None to refuse.
            What it raises goes on up.
        verification: what both sides have to know.

    Returns:
        The reply, 64 bytes and the length of our message, and `key_len` bytes of key material.

    Raises:
        CryptoError: too short, meant for another node or key, a low-order key, a message that does not authenticate or
            was refused.
    """
    if len(onionskin) < MIN_ONIONSKIN_LEN:
        raise CryptoError("ntor-v3 onionskin is too short")
    key_id = onionskin[IDENTITY_LEN : IDENTITY_LEN + KEY_LEN]
    client_public = onionskin[IDENTITY_LEN + KEY_LEN : IDENTITY_LEN + 2 * KEY_LEN]
    sealed, mac = onionskin[IDENTITY_LEN + 2 * KEY_LEN : -MAC_LEN], onionskin[-MAC_LEN:]
    # Compare all keys, even after a match: the time must not tell how recent the client's key is.
    fitting = [pair for pair in keys if hmac.compare_digest(pair[0], key_id)]
    if not fitting or not hmac.compare_digest(onionskin[:IDENTITY_LEN], identity):
        raise CryptoError("ntor-v3 onionskin is for another node or key")
    node_key, node_secret = fitting[0]
    shared = crypto.x25519(node_secret, client_public)
    enc_key, mac_key = _message_keys(shared, identity, node_key, client_public, verification)
    if not hmac.compare_digest(_hash(_T_MSG_MAC, _encap(mac_key) + onionskin[:-MAC_LEN]), mac):
        raise CryptoError("ntor-v3 onionskin does not authenticate")
    message = reply(crypto.aes_ctr(enc_key).crypt(sealed))
    if message is None:
        raise CryptoError("ntor-v3 message is refused")
    public = crypto.x25519_public(secret)
    shared = crypto.x25519(secret, client_public) + shared
    final = _Final(shared, identity, node_key, client_public, public, verification)
    enc_key, material = final.keys(key_len)
    sealed = crypto.aes_ctr(enc_key).crypt(message)
    return public + final.auth(mac, sealed) + sealed, material


def _hash(tweak: bytes, data: bytes) -> bytes:
    return hashlib.sha3_256(tweak + data).digest()


def _kdf(tweak: bytes, data: bytes, length: int) -> bytes:
    return hashlib.shake_256(tweak + data).digest(length)


def _message_keys(
    shared: bytes, identity: bytes, node_key: bytes, client: bytes, verification: bytes
) -> tuple[bytes, bytes]:
    """ENC_K1 and MAC_K1 of the client's message; `shared` is EXP(B,x)."""
    secret_input = shared + identity + client + node_key + _PROTOID + _encap(verification)
    keys = _kdf(_T_MSG_KDF, secret_input, 2 * KEY_LEN)
    return keys[:KEY_LEN], keys[KEY_LEN:]


class _Final:
    """What both sides know at the end; `shared` is EXP(X,y) | EXP(X,b), B = node_key, X = client, Y = server."""

    def __init__(
        self, shared: bytes, identity: bytes, node_key: bytes, client: bytes, server: bytes, verification: bytes
    ) -> None:
        self._secret_input = shared + identity + node_key + client + server + _PROTOID + _encap(verification)
        self._parties = identity + node_key + server + client

    def auth(self, mac: bytes, sealed: bytes) -> bytes:
        """AUTH over the client's MAC and the relay's encrypted message."""
        verify = _hash(_T_VERIFY, self._secret_input)
        return _hash(_T_AUTH, verify + self._parties + mac + _encap(sealed) + _PROTOID + b"Server")

    def keys(self, key_len: int) -> tuple[bytes, bytes]:
        """ENC_KEY of the relay's message, and the key material."""
        stream = _kdf(_T_FINAL, _hash(_T_KEY_SEED, self._secret_input), KEY_LEN + key_len)
        return stream[:KEY_LEN], stream[KEY_LEN:]
