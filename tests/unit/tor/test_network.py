"""A client of the Tor network with links of its own: how often it dials directories that are of no use to it, and what
is left when it stops."""

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Connect, Load, Protocol, Scan, Send, Store
from convergence.errors import LocalError
from convergence.events import DirectoryRefused
from convergence.link.neighbours import Neighbours
from convergence.outbox import Outbox
from convergence.ports import TlsBinding
from convergence.tor.network import DirectoryAddress, TorConfig, TorNetwork
from tests.unit.circuit.rig import CRYPTO, SeededRng
from tests.unit.netdir.authorities import HOUR, NOW
from tests.unit.tor.world import FIVE, STEPS

ADDRESSES = tuple(DirectoryAddress(f"192.0.2.{number}:9001", bytes([number]) * 20) for number in range(1, 4))
CONFIG = TorConfig(tuple(authority.identity for authority in FIVE), ADDRESSES)
DIALS_PER_HOUR = 100  # each directory that is asked is dialled up to four times


class Client:
    """`dialled(client, Connect)` says what becomes of each dial."""

    def __init__(self, dialled):
        self.now = float(NOW)
        self.outbox = Outbox()
        self.dials = []
        self.refused = []
        self.open = set()  # channels
        self._dialled = dialled
        rng = SeededRng("client")
        keys = NodeKeys.generate(CRYPTO, rng)
        self.neighbours = Neighbours(
            self.outbox, CRYPTO, rng, keys, lambda identity, now: self.network.address(identity, now), None
        )
        self.network = TorNetwork(self.outbox, CRYPTO, rng, self.neighbours, CONFIG)

    def step(self, end):
        effects = self.outbox.poll(self.now)
        for effect in effects:
            if isinstance(effect, Connect):
                self.dials.append(effect)
                self.open.add(effect.channel)
                self._dialled(self, effect.channel)
            elif isinstance(effect, CloseLink):
                self.open.discard(effect.channel)
            elif isinstance(effect, DirectoryRefused):
                self.refused.append(effect)
            elif isinstance(effect, Load | Scan | Store):
                self.outbox.done(effect.request, [] if isinstance(effect, Scan) else None, self.now)
            else:
                assert not isinstance(effect, Send) or effect.channel in self.open
        deadline = self.outbox.deadline()
        if not effects and deadline is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.outbox.run_timers(self.now)
        return bool(effects) or (deadline is not None and deadline <= end)

    def run(self, seconds):
        end = self.now + seconds
        for _ in range(STEPS):
            if not self.step(end):
                self.now = end
                return self
        raise AssertionError("something goes round without a pause")


def refuses(client, channel):
    client.open.discard(channel)
    client.neighbours.closed(channel, "refused", client.now)


def hangs(client, channel):
    """Nothing comes of the dial."""


def says_nothing(client, channel):
    """TLS stands, and nothing follows."""
    client.neighbours.opened(channel, TlsBinding(b"certificate", lambda context: bytes(32)), client.now)


def says_garbage(client, channel):
    says_nothing(client, channel)
    client.neighbours.data(channel, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 40, client.now)


KINDS = [refuses, hangs, says_nothing, says_garbage]


def test_a_network_without_authorities_is_none():
    with pytest.raises(LocalError):
        TorConfig((), ADDRESSES)
    with pytest.raises(LocalError):
        TorConfig((CONFIG.authorities[0], CONFIG.authorities[0]))


def test_directories_are_dialled_on_tls_at_their_addresses():
    client = Client(hangs)
    client.network.start(client.now)
    client.run(1)
    [dial] = client.dials
    assert dial.protocol is Protocol.TLS and dial.address in {item.address for item in ADDRESSES}
    for item in ADDRESSES:
        address = client.network.address(item.fingerprint, client.now)
        assert (address.protocol, address.address, address.rsa) == (Protocol.TLS, item.address, item.fingerprint)
    assert client.network.address(bytes(20), client.now) is None


@pytest.mark.parametrize("dialled", KINDS)
def test_directories_that_are_of_no_use_are_dialled_seldom(dialled):
    client = Client(dialled)
    client.network.start(client.now)
    client.run(HOUR)
    assert {dial.address for dial in client.dials} == {item.address for item in ADDRESSES}, "each has its turn"
    assert len(client.dials) <= DIALS_PER_HOUR
    assert client.refused and {event.document for event in client.refused} == {"consensus"}


@pytest.mark.parametrize("dialled", KINDS)
def test_stopping_at_any_moment_leaves_nothing(dialled):
    for steps in range(1, 60, 3):
        client = Client(dialled)
        client.network.start(client.now)
        for _ in range(steps):
            client.step(client.now + 20)
        client.network.stop(client.now)
        client.run(60)  # dials end in their own time
        dials = len(client.dials)
        assert client.network.circuits.snapshot() == [] and not client.open
        client.run(HOUR)
        assert len(client.dials) == dials and client.outbox.deadline() is None
