"""The link handshake on TLS, as between relays of the Tor network: what both identities prove there.

Source: tor-spec, "CERTS cells" and "AUTHENTICATE cells". The TLS is made up: both ends have one certificate and one
exporter.
"""

from dataclasses import replace
from hashlib import sha1, sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto import certificates
from convergence.crypto.certificates import LIFETIME
from convergence.errors import LinkError, LocalError
from convergence.link.handshake import Handshake, State
from convergence.ports import TlsBinding
from convergence.wire.cells import Command, encode_cell
from convergence.wire.certs import CertType, CrossCert
from convergence.wire.handshake import Authenticate, Certs, Netinfo, Versions
from pynode.torkeys import RsaSecret
from tests.unit.circuit.rig import CRYPTO, START, SeededRng
from tests.unit.link.test_handshake import CALLED_STATES, INITIATOR_STATES, RESPONDER_STATES, cases, cells, join, run
from tests.unit.link.test_handshake import keys as plain_keys

OWN_ADDRESS, FROM_ADDRESS = "192.0.2.1", "198.51.100.7"


def tls(name="this connection"):
    """What either end of one connection sees."""
    return TlsBinding(
        b"certificate of " + name.encode(), lambda context: sha256(name.encode() + context).digest(), FROM_ADDRESS
    )


def keys(name):
    return replace(plain_keys(name), rsa=RsaSecret.generate())


RELAY, OTHER, DIALLER = keys("relay"), keys("other"), keys("dialler")
CLIENT = plain_keys("client")
BINDING = tls()


def fingerprint(node):
    return sha1(node.rsa.public).digest()


def initiator(binding=BINDING, *, node=DIALLER, seed="a", **options):
    options.setdefault("expected", RELAY.identity)
    options.setdefault("expected_rsa", fingerprint(RELAY))
    return Handshake(CRYPTO, SeededRng(seed), initiator=True, keys=node, binding=binding, **options)


def responder(binding=BINDING, *, node=RELAY, seed="b", **options):
    return Handshake(CRYPTO, SeededRng(seed), initiator=False, keys=node, binding=binding, **options)


FROM_A, FROM_B = (cells(data) for data in run(initiator(), responder()))
VALID = {command: payload for _, command, payload in [*FROM_B, *FROM_A]}


# -- who is there


def test_both_sides_prove_both_identities():
    a, b = initiator(), responder()
    run(a, b)
    assert a.open and b.open and a.authenticated and b.authenticated
    assert (a.peer, a.peer_rsa) == (RELAY.identity, fingerprint(RELAY))
    assert (b.peer, b.peer_rsa) == (DIALLER.identity, fingerprint(DIALLER))
    assert not a.anonymous and not b.anonymous


def test_certs_of_a_responder_and_of_an_initiator():
    responders, initiators = (Certs.parse(dict(cell[1:] for cell in sent)[Command.CERTS]) for sent in (FROM_B, FROM_A))
    assert {kind for kind, _ in responders.certs} == {*COMMON, CertType.SIGNING_LINK}
    assert {kind for kind, _ in initiators.certs} == {*COMMON, CertType.SIGNING_AUTH}


def test_authenticate_says_what_tor_wants():
    """Field by field: tor-spec, "Link authentication type 3"; the exporter's context is CID, as in C Tor."""
    said = Authenticate.parse(VALID[Command.AUTHENTICATE])
    cid, sid = (sha256(node.rsa.public).digest() for node in (DIALLER, RELAY))
    assert (said.cid, said.sid) == (cid, sid)
    assert (said.cid_ed, said.sid_ed) == (DIALLER.identity, RELAY.identity)
    assert said.scert == sha256(BINDING.certificate).digest()
    assert said.tls_secrets == BINDING.export(cid)
    assert said.slog == sha256(join(FROM_B[:3])).digest()
    assert said.clog == sha256(join(FROM_A[:2])).digest()


def test_a_node_without_an_rsa_identity_is_a_client_and_stays_anonymous():
    a, b = initiator(node=CLIENT), responder()
    sent, _ = run(a, b)
    assert a.open and a.authenticated and a.anonymous
    assert b.open and b.peer is None and b.peer_rsa is None and not b.authenticated
    assert [command for _, command, _ in cells(sent)] == [Command.VERSIONS, Command.NETINFO]


def test_a_node_without_an_rsa_identity_cannot_answer():
    with pytest.raises(LocalError):
        responder(node=CLIENT)


def test_the_rsa_identity_alone_may_be_expected():
    a, b = initiator(expected=None), responder(expected_rsa=fingerprint(DIALLER))
    run(a, b)
    assert a.open and b.open and a.peer == RELAY.identity and b.authenticated


