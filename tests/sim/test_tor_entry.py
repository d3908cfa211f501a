"""Into the Tor network through a node of ours: who sees what, entries that lie or die, and what an entry refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from convergence.circuit.client import ClientCircuit
from convergence.circuit.relaying import RelayLimits
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, RemoteError, Why
from convergence.events import DirectoryRefused, TorDirectoryChanged, Trouble
from convergence.facilitator.client import REFRESH
from convergence.link.neighbours import LinkAddress
from convergence.path.entries import PRIMARY
from convergence.path.place import at_once
from convergence.pipes import http
from convergence.tor.circuits import TorRequest
from convergence.wire.address import TcpAddress
from convergence.wire.linkspec import LinkSpecifier, SpecifierType
from convergence.wire.target import RelayTarget, Role
from tests.sim import tor
from tests.sim.people import Talker
from tests.sim.test_exits import Site
from tests.sim.tor import AUTHORITIES, OTHERS, TorWorld, documents
from tests.sim.world import Host
from tests.unit.netdir.authorities import HOUR, NOW
from tests.unit.path.tornetwork import Made

WEB = TcpAddress("site.example", 80)


class Scene(TorWorld):
    def __init__(self, seed: str = "tor entry", **options: int) -> None:
        super().__init__(seed, **options)
        self.site = Site()
        self.place = self.world.place("site", self.site, WEB.target)

    def connect(self, origin: Host, key: str = "") -> Talker:
        talkers: list[Talker] = []

        def start(now: float) -> None:
            pipe = origin.node.connect(WEB, now, isolation=key)
            talkers.append(Talker(origin, pipe))
            pipe.handler = talkers[0]

        origin.driver.run(start)
        return talkers[0]

    def echoes(self, talker: Talker, data: bytes = b"hello") -> bool:
        before = len(talker.heard)
        talker.say(data)
        return self.world.run(60, lambda: talker.heard[before:] == data)

    def fetches(self, origin: Host, key: str = "") -> bool:
        """Whether what the origin says to the web site comes back."""
        return self.echoes(self.connect(origin, key))

    def in_use(self, origin: Host) -> dict[int, list[str]]:
        """Names of the hosts that each circuit in use goes through, by its number."""
        names = {host.keys.identity.hex(): host.name for host in self.world.hosts.values() if host.keys is not None}
        names |= {identity.hex(): host.name for identity, host in self.hosts.items()}
        return {
            item["id"]: [names[hop["identity"]] for hop in item["hops"]]
            for item in origin.node.tor.circuits.snapshot()
            if (item["state"], item["purpose"]) == ("in use", "exit")
        }

    def path(self, origin: Host) -> list[str]:
        """Names of the hosts that the circuit in use goes through."""
        [names] = self.in_use(origin).values()
        return names

    def entry_of(self, origin: Host) -> Host:
        """The one through which its circuits go."""
        [identity] = self.used_entries(origin)
        return next(host for host in self.entries if host.keys is not None and host.keys.identity == identity)

    def extend(self, origin: Host, entry: Host, target: RelayTarget) -> ClientCircuit | Why | int:
        """Have the entry extend a circuit. Returns it, or why there is none."""
        results: list[ClientCircuit | Why | int] = []
        node, circuits = origin.node, origin.node.tor.circuits
        assert entry.keys is not None
        first = node.directory.get(entry.keys.identity, self.world.now).target
        request = TorRequest(
            at_once(lambda now: (first, target)),
            "test",
            lambda circuit, now: results.append(circuit),
            lambda why, now: results.append(why),
            attempts=1,
        )
        origin.driver.run(lambda now: circuits._serve(request, now))
        assert self.world.run(60, lambda: bool(results))
        return results[0]


@pytest.fixture
def scene() -> Scene:
    return Scene()


# -- who sees what


def test_an_origin_reaches_the_web_through_one_entry_of_ours_and_two_relays_of_tor(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    entry, middle, last = scene.path(alice)
    hosts = scene.world.hosts
    assert entry.startswith("entry") and middle.startswith("tor") and last in ("tor4", "tor5", "tor6")
    assert alice.seen == {"facilitator", entry}, "no relay or authority of Tor learns of the origin"
    assert "site" not in hosts[entry].seen | hosts[middle].seen
    assert hosts[last].seen & {"alice", entry} == set() and "site" in hosts[last].seen
    assert "alice" not in hosts[middle].seen


def test_an_entry_is_no_exit_and_asks_its_origin_for_nothing(scene: Scene) -> None:
    """The entry has the roles of a relay only. What it is asked for, a mirror has."""
    alice = scene.origin()
    assert scene.ready(alice)
    refused = [event for event in alice.events if isinstance(event, DirectoryRefused)]
    assert refused == []
    changes = [event for event in alice.events if isinstance(event, TorDirectoryChanged)]
    assert changes[-1] == TorDirectoryChanged(6, 6, True)
    assert alice.node.snapshot(scene.world.now)["tor"] == {"relays": 6, "known": 6, "ready": True, "entries": 3}


# -- which entry


def test_the_entry_is_kept_over_restarts(scene: Scene) -> None:
    used = set()
    alice = scene.origin()
    for _ in range(4):
        assert scene.ready(alice) and scene.fetches(alice)
        used.add(scene.entry_of(alice))
        scene.world.restart(alice)
    assert len(used) == 1


def test_while_the_entry_is_away_another_one_serves(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    first = scene.entry_of(alice)
    scene.world.kill(first)
    scene.world.run(5)
    assert scene.fetches(alice, "again")
    assert scene.entry_of(alice) is not first


def test_an_entry_that_extends_to_nobody_is_left(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    first = scene.entry_of(alice)

    def refuse(specifiers: object) -> None:
        raise RemoteError("to nobody")

    first.node.relaying.next_hop = refuse
    results = [scene.fetches(alice, f"user {number}") for number in range(8)]
    assert all(results), "the same request goes on through another"
    assert len(scene.used_entries(alice)) == 2


def test_whoever_takes_our_line_down_again_and_again_makes_us_use_few_entries() -> None:
    scene = Scene(entries=8)
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    used, dial = [scene.entry_of(alice)], alice.connect
    for outage in range(6):
        alice.connect = lambda *args: None  # type: ignore[method-assign]
        alice.driver.run(lambda now: alice.node.neighbours.close_all(now, "no line"))
        scene.world.run(120)
        alice.connect = dial  # type: ignore[method-assign]
        alice.driver.run(alice.node.moved)
        assert scene.fetches(alice, f"after {outage}")
        used += [host for host in scene.entries if host.keys and host.keys.identity in scene.used_entries(alice)]
    assert len(set(used)) <= PRIMARY
    scene.world.run(2 * 3600)
    assert scene.fetches(alice, "later") and scene.path(alice)[0] == used[0].name


def test_an_entry_that_extends_to_its_friends_only_wins_few_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be next to a relay of its own far more often than chance has it, if it came back soon."""
    monkeypatch.setattr(tor, "KINDS", (*tor.KINDS, *tor.KINDS[1:2] * 6))
    scene = Scene(entries=8)
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    liar, friend = scene.entry_of(alice), scene.made[1]
    honest = liar.node._entry.next_hop

    def next_hop(specifiers: Sequence[LinkSpecifier]) -> tuple[bytes, LinkAddress | None]:
        found = honest(specifiers)
        if found[0] != friend.ed25519:
            raise RemoteError("to friends only")
        return found  # type: ignore[no-any-return]

    liar.node.relaying.next_hop = next_hop
    circuits: dict[int, list[str]] = {}
    fetched = 0
    for number in range(60):
        fetched += scene.fetches(alice, f"user {number}")
        circuits |= scene.in_use(alice)
        scene.world.run(20)
    assert fetched >= 58 and len(circuits) >= 55
    assert sum(path[:2] == [liar.name, friend.nickname] for path in circuits.values()) <= 6, "of an honest one 7 to 15"


