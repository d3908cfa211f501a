from dataclasses import replace

import pytest

from convergence.errors import CryptoError, ParseError, RemoteError
from convergence.netdir import nodes as module
from convergence.netdir.nodes import (
    FEW_LEARNT,
    HEARSAY_LIFETIME,
    HEARSAY_SKEW,
    LIST_DELAY,
    LIST_FRESH,
    LIST_SKEW,
    MAX_CLOCK_SKEW,
    MAX_LIFETIME,
    NodeDirectory,
)
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.facilitator import NodeList
from convergence.wire.target import Role
from pynode.crypto import CPythonCrypto

NOW = 1_800_000_000.0


class CountingCrypto(CPythonCrypto):
    """Counts verifications of descriptors and lists."""

    verified = 0

    def ed25519_verify(self, public, signature, message):
        self.verified += 1
        return super().ed25519_verify(public, signature, message)


@pytest.fixture
def crypto():
    return CountingCrypto()


def signer(crypto, seed):
    return lambda message: crypto.ed25519_sign(seed, message)


def node(crypto, number, *, roles=Role.RELAY, published=int(NOW) - 10, expires=int(NOW) + 100):
    seed = bytes([number]) * 32
    transports = (Transport(1, f"ws://127.0.0.1:{9000 + number}/"),)
    unsigned = Descriptor(crypto.ed25519_public(seed), b"k" * 32, published, expires, roles, transports)
    return unsigned.sign(signer(crypto, seed))


def node_list(crypto, nodes, *, seed=b"f" * 32, published=int(NOW), expires=int(NOW) + 1000):
    raw = tuple(item if isinstance(item, bytes) else item.encode() for item in nodes)
    unsigned = NodeList(published, expires, raw, crypto.ed25519_public(seed))
    return unsigned.sign(signer(crypto, seed)).encode()


def test_a_list_is_taken_over(crypto):
    directory = NodeDirectory(crypto)
    first, second = node(crypto, 1), node(crypto, 2, roles=Role.RELAY | Role.RDV)
    change = directory.update(node_list(crypto, [first, second]), NOW)
    assert change.added == {first.identity, second.identity}
    assert change
    assert directory.published == int(NOW)
    assert directory.get(first.identity, NOW) == first
    assert directory.get(bytes(32), NOW) is None
    assert directory.nodes(Role.RDV, NOW) == [second]
    assert directory.nodes(Role.RELAY, NOW) == sorted([first, second], key=lambda item: item.identity)
    assert len(directory.nodes(Role(0), NOW)) == 2


def test_expired_nodes_are_no_longer_there(crypto):
    directory = NodeDirectory(crypto)
    item = node(crypto, 1)
    directory.update(node_list(crypto, [item]), NOW)
    assert directory.nodes(Role.RELAY, NOW + 100) == []
    assert directory.get(item.identity, NOW + 100) is None
    assert directory.get(item.identity) == item


def test_changes_are_told(crypto):
    directory = NodeDirectory(crypto)
    first, second, third = (node(crypto, number) for number in (1, 2, 3))
    newer = node(crypto, 2, published=int(NOW) - 5)
    directory.update(node_list(crypto, [first, second]), NOW)
    change = directory.update(node_list(crypto, [newer, third]), NOW)
    assert (change.added, change.removed, change.changed) == ({third.identity}, {first.identity}, {second.identity})
    assert not directory.update(node_list(crypto, [third, newer]), NOW)


def test_only_the_pinned_facilitator_counts(crypto):
    directory = NodeDirectory(crypto, crypto.ed25519_public(b"f" * 32))
    with pytest.raises(CryptoError, match="another facilitator"):
        directory.update(node_list(crypto, [], seed=b"g" * 32), NOW)
    directory.update(node_list(crypto, []), NOW)


def test_the_first_facilitator_is_pinned_once_its_list_is_good(crypto):
    directory = NodeDirectory(crypto)
    assert directory.facilitator is None
    with pytest.raises(RemoteError):
        directory.update(node_list(crypto, [], seed=b"g" * 32, expires=int(NOW) - 1, published=1), NOW)
    directory.update(node_list(crypto, []), NOW)
    assert directory.facilitator == crypto.ed25519_public(b"f" * 32)
    with pytest.raises(CryptoError, match="another facilitator"):
        directory.update(node_list(crypto, [], seed=b"g" * 32), NOW)


