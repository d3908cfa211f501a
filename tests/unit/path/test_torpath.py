"""Paths through Tor: an exit that serves, a guard, and nobody on a path who may be of the same operator."""

from collections import Counter
from ipaddress import ip_address

import pytest

from convergence.codes import PathWhy
from convergence.errors import LocalError, Problem
from convergence.netdir.consensus import TOLERANCE
from convergence.netdir.tor import TorView
from convergence.outbox import Outbox
from convergence.path.guards import Guards, Stage
from convergence.path.torpath import LONG_LIVED, TorPaths, Wanted
from convergence.wire.consensus import Consensus
from convergence.wire.linkspec import tor_specifiers
from convergence.wire.microdescriptor import find_microdescriptors
from convergence.wire.target import Protocols, RelayTarget, Role, subnet_of
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import HOUR, NOW, vector
from tests.unit.path.test_weights import assert_shares
from tests.unit.path.tornetwork import BOTH, EXIT, GUARD, MIDDLE, Made, TorNetwork, usual

WEB = [Wanted(443)]
VECTOR_TIME = 1795984815  # while the consensus of tests/vectors/tor was valid


def paths_of(network, seed="paths", now=NOW, **options):
    view = network if isinstance(network, TorView) else network.view()
    rng = SeededRng(seed)
    paths = TorPaths(rng, Guards(Outbox(), rng, "tor"), **options)
    paths.update(view, now)
    return paths


def names(path):
    return [relay.status.nickname for relay in path.relays]


def assert_apart(path):
    for index, relay in enumerate(path.relays):
        for other in path.relays[:index]:
            assert not relay.is_same(other) and not relay.is_family(other) and not relay.shares_subnet(other)


def refused(call, *args, **options):
    with pytest.raises(Problem) as caught:
        call(*args, **options)
    return caught.value.why


@pytest.mark.parametrize("hops", [2, 3, 4, 5])
def test_a_path_begins_with_a_guard_and_ends_with_an_exit(hops):
    paths = paths_of(usual())
    for _ in range(50):
        path = paths.exit_path(WEB, NOW, hops=hops)
        assert len(path.relays) == len(path.targets) == hops
        assert path.relays[0].status is path.use.status and "Guard" in path.use.status.flags
        assert path.relays[-1].allows(None, 443)
        assert_apart(path)
    with pytest.raises(LocalError, match="hops"):
        paths.exit_path(WEB, NOW, hops=1)


def test_a_network_of_tor():
    view = TorView(Consensus.parse(vector("consensus-microdesc")))
    view.add(find_microdescriptors(vector("microdescriptors"), view.missing()))
    assert refused(paths_of(view, now=VECTOR_TIME).exit_path, WEB, VECTOR_TIME).code is PathWhy.NO_ENTRY, "one subnet"
    paths = paths_of(view, now=VECTOR_TIME, distinct_subnets=False)
    seen = set()
    for _ in range(40):
        path = paths.exit_path(WEB, VECTOR_TIME)
        seen.add(tuple(names(path)))
        assert not {"relay0", "relay2"} <= set(names(path)), "they are of one family"
    assert {path[-1] for path in seen} == {"relay0", "relay1", "relay2"}


def test_exits_and_middles_are_chosen_by_weight():
    relays = [Made(number, GUARD, 1) for number in range(1, 4)]
    relays += [Made(number, EXIT, 100 * number, "accept 443") for number in range(10, 20)]
    relays += [Made(number, MIDDLE, 100 * number) for number in range(20, 30)]
    paths = paths_of(TorNetwork(relays))
    found = [names(paths.exit_path(WEB, NOW)) for _ in range(2000)]
    exits, middles = (Counter(int(path[place][5:]) for path in found) for place in (2, 1))
    assert_shares(exits, {number: number for number in range(10, 20)})
    relevant = {number: count for number, count in middles.items() if number >= 20}
    assert sum(relevant.values()) > 1990
    assert_shares(Counter(relevant), {number: number for number in range(20, 30)})


