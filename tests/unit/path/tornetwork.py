"""A network of Tor relays that is made up: its consensus and microdescriptors, and the view of a client."""

import random
from dataclasses import dataclass, field
from hashlib import sha256

from convergence.netdir.tor import TorView
from convergence.wire.consensus import Consensus
from convergence.wire.netdoc import encode_item, unpadded
from tests.unit.netdir.authorities import HOUR, NOW, PROTOCOLS, consensus_body

GUARD = "Fast Guard Running Stable V2Dir Valid"
EXIT = "Exit Fast Running Stable Valid"
BOTH = "Exit Fast Guard Running Stable V2Dir Valid"
MIDDLE = "Fast Running Stable Valid"
WEIGHTS = "Wed=0 Wee=10000 Weg=0 Wem=10000 Wgd=0 Wgg=6000 Wgm=6000 Wmd=0 Wme=0 Wmg=4000 Wmm=10000"


@dataclass
class Made:
    """One relay."""

    number: int
    flags: str = MIDDLE
    bandwidth: int = 1000
    policy: str = ""
    policy6: str = ""
    family: tuple = ()
    family_ids: tuple = ()
    address: str = ""
    ipv6: str = ""
    nickname: str = ""
    protocols: str = PROTOCOLS
    keys: bool = True  # whether it has an Ed25519 identity
    machine: object = None  # with its keys: a Machine of the rig, or another with `target` and `keys`

    def __post_init__(self):
        self.identity = self.number.to_bytes(2, "big") * 10 if self.machine is None else self.machine.target.node_id
        self.address = self.address or f"10.{self.number % 256}.{self.number >> 8}.1"
        self.nickname = self.nickname or f"relay{self.number}"

    @property
    def name(self):
        return "$" + self.identity.hex().upper()

    @property
    def ed25519(self):
        return sha256(b"ed25519" + self.identity).digest() if self.machine is None else self.machine.keys.identity

    @property
    def ntor_key(self):
        return sha256(b"ntor" + self.identity).digest() if self.machine is None else self.machine.keys.ntor_public

    @property
    def microdescriptor(self):
        lines = ["onion-key\n", encode_item("ntor-onion-key", unpadded(self.ntor_key))]
        lines += [encode_item("family", *self.family)] if self.family else []
        lines += [encode_item("family-ids", *self.family_ids)] if self.family_ids else []
        lines += [encode_item("p", self.policy)] if self.policy else []
        lines += [encode_item("p6", self.policy6)] if self.policy6 else []
        lines += [encode_item("id", "ed25519", unpadded(self.ed25519))] if self.keys else []
        return "".join(lines).encode()

    @property
    def digest(self):
        return sha256(self.microdescriptor).digest()

    @property
    def entry(self):
        first = f"r {self.nickname} {unpadded(self.identity)} 2038-01-01 00:00:00 {self.address} 9001 0\n"
        more = f"a {self.ipv6}\n" if self.ipv6 else ""
        last = f"pr {self.protocols}\nw Bandwidth={self.bandwidth}\n"
        return f"{first}{more}m {unpadded(self.digest)}\ns {self.flags}\n{last}"


@dataclass
class TorNetwork:
    """Relays, whose numbers differ."""

    relays: list
    weights: str = WEIGHTS
    params: str = "bwweightscale=10000"
    valid_after: int = NOW
    known: list = field(default=None)  # the numbers of those whose microdescriptors are known; None: all

    def consensus(self):
        body = consensus_body(
            relays=[relay.entry for relay in sorted(self.relays, key=lambda relay: relay.identity)],
            valid_after=self.valid_after,
            weights=self.weights,
            fresh_until=self.valid_after + HOUR,
        ).replace(b"bwweightscale=10000 circwindow=1000", self.params.encode())
        signature = encode_item("directory-signature", "sha256", "00" * 20, "00" * 20, label="SIGNATURE", data=b"none")
        return Consensus.parse(body + signature.encode())

    def microdescriptors(self):
        known = [relay for relay in self.relays if self.known is None or relay.number in self.known]
        return {relay.digest: relay.microdescriptor for relay in known}

    def view(self):
        view = TorView(self.consensus())
        view.add(self.microdescriptors())
        return view


def usual(count=60, seed="network", **options):
    """A third each of guards, exits and others, of different bandwidth."""
    rng = random.Random(seed)
    kinds = ((GUARD, ""), (EXIT, "accept 80,443"), (MIDDLE, ""))
    relays = []
    for number in range(1, count + 1):
        flags, policy = kinds[number % 3]
        relays.append(Made(number, flags, rng.randrange(1, 10_000), policy))
    return TorNetwork(relays, **options)