def test_an_origin_without_an_entry_says_so_and_waits_for_one() -> None:
    scene = Scene(entries=0)
    alice = scene.origin()
    scene.world.run(100)
    lacking = [event for event in alice.events if event == Trouble(Why(PathWhy.NO_TOR_ENTRY), retrying=True)]
    assert len(lacking) == 1 and alice.node.snapshot(scene.world.now)["tor"]["entries"] == 0
    scene.entries.append(scene.entry("entry0"))
    assert scene.ready(alice, 2 * REFRESH) and scene.fetches(alice)


# -- entries that lie


def answer(body: bytes) -> tuple[http.Response, bytes]:
    return http.Response((("Content-Length", str(len(body))),), 200, "OK"), body


def consensus_of(relays: list[Made], **options: object) -> bytes:
    return documents(relays, **options)["tor-directory", b"consensus"]  # type: ignore[no-any-return, arg-type]


LIES: dict[str, Callable[[list[Made]], bytes]] = {
    "garbage": lambda made: b"<html>",
    "nothing": lambda made: b"",
    "truncated": lambda made: consensus_of(made)[:-300],
    "stale": lambda made: consensus_of(made, valid_after=NOW - 48 * HOUR),
    "of the future": lambda made: consensus_of(made, valid_after=NOW + 48 * HOUR),
    "other authorities": lambda made: consensus_of(made, authorities=OTHERS),
    "a minority": lambda made: consensus_of(made, authorities=AUTHORITIES[:1]),
    "one authority three times": lambda made: consensus_of(made, authorities=AUTHORITIES[:1] * 3),
    "altered": lambda made: consensus_of(made).replace(b"Bandwidth=", b"Bandwidth=9", 1),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_entry_that_lies_about_the_consensus_is_refused_and_another_one_asked(scene: Scene, lie: str) -> None:
    liars: list[Host] = []
    for host in scene.entries:

        def answered(
            request: http.Request, now: float, host: Host = host, honest: Callable = host.node._entry.cache.answer
        ) -> tuple[http.Response, bytes]:
            """The first two that are asked lie."""
            if host not in liars and len(liars) < 2:
                liars.append(host)
            wanted = "consensus" in request.target and host in liars
            return answer(LIES[lie](scene.made)) if wanted else honest(request, now)

        host.node._entry.cache.answer = answered
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    refused = [event for event in alice.events if isinstance(event, DirectoryRefused)]
    assert [event.source for event in refused] == [host.keys.identity.hex() for host in liars if host.keys is not None]
    assert len(liars) == 2 and all(event.document == "consensus" and event.reason for event in refused)
    assert scene.path(alice)[0] not in {host.name for host in liars}, "whoever lies gets no circuits either"


def test_an_entry_that_withholds_descriptors_is_refused(scene: Scene) -> None:
    """It might choose for us by what it leaves out."""
    liars: list[Host] = []
    for host in scene.entries:

        def answered(
            request: http.Request, now: float, host: Host = host, honest: Callable = host.node._entry.cache.answer
        ) -> tuple[http.Response, bytes]:
            liars.extend([host] if not liars else [])
            wanted = "/micro/" in request.target and host in liars
            return answer(scene.made[1].microdescriptor) if wanted else honest(request, now)

        host.node._entry.cache.answer = answered
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    [refused] = [event for event in alice.events if isinstance(event, DirectoryRefused)]
    assert refused.document == "microdescriptors" and scene.path(alice)[0] != liars[0].name


# -- what an entry refuses


def target_of(scene: Scene, relay: Made) -> RelayTarget:
    """As a client that believes it is in the consensus has it."""
    network = documents([*scene.made, scene.unlisted])
    assert network
    specifiers = (
        LinkSpecifier(SpecifierType.TLS_IPV4, bytes(map(int, relay.address.split("."))) + (9001).to_bytes(2, "big")),
        LinkSpecifier(SpecifierType.LEGACY_ID, relay.identity),
        LinkSpecifier(SpecifierType.ED25519_ID, relay.ed25519),
    )
    known = next(iter(scene.entries[0].node.directory.nodes(Role.RELAY, scene.world.now))).target
    return replace(
        known, identity=relay.ed25519, specifiers=specifiers, node_id=relay.identity, ntor_key=relay.ntor_key
    )


def test_circuits_go_on_to_relays_of_the_consensus(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice)
    assert isinstance(scene.extend(alice, scene.entries[0], target_of(scene, scene.made[1])), ClientCircuit)


def test_a_relay_that_is_not_in_the_consensus_is_not_dialled(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice)
    result = scene.extend(alice, scene.entries[0], target_of(scene, scene.unlisted))
    assert result == Why(PathWhy.RELAY_SILENT)
    assert not any("entry" in name for name in scene.world.hosts[scene.unlisted.nickname].seen)


def test_a_relay_is_dialled_at_the_address_of_the_consensus_only(scene: Scene) -> None:
    """Or anybody could have entries connect anywhere."""
    alice = scene.origin()
    assert scene.ready(alice)
    wrong = LinkSpecifier(SpecifierType.TLS_IPV4, bytes([192, 0, 2, 99]) + (22).to_bytes(2, "big"))
    listening = scene.world.place("victim", Site(), "192.0.2.99:22")
    target = target_of(scene, scene.made[1])
    forged = replace(target, specifiers=(wrong, *target.specifiers[1:]))
    assert isinstance(scene.extend(alice, scene.entries[0], forged), ClientCircuit)
    assert listening.seen == set() and scene.entries[0].name in scene.world.hosts[scene.made[1].nickname].seen


def test_a_relay_under_the_ed25519_identity_of_another_is_refused(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice)
    target, other = target_of(scene, scene.made[1]), target_of(scene, scene.made[2])
    mixed = replace(target, specifiers=(*target.specifiers[:2], other.specifiers[2]))
    assert scene.extend(alice, scene.entries[0], mixed) == Why(PathWhy.RELAY_SILENT)


def test_a_relay_of_ours_that_is_no_entry_extends_to_no_relay_of_tor(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice)
    result = scene.extend(alice, scene.world.hosts["r0"], target_of(scene, scene.made[1]))
    assert result == Why(PathWhy.RELAY_SILENT)
    assert "r0" not in scene.world.hosts[scene.made[1].nickname].seen


def test_an_entry_still_extends_to_nodes_of_our_own_network(scene: Scene) -> None:
    alice = scene.origin()
    assert scene.ready(alice)
    keys = scene.world.hosts["r0"].keys
    assert keys is not None
    ours = alice.node.directory.get(keys.identity, scene.world.now).target
    assert isinstance(scene.extend(alice, scene.entries[0], ours), ClientCircuit)


# -- the role


def test_only_a_node_that_has_a_consensus_says_that_it_leads_into_the_tor_network() -> None:
    scene = Scene(entries=1)
    scene.world.add("new", Role.RELAY | Role.TOR, circuits=0, entry=scene.config)  # nobody gives it documents
    scene.world.run(REFRESH)
    listed = {node.identity: node.roles for node in scene.entries[0].node.directory.nodes(Role.RELAY, scene.world.now)}
    with_role = {identity for identity, roles in listed.items() if roles & Role.TOR}
    new = scene.world.hosts["new"].keys
    assert new is not None and listed[new.identity] == Role.RELAY
    assert with_role == {host.keys.identity for host in scene.entries if host.keys is not None}


def test_a_node_that_gives_the_role_up_while_it_runs_leads_nowhere_and_hands_nothing_out() -> None:
    scene = Scene(entries=1)
    alice = scene.origin()
    assert scene.ready(alice) and scene.fetches(alice)
    [entry] = scene.entries
    entry.driver.run(lambda now: entry.node.relay(RelayLimits(), Role.RELAY, now))
    assert scene.extend(alice, entry, target_of(scene, scene.made[1])) == Why(PathWhy.RELAY_SILENT)
    bob = scene.origin("bob")
    assert not scene.ready(bob)
    entry.driver.run(lambda now: entry.node.relay(RelayLimits(), Role.RELAY | Role.TOR, now))
    assert scene.ready(bob, 2 * REFRESH) and scene.fetches(bob)


# -- on and off


def test_a_node_turns_to_the_tor_network_and_back_while_it_runs() -> None:
    scene = Scene()
    scene.world.add("exit", Role.EXIT | Role.RELAY, circuits=0)
    scene.world.run(REFRESH)
    alice = scene.world.add("alice", circuits=0)
    scene.world.run(10)
    before = scene.connect(alice)
    assert scene.echoes(before) and "exit" in scene.place.seen
    tor = replace(scene.config, directories=())
    for _ in range(3):
        alice.driver.run(lambda now: alice.node.use_tor(tor, now))
        assert scene.ready(alice) and scene.fetches(alice)
        assert scene.path(alice)[0].startswith("entry")
        assert scene.echoes(before), "what was open goes on"
        during = scene.connect(alice)
        assert scene.echoes(during)
        alice.driver.run(lambda now: alice.node.use_tor(None, now))
        assert scene.world.run(5, lambda during=during: during.code is not None), "a circuit of Tor's ends with it"
        assert alice.node.snapshot(scene.world.now)["tor"] is None
        assert scene.fetches(alice)
    assert len(alice.node.outbox._shifted) <= 3, "nothing is kept of what was left"


def test_the_reason_of_a_refusal_is_one_that_relays_know(scene: Scene) -> None:
    entry = scene.entries[0].node._entry
    unlisted = target_of(scene, scene.unlisted).specifiers
    with pytest.raises(RemoteError) as refused:
        entry.next_hop(unlisted)
    assert refused.value.reason == DestroyReason.CONNECTFAILED
    mixed = (*target_of(scene, scene.made[1]).specifiers[:2], target_of(scene, scene.made[2]).specifiers[2])
    with pytest.raises(RemoteError) as refused:
        entry.next_hop(mixed)
    assert refused.value.reason == DestroyReason.OR_IDENTITY
