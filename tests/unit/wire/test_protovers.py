import time

import pytest

from convergence.errors import ParseError
from convergence.wire import protovers
from convergence.wire.protovers import Protocols


def test_versions_of_a_relay_of_tor():
    text = "Conflux=1 Cons=1-2 Desc=1-4 FlowCtrl=1-2 LinkAuth=1,3 Relay=2-6"
    protocols = Protocols.parse(text)
    assert str(protocols) == text
    assert [version for version in range(64) if protocols.supports("LinkAuth", version)] == [1, 3]
    assert not protocols.supports("Relay", 1) and protocols.supports("Relay", 6) and not protocols.supports("HSDir", 1)
    assert not protocols.supports("Relay", 10**6)


def test_no_versions_are_none():
    assert Protocols.parse("") == Protocols({})
    assert not Protocols.parse("Relay=").supports("Relay", 0)


def test_what_the_network_requires_is_compared_with_what_we_have():
    ours = Protocols.parse("Link=4-5 Relay=2,4")
    assert ours.covers(Protocols.parse("Link=4 Relay=2"))
    assert ours.covers(Protocols.parse("Link="))
    assert not ours.covers(Protocols.parse("Link=4-6"))
    assert str(Protocols.parse("Cons=2 Link=4-6 Relay=2").beyond(ours)) == "Cons=2 Link=6"


@pytest.mark.parametrize(
    "text",
    [
        *("Relay", "=1", "Relay=a", "Relay=1-", "Relay=-1", "Relay=3-2", "Relay=1,1", "Relay=2,1", "Relay=1-3,3"),
        *("Relay=64", "Relay=1 Relay=2", "Re lay=1", "Rel_ay=1", "Relay=1,,2", "Relay=\u0661", "x" * 101 + "=1"),
        " ".join(f"P{number}=1" for number in range(protovers.MAX_PROTOCOLS + 1)),
    ],
)
def test_what_is_no_list_of_versions_is_refused(text):
    with pytest.raises(ParseError):
        Protocols.parse(text)


def test_a_huge_range_costs_nothing():
    began = time.process_time()
    for text in ("Foo=0-4294967295", "Foo=" + "9" * 100_000, "Foo=" + "0-4294967295," * 10_000, "Foo=1," * 10_000):
        with pytest.raises(ParseError):
            Protocols.parse(text)
    assert time.process_time() - began < 1.0
