"""Paths through Tor: whatever relays there are and whatever they claim, no path breaks a rule."""

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.codes import PathWhy
from convergence.errors import Problem
from convergence.path.guardrecord import NOT_CONFIRMED, Guard, decode_guards, encode_guards
from convergence.path.torpath import LONG_LIVED, Wanted
from convergence.path.weights import Lottery, Position, path_fraction
from convergence.wire.target import Role
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import NOW
from tests.unit.path.test_torpath import paths_of, point
from tests.unit.path.tornetwork import Made, TorNetwork

FLAGS = ("BadExit", "Exit", "Fast", "Guard", "NoEdConsensus", "Running", "Stable", "V2Dir", "Valid")
PORTS = (22, 25, 80, 443, 6667)
SPAN = 40  # relays' numbers


@st.composite
def relays(draw, number):
    """Most are good for something; some are small, hostile or broken."""
    rare = draw(st.lists(st.sampled_from(FLAGS), max_size=2))
    flags = {"Fast", "Running", "Stable", "Valid"} ^ set(rare)
    flags |= set(draw(st.sampled_from([(), ("Guard", "V2Dir"), ("Exit",), ("Exit", "Guard", "V2Dir")])))
    ports = draw(st.sets(st.sampled_from(PORTS)))
    claimed = draw(st.one_of(st.just(()), st.sets(st.integers(1, SPAN), max_size=SPAN)))
    return Made(
        number,
        " ".join(sorted(flags)),
        draw(st.one_of(st.integers(0, 1000), st.just((1 << 32) - 1))),
        f"accept {','.join(map(str, sorted(ports)))}" if ports else "",
        draw(st.sampled_from(["", "accept 443"])),
        tuple(Made(other).name for other in sorted(claimed)),
        draw(st.sampled_from([(), (), ("ed25519:one",), ("ed25519:one", "ed25519:two")])),
        f"198.{draw(st.integers(0, 20))}.{number}.1",
        draw(st.sampled_from(["", "", f"[2001:db8::{number}]:9001", f"[2001:{number}::1]:9001"])),
        keys=draw(st.integers(0, 9)) > 0,
    )


@st.composite
def networks(draw):
    numbers = sorted(draw(st.sets(st.integers(1, SPAN), min_size=4, max_size=SPAN)))
    names = [f"W{position}{kind}" for position in "gme" for kind in "gmed"]
    weights = " ".join(f"{name}={draw(st.integers(-1, 10_000))}" for name in names) if draw(st.booleans()) else ""
    return TorNetwork(
        [draw(relays(number)) for number in numbers], weights=weights or "Wgg=1", params="min_paths_for_circs_pct=25"
    )


wanted = st.builds(
    Wanted, st.sampled_from(PORTS), st.sampled_from([None, ip_address("192.0.2.1"), ip_address("2001:db8::1")])
)


@settings(max_examples=60, deadline=None)
@given(networks(), st.sets(wanted, min_size=1, max_size=4), st.integers(2, 5), st.integers(0, 1 << 32))
def test_no_path_breaks_a_rule(network, wanted, hops, seed):
    view = network.view()
    paths = paths_of(view, seed)
    stable = any(item.port in LONG_LIVED for item in wanted)
    for call in (
        lambda: paths.exit_path(wanted, NOW, hops=hops),
        lambda: paths.internal_path(NOW, hops=hops, stable=stable),
    ):
        for _ in range(4):
            try:
                path = call()
            except Problem as problem:
                assert problem.why.code in PathWhy
                continue
            assert len(path.relays) == hops
            assert path.relays[0].status.flags >= {"Guard", "Fast", "Stable", "V2Dir"}
            for index, relay in enumerate(path.relays):
                flags = relay.status.flags
                assert flags >= {"Fast", "Running", "Valid"} and "NoEdConsensus" not in flags
                assert "Stable" in flags or not stable
                assert Role.RELAY in relay.target.roles
                for other in path.relays[:index]:
                    assert relay.target.identity != other.target.identity
                    assert relay.status.identity != other.status.identity
                    assert not relay.is_family(other) and not relay.shares_subnet(other)
    try:
        path = paths.exit_path(wanted, NOW, hops=hops)
    except Problem:
        return
    last = path.relays[-1]
    assert "BadExit" not in last.status.flags
    served = sum(last.allows(item.address, item.port) for item in wanted)
    others = [relay for status in view.relays if (relay := view.relay(status)) and "Fast" in status.flags]
    most = max(
        sum(relay.allows(item.address, item.port) for item in wanted)
        for relay in others
        if not stable or "Stable" in relay.status.flags
    )
    assert served == most > 0


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 20), st.integers(1, SPAN), st.integers(2, 4), st.integers(0, 1 << 32))
def test_no_relay_is_beside_itself_on_a_path_to_a_node_beyond(network, subnet, number, hops, seed):
    """Which says that it has an address near one of theirs, or an identity of theirs."""
    named = Made(number)
    beyond = point(f"198.{subnet}.{number}.1", 9001, named.identity, named.ed25519)
    paths = paths_of(network.view(), seed)
    for _ in range(4):
        try:
            path = paths.internal_path(NOW, hops=hops, beyond=beyond)
        except Problem as problem:
            assert problem.why.code in PathWhy
            continue
        for relay in path.relays:
            assert relay.target.subnets.isdisjoint(beyond.subnets)
            assert relay.status.identity != named.identity and relay.target.identity != named.ed25519


@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from(Position), st.sets(st.integers(1, SPAN)), st.integers(0, 1 << 32))
def test_one_of_those_that_suit_is_drawn_if_there_is_any(network, position, numbers, seed):
    consensus = network.consensus()
    names = {f"relay{number}" for number in numbers}
    suits = lambda status: status.nickname in names  # noqa: E731
    drawn = Lottery(consensus, consensus.relays, position).draw(SeededRng(seed), suits)
    if any(map(suits, consensus.relays)):
        assert drawn is not None and suits(drawn)
    else:
        assert drawn is None


@settings(max_examples=40, deadline=None)
@given(networks(), st.sets(st.integers(1, SPAN)))
def test_the_known_part_grows_with_what_is_known(network, numbers):
    everything = path_fraction(network.view())
    network.known = sorted(numbers)
    less = path_fraction(network.view())
    network.known = sorted(numbers)[::2]
    assert 0 <= path_fraction(network.view()) <= less <= everything <= 1


dates = st.integers(1, (1 << 63) - 1)


@given(st.lists(st.tuples(st.binary(min_size=20, max_size=20), dates, st.booleans(), dates), max_size=30), st.randoms())
def test_stored_guards_come_back(entries, random):
    sample = [Guard(identity, added, added if worked else None, gone) for identity, added, worked, gone in entries]
    sample = list({guard.identity: guard for guard in sample}.values())
    confirmed = [guard for guard in sample if guard.confirmed]
    random.shuffle(confirmed)
    assert len(confirmed) < NOT_CONFIRMED
    again, again_confirmed = decode_guards(encode_guards(sample, confirmed))
    facts = [(guard.identity, guard.added, guard.confirmed, guard.unlisted) for guard in sample]
    assert [(guard.identity, guard.added, guard.confirmed, guard.unlisted) for guard in again] == facts
    assert [guard.identity for guard in again_confirmed] == [guard.identity for guard in confirmed]
