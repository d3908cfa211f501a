"""What a node shares and fetches: from command to events, what is stored, what comes back after a restart."""

import json
from dataclasses import replace

import pytest

from convergence.codes import StorageWhy, TransferWhy
from convergence.effects import Failure
from convergence.errors import LocalError
from convergence.events import as_json
from convergence.ordb.index import file_key
from convergence.transfers import MAX_TRANSFERS, public_id
from convergence.wire.manifest import Entry, encode_manifest
from convergence.wire.sharelink import ShareLink
from tests.sim.people import (
    arrived,
    content,
    get,
    network,
    relays_of,
    settle,
    share,
    share_and_stand,
    standing,
    transfer,
)

SIZE = 600_000


def of_files(host):
    """What is stored of files: all but what the node knows of the network."""
    return {item for item in host.storage.items if item[0] != "known"}


@pytest.fixture
def world():
    return network("transfers", 7)


@pytest.fixture
def giver(world):
    return world.add("giver", circuits=0)


@pytest.fixture
def taker(world):
    return world.add("taker", circuits=0)


def events(host, kind):
    return [as_json(event) for event in host.events if event.kind == kind]


def do(host, call, *args):
    results = []
    host.driver.run(lambda now: results.append(call(*args, now)))
    return results[0]


def share_id(host):
    [item] = host.node.transfers.snapshot()["shares"]
    return item["id"]


# -- sharing


def test_a_file_travels_and_everybody_is_told(world, giver, taker):
    data = content(1, SIZE)
    link = share_and_stand(world, giver, data, name="photo.jpg")
    transfer_id = get(taker, link)
    assert settle(world, taker, transfer_id) == "done"
    assert arrived(taker, transfer_id) == data
    [info] = events(taker, "transfer-info")
    assert (info["id"], info["name"], info["size"]) == (transfer_id, "photo.jpg", SIZE)
    assert events(taker, "transfer-done") == [{"id": transfer_id, "name": "photo.jpg", "size": SIZE}]
    progress = [item["have"] for item in events(taker, "transfer-progress")]
    assert progress == sorted(progress) and progress[-1] == SIZE
    world.run(5)
    assert events(giver, "share-progress")[-1]["sent"] == SIZE
    assert events(giver, "share-ready")[-1]["points"] == events(giver, "share-ready")[-1]["wanted"]


def test_ids_in_events_and_snapshots_give_no_capability_away(world, giver, taker):
    link = ShareLink.parse(share_and_stand(world, giver, content(2, 1000)))
    transfer_id = get(taker, link.format())
    settle(world, taker, transfer_id)
    told = json.dumps([[event.kind, as_json(event)] for host in (giver, taker) for event in host.events])
    told += json.dumps([host.node.transfers.snapshot() for host in (giver, taker)])
    for secret in (link.hash_name, link.key):
        assert secret.hex() not in told and link.format() not in told
    assert share_id(giver) == transfer_id == public_id(link.hash_name)


def test_the_same_file_keeps_its_link(world, giver):
    links = []
    for _ in range(2):
        share(giver, content(3, 1000), links.append)
        world.run(1)
    assert len(links) == 2 and links[0] == links[1]
    assert len(giver.node.transfers.shares) == 1


def test_a_file_that_cannot_be_recorded_is_not_shared(world, giver):
    giver.storage.fail = Failure("quota", "the disk is full")
    links = []
    share(giver, content(4, 1000), links.append)
    world.run(1)
    assert links == [] and not giver.node.transfers.shares
    assert events(giver, "share-failed")[-1]["why"] == {
        "code": StorageWhy.SHARE,
        "failure": "quota",
        "detail": "the disk is full",
    }


def test_unshare_stops_and_deletes(world, giver, taker):
    link = share_and_stand(world, giver, content(5, SIZE))
    do(giver, giver.node.transfers.unshare, share_id(giver))
    do(giver, giver.node.transfers.unshare, "unknown")
    world.run(5)
    assert not of_files(giver) and not giver.node.transfers.shares
    transfer_id = get(taker, link)
    assert world.run(30, lambda: transfer(taker, transfer_id).why.code is TransferWhy.NOBODY)
    assert transfer(taker, transfer_id).state == "looking"
    assert events(taker, "transfer-status")[-1]["why"] == {"code": TransferWhy.NOBODY}


def test_links_are_for_known_shares(giver):
    with pytest.raises(LocalError):
        giver.node.transfers.link("unknown")


# -- fetching


@pytest.mark.parametrize("text", ["", "nonsense", "https://site/#abc", "a.b", "x" * 10_000])
def test_a_malformed_link_is_refused_with_words(taker, text):
    with pytest.raises(LocalError) as error:
        do(taker, taker.node.transfers.get, text)
    assert str(error.value) and not taker.node.transfers.transfers


