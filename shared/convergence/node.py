"""A node: the composition root. Dispatch tables and wiring, nothing else.

Does: own one of each room's parts, hand every input to the part it is for, offer the commands that shells call.
Does not: hold protocol logic; if a line here decides something about bytes, it is in the wrong room.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from convergence.announcement import Announcement
from convergence.channels import Channels, Owner
from convergence.circuit.client import MAX_HOPS
from convergence.circuit.exit import MAX_EXIT_STREAMS, ExitService, refuse_resolve
from convergence.circuit.relay import RelayCircuit
from convergence.circuit.relaying import Relaying, RelayLimits
from convergence.codes import PathWhy
from convergence.crypto.keys import NodeKeys
from convergence.discovery import Discovery, GivenNodes
from convergence.effects import CloseLink, DescriptionKind, Effect, Protocol
from convergence.errors import EndReason, LocalError, RemoteError, Why
from convergence.events import Nodes, Ready, Registered, Trouble
from convergence.facilitator.client import FacilitatorClient
from convergence.fetch import Fetches
from convergence.handover.handover import Handover
from convergence.introduction.fetching import BucketFetches
from convergence.introduction.links import MAX_SESSIONS, RtcLinks
from convergence.introduction.peers import Peers
from convergence.introduction.signalling import Reply, Switchboard
from convergence.introduction.ways import Route
from convergence.link.link import Link
from convergence.link.neighbours import LinkAddress, Neighbours
from convergence.netdir.knowledge import Knowledge
from convergence.netdir.lookup import look_up_shown
from convergence.netdir.view import Class
from convergence.outbox import Outbox
from convergence.path.exits import ExitCircuit, ExitConnections
from convergence.path.pool import POOL_SIZE, CircuitPool
from convergence.path.select import MIN_HOPS, Reach
from convergence.pipes.pending import Pending
from convergence.pipes.tls import TlsFactory
from convergence.ports import Binding, Crypto, Rng
from convergence.rdv.circuits import CircuitSource
from convergence.rdv.connector import PATIENCE
from convergence.rdv.own import OwnPoint
from convergence.rdv.point import RdvPoint
from convergence.rdv.referral import around
from convergence.services import Services
from convergence.transfers import Transfers
from convergence.wire.address import Address, TcpAddress
from convergence.wire.descriptor import Transport
from convergence.wire.relay import DIRECTORY, PEER_HOST, RDV_SUFFIX, AnswerType, Begin, RelayCommand
from convergence.wire.target import Role

if TYPE_CHECKING:
    from convergence.tor.entry import TorEntry
    from convergence.tor.network import TorConfig, TorNetwork

SLEPT = 60.0  # seconds; a machine that slept this long has no link left: its neighbours have closed them
REFRESH_PAUSE = 10.0  # least seconds between two requests for the node list because a node was unknown


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How a node behaves.

    Args:
        facilitator: WebSocket URL; empty for a network without one, whose nodes the program gives (`Node.know`).
        facilitator_identity: its Ed25519 identity (32 bytes); None trusts the first list.
        roles: what it does for others; a node without roles is an origin only.
        urls: WebSocket URLs where others reach it. With any role, a node needs one or rtc.
        tls: IPv4:port where relays of the Tor network reach it; its keys then need an RSA identity.
        rtc: whether it makes and takes WebRTC links, over which nodes without an address are reached.
        connections: how many WebRTC connections the shell can hold at once.
        secure: whether it dials wss:// addresses only, as a page that came over https must.
        introducer: identity of the node to ask first for every introduction.
        limits: on what it relays; None relays nothing until `Node.relay` says otherwise.
        exit_streams: exit streams at once; no more than the shell can hold.
        hops: of circuits to rendezvous points and of ready ones, 1 to 5; exit_hops: of circuits to exits.
        circuits: how many are kept ready; 0 for a node with no traffic of its own.
        sources: streams that a transfer draws from at once.
        direct: whether it serves what it offers to whoever's circuit ends at it. Who asks can tell then that this node
            has it.
        group: whether all files that it offers share circuits, and all services: for thousands of them. Points see then
            that these are of one node.
        tor: the Tor network whose exits lead to the web; None: our own exits do.
        tor_points: whether circuits to rendezvous points go through it too, so all files and services.
        entry: the Tor network that this node leads into; needed for Role.TOR.
    """

    facilitator: str
    facilitator_identity: bytes | None = None
    roles: Role = Role(0)
    urls: tuple[str, ...] = ()
    tls: str | None = None
    rtc: bool = False
    connections: int = MAX_SESSIONS
    secure: bool = False
    introducer: bytes | None = None
    limits: RelayLimits | None = RelayLimits()
    exit_streams: int = MAX_EXIT_STREAMS
    hops: int = 2
    exit_hops: int = 3
    circuits: int = POOL_SIZE
    sources: int = 3
    direct: bool = False
    group: bool = False
    tor: TorConfig | None = None
    tor_points: bool = False
    entry: TorConfig | None = None

    def __post_init__(self) -> None:
        for name, hops in (("hops", self.hops), ("exit_hops", self.exit_hops)):
            if not MIN_HOPS <= hops <= MAX_HOPS:
                raise LocalError(f"{name} is {hops}: it has to be {MIN_HOPS} to {MAX_HOPS}")
        if self.roles and not self.urls and not self.rtc:
            raise LocalError("a node that works for others needs an address, or rtc, for them to reach it")
        if Role.TOR in self.roles and self.entry is None:
            raise LocalError("a node that leads into the Tor network needs to know that network")

    @property
    def relay_limits(self) -> RelayLimits | None:
        """Its limits while it works for others, else None."""
        return self.limits if self.roles else None


