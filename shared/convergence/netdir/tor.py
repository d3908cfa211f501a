"""The relays of the Tor network as a client sees them: what a consensus says, and their microdescriptors.

Does: hold the microdescriptors that a consensus names, tell which are missing, and make one record of each relay that
is asked for. Nothing is parsed before: there are thousands of relays, and a client uses few.
Does not: believe a consensus (consensus.py), fetch anything, or choose relays (path/torpath.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple

from convergence.effects import Protocol
from convergence.errors import ParseError
from convergence.link.neighbours import LinkAddress
from convergence.wire.consensus import Consensus, RelayStatus
from convergence.wire.exitpolicy import REJECT_ALL, Address, PortPolicy
from convergence.wire.linkspec import LinkSpecifier, SpecifierType, tor_specifiers
from convergence.wire.microdescriptor import Microdescriptor
from convergence.wire.netdoc import OrAddress
from convergence.wire.target import Protocols, RelayTarget, Role, subnet_of

SCHEME = "tls"
"""How links to relays of Tor are opened."""

_POLICY = re.compile(rb"^p ([^\n]*)$", re.MULTILINE)
_POLICY6 = re.compile(rb"^p6 ([^\n]*)$", re.MULTILINE)


class ExitPolicies(NamedTuple):
    """The ports that a relay connects to, for IPv4 and IPv6. There are few that differ, so relays share them."""

    policy: PortPolicy
    policy6: PortPolicy

    @classmethod
    def of(cls, raw: bytes) -> ExitPolicies:
        """Those of a microdescriptor, of which nothing else is read: who looks for an exit asks thousands. None allows
        anything if it cannot be read."""
        return cls(*(_policy(raw, line) for line in (_POLICY, _POLICY6)))

    def allows(self, address: Address | None, port: int) -> bool:
        """Whether the relay would most likely connect there. None stands for a host name: the exit looks that up, and
        has to connect over IPv4 at least."""
        return (self.policy6 if address is not None and address.version == 6 else self.policy).allows(address, port)

    @property
    def refuse_all(self) -> bool:
        return self.policy.refuses_all and self.policy6.refuses_all


NO_EXIT = ExitPolicies(REJECT_ALL, REJECT_ALL)


@dataclass(frozen=True, eq=False)
class TorRelay:
    """One relay that a client can use.

    Args:
        target: how circuits are extended to it. Its node_id is the digest of its RSA key, by which the consensus names
            it, and it has the role of an exit if it connects to some port.
        exit: what it connects to.
        names: what others call it in their families, its nickname among that.
        family: the names of those that it says are of its family.
        family_ids: the keys of the families that it has certificates of.
    """

    status: RelayStatus
    target: RelayTarget
    exit: ExitPolicies = field(repr=False)
    names: frozenset[str] = field(repr=False)
    family: frozenset[str] = field(repr=False)
    family_ids: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, status: RelayStatus, raw: bytes, exit: ExitPolicies) -> TorRelay | None:
        """None: nothing can be sent through it, since its microdescriptor is unreadable or lacks an Ed25519 identity.
        That costs itself only."""
        try:
            document = Microdescriptor.parse(raw)
        except ParseError:
            return None
        if document.ed25519 is None:
            return None
        address6 = status.ipv6 or document.ipv6
        address4 = IPv4Address(status.address), status.or_port
        return cls(
            status,
            _target(status, document, document.ed25519, exit, address4, address6),
            exit,
            frozenset(("$" + status.identity.hex().upper(), status.nickname.lower())),
            document.family,
            document.family_ids,
        )

    @property
    def link_address(self) -> LinkAddress:
        """Where it takes links, as the consensus has it."""
        return LinkAddress(Protocol.TLS, f"{self.status.address}:{self.status.or_port}", self.status.identity)

    def allows(self, address: Address | None, port: int) -> bool:
        """Whether it would most likely connect there; see `ExitPolicies`."""
        return self.exit.allows(address, port)

    def is_family(self, other: TorRelay) -> bool:
        """Whether they say so both, or are certified to be of the same family (proposal 321). What only one of them
        says counts for nothing: it could keep all others away from each other."""
        mutual = not self.family.isdisjoint(other.names) and not other.family.isdisjoint(self.names)
        return mutual or not self.family_ids.isdisjoint(other.family_ids)

    def shares_subnet(self, other: TorRelay) -> bool:
        return not self.target.subnets.isdisjoint(other.target.subnets)

    def is_same(self, other: TorRelay) -> bool:
        """Whether they have an identity in common."""
        return self.status.identity == other.status.identity or self.target.identity == other.target.identity

    def is_named(self, node: RelayTarget) -> bool:
        """Whether a node that no consensus lists has an identity or an address in common with it."""
        return not {*node.specifiers, *node.tor_specifiers}.isdisjoint(self.target.specifiers)


class TorView:
    """The relays of one consensus.

    Args:
        consensus: of the flavor "microdesc", verified.
    """

    def __init__(self, consensus: Consensus) -> None:
        self.consensus = consensus
        self._raw: dict[bytes, bytes] = {}  # by digest; only what the consensus names, so MAX_RELAYS at most
        self._read: dict[bytes, TorRelay | None] = {}  # by RSA identity
        self._exits: dict[bytes, ExitPolicies] = {}  # by RSA identity

    @cached_property
    def relays(self) -> tuple[RelayStatus, ...]:
        """Those that may be used at all, whether their microdescriptors are known or not."""
        return tuple(relay for relay in self.consensus.relays if _is_usable(relay))

    @cached_property
    def by_digest(self) -> Mapping[bytes, RelayStatus]:
        """The same, by the digests of their microdescriptors."""
        return {relay.digest: relay for relay in self.relays}

    @cached_property
    def _missing(self) -> dict[bytes, None]:
        return {digest: None for digest in self.by_digest if digest not in self._raw}

    @property
    def known(self) -> int:
        """How many microdescriptors there are."""
        return len(self._raw)

    def knows(self, status: RelayStatus) -> bool:
        return status.digest in self._raw

    def missing(self) -> list[bytes]:
        """The digests of the microdescriptors to ask for, in the order of the consensus."""
        return list(self._missing)

    def add(self, microdescriptors: Mapping[bytes, bytes]) -> None:
        """Take over those that are missing, by their digests (`find_microdescriptors` checked these)."""
        for digest, raw in microdescriptors.items():
            if digest in self.by_digest:
                self._raw[digest] = raw
                self._missing.pop(digest, None)

    def relay(self, status: RelayStatus) -> TorRelay | None:
        """The record of a relay; None while its microdescriptor is missing, or if that cannot be used."""
        if status.identity not in self._read:
            raw = self._raw.get(status.digest)
            if raw is None:
                return None
            self._read[status.identity] = TorRelay.of(status, raw, self.exit(status))
        return self._read[status.identity]

    def exit(self, status: RelayStatus) -> ExitPolicies:
        """What a relay connects to: nothing while that is not known, or if it has the flag BadExit."""
        raw = self._raw.get(status.digest)
        if raw is None or "BadExit" in status.flags:
            return NO_EXIT
        if status.identity not in self._exits:
            self._exits[status.identity] = ExitPolicies.of(raw)
        return self._exits[status.identity]

    def get(self, identity: bytes) -> RelayStatus | None:
        """The usable relay of this RSA identity (20 bytes)."""
        status = self.consensus.by_identity.get(identity)
        return status if status is not None and _is_usable(status) else None

    def renewed(self, consensus: Consensus) -> TorView:
        """The view of a newer consensus, with the microdescriptors that it still names."""
        view = TorView(consensus)
        view.add(self._raw)
        return view

    @property
    def microdescriptors(self) -> Mapping[bytes, bytes]:
        """What is known, by digest: to be stored."""
        return self._raw


def _is_usable(status: RelayStatus) -> bool:
    """Without NoEdConsensus, most authorities agree on its Ed25519 identity (dir-spec 3.4.1)."""
    flags = status.flags
    return "Running" in flags and "Valid" in flags and "NoEdConsensus" not in flags and status.or_port > 0


@lru_cache(maxsize=1024)
def _read_policy(text: str) -> PortPolicy:
    try:
        return PortPolicy.parse(text)
    except ParseError:
        return REJECT_ALL


def _policy(raw: bytes, line: re.Pattern[bytes]) -> PortPolicy:
    found = line.search(raw)
    return REJECT_ALL if found is None else _read_policy(found[1].decode("ascii", "replace"))


def _target(
    status: RelayStatus,
    document: Microdescriptor,
    identity: bytes,
    exit: ExitPolicies,
    address4: tuple[IPv4Address, int],
    address6: OrAddress | None,
) -> RelayTarget:
    specifiers = [*tor_specifiers(*address4, status.identity, identity)]
    if address6 is not None:
        specifiers.append(LinkSpecifier(SpecifierType.TLS_IPV6, address6[0].packed + address6[1].to_bytes(2, "big")))
    protocols, roles = Protocols(0), Role.RELAY
    if status.protocols.supports("Relay", 4):
        protocols |= Protocols.NTOR_V3
    if status.protocols.supports("FlowCtrl", 2):
        protocols |= Protocols.CONGESTION_CONTROL
    if status.protocols.supports("Conflux", 1):
        protocols |= Protocols.CONFLUX
    if not exit.refuse_all:
        roles |= Role.EXIT
    return RelayTarget(
        identity,
        tuple(specifiers),
        status.identity,
        document.ntor_key,
        protocols,
        roles,
        frozenset((SCHEME,)),
        rtc=False,
        nickname=status.nickname,
        subnets=frozenset(subnet_of(address[0]) for address in (address4, address6) if address is not None),
    )
