"""Tor's directory documents: what is written comes back, and policies decide as their definition says."""

import gzip
import lzma
import string
import zlib
from base64 import b64encode
from dataclasses import replace
from difflib import SequenceMatcher
from hashlib import sha3_256
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.crypto.keys import NodeKeys
from convergence.crypto.routersign import certify_family, check_descriptor, sign_descriptor, sign_extra_info
from convergence.errors import ParseError
from convergence.wire.authority import parse_certificates
from convergence.wire.compressed import decompress
from convergence.wire.consensus import Consensus
from convergence.wire.consensus_diff import apply_diff
from convergence.wire.exitpolicy import ExitPolicy, PortPolicy, Rule
from convergence.wire.microdescriptor import Microdescriptor, find_microdescriptors
from convergence.wire.netdoc import Document, encode_item, format_address, format_date, join, parse_address, parse_date
from convergence.wire.protovers import Protocols
from convergence.wire.routerdesc import ExtraInfo, RouterDescriptor
from pynode.crypto import CPythonCrypto
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import HOUR, NOW, Authority, consensus, relay, rsa_secret
from tests.unit.path.tornetwork import Made

CRYPTO = CPythonCrypto()
KEYS = NodeKeys.generate(CRYPTO, SeededRng("directory"))
RSA, ONION = rsa_secret("relay"), rsa_secret("onion")

key = st.binary(min_size=32, max_size=32)
word = st.text(string.ascii_letters + string.digits + string.punctuation, min_size=1, max_size=20)
keyword = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9-]{0,20}\Z")
nickname = st.from_regex(r"\A[A-Za-z0-9]{1,19}\Z")
port = st.integers(1, 65535)
address = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda found: not found.scope_id))
protocols = st.dictionaries(keyword, st.integers(1, (1 << 64) - 1), max_size=8).map(Protocols)
rule = st.builds(
    lambda accept, network, ports: Rule(accept, network, *sorted(ports)),
    st.booleans(),
    st.one_of(
        st.none(),
        st.builds(
            lambda ip, bits: ip_network(f"{ip}/{min(bits, ip.max_prefixlen)}", strict=False),
            address,
            st.integers(0, 128),
        ),
    ),
    st.tuples(port, port),
)
policy = st.lists(rule, min_size=1, max_size=8).map(ExitPolicy.of)


@st.composite
def port_policies(draw):
    bounds = sorted(draw(st.sets(port, min_size=2, max_size=20)))
    ranges = tuple((low, high - 1) for low, high in zip(bounds[::2], bounds[1::2], strict=False))
    return PortPolicy(draw(st.booleans()), ranges)


@given(protocols)
def test_versions_of_subprotocols(found):
    assert Protocols.parse(str(found)) == found
    assert all(
        found.supports(name, bit) == bool(mask >> bit & 1) for name, mask in found.masks.items() for bit in range(64)
    )


@given(protocols, protocols)
def test_versions_that_another_lacks(one, other):
    beyond = one.beyond(other)
    for name in one.masks:
        for version in range(64):
            assert beyond.supports(name, version) == (one.supports(name, version) and not other.supports(name, version))
    assert one.covers(other) == (not other.beyond(one).masks)


@given(port_policies(), port)
def test_summaries_of_policies(found, asked):
    assert PortPolicy.parse(str(found)) == found
    assert found.allows(None, asked) == (any(low <= asked <= high for low, high in found.ranges) == found.accept)


@given(rule)
def test_rules(found):
    assert Rule.parse(*str(found).split(" ")) == found


@given(policy, address, port)
def test_the_first_rule_decides(found, where, asked):
    matching = (
        one.accept
        for one in found.rules
        if one.low <= asked <= one.high and (one.network is None or where in one.network)
    )
    assert found.allows(where, asked) == next(matching, True)


@given(
    st.lists(
        st.tuples(keyword, st.lists(word, max_size=4), st.binary(max_size=200), st.booleans()), min_size=1, max_size=9
    )
)
def test_items(items):
    data = join(
        encode_item(name, *args, label="AN OBJECT" if has else "", data=body) for name, args, body, has in items
    )
    found = Document(data, "document", 1 << 20).items
    assert [(item.keyword, item.args) for item in found] == [(name, args) for name, args, _, _ in items]
    assert [(item.data, bool(item.label)) for item in found] == [(body if has else b"", has) for *_, body, has in items]
    assert found[-1].end == len(data)


@given(st.integers(0, 253_402_300_799), address, port)
def test_dates_and_addresses(when, where, asked):
    assert parse_date(format_date(when)) == when
    assert parse_address(format_address((where, asked))) == (where, asked)


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        RouterDescriptor,
        nickname=nickname,
        address=st.ip_addresses(v=4).map(str),
        or_port=port,
        published=st.integers(0, 1 << 32),
        bandwidth=st.tuples(*[st.integers(0, 1 << 40)] * 3),
        protocols=protocols,
        policy=policy,
        policy6=port_policies(),
        dir_port=st.integers(0, 65535),
        addresses=st.lists(st.tuples(address, port), max_size=3).map(tuple),
        platform=st.just("Convergence 0.1.0"),
        contact=st.sampled_from(["", "someone <someone@example.org>", "jemand w\xfcrde"]),
        uptime=st.one_of(st.none(), st.integers(0, 1 << 32)),
        hibernating=st.booleans(),
        hidden_service_dir=st.booleans(),
        tunnelled_dir_server=st.booleans(),
        caches_extra_info=st.booleans(),
        extra_info=st.one_of(st.none(), st.tuples(st.binary(min_size=20, max_size=20), key)),
        family=st.lists(nickname, max_size=3).map(tuple),
    ),
    st.booleans(),
    st.integers(0, 3),
)
def test_descriptors(made, onion, families):
    made = replace(
        made,
        family_certs=tuple(
            certify_family(CRYPTO, bytes([number]) * 32, KEYS.identity, NOW + HOUR) for number in range(families)
        ),
    )
    data = sign_descriptor(CRYPTO, KEYS, RSA, made, NOW + HOUR, ONION if onion else None)
    found = RouterDescriptor.parse(data)
    check_descriptor(CRYPTO, found, NOW)
    assert data.startswith(found.body())
    filled = (
        "identity_cert",
        "rsa_key",
        "ntor_key",
        "ntor_cert",
        "ntor_sign",
        "onion_key",
        "onion_crosscert",
        "signatures",
    )
    assert replace(made, **{name: getattr(found, name) for name in filled}) == found


