"""Circuit handshakes, and the hop that each yields (tor-spec "Setting circuit keys").

Does: choose the handshake that a relay offers, make and answer onionskins, agree on relay crypto, relay cell format and
flow control.
Does not: know about cells that carry handshakes, or about paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hmac import compare_digest
from typing import Protocol as Shape

from convergence.circuit.congestion import Parameters, Vegas
from convergence.circuit.flow import CircuitFlow, FixedWindows
from convergence.crypto import ntor, ntor_v3
from convergence.crypto.kdf import kdf_tor
from convergence.crypto.keys import OnionKeys
from convergence.crypto.onion import KEY_MATERIAL_LEN, HopKeys
from convergence.errors import CryptoError, RemoteError
from convergence.ports import Crypto, Rng
from convergence.wire.create import FAST_LEN, Create2, HandshakeType
from convergence.wire.extensions import CircuitRequest, CircuitResponse
from convergence.wire.relay import V0, RelayFormat
from convergence.wire.target import Protocols, RelayTarget

OFFERED = Protocols.NTOR_V3 | Protocols.CONGESTION_CONTROL
"""What we speak as a relay."""
SENDME_INC = Parameters().sendme_inc
MOST_APART = 2
"""By this factor a relay's sendme_inc may differ from ours (proposal 324 section 10.5)."""
BINDING_LEN = 20
"""Bytes of a handshake's key material after those of relay crypto: KH (tor-spec "Setting circuit keys")."""
_MATERIAL_LEN = KEY_MATERIAL_LEN + BINDING_LEN


@dataclass(frozen=True, slots=True)
class Hop:
    """What both ends of a handshake have agreed on.

    Args:
        keys: relay crypto.
        binding: KH, 20 bytes: both ends know it, and no other circuit has the same.
        new_flow: makes the flow control of one end.
        format: of relay messages.
    """

    keys: HopKeys
    binding: bytes
    new_flow: Callable[[], CircuitFlow] = FixedWindows
    format: RelayFormat = V0

    @classmethod
    def of(cls, crypto: Crypto, material: bytes, new_flow: Callable[[], CircuitFlow] = FixedWindows) -> Hop:
        """Of _MATERIAL_LEN bytes of a handshake's key material."""
        keys = HopKeys.from_material(crypto, material[:KEY_MATERIAL_LEN])
        return cls(keys, material[KEY_MATERIAL_LEN:], new_flow)


class ClientHandshake(Shape):
    """Half a handshake: the onionskin is on its way."""

    @property
    def kind(self) -> int:
        """HTYPE."""
        ...

    @property
    def onionskin(self) -> bytes: ...

    def finish(self, reply: bytes) -> Hop:
        """Raises RemoteError unless the reply is from the relay that the onionskin is for, and answers it."""
        ...


class FastClient:
    """CREATE_FAST: keys from what both sides send in the clear. The link protects them, so it has to be authenticated
    TLS, and only its other end can be the hop. For directories whose onion key is not known yet."""

    kind = HandshakeType.FAST

    def __init__(self, crypto: Crypto, rng: Rng) -> None:
        self._crypto = crypto
        self.onionskin = rng.random(FAST_LEN)

    def finish(self, reply: bytes) -> Hop:
        if len(reply) != 2 * FAST_LEN:
            raise CryptoError("CREATED_FAST of a wrong length")
        material = kdf_tor(self.onionskin + reply[:FAST_LEN], FAST_LEN + _MATERIAL_LEN)
        if not compare_digest(material[:FAST_LEN], reply[FAST_LEN:]):
            raise CryptoError("CREATED_FAST does not prove that it knows the keys")
        return Hop.of(self._crypto, material[FAST_LEN:])