def test_a_refused_list_leaves_the_one_in_use(crypto):
    directory = NodeDirectory(crypto)
    item = node(crypto, 1)
    good = node_list(crypto, [item])
    directory.update(good, NOW)
    older = node_list(crypto, [], published=int(NOW) - LIST_SKEW - 1)
    expired = node_list(crypto, [], expires=int(NOW) + 1)
    future = node_list(crypto, [], published=int(NOW) + MAX_CLOCK_SKEW + 1)
    for data, now, error in (
        (good[:-1], NOW, ParseError),
        (good[:-1] + bytes([good[-1] ^ 1]), NOW, CryptoError),
        (older, NOW, RemoteError),
        (expired, NOW + 1, RemoteError),
        (future, NOW, RemoteError),
    ):
        with pytest.raises(error):
            directory.update(data, now)
    assert directory.nodes(Role.RELAY, NOW) == [item]


def test_a_list_that_is_a_little_older_changes_nothing(crypto):
    """Another facilitator of the same identity signed it, whose clock is behind. It brings no node back."""
    directory = NodeDirectory(crypto)
    item = node(crypto, 1)
    directory.update(node_list(crypto, [item]), NOW)
    older = node_list(crypto, [node(crypto, 2)], published=int(NOW) - LIST_SKEW)
    assert not directory.update(older, NOW)
    assert directory.published == int(NOW) and directory.get(item.identity) == item
    assert len(directory.nodes(Role.RELAY, NOW)) == 1


def test_unusable_descriptors_cost_their_node_only(crypto):
    directory = NodeDirectory(crypto)
    good = node(crypto, 1)
    forged = replace(node(crypto, 2), ntor_key=b"x" * 32)
    expired = node(crypto, 3, expires=int(NOW))
    change = directory.update(node_list(crypto, [b"junk", forged, expired, good]), NOW)
    assert change.skipped == 3
    assert directory.nodes(Role.RELAY, NOW) == [good]


def test_the_newer_of_two_descriptors_of_one_node_counts(crypto):
    directory = NodeDirectory(crypto)
    older, newer = node(crypto, 1), node(crypto, 1, published=int(NOW) - 5)
    for order in ([older, newer], [newer, older]):
        directory.update(node_list(crypto, order), NOW)
        assert directory.nodes(Role.RELAY, NOW) == [newer]


def test_descriptors_are_verified_once(crypto):
    directory = NodeDirectory(crypto)
    items = [node(crypto, number) for number in (1, 2, 3)]
    directory.update(node_list(crypto, items), NOW)
    assert crypto.verified == 4
    directory.update(node_list(crypto, items), NOW)
    assert crypto.verified == 5
    directory.update(node_list(crypto, [*items, node(crypto, 4)]), NOW)
    assert crypto.verified == 7


# What peers pass on


def hear(directory, item, now=NOW):
    return directory.hear(item.encode(), now)


def test_a_heard_node_is_there_like_a_listed_one(crypto):
    directory = NodeDirectory(crypto)
    item = node(crypto, 1, roles=Role.RELAY | Role.RDV)
    assert hear(directory, item)
    assert directory.get(item.identity, NOW) == item
    assert directory.nodes(Role.RDV, NOW) == [item]
    assert directory.nodes(Role.EXIT, NOW) == []
    assert directory.nodes(Role.RDV, NOW + 100) == []
    assert directory.get(item.identity, NOW + 100) is None
    assert directory.facilitator is None


def test_heard_and_listed_nodes_come_in_order_of_identity(crypto):
    directory = NodeDirectory(crypto)
    items = [node(crypto, number, expires=int(NOW) + 2000) for number in range(1, 9)]
    directory.update(node_list(crypto, items[::2]), NOW)
    assert all(hear(directory, item) for item in items[1::2])
    assert directory.nodes(Role.RELAY, NOW + LIST_FRESH) == sorted(items, key=lambda item: item.identity)


def test_only_what_is_new_is_news_and_is_verified_once(crypto):
    directory = NodeDirectory(crypto)
    older, newer = node(crypto, 1), node(crypto, 1, published=int(NOW) - 5)
    assert [hear(directory, item) for item in (older, older, newer, newer, older)] == [True, False, True, False, False]
    assert crypto.verified == 2
    assert directory.nodes(Role.RELAY, NOW) == [newer]
    directory.update(node_list(crypto, [newer]), NOW)
    assert crypto.verified == 3
    assert not hear(directory, newer)
    assert crypto.verified == 3


