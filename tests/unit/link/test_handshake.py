"""The link handshake: its order, what it proves, and what a neighbour cannot make it believe.

Source: tor-spec, "Negotiating and initializing connections".
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto import certificates
from convergence.crypto.keys import NodeKeys
from convergence.errors import LinkError
from convergence.link.handshake import MAX_HANDSHAKE_CELLS, Handshake, State
from convergence.ports import DtlsBinding
from convergence.wire.cells import VARIABLE_HEADER, CellCutter, Command, encode_cell
from convergence.wire.handshake import AuthChallenge, Certs, Netinfo, Versions
from tests.unit.circuit.rig import CRYPTO, START, SeededRng

BINDING = DtlsBinding(b"the binding of this connection")


def keys(name):
    return NodeKeys.generate(CRYPTO, SeededRng(f"keys-{name}"))


RELAY, OTHER, DIALLER = keys("relay"), keys("other"), keys("dialler")


def initiator(binding=BINDING, *, node=DIALLER, expected=RELAY.identity, seed="a"):
    return Handshake(CRYPTO, SeededRng(seed), initiator=True, keys=node, binding=binding, expected=expected)


def responder(binding=BINDING, *, node=RELAY, expected=None, seed="b"):
    return Handshake(CRYPTO, SeededRng(seed), initiator=False, keys=node, binding=binding, expected=expected)


def run(a, b, now=START):
    """Carry cells until neither side has more to say; returns what each side sent."""
    sent_a, sent_b = [], []
    to_b, to_a = b"".join(a.start()), b""
    while to_b or to_a:
        sent_a.append(to_b)
        to_a = b"".join(b.receive(to_b, now)) if to_b else b""
        sent_b.append(to_a)
        to_b = b"".join(a.receive(to_a, now)) if to_a else b""
    return b"".join(sent_a), b"".join(sent_b)


def cells(data):
    return CellCutter().feed(data)


def join(cut):
    return b"".join(encode_cell(*cell) for cell in cut)


# What either side has sent in an honest run, as cells.
_A, _B = initiator(), responder()
FROM_A, FROM_B = (cells(data) for data in run(_A, _B))


def test_both_sides_open_and_know_each_other():
    a, b = initiator(), responder()
    run(a, b)
    assert a.open and b.open
    assert (a.peer, b.peer) == (RELAY.identity, DIALLER.identity)
    assert a.authenticated and b.authenticated
    assert a.version == b.version == 5


def test_an_initiator_without_keys_stays_anonymous():
    a, b = initiator(node=None), responder()
    run(a, b)
    assert a.open and b.open
    assert a.authenticated and a.peer == RELAY.identity
    assert b.peer is None and not b.authenticated


def test_without_a_binding_nobody_is_authenticated():
    a, b = initiator(None), responder(None)
    sent, _ = run(a, b)
    assert a.open and b.open
    assert not a.authenticated and not b.authenticated
    assert a.peer == RELAY.identity and b.peer is None
    assert [command for _, command, _ in cells(sent)] == [Command.VERSIONS, Command.NETINFO]


def test_without_a_binding_no_authentication_is_offered():
    _, sent = run(initiator(None), responder(None))
    challenge = next(payload for _, command, payload in cells(sent) if command == Command.AUTH_CHALLENGE)
    assert AuthChallenge.parse(challenge).methods == ()


@pytest.mark.parametrize("node", [None, DIALLER])
def test_the_time_of_an_initiator_that_does_not_authenticate_is_not_told(node):
    """It would tell who only asks from who also relays."""
    sent, _ = run(initiator(None, node=node), responder(None))
    netinfo = next(payload for _, command, payload in cells(sent) if command == Command.NETINFO)
    assert Netinfo.parse(netinfo).timestamp == 0


# -- order. Each side is brought to every state, and there gets every cell that may not come then.

INITIATOR_STATES = {State.VERSIONS: 0, State.CERTS: 1, State.CHALLENGE: 2, State.NETINFO: 3}
RESPONDER_STATES = {State.ANY_CALLER: 0, State.CERTS_OR_NETINFO: 1, State.AUTHENTICATE: 2, State.NETINFO: 3}
CALLED_STATES = {State.KNOWN_CALLER: 0, State.CALLER_CERTS: 1, State.AUTHENTICATE: 2, State.NETINFO: 3}
EXPECTED = {
    State.VERSIONS: {Command.VERSIONS},
    State.ANY_CALLER: {Command.VERSIONS},
    State.KNOWN_CALLER: {Command.VERSIONS},
    State.CALLER_CERTS: {Command.CERTS},
    State.CERTS: {Command.CERTS},
    State.CHALLENGE: {Command.AUTH_CHALLENGE},
    State.AUTHENTICATE: {Command.AUTHENTICATE},
    State.NETINFO: {Command.NETINFO},
    State.CERTS_OR_NETINFO: {Command.CERTS, Command.NETINFO},
}
PADDING = {Command.VPADDING, Command.AUTHORIZE}
VALID = {command: payload for _, command, payload in [*FROM_B, *FROM_A]}


def cases():
    for side, states in (
        ("initiator", INITIATOR_STATES),
        ("responder", RESPONDER_STATES),
        ("called", CALLED_STATES),
    ):
        for state, done in states.items():
            for command in Command:
                if command in EXPECTED[state] or (command in PADDING and done):
                    continue
                yield pytest.param(side, state, done, command, id=f"{side}-{state.name}-{command.name}")


def brought_to(side, done):
    expected = DIALLER.identity if side == "called" else None
    handshake, script = (initiator(), FROM_B) if side == "initiator" else (responder(expected=expected), FROM_A)
    handshake.start()
    handshake.receive(join(script[:done]), START)
    return handshake


@pytest.mark.parametrize(("side", "state", "done", "command"), list(cases()))
def test_a_cell_out_of_order_is_refused(side, state, done, command):
    handshake = brought_to(side, done)
    assert handshake.state is state
    payload = VALID.get(command, b"")
    data = encode_cell(0, command, payload)
    if command == Command.VERSIONS and done:  # circuit ids have four bytes by then
        data = VARIABLE_HEADER.pack(0, command, len(payload)) + payload
    with pytest.raises(LinkError):
        handshake.receive(data, START)
    assert handshake.state is State.FAILED


def test_whoever_is_expected_to_call_has_to_prove_itself():
    a, b = initiator(), responder(expected=DIALLER.identity)
    run(a, b)
    assert b.open and b.authenticated and b.peer == DIALLER.identity


@pytest.mark.parametrize("node", [None, OTHER])
def test_an_expected_caller_that_is_silent_or_another_is_refused(node):
    b = responder(expected=DIALLER.identity)
    with pytest.raises(LinkError):
        run(initiator(node=node), b)
    assert b.state is State.FAILED and b.peer is None


@pytest.mark.parametrize("node", [None, DIALLER])
def test_nobody_can_be_expected_where_nobody_can_prove_itself(node):
    with pytest.raises(LinkError):
        run(initiator(None, node=node), responder(None, expected=DIALLER.identity))


@pytest.mark.parametrize(("side", "done"), [("initiator", 1), ("initiator", 3), ("responder", 1)])
def test_padding_is_ignored_between_the_cells(side, done):
    handshake = brought_to(side, done)
    state = handshake.state
    assert handshake.receive(encode_cell(0, Command.VPADDING, b"pad"), START) == []
    assert handshake.state is state


def test_padding_counts_in_the_authentication():
    a, b = initiator(), responder()
    out = b"".join(b.receive(b"".join(a.start()), START))
    versions, *others = cells(out)
    # The responder did not send this padding, so its hash of what it sent differs.
    reply = a.receive(join([versions, (0, Command.VPADDING, b"pad"), *others]), START)
    with pytest.raises(LinkError, match="another connection"):
        b.receive(b"".join(reply), START)


def test_endless_padding_is_refused():
    handshake = brought_to("initiator", 1)
    padding = encode_cell(0, Command.VPADDING)
    with pytest.raises(LinkError, match="too many"):
        for _ in range(MAX_HANDSHAKE_CELLS):
            handshake.receive(padding, START)


def test_a_circuit_id_before_the_link_is_open_is_refused():
    handshake = brought_to("initiator", 1)
    with pytest.raises(LinkError):
        handshake.receive(encode_cell(5, Command.CERTS, VALID[Command.CERTS]), START)


def test_no_version_in_common():
    with pytest.raises(LinkError, match="in common"):
        responder().receive(encode_cell(0, Command.VERSIONS, Versions((2, 3, 99)).encode()), START)


def test_the_highest_common_version_is_taken():
    b = responder()
    b.receive(encode_cell(0, Command.VERSIONS, Versions((3, 4, 99)).encode()), START)
    assert b.version == 4


@pytest.mark.parametrize("payload", [b"\0\5\0", b"", b"\0"], ids=["odd length", "no versions", "half a version"])
def test_malformed_versions(payload):
    with pytest.raises(LinkError):
        responder().receive(encode_cell(0, Command.VERSIONS, payload), START)


# -- what is proven


def test_another_node_than_the_one_dialled_is_refused():
    a = initiator(expected=OTHER.identity)
    with pytest.raises(LinkError, match="another than the one dialled"):
        run(a, responder())
    assert not a.open


def test_a_responder_with_another_binding_is_refused():
    """Somebody in the middle: both sides see different connections."""
    with pytest.raises(LinkError, match="another connection"):
        run(initiator(DtlsBinding(b"one")), responder(DtlsBinding(b"two")))


def test_certs_replayed_on_another_connection_prove_nothing():
    """The impostor has no keys of RELAY, only the CERTS it saw."""
    older = DtlsBinding(b"an older connection")
    _, recorded = run(initiator(older), responder(older))
    a = initiator()
    a.start()
    with pytest.raises(LinkError, match="another connection"):
        a.receive(recorded, START)
    assert not a.authenticated


def test_replayed_certs_without_a_binding_never_authenticate():
    _, recorded = run(initiator(None), responder(None))
    a = initiator(None)
    a.start()
    a.receive(recorded, START)
    assert a.open and not a.authenticated


def challenged(b):
    """A responder after VERSIONS, and what it said."""
    a = initiator()
    return a, b"".join(b.receive(b"".join(a.start()), START))


def test_a_replayed_authenticate_is_refused():
    b = responder(seed="another challenge")
    b.receive(join(FROM_A[:1]), START)
    with pytest.raises(LinkError, match="another connection"):
        b.receive(join(FROM_A[1:]), START)
    assert not b.authenticated and not b.open


def test_somebody_elses_identity_in_certs_is_refused():
    """An initiator puts the victim's identity certificate before its own AUTHENTICATE."""
    b = responder()
    a, out = challenged(b)
    reply = cells(b"".join(encode_cell(*cell) for cell in FROM_B[:1]) + b"".join(a.receive(out, START)))[1:]
    victim = certificates.issue(CRYPTO, OTHER, START, binding=None, auth_key=bytes(32))
    forged = [(0, Command.CERTS, victim.encode()), *reply[1:]]
    with pytest.raises(LinkError):
        b.receive(join(forged), START)
    assert not b.authenticated and not b.open


