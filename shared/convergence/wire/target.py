"""What a circuit is extended to, whichever network the relay is of.

Does: hold what is known of one relay: who it is, how EXTEND2 names it, its keys, what it speaks, who can reach it.
Does not: say where that is from: a descriptor of ours makes a target (descriptor.py), and so can another network's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address

from convergence.wire.linkspec import LinkSpecifier

NODE_ID_LEN = 20
SUBNET_BITS = {4: 16, 6: 32}
"""Two relays whose addresses begin with the same bits, by IP version, count as one operator's (path-spec 2.2)."""

Subnet = tuple[int, int]
"""IP version, and the leading bits."""


class Role(IntFlag):
    """What a node offers. Unknown bits are kept and mean nothing."""

    RELAY = 1
    RDV = 2
    EXIT = 4
    TOR = 8  # extends circuits to relays of the Tor network


class Protocols(IntFlag):
    """What a relay speaks, where relays differ (tor-spec "Subprotocol versioning"). Unknown bits are kept."""

    NTOR_V3 = 1  # Relay=4: the handshake
    CONGESTION_CONTROL = 2  # FlowCtrl=2, agreed on by ntor-v3
    CONFLUX = 4  # Conflux=1


@dataclass(frozen=True, slots=True)
class RelayTarget:
    """One relay.

    Args:
        identity: Ed25519 public key (32 bytes); names it. Of a directory that is known by its RSA key only, the
            fingerprint of that key (20 bytes).
        specifiers: how EXTEND2 names it.
        node_id: ntor's NODEID (20 bytes). On the Tor network it is the digest of the relay's RSA key.
        ntor_key: X25519 public key (32 bytes) for circuit handshakes; empty for such a directory.
        protocols: what it speaks.
        roles: what it offers.
        schemes: of the addresses at which others open links to it ("ws", "wss", Tor's "tls"); none: it has no address.
        rtc: whether it speaks WebRTC, by which nodes without an address are reached.
        tor_specifiers: of a node of ours that takes links from relays of the Tor network: how EXTEND2 names it to them.
        nickname: what people call it; it proves nothing. Empty for nodes of this network.
        subnets: of its addresses, as far as these are known.
    """

    identity: bytes
    specifiers: tuple[LinkSpecifier, ...]
    node_id: bytes
    ntor_key: bytes
    protocols: Protocols
    roles: Role
    schemes: frozenset[str]
    rtc: bool
    tor_specifiers: tuple[LinkSpecifier, ...] = ()
    nickname: str = ""
    subnets: frozenset[Subnet] = frozenset()

    @property
    def has_address(self) -> bool:
        return bool(self.schemes)

    @property
    def behind_tor(self) -> RelayTarget:
        """The same node, as a relay of the Tor network is told of it. Only with `tor_specifiers`."""
        return replace(self, specifiers=self.tor_specifiers)


def subnet_of(address: IPv4Address | IPv6Address) -> Subnet:
    return address.version, int(address) >> address.max_prefixlen - SUBNET_BITS[address.version]


def node_id_of(identity: bytes) -> bytes:
    """The NODEID (20 bytes) of a node of this network, from its Ed25519 identity (32 bytes). On the Tor network it is
    the digest of an RSA key; this network has none."""
    return sha256(b"convergence:ntor-node-id" + identity).digest()[:NODE_ID_LEN]
