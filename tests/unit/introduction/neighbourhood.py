"""Nodes with `Peers` over real links and circuits in memory; only the choice of paths is made here."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

from convergence.circuit.client import ClientCircuit
from convergence.introduction.peers import Peers
from convergence.introduction.signalling import Switchboard
from convergence.netdir.headers import Headers
from convergence.netdir.listview import ListView
from convergence.netdir.lookup import Lookup
from convergence.netdir.nodes import NodeDirectory
from convergence.wire.target import Role
from tests.unit.circuit.rig import CRYPTO, Machine, Net
from tests.unit.introduction.ends import descriptor_of
from tests.unit.netdir.buckets import FACILITATOR


class Paths:
    """What Peers needs of a pool: circuits over `via`, or a failure without one."""

    def __init__(self, node):
        self.node = node
        self.via = None
        self.built = []

    def peer_circuit(self, target, on_ready, on_failed, now, *, direct):
        if self.via is None and not direct:
            on_failed("no path", now)
            return
        path = [target] if direct else [self.via.descriptor.target, target]
        link = self.node.net.link_between(self.node, self.node.net.by_identity[path[0].identity])

        def build(link, now):
            self.built.append(
                ClientCircuit(
                    self.node.outbox,
                    CRYPTO,
                    self.node.rng,
                    link,
                    path,
                    on_ready,
                    lambda circuit, reason, now: None,
                    now,
                )
            )

        if link.open:
            build(link, now)
        else:
            self.node.net.when_open.setdefault(link, []).append(build)


class PeerNode(Machine):
    """A node of which only the peers are real."""

    def __init__(self, net, name, *, roles=Role.RELAY, view=ListView):
        super().__init__(net, name)
        self.roles = roles
        self.published = net.now
        self.told = []  # introducers, each time they changed
        self.nodes_changed = 0
        self.messages = []  # (sealed, reply, source)
        self.by_facilitator = None
        self.on_wanted = lambda request, source, give, now: give(b"", b"", now)
        self.addresses = set()  # identities of nodes that it can dial
        self.directory = NodeDirectory(CRYPTO)
        self.contradictions = []
        self.headers = Headers(
            CRYPTO, lambda: FACILITATOR, on_contradiction=lambda found, now: self.contradictions.append(found)
        )
        self.view = view(self.directory, self.rng)
        self.switchboard = Switchboard(self.outbox)
        self.pool = Paths(self)
        self.peers = Peers(
            self.outbox,
            CRYPTO,
            self.rng,
            self.keys,
            self.directory,
            self.headers,
            self.view,
            Lookup(self.outbox, self.view, lambda now: self.peers.nodes_changed(now)),
            SimpleNamespace(links=self.links),
            self.pool,
            self.switchboard,
            describe=self.describe,
            dials=lambda node: node.identity in self.addresses,
            facilitator=lambda: self.by_facilitator,
            on_wanted=lambda *wanted: self.on_wanted(*wanted),
            on_delivered=lambda sealed, reply, source, now: self.messages.append((sealed, reply, source)),
            on_nodes=self.on_nodes,
            on_introducers=lambda now: self.told.append(self.introducers),
        )
        self.services.on_begin = lambda circuit, stream_id, begin: self.peers.accept(circuit, stream_id, begin, net.now)

    @property
    def identity(self):
        return self.keys.identity

    @property
    def descriptor(self):
        return self.describe(self.net.now) or descriptor_of(self.keys, published=self.published)

    def describe(self, now):
        if not self.roles:
            return None
        introducers = self.introducers
        return descriptor_of(self.keys, published=self.published, roles=self.roles, introducers=introducers)

    def on_nodes(self, now):
        self.nodes_changed += 1

    @property
    def introducers(self):
        return self.peers.introducers(self.net.now)

    def carriers(self, target, named=None, source=None):
        """The ways to a node of this identity, each looked for when it is asked for."""
        route = self.peers.route(target, named, self.net.now, source)
        draws = (route.next, route.last)
        return chain.from_iterable(iter(lambda draw=draw: draw(self.net.now), None) for draw in draws)

    def knows(self, *nodes):
        for node in nodes:
            assert self.directory.hear(descriptor_of(node.keys, roles=node.roles or Role(0)).encode(), self.net.now)

    @property
    def known(self):
        """How many pipes lead to nodes that this one knows."""
        return sum(pipe.ready for pipe in self.peers._pipes)

    def pipe(self, other):
        """The pipe that this node opened to another one, or None."""
        return self.peers._pipes.opened.get(other.identity)

    def _open(self, link, now):
        super()._open(link, now)
        self.peers.link_opened(link, now)

    def _closed(self, link, reason, now):
        super()._closed(link, reason, now)
        self.peers.link_closed(link, now)


class Neighbourhood(Net):
    def node(self, name, **config):
        node = PeerNode(self, name, **config)
        self.machines.append(node)
        self.by_identity[node.identity] = node
        return node

    def nodes(self, *names, **config):
        return [self.node(name, **config) for name in names]

    def link(self, a, b):
        """a dials b, whom it knows; returns a's end."""
        if a.directory.get(b.identity) is None:
            a.knows(b)
        link = self.link_between(a, b)
        self.pump()
        self.tick(0)
        return link

    def wait(self, seconds, step=1.0):
        """Let time pass in steps, so that timers that set timers come in order."""
        end = self.now + seconds
        while self.now < end:
            self.tick(min(step, end - self.now))