def test_circuits_begin_with_one_guard_while_it_works():
    """But for those that end at the guard or at one of its relatives."""
    paths = paths_of(usual())
    first, *others = (guard.identity for guard in paths.guards.primary)
    entries = Counter(paths.internal_path(NOW).relays[0].status.identity for _ in range(300))
    assert set(entries) <= {first, others[0]} and entries[first] > 270


# -- what exits serve


def network_of_exits(*exits):
    """One exit for each policy and flags, relays 50 and up, in a network of others."""
    others = [Made(number, GUARD if number % 2 else MIDDLE) for number in range(1, 20)]
    found = [Made(50 + index, flags, 1000, policy) for index, (flags, policy) in enumerate(exits)]
    return TorNetwork([*others, *found])


def exits_for(paths, wanted, count=60, **options):
    return {names(paths.exit_path(wanted, NOW, **options))[-1] for _ in range(count)}


def test_an_exit_allows_the_port():
    paths = paths_of(network_of_exits((EXIT, "accept 80"), (EXIT, "accept 443"), (EXIT, "reject 25")))
    assert exits_for(paths, WEB) == {"relay51", "relay52"}
    assert exits_for(paths, [Wanted(80)]) == {"relay50", "relay52"}
    assert refused(paths.exit_path, [Wanted(25)], NOW).code is PathWhy.NO_EXIT


def test_the_policy_counts_for_those_without_the_flag_too():
    paths = paths_of(network_of_exits((MIDDLE, "accept 22"), (EXIT, "accept 443")))
    assert exits_for(paths, [Wanted(22)]) == {"relay50"}


def test_an_address_of_ipv6_takes_an_exit_that_has_it():
    network = network_of_exits((EXIT, "accept 443"))
    network.relays.append(Made(60, EXIT, 1000, "accept 80", "accept 443"))
    paths = paths_of(network)
    assert exits_for(paths, [Wanted(443, ip_address("2001:db8::1"))]) == {"relay60"}
    assert exits_for(paths, [Wanted(443, ip_address("192.0.2.1"))]) == {"relay50"}


def test_a_bad_exit_is_never_one():
    network = network_of_exits((f"BadExit {BOTH}", "accept 1-65535"))
    assert refused(paths_of(network).exit_path, WEB, NOW).code is PathWhy.NO_EXIT


@pytest.mark.parametrize("flags", ["Exit Running Stable Valid", "Exit Fast Stable Valid", "Exit Fast Running Stable"])
def test_an_exit_has_to_be_fast_running_and_valid(flags):
    assert refused(paths_of(network_of_exits((flags, "accept 443"))).exit_path, WEB, NOW).code is PathWhy.NO_EXIT


def test_connections_that_last_go_over_stable_relays_only():
    unstable = "Exit Fast Running Valid"
    network = network_of_exits((unstable, "accept 22,443"), (EXIT, "accept 22,443"))
    network.relays += [Made(number, "Fast Running Valid", 10_000) for number in range(30, 40)]
    paths = paths_of(network)
    assert 22 in LONG_LIVED
    for wanted in ([Wanted(22)], [Wanted(443), Wanted(22)]):
        found = [paths.exit_path(wanted, NOW) for _ in range(40)]
        assert all("Stable" in relay.status.flags for path in found for relay in path.relays)
    assert exits_for(paths, WEB) == {"relay50", "relay51"}
    assert all("Stable" in relay.status.flags for relay in paths.internal_path(NOW, stable=True).relays)


def test_the_exit_serves_most_of_what_is_wanted():
    policies = ("accept 80", "accept 80,443", "accept 80,443,8080", "accept 443")
    paths = paths_of(network_of_exits(*((EXIT, policy) for policy in policies)))
    wanted = [Wanted(80), Wanted(443), Wanted(25)]
    assert exits_for(paths, wanted) == {"relay51", "relay52"}
    assert exits_for(paths, [Wanted(80), Wanted(443), Wanted(8080)]) == {"relay52"}
    with pytest.raises(LocalError):
        paths.exit_path([], NOW)


