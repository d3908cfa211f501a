"""An entry to the Tor network: whether it can be one now, and whom it lets circuits go on to."""

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.effects import Connect, Load, Protocol, Scan, Store
from convergence.errors import DestroyReason, LocalError, ParseError, RemoteError
from convergence.events import DirectoryRefused, TorDirectoryChanged
from convergence.link.neighbours import Neighbours
from convergence.netdir.consensus import TOLERANCE
from convergence.outbox import Outbox
from convergence.tor.entry import TorEntry
from convergence.tor.network import DirectoryAddress, TorConfig
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, ed25519_specifier
from tests.sim.tor import AUTHORITIES, KINDS, OTHERS, documents
from tests.unit.circuit.rig import CRYPTO, SeededRng
from tests.unit.netdir.authorities import HOUR, NOW
from tests.unit.path.tornetwork import Made

MADE = [Made(number, flags, 1000, policy) for number, (flags, policy) in enumerate(KINDS, 1)]
FIRST = DirectoryAddress("192.0.2.1:9001", bytes([1]) * 20)
CONFIG = TorConfig(tuple(authority.identity for authority in AUTHORITIES), (FIRST,))
END = NOW + 3 * HOUR + TOLERANCE


class Scene:
    """An entry that has these documents from an earlier run; its directory is never reached."""

    def __init__(self, kept, now=NOW + 60.0):
        self.now = now
        self.outbox = Outbox()
        self.kept = dict(kept)
        self.changes, self.events, self.dials = [], [], []
        rng = SeededRng("entry")
        keys = NodeKeys.generate(CRYPTO, rng)
        neighbours = Neighbours(
            self.outbox, CRYPTO, rng, keys, lambda identity, now: self.entry.address(identity), lambda *_: None
        )
        self.entry = TorEntry(
            self.outbox, CRYPTO, rng, neighbours, CONFIG, lambda channel: channel, lambda now: self.note()
        )
        self.entry.start(self.now)
        self.run(1)

    def note(self):
        self.changes.append(self.entry.ready)

    def run(self, seconds):
        end = self.now + seconds
        while True:
            effects = self.outbox.poll(self.now)
            for effect in effects:
                if isinstance(effect, Load):
                    self.outbox.done(effect.request, self.kept.get((effect.bucket, effect.key)), self.now)
                elif isinstance(effect, Scan):
                    names = [key for bucket, key in self.kept if key.startswith(effect.prefix)]
                    self.outbox.done(effect.request, names, self.now)
                elif isinstance(effect, Store):
                    self.outbox.done(effect.request, None, self.now)
                elif isinstance(effect, Connect):
                    self.dials.append(effect)
                elif isinstance(effect, TorDirectoryChanged | DirectoryRefused):
                    self.events.append(effect)
            deadline = self.outbox.deadline()
            if deadline is not None and deadline <= end:
                self.now = max(self.now, deadline)
                self.outbox.run_timers(self.now)
            elif not effects:
                self.now = end
                return


@pytest.fixture
def scene():
    return Scene(documents(MADE))


def specifiers(relay, address="10.9.9.9", port=22, ed25519=None):
    ipv4 = LinkSpecifier(SpecifierType.TLS_IPV4, bytes(map(int, address.split("."))) + port.to_bytes(2, "big"))
    legacy = LinkSpecifier(SpecifierType.LEGACY_ID, relay.identity)
    return ipv4, legacy, *((ed25519_specifier(ed25519),) if ed25519 else ())


def test_it_needs_directories():
    with pytest.raises(LocalError):
        TorEntry(Outbox(), CRYPTO, SeededRng("x"), None, TorConfig(CONFIG.authorities), lambda channel: channel, None)


def test_it_is_ready_with_a_consensus_and_the_descriptors(scene):
    assert scene.entry.ready and scene.changes == [True]
    assert scene.events[-1] == TorDirectoryChanged(len(MADE), len(MADE), True)


@pytest.mark.parametrize(
    "kept",
    [{}, documents(MADE, OTHERS), documents(MADE, AUTHORITIES[:1]), documents(MADE, valid_after=NOW - 40 * HOUR)],
    ids=["nothing", "other authorities", "a minority", "expired"],
)
def test_without_one_that_counts_it_is_not(kept):
    scene = Scene(kept)
    assert not scene.entry.ready and scene.changes == []
    with pytest.raises(RemoteError):
        scene.entry.next_hop(specifiers(MADE[0]))


def test_it_is_not_ready_while_too_few_descriptors_are_known():
    kept = {key: data for key, data in documents(MADE).items() if not key[1].startswith(b"micro/")}
    scene = Scene(kept | {key: data for key, data in documents(MADE[:2]).items() if key[1].startswith(b"micro/")})
    assert not scene.entry.ready and scene.changes == []


def test_when_the_consensus_has_expired_it_is_ready_no_more(scene):
    scene.run(END - scene.now - 1)
    assert scene.entry.ready
    scene.run(2)
    assert not scene.entry.ready and scene.changes == [True, False]
    with pytest.raises(RemoteError):
        scene.entry.next_hop(specifiers(MADE[0]))


def test_a_clock_that_jumps_shows_that_it_has_expired(scene):
    scene.now += 40 * HOUR
    scene.outbox.shift(40 * HOUR)
    scene.entry.moved(scene.now)
    assert not scene.entry.ready


@pytest.mark.parametrize("named", [False, True], ids=["RSA only", "both identities"])
def test_circuits_go_on_to_the_address_of_the_consensus(scene, named):
    made = MADE[1]
    identity, address = scene.entry.next_hop(specifiers(made, ed25519=made.ed25519 if named else None))
    assert identity == made.ed25519
    assert (address.protocol, address.address, address.rsa) == (Protocol.TLS, f"{made.address}:9001", made.identity)


def test_a_node_that_offers_it_no_more_leads_nowhere(scene):
    scene.entry.offered = False
    with pytest.raises(RemoteError):
        scene.entry.next_hop(specifiers(MADE[1]))
    assert scene.entry.ready, "it keeps the documents"


def test_nobody_else_is_reached(scene):
    stranger = Made(99)
    for named, reason in ((stranger, DestroyReason.CONNECTFAILED), (MADE[1], DestroyReason.OR_IDENTITY)):
        with pytest.raises(RemoteError) as refused:
            scene.entry.next_hop(specifiers(named, ed25519=stranger.ed25519))
        assert refused.value.reason == reason


def test_nodes_of_our_own_network_are_named_by_their_ed25519_identity_alone(scene):
    assert scene.entry.next_hop((ed25519_specifier(bytes(32)),)) == (bytes(32), None)
    with pytest.raises(ParseError):
        scene.entry.next_hop(specifiers(MADE[1])[:1])


def test_without_a_circuit_only_directories_are_dialled(scene):
    assert scene.entry.address(FIRST.fingerprint) == FIRST.link_address
    assert scene.entry.address(MADE[1].identity) is scene.entry.address(MADE[1].ed25519) is None


def test_the_end_leaves_nothing(scene):
    scene.entry.stop(scene.now)
    scene.run(60)
    assert scene.outbox.deadline() is None
