"""A Tor network in the simulator: relays of ours as Tor's relays, signed documents, and nodes that lead there.

Does: make authorities' documents that name the relays, give them to the relays as what an earlier run kept, place all.
Does not: run authorities: whom the relays ask for the next consensus they ask in vain.
"""

from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from convergence.crypto.keys import NodeKeys
from convergence.facilitator.client import REFRESH
from convergence.tor.network import DirectoryAddress, TorConfig
from convergence.tor.relay import OFFERED, RelayConfig, TorRelay
from convergence.tor.sets import Sets
from convergence.wire.exitpolicy import ExitPolicy, Rule
from convergence.wire.target import Role
from pynode.torkeys import RsaSecret
from tests.sim.people import RELAY
from tests.sim.world import Host, SeededRng, World
from tests.unit.netdir.authorities import NOW, Authority, consensus, rsa_secret
from tests.unit.path.tornetwork import BOTH, EXIT, GUARD, MIDDLE, WEIGHTS, Made

AUTHORITIES = [Authority(number) for number in range(3)]
OTHERS = [Authority(number) for number in range(5, 8)]
"""Authorities of another network, who sign just as well."""
KINDS = ((GUARD, ""), (MIDDLE, ""), (MIDDLE, ""), (BOTH, "accept 80"), (EXIT, "accept 80"), (EXIT, "accept 80"))


def documents(relays: list[Made], authorities: list[Authority] = AUTHORITIES, valid_after: int = NOW) -> dict[Any, Any]:
    """What a client's run keeps of a consensus, and all that belongs to it."""
    entries = [relay.entry for relay in sorted(relays, key=lambda relay: relay.identity)]
    micro = b"".join(relay.microdescriptor for relay in relays)
    return {
        ("tor-directory", b"consensus"): consensus(
            authorities, relays=entries, valid_after=valid_after, weights=WEIGHTS
        ),
        ("tor-directory", b"certificates"): b"".join(authority.certificate() for authority in authorities),
        ("tor-directory", b"micro/" + sha256(micro).hexdigest().encode()): micro,
    }


class TorWorld:
    """A facilitator, relays `r0`... and `entries` of ours, and Tor's relays `tor1`..., all of them running.

    Attributes:
        made: what the consensus says of Tor's relays; one more, `unlisted`, runs, and is not in it.
        entries: hosts with Role.TOR.
    """

    def __init__(self, seed: str, *, entries: int = 3, relays: int = 3) -> None:
        self.world = World(seed, start=float(NOW + 60))
        self.config = TorConfig(
            tuple(authority.identity for authority in AUTHORITIES),
            (DirectoryAddress("192.0.2.1:9001", bytes(20)),),
            sets=Sets,
        )
        self.hosts: dict[bytes, Host] = {}  # Tor's relays, by Ed25519 identity
        *self.made, self.unlisted = [
            self._make(number, flags, policy) for number, (flags, policy) in enumerate((*KINDS, KINDS[1]), 1)
        ]
        self.documents = documents(self.made)
        for relay in (*self.made, self.unlisted):
            self._place(relay)
        self.world.facilitator()
        for number in range(relays):
            self.world.add(f"r{number}", RELAY, circuits=0)
        self.entries = [self.entry(f"entry{number}") for number in range(entries)]
        self.world.run(REFRESH)

    def entry(self, name: str) -> Host:
        """A node that leads into this network, and has the documents from an earlier run."""
        world = self.world
        host = world.add(name, Role.RELAY | Role.TOR, circuits=0, entry=self.config)
        host.storage.items |= self.documents
        world.restart(host)
        return host

    def origin(self, name: str = "alice", **config: Any) -> Host:
        """Somebody who reaches the web through the Tor network, behind an entry."""
        return self.world.add(name, circuits=0, tor=replace(self.config, directories=()), **config)

    def client(self, name: str = "alice") -> Host:
        """Somebody who goes there by guards, and has the documents from an earlier run."""
        host = self.world.add(name, circuits=0, tor=self.config)
        host.storage.items |= self.documents
        self.world.restart(host)
        return host

    def ready(self, origin: Host, seconds: float = 300) -> bool:
        """Let the origin learn of the network."""
        return self.world.run(seconds, lambda: origin.node.tor.snapshot(self.world.now)["ready"])

    def used_entries(self, origin: Host) -> set[bytes]:
        """First hops of the origin's circuits into the Tor network."""
        circuits = origin.node.tor.circuits.snapshot()
        return {bytes.fromhex(item["hops"][0]["identity"]) for item in circuits}

    def _make(self, number: int, flags: str, policy: str) -> Made:
        rng = SeededRng(f"tor{number}")
        keys = replace(NodeKeys.generate(self.world.crypto, rng), rsa=RsaSecret.generate())
        machine = SimpleNamespace(keys=keys, target=SimpleNamespace(node_id=keys.onion.node_id))
        bandwidth = random.Random(number).randrange(500, 1500)
        return Made(number, flags, bandwidth, policy, nickname=f"tor{number}", machine=machine, protocols=str(OFFERED))

    def _place(self, relay: Made) -> None:
        assert isinstance(relay.machine, SimpleNamespace)
        keys = relay.machine.keys
        policy = ExitPolicy(tuple(Rule.parse(*rule) for rule in [("accept", "*:80"), ("reject", "*:*")]))
        config = RelayConfig(self.config, relay.nickname, relay.address, 9001)
        machine = TorRelay(
            replace(config, policy=policy) if relay.policy else config,
            self.world.crypto,
            SeededRng(f"{self.world.seed}-{relay.nickname}"),
            keys=keys,
            onion=rsa_secret("onion"),
        )
        host = self.world.place(relay.nickname, machine, f"{relay.address}:9001")
        host.storage.items |= self.documents
        host.driver.run(machine.start)
        self.hosts[keys.identity] = host
