"""A relay of the Tor network: whom circuits may go on to, what it says about itself, what it does for others."""

import socket
from dataclasses import replace
from ipaddress import IPv6Address
from types import SimpleNamespace

import pytest

from convergence.circuit.congestion import Vegas
from convergence.circuit.endpoint import Carrier
from convergence.circuit.relaying import RelayLimits
from convergence.crypto.keys import NodeKeys
from convergence.effects import Connect, Load, Protocol, Resolve
from convergence.errors import EndReason, LocalError, ParseError, RemoteError
from convergence.link.meter import Meter
from convergence.link.neighbours import LinkAddress
from convergence.tor.accounting import LOOK, Allowance
from convergence.tor.network import DirectoryAddress, TorConfig
from convergence.tor.relay import MEASURE, NEWS_PAUSE, NO_EXIT, OFFERED, RelayConfig, TorRelay, named_relay
from convergence.wire.cells import CELL_LEN
from convergence.wire.conflux import Link
from convergence.wire.exitpolicy import ExitPolicy, PortPolicy, Rule
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, ed25519_specifier
from convergence.wire.relay import IPV4_NOT_OKAY, IPV6_OKAY, IPV6_PREFERRED, V0, Begin, RelayCommand
from convergence.wire.routerdesc import ExtraInfo, RouterDescriptor
from pynode.torkeys import RsaSecret
from tests.unit.circuit.rig import CRYPTO, START, SeededRng
from tests.unit.netdir.authorities import rsa_secret
from tests.unit.path.tornetwork import Made, TorNetwork

IDENTITY, FINGERPRINT = bytes([1]) * 32, bytes([2]) * 20
LEGACY = LinkSpecifier(SpecifierType.LEGACY_ID, FINGERPRINT)
NETWORK = TorConfig((bytes(20), bytes([1]) * 20), (DirectoryAddress("192.0.2.1:9001", bytes([3]) * 20),))
OPEN = ExitPolicy((Rule.parse("accept", "*:80"), Rule.parse("reject", "*:*")))


def ipv4(address, port):
    return LinkSpecifier(SpecifierType.TLS_IPV4, socket.inet_aton(address) + port.to_bytes(2, "big"))


def ipv6(address, port):
    return LinkSpecifier(SpecifierType.TLS_IPV6, socket.inet_pton(socket.AF_INET6, address) + port.to_bytes(2, "big"))


# -- EXTEND2


@pytest.mark.parametrize(
    ("specifiers", "identity", "address"),
    [
        ((ipv4("192.0.2.7", 443), LEGACY, ed25519_specifier(IDENTITY)), IDENTITY, "192.0.2.7:443"),
        ((ipv4("192.0.2.7", 443), LEGACY), FINGERPRINT, "192.0.2.7:443"),
        ((ed25519_specifier(IDENTITY), LEGACY, ipv6("2001:db8::7", 9001)), IDENTITY, "[2001:db8::7]:9001"),
        (
            (ipv6("2001:db8::7", 9001), ipv4("192.0.2.7", 443), ipv4("192.0.2.8", 1), LEGACY),
            FINGERPRINT,
            "192.0.2.7:443",
        ),
    ],
    ids=["both identities", "no Ed25519 identity", "IPv6", "several addresses"],
)
def test_a_relay_is_named_by_identities_and_address(specifiers, identity, address):
    assert named_relay(specifiers) == (identity, LinkAddress(Protocol.TLS, address, FINGERPRINT))


@pytest.mark.parametrize(
    "specifiers",
    [
        (ipv4("192.0.2.7", 443), ed25519_specifier(IDENTITY)),
        (LEGACY, ed25519_specifier(IDENTITY)),
        (ipv4("192.0.2.7", 0), LEGACY),
        (),
    ],
    ids=["no fingerprint", "no address", "port 0", "nothing"],
)
def test_who_is_not_named_in_full_is_not_reached(specifiers):
    with pytest.raises(ParseError):
        named_relay(specifiers)


# -- the relay