@pytest.mark.parametrize(
    ("dates", "news"),
    [
        ({"published": int(NOW) + HEARSAY_SKEW, "expires": int(NOW) + 1000}, True),
        ({"published": int(NOW) + HEARSAY_SKEW + 1, "expires": int(NOW) + 1000}, False),
        ({"expires": int(NOW)}, False),
        ({"published": int(NOW), "expires": int(NOW) + HEARSAY_LIFETIME}, True),
        ({"published": int(NOW), "expires": int(NOW) + HEARSAY_LIFETIME + 1}, False),
        ({"roles": Role(0)}, False),
    ],
)
def test_dates_and_roles_of_heard_nodes_have_to_fit(crypto, dates, news):
    directory = NodeDirectory(crypto)
    assert hear(directory, node(crypto, 1, **dates)) is news
    assert len(directory.nodes(Role(0), NOW)) == news


@pytest.mark.parametrize(
    ("dates", "news"),
    [
        ({"published": int(NOW) + MAX_CLOCK_SKEW, "expires": int(NOW) + 1000}, True),
        ({"published": int(NOW) + MAX_CLOCK_SKEW + 1, "expires": int(NOW) + 1000}, False),
        ({"published": int(NOW), "expires": int(NOW) + MAX_LIFETIME}, True),
        ({"published": int(NOW), "expires": int(NOW) + MAX_LIFETIME + 1}, False),
    ],
)
def test_a_listed_node_may_renew_for_longer(crypto, dates, news):
    directory = NodeDirectory(crypto)
    directory.update(node_list(crypto, [node(crypto, 1)]), NOW)
    assert hear(directory, node(crypto, 1, **dates)) is news


def test_while_the_list_is_fresh_others_are_found_by_name_only(crypto):
    """Whoever makes up nodes by the thousand does not get into paths that way."""
    directory = NodeDirectory(crypto)
    listed, heard = (node(crypto, number, expires=int(NOW) + 2000) for number in (1, 2))
    directory.update(node_list(crypto, [listed]), NOW)
    assert hear(directory, heard)
    assert directory.nodes(Role.RELAY, NOW + LIST_FRESH - 1) == [listed]
    assert directory.get(heard.identity, NOW) == heard and heard.encode() in directory.newer(0, NOW)
    assert heard in directory.nodes(Role.RELAY, NOW + LIST_FRESH)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_what_is_no_descriptor_is_no_news(crypto, size):
    assert not NodeDirectory(crypto).hear(node(crypto, 1).encode()[:size], NOW)


def test_a_forged_descriptor_is_no_news(crypto):
    directory = NodeDirectory(crypto)
    assert not hear(directory, replace(node(crypto, 1), ntor_key=b"x" * 32))
    assert directory.nodes(Role(0), NOW) == []


@pytest.mark.parametrize(("age", "counts"), [(LIST_DELAY - 1, True), (LIST_DELAY, False), (1000, False), (-5, True)])
def test_a_node_that_the_list_lacks_counts_only_if_it_may_be_newer(crypto, age, counts):
    item = node(crypto, 1, published=int(NOW) - age)
    list_first, heard_first = NodeDirectory(crypto), NodeDirectory(crypto)
    list_first.update(node_list(crypto, []), NOW)
    assert hear(list_first, item) is counts
    assert hear(heard_first, item)
    change = heard_first.update(node_list(crypto, []), NOW)
    assert change.removed == (set() if counts else {item.identity})
    for directory in (list_first, heard_first):
        assert (directory.get(item.identity, NOW) == item) is counts


def test_the_next_list_ends_what_it_leaves_out(crypto):
    directory = NodeDirectory(crypto)
    directory.update(node_list(crypto, []), NOW)
    item = node(crypto, 1, published=int(NOW) + 5)
    assert hear(directory, item, NOW + 5)
    later = NOW + 5 + LIST_DELAY
    assert directory.update(node_list(crypto, [], published=int(later)), later).removed == {item.identity}
    assert not hear(directory, item, later)


def test_a_newer_heard_descriptor_replaces_the_listed_one_until_the_list_has_it(crypto):
    directory = NodeDirectory(crypto)
    listed, newer, newest = (node(crypto, 1, published=int(NOW) - age) for age in (500, 400, 300))
    directory.update(node_list(crypto, [listed]), NOW)
    assert hear(directory, newer)
    assert directory.nodes(Role.RELAY, NOW) == [newer]
    assert not directory.update(node_list(crypto, [listed]), NOW)
    assert directory.get(listed.identity, NOW) == newer
    change = directory.update(node_list(crypto, [newest]), NOW)
    assert change.changed == {listed.identity}
    assert directory.get(listed.identity, NOW) == newest
    assert not hear(directory, newer)


