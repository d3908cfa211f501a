"""What is in the documents; their signatures are in crypto/test_routersign.py."""

import pytest

from convergence.errors import ParseError
from convergence.wire import routerdesc
from convergence.wire.netdoc import split
from convergence.wire.routerdesc import EXTRA_START, START, ExtraInfo, RouterDescriptor
from tests.unit.netdir.authorities import vector

DESCRIPTORS = {part.split(b" ")[1].decode(): part for part in split(vector("descriptors"), START, 9)}
EXTRA_INFOS = split(vector("extra-infos"), EXTRA_START, 9)
RELAY = DESCRIPTORS["relay2"]


def unsigned(data):
    return data[: data.index(b"router-sig-ed25519")]


def test_descriptors_of_tor_and_back():
    assert len(DESCRIPTORS) == 7
    for data in DESCRIPTORS.values():
        body = RouterDescriptor.parse(data).body()
        # tor writes "caches-extra-info" and others in an order that depends on its version
        assert sorted(body.splitlines()) == sorted(unsigned(data).splitlines())
    for data in EXTRA_INFOS:
        assert ExtraInfo.parse(data).body() == unsigned(data)


def test_the_parts_of_a_descriptor():
    found = RouterDescriptor.parse(RELAY)
    assert (found.nickname, found.address, found.or_port, found.dir_port) == ("relay2", "127.0.0.1", 5202, 0)
    assert found.platform == "Tor 0.4.9.11 on Linux" and found.contact == "someone at example"
    assert found.protocols.supports("FlowCtrl", 2) and found.bandwidth[:2] == (1073741824, 1073741824)
    assert [str(rule) for rule in found.policy.rules] == ["accept *:80", "accept *:443", "reject *:*"]
    assert str(found.policy6) == "accept 80,443"
    assert found.hidden_service_dir and found.tunnelled_dir_server and not found.hibernating
    assert found.rsa_identity.hex().startswith("6e49f1f7919399b5")
    assert found.identity is not None and found.signatures is not None


def test_the_parts_of_an_extra_info():
    found = ExtraInfo.parse(EXTRA_INFOS[0])
    assert found.nickname == "auth1" and found.rsa_identity.hex().startswith("1b5c5c26")
    assert [keyword for keyword, _ in found.lines] == ["geoip-db-digest", "geoip6-db-digest", "padding-counts"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"router relay2", b"router re-lay2", "nickname"),
        (b"router relay2 127.0.0.1", b"router relay2 ::1", "IPv4"),
        (b"router relay2 127.0.0.1 5202", b"router relay2 127.0.0.1 70000", "number"),
        (b"router relay2 127.0.0.1 5202 0 0", b"router relay2 127.0.0.1 5202", "lacks arguments"),
        (b"\nproto ", b"\nx-proto ", 'lacks "proto"'),
        (b"\nproto ", b"\nproto Foo=0-4294967295 ", "versions"),
        (b"\npublished ", b"\npublished x", "date"),
        (b"\nfingerprint 6E49", b"\nfingerprint 6E48", "fingerprint"),
        (b"\nmaster-key-ed25519 R", b"\nmaster-key-ed25519 S", "two identities"),
        (b"\nbandwidth ", b"\nbandwidth -", "number"),
        (b"\nntor-onion-key ", b"\nntor-onion-key A", "base64|length"),
        (b"\nntor-onion-key-crosscert ", b"\nntor-onion-key-crosscert 2", "number"),
        (b"\nonion-key-crosscert", b"\nx-crosscert", "onion key"),
        (b"\nonion-key\n", b"\nx-onion-key\n", "onion key"),
        (b"\naccept *:80", b"\naccept *", "rule"),
        (b"\nidentity-ed25519\n", b"\nx-more\nidentity-ed25519\n", "second item"),
        (b"\nrouter-signature\n", b"\nx-more\nrouter-signature\n", "next-to-last"),
        (b"\nor-address ", b"\nor-address [::1]:1" * 9 + b"\nor-address ", "too many"),
    ],
)
def test_what_is_no_descriptor_is_refused_with_a_reason(old, new, why):
    assert old in RELAY
    with pytest.raises(ParseError, match=why):
        RouterDescriptor.parse(RELAY.replace(old, new, 1))


def test_a_descriptor_has_a_policy_and_ends_with_its_signature():
    with pytest.raises(ParseError, match="without an exit policy"):
        RouterDescriptor.parse(RELAY.replace(b"\naccept ", b"\nx-a ").replace(b"\nreject ", b"\nx-r "))
    with pytest.raises(ParseError, match="does not end"):
        RouterDescriptor.parse(RELAY + b"x-more\n")
    with pytest.raises(ParseError, match="too many"):
        family = RELAY[RELAY.index(b"family-cert\n") : RELAY.index(b"contact ")]
        RouterDescriptor.parse(RELAY.replace(family, family * (routerdesc.MAX_FAMILY_CERTS + 1)))


def test_a_certificate_names_its_identity():
    start = RELAY.index(b"-----BEGIN ED25519 CERT-----")
    crosscert = RELAY[RELAY.index(b"ntor-onion-key-crosscert") :]
    bare = crosscert[crosscert.index(b"-----BEGIN") : crosscert.index(b"-----END")]
    end = RELAY.index(b"-----END ED25519 CERT-----")
    with pytest.raises(ParseError, match="does not name its identity"):
        RouterDescriptor.parse(RELAY[:start] + bare + RELAY[end:])


def test_sizes_are_bounded():
    with pytest.raises(ParseError, match="larger"):
        RouterDescriptor.parse(RELAY + b"\n" * routerdesc.MAX_DESCRIPTOR)
    with pytest.raises(ParseError, match="larger"):
        ExtraInfo.parse(EXTRA_INFOS[0] + b"\n" * routerdesc.MAX_EXTRA_INFO)
