"""Proves any backend of ports.Crypto: every primitive, and the handshakes on top, against published vectors.

Runs in CPython and inside the browser's worker, so it imports nothing that only a test runner has. The vectors, with
where they come from, are in tests/vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from convergence.crypto import blinding, noise, ntor, ntor_v3
from convergence.errors import CryptoError
from convergence.ports import Buffer, Crypto

Result = tuple[str, bool, str]

VECTORS = Path(__file__).parent.parent / "vectors"

# Around AES blocks, cells, runs of cells, and the browser's prefetched blocks. The long vector is cut by these in turn.
CUTS = (1, 15, 16, 17, 509, 31, 509 * 127, 64, 4096, 3, 65536, 65537, 262144, 7, 300_001, 509 * 63)


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def refused(call: Callable[..., object], *arguments: object) -> bool:
    """Whether the call raises CryptoError; any other error is the backend's fault and goes on up."""
    try:
        call(*arguments)
    except CryptoError:
        return True
    return False


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]


def x25519_vectors(crypto: Crypto) -> None:
    known = vectors("x25519")
    for case in known["exchange"]:
        assert crypto.x25519(unhex(case["secret"]), unhex(case["public"])).hex() == case["shared"]
    for case in known["public"]:
        assert crypto.x25519_public(unhex(case["secret"])).hex() == case["public"]


def x25519_iterated(crypto: Crypto) -> None:
    known = vectors("x25519")["iterated"]
    scalar = point = unhex(known["start"])
    for turn in range(1, 1001):
        scalar, point = crypto.x25519(scalar, point), scalar
        expected = known["after"].get(str(turn))
        assert expected in (None, scalar.hex()), f"turn {turn}"


def x25519_refuses_low_order_points(crypto: Crypto) -> None:
    for point in vectors("x25519")["low_order"]:
        assert refused(crypto.x25519, bytes(range(32)), unhex(point)), point


def x25519_refuses_keys_of_another_length(crypto: Crypto) -> None:
    secret, public = bytes(range(32)), crypto.x25519_public(bytes(range(1, 33)))
    for wrong in (b"", public[:31], public + b"\0"):
        assert refused(crypto.x25519, secret, wrong), len(wrong)
        assert refused(crypto.x25519, wrong, public), len(wrong)
        assert refused(crypto.x25519_public, wrong), len(wrong)


def ed25519_vectors(crypto: Crypto) -> None:
    for case in vectors("ed25519")["sign"]:
        seed, message = unhex(case["seed"]), unhex(case["message"])
        assert crypto.ed25519_public(seed).hex() == case["public"]
        assert crypto.ed25519_sign(seed, message).hex() == case["signature"]
        assert crypto.ed25519_verify(unhex(case["public"]), unhex(case["signature"]), message) is True


def ed25519_refuses_forgeries(crypto: Crypto) -> None:
    for case in vectors("ed25519")["sign"]:
        public, signature, message = (unhex(case[name]) for name in ("public", "signature", "message"))
        for index in (0, 31, 32, 63):
            assert crypto.ed25519_verify(public, flipped(signature, index), message) is False, f"byte {index}"
        assert crypto.ed25519_verify(flipped(public, 5), signature, message) is False
        assert crypto.ed25519_verify(public, signature, message + b"\0") is False
        assert crypto.ed25519_verify(public, bytes(64), message) is False


def ed25519_refuses_malleable_signatures(crypto: Crypto) -> None:
    case = vectors("ed25519")["malleable"]
    public, signature, message = (unhex(case[name]) for name in ("public", "signature", "message"))
    assert crypto.ed25519_verify(public, signature, message) is False


def ed25519_gives_the_same_verdict_everywhere(crypto: Crypto) -> None:
    for index, case in enumerate(vectors("ed25519")["edge"]["cases"]):
        verdict = crypto.ed25519_verify(unhex(case["public"]), unhex(case["signature"]), unhex(case["message"]))
        assert verdict is case["valid"], f"case {index}"


