"""What a client sees of Tor's relays: only those that it can use, each read when it is asked for."""

from ipaddress import ip_address

import pytest

from convergence.netdir.tor import TorRelay, TorView
from convergence.wire.consensus import Consensus
from convergence.wire.linkspec import SpecifierType, ed25519_identity
from convergence.wire.microdescriptor import find_microdescriptors
from convergence.wire.target import Protocols, Role
from tests.unit.netdir.authorities import vector
from tests.unit.path.tornetwork import BOTH, MIDDLE, Made, TorNetwork, usual


def record(**options):
    """The record of one relay."""
    made = Made(1, **options)
    view = TorNetwork([made]).view()
    return view.relay(view.relays[0])


def related(one, other):
    first, second = Made(1, **one), Made(2, **other)
    view = TorNetwork([first, second]).view()
    records = [view.relay(status) for status in view.relays]
    assert records[0].is_family(records[1]) == records[1].is_family(records[0])
    return records[0].is_family(records[1])


def test_the_relays_of_a_network_of_tor():
    consensus = Consensus.parse(vector("consensus-microdesc"))
    view = TorView(consensus)
    assert len(view.relays) == len(consensus.relays) == 7
    assert view.known == 0 and all(view.relay(status) is None for status in view.relays)
    missing = view.missing()
    assert sorted(missing) == sorted(status.digest for status in consensus.relays)
    view.add(find_microdescriptors(vector("microdescriptors"), missing))
    assert view.missing() == []
    relays = {status.nickname: view.relay(status) for status in view.relays}
    for relay in relays.values():
        target = relay.target
        assert target.node_id == relay.status.identity
        assert ed25519_identity(target.specifiers) == target.identity
        assert target.protocols == Protocols.NTOR_V3 | Protocols.CONGESTION_CONTROL | Protocols.CONFLUX
        assert target.schemes == {"tls"} and target.has_address and not target.rtc
        assert target.specifiers[0].data == bytes([127, 0, 0, 1]) + relay.status.or_port.to_bytes(2, "big")
    exits = {name for name, relay in relays.items() if Role.EXIT in relay.target.roles}
    assert exits == {"relay0", "relay1", "relay2"}, "relay3 has the flag, but connects nowhere"
    families = [
        {one, other} for one in relays for other in relays if one < other and relays[one].is_family(relays[other])
    ]
    assert families == [{"relay0", "relay2"}]


def test_a_relay_is_read_when_it_is_asked_for_and_once(monkeypatch):
    read = []
    made = TorRelay.of.__func__
    monkeypatch.setattr(TorRelay, "of", classmethod(lambda cls, *args: read.append(1) or made(cls, *args)))
    view = usual().view()
    assert view.known == 60 and read == []
    assert view.relay(view.relays[3]) is view.relay(view.relays[3])
    assert len(read) == 1


@pytest.mark.parametrize("flags", ["Fast Valid", "Fast Running", "Fast NoEdConsensus Running Valid"])
def test_relays_that_nobody_should_use_are_left_out(flags):
    view = TorNetwork([Made(1, flags=flags), Made(2)]).view()
    assert [status.nickname for status in view.relays] == ["relay2"]
    assert view.get(Made(1).identity) is None and view.get(Made(2).identity) is view.relays[0]
    assert view.get(bytes(20)) is None


def test_a_relay_without_an_ed25519_identity_cannot_be_used():
    assert record(keys=False) is None


def test_an_unreadable_microdescriptor_costs_its_relay_only():
    view = TorNetwork([Made(1), Made(2)]).view()
    view.add({Made(1).digest: b"onion-key\nntor-onion-key none\n"})
    assert [view.relay(status) is None for status in view.relays] == [True, False]


def test_only_microdescriptors_that_the_consensus_names_are_kept():
    network = usual(9)
    view = network.view()
    view.add({bytes(32): b"junk"})
    assert view.known == 9
    newer = TorNetwork(network.relays[:4]).view().renewed(TorNetwork(network.relays[2:]).consensus())
    assert sorted(newer.microdescriptors) == sorted(relay.digest for relay in network.relays[2:4])
    assert len(newer.missing()) == 5


def test_specifiers_are_in_the_order_of_all_clients():
    target = record(ipv6="[2001:db8::7]:443").target
    assert [specifier.kind for specifier in target.specifiers] == [
        SpecifierType.TLS_IPV4,
        SpecifierType.LEGACY_ID,
        SpecifierType.ED25519_ID,
        SpecifierType.TLS_IPV6,
    ]
    assert target.specifiers[3].data == bytes.fromhex("20010db8000000000000000000000007") + (443).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("protocols", "expected"),
    [
        ("Link=4-5 Relay=1-4 FlowCtrl=1-2", Protocols.NTOR_V3 | Protocols.CONGESTION_CONTROL),
        ("Link=4-5 Relay=1-3 FlowCtrl=1", Protocols(0)),
        ("Relay=4", Protocols.NTOR_V3),
    ],
)
def test_what_a_relay_speaks(protocols, expected):
    assert record(protocols=protocols).target.protocols == expected


def test_who_is_an_exit_and_for_what():
    relay = record(flags=BOTH, policy="accept 80,443", policy6="accept 443")
    address6 = ip_address("2001:db8::1")
    assert Role.EXIT in relay.target.roles
    assert relay.allows(None, 443) and relay.allows(None, 80) and not relay.allows(None, 25)
    assert relay.allows(address6, 443) and not relay.allows(address6, 80)


@pytest.mark.parametrize(
    ("flags", "policy"), [(BOTH, ""), (f"BadExit {BOTH}", "accept 1-65535"), (MIDDLE, "reject 1-65535")]
)
def test_who_is_no_exit(flags, policy):
    relay = record(flags=flags, policy=policy)
    assert relay.target.roles == Role.RELAY and not relay.allows(None, 443)


def test_a_family_is_what_both_say():
    one, other = Made(1), Made(2)
    assert related({"family": (other.name,)}, {"family": (one.name,)})
    assert related({"family": ("relay2",)}, {"family": (one.name + "~relay1",)})
    assert not related({"family": (other.name,)}, {})
    assert not related({}, {"family": (one.name,)})


def test_a_happy_family_is_certified():
    assert related({"family_ids": ("ed25519:a", "ed25519:b")}, {"family_ids": ("ed25519:b",)})
    assert not related({"family_ids": ("ed25519:a",)}, {"family_ids": ("ed25519:b",)})


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ({"address": "198.51.1.1"}, {"address": "198.51.200.9"}, True),
        ({"address": "198.51.1.1"}, {"address": "198.50.1.1"}, False),
        ({"ipv6": "[2001:db8:1::1]:9001"}, {"ipv6": "[2001:db8:2::1]:9001"}, True),
        ({"ipv6": "[2001:db8::1]:9001"}, {"ipv6": "[2001:db9::1]:9001"}, False),
    ],
)
def test_subnets(one, other, shared):
    view = TorNetwork([Made(1, **one), Made(2, **other)]).view()
    records = [view.relay(status) for status in view.relays]
    assert records[0].shares_subnet(records[1]) == shared


def test_a_relay_is_the_same_by_either_identity():
    view = TorNetwork([Made(1), Made(2)]).view()
    one, other = (view.relay(status) for status in view.relays)
    assert one.is_same(one) and not one.is_same(other)