@pytest.mark.parametrize("wrong", ["expected", "expected_rsa"])
def test_both_expected_identities_count(wrong):
    other = {"expected": OTHER.identity, "expected_rsa": fingerprint(OTHER)}
    with pytest.raises(LinkError, match="another than the one dialled"):
        run(initiator(**{wrong: other[wrong]}), responder())
    with pytest.raises(LinkError, match="another than the one dialled"):
        run(initiator(), responder(**{wrong: other[wrong]}))


@pytest.mark.parametrize("expected", ["expected", "expected_rsa"])
def test_an_expected_caller_that_stays_anonymous_is_refused(expected):
    who = {"expected": DIALLER.identity, "expected_rsa": fingerprint(DIALLER)}
    b = responder(**{expected: who[expected]})
    with pytest.raises(LinkError):
        run(initiator(node=CLIENT), b)
    assert b.state is State.FAILED


@pytest.mark.parametrize("version", [4, 5])
def test_the_link_protocols_of_tor(version):
    b = responder()
    b.receive(encode_cell(0, Command.VERSIONS, Versions((3, version)).encode()), START)
    assert b.version == version


# -- certificates: each missing, wrong, expired, for another key, of another connection


def certs_of(node, side, binding=BINDING, now=START, auth_key=bytes(32)):
    """What `node` would send on this side."""
    link, auth = (binding, None) if side == "responder" else (None, auth_key)
    return certificates.issue(CRYPTO, node, now, binding=link, auth_key=auth, rsa=node.rsa)


def with_cert(certs, kind, data):
    return Certs(tuple((number, data if number == kind else cert) for number, cert in certs.certs))


def hears(side, certs, now=START):
    """A handshake that hears these certificates from the given side, and all that side sends after them."""
    if side == "responder":
        handshake, script = initiator(expected=None, expected_rsa=None), FROM_B
        handshake.start()
    else:
        handshake, script = responder(), FROM_A
    changed = [(0, command, certs.encode() if command == Command.CERTS else payload) for _, command, payload in script]
    try:
        handshake.receive(join(changed), now)
    finally:
        assert not handshake.authenticated and not handshake.open


COMMON = (CertType.RSA_ID, CertType.IDENTITY_SIGNING, CertType.RSA_ED25519)
KINDS = [
    pytest.param(side, kind, id=f"{side}-{kind.name}")
    for side, own in (("responder", CertType.SIGNING_LINK), ("initiator", CertType.SIGNING_AUTH))
    for kind in (*COMMON, own)
]
NODES = {"responder": RELAY, "initiator": DIALLER}


@pytest.mark.parametrize(("side", "kind"), KINDS)
def test_a_missing_certificate_is_refused(side, kind):
    certs = certs_of(NODES[side], side)
    with pytest.raises(LinkError, match=f"type {int(kind)}"):
        hears(side, Certs(tuple(item for item in certs.certs if item[0] != kind)))


@pytest.mark.parametrize(("side", "kind"), KINDS)
def test_a_certificate_of_another_node_is_refused(side, kind):
    certs, others = certs_of(NODES[side], side), certs_of(OTHER, side)
    with pytest.raises(LinkError):
        hears(side, with_cert(certs, kind, others.get(kind)))


@pytest.mark.parametrize(("side", "kind"), KINDS)
def test_an_expired_certificate_is_refused(side, kind):
    node = NODES[side]
    before = replace(node, rsa=RsaSecret.from_pem(node.rsa.pem()))  # which keeps a certificate of its own
    old = certs_of(before, side, now=START - (500 * 24 * 3600 if kind is CertType.RSA_ID else 2 * LIFETIME))
    with pytest.raises(LinkError, match="expired|not valid now"):
        hears(side, with_cert(certs_of(node, side), kind, old.get(kind)))


@pytest.mark.parametrize(("side", "kind"), KINDS)
def test_a_certificate_cut_short_is_refused(side, kind):
    certs = certs_of(NODES[side], side)
    with pytest.raises(LinkError):
        hears(side, with_cert(certs, kind, certs.get(kind)[:-1]))


def test_certificates_of_another_connection_are_refused():
    with pytest.raises(LinkError, match="another connection"):
        hears("responder", certs_of(RELAY, "responder", tls("another connection")))


def test_certificates_of_another_connection_prove_no_initiator():
    """All are genuine and in date; only what signs AUTHENTICATE is not this connection's."""
    with pytest.raises(LinkError, match="another connection|signature"):
        hears("initiator", certs_of(DIALLER, "initiator"))