def link_to(number):
    return ShareLink(number.to_bytes(32, "big"), bytes(32)).format()


def test_opening_a_link_again_changes_nothing(taker):
    assert get(taker, link_to(1)) == get(taker, link_to(1))
    assert len(taker.node.transfers.transfers) == 1


def test_transfers_at_once_are_limited(taker):
    for number in range(MAX_TRANSFERS):
        get(taker, link_to(number))
    with pytest.raises(LocalError, match="limit-transfers"):
        get(taker, link_to(MAX_TRANSFERS))


@pytest.mark.parametrize("command", ["cancel", "retry", "forget"])
def test_commands_for_unknown_transfers_say_so(taker, command):
    with pytest.raises(LocalError, match="gone-transfer"):
        do(taker, getattr(taker.node.transfers, command), "unknown")


def test_a_stopped_transfer_goes_on_from_what_it_has(world, giver, taker):
    data = content(6, 3_000_000)
    link = share_and_stand(world, giver, data)
    transfer_id = get(taker, link)
    assert world.run(60, lambda: transfer(taker, transfer_id).download.have_bytes > 500_000)
    do(taker, taker.node.transfers.cancel, transfer_id)
    world.run(5)
    had = transfer(taker, transfer_id).download.have_bytes
    assert transfer(taker, transfer_id).state == "stopped" and had < len(data)
    get(taker, link)
    assert settle(world, taker, transfer_id) == "done"
    assert transfer(taker, transfer_id).download.bytes_fetched <= len(data) - had
    assert arrived(taker, transfer_id) == data


def test_a_finished_transfer_stays_finished(world, giver, taker):
    transfer_id = get(taker, share_and_stand(world, giver, content(7, 1000)))
    assert settle(world, taker, transfer_id) == "done"
    do(taker, taker.node.transfers.cancel, transfer_id)
    do(taker, taker.node.transfers.retry, transfer_id)
    assert transfer(taker, transfer_id).state == "done"


def test_a_full_disk_pauses_and_retry_goes_on(world, giver, taker):
    data = content(8, SIZE)
    link = share_and_stand(world, giver, data)
    taker.storage.fail = Failure("quota", "full")
    transfer_id = get(taker, link)
    world.run(30)
    assert transfer(taker, transfer_id).state == "paused"
    assert events(taker, "transfer-paused")[-1]["why"] == {"code": TransferWhy.NO_ROOM}
    taker.storage.fail = None
    do(taker, taker.node.transfers.retry, transfer_id)
    assert settle(world, taker, transfer_id) == "done" and arrived(taker, transfer_id) == data


def test_forget_deletes_what_has_arrived(world, giver, taker):
    transfer_id = get(taker, share_and_stand(world, giver, content(9, SIZE)))
    settle(world, taker, transfer_id)
    do(taker, taker.node.transfers.forget, transfer_id)
    world.run(5)
    assert not of_files(taker) and not taker.node.transfers.transfers


def test_forget_while_it_runs_leaves_nothing_behind(world, giver, taker):
    transfer_id = get(taker, share_and_stand(world, giver, content(10, 3_000_000)))
    assert world.run(60, lambda: transfer(taker, transfer_id).download.have_bytes > 500_000)
    do(taker, taker.node.transfers.forget, transfer_id)
    world.run(30)
    assert not of_files(taker) and not taker.node.transfers.transfers


def test_a_folder_is_listed_and_a_part_of_it_chosen(world, giver, taker):
    entries = [Entry("a", SIZE), Entry("b", None), Entry("c", 1_000_000)]
    manifest = encode_manifest(entries)
    data = manifest + content(1, SIZE + 1_000_000)
    link = share_and_stand(world, giver, data, name="folder", manifest_size=len(manifest))
    taker.driver.run(lambda now: taker.node.transfers.get(link, now, lambda collection: [1, 2]))
    [item] = taker.node.transfers.snapshot()["transfers"]
    assert settle(world, taker, item["id"]) == "done"
    assert events(taker, "transfer-listed") == [{"id": item["id"], "entries": 3, "chosen": 2, "size": 1_000_000}]
    [item] = taker.node.transfers.snapshot()["transfers"]
    assert item["files"] == 2 and item["have"] < len(data)
    with pytest.raises(LocalError):  # a part cannot be served on
        do(taker, taker.node.transfers.share_received, item["id"], print)
    do(taker, taker.node.transfers.forget, item["id"])
    world.run(1)
    assert of_files(taker) == set()
    assert settle(world, taker, get(taker, link)) == "done"  # the whole
    assert arrived(taker, item["id"]) == data