class Scene:
    """A relay, and a circuit of somebody's that it holds."""

    def __init__(self, **config):
        config = {"assume_reachable": True, **config}
        self.now = START
        self.keys = replace(NodeKeys.generate(CRYPTO, SeededRng("relay")), rsa=RsaSecret.generate())
        self.relay = TorRelay(
            RelayConfig(NETWORK, "ours", "192.0.2.7", 9001, **config),
            CRYPTO,
            SeededRng("relay"),
            keys=self.keys,
            onion=rsa_secret("onion"),
        )
        self.refused = []
        endpoint = SimpleNamespace(refuse=lambda stream_id, reason: self.refused.append(reason), entries={})
        self.circuit = SimpleNamespace(
            link=SimpleNamespace(channel=2, handshake=SimpleNamespace(authenticated=True)), endpoint=endpoint
        )

    def start(self):
        self.relay.start(self.now)
        return self.poll(Connect)

    def poll(self, kind):
        self.relay.timer(self.now)
        self.effects = self.relay.poll(self.now)
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def pass_time(self, seconds):
        self.now += seconds
        self.relay.timer(self.now)

    @property
    def descriptor(self):
        return RouterDescriptor.parse(self.relay.publisher.descriptor)


def test_it_needs_an_rsa_identity():
    keys = NodeKeys.generate(CRYPTO, SeededRng("relay"))
    config = RelayConfig(NETWORK, "ours", "192.0.2.7", 9001)
    with pytest.raises(LocalError):
        TorRelay(config, CRYPTO, SeededRng("relay"), keys=keys, onion=rsa_secret("onion"))


def test_it_says_who_it_is_and_goes_to_the_authorities():
    scene = Scene(contact="nobody@example.org", limits=RelayLimits(rate=1 << 20, burst=1 << 21))
    [dial] = scene.start()
    assert (dial.protocol, dial.address) == (Protocol.TLS, "192.0.2.1:9001")
    told = scene.descriptor
    assert (told.nickname, told.address, told.or_port, told.contact) == (
        "ours",
        "192.0.2.7",
        9001,
        "nobody@example.org",
    )
    assert told.bandwidth == (1 << 20, 1 << 21, 0) and told.protocols == OFFERED
    assert told.policy == NO_EXIT and told.tunnelled_dir_server and not told.hibernating
    assert (told.identity, told.ntor_key) == (scene.keys.identity, scene.keys.ntor_public)


def test_nobody_is_dialled_but_directories_without_an_address():
    scene = Scene()
    scene.start()
    answers = []
    scene.relay.neighbours.reach(IDENTITY, lambda link, now: answers.append(link), scene.now)
    assert scene.poll(Connect) == []


def test_a_renewed_onion_key_is_told_and_the_one_before_still_answered():
    scene = Scene()
    scene.start()
    before = scene.keys
    renewed = replace(
        NodeKeys.from_secrets(
            CRYPTO,
            identity_seed=before.identity_seed,
            signing_seed=before.signing_seed,
            ntor_secret=bytes(range(32)),
            previous_ntor_secret=before.ntor_secret,
        ),
        rsa=before.rsa,
    )
    scene.relay.renew(renewed, scene.now)
    assert scene.descriptor.ntor_key == renewed.ntor_public != before.ntor_public
    known = [public for public, _ in scene.relay.relaying.keys.onion.ntor]
    assert known == [renewed.ntor_public, before.ntor_public]


def test_what_it_carried_is_told_when_it_is_news():
    scene = Scene()
    scene.start()
    scene.relay.neighbours._closed_in, scene.relay.neighbours._closed_out = 50_000, 40_000
    assert scene.descriptor.bandwidth[2] == 0
    scene.pass_time(MEASURE)
    assert scene.descriptor.bandwidth[2] == 4000, "the lesser of both ways, and the most that there was"
    scene.relay.neighbours._closed_in, scene.relay.neighbours._closed_out = 120_000, 110_000
    scene.pass_time(NEWS_PAUSE)
    assert scene.descriptor.bandwidth[2] == 4000, "that is no news"
    scene.relay.neighbours._closed_in, scene.relay.neighbours._closed_out = 420_000, 410_000
    scene.pass_time(MEASURE)
    assert scene.descriptor.bandwidth[2] == 30_000
    scene.relay.neighbours._closed_in, scene.relay.neighbours._closed_out = 1_420_000, 1_410_000
    scene.pass_time(MEASURE)
    assert scene.descriptor.bandwidth[2] == 30_000, "it was published only just now"
    scene.pass_time(NEWS_PAUSE)
    assert scene.descriptor.bandwidth[2] == 100_000


