"""Server descriptors and extra-info documents: those of tor hold, ours do, and nothing else does."""

from dataclasses import replace

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.crypto.routersign import (
    certify_family,
    check_descriptor,
    check_extra_info,
    family_id,
    sign_descriptor,
    sign_extra_info,
)
from convergence.crypto.rsa import RsaKey
from convergence.errors import CryptoError, LocalError
from convergence.wire.certs import CertType
from convergence.wire.exitpolicy import ExitPolicy, PortPolicy, Rule
from convergence.wire.netdoc import split
from convergence.wire.protovers import Protocols
from convergence.wire.routerdesc import EXTRA_START, START, ExtraInfo, RouterDescriptor
from pynode.crypto import CPythonCrypto
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import HOUR, NOW, rsa_secret, vector

CRYPTO = CPythonCrypto()
KEYS, OTHERS = (NodeKeys.generate(CRYPTO, SeededRng(name)) for name in ("ours", "theirs"))
RSA, ONION = rsa_secret("relay"), rsa_secret("onion")
WRITTEN = 1795984800  # when tor wrote its documents
EXPIRES = NOW + 72 * HOUR
POLICY = ExitPolicy.of(
    [Rule.parse("reject", "10.0.0.0/8:*"), Rule.parse("accept", "*:443"), Rule.parse("reject", "*:*")]
)
FAMILY = bytes([7]) * 32


def description(**changes):
    made = RouterDescriptor(
        *("convergence", "192.0.2.1", 9001, NOW, (10**6, 2 * 10**6, 5 * 10**5)),
        *(Protocols.parse("Link=4-5 Relay=2-6"), POLICY),
    )
    return replace(made, **changes)


def signed(onion=None, rsa=RSA, **changes):
    return sign_descriptor(CRYPTO, KEYS, rsa, description(**changes), EXPIRES, onion)


def check(data, now=NOW):
    check_descriptor(CRYPTO, RouterDescriptor.parse(data), now)


def test_descriptors_and_extra_infos_of_tor():
    found = [RouterDescriptor.parse(part) for part in split(vector("descriptors"), START, 9)]
    for descriptor in found:
        check_descriptor(CRYPTO, descriptor, WRITTEN)
    families = {item.nickname: [family_id(cert) for cert in item.family_certs] for item in found}
    assert families["relay0"] == families["relay2"] == ["ed25519:90Suo9OL6TFRCH6lUb+yhEPE3O7B25YZC3Q8aVgfLDk"]
    assert families["relay1"] == []
    keys = {item.rsa_identity: item for item in found}
    for part in split(vector("extra-infos"), EXTRA_START, 9):
        info = ExtraInfo.parse(part)
        descriptor = keys[info.rsa_identity]
        check_extra_info(CRYPTO, info, RsaKey.parse(descriptor.rsa_key), WRITTEN)
        assert descriptor.extra_info == info.digests


def test_our_documents_hold():
    extra = ExtraInfo.parse(sign_extra_info(CRYPTO, KEYS, RSA, ExtraInfo("convergence", b"", NOW), EXPIRES))
    check_extra_info(CRYPTO, extra, RsaKey.parse(RSA.public), NOW)
    family = certify_family(CRYPTO, FAMILY, KEYS.identity, EXPIRES)
    data = signed(ONION, extra_info=extra.digests, family_certs=(family,), policy6=PortPolicy.parse("accept 443"))
    found = RouterDescriptor.parse(data)
    check_descriptor(CRYPTO, found, NOW)
    assert (found.identity, found.ntor_key, found.rsa_key) == (KEYS.identity, KEYS.ntor_public, RSA.public)
    assert found.extra_info == extra.digests and found.onion_key == ONION.public
    assert found.body() == data[: data.index(b"router-sig-ed25519")]
    check(signed())


def test_nothing_in_a_document_can_be_changed():
    data = signed(contact="someone")
    for old, new in (
        (b"192.0.2.1", b"192.0.2.2"),
        (b"someone", b"anybody"),
        (b"accept *:443", b"accept *:444"),
        (b"\nrouter-sig-ed25519 ", b"\nx-more\nrouter-sig-ed25519 "),
    ):
        with pytest.raises(CryptoError, match="Ed25519 signature"):
            check(data.replace(old, new))
    extra = sign_extra_info(CRYPTO, KEYS, RSA, ExtraInfo("convergence", b"", NOW, (("x-statistic", "1"),)), EXPIRES)
    for old, new in ((b"x-statistic 1", b"x-statistic 2"), (b"convergence", b"another")):
        with pytest.raises(CryptoError):
            check_extra_info(CRYPTO, ExtraInfo.parse(extra.replace(old, new)), RsaKey.parse(RSA.public), NOW)