def test_an_rsa_identity_that_vouches_for_another_is_refused():
    """RELAY's own chain, and a word of OTHER's RSA identity that is signed, but by OTHER's key and not RELAY's."""
    cross = CrossCert(RELAY.identity, int(START // 3600) + 24)
    signed = replace(cross, signature=OTHER.rsa.sign(cross.digest()))
    with pytest.raises(LinkError, match="not signed by it"):
        hears("responder", with_cert(certs_of(RELAY, "responder"), CertType.RSA_ED25519, signed.encode()))


def test_whoever_has_only_the_certificates_cannot_be_the_relay():
    """A responder in the middle has all that RELAY ever sent, and its own TLS."""
    _, recorded = run(initiator(tls("yesterday's")), responder(tls("yesterday's")))
    a = initiator()
    a.start()
    with pytest.raises(LinkError, match="another connection"):
        a.receive(recorded, START)
    assert not a.authenticated


def test_secrets_of_another_connection_are_refused():
    """The same TLS certificate on two connections: what was signed for one does not hold on the other."""
    there = TlsBinding(BINDING.certificate, lambda context: bytes(32))
    with pytest.raises(LinkError, match="another connection"):
        run(initiator(), responder(there))


def test_authenticate_counts_with_its_signature_only():
    """The very run that was recorded, but for one bit of the signature."""
    broken = VALID[Command.AUTHENTICATE][:-1] + bytes([VALID[Command.AUTHENTICATE][-1] ^ 1])
    b = responder()
    with pytest.raises(LinkError, match="signature"):
        b.receive(join([*FROM_A[:2], (0, Command.AUTHENTICATE, broken)]), START)
    assert not b.authenticated and not b.open


# -- order (C Tor's TROVE-2026-006 was about CERTS out of order)


def brought_to(side, done):
    expected = DIALLER.identity if side == "called" else None
    handshake, script = (initiator(), FROM_B) if side == "initiator" else (responder(expected=expected), FROM_A)
    handshake.start()
    handshake.receive(join(script[:done]), START)
    return handshake


@pytest.mark.parametrize(("side", "state", "done", "command"), [case for case in cases() if case.values[3] != 7])
def test_a_cell_out_of_order_is_refused(side, state, done, command):
    handshake = brought_to(side, done)
    states = {"initiator": INITIATOR_STATES, "responder": RESPONDER_STATES, "called": CALLED_STATES}[side]
    assert handshake.state is state and states[state] == done
    with pytest.raises(LinkError):
        handshake.receive(encode_cell(0, command, VALID.get(command, b"")), START)
    assert handshake.state is State.FAILED


def test_certs_twice_are_refused():
    for side in ("initiator", "responder"):
        handshake = brought_to(side, 2)
        with pytest.raises(LinkError, match="was awaited"):
            handshake.receive(encode_cell(0, Command.CERTS, VALID[Command.CERTS]), START)


# -- NETINFO


def test_addresses_and_times_are_told():
    a, b = initiator(addresses=("203.0.113.5",)), responder(addresses=(OWN_ADDRESS, "2001:db8::1"))
    run(a, b)
    assert a.netinfo == Netinfo(int(START), FROM_ADDRESS, (OWN_ADDRESS, "2001:db8::1"))
    assert b.netinfo == Netinfo(int(START), FROM_ADDRESS, ("203.0.113.5",))
    assert a.skew == b.skew == int(START) - START


def test_a_client_tells_neither_time_nor_addresses_of_its_own():
    a, b = initiator(node=CLIENT, addresses=(OWN_ADDRESS,)), responder()
    run(a, b)
    assert b.netinfo == Netinfo(0, FROM_ADDRESS, ()) and b.skew is None


def test_a_clock_that_is_off_is_told_and_no_more():
    a = initiator()
    a.start()
    ahead = Netinfo(int(START) + 7200).encode()
    a.receive(join([*FROM_B[:3], (0, Command.NETINFO, ahead)]), START)
    assert a.open and a.skew == pytest.approx(7200, abs=1)


# -- framing


@given(st.lists(st.integers(1, 4000), max_size=12))
def test_input_may_be_cut_anywhere(borders):
    a, b = initiator(), responder()
    data = b"".join(a.start())
    receiver, sender = b, a
    for _ in range(4):
        out, start = b"", 0
        for border in sorted({min(border, len(data)) for border in borders} | {len(data)}):
            out += b"".join(receiver.receive(data[start:border], START))
            start = border
        data, receiver, sender = out, sender, receiver
    assert a.open and b.open and a.authenticated and b.authenticated


def test_no_secret_is_shown():
    assert repr(BINDING) == f"TlsBinding(remote={FROM_ADDRESS!r})"
    assert repr(RELAY) == f"NodeKeys({RELAY.identity.hex()[:16]})" and repr(RELAY.rsa) == "RsaSecret()"