def test_exits_that_refused_are_taken_only_if_there_are_no_others():
    network = network_of_exits((EXIT, "accept 443"), (EXIT, "accept 443"))
    paths = paths_of(network)
    both = [relay.ed25519 for relay in network.relays[-2:]]
    assert exits_for(paths, WEB, avoid=both[:1]) == {"relay51"}
    assert exits_for(paths, WEB, avoid=both) == {"relay50", "relay51"}


def test_relays_that_failed_are_avoided_in_the_middle():
    relays = [Made(1, GUARD), Made(2, EXIT, 1000, "accept 443"), Made(3, MIDDLE), Made(4, MIDDLE)]
    paths = paths_of(TorNetwork(relays))
    assert {names(paths.exit_path(WEB, NOW, avoid=[Made(3).ed25519]))[1] for _ in range(40)} == {"relay4"}


def test_an_internal_path_may_end_anywhere_or_where_it_is_told():
    network = usual()
    view = network.view()
    paths = paths_of(view)
    ends = {names(paths.internal_path(NOW))[-1] for _ in range(200)}
    assert len(ends) > 20
    last = view.relay(view.relays[7])
    path = paths.internal_path(NOW, last=last)
    assert path.relays[-1] is last
    assert_apart(path)


# -- who must not meet on a path


# -- legs of a conflux set


def linking(count=60, **options):
    """Every second exit links."""
    network = usual(count, **options)
    for relay in network.relays:
        if relay.flags == EXIT and relay.number % 2:
            relay.protocols = f"Conflux=1 {relay.protocols}"
    return network


def test_legs_lead_to_one_exit_that_links_and_share_nothing_else():
    paths = paths_of(linking())
    for _ in range(50):
        legs = []
        for _ in range(3):
            legs.append(paths.leg_path(WEB, legs, NOW))
            assert len(legs[-1].relays) == 3 and legs[-1].relays[0].status is legs[-1].use.status
            assert_apart(legs[-1])
        assert legs[0].relays[-1] is legs[1].relays[-1] is legs[2].relays[-1]
        assert legs[0].relays[-1].status.protocols.supports("Conflux", 1)
        others = [relay.status.identity for leg in legs for relay in leg.relays[:-1]]
        assert len(set(others)) == len(others) == 6


def test_an_exit_that_links_serves_most_of_what_is_wanted_of_those_that_do():
    network = linking()
    for relay in network.relays:
        if relay.flags == EXIT:
            relay.policy = "accept 443" if "Conflux" in relay.protocols else "accept 80,443"
    path = paths_of(network).leg_path([Wanted(80), Wanted(443)], [], NOW)
    assert path.relays[-1].allows(None, 443) and not path.relays[-1].allows(None, 80)


def test_exits_that_did_not_link_are_taken_only_if_there_are_no_others():
    network = linking()
    exits = [relay for relay in network.relays if "Conflux" in relay.protocols]
    paths = paths_of(network)
    last = exits.pop()
    found = paths.leg_path(WEB, [], NOW, avoid=[relay.ed25519 for relay in exits]).relays[-1]
    assert found.status.identity == last.identity
    paths.leg_path(WEB, [], NOW, avoid=[relay.ed25519 for relay in (*exits, last)])


def test_where_no_exit_links_or_no_guard_is_left_there_is_no_leg():
    assert refused(paths_of(usual()).leg_path, WEB, [], NOW).code == PathWhy.NO_EXIT
    network = TorNetwork(
        [Made(1, GUARD), Made(2, MIDDLE), Made(3, EXIT, 1000, "accept 443", protocols="Conflux=1 FlowCtrl=2 Relay=4")]
    )
    paths = paths_of(network)
    first = paths.leg_path(WEB, [], NOW)
    assert refused(paths.leg_path, WEB, [first], NOW).code == PathWhy.NO_ENTRY


