"""A relay of the Tor network, and an exit if its policy allows anything: a machine of its own.

Does: wire links, circuits of others, exit streams, the network's documents, for itself and for those who ask, and the
relay's own descriptor; say whom
circuits may go on to, and what the relay says about itself.
Does not: hold protocol logic.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from convergence.channels import Channels, Owner
from convergence.circuit.exit import MAX_EXIT_STREAMS, ExitService, refuse_resolve
from convergence.circuit.linking import Linking
from convergence.circuit.relay import RelayCircuit
from convergence.circuit.relaying import Relaying, RelayLimits
from convergence.crypto.keys import NodeKeys
from convergence.effects import DescriptionKind, Effect, Protocol
from convergence.errors import EndReason, LocalError, RemoteError
from convergence.events import ProtocolsLacking
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.netdir.tor import SCHEME
from convergence.outbox import Outbox
from convergence.ports import Binding, Crypto, Rng, RsaKeyPair
from convergence.tor.accounting import Accounting, Allowance
from convergence.tor.cache import DirectoryCache
from convergence.tor.circuits import DirectoryCircuits
from convergence.tor.directory import TorDirectory
from convergence.tor.dirports import DirectoryPorts
from convergence.tor.history import History
from convergence.tor.network import TorConfig
from convergence.tor.publishing import Publisher
from convergence.tor.selftest import SelfTest
from convergence.tor.sources import DirectorySources
from convergence.wire.exitpolicy import REJECT_ALL, ExitPolicy, PortPolicy, Rule
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, ed25519_identity, or_address, rsa_fingerprint
from convergence.wire.netdoc import OrAddress
from convergence.wire.protovers import Protocols
from convergence.wire.relay import DIRECTORY, AnswerType, Begin, format_target
from convergence.wire.routerdesc import RouterDescriptor
from convergence.wire.target import Protocols as TargetProtocols
from convergence.wire.target import RelayTarget, Role

OFFERED = Protocols.parse("Conflux=1 Cons=2 Desc=2 DirCache=2 FlowCtrl=1-2 Link=4-5 LinkAuth=3 Microdesc=2 Relay=2-4")
"""What we speak as a relay (tor-spec "Subprotocol versioning")."""
NO_EXIT = ExitPolicy((Rule(False, None, 1, 65535),))
UNLIMITED = 1 << 30  # bytes/s that a descriptor says where nothing limits them, as C Tor's
MEASURE = 10.0  # seconds over which the observed bandwidth is taken (dir-spec 2.1.1, "bandwidth")
NEWS = 2  # it is published anew when it is so many times what was published...
NEWS_PAUSE = 1200.0  # ...and so many seconds have passed since
SLEPT = 60.0  # seconds; a machine that slept this long has no link left


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What a relay is.

    Args:
        network: whose authorities it asks, and tells of itself.
        nickname: 1-19 letters and digits.
        address: its IPv4 address, where others reach it at or_port.
        address6: its IPv6 address and port, where others reach it, too.
        policy, policy6: what it connects to, as it is published. The shell keeps to it.
        exit_streams: at once; no more than the shell can hold.
        limits: on what it relays.
        accounting: on what it relays in each period; then it hibernates until the next one.
        assume_reachable: whether it tells of itself before it has seen that others reach it.
        contact, platform: for people.
    """

    network: TorConfig
    nickname: str
    address: str
    or_port: int
    address6: OrAddress | None = None
    policy: ExitPolicy = NO_EXIT
    policy6: PortPolicy = REJECT_ALL
    exit_streams: int = MAX_EXIT_STREAMS
    limits: RelayLimits = RelayLimits()
    accounting: Allowance | None = None
    assume_reachable: bool = False
    contact: str = ""
    platform: str = "Convergence"

    @property
    def exit(self) -> bool:
        """Whether it connects to anything."""
        return any(rule.accept for rule in self.policy.rules)


