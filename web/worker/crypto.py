"""The browser's `Crypto` and `Rng`, over crypto.js.

Does: hand the core's calls to the worker's JavaScript, one crossing each, and turn failed checks into CryptoError.
Does not: compute anything itself, wait, or import where `convergence_platform` is not registered.

AES-CTR works in a stage, a buffer that both sides see: Python puts a run of cells in, JavaScript XORs the key stream
onto it in place. The data lies at the stream's position modulo 16, so that JavaScript can work in aligned words.
"""

from __future__ import annotations

import convergence_platform as js_crypto
from pyodide.ffi import create_proxy, to_js

from convergence.errors import CryptoError
from convergence.ports import Buffer, check_x25519

_BLOCK = 16
_CHUNK = 128 * 1024  # bytes a crossing: more than a message's 64 KiB of cells
_stage = bytearray(_CHUNK + _BLOCK)
_view = memoryview(_stage)
js_crypto.attach(create_proxy(_stage))  # for good: the stage lives as long as the worker

_open = js_crypto.open
_crypt = js_crypto.crypt
_close = js_crypto.close


class _CtrStream:
    """ports.CtrStream."""

    __slots__ = ("_number", "_position")

    def __init__(self, key: bytes) -> None:
        self._number: int = _open(to_js(key))
        self._position = 0  # modulo 16

    def crypt(self, data: Buffer, /) -> bytes:
        size = len(data)
        if size > _CHUNK:
            whole = memoryview(data)
            return b"".join([self.crypt(whole[start : start + _CHUNK]) for start in range(0, size, _CHUNK)])
        start = self._position
        end = start + size
        _view[start:end] = data
        _crypt(self._number, size)
        self._position = end % _BLOCK
        return _view[start:end].tobytes()

    def __del__(self) -> None:
        # JavaScript cannot see when nobody needs the key and the key stream ahead any more.
        _close(self._number)


class BrowserCrypto:
    """ports.Crypto for Pyodide in a worker."""

    def aes_ctr(self, key: bytes, /) -> _CtrStream:
        return _CtrStream(key)

    def x25519_public(self, secret: bytes, /) -> bytes:
        check_x25519(secret)
        return js_crypto.x25519Public(to_js(secret)).to_bytes()

    def x25519(self, secret: bytes, public: bytes, /) -> bytes:
        check_x25519(secret, public)
        shared = js_crypto.x25519(to_js(secret), to_js(public))
        if shared is None:
            raise CryptoError("X25519 public key of low order")
        return shared.to_bytes()

    def ed25519_public(self, seed: bytes, /) -> bytes:
        return js_crypto.ed25519Public(to_js(seed)).to_bytes()

    def ed25519_sign(self, seed: bytes, message: bytes, /) -> bytes:
        return js_crypto.ed25519Sign(to_js(seed), to_js(message)).to_bytes()

    def ed25519_verify(self, public: bytes, signature: bytes, message: bytes, /) -> bool:
        return js_crypto.ed25519Verify(to_js(public), to_js(signature), to_js(message))

    def chacha20poly1305_encrypt(self, key: bytes, nonce: bytes, data: Buffer, ad: bytes, /) -> bytes:
        return js_crypto.chachaEncrypt(to_js(key), to_js(nonce), to_js(data), to_js(ad)).to_bytes()

    def chacha20poly1305_decrypt(self, key: bytes, nonce: bytes, data: Buffer, ad: bytes, /) -> bytes:
        plaintext = js_crypto.chachaDecrypt(to_js(key), to_js(nonce), to_js(data), to_js(ad))
        if plaintext is None:
            raise CryptoError("ChaCha20-Poly1305 tag does not verify")
        return plaintext.to_bytes()

    def argon2id(self, message: bytes, salt: bytes, memory: int, /) -> bytes:
        return js_crypto.argon2id(to_js(message), to_js(salt), memory).to_bytes()


class BrowserRng:
    """ports.Rng from crypto.getRandomValues."""

    def random(self, size: int, /) -> bytes:
        return js_crypto.random(size).to_bytes()
