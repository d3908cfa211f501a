"""Settings files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynode.cli import parser
from pynode.cli.manual import subparsers
from pynode.cli.serve import exit_policy
from pynode.config import Address, Config, ConfigError, default_data_dir, load, parse, write_example

FULL = """
[node]
name = "relay-1"
roles = ["exit", "relay"]
listen = "[::1]:0"
url = "wss://relay.example/"
data = "/var/lib/convergence"
facilitator = "ws://127.0.0.1:8700/facilitator"
facilitator_identity = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
origins = ["https://Mirror.example:443/", "*"]
[exit]
ports = [80, 443]
hosts = ["*", "127.0.0.1:8080"]
[circuits]
hops = 1
exit_hops = 5
group = true
[limits]
connections = 10
[rtc]
enabled = false
stun = ["stun:stun.example", "stun:192.0.2.1:3479"]
[log]
level = "debug"
json = true
[site]
listen = "127.0.0.1:1"
name = "Ours"
files = "dist"
hosts = ["site.example"]
"""


def test_an_empty_file_is_all_defaults() -> None:
    config = parse("")
    assert config == Config()
    assert (config.circuits.hops, config.circuits.exit_hops) == (2, 3)
    assert config.node.roles == () and config.node.listen is None
    assert config.rtc.servers == ()
    assert exit_policy(config.exit, []).permits("example.com", "1.1.1.1", 443)


def test_every_setting(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(FULL)
    config = load(path)
    assert config.node.roles == ("relay", "exit") and config.node.listen == Address("::1", 0)
    assert str(config.node.listen) == "[::1]:0" and str(config.site.listen) == "127.0.0.1:1"
    assert config.node.data == Path("/var/lib/convergence") and config.node.facilitator_identity is not None
    policy = exit_policy(config.exit, [])
    assert policy.permits("localhost", "127.0.0.1", 8080) and not policy.permits("localhost", "127.0.0.1", 80)
    assert config.node.origins == ("https://mirror.example", "*") and config.site.hosts == ("site.example",)
    assert config.rtc.stun == ("stun:stun.example", "stun:192.0.2.1:3479") and config.rtc.servers is None
    assert config.circuits.hops == 1 and config.log.json and config.site.files == Path("dist")


TOR = "[tor]\nlisten = '{}'"


def test_a_node_that_relays_of_tor_reach() -> None:
    node = parse("[node]\ntls = '192.0.2.1:9443'").node
    assert (node.tls, node.tls_address) == (Address("192.0.2.1", 9443), None)
    assert parse("[node]\ntls = '0.0.0.0:1'\ntls_address = '192.0.2.1'").node.tls_address == "192.0.2.1"


def test_a_relay_of_tor() -> None:
    tor = parse(
        TOR.format("192.0.2.1:9001") + "\nnetwork = 'net.txt'\npolicy = ['accept *:80', 'reject 192.0.2.0/24:1']"
    ).tor
    assert tor.listen == Address("192.0.2.1", 9001) and tor.network == Path("net.txt")
    assert [str(rule) for rule in tor.policy] == ["accept *:80", "reject 192.0.2.0/24:1"]
    assert parse(TOR.format("0.0.0.0:9001") + "\naddress = '192.0.2.1'").tor.address == "192.0.2.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node]\n\nnmae = 'x'", "settings, line 3: unknown setting node.nmae; [node] has name, roles, listen, url"),
        ("[nodes]", "settings, line 1: unknown section [nodes]; there are node, exit, circuits"),
        ("\nnode = 3", "settings, line 2: node must be a section: [node]"),
        ("[[node]]\nname = 'x'", "settings, line 1: node must be a section"),
        ("[circuits]\nhops = 6", "settings, line 2: circuits.hops must be a whole number from 1 to 5"),
        ("[circuits]\nhops = true", "line 2: circuits.hops must be a whole number"),
        ("circuits.hops = 0", "circuits.hops must be a whole number from 1 to 5"),
        ("[log]\njson = 1", "line 2: log.json must be true or false"),
        ("[log]\nlevel = 'loud'", 'log.level must be one of "debug", "info"'),
        ("[log]\nlevel = ['debug']", 'log.level must be one of "debug", "info"'),
        ("[node]\nroles = ['relay', 'king']", 'node.roles must be a list of "relay", "rdv" and "exit"'),
        ("[node]\nroles = [['relay']]", "node.roles must be a list"),
        ("[node]\nroles = 'relay'", "node.roles must be a list"),
        (
            "[node]\nroles = ['relay']\n[rtc]\nenabled = false",
            "settings, line 2: without WebRTC, a node with roles needs node.listen",
        ),
        ("[rtc]\nenabled = 1", "line 2: rtc.enabled must be true or false"),
        (
            TOR.format("0.0.0.0:9001"),
            "settings, line 2: with this tor.listen, others need to know tor.address: an IPv4",
        ),
        (TOR.format("relay.example:9001"), "settings, line 2: with this tor.listen, others need to know tor.address"),
        ("[node]\ntls = '0.0.0.0:1'", "settings, line 2: with this node.tls, others need to know node.tls_address: an"),
        ("[node]\ntls = '[::1]:1'", "settings, line 2: with this node.tls, others need to know node.tls_address: an"),
        ("[node]\ntls_address = 'node.example'", "node.tls_address must be an IPv4 address"),
        ("[tor]\naddress = '::1'", 'tor.address must be an IPv4 address such as "192.0.2.1"'),
        ("[tor]\nnickname = 'my relay'", "tor.nickname must be 1 to 19 letters and digits"),
        ("[tor]\ncontact = '\u00e4'", "tor.contact must be at most 256 printable"),
        ("[tor]\npolicy = ['accept']", "tor.policy must be a list of rules such as"),
        ("[tor]\npolicy = ['accept *:80 443']", "tor.policy must be a list of rules such as"),
        ("[tor]\npolicy = 'accept *:80'", "tor.policy must be a list of rules such as"),
        ("[limits]\nrate = 100", "limits.rate must be a whole number from 1024"),
        ("[limits]\nrate = 4096\nburst = 2048", "settings, line 3: limits.burst must not be less than limits.rate"),
        ("[limits]\nburst = 2048", "settings, line 2: limits.burst must not be less than limits.rate"),
        ("[rtc]\nstun = 'stun:x'", "rtc.stun must be a list of at most 4 STUN servers"),
        ("[rtc]\nstun = ['turn:x:1']", "rtc.stun must be the address of a STUN server"),
        ("[rtc]\nstun = ['stun:x:99999']", "rtc.stun must be the address of a STUN server"),
        ("[rtc]\nstun = ['stun:x:0']", "rtc.stun must be the address of a STUN server"),
        ("[rtc]\nstun = ['stun:a b']", "rtc.stun must be the address of a STUN server"),
        ("[rtc]\nstun = [['stun:x']]", "rtc.stun must be the address of a STUN server"),
        ("[rtc]\nstun = ['stun:x', 'stun:x', 'stun:x', 'stun:x', 'stun:x']", "a list of at most 4 STUN servers"),
        ("[node]\nlisten = '9001'", 'node.listen must be "host:port"'),
        ("[node]\nlisten = ':9001'", 'node.listen must be "host:port"'),
        ("[node]\nlisten = 'x:99999'", 'node.listen must be "host:port"'),
        ("[node]\nurl = 'https://x/'", "node.url must be a WebSocket address"),
        ("[node]\nurl = 'ws://x:99999/'", "node.url must be a WebSocket address"),
        ("[node]\nurl = 'ws://[x/'", "node.url must be a WebSocket address"),
        ("[node]\nurl = 5", "node.url must be a WebSocket address"),
        ("[node]\norigins = ['site.example']", "node.origins must be a list of origins such as"),
        ("[node]\norigins = '*'", "node.origins must be a list of origins such as"),
        ("[site]\nhosts = ['http://x/']", "site.hosts must be a list of host names"),
        ("[node]\nfacilitator_identity = 'abc'", "must be 64 hexadecimal digits"),
        ("[node]\nname = ''", "node.name must be a text of 1 to 64"),
        ('[node]\nname = "a\\nb"', "node.name must be a text"),
        ("[node]\ndata = ''", "node.data must be a path in quotes"),
        ("[exit]\nports = [0]", "exit.ports must be a list of ports"),
        ("[exit]\nports = ['80']", "exit.ports must be a list of ports"),
        ("[exit]\nhosts = [80]", "exit.hosts must be a list of hosts"),
        ("[exit]\nhosts = ['a b']", 'or without ":port"; "a b" is no host'),
        ("[node\nx", "settings: this is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "nothing.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no UTF-8"):
        load(tmp_path / "binary")


def test_the_example_is_valid_as_it_is_and_uncommented() -> None:
    assert parse(write_example()) == Config()
    uncommented = re.sub(r"(?m)^# (\w+ = )", r"\1", write_example())
    config = parse(uncommented)
    assert config.node.name == "relay-1" and config.circuits.hops == 2 and config.limits.connections == 4096


def test_a_node_may_work_for_others_without_an_address() -> None:
    """Behind a NAT it is reached over WebRTC."""
    assert parse("[node]\nroles = ['relay']").node.listen is None


def test_a_facilitator_may_be_named_without_its_identity() -> None:
    """As on the command line: the first list of nodes is then trusted."""
    assert parse("[node]\nfacilitator = 'ws://x/'").node.facilitator_identity is None


def test_the_page_about_the_command_line_shows_the_example_and_every_command() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "cli.md").read_text()
    assert f"```toml\n{write_example().rstrip()}\n```\n" in page
    for command in subparsers(parser()):
        assert f"`convergence {command}" in page
    assert "docs/cli.md" in (root / "README.md").read_text()


def test_default_data_folder() -> None:
    assert default_data_dir({"XDG_DATA_HOME": "/x"}) == Path("/x/convergence")
    home = Path.home() / ".local/share/convergence"
    assert default_data_dir({"XDG_DATA_HOME": "relative"}) == default_data_dir({}) == home


@given(st.text(max_size=200))
def test_no_text_raises_anything_else(text: str) -> None:
    for content in (text, f"[node]\nname = {text}", f"[exit]\nhosts = ['{text}']"):
        try:
            parse(content)
        except ConfigError:
            pass


def test_facilitators_that_draw_together_are_named_by_identity_and_address() -> None:
    one, other = f"{'ab' * 32}@wss://one.example/facilitator", f"{'cd' * 32}@wss://other.example/"
    config = parse(f'[facilitator]\ndraws_with = ["{one}", "{other}"]')
    assert config.facilitator.draws_with == (
        (b"\xab" * 32, "wss://one.example/facilitator"),
        (b"\xcd" * 32, "wss://other.example/"),
    )
    many = [f"{number:064x}@wss://one.example/" for number in range(16)]
    for wrong in ([one, one], ["wss://one.example/"], [one.upper()[:40] + "@x"], many, one, [7]):
        with pytest.raises(ConfigError, match="draws_with"):
            parse(f"[facilitator]\ndraws_with = {json.dumps(wrong)}")
