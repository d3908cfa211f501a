from hashlib import sha256
from ipaddress import ip_address

import pytest

from convergence.errors import ParseError
from convergence.wire import microdescriptor as module
from convergence.wire.consensus import Consensus
from convergence.wire.exitpolicy import REJECT_ALL
from convergence.wire.microdescriptor import Microdescriptor, find_microdescriptors
from convergence.wire.netdoc import unpadded
from tests.unit.netdir.authorities import vector

KEY = bytes(range(32))
MADE = f"onion-key\nntor-onion-key {unpadded(KEY)}\n"


def parse(text):
    return Microdescriptor.parse(text.encode())


def test_microdescriptors_of_tor():
    relays = Consensus.parse(vector("consensus-microdesc")).relays
    found = find_microdescriptors(vector("microdescriptors"), {relay.digest for relay in relays})
    parsed = {relay.nickname: Microdescriptor.parse(found[relay.digest]) for relay in relays}
    assert all(len(item.ed25519 or b"") == 32 for item in parsed.values())
    assert parsed["relay0"].family_ids == parsed["relay2"].family_ids != parsed["relay1"].family_ids == frozenset()
    assert [parsed["relay2"].policy.allows(None, port) for port in (25, 80, 443)] == [False, True, True]
    assert parsed["relay2"].policy6.allows(None, 443) and parsed["relay1"].policy6 == REJECT_ALL
    assert parsed["relay3"].policy == REJECT_ALL and parsed["relay0"].policy.allows(None, 25)


def test_nothing_counts_that_was_not_asked_for():
    parts = [
        MADE,
        MADE.replace("onion-key\n", "onion-key\nx-a\n", 1),
        MADE.replace("onion-key\n", "onion-key\nx-b\n", 1),
    ]
    digests = [sha256(part.encode()).digest() for part in parts]
    answer = "".join(parts).encode()
    assert find_microdescriptors(answer, {digests[1], bytes(32)}) == {digests[1]: parts[1].encode()}
    assert find_microdescriptors(b"garbage", {digests[0]}) == {} == find_microdescriptors(b"", set())


def test_the_least_microdescriptor_has_an_ntor_key():
    found = parse(MADE)
    assert found.ntor_key == KEY and found.digest == sha256(MADE.encode()).digest()
    assert (found.ed25519, found.ipv6, found.family, found.policy, found.policy6) == (
        *(None, None, frozenset()),
        *(REJECT_ALL, REJECT_ALL),
    )
    assert not found.protocols.masks


def test_all_that_a_microdescriptor_may_have():
    found = parse(
        MADE
        + "a 192.0.2.1:1\na [2001:db8::1]:9001\na [2001:db8::2]:9001\n"
        + f"family $aaaa{'0' * 36}=name $BBBB{'1' * 36}~other Nick $short\n"
        + "family-ids ed25519:abc other:thing\np accept 80\np6 reject 25\npr Relay=2-6\n"
        + f"id rsa1024 xyz\nid ed25519 {unpadded(KEY)}\nid later abc\nx-new\n"
    )
    assert found.ipv6 == (ip_address("2001:db8::1"), 9001)
    assert found.family == {f"$AAAA{'0' * 36}", f"$BBBB{'1' * 36}", "nick", "$short"}
    assert found.family_ids == {"ed25519:abc", "other:thing"}
    assert found.ed25519 == KEY and found.protocols.supports("Relay", 6)
    assert found.policy6.allows(None, 80) and not found.policy6.allows(None, 25)


@pytest.mark.parametrize(
    "text",
    [
        f"ntor-onion-key {unpadded(KEY)}\nonion-key\n",
        "onion-key\n",
        "onion-key\nntor-onion-key AAAA\n",
        MADE + MADE,
        MADE + "a 192.0.2.1\n",
        MADE + "p accept 0\n",
        MADE + "pr Relay=64\n",
        MADE + "id ed25519 AAAA\n",
        MADE + f"id ed25519 {unpadded(KEY)}\n" * 2,
        MADE + "family a\nfamily b\n",
    ],
)
def test_what_is_no_microdescriptor_is_refused(text):
    with pytest.raises(ParseError):
        parse(text)


def test_sizes_are_bounded():
    with pytest.raises(ParseError, match="larger"):
        parse(MADE + "x-more\n" * module.MAX_MICRODESCRIPTOR)
    with pytest.raises(ParseError, match="documents"):
        find_microdescriptors(b"onion-key\n" * (module.MAX_MICRODESCRIPTORS + 1), set())