@pytest.mark.parametrize("protocols", ["Conflux=1 Relay=4", "Conflux=1 FlowCtrl=2 Relay=2-3"])
def test_an_exit_without_congestion_control_links_nothing(protocols):
    network = linking()
    for relay in network.relays:
        if "Conflux" in relay.protocols:
            relay.protocols = protocols
    assert refused(paths_of(network).leg_path, WEB, [], NOW).code == PathWhy.NO_EXIT


def test_the_guard_is_no_relative_of_the_exit():
    """The first primary guard is not, then the next one enters, and may be used at once."""
    relays = [Made(number, GUARD) for number in range(1, 30)] + [Made(number, MIDDLE) for number in range(30, 40)]
    exit = Made(50, EXIT, 1000, "accept 443")
    first = paths_of(TorNetwork([*relays, exit])).exit_path(WEB, NOW).relays[0].status.identity
    guard = next(relay for relay in relays if relay.identity == first)
    guard.family, exit.family = (exit.name,), (guard.name,)
    paths = paths_of(TorNetwork([*relays, exit]))
    assert paths.guards.primary[0].identity == first, "the sample is the same"
    path = paths.exit_path(WEB, NOW)
    assert path.relays[0].status.identity == paths.guards.primary[1].identity and path.use.primary
    assert paths.internal_path(NOW).relays[0].status.identity == first


def test_one_that_claims_everybody_as_its_family_changes_nothing():
    network = usual()
    network.relays[0].family = tuple(relay.name for relay in network.relays[1:])
    network.relays[0].nickname = network.relays[1].nickname
    paths, plain = paths_of(network), paths_of(usual())
    for _ in range(100):
        assert_apart(paths.exit_path(WEB, NOW))
    ends = {names(paths.internal_path(NOW))[-1] for _ in range(300)}
    assert len(ends) > 0.8 * len({names(plain.internal_path(NOW))[-1] for _ in range(300)})


def test_one_family_of_all_relays_but_three_leaves_paths():
    network = usual()
    for relay in network.relays[3:]:
        relay.family_ids = ("ed25519:all",)
    paths = paths_of(network)
    for _ in range(20):
        path = paths.internal_path(NOW)
        assert_apart(path)
        path.use.over(NOW)


def test_where_no_relays_may_meet_there_is_no_path():
    relays = [Made(1, GUARD), Made(2, EXIT, 1000, "accept 443"), Made(3, MIDDLE, address="10.2.9.9")]
    paths = paths_of(TorNetwork(relays))
    assert refused(paths.exit_path, WEB, NOW).code is PathWhy.NO_PATH
    assert not paths.guards._uses, "nothing is left of the attempt"
    assert len(paths_of(TorNetwork(relays), distinct_subnets=False).exit_path(WEB, NOW).relays) == 3


def test_another_exit_is_tried_where_no_path_leads_to_the_first():
    """A giant one beside the only guard, in its subnet."""
    relays = [Made(1, GUARD), Made(2, EXIT, 1_000_000, "accept 443", address="10.1.9.9")]
    relays += [Made(3, EXIT, 1, "accept 443"), Made(4, MIDDLE)]
    paths = paths_of(TorNetwork(relays))
    assert names(paths.exit_path(WEB, NOW))[-1] == "relay3"


@pytest.mark.parametrize("distinct_subnets", [True, False])
def test_a_giant_relay_takes_one_place_of_a_path(distinct_subnets):
    giant = Made(99, BOTH, (1 << 32) - 1, "accept 443")
    network = usual(
        weights="Wed=10000 Wee=10000 Weg=10000 Wem=10000 Wgd=10000 Wgg=10000 Wgm=10000 "
        "Wmd=10000 Wme=10000 Wmg=10000 Wmm=10000"
    )
    network.relays.append(giant)
    paths = paths_of(network, distinct_subnets=distinct_subnets)
    for _ in range(100):
        path = paths.exit_path(WEB, NOW)
        assert len(set(names(path))) == 3
        assert names(path).count("relay99") == 1


