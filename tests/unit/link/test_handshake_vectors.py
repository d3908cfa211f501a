"""The link handshake with C Tor, as it was recorded: tests/vectors/link_tls.json says when and how."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.errors import LinkError
from convergence.link.handshake import Handshake
from convergence.ports import TlsBinding
from convergence.wire.cells import CellCutter, Command, encode_cell
from convergence.wire.certs import CertType, CrossCert
from convergence.wire.handshake import Certs
from convergence.wire.x509 import X509
from tests.unit.circuit.rig import CRYPTO, SeededRng

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/link_tls.json").read_text())
RESPONDER, INITIATOR = VECTORS["responder"], VECTORS["initiator"]


def data(vector, name):
    return bytes.fromhex(vector[name])


class Recorded:
    """An RsaIdentity that says what it said then, and a Rng that draws what was drawn then."""

    def __init__(self, vector):
        certs = next(payload for _, command, payload in cells(data(vector, "answered")) if command == Command.CERTS)
        self._certs = Certs.parse(certs)
        self._challenge = data(vector, "challenge")

    def certificate(self, now):
        return self._certs.get(CertType.RSA_ID)

    def sign(self, digest):
        cross = CrossCert.parse(self._certs.get(CertType.RSA_ED25519))
        assert digest == cross.digest()
        return cross.signature

    @property
    def public(self):
        return X509.parse(self.certificate(0)).key

    def random(self, size):
        assert size == len(self._challenge)
        return self._challenge


def cells(said):
    return CellCutter().feed(said)


def binding(vector, export):
    return TlsBinding(data(vector, "certificate"), export, vector["remote"])


def initiator(**options):
    bound = binding(RESPONDER, lambda context: pytest.fail("a client exports nothing"))
    handshake = Handshake(CRYPTO, SeededRng("client"), initiator=True, keys=None, binding=bound, **options)
    handshake.start()
    return handshake


def responder(secrets=None):
    secrets = secrets or {data(INITIATOR, "context"): data(INITIATOR, "secrets")}
    recorded = Recorded(INITIATOR)
    seeds = {name: data(INITIATOR, name) for name in ("identity_seed", "signing_seed", "ntor_secret")}
    keys = replace(NodeKeys.from_secrets(CRYPTO, **seeds), rsa=recorded)
    bound = binding(INITIATOR, secrets.__getitem__)
    return Handshake(CRYPTO, recorded, initiator=False, keys=keys, binding=bound, addresses=("127.0.0.1",))


def test_tor_as_responder():
    expected = {"expected": data(RESPONDER, "identity"), "expected_rsa": data(RESPONDER, "rsa_fingerprint")}
    handshake = initiator(**expected)
    handshake.receive(data(RESPONDER, "said"), RESPONDER["now"])
    assert handshake.open and handshake.authenticated and handshake.version == 5
    assert handshake.peer == expected["expected"] and handshake.peer_rsa == expected["expected_rsa"]


def test_tor_as_initiator():
    handshake = responder()
    said = cells(data(INITIATOR, "said"))
    assert [command for _, command, _ in said] == [7, 129, 131, 8]
    answered = handshake.receive(encode_cell(*said[0]), INITIATOR["now"])
    assert b"".join(answered) == data(INITIATOR, "answered")
    handshake.receive(b"".join(encode_cell(*cell) for cell in said[1:]), INITIATOR["now"])
    assert handshake.open and handshake.authenticated
    assert handshake.peer == data(INITIATOR, "identity") and handshake.peer_rsa == data(INITIATOR, "rsa_fingerprint")


def test_the_same_words_on_another_connection():
    other = responder({data(INITIATOR, "context"): bytes(32)})
    with pytest.raises(LinkError, match="another connection"):
        other.receive(data(INITIATOR, "said"), INITIATOR["now"])


@pytest.mark.parametrize("days", [60, 800])
def test_the_same_words_at_another_time(days):
    handshake = initiator()
    with pytest.raises(LinkError, match="expired|not valid now"):
        handshake.receive(data(RESPONDER, "said"), RESPONDER["now"] + days * 24 * 3600)


def test_every_changed_byte_of_certs_is_noticed():
    """But for type 1, which old relays looked at (tor-spec "CERTS cells": the RSA identity alone)."""
    versions, certs, *_ = cells(data(RESPONDER, "said"))
    needed = Certs(tuple(item for item in Certs.parse(certs[2]).certs if item[0] != CertType.RSA_LINK)).encode()
    for index in range(len(needed)):
        handshake = initiator()
        handshake.receive(encode_cell(*versions), RESPONDER["now"])
        changed = needed[:index] + bytes([needed[index] ^ 1]) + needed[index + 1 :]
        with pytest.raises(LinkError):
            handshake.receive(encode_cell(0, Command.CERTS, changed), RESPONDER["now"])
