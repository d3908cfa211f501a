from dataclasses import replace

import pytest

from convergence.errors import CryptoError, ParseError, RemoteError
from convergence.netdir.nodes import MAX_CLOCK_SKEW, NodeDirectory
from convergence.wire.facilitator import Descriptor, NodeList, Role, Transport
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
    older = node_list(crypto, [], published=int(NOW) - 1)
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