def ed25519_refuses_wrong_lengths(crypto: Crypto) -> None:
    case = vectors("ed25519")["sign"][1]
    public, signature, message = (unhex(case[name]) for name in ("public", "signature", "message"))
    for length in (0, 31, 33, 64):
        assert crypto.ed25519_verify((public * 3)[:length], signature, message) is False
    for length in (0, 32, 63, 65, 128):
        assert crypto.ed25519_verify(public, (signature * 3)[:length], message) is False


def without_sign(key: bytes) -> bytes:
    return key[:31] + bytes((key[31] & 127,))


def blinding_vectors(crypto: Crypto) -> None:
    for case in vectors("blinding")["cases"]:
        secret, public, factor = (unhex(case[name]) for name in ("secret", "x25519", "factor"))
        key, blinded, scalar = (unhex(case[name]) for name in ("ed25519", "blinded", "blinded_secret"))
        assert crypto.x25519_public(secret) == public
        assert blinding.ed25519_of(public, key[31] >> 7) == key
        assert blinding.blinded_key(crypto, public, factor) == without_sign(blinded)
        assert blinding.blinded_scalar(secret, factor).to_bytes(32, "little") == scalar


def blinded_keys_sign(crypto: Crypto) -> None:
    cases = vectors("blinding")["cases"]
    for case, other in zip(cases, cases[3:] + cases[:3], strict=True):
        secret, public, factor = (unhex(case[name]) for name in ("secret", "x25519", "factor"))
        key = blinding.blinded_key(crypto, public, factor)
        signature = blinding.sign_blinded(crypto, secret, factor, b"message")
        assert crypto.ed25519_verify(key, signature, b"message")
        assert not crypto.ed25519_verify(key, signature, b"another")
        for forger in ((unhex(other["secret"]), factor), (secret, unhex(other["factor"]))):
            assert not crypto.ed25519_verify(key, blinding.sign_blinded(crypto, *forger, b"message"), b"message")
    for point in vectors("x25519")["low_order"]:
        assert refused(blinding.blinded_key, crypto, unhex(point), bytes(range(32))), point


def argon2id_vectors(crypto: Crypto) -> None:
    for case in vectors("argon2id")["cases"]:
        message, salt = unhex(case["message"]), unhex(case["salt"])
        assert crypto.argon2id(message, salt, case["memory"]).hex() == case["hash"], case["memory"]


def chacha20poly1305_vectors(crypto: Crypto) -> None:
    for case in vectors("chacha20poly1305")["cases"]:
        key, nonce, ad, plaintext, sealed = (
            unhex(case[name]) for name in ("key", "nonce", "ad", "plaintext", "sealed")
        )
        assert crypto.chacha20poly1305_encrypt(key, nonce, plaintext, ad) == sealed
        assert crypto.chacha20poly1305_decrypt(key, nonce, sealed, ad) == plaintext


def chacha20poly1305_refuses_forgeries(crypto: Crypto) -> None:
    for case in vectors("chacha20poly1305")["cases"]:
        key, nonce, ad, sealed = (unhex(case[name]) for name in ("key", "nonce", "ad", "sealed"))
        for index in (0, len(sealed) - 17, len(sealed) - 1):
            assert refused(crypto.chacha20poly1305_decrypt, key, nonce, flipped(sealed, index), ad), index
        assert refused(crypto.chacha20poly1305_decrypt, key, nonce, sealed, flipped(ad, 0))
        assert refused(crypto.chacha20poly1305_decrypt, key, flipped(nonce, 11), sealed, ad)
        for length in (0, 1, 15, 16, len(sealed) - 1):
            assert refused(crypto.chacha20poly1305_decrypt, key, nonce, sealed[:length], ad), length