def test_without_a_facilitator_nodes_stay_fresh(crypto):
    directory = NodeDirectory(crypto)
    directory.update(node_list(crypto, [node(crypto, 1)]), NOW)
    now = NOW
    for _ in range(50):
        now += 60
        fresh = node(crypto, 1, published=int(now), expires=int(now) + 100)
        assert hear(directory, fresh, now)
        assert directory.nodes(Role.RELAY, now) == [fresh]


def test_a_node_that_pauses_is_not_offered_until_it_works_again(crypto):
    directory = NodeDirectory(crypto)
    directory.update(node_list(crypto, [node(crypto, 1)]), NOW)
    assert hear(directory, node(crypto, 2))
    for number in (1, 2):
        paused = node(crypto, number, published=int(NOW) - 5, roles=Role(0))
        assert hear(directory, paused)
        assert directory.get(paused.identity, NOW) == paused
        assert paused.encode() in directory.newer(0, NOW)
    assert directory.nodes(Role.RELAY, NOW) == directory.nodes(Role(0), NOW) == []
    back = node(crypto, 1, published=int(NOW) - 4)
    assert hear(directory, back)
    assert directory.nodes(Role(0), NOW) == [back]


def test_heard_nodes_are_bounded(crypto, monkeypatch):
    monkeypatch.setattr(module, "MAX_HEARD", 3)
    directory = NodeDirectory(crypto)
    listed = [node(crypto, number, published=int(NOW) - 50) for number in (20, 21)]
    directory.update(node_list(crypto, listed), NOW)
    brief = node(crypto, 1, expires=int(NOW) + 5)
    heard = [hear(directory, item) for item in (brief, *(node(crypto, number) for number in range(2, 6)))]
    assert heard == [True, True, True, False, False]
    # Known nodes go on to be renewed, heard ones and listed ones.
    assert hear(directory, node(crypto, 2, published=int(NOW)))
    assert hear(directory, node(crypto, 20))
    assert not hear(directory, node(crypto, 4))
    # What has expired makes room.
    assert hear(directory, node(crypto, 4), NOW + 5)
    assert not hear(directory, node(crypto, 5), NOW + 5)
    assert directory.get(brief.identity) is None
    # Renewals of listed nodes take no room from others.
    assert hear(directory, node(crypto, 21), NOW + 5)
    assert len(directory.newer(0, NOW + 5)) == 5


def test_newer_gives_what_was_published_since_the_oldest_first(crypto):
    directory = NodeDirectory(crypto)
    first, second, third = (
        node(crypto, number, published=int(NOW) - age) for number, age in ((1, 30), (2, 10), (3, 20))
    )
    gone = node(crypto, 4, expires=int(NOW) + 1)
    directory.update(node_list(crypto, [first, second]), NOW)
    assert hear(directory, third) and hear(directory, gone)
    now = NOW + 1
    assert directory.newer(0, now) == [item.encode() for item in (first, third, second)]
    assert directory.newer(int(NOW) - 20, now) == [third.encode(), second.encode()]
    assert directory.newer(int(NOW) - 9, now) == []
    renewed = node(crypto, 1, published=int(NOW))
    assert hear(directory, renewed, now)
    assert directory.newer(int(NOW) - 10, now) == [second.encode(), renewed.encode()]


def test_what_one_gives_another_takes(crypto):
    one, two = NodeDirectory(crypto), NodeDirectory(crypto)
    for number in range(1, 6):
        hear(one, node(crypto, number, roles=Role(0x81)))
    assert all(two.hear(raw, NOW) for raw in one.newer(0, NOW))
    assert two.nodes(Role.RELAY, NOW) == one.nodes(Role.RELAY, NOW)


# -- descriptors that somebody showed us


def test_a_descriptor_is_vouched_for_if_it_could_be_news_and_nothing_of_it_is_kept(crypto):
    directory = NodeDirectory(crypto)
    directory.update(node_list(crypto, [node(crypto, 1)]), NOW)
    shown = node(crypto, 2)
    assert directory.vouch(shown.encode(), NOW) == shown
    assert directory.get(shown.identity) is None and len(directory.nodes(Role(0), NOW)) == 1
    for _ in range(3000):
        assert directory.vouch(shown.encode(), NOW) == shown
    assert not directory._heard


def test_a_known_node_is_as_we_know_it_whatever_is_shown(crypto):
    directory = NodeDirectory(crypto)
    listed = node(crypto, 1)
    directory.update(node_list(crypto, [listed]), NOW)
    for shown in (replace(listed, ntor_key=b"x" * 32), node(crypto, 1, published=int(NOW) - 50)):
        assert directory.vouch(shown.encode(), NOW) == listed