@settings(deadline=None, max_examples=50)
@given(nickname, st.lists(st.tuples(keyword.map("x-{}".format), st.lists(word, max_size=3)), max_size=5))
def test_extra_infos(name, lines):
    made = ExtraInfo(name, b"", NOW, tuple((line, " ".join(args)) for line, args in lines))
    found = ExtraInfo.parse(sign_extra_info(CRYPTO, KEYS, RSA, made, NOW + HOUR))
    assert (found.nickname, found.published, found.lines) == (made.nickname, NOW, made.lines)


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.binary(min_size=20, max_size=20),
        st.tuples(key, st.sets(st.sampled_from(["Exit", "Fast", "Guard"]), min_size=1), st.integers(0, (1 << 32) - 1)),
        max_size=5,
    )
)
def test_consensuses(known):
    lines = [
        relay(identity, digest, " ".join(sorted(flags)), w=f"Bandwidth={weight}")
        for identity, (digest, flags, weight) in sorted(known.items())
    ]
    data = consensus([Authority(0)], relays=lines)
    found = Consensus.parse(data)
    assert {item.identity: (item.digest, item.flags, item.bandwidth) for item in found.relays} == known
    assert found.data == data and b64encode(found.signatures[0].signature)[:64] in data


def ed_script(before, after):
    """The commands that make one list of lines of another, from the end to the start (dir-spec 4.5.1)."""
    commands = []
    for what, low, high, from_, to in reversed(SequenceMatcher(None, before, after, False).get_opcodes()):
        lines = f"{low + 1},{high}" if high > low + 1 else f"{high}"
        if what == "delete":
            commands.append(f"{lines}d")
        elif what != "equal":
            commands += [f"{lines}{'a' if what == 'insert' else 'c'}", *after[from_:to], "."]
    return commands


identities = st.sets(st.binary(min_size=20, max_size=20), max_size=8)


@settings(deadline=None, max_examples=30)
@given(identities, identities, st.booleans())
def test_diffs_give_what_they_were_made_from(before, after, others_sign):
    signers = [Authority(int(others_sign))]
    base = Consensus.parse(consensus([Authority(0)], relays=map(relay, sorted(before))))
    target = consensus(signers, relays=map(relay, sorted(after)), valid_after=NOW + HOUR)
    script = ed_script(base.data.decode().splitlines(), target.decode().splitlines())
    digests = f"hash {base.diff_base} {sha3_256(target).hexdigest()}"
    diff = "\n".join(["network-status-diff-version 1", digests, *script, ""]).encode()
    assert apply_diff(base, diff) == target


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 99), unique=True, max_size=6), st.data())
def test_of_microdescriptors_only_those_that_were_asked_for_are_found(numbers, data):
    made = {relay.digest: relay.microdescriptor for relay in (Made(number, "Running") for number in numbers)}
    asked = data.draw(st.sets(st.sampled_from(sorted(made)) if made else st.nothing()))
    sent = data.draw(st.permutations(sorted(made.values())))
    assert find_microdescriptors(b"".join(sent), asked) == {digest: made[digest] for digest in asked}


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 99),
    st.lists(st.one_of(nickname, st.just("$" + "A" * 40)), max_size=4),
    port_policies(),
    port_policies(),
)
def test_microdescriptors(number, family, policy, policy6):
    made = Made(number, "Running", family=family, policy=str(policy), policy6=str(policy6))
    found = Microdescriptor.parse(made.microdescriptor)
    assert (found.digest, found.ntor_key, found.ed25519) == (made.digest, made.ntor_key, made.ed25519)
    assert found.family == {name if name.startswith("$") else name.lower() for name in family}
    assert (found.policy, found.policy6) == (policy, policy6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 32), st.integers(0, 1 << 32)), max_size=4))
def test_certificates(wanted):
    made = [Authority(number).certificate(published, expires) for number, published, expires in wanted]
    found = parse_certificates(b"".join(made))
    assert [(one.identity, one.published, one.expires) for one in found] == [
        (Authority(number).identity, published, expires) for number, published, expires in wanted
    ]
    assert [one.data for one in found] == made


PACKED = {
    "deflate": zlib.compress,
    "gzip": gzip.compress,
    "x-tor-lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("encoding", PACKED)
@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=5000), times=st.integers(1, 20), missing=st.integers(1, 10))
def test_compressed_answers(encoding, data, times, missing):
    plain = data * times
    packed = PACKED[encoding](plain)
    assert decompress(encoding, packed, max(len(plain), len(packed))) == plain
    for wrong in (packed[:-missing], packed + bytes(missing)):
        with pytest.raises(ParseError):
            decompress(encoding, wrong, max(len(plain), len(packed)) + missing)
    if plain:
        with pytest.raises(ParseError):
            decompress(encoding, packed, len(plain) - 1)