def test_what_it_carried_on_whole_days_is_told_in_its_extra_info():
    scene = Scene()
    scene.start()
    scene.pass_time(MEASURE)
    scene.relay.neighbours._closed_in, scene.relay.neighbours._closed_out = 5000, 6000
    scene.pass_time(86400)
    documents = scene.relay.publisher._sign(scene.relay._describe(int(scene.now)), scene.now)
    info = ExtraInfo.parse(documents.removeprefix(scene.relay.publisher.descriptor))
    kinds = {keyword: rest.split()[-1] for keyword, rest in info.lines}
    assert kinds == {"write-history": "5120", "read-history": "4096"}


def test_nothing_is_told_before_others_reach_it():
    scene = Scene(assume_reachable=False)
    scene.start()
    scene.relay.renew(scene.keys, scene.now)
    assert not scene.relay.publisher.descriptor and not scene.relay.figures(scene.now)["reached"]
    scene.relay._test.reached = True
    scene.relay._publish(scene.now)
    assert scene.descriptor.nickname == "ours"


@pytest.mark.parametrize("assumed", [0, 1])
def test_the_authorities_can_have_relays_tell_of_themselves_untested(assumed):
    scene = Scene(assume_reachable=False)
    scene.start()
    network = TorNetwork([Made(1)], params=f"assume-reachable={assumed}", valid_after=int(START))
    scene.relay.directory = SimpleNamespace(view=network.view(), consensus=network.consensus())
    scene.relay._changed(scene.now)
    assert bool(scene.relay.publisher.descriptor) == assumed


def test_it_names_itself_as_others_name_it():
    relay = Scene().relay
    identity, address = named_relay(relay.target.specifiers)
    assert (identity, address.address) == (relay.relaying.keys.identity, "192.0.2.7:9001")
    assert address.rsa == relay.target.node_id == relay.relaying.keys.onion.node_id


@pytest.mark.parametrize(
    ("named", "listed", "reached"),
    [(False, True, IDENTITY), (False, False, FINGERPRINT), (True, True, bytes(32))],
    ids=["known", "unknown", "named in full"],
)
def test_the_consensus_fills_in_an_identity_that_a_client_leaves_out(named, listed, reached):
    scene = Scene()
    known = SimpleNamespace(target=SimpleNamespace(identity=IDENTITY))
    scene.relay.directory = SimpleNamespace(relay=lambda name: known if listed and name == FINGERPRINT else None)
    specifiers = (ipv4("192.0.2.7", 443), LEGACY, *((ed25519_specifier(bytes(32)),) if named else ()))
    identity, address = scene.relay._next_hop(specifiers)
    assert identity == reached and address.rsa == FINGERPRINT


# -- streams


def test_who_is_no_exit_connects_to_nothing():
    scene = Scene()
    scene.relay.begin(scene.circuit, 1, Begin("host.example", 80), scene.now)
    assert scene.refused == [EndReason.EXITPOLICY] and scene.poll(Connect) == []