def test_an_authentication_key_certified_by_somebody_else_is_refused():
    """OTHER's identity, but the type 6 certificate is signed with DIALLER's signing key."""
    b = responder()
    b.receive(b"".join(initiator().start()), START)
    own = certificates.issue(CRYPTO, DIALLER, START, binding=None, auth_key=bytes(32))
    victim = certificates.issue(CRYPTO, OTHER, START, binding=None, auth_key=bytes(32))
    mixed = Certs((victim.certs[0], own.certs[1]))
    b.receive(encode_cell(0, Command.CERTS, mixed.encode()), START)
    with pytest.raises(LinkError):
        b.receive(encode_cell(0, Command.AUTHENTICATE, VALID[Command.AUTHENTICATE]), START)
    assert not b.authenticated


def test_an_authenticate_with_a_broken_signature_is_refused():
    b = responder()
    a, out = challenged(b)
    reply = b"".join(a.receive(out, START))
    cutter = CellCutter()
    cutter.feed(join(FROM_A[:1]))
    certs, authenticate, netinfo = cutter.feed(reply)
    broken = bytearray(authenticate[2])
    broken[-1] ^= 1
    with pytest.raises(LinkError, match="signature"):
        b.receive(join([certs, (0, Command.AUTHENTICATE, bytes(broken)), netinfo]), START)
    assert not b.authenticated and not b.open