def point(address="192.0.2.7", port=9443, fingerprint=b"p" * 20, identity=b"P" * 32):
    """A node of our own network, as relays of Tor are told of it."""
    specifiers = tor_specifiers(ip_address(address), port, fingerprint, identity)
    subnets = frozenset((subnet_of(ip_address(address)),))
    return RelayTarget(
        identity, specifiers, bytes(20), bytes(32), Protocols(0), Role.RDV, frozenset(), False, subnets=subnets
    )


def test_a_path_to_a_node_beyond_the_network_avoids_its_subnet():
    """As that of any other relay: who has both would see where a circuit comes from and what for."""
    relays = [Made(number, GUARD) for number in range(1, 30)] + [Made(number, MIDDLE) for number in range(30, 40)]
    relays.append(Made(99, MIDDLE, (1 << 32) - 1, address="192.0.100.1"))
    for _ in range(20):
        assert "relay99" in names(paths_of(TorNetwork(relays)).internal_path(NOW))
        assert "relay99" not in names(paths_of(TorNetwork(relays)).internal_path(NOW, beyond=point()))
    paths = paths_of(TorNetwork(relays), distinct_subnets=False)
    assert "relay99" in names(paths.internal_path(NOW, beyond=point()))


@pytest.mark.parametrize("same", ["address", "fingerprint", "identity"])
def test_a_node_beyond_the_network_is_no_relay_of_the_path(same):
    """Whatever the rules of subnets are."""
    relays = [Made(number, GUARD) for number in range(1, 30)] + [Made(number, MIDDLE) for number in range(30, 40)]
    both = Made(99, MIDDLE, (1 << 32) - 1, address="192.0.100.1")
    relays.append(both)
    beyond = {
        "address": point(both.address, 9001),
        "fingerprint": point(fingerprint=both.identity),
        "identity": point(identity=both.ed25519),
    }[same]
    paths = paths_of(TorNetwork(relays), distinct_subnets=False)
    for _ in range(20):
        assert "relay99" not in names(paths.internal_path(NOW, beyond=beyond))


def test_the_guard_is_not_in_the_subnet_of_a_node_beyond_the_network():
    relays = [Made(number, GUARD) for number in range(1, 30)] + [Made(number, MIDDLE) for number in range(30, 40)]
    first = paths_of(TorNetwork(relays)).internal_path(NOW).relays[0]
    path = paths_of(TorNetwork(relays)).internal_path(NOW, beyond=point(first.status.address, 1))
    assert not path.relays[0].shares_subnet(first) and path.use.primary


# -- when no path is chosen


def test_without_a_consensus_there_is_no_path():
    rng = SeededRng(1)
    paths = TorPaths(rng, Guards(Outbox(), rng, "tor"))
    for call in (paths.internal_path, paths.directory_guard):
        assert refused(call, NOW).code is PathWhy.NO_CONSENSUS


def test_an_old_consensus_is_not_used():
    paths = paths_of(usual())
    end = NOW + 3 * HOUR + TOLERANCE
    assert paths.internal_path(end - 1)
    assert refused(paths.internal_path, end).code is PathWhy.NO_CONSENSUS


def test_too_few_microdescriptors_are_refused_with_the_figures():
    """A directory must not choose our paths by what it sends."""
    network = usual()
    network.known = [relay.number for relay in network.relays[:45]]
    why = refused(paths_of(network).internal_path, NOW)
    assert why.code is PathWhy.FEW_DESCRIPTORS
    assert why.values["needed"] == 60 and 20 < why.values["known"] < 60
    network.params = "min_paths_for_circs_pct=25"
    network.known += [relay.number for relay in network.relays if relay.flags == GUARD]
    assert paths_of(network).internal_path(NOW)


def test_paths_are_chosen_once_enough_microdescriptors_have_come():
    network = usual(known=[])
    paths = paths_of(network)
    assert refused(paths.internal_path, NOW).code is PathWhy.FEW_DESCRIPTORS
    network.known = None
    paths.view.add(network.microdescriptors())
    assert paths.internal_path(NOW)


