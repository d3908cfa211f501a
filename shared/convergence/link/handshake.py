"""The link handshake (tor-spec "Negotiating and initializing connections"), both sides.

Does: VERSIONS, CERTS, AUTH_CHALLENGE, AUTHENTICATE, NETINFO in their one allowed order, bound to the transport.
Does not: circuits, or sending: `receive` returns what to send.

    initiator                                   responder
    VERSIONS                               ->
                                           <-   VERSIONS CERTS AUTH_CHALLENGE NETINFO
    [CERTS AUTHENTICATE] NETINFO           ->

The table `_ALLOWED` is the order; nothing else is. The initiator authenticates only when it has keys (a relay) and
the transport a binding. With no binding nobody counts as authenticated: a CERTS cell can be replayed, and then the
circuit handshake is what proves a node.
"""

from __future__ import annotations

from enum import Enum, auto
from hashlib import sha256

from convergence.crypto import certificates
from convergence.crypto.keys import NodeKeys
from convergence.errors import CryptoError, LinkError, ParseError
from convergence.ports import Crypto, Rng
from convergence.wire.cells import Cell, CellCutter, Command, encode_cell
from convergence.wire.handshake import (
    AUTH_ED25519_SHA256_RFC5705,
    CHALLENGE_LEN,
    RAND_LEN,
    AuthChallenge,
    Authenticate,
    Certs,
    Netinfo,
    Versions,
)

HANDSHAKE_TIMEOUT = 15.0
"""Seconds a neighbour has for the whole handshake."""
MAX_HANDSHAKE_CELLS = 32
"""More cells than this before NETINFO are padding for no purpose."""
_NO_RSA = bytes(32)


class State(Enum):
    """What is awaited. OPEN ends it."""

    VERSIONS = auto()
    CERTS = auto()
    CHALLENGE = auto()
    AUTHENTICATE = auto()
    NETINFO = auto()
    CERTS_OR_NETINFO = auto()
    OPEN = auto()


_ALLOWED: dict[State, dict[int, str]] = {
    State.VERSIONS: {Command.VERSIONS: "_versions"},
    State.CERTS: {Command.CERTS: "_certs"},
    State.CHALLENGE: {Command.AUTH_CHALLENGE: "_challenge"},
    State.AUTHENTICATE: {Command.AUTHENTICATE: "_authenticate"},
    State.NETINFO: {Command.NETINFO: "_netinfo"},
    State.CERTS_OR_NETINFO: {Command.CERTS: "_certs", Command.NETINFO: "_netinfo"},
}
_PADDING = (Command.VPADDING, Command.AUTHORIZE)  # ignored once versions are agreed