def test_both_signatures_count():
    found = RouterDescriptor.parse(signed())
    assert found.signatures is not None
    for changes in ({"ed25519": bytes(64)}, {"rsa": bytes(128)}, {"rsa_digest": bytes(20)}, {"ed25519_digest": b""}):
        with pytest.raises(CryptoError, match="signature does not hold"):
            check_descriptor(CRYPTO, replace(found, signatures=replace(found.signatures, **changes)), NOW)
    with pytest.raises(CryptoError, match="does not hold"):
        check_descriptor(CRYPTO, replace(found, signatures=None), NOW)


def test_the_rsa_identity_signs_the_whole():
    other = replace(RSA, sign=rsa_secret("other").sign)
    with pytest.raises(CryptoError, match="RSA signature"):
        check(signed(rsa=other))


def test_certificates_are_for_this_relay_of_their_types_and_not_expired():
    found = RouterDescriptor.parse(
        signed(ONION, family_certs=(certify_family(CRYPTO, FAMILY, KEYS.identity, EXPIRES),))
    )
    theirs = RouterDescriptor.parse(sign_descriptor(CRYPTO, OTHERS, rsa_secret("their"), description(), EXPIRES, ONION))
    [family] = found.family_certs
    for changes, why in (
        ({"identity_cert": None}, "without the certificate"),
        ({"identity_cert": replace(found.identity_cert, cert_type=CertType.SIGNING_AUTH)}, "without the certificate"),
        ({"identity_cert": replace(found.identity_cert, extensions=())}, "without the certificate"),
        ({"identity_cert": replace(found.identity_cert, key=bytes(32))}, "does not hold"),
        ({"ntor_cert": None}, "type 10"),
        ({"ntor_cert": theirs.ntor_cert}, "type 10"),
        ({"ntor_cert": replace(found.ntor_cert, cert_type=CertType.FAMILY_IDENTITY)}, "type 10"),
        ({"ntor_sign": 1 - found.ntor_sign}, "does not hold"),
        ({"ntor_key": theirs.ntor_key}, "does not hold"),
        ({"family_certs": (certify_family(CRYPTO, FAMILY, OTHERS.identity, EXPIRES),)}, "type 12"),
        ({"family_certs": (certify_family(CRYPTO, FAMILY, KEYS.identity, NOW - 2 * HOUR),)}, "expired"),
        ({"family_certs": (replace(family, signature=bytes(64)),)}, "does not hold"),
        ({"family_certs": (replace(family, extensions=()),)}, "does not name its family"),
        ({"onion_crosscert": theirs.onion_crosscert}, "another relay"),
        ({"onion_crosscert": None}, "size"),
    ):
        with pytest.raises(CryptoError, match=why):
            check_descriptor(CRYPTO, replace(found, **changes), NOW)
    with pytest.raises(CryptoError, match="expired"):
        check_descriptor(CRYPTO, found, EXPIRES + HOUR)


def test_nobody_can_take_the_identity_of_another():
    thief = replace(OTHERS, identity=KEYS.identity)
    with pytest.raises(CryptoError, match="certificate's signature"):
        check(sign_descriptor(CRYPTO, thief, RSA, description(), EXPIRES))
    extra = sign_extra_info(CRYPTO, thief, RSA, ExtraInfo("convergence", b"", NOW), EXPIRES)
    with pytest.raises(CryptoError, match="certificate's signature"):
        check_extra_info(CRYPTO, ExtraInfo.parse(extra), RsaKey.parse(RSA.public), NOW)


def test_an_onion_key_may_sign_more_than_the_specification_says():
    def more(digest):
        return ONION.sign(digest + b"more")

    check(signed(replace(ONION, sign=more)))


def test_an_extra_info_is_of_the_relay_that_it_names():
    extra = ExtraInfo.parse(sign_extra_info(CRYPTO, KEYS, RSA, ExtraInfo("convergence", b"", NOW), EXPIRES))
    with pytest.raises(CryptoError, match="another relay"):
        check_extra_info(CRYPTO, extra, RsaKey.parse(ONION.public), NOW)


def test_what_would_not_parse_is_not_signed():
    for changes in ({"nickname": "not a name"}, {"address": "::1"}, {"or_port": 70000}, {"policy": ExitPolicy(())}):
        with pytest.raises(LocalError):
            signed(**changes)
    with pytest.raises(LocalError, match="line"):
        signed(contact="someone\nrouter-signature")