@pytest.mark.parametrize(
    ("host", "flags", "address"),
    [
        ("host.example", 0, "host.example:80/4"),
        ("host.example", IPV6_OKAY, "host.example:80/46"),
        ("host.example", IPV6_OKAY | IPV6_PREFERRED, "host.example:80/64"),
        ("host.example", IPV6_OKAY | IPV4_NOT_OKAY, "host.example:80/6"),
        ("host.example", IPV4_NOT_OKAY, "host.example:80/"),
        ("2001:db8::1", 0, "[2001:db8::1]:80"),
        ("192.0.2.1", IPV6_OKAY | IPV4_NOT_OKAY, "192.0.2.1:80"),
    ],
)
def test_an_exit_connects_over_the_versions_of_ip_that_are_okay(host, flags, address):
    scene = Scene(policy=OPEN)
    scene.circuit.endpoint.accept_stream = lambda stream_id: SimpleNamespace(near=None, far=None, handler=None)
    scene.relay.begin(scene.circuit, 3, Begin(host, 80, flags), scene.now)
    [dial] = scene.poll(Connect)
    assert (dial.protocol, dial.address) == (Protocol.TCP, address)


def test_it_tells_of_its_address_and_policy_for_ipv6():
    address = IPv6Address("2001:db8::7"), 9006
    scene = Scene(address6=address, policy6=PortPolicy.parse("accept 80"))
    scene.start()
    assert scene.descriptor.addresses == (address,) and str(scene.descriptor.policy6) == "accept 80"


def test_nobody_is_served_who_is_next_to_the_exit():
    scene = Scene(policy=OPEN)
    scene.circuit.link.handshake.authenticated = False
    scene.relay.begin(scene.circuit, 1, Begin("host.example", 80), scene.now)
    assert scene.refused == [EndReason.TORPROTOCOL] and scene.poll(Connect) == []
    answers = []
    scene.circuit.endpoint.send_message = lambda *message: answers.append(message)
    scene.relay.resolve(scene.circuit, 3, "host.example", scene.now)
    assert [command for command, *_ in answers] == [RelayCommand.RESOLVED] and scene.poll(Resolve) == []


@pytest.mark.parametrize("command", [RelayCommand.DB_INFO, RelayCommand.CONFLUX_LINKED_ACK, 32, 35, 39, 41])
def test_what_belongs_to_other_services_ends_the_circuit(command):
    scene = Scene()
    with pytest.raises(RemoteError):
        scene.relay.message(scene.circuit, command, b"", START)


def test_a_circuit_becomes_a_leg_of_a_set_unless_its_origin_is_next_to_us_or_the_consensus_forbids_it():
    scene, joined = Scene(), []
    flow = Vegas()
    carrier = Carrier(V0, flow, lambda cells: joined.append(cells) or [bytes(20)], lambda: False, Meter(1))
    scene.circuit.join = lambda linked, now: linked.add(carrier, None, now)
    scene.circuit.link.source = "somebody"
    said = scene.circuit, RelayCommand.CONFLUX_LINK, Link(bytes(32)).encode(), START
    scene.circuit.link.handshake.authenticated = False
    with pytest.raises(RemoteError):
        scene.relay.message(*said)
    scene.circuit.link.handshake.authenticated = True
    scene.relay.directory = SimpleNamespace(consensus=TorNetwork([Made(1)], params="cfx_enabled=0").consensus())
    with pytest.raises(RemoteError):
        scene.relay.message(*said)
    assert not joined
    scene.relay.directory.consensus = TorNetwork([Made(1)]).consensus()
    scene.relay.message(*said)
    assert len(joined) == 1 and OFFERED.supports("Conflux", 1)
    figures = scene.relay.figures(START)
    assert (figures["conflux_sets"], figures["conflux_legs_total"]) == (1, 0)


def test_a_relay_that_has_carried_all_that_it_may_hibernates_until_the_next_period():
    day = 86400
    scene = Scene(accounting=Allowance(1 << 20, day))
    scene.start()
    [load] = [effect for effect in scene.effects if isinstance(effect, Load) and effect.bucket == "tor-relay"]
    scene.relay.done(load.request, None, scene.now)
    assert not scene.descriptor.hibernating
    scene.relay.relaying.sent((1 << 20) // CELL_LEN + 1)
    scene.pass_time(LOOK)
    assert scene.descriptor.hibernating and scene.relay.relaying.paused
    scene.pass_time(day)
    assert not scene.descriptor.hibernating and not scene.relay.relaying.paused