class Handshake:
    """One side.

    Args:
        keys: ours; a responder needs them, an initiator without stays anonymous.
        binding: what ties the handshake to the transport, if it has such a thing.
        expected: the identity that an initiator dialled; another one is refused.

    Attributes:
        peer: identity (32 bytes) the other side claims, None for an anonymous initiator.
        authenticated: whether `peer` is proven.
        version: link protocol agreed on.
    """

    def __init__(
        self,
        crypto: Crypto,
        rng: Rng,
        *,
        initiator: bool,
        keys: NodeKeys | None,
        binding: bytes | None,
        expected: bytes | None = None,
    ) -> None:
        self.state = State.VERSIONS
        self.peer: bytes | None = None
        self.authenticated = False
        self.version = 0
        self._crypto = crypto
        self._rng = rng
        self._initiator = initiator
        self._keys = keys
        self._binding = binding
        self._expected = expected
        self._cutter = CellCutter()
        self._cells = 0
        self._late: list[bytes] = []
        self._sent = sha256()  # SLOG or CLOG, from our side
        self._got = sha256()
        self._peer_signing = b""
        self._peer_certs: Certs | None = None
        self._challenge_sent = b""
        self._slog = b""
        self._methods: tuple[int, ...] = ()

    def start(self) -> list[bytes]:
        """What an initiator sends first."""
        return [self._send(Command.VERSIONS, Versions().encode())] if self._initiator else []

    def receive(self, data: bytes, now: float) -> list[bytes]:
        """Bytes from the neighbour; returns cells to send. Raises LinkError for anything out of order or unproven."""
        out: list[bytes] = []
        try:
            for cell in self._cutter.feed(data):
                out += self._cell(cell, now)
        except (ParseError, CryptoError) as error:
            raise LinkError(str(error)) from error
        return out

    def leftover(self) -> bytes:
        """What came behind the cell that ended the handshake; it belongs to the open link."""
        late = b"".join(self._late) + self._cutter.release()
        self._late.clear()
        return late

    @property
    def open(self) -> bool:
        return self.state is State.OPEN

    @property
    def bound(self) -> bool:
        """Whether it is tied to its transport."""
        return self._binding is not None

    def _cell(self, cell: Cell, now: float) -> list[bytes]:
        circ_id, command, payload = cell
        if self.state is State.OPEN:
            self._late.append(encode_cell(*cell))
            return []
        self._cells += 1
        if self._cells > MAX_HANDSHAKE_CELLS or circ_id != 0:
            raise LinkError("a handshake with too many cells, or a circuit id")
        name = _ALLOWED[self.state].get(command)
        if name is None:
            if command in _PADDING and self.state is not State.VERSIONS:
                self._got.update(encode_cell(*cell))
                return []
            raise LinkError(f"cell command {command} while {self.state.name} was awaited")
        if command != Command.AUTHENTICATE:  # CLOG ends before it
            self._got.update(encode_cell(*cell))
        result: list[bytes] = getattr(self, name)(payload, now)
        return result

    def _versions(self, payload: bytes, now: float) -> list[bytes]:
        version = Versions.parse(payload).common(Versions())
        if version is None:
            raise LinkError("no link protocol in common")
        self.version = version
        if self._initiator:
            self.state = State.CERTS
            return []
        keys = self._keys
        assert keys is not None
        self.state = State.CERTS_OR_NETINFO
        certs = certificates.issue(self._crypto, keys, now, binding=self._binding, auth_key=None)
        self._challenge_sent = self._rng.random(CHALLENGE_LEN)
        methods = (AUTH_ED25519_SHA256_RFC5705,) if self._binding is not None else ()
        out = [
            self._send(Command.VERSIONS, Versions().encode()),
            self._send(Command.CERTS, certs.encode()),
            self._send(Command.AUTH_CHALLENGE, AuthChallenge(self._challenge_sent, methods).encode()),
        ]
        self._slog = self._sent.digest()
        return [*out, self._send(Command.NETINFO, Netinfo(int(now)).encode())]

    def _certs(self, payload: bytes, now: float) -> list[bytes]:
        certs = Certs.parse(payload)
        identity, self._peer_signing = certificates.check_identity(self._crypto, certs, now)
        if self._expected is not None and identity != self._expected:
            raise LinkError("the node that answered is another than the one dialled")
        self.peer = identity
        self._peer_certs = certs
        if self._initiator:
            if self._binding is not None:
                certificates.check_link(self._crypto, certs, self._peer_signing, self._binding, now)
                self.authenticated = True
            self.state = State.CHALLENGE
        elif self._binding is None:
            raise LinkError("CERTS on a transport that has no binding")
        else:
            self.state = State.AUTHENTICATE
        return []

    def _challenge(self, payload: bytes, now: float) -> list[bytes]:
        self._methods = AuthChallenge.parse(payload).methods
        self._slog = self._got.digest()
        self.state = State.NETINFO
        return []

    def _authenticate(self, payload: bytes, now: float) -> list[bytes]:
        clog = self._got.digest()
        got = Authenticate.parse(payload)
        assert self._keys is not None and self.peer is not None and self._peer_certs is not None
        auth_key = certificates.check_auth(self._crypto, self._peer_certs, self._peer_signing, now)
        wanted = self._statement(self.peer, self._keys.identity, clog, got.rand, got.extra)
        if got.signed_part() != wanted.signed_part():
            raise LinkError("AUTHENTICATE is about another connection")
        if not self._crypto.ed25519_verify(auth_key, got.signature, got.signed_part()):
            raise LinkError("AUTHENTICATE's signature does not hold")
        self.authenticated = True
        self.state = State.NETINFO
        return []

    def _netinfo(self, payload: bytes, now: float) -> list[bytes]:
        Netinfo.parse(payload)
        self.state = State.OPEN
        if not self._initiator:
            return []
        out: list[bytes] = []
        keys, binding = self._keys, self._binding
        if keys is not None and binding is not None and AUTH_ED25519_SHA256_RFC5705 in self._methods:
            assert self.peer is not None
            seed = self._rng.random(32)
            auth_key = self._crypto.ed25519_public(seed)
            certs = certificates.issue(self._crypto, keys, now, binding=None, auth_key=auth_key)
            out.append(self._send(Command.CERTS, certs.encode()))
            statement = self._statement(keys.identity, self.peer, self._sent.digest(), self._rng.random(RAND_LEN), b"")
            signed = statement.sign(lambda message: self._crypto.ed25519_sign(seed, message))
            out.append(self._send(Command.AUTHENTICATE, signed.encode()))
        # Who does not authenticate tells no time, relay or not: it would tell clients from relays (tor-spec "NETINFO
        # cells": a client's clock would mark it).
        return [*out, self._send(Command.NETINFO, Netinfo(int(now) if out else 0).encode())]

    def _statement(self, initiator: bytes, responder: bytes, clog: bytes, rand: bytes, extra: bytes) -> Authenticate:
        assert self._binding is not None
        digest = certificates.binding_digest(self._binding)
        return Authenticate(_NO_RSA, _NO_RSA, initiator, responder, self._slog, clog, digest, digest, rand, extra)

    def _send(self, command: int, payload: bytes) -> bytes:
        cell = encode_cell(0, command, payload)
        self._sent.update(cell)
        return cell