def chacha20poly1305_takes_any_buffer_and_size(crypto: Crypto) -> None:
    key, nonce = bytes(range(32)), bytes(range(12))
    for size in (0, 1, 63, 64, 65, 509, 65519):
        data = bytes(range(251)) * (size // 251 + 1)
        sealed = crypto.chacha20poly1305_encrypt(key, nonce, memoryview(data)[:size], b"")
        assert type(sealed) is bytes and len(sealed) == size + 16
        opened = crypto.chacha20poly1305_decrypt(key, nonce, bytearray(sealed), b"")
        assert type(opened) is bytes and opened == data[:size]


def aes_ctr_vectors(crypto: Crypto) -> None:
    for case in vectors("aes_ctr")["blocks"]:
        stream = crypto.aes_ctr(unhex(case["key"]))
        stream.crypt(bytes(case["start"]))
        expected = unhex(case["stream"])
        assert stream.crypt(bytes(len(expected))) == expected, case["source"]


def aes_ctr_xors_any_buffer(crypto: Crypto) -> None:
    case = vectors("aes_ctr")["blocks"][0]
    key, expected = unhex(case["key"]), unhex(case["stream"])
    data = bytes(range(100, 100 + len(expected)))
    sealed = bytes(a ^ b for a, b in zip(data, expected, strict=True))
    buffers: list[Buffer] = [data, bytearray(data), memoryview(b"xx" + data + b"xx")[2:-2]]
    for buffer in buffers:
        stream = crypto.aes_ctr(key)
        first = stream.crypt(buffer)
        assert type(first) is bytes and first == sealed
        assert stream.crypt(b"") == b""
    assert crypto.aes_ctr(key).crypt(sealed) == data


def aes_ctr_keeps_its_position(crypto: Crypto) -> None:
    for case in vectors("aes_ctr")["long"]:
        key, length = unhex(case["key"]), case["length"]
        assert hashlib.sha256(crypto.aes_ctr(key).crypt(bytes(length))).hexdigest() == case["sha256"], len(key)
        stream, whole = crypto.aes_ctr(key), hashlib.sha256()
        for size in cuts(length):
            whole.update(stream.crypt(bytes(size)))
        assert whole.hexdigest() == case["sha256"], len(key)


def aes_ctr_streams_are_independent(crypto: Crypto) -> None:
    one, other = (crypto.aes_ctr(bytes((byte,)) * 16) for byte in (1, 2))
    alone = crypto.aes_ctr(b"\1" * 16).crypt(bytes(1000))
    parts = []
    for _ in range(10):
        parts.append(one.crypt(bytes(100)))
        other.crypt(bytes(77))
    assert b"".join(parts) == alone


def ntor_vector(crypto: Crypto) -> None:
    known = {name: unhex(value) for name, value in vectors("ntor").items() if name != "source"}
    state, onionskin = ntor.client_start(crypto, known["client_secret"], known["node_id"], known["node_public"])
    assert onionskin == known["onionskin"]
    size = len(known["material"])
    keys = [(known["node_public"], known["node_secret"])]
    reply, material = ntor.server_reply(crypto, known["server_secret"], known["node_id"], keys, onionskin, size)
    assert (reply, material) == (known["reply"], known["material"])
    assert ntor.client_finish(crypto, state, reply, size) == material
    for index in (0, 31, 32, 63):
        assert refused(ntor.client_finish, crypto, state, flipped(reply, index), size), index


def ntor_v3_vector(crypto: Crypto) -> None:
    known = {name: unhex(value) for name, value in vectors("ntor_v3").items() if name != "source"}
    identity, node_key, verification = known["identity"], known["node_public"], known["verification"]
    state, onionskin = ntor_v3.client_start(
        crypto, known["client_secret"], identity, node_key, known["client_message"], verification
    )
    assert onionskin == known["onionskin"]
    size = len(known["material"])
    heard: list[bytes] = []

    def answer(message: bytes) -> bytes:
        heard.append(message)
        return known["server_message"]

    keys = [(node_key, known["node_secret"])]
    reply, material = ntor_v3.server_reply(
        crypto, known["server_secret"], identity, keys, onionskin, size, answer, verification
    )
    assert (reply, material, heard) == (known["reply"], known["material"], [known["client_message"]])
    assert ntor_v3.client_finish(crypto, state, reply, size) == (known["server_message"], material)
    for index in (0, 31, 32, 63, 64, len(reply) - 1):
        assert refused(ntor_v3.client_finish, crypto, state, flipped(reply, index), size), index


def noise_vectors(crypto: Crypto) -> None:
    for known in vectors("noise")["vectors"]:
        noise_vector(crypto, known)


def noise_vector(crypto: Crypto, known: Any) -> None:
    psk, prologue = unhex(known["psk"]), unhex(known["prologue"])
    initiator, responder = (
        noise.Handshake(
            crypto,
            unhex(known[f"{side}_ephemeral"]),
            psk,
            initiator=first,
            prologue=prologue,
            static=known[static] and unhex(known[static]),
        )
        for side, first, static in (("initiator", True, "static_public"), ("responder", False, "static_secret"))
    )
    messages = [(unhex(message["payload"]), unhex(message["ciphertext"])) for message in known["messages"]]
    for writer, reader, (payload, sealed) in zip(
        (initiator, responder), (responder, initiator), messages[:2], strict=True
    ):
        assert writer.write(payload) == sealed
        assert reader.read(sealed) == payload
    ends = [initiator.transport(), responder.transport()]
    assert all(end.handshake_hash.hex() == known["handshake_hash"] for end in ends)
    for index, (payload, sealed) in enumerate(messages[2:]):
        sender, receiver = ends[index % 2], ends[1 - index % 2]
        assert sender.send.encrypt(payload) == sealed
        assert receiver.receive.decrypt(sealed) == payload


CHECKS: tuple[Callable[[Crypto], None], ...] = (
    x25519_vectors,
    x25519_iterated,
    x25519_refuses_low_order_points,
    x25519_refuses_keys_of_another_length,
    ed25519_vectors,
    ed25519_refuses_forgeries,
    ed25519_refuses_malleable_signatures,
    ed25519_gives_the_same_verdict_everywhere,
    ed25519_refuses_wrong_lengths,
    blinding_vectors,
    blinded_keys_sign,
    argon2id_vectors,
    chacha20poly1305_vectors,
    chacha20poly1305_refuses_forgeries,
    chacha20poly1305_takes_any_buffer_and_size,
    aes_ctr_vectors,
    aes_ctr_xors_any_buffer,
    aes_ctr_keeps_its_position,
    aes_ctr_streams_are_independent,
    ntor_vector,
    ntor_v3_vector,
    noise_vectors,
)


def cuts(total: int) -> list[int]:
    """`total` as a sum of odd sizes."""
    sizes: list[int] = []
    while (left := total - sum(sizes)) > 0:
        sizes.append(min(CUTS[len(sizes) % len(CUTS)], left))
    return sizes


def run(crypto: Crypto) -> list[Result]:
    """Every check as (name, passed, what went wrong)."""
    results: list[Result] = []
    for check in CHECKS:
        try:
            check(crypto)
        except Exception as error:  # one broken primitive must not hide the verdict on the others
            results.append((check.__name__, False, f"{type(error).__name__}: {error}"))
        else:
            results.append((check.__name__, True, ""))
    return results


async def run_with_pauses(crypto: Crypto, pause: Callable[[], Awaitable[object]]) -> Result:
    """The key stream's position when the platform gets time between calls, in which a backend may work ahead."""
    passed = True
    for case in vectors("aes_ctr")["long"]:
        stream, whole = crypto.aes_ctr(unhex(case["key"])), hashlib.sha256()
        for size in cuts(case["length"]):
            whole.update(stream.crypt(bytes(size)))
            await pause()
        passed = passed and whole.hexdigest() == case["sha256"]
    return "aes_ctr_keeps_its_position_with_pauses", passed, "" if passed else "the key stream went astray"


async def run_with_streams(crypto: Crypto, pause: Callable[[], Awaitable[object]], count: int = 100) -> Result:
    """So many busy streams at once that a backend which works ahead has to take memory back from some of them."""
    size, rounds, key = 30_011, 6, unhex(vectors("aes_ctr")["long"][0]["key"])
    expected = crypto.aes_ctr(key).crypt(bytes(size * rounds))
    streams = [crypto.aes_ctr(key) for _ in range(count)]
    passed = True
    for turn in range(rounds):
        for stream in streams:
            passed = passed and stream.crypt(bytes(size)) == expected[size * turn : size * (turn + 1)]
            await pause()
        # Some circuits close in the middle of their work.
        del streams[::7]
    return "aes_ctr_many_streams", passed, "" if passed else "a key stream went astray"
