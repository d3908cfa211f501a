"""The link handshake (tor-spec "Negotiating and initializing connections"), both sides.

Does: VERSIONS, CERTS, AUTH_CHALLENGE, AUTHENTICATE, NETINFO in their one allowed order, bound to the transport.
Does not: circuits, sending (`receive` returns what to send), or time: the link has one deadline for all of it.

    initiator                                   responder
    VERSIONS                               ->
                                           <-   VERSIONS CERTS AUTH_CHALLENGE NETINFO
    [CERTS AUTHENTICATE] NETINFO           ->

The table `HANDSHAKE` is the only place that fixes the order. The initiator authenticates only if it has keys (a relay)
and the transport has a binding. A responder that expects a certain caller insists on authentication. Without a binding
nobody counts as authenticated, because a CERTS cell can be replayed: the circuit handshake then proves the node.

On TLS, links are those of the Tor network: nodes also have an RSA identity there, and both identities vouch for the
connection. An initiator without one is a client, and stays anonymous.
"""

from __future__ import annotations

from enum import Enum, auto
from hashlib import sha256

from convergence.crypto import certificates
from convergence.crypto.keys import NodeKeys
from convergence.errors import LinkError, LocalError, RemoteError
from convergence.ports import Binding, Crypto, Rng, TlsBinding
from convergence.states import TIMEOUT, Table
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
    """What is awaited. OPEN and FAILED end it."""

    NEW = auto()
    VERSIONS = auto()  # of the node that we dialled
    CERTS = auto()
    CHALLENGE = auto()
    ANY_CALLER = auto()  # VERSIONS of whoever calls
    CERTS_OR_NETINFO = auto()
    KNOWN_CALLER = auto()  # VERSIONS of the one node that is expected to call
    CALLER_CERTS = auto()
    AUTHENTICATE = auto()
    NETINFO = auto()
    OPEN = auto()
    FAILED = auto()


_DIAL, _ANSWER, _ANSWER_ONE, _BROKEN = "dial", "answer anyone", "answer one node", "broken"


def _row(**moves: State) -> dict[str, State]:
    """Inputs are names of cell commands. Any other command breaks the handshake."""
    return {**moves, _BROKEN: State.FAILED, TIMEOUT: State.FAILED}


HANDSHAKE: Table[State] = Table(
    "link handshake",
    State.NEW,
    {
        State.NEW: {
            _DIAL: State.VERSIONS,
            _ANSWER: State.ANY_CALLER,
            _ANSWER_ONE: State.KNOWN_CALLER,
            TIMEOUT: State.FAILED,
        },
        State.VERSIONS: _row(VERSIONS=State.CERTS),
        State.CERTS: _row(CERTS=State.CHALLENGE),
        State.CHALLENGE: _row(AUTH_CHALLENGE=State.NETINFO),
        State.ANY_CALLER: _row(VERSIONS=State.CERTS_OR_NETINFO),
        State.CERTS_OR_NETINFO: _row(CERTS=State.AUTHENTICATE, NETINFO=State.OPEN),
        State.KNOWN_CALLER: _row(VERSIONS=State.CALLER_CERTS),
        State.CALLER_CERTS: _row(CERTS=State.AUTHENTICATE),
        State.AUTHENTICATE: _row(AUTHENTICATE=State.NETINFO),
        State.NETINFO: _row(NETINFO=State.OPEN),
    },
    # The deadline of the link's own state HANDSHAKE counts for all of these together (link.py).
    deadlines={state: HANDSHAKE_TIMEOUT for state in State if state not in (State.OPEN, State.FAILED)},
)
_BEFORE_VERSIONS = (State.VERSIONS, State.ANY_CALLER, State.KNOWN_CALLER)
_NAMES = {int(command): command.name for command in Command}
_PADDING = (Command.VPADDING, Command.AUTHORIZE)  # ignored once versions are agreed