class Node:
    """A driver.Machine.

    Args:
        keys: None to make new ones; the node then has another identity after every start.
        tls: for https; None where the shell has none.
        source_of: whom limits count a link's channel under: the shell may know which links come from one address.
    """

    def __init__(
        self,
        config: NodeConfig,
        crypto: Crypto,
        rng: Rng,
        *,
        keys: NodeKeys | None = None,
        source_of: Callable[[int], Hashable] = lambda channel: channel,
        tls: TlsFactory | None = None,
    ) -> None:
        self.config = config
        self.outbox = Outbox()
        self._crypto = crypto
        self._rng = rng
        self._keys = keys or NodeKeys.generate(crypto, rng)
        self._started: float | None = None
        self._ready_at: float | None = None
        self._refresh_after = 0.0
        self.knowledge = Knowledge(
            self.outbox,
            crypto,
            rng,
            self._keys.identity,
            config.facilitator,
            config.facilitator_identity,
            fetch=lambda *request: self._fetching.fetch(*request),
            draw=lambda *request: self._discovery.draw(*request),
            on_change=self._on_nodes,
            on_found=self._found,
            offers=lambda: self.announcement.roles,
            listed_since=lambda: self._discovery.listed_since,
        )
        self.directory, self.view = self.knowledge.directory, self.knowledge.view
        self.switchboard = Switchboard(self.outbox)
        self._reach = Reach(config.rtc, ("wss",) if config.secure else ("ws", "wss"))
        # Our network names a node by its Ed25519 identity, also in handshakes that come through the Tor network.
        keys = replace(self._keys, rsa=None)
        self.relaying = Relaying(self.outbox, crypto, rng, keys, self, limits=config.relay_limits)
        self.announcement = Announcement(
            crypto,
            self._keys,
            config.roles,
            urls=config.urls,
            tls=self._tls_transport(),
            introducers=(lambda now: self._peers.introducers(now)) if config.rtc else None,
            paused=lambda: self.relaying.paused,
        )
        self.neighbours = Neighbours(
            self.outbox,
            crypto,
            rng,
            self._keys,
            self._address,
            self.relaying.create,
            introduce=self._introduce,
            on_unknown=self._on_unknown,
            throttle=self.relaying.throttle,
            addresses=() if config.tls is None else (config.tls.partition(":")[0],),
            source_of=source_of,
            ed25519_of=self._ed25519_of,
        )
        self.relaying.neighbours = self.neighbours
        self.relaying.on_spent = self._republish
        self.neighbours.on_open = lambda link, now: self._peers.link_opened(link, now)
        self.neighbours.on_closed = self._link_closed
        self.neighbours.on_unreached = self.view.unreached
        self.neighbours.on_refused = lambda channel, now: self._rtc.link_closed(channel, now)
        self._discovery = self._new_discovery()
        self.pool = CircuitPool(
            self.outbox,
            crypto,
            rng,
            self.neighbours,
            self.view,
            own=self._keys.identity,
            origin=self._reach,
            look_up=partial(look_up_shown, self.view, self.directory),
            hops=config.hops,
            exit_hops=config.exit_hops,
            size=config.circuits,
            on_full=self._on_full,
        )
        self._peers = Peers(
            self.outbox,
            crypto,
            rng,
            self._keys,
            self.directory,
            self.knowledge.headers,
            self.view,
            self.knowledge.lookup,
            self.neighbours,
            self.pool,
            self.switchboard,
            describe=self.announcement.describe,
            dials=lambda node: self._reach.dials(node.target),
            facilitator=lambda: self._discovery.carrier,
            on_delivered=self._rtc_delivered,
            on_wanted=lambda *wanted: self._fetching.serve(*wanted),
            on_nodes=self._on_nodes,
            on_introducers=self._republish,
        )
        self._fetching = BucketFetches(
            self.outbox,
            rng,
            self._keys.identity,
            self.knowledge.headers,
            self.knowledge.buckets,
            self.view,
            self.pool,
            self._discovery,
            lambda: self._peers.pipes,
            self.knowledge.lied,
        )
        self._rtc = RtcLinks(
            self.outbox,
            crypto,
            rng,
            self._keys,
            self.knowledge.lookup.get,
            self.neighbours,
            routes=self._routes,
            places=config.connections,
        )
        self._restored = False
        self._has_points = True  # as far as is known
        self.tor: TorNetwork | None = None if config.tor is None else self._new_tor(config.tor)
        self._entry = None if config.entry is None else self._new_entry(config.entry, source_of)
        own = OwnPoint(self._keys.identity) if config.direct else None
        self._point = RdvPoint(self.outbox, crypto, own)
        self.transfers = Transfers(
            self.outbox,
            crypto,
            rng,
            self._rendezvous,
            self.view,
            sources=config.sources,
            own=own,
            group=config.group,
        )
        self.services = Services(self.outbox, crypto, rng, self._rendezvous, self.view, own, config.group)
        self.handover = Handover(self.services, self.outbox, crypto, rng)
        self.exits = ExitConnections(self.pool if self.tor is None else self.tor.circuits, self.outbox)
        self.fetches = Fetches(self.exits, self.outbox, tls)
        self._exit = ExitService(self.outbox, source_of=source_of, streams=config.exit_streams)
        self._channels = Channels(self._owners())

    # -- commands

    def start(self, now: float, *, restore: bool = False) -> None:
        """Join the network, also through nodes that an earlier run knew. With `restore`, the shares and unfinished
        transfers of earlier runs go on."""
        self._started = now
        self._discovery.start(now)
        if self._entry is not None:
            self._entry.start(now)

        def remembered(now: float) -> None:
            if self.view.count(Class.ALL, now):
                self._on_nodes(now)
            if restore:
                self.transfers.restore(now)

        def restored(now: float) -> None:
            self._restored = True
            if self.tor is not None:
                self.tor.start(now)
            self.knowledge.restore(now, remembered)

        self.pool.entries.restore(now, restored)

    def stop(self, now: float) -> None:
        """Leave the network: streams end, circuits and links are closed."""
        self.fetches.stop(now)
        self.exits.stop(now)
        self.pool.build_no_more()
        self._peers.stop(now)
        self._discovery.stop(now)
        if self.tor is not None:
            self.tor.stop(now)
        if self._entry is not None:
            self._entry.stop(now)
        self._rtc.stop(now)
        self.transfers.leave()
        # Circuits end with their links: if we ended them, each point would see all of ours end at one moment.
        self.neighbours.close_all(now)
        self.transfers.stop(now)
        self.handover.stop(now)
        self.services.stop(now)
        self.pool.stop(now)

    def refresh(self, now: float) -> None:
        """Look for news of nodes now: the caller knows that there is some."""
        self._discovery.refresh(now)

    def know(self, descriptors: Iterable[bytes], now: float) -> None:
        """The program knows these nodes: encoded descriptors, which nobody has to have checked."""
        self._discovery.know(descriptors, now)

    def moved(self, now: float) -> None:
        """This machine is on another network: connections to addresses are dead, though no error tells so. The shell
        restores WebRTC connections."""
        self._discovery.moved(now)
        self.neighbours.moved(now)
        self._tor_moved(now)

    def woke(self, by: float, now: float) -> None:
        """The clock jumped, or this machine slept: lists, names and dates are judged anew."""
        self.outbox.shift(by)
        self._refresh_after = min(self._refresh_after, now)
        self.knowledge.woke(now)
        self.announcement.woke(now)
        if by >= SLEPT:
            self.neighbours.close_all(now, "this machine slept")
        self._discovery.moved(now)
        self._tor_moved(now)
        self._peers.republish(now)  # neighbours refuse or have forgotten what bears another date
        self.transfers.woke(by, now)
        self.services.woke(by, now)

    def cut_off(self, now: float) -> None:
        """All WebRTC connections that stood have stalled: perhaps this machine is on another network, perhaps not."""
        self._discovery.check(now)

    def relay(self, limits: RelayLimits | None, roles: Role, now: float) -> None:
        """Work for others in these roles and within these limits from now on. None pauses: work under way ends."""
        before = self.announcement.roles
        self.config = replace(self.config, roles=roles, limits=limits)
        self.announcement.offered = roles
        if self._entry is not None:
            self._entry.offered = Role.TOR in roles
        self.relaying.set_limits(self.config.relay_limits, now)
        if self.announcement.roles != before:
            self._republish(now)
            self._look_around(now)

    def set_hops(self, hops: int, now: float) -> None:
        """New circuits have so many hops; ready ones of another length are replaced. Raises LocalError."""
        self.config = replace(self.config, hops=hops)
        self.pool.set_hops(hops, now)

    def serve_directly(self, direct: bool, now: float) -> None:
        """Whether what it offers is served to whoever's circuit ends here, from now on."""
        if direct == self.config.direct:
            return
        self.config = replace(self.config, direct=direct)
        own = self._point.own = OwnPoint(self._keys.identity) if direct else None
        self.transfers.use_own(own, now)
        self.services.use_own(own, now)

    def share_circuits(self, group: bool, now: float) -> None:
        """Whether all files that it offers share circuits, and all services, from now on. Points see then that these
        are of one node, and do not forget it. Raises Problem if there are too many for circuits of their own: these go
        on as before."""
        self.transfers.share_circuits(group, now)
        self.services.share_circuits(group, now)
        self.config = replace(self.config, group=group)

    def use_tor(self, config: TorConfig | None, now: float, *, points: bool = False) -> None:
        """Reach the web through this Tor network from now on, and with `points` rendezvous points too; None: as our own
        network does. Fetches are cancelled, and connections that have not opened fail. Those that are open go on,
        except that Tor's circuits end with it. If rendezvous points are reached otherwise than before, connections to
        services end; shares and transfers go on over new circuits."""
        self.fetches.stop(now)
        self.exits.stop(now)
        before, old = self._rendezvous, self.tor
        self.config = replace(self.config, tor=config, tor_points=points)
        self.tor = None if config is None else self._new_tor(config)
        self.exits = self.fetches.exits = ExitConnections(
            self.pool if self.tor is None else self.tor.circuits, self.outbox
        )
        if self._rendezvous is not before:
            self._has_points = True
            self.transfers.use(self._rendezvous, now)
            self.services.use(self._rendezvous, now)
            self._set_points(now)
        if old is not None:
            old.stop(now)
        if self.tor is not None and self._restored:
            self.tor.start(now)
            if self.view.count(Class.ALL, now):
                self.tor.nodes_changed(now)

    def connect(
        self,
        address: Address,
        now: float,
        *,
        patience: float = PATIENCE,
        isolation: Hashable = None,
        optimistic: bool = False,
    ) -> Pending:
        """A pipe to an address: set its handler before the next input. Raises Problem at a limit.

        Args:
            patience: seconds in which it is no final answer that nobody offers a service.
            isolation: connections share circuits only where this is equal.
            optimistic: whether an exit gets what is written before it has connected (path/exits.py says at what price).
                What goes to a service always waits: nothing is sealed before both ends have shaken hands.
        """
        if isinstance(address, TcpAddress):
            return self.exits.connect(address.host, address.port, isolation, now, optimistic=optimistic)
        return self.services.connect(address, now, patience, isolation)

    def circuit_number(self, circuit: ExitCircuit) -> int | None:
        """That of a circuit of ours, as `snapshot` has it; None once it is gone."""
        number = self.pool.number(circuit)
        return self.tor.circuits.number(circuit) if number is None and self.tor is not None else number

    def fetch(self, url: str, sink: Callable[[bytes], None], now: float) -> int:
        """GET an http or https address through an exit; returns the number that its Events carry. Raises LocalError."""
        return self.fetches.start(url, sink, now)

    def cancel_fetch(self, number: int, now: float) -> None:
        self.fetches.cancel(number, now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """JSON-able state for people: no secrets, no links."""
        return {
            "ready": self.pool.ready >= self.config.circuits,
            "ready_after": None if self._ready_at is None or self._started is None else self._ready_at - self._started,
            "facilitator": self._discovery.connected,
            "nodes": self.view.count(Class.ALL, now),
            "epoch": self.knowledge.snapshot(now),
            "circuits": [*self.pool.snapshot(), *([] if self.tor is None else self.tor.circuits.snapshot())],
            "links": self.neighbours.snapshot(),
            "introductions": self._rtc.snapshot(),
            "bytes_in": self.neighbours.bytes_in,
            "bytes_out": self.neighbours.bytes_out,
            "relay": self.relaying.snapshot(),
            "tor": None if self.tor is None else self.tor.snapshot(now),
            **self.transfers.snapshot(),
            **self.services.snapshot(),
        }

    # -- driver.Machine

    def link_opened(self, channel: int, now: float, *, protocol: Protocol, binding: Binding | None) -> None:
        self._channels.opened(channel, protocol, binding, now)

    def link_described(self, channel: int, kind: DescriptionKind, sdp: str, now: float) -> None:
        self._rtc.described(channel, kind, sdp, now)

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

    # -- relay.Services

    def begin(self, circuit: RelayCircuit, stream_id: int, begin: Begin, now: float) -> None:
        if begin.host == PEER_HOST:
            self._peers.accept(circuit, stream_id, begin, now)
        elif begin.host.endswith(RDV_SUFFIX) and Role.RDV in self.announcement.roles:
            self._point.begin(circuit, stream_id, begin, now)
        elif begin is DIRECTORY and self._entry is not None and self._entry.offered:
            self._entry.cache.begin(circuit, stream_id, now)
        elif Role.EXIT in self.announcement.roles and begin.port:
            self._exit.begin(circuit, stream_id, begin, now)
        else:
            reason = EndReason.NOTDIRECTORY if begin is DIRECTORY else EndReason.EXITPOLICY
            circuit.endpoint.refuse(stream_id, reason)

    def resolve(self, circuit: RelayCircuit, stream_id: int, host: str, now: float) -> None:
        if Role.EXIT in self.announcement.roles:
            self._exit.resolve(circuit, stream_id, host, now)
        else:
            refuse_resolve(circuit, stream_id, AnswerType.ERROR_PERMANENT)

    def message(self, circuit: RelayCircuit, command: int, payload: bytes, now: float) -> None:
        if command == RelayCommand.DB_INFO and Role.RDV in self.announcement.roles:
            self._point.message(circuit, payload, now)
        else:
            raise RemoteError(f"relay command {command} is not offered")

    def circuit_closed(self, circuit: RelayCircuit, now: float) -> None:
        self._point.circuit_closed(circuit)

    # -- wiring

    def _new_discovery(self) -> Discovery:
        describe, address = self.announcement.describe, self.config.facilitator
        if not address:
            return GivenNodes(self.outbox, self.directory, describe, self._on_nodes)
        return FacilitatorClient(
            self.outbox,
            self._crypto,
            self._rng,
            self._keys,
            self.directory,
            self.knowledge.headers,
            address,
            describe=lambda now: describe(now, stable=self.knowledge.stable(now)),
            on_nodes=self._on_nodes,
            on_registered=lambda now: self.outbox.emit(Registered()),
            on_trouble=lambda trouble, now: self.outbox.emit(trouble),
            on_delivered=self._rtc_delivered,
        )

    def _tls_transport(self) -> Transport | None:
        if self.config.tls is None:
            return None
        if self._keys.rsa is None:
            raise LocalError("a node that takes TLS links has an RSA identity")
        return Transport.tls(self.config.tls, sha1(self._keys.rsa.public).digest())

    # Pages that do without Tor do not load its modules.

    def _new_tor(self, config: TorConfig) -> TorNetwork:
        from convergence.tor.network import TorNetwork

        return TorNetwork(
            self.outbox,
            self._crypto,
            self._rng,
            self.neighbours,
            config,
            entries=self.pool.entries,
            view=self.view,
            suits=lambda node: node.identity != self._keys.identity and self._reach.reaches(node),
            on_ready=self._set_points,
        )

    def _new_entry(self, config: TorConfig, source_of: Callable[[int], Hashable]) -> TorEntry:
        from convergence.tor.entry import TorEntry

        entry = TorEntry(
            self.outbox,
            self._crypto,
            self._rng,
            self.neighbours,
            config,
            source_of,
            lambda now: self._entry_changed(now),
        )
        entry.offered = Role.TOR in self.config.roles
        self.relaying.next_hop = entry.next_hop
        return entry

    def _owners(self) -> dict[Protocol, Owner]:
        """Who deals with the channels of each protocol."""
        neighbours, rtc, tcp, facilitator = self.neighbours, self._rtc, self._exit, self._discovery

        def greeted(channel: int, binding: Binding | None, now: float) -> None:
            if channel == facilitator.channel:
                facilitator.opened(channel, now)
            else:
                self.outbox.emit(CloseLink(channel, "this node is no facilitator"))

        links = Owner(neighbours.opened, neighbours.data, neighbours.closed, neighbours.congested)
        return {
            Protocol.LINK: links,
            Protocol.TLS: links,
            Protocol.RTC: Owner(
                lambda channel, binding, now: rtc.opened(channel, now),
                neighbours.data,
                rtc.closed,
                neighbours.congested,
            ),
            Protocol.TCP: Owner(
                lambda channel, binding, now: tcp.opened(channel, now), tcp.data, tcp.closed, tcp.congested
            ),
            Protocol.FACILITATOR: Owner(
                greeted,
                facilitator.data,
                lambda channel, reason, now: facilitator.closed(channel, now, reason),
                lambda channel, congested, now: None,
            ),
        }

    def _republish(self, now: float) -> None:
        self._discovery.register(now)
        self._peers.republish(now)

    def _address(self, identity: bytes, now: float) -> LinkAddress | None:
        found = None if self.tor is None else self.tor.address(identity, now)
        if found is None and self._entry is not None:
            found = self._entry.address(identity)
        # Relays of Tor are not looked for among our own nodes; one that is both is dialled as ours.
        node = (self.knowledge.lookup if found is None else self.directory).get(identity, now)
        if node is None:
            return found
        if node.ws_url is None or not self._reach.dials(node.target):
            return None
        return LinkAddress(Protocol.LINK, node.ws_url)

    def _introduce(self, identity: bytes, source: Hashable, now: float) -> int | None:
        return self._rtc.connect(identity, now, source) if self.config.rtc else None

    def _routes(self, identity: bytes, source: Hashable, now: float) -> Route:
        return self._peers.route(identity, self.config.introducer, now, source)

    def _rtc_delivered(self, sealed: bytes, reply: Reply, source: object, now: float) -> None:
        if self.config.rtc:
            self._rtc.delivered(sealed, reply, source, now)

    def _link_closed(self, link: Link, now: float) -> None:
        self._rtc.link_closed(link.channel, now)
        self._peers.link_closed(link, now)

    def _on_unknown(self, now: float) -> None:
        if now >= self._refresh_after:
            self._refresh_after = now + REFRESH_PAUSE
            self._discovery.refresh(now)

    def _on_full(self, now: float) -> None:
        if self._ready_at is None and self._started is not None:
            self._ready_at = now
            self.outbox.emit(Ready(round(now - self._started, 3)))

    def _found(self, now: float) -> None:
        """A node is known that was asked for."""
        self.neighbours.nodes_changed(now)
        self._peers.nodes_changed(now)

    def _on_nodes(self, now: float) -> None:
        self.outbox.emit(Nodes(self.view.count(Class.ALL, now)))
        self.knowledge.changed(now)
        self.neighbours.nodes_changed(now)
        self._set_points(now)
        self.pool.nodes_changed(now)
        if self.tor is not None:
            self.tor.nodes_changed(now)

    @property
    def _tor_leads_to_points(self) -> TorNetwork | None:
        return self.tor if self.config.tor_points else None

    @property
    def _rendezvous(self) -> CircuitSource:
        """Who builds circuits to rendezvous points."""
        tor = self._tor_leads_to_points
        return self.pool if tor is None else tor.circuits

    def _set_points(self, now: float) -> None:
        """Tell files and services where their rendezvous points are: through the Tor network, once it leads anywhere,
        only those that take links of its relays."""
        self._look_around(now)
        tor = self._tor_leads_to_points
        points = Class.POINTS if tor is None else Class.TOR_POINTS
        if tor is not None:
            if not tor.ready or not self.view.count(Class.ALL, now):
                return
            before, self._has_points = self._has_points, self.view.count(points, now) > 0
            if before and not self._has_points:
                self.outbox.emit(Trouble(Why(PathWhy.NO_TOR_POINT), retrying=True))
        self.transfers.set_points(points, now)
        self.services.set_points(points, now)

    def _look_around(self, now: float) -> None:
        """Know whom to name, as a point."""

        def found(descriptors: list[bytes], now: float) -> None:
            self._point.others = descriptors

        if Role.RDV in self.announcement.roles:
            around(self.view, self._keys.identity, now, found)

    def _ed25519_of(self, fingerprint: bytes) -> bytes | None:
        """Of a relay of the Tor network, by the consensus."""
        for part in (self.tor, self._entry):
            relay = None if part is None else part.directory.relay(fingerprint)
            if relay is not None:
                return relay.target.identity
        return None

    def _entry_changed(self, now: float) -> None:
        """Whether others get into the Tor network through us."""
        assert self._entry is not None
        self.announcement.withheld = Role(0) if self._entry.ready else Role.TOR
        self._republish(now)

    def _tor_moved(self, now: float) -> None:
        for part in (self.tor, self._entry):
            if part is not None:
                part.moved(now)