class TorRelay:
    """A driver.Machine.

    Args:
        keys: with an RSA identity.
        onion: an RSA onion key.
        source_of: whom limits count a link's channel under.
    """

    def __init__(
        self,
        config: RelayConfig,
        crypto: Crypto,
        rng: Rng,
        *,
        keys: NodeKeys,
        onion: RsaKeyPair,
        source_of: Callable[[int], Hashable] = lambda channel: channel,
    ) -> None:
        if keys.rsa is None:
            raise LocalError("a relay of the Tor network has an RSA identity")
        self.config = config
        self.outbox = Outbox()
        self._started = 0.0
        self._observed = self._published = 0  # bytes/s
        self._published_at = 0.0
        self._history = History()
        self._carried = (0, 0)  # bytes in and out when they were last looked at
        self._told = False
        self.relaying = Relaying(
            self.outbox, crypto, rng, keys, self, limits=config.limits, next_hop=self._next_hop, fast=True
        )
        self.neighbours = self.relaying.neighbours = Neighbours(
            self.outbox,
            crypto,
            rng,
            keys,
            self._address,
            self.relaying.create,
            throttle=self.relaying.throttle,
            source_of=source_of,
            ed25519_of=self._ed25519_of,
            addresses=(config.address, *([str(config.address6[0])] if config.address6 else [])),
        )
        self._accounting = Accounting(self.outbox, config.accounting, lambda: self.relaying.carried, self._hibernate)
        self._circuits = DirectoryCircuits(self.outbox, crypto, rng, self.neighbours)
        ports = {item.fingerprint: item.dir_address for item in config.network.directories if item.dir_address}
        self._ports = DirectoryPorts(self.outbox, ports)
        sources = DirectorySources(
            self.outbox, rng, self._circuits, lambda now: config.network.first_targets, self._ports
        )
        self.directory = TorDirectory(self.outbox, rng, config.network.authorities, sources, self._changed, mirror=True)
        self.publisher = Publisher(
            self.outbox,
            crypto,
            sources,
            config.network.authority_directories,
            keys,
            onion,
            self._describe,
            lambda: self._history.lines,
        )
        self._test = SelfTest(
            self.outbox,
            crypto,
            rng,
            self.neighbours,
            lambda: self.target,
            lambda: self.directory.view,
            f"{config.address}:{config.or_port}",
            self._publish,
        )
        self._cache = DirectoryCache(self.outbox, self.directory, lambda: self.publisher.descriptor, source_of)
        self._exit = ExitService(self.outbox, source_of=source_of, streams=config.exit_streams)
        self._linking = Linking(self.outbox)
        self._channels = Channels(self._owners())

    # -- commands

    def start(self, now: float) -> None:
        """Learn of the network, and be known to it."""
        self._started = now
        self._test.start(now)
        self.directory.start(now)
        self._accounting.start(now, self._publish)
        self.outbox.call_at(now + MEASURE, self._measure)

    def stop(self, now: float) -> None:
        """Links are closed, and circuits end with them."""
        self._test.stop(now)
        self.publisher.stop(now)
        self._accounting.stop(now)
        self.directory.stop(now)
        self.neighbours.close_all(now)
        self._circuits.stop(now)

    def renew(self, keys: NodeKeys, now: float) -> None:
        """Another ntor key from now on. Circuits that stand go on."""
        self.relaying.keys = self.publisher.keys = keys
        self._publish(now)

    def woke(self, by: float, now: float) -> None:
        self.outbox.shift(by)
        if by >= SLEPT:
            self.neighbours.close_all(now, "this machine slept")
        self.directory.moved(now)
        self._publish(now)

    @property
    def target(self) -> RelayTarget:
        """How others extend circuits to us."""
        keys = self.relaying.keys
        node_id = keys.onion.node_id
        address = ip_address(self.config.address).packed + self.config.or_port.to_bytes(2, "big")
        specifiers = (
            LinkSpecifier(SpecifierType.TLS_IPV4, address),
            LinkSpecifier(SpecifierType.LEGACY_ID, node_id),
            LinkSpecifier(SpecifierType.ED25519_ID, keys.identity),
        )
        return RelayTarget(
            keys.identity,
            specifiers,
            node_id,
            keys.ntor_public,
            TargetProtocols.NTOR_V3,
            Role.RELAY,
            frozenset((SCHEME,)),
            rtc=False,
        )

    def figures(self, now: float) -> dict[str, float]:
        """Numbers for whoever runs the relay, of all users together."""
        relayed = self.relaying.snapshot()
        consensus = self.directory.consensus
        return {
            "links": len(self.neighbours.links),
            "link_received_bytes_total": self.neighbours.bytes_in,
            "link_sent_bytes_total": self.neighbours.bytes_out,
            "circuits": relayed["circuits"],
            "circuits_total": relayed["circuits_total"],
            "streams": relayed["streams"],
            "conflux_sets": len(self._linking),
            "conflux_legs_total": self._linking.linked,
            "relayed_bytes_total": relayed["bytes"],
            "hibernating": self.relaying.paused,
            "reached": self._test.reached,
            "uptime_seconds": now - self._started,
            "consensus_valid_until_seconds": 0 if consensus is None else consensus.valid_until,
        }

    # -- driver.Machine

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None) -> None:
        self._channels.opened(channel, protocol, binding, now)

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None:
        """Nothing here is described."""

    def link_data(self, channel: int, data: bytes, now: float) -> None:
        self._channels.data(channel, data, now)

    def link_closed(self, channel: int, now: float, reason: str) -> None:
        self._channels.closed(channel, reason, now)

    def link_congested(self, channel: int, congested: bool, now: float) -> None:
        self._channels.congested(channel, congested, now)

    def done(self, request: int, result: Any, now: float) -> None:
        self.outbox.done(request, result, now)

    def timer(self, now: float) -> None:
        self.outbox.run_timers(now)

    def poll(self, now: float) -> list[Effect]:
        effects = self.outbox.poll(now)
        self._channels.note(effects)
        return effects

    def deadline(self) -> float | None:
        return self.outbox.deadline()

    # -- relaying.Offers

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        if begin is DIRECTORY:
            self._cache.begin(circuit, stream_id, now)
        elif not circuit.link.handshake.authenticated:
            # The client is next to us: who served it would be a proxy of one hop, which knows both ends.
            circuit.endpoint.refuse(stream_id, EndReason.TORPROTOCOL)
        elif self.config.exit and begin.port:
            self._exit.begin(circuit, stream_id, begin, now, begin.versions)
        else:
            circuit.endpoint.refuse(stream_id, EndReason.EXITPOLICY)

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        if self.config.exit and circuit.link.handshake.authenticated:
            self._exit.resolve(circuit, stream_id, host, now)
        else:
            refuse_resolve(circuit, stream_id, AnswerType.ERROR_PERMANENT)

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None:
        """LINK. As for streams, nobody is served who is next to us."""
        consensus = self.directory.consensus
        enabled = consensus is None or consensus.param("cfx_enabled", 1, 0, 1)
        if not enabled or not circuit.link.handshake.authenticated:
            raise RemoteError(f"relay command {command} is not offered")
        self._linking.message(circuit, command, payload, now)

    def circuit_closed(self, circuit: RelayCircuit, now: float) -> None:
        """Nothing is kept of a circuit."""

    # -- what the parts ask

    def _next_hop(self, specifiers: Sequence[LinkSpecifier]) -> tuple[bytes, LinkAddress]:
        """Whom an EXTEND2 names. The consensus fills in an Ed25519 identity that a client leaves out, so that whoever
        has broken an RSA key of 1024 bits cannot answer for the relay."""
        identity, address = named_relay(specifiers)
        return self._ed25519_of(identity) or identity, address

    def _ed25519_of(self, fingerprint: bytes) -> bytes | None:
        """By the consensus."""
        relay = self.directory.relay(fingerprint)
        return None if relay is None else relay.target.identity

    def _address(self, identity: bytes, now: float) -> LinkAddress | None:
        """Directories, and the relay that a test begins at: all others are told of by an EXTEND2."""
        return self.config.network.link_address(identity) or self._test.link_address(identity)

    def _owners(self) -> dict[Protocol, Owner]:
        links, tcp = self.neighbours, self._exit
        return {
            Protocol.TLS: Owner(links.opened, links.data, links.closed, links.congested),
            Protocol.DIRECTORY: self._ports.owner,
            Protocol.TCP: Owner(
                lambda channel, binding, now: tcp.opened(channel, now), tcp.data, tcp.closed, tcp.congested
            ),
        }

    # -- what it says about itself

    def _hibernate(self, over: bool, now: float) -> None:
        """What may be relayed in this period is used up, or another period begins."""
        self.relaying.set_limits(None if over else self.config.limits, now)
        self._publish(now)

    @property
    def _assumes_reachable(self) -> bool:
        """The authorities can say so, too: where relays could not find out (param-spec "assume-reachable")."""
        consensus = self.directory.consensus
        told = consensus is not None and bool(consensus.param("assume-reachable", 0, 0, 1))
        return self.config.assume_reachable or told

    def _publish(self, now: float) -> None:
        """Not before others reach us: clients would choose a relay that is none."""
        if not self._test.reached and not self._assumes_reachable:
            return
        self._published, self._published_at = self._observed, now
        self.publisher.publish(now)

    def _describe(self, published: int) -> RouterDescriptor:
        config = self.config
        rate = config.limits.rate or UNLIMITED
        burst = config.limits.burst or rate
        return RouterDescriptor(
            nickname=config.nickname,
            address=config.address,
            or_port=config.or_port,
            published=published,
            bandwidth=(rate, burst, self._observed),
            protocols=OFFERED,
            policy=config.policy,
            policy6=config.policy6,
            addresses=(config.address6,) if config.address6 else (),
            platform=config.platform,
            contact=config.contact,
            uptime=max(int(published - self._started), 0),
            hibernating=self.relaying.paused,
            tunnelled_dir_server=True,
        )

    def _measure(self, now: float) -> None:
        """The most that it carried both ways over MEASURE seconds."""
        before, self._carried = self._carried, (self.neighbours.bytes_in, self.neighbours.bytes_out)
        self._history.look(*self._carried, now)
        carried = min(after - then for after, then in zip(self._carried, before, strict=True))
        self._observed = max(self._observed, int(carried / MEASURE))
        first = not self._published
        if self._observed > NEWS * self._published and (first or now >= self._published_at + NEWS_PAUSE):
            self._publish(now)
        self.outbox.call_at(now + MEASURE, self._measure)

    def _changed(self, now: float) -> None:
        self._test.nodes_changed(now)
        consensus = self.directory.consensus
        if consensus is None or self._told:
            return
        self._told = True
        if not self.publisher.descriptor:
            self._publish(now)
        lacking = consensus.required_relay.beyond(OFFERED)
        if lacking.masks:
            self.outbox.emit(ProtocolsLacking(str(lacking)))


def named_relay(specifiers: Sequence[LinkSpecifier]) -> tuple[bytes, LinkAddress]:
    """Whom an EXTEND2 names on the Tor network: a relay that nobody here has to know, by its identities and an address
    (tor-spec "EXTEND and EXTENDED cells"). Clients leave the Ed25519 identity out where the consensus parameter
    ExtendByEd25519ID is not 1. Raises ParseError."""
    fingerprint = rsa_fingerprint(specifiers)
    named = any(item.kind == SpecifierType.ED25519_ID for item in specifiers)
    identity = ed25519_identity(specifiers) if named else fingerprint
    return identity, LinkAddress(Protocol.TLS, format_target(*or_address(specifiers)), fingerprint)
