"""Every record comes back from its encoding, whatever it holds, from bytes and from a memoryview."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.effects import DescriptionKind
from convergence.errors import ParseError
from convergence.wire import (
    buckets,
    cells,
    certs,
    create,
    descriptor,
    extensions,
    facilitator,
    handshake,
    linkspec,
    manifest,
    ordb,
    padding,
    rdv,
    relay,
    sdp,
    sharedrandom,
    sharelink,
    sharing,
    signals,
    xon,
)

u8, u16, u32, u64 = (st.integers(0, 2 ** (8 * size) - 1) for size in (1, 2, 4, 8))
key = st.binary(min_size=32, max_size=32)
signature = st.binary(min_size=64, max_size=64)
ipv4 = st.ip_addresses(v=4).filter(lambda address: address != IPv4Address(0)).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
address = st.one_of(ipv4, ipv6)
hostname = st.from_regex(r"\A[a-z0-9_]([a-z0-9_.-]{0,80}[a-z0-9_.])?\Z")
port = st.integers(1, 65535)

specifier = st.one_of(
    st.builds(linkspec.LinkSpecifier, st.just(0), st.binary(min_size=6, max_size=6)),
    st.builds(linkspec.LinkSpecifier, st.just(1), st.binary(min_size=18, max_size=18)),
    st.builds(linkspec.LinkSpecifier, st.integers(4, 255), st.binary(max_size=40)),
)
specifiers = st.builds(
    lambda others, identity: (*others, linkspec.ed25519_specifier(identity)), st.lists(specifier, max_size=5), key
)
extension = st.one_of(
    st.builds(certs.Extension, st.integers(5, 255), u8.map(lambda flags: flags & 0xFE), st.binary(max_size=50)),
    st.builds(certs.Extension, st.integers(0, 3), u8.map(lambda flags: flags & 0xFE), st.binary(max_size=50)),
)
signed_with = st.lists(st.builds(certs.Extension, st.just(4), u8, key), max_size=1)
cert_extensions = st.builds(lambda others, own: (*others, *own), st.lists(extension, max_size=4), signed_with)
answer = st.one_of(
    st.builds(relay.Answer.of, address, u32),
    st.builds(relay.Answer, st.sampled_from([0, 1, 99, 255]), st.binary(max_size=60), u32),
)
error_answer = st.builds(relay.Answer, st.sampled_from([0xF0, 0xF1]), st.binary(max_size=60), u32)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=250)
file_info = st.builds(
    ordb.FileInfo,
    key,
    st.integers(0, ordb.MAX_PIECES * 1024),
    text,
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=127),
    st.sampled_from([2**bits for bits in range(10, 19)]),
)
file_info = st.builds(
    lambda info, size: replace(info, manifest_size=size if 4 <= size <= info.size else 0),
    file_info,
    st.integers(0, ordb.MAX_MANIFEST),
)
index = st.integers(0, ordb.MAX_PIECES - 1)


@st.composite
def ranges(draw):
    end, found = -1, []
    for gap, count in draw(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), max_size=50)):
        found.append((end + gap, count))
        end += gap + count
    return tuple(found)


ws_url = st.builds(
    lambda scheme, host, number, path: f"{scheme}://{host}:{number}/{path}",
    st.sampled_from(["ws", "wss"]),
    st.one_of(
        st.from_regex(r"\A[a-z0-9]([a-z0-9.-]{0,80}[a-z0-9])?\Z"),
        ipv6.filter(lambda a: "%" not in a).map("[{}]".format),
    ),
    port,
    st.from_regex(r"\A[A-Za-z0-9._~/%-]{0,80}\Z"),
)
transport = st.one_of(
    st.builds(descriptor.Transport, st.just(1), ws_url),
    st.builds(descriptor.Transport.rtc, st.lists(key, max_size=3)),
    st.builds(
        lambda host, number, fingerprint: descriptor.Transport.tls(f"{host}:{number}", fingerprint),
        ipv4,
        port.filter(bool),
        st.binary(min_size=20, max_size=20),
    ),
    st.builds(descriptor.Transport, st.integers(4, 255), text.filter(lambda value: len(value.encode()) <= 255)),
)
dates = st.tuples(st.integers(0, 2**63), st.integers(1, 2**62)).map(lambda pair: (pair[0], pair[0] + pair[1]))
node_descriptor = st.builds(
    lambda identity, ntor_key, when, offers, transports, proof: descriptor.Descriptor(
        identity,
        ntor_key,
        *when,
        descriptor.Role(offers & 0xF),
        tuple(transports),
        proof,
        descriptor.Protocols(offers >> 4),
    ),
    key,
    key,
    dates,
    u8,
    st.lists(transport, max_size=4),
    signature,
)
message = st.one_of(
    st.builds(ordb.Info, key, file_info),
    st.builds(ordb.Request, index),
    st.builds(ordb.Piece, index, st.lists(key, max_size=64).map(tuple), st.binary(min_size=1, max_size=300)),
    st.builds(ordb.Refuse, index, u8),
    st.builds(ordb.Have, ranges()),
    st.just(ordb.Done()),
)
sealed = st.binary(max_size=facilitator.MAX_SEALED)
candidate = st.builds(
    sdp.Candidate,
    st.sampled_from(sdp.CandidateType),
    u32,
    st.integers(1, sdp.MAX_PRIORITY),
    st.one_of(
        # What may not be named as a candidate is in test_sdp.py.
        st.ip_addresses(v=4, network="10.0.0.0/8").map(str),
        st.ip_addresses(v=6, network="2000::/3").map(str),
        st.uuids().map("{}.local".format),
    ),
    port,
)
candidates = st.lists(candidate, max_size=sdp.MAX_CANDIDATES).map(tuple)
description = st.builds(
    sdp.Description,
    st.sampled_from(sdp.Setup),
    key,
    st.from_regex(r"\A[A-Za-z0-9+/]{4,256}\Z"),
    st.from_regex(r"\A[A-Za-z0-9+/]{22,256}\Z"),
    candidates,
)
introduction = st.one_of(
    st.tuples(st.just(DescriptionKind.OFFER), description),
    st.tuples(st.just(DescriptionKind.ANSWER), description.filter(lambda answer: answer.setup != sdp.Setup.ACTPASS)),
    st.tuples(st.just(DescriptionKind.CANDIDATES), st.builds(sdp.Candidates, candidates)),
).flatmap(
    lambda told: st.builds(
        lambda session, sender, reply_key, sent, proof: signals.Introduction(
            told[0], session, sender, reply_key, sent, told[1], proof
        ),
        st.binary(min_size=16, max_size=16),
        key,
        key,
        u64,
        signature,
    )
)
circuit_request = st.builds(
    extensions.CircuitRequest,
    st.booleans(),
    st.frozensets(st.builds(extensions.Capability, u8, u8), max_size=extensions.MAX_CAPABILITIES),
)
name = st.binary(min_size=sharing.NAME_LEN, max_size=sharing.NAME_LEN)
passed = st.one_of(
    st.builds(sharing.Forward, u64, key, u32, name, sealed),
    st.builds(sharing.Back, u64, key, u8, st.binary(max_size=300)),
)
shared = st.one_of(
    st.builds(sharing.NodeRecord, name, u64, u64, name, st.binary(max_size=descriptor.MAX_DESCRIPTOR)),
    st.builds(sharing.Dropped, key, u64),
    st.builds(
        sharing.Beat,
        *(u32, u32, u64, u64, st.text(st.characters(codec="ascii"), max_size=64), st.booleans()),
        st.lists(name, max_size=3).map(tuple),
    ),
    st.builds(sharing.Passed, st.lists(passed, max_size=3).map(tuple)),
)
shared_value = st.builds(buckets.SharedValue, key, u64)
header = st.builds(
    lambda epoch, when, values, committed, rings, signer, proof: buckets.EpochHeader(
        epoch, *when, *values, committed, tuple(sorted(rings, key=lambda ring: ring.kind)), signer, proof
    ),
    u32,
    dates,
    st.tuples(shared_value, shared_value),
    key,
    st.lists(
        st.builds(buckets.Ring, u8, st.integers(0, buckets.MAX_DEPTH), st.integers(0, buckets.MAX_IN_BUCKET), key),
        max_size=9,
        unique_by=lambda ring: ring.kind,
    ),
    key,
    signature,
)
entry = st.builds(buckets.Entry, st.binary(min_size=1, max_size=200), u64)
bucket = st.builds(
    lambda numbers, proof, items: buckets.Bucket(*numbers, tuple(proof), tuple(items)),
    st.tuples(u32, u8, u32),
    st.lists(key, max_size=buckets.MAX_DEPTH),
    st.lists(st.one_of(entry, st.binary(min_size=8, max_size=8)), max_size=20),
)
commit = st.builds(sharedrandom.Commit, st.just(7), key, key, signature)
drawn = st.lists(
    st.tuples(commit, st.none() | key),
    max_size=sharedrandom.MAX_FACILITATORS,
    unique_by=lambda part: part[0].facilitator,
).map(lambda parts: sharedrandom.Draw(tuple(sorted(parts, key=lambda part: part[0].facilitator))))
record = st.one_of(
    shared,
    *(header, bucket, commit, drawn, st.builds(buckets.BucketRequest, u32, u8, u32, u32)),
    st.builds(create.Create2, u16, st.binary(max_size=505)),
    st.builds(create.Created2, st.binary(max_size=507)),
    st.builds(create.Destroy, u8),
    st.builds(relay.Begin, st.one_of(hostname, address), port, u32),
    st.builds(relay.Connected, address, u32),
    st.just(relay.Connected()),
    st.builds(relay.End, st.integers(1, 255)),
    st.builds(relay.End, st.just(4), address, u32),
    st.builds(relay.Sendme, st.just(1), st.binary(min_size=20, max_size=20)),
    st.builds(relay.Extend2, specifiers, u16, st.binary(max_size=150)),
    st.builds(relay.Extended2, st.binary(max_size=496)),
    st.builds(relay.Truncated, u8),
    st.builds(relay.Resolve, hostname),
    st.builds(relay.Resolved, st.lists(answer, max_size=7).map(tuple)),
    st.builds(relay.Resolved, st.tuples(error_answer)),
    st.builds(certs.Ed25519Cert, u8, key, u32, u8, cert_extensions, signature),
    st.builds(certs.CrossCert, key, u32, st.binary(max_size=255)),
    st.builds(padding.PaddingNegotiate, st.sampled_from(padding.PaddingCommand), u16, u16),
    st.builds(handshake.Versions, st.lists(u16, max_size=20).map(tuple)),
    st.builds(handshake.Certs, st.dictionaries(u8, st.binary(max_size=99), max_size=9).map(lambda d: tuple(d.items()))),
    st.builds(handshake.AuthChallenge, key, st.lists(u16, max_size=20).map(tuple)),
    st.builds(
        handshake.Authenticate, *[key] * 8, st.binary(min_size=24, max_size=24), st.binary(max_size=30), signature
    ),
    st.builds(handshake.Netinfo, u32, st.none() | address, st.lists(st.none() | address, max_size=9).map(tuple)),
    st.builds(
        rdv.DbInfo,
        st.lists(
            st.builds(rdv.Advert.add, st.builds(rdv.Name, key))
            | st.builds(rdv.Advert.remove, st.builds(rdv.Name, key, st.booleans()))
            | st.builds(rdv.Advert.add, st.builds(rdv.Name, key, st.just(True)), st.builds(rdv.Proof, u32, signature)),
            min_size=1,
            max_size=4,
        ).map(tuple),
    ),
    node_descriptor,
    st.builds(
        lambda when, raw, identity, proof: facilitator.NodeList(*when, tuple(raw), identity, proof),
        dates,
        st.lists(st.binary(max_size=200), max_size=9),
        key,
        signature,
    ),
    st.builds(facilitator.ErrorRecord, u8, text.filter(lambda value: len(value.encode()) <= 255)),
    file_info,
    message,
    st.builds(facilitator.Hello, key, key),
    st.builds(facilitator.Register, signature, st.binary(max_size=descriptor.MAX_DESCRIPTOR)),
    st.builds(facilitator.Signal, u32, key, sealed),
    st.builds(facilitator.Delivery, u32, sealed),
    st.builds(facilitator.Unreachable, u32, u8),
    st.builds(facilitator.Puzzle, st.binary(min_size=16, max_size=16), u32.filter(bool), u16),
    st.builds(facilitator.Ask, u64, st.sampled_from([b"", bytes(32)])),
    st.builds(facilitator.ListRequest, u32),
    st.builds(facilitator.Descriptors, st.lists(st.binary(max_size=200), max_size=9).map(tuple)),
    description,
    st.builds(sdp.Candidates, candidates),
    introduction,
    circuit_request,
    st.just(xon.Xoff()),
    st.builds(xon.Xon, u32),
)


@settings(max_examples=1500)
@given(record)
def test_records_come_back(item):
    data = item.encode()
    assert type(item).parse(data) == item
    assert type(item).parse(memoryview(data)) == item


@given(shared)
def test_shared_items_come_back(item):
    assert sharing.parse_shared(memoryview(sharing.encode_shared(item))) == item


@given(circuit_request, st.none() | st.integers(1, 255))
def test_circuit_responses_come_back_if_they_were_asked_for(request, sendme_inc):
    response = extensions.CircuitResponse(sendme_inc)
    if sendme_inc is None or request.congestion_control:
        assert extensions.CircuitResponse.parse(memoryview(response.encode()), request) == response
    else:
        with pytest.raises(ParseError):
            extensions.CircuitResponse.parse(response.encode(), request)


@given(key, key, st.sampled_from(["", "https://site.example", "http://127.0.0.1:8080/", "https://[::1]/path"]))
def test_share_links_come_back(hash_name, secret, site):
    link = sharelink.ShareLink(hash_name, secret)
    assert sharelink.ShareLink.parse(link.format(site)) == link


@given(u8, u16, st.binary(max_size=relay.MAX_DATA))
def test_relay_messages_come_back(command, stream_id, data):
    assert relay.unpack_message(relay.pack_message(command, stream_id, data)) == (command, stream_id, data)


@given(st.builds(rdv.Name, key, st.booleans()))
def test_rdv_targets_come_back(name):
    assert rdv.parse_rdv_target(rdv.format_rdv_target(name)) == name


@given(description, st.sampled_from([DescriptionKind.OFFER, DescriptionKind.ANSWER]))
def test_descriptions_come_back_from_sdp(item, kind):
    setup = sdp.Setup.ACTPASS if kind == DescriptionKind.OFFER else item.setup
    assert sdp.Description.from_sdp(item.to_sdp(kind)) == replace(item, setup=setup)


@given(candidates.map(sdp.Candidates))
def test_candidates_come_back_from_lines(item):
    assert sdp.Candidates.from_lines(item.to_lines()) == item


@given(st.text(max_size=1200))
def test_any_name_fits_once_it_is_cut(name):
    ordb.FileInfo(bytes(32), 0, ordb.fit_name(name)).encode()


part = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=20)
tree = st.recursive(
    st.none() | st.tuples(st.integers(0, ordb.MAX_SIZE), st.sampled_from(["", "text/plain"])),
    lambda below: st.dictionaries(part.filter(lambda name: name not in (".", "..")), below, min_size=1, max_size=5),
    max_leaves=20,
).filter(lambda root: isinstance(root, dict))


def entries_of(folder, at=""):
    for name, what in folder.items():
        if isinstance(what, dict):
            yield from entries_of(what, f"{at}{name}/")
        else:
            yield manifest.Entry(at + name, *(what or (None,)))


@given(tree)
def test_any_tree_comes_back_from_its_manifest(root):
    entries = sorted(entries_of(root), key=lambda entry: entry.path)
    assert list(manifest.parse_manifest(memoryview(manifest.encode_manifest(entries)))) == entries


# Cut anywhere

cell = st.one_of(
    st.tuples(u32, st.integers(0, 12).filter(lambda c: c != 7), st.binary(min_size=509, max_size=509)),
    st.tuples(u32, st.integers(128, 255), st.binary(max_size=900)),
)
facilitator_record = st.one_of(
    st.just((facilitator.RecordType.LIST, b"")),
    st.tuples(st.just(facilitator.RecordType.REGISTER), st.binary(max_size=descriptor.MAX_DESCRIPTOR)),
    st.tuples(st.just(facilitator.RecordType.NODES), st.binary(max_size=3000)),
)
CUTTERS = {
    "cells": (
        st.lists(cell, max_size=5).map(lambda items: [(0, 7, b"\0\4"), *items]),
        lambda item: cells.encode_cell(*item),
        cells.CellCutter,
    ),
    "records": (
        st.lists(facilitator_record, max_size=8),
        lambda item: facilitator.encode_record(*item),
        lambda: facilitator.RecordCutter((1, 3, 4)),
    ),
    "messages": (st.lists(message, max_size=8), ordb.encode_message, ordb.MessageCutter),
}


@pytest.mark.parametrize("name", CUTTERS)
@given(st.data())
def test_cutters_do_not_care_where_the_pipe_is_cut(name, data):
    items_of, encode, make = CUTTERS[name]
    items = data.draw(items_of)
    stream = b"".join(encode(item) for item in items)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    cutter = make()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cutter.feed(stream[start:end])
    assert found == items
    assert cutter.held == 0
