import time
from hashlib import sha256
from ipaddress import ip_address

import pytest

from convergence.errors import ParseError
from convergence.wire import consensus as module
from convergence.wire.consensus import Consensus, Flavor
from convergence.wire.protovers import Protocols
from tests.unit.netdir.authorities import NOW, Authority, consensus, consensus_body, relay, relays, vector

ONE, TWO = bytes([1]) * 20, bytes([2]) * 20


def parse(**options):
    return Consensus.parse(consensus([Authority(0)], **options))


def test_a_consensus_of_tor():
    found = Consensus.parse(vector("consensus-microdesc"))
    assert (found.flavor, found.method, found.skipped) == (Flavor.MICRODESC, 35, 0)
    assert (found.valid_after, found.fresh_until, found.valid_until) == (1795984800, 1795984810, 1795984830)
    assert str(found.required_client) == "Cons=2 Desc=2 FlowCtrl=1 Link=4 Microdesc=2 Relay=2"
    assert found.required_relay.supports("LinkAuth", 3) and found.recommended_relay.supports("Relay", 4)
    assert found.recommended_client.supports("Link", 5)
    assert found.shared_random[0] is None and len(found.shared_random[1] or b"") == 32
    assert found.weights["Wbd"] == 3333 and found.params == {}
    assert [item.algorithm for item in found.signatures] == ["sha256"] * 3
    assert [item.nickname for item in found.relays] == "auth1 relay1 relay3 relay2 auth0 auth2 relay0".split()
    first = found.relays[0]
    assert first.identity.hex() == "1b5c5c26d8a7ee37f8d4640f3fb18fe69d4ef0d9"
    assert (first.address, first.or_port, first.dir_port, first.ipv6) == ("127.0.0.1", 5101, 7101, None)
    assert (first.bandwidth, first.measured, first.version) == (1, False, "Tor 0.4.9.11")
    assert {"Authority", "Guard"} <= first.flags <= found.known_flags and first.protocols.supports("Relay", 6)
    assert found.by_identity[first.identity] is first


def test_the_relays_of_a_consensus_name_their_microdescriptors():
    digests = {item.digest for item in Consensus.parse(vector("consensus-microdesc")).relays}
    parts = vector("microdescriptors").split(b"onion-key\n")[1:]
    # "ntor-onion-key" stands in the middle of a line, so it cuts nothing
    assert {sha256(b"onion-key\n" + part).digest() for part in parts} == digests


def test_the_other_flavor_names_descriptors():
    found = Consensus.parse(vector("consensus-ns"))
    assert found.flavor is Flavor.NS and {item.algorithm for item in found.signatures} == {"sha1"}
    assert all(len(item.digest) == 20 for item in found.relays) and len(found.relays) == 7
    assert len(Consensus.parse(vector("chutney-consensus")).relays) == 3


def test_a_diff_is_asked_for_by_the_digest_of_what_is_signed():
    base = Consensus.parse(vector("consensus-microdesc")).diff_base
    assert vector("consensus-diff").split()[3].decode() == base


def test_parameters_are_kept_within_their_bounds():
    found = parse()
    assert found.param("circwindow", 500, 100, 1000) == 1000
    assert found.param("circwindow", 500, 100, 200) == 200
    assert found.param("other", 500, 100, 1000) == 500


def test_lines_of_a_relay_that_nobody_knows_are_ignored():
    text = relay(ONE, ipv6="[2001:db8::1]:9001", w="Bandwidth=7 Later=1 Unmeasured=1") + "x-new thing\na 192.0.2.9:1\n"
    [found] = parse(relays=[text]).relays
    assert found.ipv6 == (ip_address("2001:db8::1"), 9001)
    assert (found.bandwidth, found.measured) == (7, False)


def test_a_relay_that_cannot_be_read_costs_itself_only():
    good = relay(TWO)
    for bad in (
        relay(ONE, digest=bytes(31)),
        relay(ONE, pr="Relay=0-4294967295"),
        relay(ONE, w="Bandwidth=x"),
        relay(ONE, w="Bandwidth=99999999999"),
        relay(ONE).replace("\ns ", "\nx "),
        relay(ONE).replace("\nv ", "\nw Bandwidth=1\nv "),
        relay(ONE).replace("192.0.2.1", "192.0.2.256"),
        relay(ONE).replace("192.0.2.1", "192.0.2.01"),
        relay(ONE).replace(" 9001 ", " 65536 "),
        relay(ONE).replace("r relay", "r re-lay"),
        relay(ONE[:19]),
        "r \n",
    ):
        found = parse(relays=[bad, good])
        assert [item.identity for item in found.relays] == [TWO] and found.skipped == 1, bad
    [found] = parse(relays=[relay(ONE, ipv6="[2001:db8::x]:1")]).relays
    assert found.ipv6 is None


