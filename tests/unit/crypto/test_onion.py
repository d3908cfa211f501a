from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.crypto import onion
from convergence.wire import cells
from pynode.crypto import CPythonCrypto

CRYPTO = CPythonCrypto()
MATERIAL = bytes(range(72))


def hop():
    return onion.HopKeys.from_material(CRYPTO, MATERIAL)


def cell(fill=0x41, command=2):
    """A payload with `recognized` and digest zero."""
    return bytes((command, 0, 0, 0, 1, 0, 0, 0, 0, 1, 242)) + bytes((fill,)) * 498


def test_material_is_cut_as_tor_spec_says():
    keys = hop()
    assert keys.forward.digest == hashlib.sha1(MATERIAL[:20]).digest()
    assert keys.backward.digest == hashlib.sha1(MATERIAL[20:40]).digest()
    assert keys.forward.crypt(bytes(16)) == CRYPTO.aes_ctr(MATERIAL[40:56]).crypt(bytes(16))
    assert keys.backward.crypt(bytes(16)) == CRYPTO.aes_ctr(MATERIAL[56:]).crypt(bytes(16))


@pytest.mark.parametrize("size", [0, 71, 73])
def test_material_of_a_wrong_length_is_refused(size):
    with pytest.raises(ValueError):
        onion.HopKeys.from_material(CRYPTO, bytes(size))


def test_the_seal_is_the_running_sha1_over_cells_with_zero_digests():
    layer, running = hop().forward, hashlib.sha1(MATERIAL[:20])
    for fill in range(5):
        sealed = layer.seal(cell(fill))
        running.update(cell(fill))
        assert sealed[5:9] == running.digest()[:4]
        assert sealed[:5] + bytes(4) + sealed[9:] == cell(fill)
        assert layer.digest == running.digest()


def test_sealed_cells_are_accepted_in_order_and_the_digests_agree():
    origin, relay = hop().forward, hop().forward
    for fill in range(5):
        assert relay.accepts(origin.seal(cell(fill)))
        assert relay.digest == origin.digest


def test_cells_of_other_hops_do_not_move_the_digest():
    origin, relay = hop().forward, hop().forward
    sealed = origin.seal(cell())
    before = relay.digest
    assert not relay.accepts(b"\2\0\1" + sealed[3:]), "recognized is not zero"
    assert not relay.accepts(sealed[:5] + bytes(4) + sealed[9:]), "wrong digest"
    assert not relay.accepts(sealed[:-1] + b"B"), "changed data"
    assert relay.digest == before
    assert relay.accepts(sealed)


def test_a_replayed_or_reordered_cell_is_not_accepted():
    origin, relay = hop().forward, hop().forward
    first, second = origin.seal(cell(1)), origin.seal(cell(2))
    assert not relay.accepts(second)
    assert relay.accepts(first)
    assert not relay.accepts(first)
    assert relay.accepts(second)


def test_a_run_is_sealed_like_its_cells_one_by_one():
    one, other = hop().backward, hop().backward
    batch = [cell(fill) for fill in range(7)]
    run, digests = one.seal_run(batch)
    for index, payload in enumerate(batch):
        assert run[index * cells.PAYLOAD_LEN :][: cells.PAYLOAD_LEN] == other.seal(payload)
        assert digests[index] == other.digest
    assert one.digest == other.digest


def test_three_layers_are_put_on_and_peeled_off():
    materials = [bytes((n,)) * 36 + bytes(range(n, n + 36)) for n in range(3)]
    origin, relays = ([onion.HopKeys.from_material(CRYPTO, m) for m in materials] for _ in range(2))
    run, _ = origin[2].forward.seal_run([cell(fill) for fill in range(10)])
    for keys in reversed(origin):
        run = keys.forward.crypt(run)
    for index, keys in enumerate(relays):
        run = keys.forward.crypt(run)
        accepted = [keys.forward.accepts(payload) for payload in cells.split(run)]
        assert accepted == [index == 2] * 10


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_the_key_stream_does_not_depend_on_how_runs_are_cut(counts):
    data = bytes(range(256)) * 2 * sum(counts)
    total = 509 * sum(counts)
    whole, cut, position, parts = hop().forward, hop().forward, 0, []
    for count in counts:
        parts.append(cut.crypt(data[position : position + 509 * count]))
        position += 509 * count
    assert b"".join(parts) == whole.crypt(data[:total])


@given(st.integers(1, 300), st.binary(min_size=5, max_size=5))
def test_cells_and_payloads_are_inverse(count, header):
    payloads = [bytes((index % 256,)) * 509 for index in range(count)]
    data = cells.cells(header, b"".join(payloads))
    assert data == b"".join(header + payload for payload in payloads)
    for buffer in (data, bytearray(data), memoryview(data)):
        assert cells.payloads(buffer, count) == b"".join(payloads)
    assert list(cells.split(cells.payloads(data, count))) == payloads


@given(st.lists(st.tuples(st.sampled_from([0, 0, 1, 255]), st.sampled_from([0, 0, 1, 255])), max_size=200))
def test_candidates_are_the_cells_whose_recognized_field_is_zero(fields):
    run = b"".join(bytes((2, *field)) + bytes(506) for field in fields)
    assert onion.recognized_candidates(run) == [index for index, field in enumerate(fields) if field == (0, 0)]


def test_keys_are_not_shown():
    assert MATERIAL[40:56].hex() not in repr(hop()) and "Layer" not in repr(hop())
