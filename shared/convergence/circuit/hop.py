"""Circuit handshakes, and the hop that each yields (tor-spec "Setting circuit keys").

Does: choose the handshake that a relay offers, make and answer onionskins, agree on relay crypto, relay cell format and
flow control.
Does not: know about cells that carry handshakes, or about paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Shape

from convergence.circuit.flow import CircuitFlow, FixedWindows
from convergence.crypto import ntor
from convergence.crypto.keys import OnionKeys
from convergence.crypto.onion import KEY_MATERIAL_LEN, HopKeys
from convergence.errors import RemoteError
from convergence.ports import Crypto, Rng
from convergence.wire.create import Create2, HandshakeType
from convergence.wire.relay import V0, RelayFormat
from convergence.wire.target import RelayTarget


@dataclass(frozen=True, slots=True)
class Hop:
    """What both ends of a handshake have agreed on.

    Args:
        keys: relay crypto.
        new_flow: makes the flow control of one end.
        format: of relay messages.
    """

    keys: HopKeys
    new_flow: Callable[[], CircuitFlow] = FixedWindows
    format: RelayFormat = V0


class ClientHandshake(Shape):
    """Half a handshake: the onionskin is on its way."""

    @property
    def kind(self) -> int:
        """HTYPE."""
        ...

    @property
    def onionskin(self) -> bytes: ...

    def finish(self, reply: bytes) -> Hop:
        """Raises CryptoError unless the reply is from the relay that the onionskin is for."""
        ...


class NtorClient:
    """ntor: no extensions, so fixed windows."""

    kind = HandshakeType.NTOR

    def __init__(self, crypto: Crypto, rng: Rng, target: RelayTarget) -> None:
        self._crypto = crypto
        self._state, self.onionskin = ntor.client_start(crypto, rng.random(32), target.node_id, target.ntor_key)

    def finish(self, reply: bytes) -> Hop:
        material = ntor.client_finish(self._crypto, self._state, reply, KEY_MATERIAL_LEN)
        return Hop(HopKeys.from_material(self._crypto, material))


def begin_handshake(crypto: Crypto, rng: Rng, target: RelayTarget) -> ClientHandshake:
    """Begin a handshake with a relay."""
    return NtorClient(crypto, rng, target)


def answer_handshake(crypto: Crypto, rng: Rng, keys: OnionKeys, create: Create2) -> tuple[bytes, Hop]:
    """As a relay: the reply and the hop. Raises RemoteError when the onionskin is not one for us."""
    if create.handshake_type != HandshakeType.NTOR:
        raise RemoteError(f"handshake type {create.handshake_type} is not offered")
    reply, material = ntor.server_reply(
        crypto, rng.random(32), keys.node_id, keys.ntor, create.handshake_data, KEY_MATERIAL_LEN
    )
    return reply, Hop(HopKeys.from_material(crypto, material))