def test_relays_stand_in_the_order_of_their_identities():
    for twice in ([relay(TWO), relay(ONE)], [relay(ONE), relay(ONE)]):
        with pytest.raises(ParseError, match="out of order"):
            parse(relays=twice)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("network-status-version 3", "network-status-version 4", "version"),
        ("network-status-version 3 microdesc", "network-status-version 3 other", "flavor"),
        ("network-status-version 3", "x-first\nnetwork-status-version 3", "does not begin"),
        ("vote-status consensus", "vote-status vote", "a vote"),
        ("vote-status consensus\n", "", "lacks"),
        ("consensus-method 35", "consensus-method x", "number"),
        ("valid-after ", "valid-until ", "lacks"),
        ("known-flags", "x-flags", "lacks"),
        ("directory-footer\n", "", "without footer"),
    ],
)
def test_what_is_no_consensus_is_refused_with_a_reason(old, new, why):
    made = consensus([Authority(0)], relays=[relay(ONE)])
    assert old.encode() in made
    with pytest.raises(ParseError, match=why):
        Consensus.parse(made.replace(old.encode(), new.encode(), 1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("circwindow=1000", "circwindow=2147483648", lambda found: found.param("circwindow", 7, 0, 9) == 7),
        ("circwindow=1000", "circwindow=x", lambda found: "circwindow" not in found.params),
        ("Wgg=5869", "Wgg=x", lambda found: found.weights == {"Wmm": 10000}),
        ("required-client-protocols L", "required-client-protocols =", lambda found: not found.required_client.masks),
        ("params ", "shared-rand-current-value 3 AAAA\nparams ", lambda found: found.shared_random == (None, None)),
    ],
)
def test_one_bad_value_refuses_no_consensus(old, new, expected):
    """Most authorities signed it, and all clients have to use it."""
    made = consensus([Authority(0)], relays=[relay(ONE)])
    assert old.encode() in made
    found = Consensus.parse(made.replace(old.encode(), new.encode(), 1))
    assert expected(found) and len(found.relays) == 1


def test_dates_are_in_order():
    for dates in ({"fresh_until": NOW}, {"valid_until": NOW + 1}):
        with pytest.raises(ParseError, match="dates"):
            parse(**dates)


def test_a_consensus_cut_anywhere_is_refused():
    made = consensus([Authority(0)], relays=[relay(ONE)])
    for size in range(len(made)):
        with pytest.raises(ParseError):
            Consensus.parse(made[:size])


def test_only_what_is_signed_is_read():
    made = consensus([Authority(0)], weights="Wgg=1")
    found = Consensus.parse(made + b"bandwidth-weights Wgg=10000\n")
    assert found.weights == {"Wgg": 1}
    none = consensus_body().replace(b"bandwidth-weights Wgg=5869 Wmm=10000\n", b"")
    signature = Authority(0).signature(none)
    assert Consensus.parse(none + signature + b"bandwidth-weights Wgg=10000\n" + signature).weights == {}
    with pytest.raises(ParseError, match="without footer"):
        Consensus.parse(consensus_body().replace(b"directory-footer", signature + b"directory-footer"))


def test_signatures_of_unknown_algorithms_are_ignored():
    body = consensus_body()
    other = Authority(0).signature(body).replace(b" sha256 ", b" sha3 ")
    assert Consensus.parse(body + other + Authority(0).signature(body)).signatures[0].algorithm == "sha256"
    for name in ((b"1", ONE), (ONE, b"1")):
        with pytest.raises(ParseError, match="digest"):
            Consensus.parse(body + Authority(0).signature(body, name=name))


def test_all_is_bounded(monkeypatch):
    body = consensus_body()
    with pytest.raises(ParseError, match="signatures"):
        Consensus.parse(body + Authority(0).signature(body) * (module.MAX_SIGNATURES + 1))
    with pytest.raises(ParseError, match="larger"):
        parse(extra="x-more " + "x" * module.MAX_HEADER + "\n")
    monkeypatch.setattr(module, "MAX_RELAYS", 3)
    with pytest.raises(ParseError, match="more than 3 relays"):
        parse(relays=relays(4))
    monkeypatch.setattr(module, "MAX_LINES", 10)
    with pytest.raises(ParseError, match="10 lines"):
        parse()
    monkeypatch.setattr(module, "MAX_CONSENSUS", 100)
    with pytest.raises(ParseError, match="more than 100 bytes"):
        parse()


def test_a_consensus_of_today_s_size_is_read_within_a_second():
    made = consensus([Authority(0)], relays=relays(9000))
    began = time.process_time()
    found = Consensus.parse(made)
    took = time.process_time() - began
    assert len(found.relays) == 9000 and found.skipped == 0
    assert took < 1.0
    assert len({id(item.protocols) for item in found.relays}) == 2, "what many have in common is read once"
    assert found.relays[0].protocols in (Protocols.parse("Cons=1-2 Link=1-5 Relay=1-4"), found.relays[0].protocols)