@pytest.mark.parametrize(
    "wrong",
    [
        {"published": int(NOW) - LIST_DELAY - 1},  # the list would have it
        {"published": int(NOW) + HEARSAY_SKEW + 1, "expires": int(NOW) + HEARSAY_SKEW + 60},
        {"expires": int(NOW) + HEARSAY_LIFETIME},
        {"published": int(NOW) - 20, "expires": int(NOW) - 1},
        {"roles": Role(0)},
    ],
)
def test_what_cannot_be_news_is_not_vouched_for(crypto, wrong):
    directory = NodeDirectory(crypto)
    directory.update(node_list(crypto, [node(crypto, 1)]), NOW)
    assert directory.vouch(node(crypto, 2).encode(), NOW) is not None
    assert directory.vouch(node(crypto, 2, **wrong).encode(), NOW) is None


def test_forged_descriptors_are_not_vouched_for(crypto):
    directory = NodeDirectory(crypto)
    raw = node(crypto, 2).encode()
    for forged in (b"", b"\x01" * 200, raw[:-1], raw + b"\0", raw[:-1] + bytes([raw[-1] ^ 1]), b"\x02" + raw[1:]):
        assert directory.vouch(forged, NOW) is None


# Of a network without a list


def learnt(crypto, heard, listed, now):
    """What is known of a node of which peers told, once the facilitator's bucket was looked at, and a minute later."""
    directory = NodeDirectory(crypto, crypto.ed25519_public(b"f" * 32))
    assert hear(directory, heard)
    directory.learn(listed, now)
    found = directory.get(listed.identity)
    assert hear(directory, node(crypto, 9, published=int(now), expires=int(now) + 50), now)
    assert directory.get(listed.identity) == found
    return found


def test_the_newer_of_what_peers_and_a_bucket_say_counts_until_it_is_over(crypto):
    heard = node(crypto, 1, published=int(NOW), expires=int(NOW) + 100)
    listed = node(crypto, 1, published=int(NOW) - 10, expires=int(NOW) + 9999)
    assert learnt(crypto, heard, listed, NOW + 99) == heard
    assert learnt(crypto, heard, listed, NOW + 100) == listed
    newer = node(crypto, 1, published=int(NOW) + 10, expires=int(NOW) + 9999)
    assert learnt(crypto, heard, newer, NOW + 20) == newer


def test_a_node_that_paused_is_not_there_again_for_what_a_bucket_said_before(crypto):
    directory = NodeDirectory(crypto, crypto.ed25519_public(b"f" * 32))
    listed = node(crypto, 1, published=int(NOW) - 10, expires=int(NOW) + 9999)
    paused = node(crypto, 1, roles=Role(0), published=int(NOW), expires=int(NOW) + 100)
    directory.learn(listed, NOW)
    assert hear(directory, paused)
    directory.learn(listed, NOW + 100)
    assert directory.get(listed.identity) == paused


def strangers(crypto, count, *transports):
    """Nodes that come one second after the other, each for ten."""
    for number in range(count):
        came = int(NOW) + number
        yield replace(
            node(crypto, 1, published=came, expires=came + 10),
            identity=number.to_bytes(32, "big"),
            transports=transports,
        )


def test_learnt_nodes_that_will_not_come_back_are_forgotten(crypto):
    directory = NodeDirectory(crypto)
    directory.learn(node(crypto, 2), NOW)  # a server
    for number, stranger in enumerate(strangers(crypto, 1000, Transport.rtc())):
        directory.learn(stranger, NOW + number)
        assert len(directory._all()) <= len(directory._listed) <= FEW_LEARNT
        assert directory.get(stranger.identity, NOW + number) == stranger
    assert len(directory.nodes(Role.RELAY, NOW + 999)) == 10
    assert directory.get(node(crypto, 2).identity) is not None


def test_learnt_nodes_are_bounded(crypto, monkeypatch):
    monkeypatch.setattr(module, "MAX_LEARNT", 100)
    directory = NodeDirectory(crypto)
    for number, stranger in enumerate(strangers(crypto, 1000, Transport(1, "ws://127.0.0.1:9000/"))):
        directory.learn(stranger, NOW + number)
        assert len(directory._all()) <= 100
    latest = [stranger.identity for stranger in strangers(crypto, 1000)][-70:]
    assert all(directory.get(identity) is not None for identity in latest)