class Handshake:
    """One side.

    Args:
        keys: ours. A responder needs them; an initiator without keys stays anonymous.
        binding: what ties the handshake to the transport, if it has such a thing.
        expected: the identity that an initiator dialled, or that a responder expects to be called by. The neighbour
            has to prove it; any other one is refused.
        expected_rsa: likewise the fingerprint of its RSA identity (20 bytes). It can be proven on TLS only.
        addresses: our own IP addresses, which NETINFO tells to whom we authenticate.

    Attributes:
        peer: identity (32 bytes) the other side claims, None for an anonymous initiator.
        peer_rsa: fingerprint (20 bytes) of its RSA identity, likewise; None on transports other than TLS.
        authenticated: whether `peer` and `peer_rsa` are proven.
        version: link protocol agreed on.
        netinfo: the other side's, once the handshake is done. It is what that side says, and no more.
        skew: seconds by which the other side's clock is ahead of ours, by its NETINFO; None if it tells no time.

    Raises:
        LocalError: a responder on TLS has no RSA identity.
    """

    def __init__(
        self,
        crypto: Crypto,
        rng: Rng,
        *,
        initiator: bool,
        keys: NodeKeys | None,
        binding: Binding | None,
        expected: bytes | None = None,
        expected_rsa: bytes | None = None,
        addresses: tuple[str, ...] = (),
    ) -> None:
        self._tls = isinstance(binding, TlsBinding)
        self._rsa = keys.rsa if keys is not None and self._tls else None
        if self._tls and self._rsa is None and not initiator:
            raise LocalError("a node without an RSA identity answers on TLS")
        answer = _ANSWER if expected is None and expected_rsa is None else _ANSWER_ONE
        self.state = HANDSHAKE.moves[HANDSHAKE.start][_DIAL if initiator else answer]
        self.binding = binding
        self.peer: bytes | None = None
        self.peer_rsa: bytes | None = None
        self.authenticated = False
        self.version = 0
        self.netinfo: Netinfo | None = None
        self.skew: float | None = None
        self._crypto = crypto
        self._rng = rng
        self._initiator = initiator
        self._keys = keys
        self._expected = expected
        self._expected_rsa = expected_rsa
        self._addresses = addresses
        self._cutter = CellCutter(Command.NETINFO)  # the last cell of either side
        self._cells = 0
        self._sent = sha256()  # SLOG or CLOG, from our side
        self._got = sha256()
        self._peer_signing = b""
        self._peer_rsa_digest = _NO_RSA
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
        except RemoteError as error:
            self.state = HANDSHAKE.moves[self.state][_BROKEN]
            raise LinkError(str(error)) from error
        return out

    def leftover(self) -> bytes:
        """Bytes that came after the last cell of the handshake; they belong to the open link."""
        return self._cutter.release()

    @property
    def open(self) -> bool:
        return self.state is State.OPEN

    @property
    def anonymous(self) -> bool:
        """Whether we are an initiator that cannot prove itself, or is not asked to."""
        keys = self._keys if self.binding is not None and (self._rsa is not None or not self._tls) else None
        return self._initiator and (keys is None or AUTH_ED25519_SHA256_RFC5705 not in self._methods)

    def _cell(self, cell: Cell, now: float) -> list[bytes]:
        circ_id, command, payload = cell
        self._cells += 1
        if self._cells > MAX_HANDSHAKE_CELLS or circ_id != 0:
            raise LinkError("a handshake with too many cells, or a circuit id")
        if command != Command.AUTHENTICATE:  # CLOG ends before it
            self._got.update(encode_cell(*cell))
        if command in _PADDING and self.state not in _BEFORE_VERSIONS:
            return []
        name = _NAMES.get(command, "")
        after = HANDSHAKE.moves[self.state].get(name)
        if after is None:
            raise LinkError(f"cell command {command} while {self.state.name} was awaited")
        out: list[bytes] = getattr(self, f"_{name.lower()}")(payload, now)
        self.state = after
        return out

    def _versions(self, payload: bytes, now: float) -> list[bytes]:
        version = Versions.parse(payload).common(Versions())
        if version is None:
            raise LinkError("no link protocol in common")
        self.version = version
        if self._initiator:
            return []
        keys = self._keys
        assert keys is not None
        certs = certificates.issue(self._crypto, keys, now, binding=self.binding, auth_key=None, rsa=self._rsa)
        self._challenge_sent = self._rng.random(CHALLENGE_LEN)
        methods = (AUTH_ED25519_SHA256_RFC5705,) if self.binding is not None else ()
        out = [
            self._send(Command.VERSIONS, Versions().encode()),
            self._send(Command.CERTS, certs.encode()),
            self._send(Command.AUTH_CHALLENGE, AuthChallenge(self._challenge_sent, methods).encode()),
        ]
        self._slog = self._sent.digest()
        return [*out, self._own_netinfo(int(now), self._addresses)]

    def _certs(self, payload: bytes, now: float) -> list[bytes]:
        certs = Certs.parse(payload)
        identity, self._peer_signing = certificates.check_identity(self._crypto, certs, now)
        fingerprint = None
        if self._tls:
            rsa = certificates.check_rsa(certs, identity, now)
            fingerprint, self._peer_rsa_digest = rsa.digest, sha256(rsa.der).digest()
        if self._expected not in (None, identity) or self._expected_rsa not in (None, fingerprint):
            raise LinkError("the node that answered is another than the one dialled")
        self.peer, self.peer_rsa = identity, fingerprint
        self._peer_certs = certs
        if self._initiator:
            if self.binding is not None:
                certificates.check_link(self._crypto, certs, self._peer_signing, self.binding, now)
                self.authenticated = True
        elif self.binding is None:
            raise LinkError("CERTS on a transport that has no binding")
        return []

    def _auth_challenge(self, payload: bytes, now: float) -> list[bytes]:
        self._methods = AuthChallenge.parse(payload).methods
        self._slog = self._got.digest()
        return []

    def _authenticate(self, payload: bytes, now: float) -> list[bytes]:
        clog = self._got.digest()
        got = Authenticate.parse(payload)
        assert self._peer_certs is not None
        auth_key = certificates.check_auth(self._crypto, self._peer_certs, self._peer_signing, now)
        wanted = self._statement(clog, got.rand, got.extra)
        if got.signed_part() != wanted.signed_part():
            raise LinkError("AUTHENTICATE is about another connection")
        if not self._crypto.ed25519_verify(auth_key, got.signature, got.signed_part()):
            raise LinkError("AUTHENTICATE's signature does not hold")
        self.authenticated = True
        return []

    def _netinfo(self, payload: bytes, now: float) -> list[bytes]:
        self.netinfo = Netinfo.parse(payload)
        self.skew = self.netinfo.timestamp - now if self.netinfo.timestamp else None
        if not self._initiator:
            return []
        out: list[bytes] = []
        if not self.anonymous:
            assert self._keys is not None
            seed = self._rng.random(32)
            auth_key = self._crypto.ed25519_public(seed)
            certs = certificates.issue(self._crypto, self._keys, now, binding=None, auth_key=auth_key, rsa=self._rsa)
            out.append(self._send(Command.CERTS, certs.encode()))
            statement = self._statement(self._sent.digest(), self._rng.random(RAND_LEN), b"")
            signed = statement.sign(lambda message: self._crypto.ed25519_sign(seed, message))
            out.append(self._send(Command.AUTHENTICATE, signed.encode()))
        # A node that does not authenticate sends no time, not even a relay: the time would tell relays from clients,
        # which send none (tor-spec "NETINFO cells": a client's clock would mark it). The same holds for its addresses.
        return [*out, self._own_netinfo(int(now), self._addresses) if out else self._own_netinfo(0, ())]

    def _statement(self, clog: bytes, rand: bytes, extra: bytes) -> Authenticate:
        assert self.binding is not None and self._keys is not None and self.peer is not None
        own = (sha256(self._rsa.public).digest() if self._rsa is not None else _NO_RSA, self._keys.identity)
        peer = (self._peer_rsa_digest, self.peer)
        (cid, cid_ed), (sid, sid_ed) = (own, peer) if self._initiator else (peer, own)
        secrets = self.binding.secrets(cid)
        return Authenticate(cid, sid, cid_ed, sid_ed, self._slog, clog, self.binding.digest, secrets, rand, extra)

    def _own_netinfo(self, timestamp: int, addresses: tuple[str, ...]) -> bytes:
        remote = self.binding.remote if isinstance(self.binding, TlsBinding) else None
        return self._send(Command.NETINFO, Netinfo(timestamp, remote, addresses).encode())

    def _send(self, command: int, payload: bytes) -> bytes:
        cell = encode_cell(0, command, payload)
        self._sent.update(cell)
        return cell
