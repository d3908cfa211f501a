from __future__ import annotations

from dataclasses import replace

import pytest

from convergence.crypto import certificates
from convergence.crypto.keys import NodeKeys
from convergence.errors import CryptoError, RemoteError
from convergence.ports import DtlsBinding
from convergence.wire.certs import AFFECTS_VALIDATION, CertType, Ed25519Cert, Extension
from convergence.wire.handshake import Certs
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
NOW = 1_800_000_000.0
BINDING = DtlsBinding(b"what both ends of one connection see")
AUTH_SEED = b"\4" * 32
AUTH_KEY = CRYPTO.ed25519_public(AUTH_SEED)
KEYS, OTHER = (
    NodeKeys.from_secrets(CRYPTO, identity_seed=a * 32, signing_seed=b * 32, ntor_secret=bytes(32))
    for a, b in ((b"\1", b"\2"), (b"\5", b"\6"))
)


def issue(keys=KEYS, binding=BINDING, auth_key=AUTH_KEY):
    return certificates.issue(CRYPTO, keys, NOW, binding=binding, auth_key=auth_key)


def with_cert(certs, cert_type, data):
    """The same CERTS with other bytes in one place."""
    return Certs(tuple((kind, data if kind == cert_type else cert) for kind, cert in certs.certs))


def changed(certs, cert_type, seed, **fields):
    """One certificate altered and signed again."""
    cert = replace(Ed25519Cert.parse(certs.get(cert_type)), **fields)
    return with_cert(certs, cert_type, replace(cert, signature=CRYPTO.ed25519_sign(seed, cert.body())).encode())


def check(certs, binding=BINDING, now=NOW):
    identity, signing = certificates.check_identity(CRYPTO, certs, now)
    certificates.check_link(CRYPTO, certs, signing, binding, now)
    return identity, certificates.check_auth(CRYPTO, certs, signing, now)


def test_a_whole_chain_leads_from_the_identity_to_connection_and_authentication_key():
    assert check(Certs.parse(issue().encode())) == (KEYS.identity, AUTH_KEY)


def test_only_what_was_asked_for_is_certified():
    kinds = [[kind for kind, _ in issue(binding=b, auth_key=a).certs] for b, a in ((None, None), (None, AUTH_KEY))]
    assert kinds == [[CertType.IDENTITY_SIGNING], [CertType.IDENTITY_SIGNING, CertType.SIGNING_AUTH]]


def test_a_missing_certificate_is_refused():
    for left_out in (CertType.IDENTITY_SIGNING, CertType.SIGNING_LINK, CertType.SIGNING_AUTH):
        with pytest.raises(CryptoError):
            check(Certs(tuple(item for item in issue().certs if item[0] != left_out)))


def test_certificates_end_with_their_lifetime():
    assert check(issue(), now=NOW + certificates.LIFETIME - 1)
    with pytest.raises(CryptoError):
        check(issue(), now=NOW + certificates.LIFETIME + 3600)


@pytest.mark.parametrize("cert_type", [CertType.IDENTITY_SIGNING, CertType.SIGNING_LINK, CertType.SIGNING_AUTH])
def test_one_expired_link_breaks_the_chain(cert_type):
    seed = KEYS.identity_seed if cert_type == CertType.IDENTITY_SIGNING else KEYS.signing_seed
    with pytest.raises(CryptoError):
        check(changed(issue(), cert_type, seed, expires=int(NOW // 3600)))


def test_a_chain_for_another_connection_is_refused():
    with pytest.raises(CryptoError):
        check(issue(), binding=DtlsBinding(b"another connection"))


@pytest.mark.parametrize("cert_type", [CertType.SIGNING_LINK, CertType.SIGNING_AUTH])
def test_certificates_of_another_node_do_not_fit_in(cert_type):
    with pytest.raises(CryptoError):
        check(with_cert(issue(), cert_type, issue(OTHER).get(cert_type)))


def test_nobody_can_claim_an_identity_without_its_key():
    # The other node's chain, with the first node's identity named in it.
    claim = (Extension(4, 0, KEYS.identity),)
    with pytest.raises(CryptoError):
        check(changed(issue(OTHER), CertType.IDENTITY_SIGNING, OTHER.identity_seed, extensions=claim))


def test_an_identity_certificate_has_to_name_its_identity():
    with pytest.raises(CryptoError):
        check(changed(issue(), CertType.IDENTITY_SIGNING, KEYS.identity_seed, extensions=()))


def test_a_certificate_of_one_type_cannot_stand_for_another():
    certs = issue()
    with pytest.raises(CryptoError):
        check(with_cert(certs, CertType.SIGNING_LINK, certs.get(CertType.SIGNING_AUTH)))


def test_an_unknown_extension_counts_only_if_it_affects_validity():
    named = (Extension(4, 0, KEYS.identity),)
    for flags in (0, AFFECTS_VALIDATION):
        certs = changed(
            issue(), CertType.IDENTITY_SIGNING, KEYS.identity_seed, extensions=(*named, Extension(99, flags, b"new"))
        )
        if flags:
            with pytest.raises(RemoteError):
                check(certs)
        else:
            assert check(certs)[0] == KEYS.identity


def test_every_changed_byte_is_noticed():
    certs = issue()
    for cert_type, cert in certs.certs:
        for index in range(len(cert)):
            broken = cert[:index] + bytes((cert[index] ^ 1,)) + cert[index + 1 :]
            with pytest.raises(RemoteError):
                check(with_cert(certs, cert_type, broken))
