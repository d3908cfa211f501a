from ipaddress import ip_address

import pytest

from convergence.errors import ParseError
from convergence.wire import exitpolicy
from convergence.wire.exitpolicy import REJECT_ALL, ExitPolicy, PortPolicy, Rule


def policy(*lines):
    return ExitPolicy.of(Rule.parse(*line.split(" ")) for line in lines)


def test_a_summary_names_ports_that_are_allowed_or_refused():
    accept = PortPolicy.parse("accept 80,443,8000-8010")
    assert [port for port in (79, 80, 81, 443, 7999, 8000, 8010, 8011) if accept.allows(None, port)] == [
        80,
        443,
        8000,
        8010,
    ]
    reject = PortPolicy.parse("reject 25,119,135-139")
    assert [port for port in (0, 1, 24, 25, 135, 139, 140, 65535, 65536) if reject.allows(None, port)] == [
        1,
        24,
        140,
        65535,
    ]
    assert str(accept) == "accept 80,443,8000-8010"
    assert PortPolicy.parse("reject 1-65535") == REJECT_ALL and REJECT_ALL.refuses_all
    assert not any(REJECT_ALL.allows(ip_address("192.0.2.1"), port) for port in (0, 1, 80, 65535))


@pytest.mark.parametrize(
    "text",
    [
        *("", "accept", "allow 80", "accept 0", "accept 65536", "accept 80,", "accept 90-80", "accept 443,80"),
        *("accept 80,80", "accept 80-90,90", "accept -80", "accept " + "9" * 5000, "accept x"),
        "accept " + ",".join(map(str, range(10000, 10400, 2))),
    ],
)
def test_what_is_no_summary_is_refused(text):
    with pytest.raises(ParseError):
        PortPolicy.parse(text)


def test_the_first_rule_that_matches_decides():
    exits = policy(
        "reject 10.0.0.0/8:*", "accept 10.1.2.3:80", "reject *:25", "accept [2001:db8::]/32:22", "reject *:22"
    )
    for address, port, allowed in (
        ("10.1.2.3", 80, False),
        ("192.0.2.1", 25, False),
        ("192.0.2.1", 80, True),
        ("2001:db8::1", 22, True),
        ("2001:db9::1", 22, False),
        ("192.0.2.1", 22, False),
        ("192.0.2.1", 0, False),
        ("::ffff:10.1.2.3", 80, True),
    ):
        assert exits.allows(ip_address(address), port) == allowed, (address, port)


def test_for_a_name_only_rules_for_all_addresses_decide():
    exits = policy("reject 10.0.0.0/8:*", "accept 192.0.2.0/24:25", "reject *:25", "accept *:80", "reject *:*")
    assert exits.allows(None, 80) and not exits.allows(None, 25) and not exits.allows(None, 443)
    assert policy("reject 10.0.0.0/8:*").allows(None, 80), "where no rule matches, all is allowed"


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("accept *:*", "accept *:*"),
        ("reject 10.1.2.3/8:1-65535", "reject 10.0.0.0/8:*"),
        ("reject 10.1.2.3/255.255.0.0:80", "reject 10.1.0.0/16:80"),
        ("reject 10.1.2.3/32:0-80", "reject 10.1.2.3:0-80"),
        ("accept [2001:db8::1]:22-23", "accept [2001:db8::1]:22-23"),
        ("accept [::]/0:80", "accept [::]/0:80"),
        ("accept [::1]/8:80", "accept [::]/8:80"),
    ],
)
def test_rules_are_written_as_short_as_can_be(line, written):
    assert str(Rule.parse(*line.split(" "))) == written
    assert Rule.parse(*written.split(" ")) == Rule.parse(*line.split(" "))


@pytest.mark.parametrize(
    "line",
    [
        *(
            "accept *",
            "accept :80",
            "permit *:80",
            "accept *:80-",
            "accept *:90-80",
            "accept *:65536",
            "accept 10.0.0:80",
        ),
        *(
            "accept 10.0.0.0/33:80",
            "accept 10.0.0.0/0.0.0.255:80",
            "accept 10.0.0.0/255.0.255.0:80",
            "accept 10.0.0.0/:80",
        ),
        *("accept 2001:db8::1:80", "accept [10.0.0.1]:80", "accept [::1]/129:80", "accept [::1]/255.0.0.0:80"),
        *("accept [fe80::1%eth0]:80", "accept */8:80"),
    ],
)
def test_what_is_no_rule_is_refused(line):
    with pytest.raises(ParseError):
        Rule.parse(*line.split(" "))


@pytest.mark.parametrize(
    ("lines", "summary"),
    [
        (["reject *:*"], "reject 1-65535"),
        (["accept *:*"], "accept 1-65535"),
        (["accept *:80", "accept *:81-90", "reject *:*"], "accept 80-90"),
        (["reject *:25", "reject *:0-3", "accept *:*"], "reject 1-3,25"),
        (["accept 10.0.0.0/8:22", "reject [2001:db8::]/32:*", "accept [::]/0:80", "reject *:*"], "accept 80"),
        (["reject *:79", "accept *:70-90", "reject *:*"], "accept 70-78,80-90"),
        ([], "accept 1-65535"),
    ],
)
def test_rules_are_summed_up_for_ipv6(lines, summary):
    found = policy(*lines).summary6()
    assert str(found) == summary and PortPolicy.parse(summary) == found


def test_the_number_of_rules_is_bounded():
    with pytest.raises(ParseError, match="rules"):
        policy(*["accept *:80"] * (exitpolicy.MAX_RULES + 1))