def test_what_arrived_can_be_served_on(world, giver, taker):
    data = content(11, SIZE)
    link = share_and_stand(world, giver, data)
    transfer_id = get(taker, link)
    with pytest.raises(LocalError, match="gone-file"):
        taker.node.transfers.share_received(transfer_id, lambda share_id, now: None, world.now)
    settle(world, taker, transfer_id)
    do(taker, taker.node.transfers.share_received, transfer_id, lambda share_id, now: None)
    assert world.run(60, lambda: standing(taker))
    assert taker.node.transfers.link(share_id(taker)) == link
    world.kill(giver)
    third = world.add("third", circuits=0)
    third_id = get(third, link)
    assert settle(world, third, third_id) == "done" and arrived(third, third_id) == data


def owned(world):
    """For each advert of a name at any point, whether it is the owner's."""
    return sorted(name.owned for relay in relays_of(world).values() for name in relay.node._point._adverts.names)


def test_who_made_the_link_has_the_owners_place_and_who_serves_it_on_has_not(world, giver, taker):
    link = share_and_stand(world, giver, content(14, SIZE))
    assert owned(world) == [True] * 3
    settle(world, taker, transfer_id := get(taker, link))
    do(taker, taker.node.transfers.share_received, transfer_id, lambda share_id, now: None)
    assert world.run(60, lambda: standing(taker))
    world.run(1)
    assert owned(world) == [False] * 3 + [True] * 3
    secrets = [giver.node.transfers.shares[share_id(giver)].file.secret, None]
    assert secrets[0] is not None and taker.node.transfers.shares[share_id(taker)].file.secret is None
    assert not any(secrets[0] in value for value in taker.storage.items.values())


def test_an_owner_who_fetches_his_own_file_stays_its_owner(world, giver):
    link = share_and_stand(world, giver, content(15, SIZE))
    settle(world, giver, transfer_id := get(giver, link))
    told = []
    do(giver, giver.node.transfers.share_received, transfer_id, lambda share_id, now: told.append(share_id))
    assert told == [share_id(giver)]
    world.restart(giver)
    assert world.run(60, lambda: standing(giver))
    world.run(1)
    assert giver.node.transfers.link(share_id(giver)) == link and owned(world) == [True] * 3


def test_files_that_were_shared_before_there_were_owners_are_found_by_their_links(world, giver, taker):
    data = content(16, SIZE)
    share_and_stand(world, giver, data)
    file = giver.node.transfers.shares[share_id(giver)].file
    del giver.storage.items["file", file_key(file.info.root, file.hash_name)]
    old = replace(file, hash_name=b"r" * 32, secret=None)
    giver.storage.items["file", file_key(old.info.root, old.hash_name)] = old.encode()
    world.restart(giver)
    assert world.run(60, lambda: standing(giver))
    world.run(1)
    assert owned(world) == [False] * 3
    transfer_id = get(taker, ShareLink(old.hash_name, old.key).format())
    assert settle(world, taker, transfer_id) == "done" and arrived(taker, transfer_id) == data


# -- after a restart


def test_shares_and_unfinished_transfers_come_back(world, giver, taker):
    data = content(12, 3_000_000)
    link = share_and_stand(world, giver, data)
    transfer_id = get(taker, link)
    assert world.run(60, lambda: transfer(taker, transfer_id).download.have_bytes > 500_000)
    had = transfer(taker, transfer_id).download.have_bytes
    world.restart(taker)
    world.restart(giver)
    world.run(1)
    assert [item["id"] for item in giver.node.transfers.snapshot()["shares"]] == [transfer_id]
    assert settle(world, taker, transfer_id) == "done"
    assert transfer(taker, transfer_id).download.bytes_fetched <= len(data) - had
    assert arrived(taker, transfer_id) == data


def test_damaged_records_are_passed_over(world, giver):
    giver.storage.items["file", bytes(32)] = b"written by a newer version"
    giver.storage.items["transfer", bytes(32)] = b""
    world.restart(giver)
    world.run(5)
    assert giver.node.transfers.snapshot() == {"shares": [], "transfers": []}


def test_stop_ends_the_streams_and_keeps_what_is_stored(world, giver, taker):
    transfer_id = get(taker, share_and_stand(world, giver, content(13, 3_000_000)))
    assert world.run(60, lambda: transfer(taker, transfer_id).download.have_bytes > 500_000)
    for host in (giver, taker):
        host.driver.run(host.node.stop)
    world.run(30)
    assert giver.node.neighbours.links == {} and taker.node.neighbours.links == {}
    assert any(bucket == "transfer" for bucket, _ in taker.storage.items)