class NtorClient:
    """ntor: it can agree on nothing but keys."""

    kind = HandshakeType.NTOR

    def __init__(self, crypto: Crypto, rng: Rng, target: RelayTarget) -> None:
        self._crypto = crypto
        self._state, self.onionskin = ntor.client_start(crypto, rng.random(32), target.node_id, target.ntor_key)

    def finish(self, reply: bytes) -> Hop:
        material = ntor.client_finish(self._crypto, self._state, reply, _MATERIAL_LEN)
        return Hop.of(self._crypto, material)


class NtorV3Client:
    """ntor-v3, with a request for what the relay speaks."""

    kind = HandshakeType.NTOR_V3

    def __init__(self, crypto: Crypto, rng: Rng, target: RelayTarget) -> None:
        self._crypto = crypto
        self._request = CircuitRequest(congestion_control=Protocols.CONGESTION_CONTROL in target.protocols)
        self._state, self.onionskin = ntor_v3.client_start(
            crypto, rng.random(32), target.identity, target.ntor_key, self._request.encode()
        )

    def finish(self, reply: bytes) -> Hop:
        answer, material = ntor_v3.client_finish(self._crypto, self._state, reply, _MATERIAL_LEN)
        increment = CircuitResponse.parse(answer, self._request).sendme_inc
        if increment is None:
            return Hop.of(self._crypto, material)
        if not SENDME_INC <= increment * MOST_APART <= SENDME_INC * MOST_APART**2:
            raise RemoteError(f"a relay that acknowledges every {increment} cells")
        return Hop.of(self._crypto, material, congestion_control(increment))


def congestion_control(sendme_inc: int) -> Callable[[], CircuitFlow]:
    return partial(Vegas, Parameters(sendme_inc=sendme_inc))


def begin_handshake(crypto: Crypto, rng: Rng, target: RelayTarget) -> ClientHandshake:
    """Begin the best handshake that a relay offers."""
    if not target.ntor_key:
        return FastClient(crypto, rng)
    if Protocols.NTOR_V3 in target.protocols:
        return NtorV3Client(crypto, rng, target)
    return NtorClient(crypto, rng, target)


def answer_handshake(crypto: Crypto, rng: Rng, keys: OnionKeys, create: Create2) -> tuple[bytes, Hop]:
    """As a relay: the reply and the hop. Raises RemoteError when the onionskin is not one for us."""
    if create.handshake_type == HandshakeType.NTOR:
        reply, material = ntor.server_reply(
            crypto, rng.random(32), keys.node_id, keys.ntor, create.handshake_data, _MATERIAL_LEN
        )
        return reply, Hop.of(crypto, material)
    if create.handshake_type == HandshakeType.NTOR_V3:
        return _answer_ntor_v3(crypto, rng, keys, create.handshake_data)
    if create.handshake_type == HandshakeType.FAST:
        return _answer_fast(crypto, rng.random(FAST_LEN), create.handshake_data)
    raise RemoteError(f"handshake type {create.handshake_type} is not offered")


def _answer_fast(crypto: Crypto, secret: bytes, onionskin: bytes) -> tuple[bytes, Hop]:
    material = kdf_tor(onionskin + secret, FAST_LEN + _MATERIAL_LEN)
    return secret + material[:FAST_LEN], Hop.of(crypto, material[FAST_LEN:])


def _answer_ntor_v3(crypto: Crypto, rng: Rng, keys: OnionKeys, onionskin: bytes) -> tuple[bytes, Hop]:
    new_flow: Callable[[], CircuitFlow] = FixedWindows

    def grant(message: bytes) -> bytes | None:
        nonlocal new_flow
        request = CircuitRequest.parse(message)
        if request.capabilities:
            return None  # none of those that a client may ask for is offered
        if not request.congestion_control:
            return CircuitResponse().encode()
        new_flow = congestion_control(SENDME_INC)
        return CircuitResponse(SENDME_INC).encode()

    reply, material = ntor_v3.server_reply(
        crypto, rng.random(32), keys.identity, keys.ntor, onionskin, _MATERIAL_LEN, grant
    )
    return reply, Hop.of(crypto, material, new_flow)
