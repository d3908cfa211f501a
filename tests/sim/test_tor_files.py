"""Files through a node of ours, two relays of Tor and a rendezvous point of ours: who sees what, who may be where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from convergence.codes import PathWhy
from convergence.errors import RemoteError, Why
from convergence.link.neighbours import LOOKUP_TIMEOUT, LinkAddress
from convergence.path.place import Request, at_once
from convergence.wire.linkspec import LinkSpecifier, ed25519_specifier
from convergence.wire.sharelink import ShareLink
from convergence.wire.target import Role
from tests.sim.people import RELAY, arrived, content, get, settle, share_and_stand, standing, transfer
from tests.sim.test_privacy import describe
from tests.sim.tor import TorWorld
from tests.sim.world import Host

SIZE = 2_000_000


class Scene(TorWorld):
    """`points` nodes `p0`... take links of relays of Tor; as many as `plain` others are points too."""

    def __init__(self, seed: str = "tor files", *, points: int = 3, plain: int = 0, entries: int = 3) -> None:
        super().__init__(seed, entries=entries, relays=plain)
        self.points = [self.point(f"p{number}") for number in range(points)]
        self.world.run(60)

    def point(self, name: str) -> Host:
        address = f"198.51.{100 + len(self.world.hosts)}.7:9443"
        return self.world.add(name, RELAY, circuits=0, tls=address)

    def behind_tor(self, name: str) -> Host:
        return self.origin(name, tor_points=True)

    def carries(self, sender: Host, receiver: Host, number: int = 1) -> bool:
        """Whether a file of the one reaches the other."""
        data = content(number, SIZE)
        transfer_id = get(receiver, share_and_stand(self.world, sender, data))
        return settle(self.world, receiver, transfer_id) == "done" and arrived(receiver, transfer_id) == data

    def paths(self, origin: Host) -> list[list[str]]:
        """Names of the hosts on its circuits to rendezvous points."""
        names = {host.keys.identity.hex(): host.name for host in self.world.hosts.values() if host.keys is not None}
        names |= {identity.hex(): host.name for identity, host in self.hosts.items()}
        circuits = (*origin.node.pool.snapshot(), *origin.node.tor.circuits.snapshot())
        return [
            [names[hop["identity"]] for hop in item["hops"]] for item in circuits if item["purpose"] == "rendezvous"
        ]


def test_who_sees_what_of_a_file_between_two_ends_behind_tor() -> None:
    scene = Scene()
    alice, bob = scene.behind_tor("alice"), scene.behind_tor("bob")
    data = content(1, SIZE)
    link = share_and_stand(scene.world, alice, data)
    paths = scene.paths(alice)
    assert sorted(path[-1] for path in paths) == ["p0", "p1", "p2"]
    assert all(path[0].startswith("entry") and [name[:3] for name in path[1:3]] == ["tor", "tor"] for path in paths)
    transfer_id = get(bob, link)
    assert settle(scene.world, bob, transfer_id) == "done" and arrived(bob, transfer_id) == data
    for end in (alice, bob):
        assert len(end.seen) == 2 and end.seen - {"facilitator"} < {host.name for host in scene.entries}
    relays = {relay.nickname for relay in scene.made}
    for point in scene.points:
        neighbours = point.seen - {"facilitator"} - {host.name for host in (*scene.points, *scene.entries)}
        assert neighbours <= relays, "no end comes near a point"


def test_no_host_but_the_ends_learns_what_is_transferred() -> None:
    scene = Scene()
    for host in scene.world.hosts.values():
        host.received = bytearray()
    alice, bob = scene.behind_tor("alice"), scene.behind_tor("bob")
    data = b"THE-MARKER-IN-THE-FILE-" * 50_000
    link = share_and_stand(scene.world, alice, data, name="the-name.txt")
    transfer_id = get(bob, link)
    assert settle(scene.world, bob, transfer_id) == "done"
    parsed = ShareLink.parse(link)
    secrets = [b"THE-MARKER", b"the-name", *describe(parsed.hash_name), *describe(parsed.key)]
    for host in scene.world.hosts.values():
        if host.received:
            assert not [secret for secret in secrets if secret in host.received], host.name
    assert sum(len(host.received or b"") for host in scene.points) > len(data)


@pytest.mark.parametrize("sender_behind", [True, False])
@pytest.mark.parametrize("points", [1, 3])
def test_an_end_behind_tor_meets_one_that_is_not(sender_behind: bool, points: int) -> None:
    """Even where few of many points take links of relays of Tor."""
    scene = Scene(points=points, plain=12)
    alice = scene.behind_tor("alice") if sender_behind else scene.world.add("alice", circuits=0)
    bob = scene.world.add("bob", circuits=0) if sender_behind else scene.behind_tor("bob")
    scene.world.run(10)
    for number in range(4):
        assert scene.carries(alice, bob, number)


def test_an_entry_is_never_the_point_of_its_own_circuit() -> None:
    scene = Scene(points=1, entries=0)
    both = [
        scene.world.add(name, RELAY | Role.TOR, circuits=0, tls=f"203.0.{number}.9:443", entry=scene.config)
        for number, name in enumerate(("both0", "both1"))
    ]
    for host in both:
        host.storage.items |= scene.documents
        scene.world.restart(host)
    scene.world.run(300)
    alice = scene.behind_tor("alice")
    share_and_stand(scene.world, alice, content(1, 1000))
    paths = scene.paths(alice)
    assert {path[-1] for path in paths} == {"p0", "both0", "both1"}
    assert all(path[0] != path[-1] and path[0].startswith("both") for path in paths)


def test_a_transfer_goes_on_when_a_relay_of_tor_on_its_way_dies() -> None:
    scene = Scene()
    alice, bob = scene.behind_tor("alice"), scene.behind_tor("bob")
    data = content(1, 3 * SIZE)
    transfer_id = get(bob, share_and_stand(scene.world, alice, data))
    assert scene.world.run(120, lambda: transfer(bob, transfer_id).download.have_bytes)
    middle = scene.paths(bob)[0][1]
    scene.world.kill(scene.world.hosts[middle])
    assert settle(scene.world, bob, transfer_id) == "done" and arrived(bob, transfer_id) == data
    assert transfer(bob, transfer_id).download.duplicates == 0


def test_after_a_restart_a_share_goes_through_tor_again_and_never_another_way() -> None:
    scene = Scene()
    alice = scene.behind_tor("alice")
    share_and_stand(scene.world, alice, content(1, 1000))
    scene.world.restart(alice)
    assert scene.world.run(300, lambda: standing(alice))
    assert alice.seen - {"facilitator"} < {host.name for host in scene.entries}
    assert all(path[1].startswith("tor") for path in scene.paths(alice))


def test_a_relay_of_tor_that_extends_to_no_point_hides_no_file() -> None:
    scene = Scene()
    relaying = scene.world.hosts[scene.made[1].nickname].node.relaying
    honest, points = relaying.next_hop, {host.keys.identity for host in scene.points if host.keys is not None}

    def next_hop(specifiers: Sequence[LinkSpecifier]) -> tuple[bytes, LinkAddress | None]:
        identity, address = honest(specifiers)
        if identity in points:
            raise RemoteError("to nobody of that network")
        return identity, address

    relaying.next_hop = next_hop
    alice, bob = scene.behind_tor("alice"), scene.behind_tor("bob")
    for number in range(3):
        assert scene.carries(alice, bob, number)


def test_nobody_learns_by_extending_which_relays_of_tor_have_links_to_a_point() -> None:
    """It would tell from which relays those come who use the point just now."""
    scene = Scene(points=1)
    alice, mallory = scene.behind_tor("alice"), scene.origin("mallory")
    assert scene.ready(mallory)
    share_and_stand(scene.world, alice, content(1, SIZE))
    [point] = scene.points
    linked = {link.peer for link in point.node.neighbours.links.values()} & {made.ed25519 for made in scene.made}
    assert linked
    for made in scene.made:
        results: list[object] = []
        assert point.keys is not None
        first = mallory.node.directory.get(point.keys.identity, scene.world.now).target
        target = replace(
            first,
            identity=made.ed25519,
            node_id=made.identity,
            ntor_key=made.ntor_key,
            specifiers=(ed25519_specifier(made.ed25519),),
        )
        request = Request(
            at_once(lambda now, path=(first, target): path),  # type: ignore[misc]
            "test",
            lambda circuit, now, results=results: results.append(circuit),  # type: ignore[misc]
            lambda why, now, results=results: results.append((why, now)),  # type: ignore[misc]
            attempts=1,
        )
        began = scene.world.now
        mallory.driver.run(lambda now, request=request: mallory.node.pool._serve(request, now))
        assert scene.world.run(60, lambda results=results: bool(results))
        [(why, ended)] = results  # type: ignore[misc]
        assert why == Why(PathWhy.RELAY_SILENT) and ended - began > LOOKUP_TIMEOUT, "as for a node that nobody knows"
