"""Tor's directory documents: what is written comes back, and policies decide as their definition says."""

import string
from base64 import b64encode
from dataclasses import replace
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.crypto.keys import NodeKeys
from convergence.crypto.routersign import certify_family, check_descriptor, sign_descriptor, sign_extra_info
from convergence.wire.consensus import Consensus
from convergence.wire.exitpolicy import ExitPolicy, PortPolicy, Rule
from convergence.wire.netdoc import Document, encode_item, format_address, format_date, join, parse_address, parse_date
from convergence.wire.protovers import Protocols
from convergence.wire.routerdesc import ExtraInfo, RouterDescriptor
from pynode.crypto import CPythonCrypto
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import HOUR, NOW, Authority, consensus, relay, rsa_secret

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
