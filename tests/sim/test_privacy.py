"""What a single node's record of a run holds: never both ends of a transfer, never what is transferred."""

import base64
from collections import Counter

import pytest

from convergence.rdv.blind import days_in_use
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.sharelink import ShareLink
from tests.sim.people import PathRecord, arrived, content, get, network, relays_of, settle, share_and_stand, transfer

MARKER = b"THE-MARKER-IN-THE-FILE-"
NAME = "the-name-of-the-file.txt"


def describe(secret: bytes) -> list[bytes]:
    """The forms in which bytes may leak."""
    text = secret.hex()
    return [secret, text.encode(), text.upper().encode(), base64.urlsafe_b64encode(secret).rstrip(b"=")]


@pytest.mark.parametrize("hops", [2, 3])
def test_records_of_all_nodes(monkeypatch, hops):
    world = network(f"privacy{hops}", 14, record=True)
    paths = PathRecord(world, monkeypatch)
    names = [f"p{number}" for number in range(8)]
    peers = [world.add(name, circuits=2, hops=hops) for name in names]
    world.run(20)
    transfers = []
    for number in range(12):
        owner, host = peers[number % 8], peers[(number + 1 + number // 8) % 8]
        data = MARKER * 20 + content(number, 3 * number * PIECE_SIZE // 4)
        link = share_and_stand(world, owner, data, name=NAME)
        transfer_id = get(host, link)
        assert settle(world, host, transfer_id) == "done"
        assert arrived(host, transfer_id) == data
        transfers.append((owner, host, transfer(host, transfer_id).download.file))
    relays = relays_of(world)

    # Nobody but the two ends sees what is transferred; and they do not see each other.
    secrets = [MARKER, NAME.encode()]
    for _, _, file in transfers:
        for secret in (file.hash_name, file.key, file.salt, file.info.root, file.leaves[:32]):
            secrets += describe(secret)
    for host in world.hosts.values():
        assert host.received
        for secret in secrets:
            assert secret not in host.received, host.name
    for peer in peers:
        assert not peer.seen & set(names)

    for owner, host, file in transfers:
        attempts = paths.files[file.hash_name]
        beside_owner = paths.neighbours(file.hash_name, provider=True)
        beside_client = paths.neighbours(file.hash_name, provider=False)
        assert {item.origin for item in attempts if item.provider} == {owner.name}
        assert {item.origin for item in attempts if not item.provider} == {host.name}
        # The record is true: the ends did have a channel with these relays, and with none other on this file's paths.
        assert {relays[node].name for node in beside_owner} <= owner.seen
        assert {relays[node].name for node in beside_client} <= host.seen
        assert not beside_owner & beside_client
        for item in attempts:
            assert len({node.identity for node in item.path}) == hops
            assert item.path[-1].identity != item.path[0].identity
            if item.provider:  # a rendezvous point joins two circuits, and is a neighbour of neither end on them
                others = {node.identity for other in attempts if not other.provider for node in other.path[:1]}
                assert item.path[0].identity not in others


def test_entries_are_spread():
    """No relay is the entry of much more than its share of files."""
    patch = pytest.MonkeyPatch()
    world = network("spread", 12)
    paths = PathRecord(world, patch)
    owner = world.add("owner", circuits=0)
    world.run(5)
    for number in range(40):
        share_and_stand(world, owner, content(number, 100))
    patch.undo()
    entries = Counter(item.path[0].identity for attempts in paths.files.values() for item in attempts)
    assert len(entries) == 12
    assert max(entries.values()) < 3 * sum(entries.values()) / len(entries)


def test_a_point_cannot_tell_that_two_files_are_of_one_provider():
    """Each file has circuits of its own, and blinded names that differ from point to point and are no hash_name: one,
    or two at a point whose day changes."""
    world = network("unlinkable", 8)
    owner = world.add("owner", circuits=0)
    world.run(5)
    links = [share_and_stand(world, owner, content(number, 100)) for number in range(4)]
    names = {ShareLink.parse(link).hash_name for link in links}
    advertised, circuits = [], 0
    for identity, relay in relays_of(world).items():
        adverts = relay.node._point._adverts
        days = len(days_in_use(world.now, identity))
        assert all(sum(map(len, provider.names.values())) == days for provider in adverts.providers.values())
        advertised += [name.blinded for name in adverts.names]
        circuits += len(adverts.providers)
    assert len(advertised) == len(set(advertised)) and circuits == 12
    assert not names & set(advertised)