def test_certs_from_an_initiator_need_a_binding():
    b = responder(None)
    b.receive(join(FROM_A[:1]), START)
    with pytest.raises(LinkError, match="no binding"):
        b.receive(join(FROM_A[1:2]), START)


def test_expired_certificates_are_refused():
    a = initiator()
    a.start()
    with pytest.raises(LinkError, match="expired"):
        a.receive(join(FROM_B), START + 2 * certificates.LIFETIME)


@pytest.mark.parametrize("missing", [4, 5])
def test_a_missing_certificate_is_refused(missing):
    a = initiator()
    a.start()
    certs = certificates.issue(CRYPTO, RELAY, START, binding=BINDING, auth_key=None)
    rest = Certs(tuple(item for item in certs.certs if item[0] != missing))
    with pytest.raises(LinkError, match=f"type {missing}"):
        a.receive(join([FROM_B[0], (0, Command.CERTS, rest.encode())]), START)


# -- framing


def test_cells_behind_netinfo_belong_to_the_open_link():
    a = initiator()
    a.start()
    late = encode_cell(7, Command.DESTROY, b"\1") + encode_cell(8, Command.DESTROY, b"\2")
    a.receive(join(FROM_B) + late + b"cut", START)
    assert a.open
    assert a.leftover() == late + b"cut"
    assert a.leftover() == b""


@given(st.lists(st.integers(1, 3000), max_size=12))
def test_input_may_be_cut_anywhere(borders):
    a, b = initiator(), responder()
    data = b"".join(a.start())
    receiver, sender = b, a
    for _ in range(4):
        out = b""
        start = 0
        for border in sorted({min(border, len(data)) for border in borders} | {len(data)}):
            out += b"".join(receiver.receive(data[start:border], START))
            start = border
        data, receiver, sender = out, sender, receiver
    assert a.open and b.open and a.authenticated and b.authenticated