def test_the_guard_to_use_has_to_be_known():
    """Otherwise whoever withholds its microdescriptor would get us to use another one."""
    network = usual()
    first = paths_of(network).guards.primary[0].identity
    guard = next(relay for relay in network.relays if relay.identity == first)
    network.known = [relay.number for relay in network.relays if relay is not guard]
    paths = paths_of(network)
    assert refused(paths.internal_path, NOW).code is PathWhy.NO_GUARD_DESCRIPTOR
    paths.view.add({guard.digest: guard.microdescriptor})
    assert paths.internal_path(NOW).relays[0].status.identity == first


def test_of_a_guard_that_is_down_nothing_has_to_be_known():
    """But of the one in its place."""
    network = usual()
    first, second, _ = (guard.identity for guard in paths_of(network).guards.primary)
    for unknown, code in ((first, None), (second, PathWhy.NO_GUARD_DESCRIPTOR)):
        network.known = [relay.number for relay in network.relays if relay.identity != unknown]
        paths = paths_of(network)
        paths.guards.select(lambda status: True, NOW).failed(NOW)
        if code is None:
            assert paths.internal_path(NOW).relays[0].status.identity == second
        else:
            assert refused(paths.internal_path, NOW).code is code


def test_documents_are_asked_of_primary_guards():
    network = usual()
    paths = paths_of(network)
    entries = {names(paths.directory_guard(NOW))[0] for _ in range(60)}
    assert len(entries) == 3
    primary = [guard.identity for guard in paths.guards.primary]
    network.known = [relay.number for relay in network.relays if relay.identity == primary[1]]
    path = paths_of(network).directory_guard(NOW)
    assert [relay.status.identity for relay in path.relays] == primary[1:2], "it is all that is known"
    assert path.use.stage is Stage.BUILDING


# -- behind a node that is none of these relays


def entry_at(*subnets):
    none = Protocols(0)
    return RelayTarget(
        bytes(32), (), bytes(20), bytes(32), none, Role.TOR, frozenset(), False, subnets=frozenset(subnets)
    )


def test_behind_an_entry_of_another_network_no_relay_has_to_be_a_guard():
    paths = TorPaths(SeededRng("entry"), None)
    assert not paths.ready(NOW)
    paths.update(usual().view(), NOW)
    assert paths.ready(NOW) and not paths.ready(NOW + 3 * HOUR + TOLERANCE)
    entry, flags = entry_at(), Counter()
    for _ in range(200):
        path = paths.exit_path(WEB, NOW, hops=2, entry=entry)
        assert path.targets == (entry, *(relay.target for relay in path.relays)) and len(path.relays) == 2
        assert path.use is None and path.relays[-1].allows(None, 443)
        assert_apart(path)
        flags["Guard" in path.relays[0].status.flags] += 1
    assert flags[False] > flags[True] > 0
    assert refused(paths.directory_guard, NOW).code == PathWhy.NO_CONSENSUS


def test_too_few_descriptors_are_too_few_behind_an_entry_too():
    paths = TorPaths(SeededRng("entry"), None)
    paths.update(usual(known=range(1, 30)).view(), NOW)
    assert refused(paths.exit_path, WEB, NOW, hops=2, entry=entry_at()).code == PathWhy.FEW_DESCRIPTORS


def test_no_relay_is_in_the_subnet_of_the_entry():
    network = TorNetwork([Made(1, GUARD), Made(2, GUARD), Made(3, EXIT, policy="accept 443")])
    near = subnet_of(ip_address("10.1.200.7"))
    for distinct, expected in ((True, {"relay2"}), (False, {"relay1", "relay2"})):
        paths = TorPaths(SeededRng("entry"), None, distinct_subnets=distinct)
        paths.update(network.view(), NOW)
        found = {names(paths.exit_path(WEB, NOW, hops=2, entry=entry_at(near)))[0] for _ in range(50)}
        assert found == expected
