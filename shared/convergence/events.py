"""What happens in a node, for people and logs: one frozen dataclass for each kind of event.

Does: name events and their fields. Fields are JSON-able and hold no secrets and no stream data.
Does not: say anything in words (see codes.py), or decide who is told.

Identities are the first 16 hex digits; sizes are bytes; `id` names a share, a transfer (16 hex digits) or a fetch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from convergence.codes import Dropped, FetchStage
from convergence.errors import Why


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events. `kind` names it in logs and records."""

    kind: ClassVar[str]


# -- the network


@dataclass(frozen=True, slots=True)
class Trouble(Event):
    """Something does not work and is tried again, or was given up."""

    kind = "trouble"
    why: Why
    retrying: bool = False


@dataclass(frozen=True, slots=True)
class DrawChecked(Event):
    """The shared random value of a day (days since 1970) comes of what facilitators had committed to before: so many of
    them, of which the numbers of so many count. Not `announced`: this node did not hear what they committed to, and
    cannot tell."""

    kind = "draw-checked"
    day: int
    announced: bool
    committed: int = 0
    counted: int = 0


@dataclass(frozen=True, slots=True)
class Ready(Event):
    """All circuits that are kept ready stood for the first time, so many seconds after the start."""

    kind = "ready"
    seconds: float


@dataclass(frozen=True, slots=True)
class Registered(Event):
    """The facilitator lists this node."""

    kind = "registered"


@dataclass(frozen=True, slots=True)
class Announced(Event):
    """Without a facilitator: what this node says of itself now, for others to be given: its descriptor in hex."""

    kind = "announced"
    descriptor: str


@dataclass(frozen=True, slots=True)
class NodesWanted(Event):
    """Without a facilitator: the program may know of nodes that this one lacks."""

    kind = "nodes-wanted"


@dataclass(frozen=True, slots=True)
class Nodes(Event):
    """The list of nodes changed."""

    kind = "nodes"
    count: int


@dataclass(frozen=True, slots=True)
class TorDirectoryChanged(Event):
    """More is known of the Tor network.

    Args:
        relays: in the consensus; known: those of them whose descriptors are here.
        ready: whether circuits can be built.
    """

    kind = "tor-directory"
    relays: int
    known: int
    ready: bool


@dataclass(frozen=True, slots=True)
class DirectoryRefused(Event):
    """A directory of the Tor network sent something that does not hold, or nothing; another one is asked.

    Args:
        document: "consensus", "certificates" or "microdescriptors".
        source: its identity, hex.
        reason: for developers.
    """

    kind = "directory-refused"
    document: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class OrPortReached(Event):
    """Other relays of the Tor network reach this one, at the address that it is going to tell of."""

    kind = "or-port-reached"
    address: str


@dataclass(frozen=True, slots=True)
class OrPortUnreached(Event):
    """They do not, since so many minutes. The authorities hear nothing of this relay until they do."""

    kind = "or-port-unreached"
    address: str
    minutes: int


@dataclass(frozen=True, slots=True)
class DescriptorTaken(Event):
    """A directory authority of the Tor network (its identity, hex) took this relay's descriptor."""

    kind = "descriptor-taken"
    authority: str


@dataclass(frozen=True, slots=True)
class DescriptorRefused(Event):
    """It did not take it; it is asked again. `reason` is for developers, in part in the authority's own words."""

    kind = "descriptor-refused"
    authority: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProtocolsLacking(Event):
    """The authorities require these subprotocols of relays, as "HSDir=2", and this one does not speak them."""

    kind = "protocols-lacking"
    protocols: str


@dataclass(frozen=True, slots=True)
class LinkClosed(Event):
    """`reason` is for developers."""

    kind = "link-closed"
    channel: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rtc(Event):
    """A WebRTC link changed its state (introduction/links.py)."""

    kind = "rtc"
    peer: str
    state: str
    why: Why


@dataclass(frozen=True, slots=True)
class PipeClosed(Event):
    """`reason` is for developers."""

    kind = "pipe-closed"
    reason: str


@dataclass(frozen=True, slots=True)
class CircuitBuilt(Event):
    kind = "circuit-built"
    id: int
    purpose: str


@dataclass(frozen=True, slots=True)
class CircuitClosed(Event):
    """`reason`: a DestroyReason, or another number as received."""

    kind = "circuit-closed"
    id: int
    reason: int


@dataclass(frozen=True, slots=True)
class CircuitBroken(Event):
    """Input on a circuit of ours broke a rule. `reason` is for developers."""

    kind = "circuit-broken"
    reason: str


@dataclass(frozen=True, slots=True)
class CircuitsReady(Event):
    kind = "circuits"
    ready: int


# -- shares


@dataclass(frozen=True, slots=True)
class ShareStands(Event):
    """A share can be found at so many points, of so many wanted."""

    kind = "share-ready"
    id: str
    points: int
    wanted: int


@dataclass(frozen=True, slots=True)
class ShareProgress(Event):
    kind = "share-progress"
    id: str
    sent: int


@dataclass(frozen=True, slots=True)
class ShareFailed(Event):
    """A file with this root (hex) cannot be shared."""

    kind = "share-failed"
    root: str
    why: Why


# -- services


@dataclass(frozen=True, slots=True)
class ServiceStands(Event):
    """A service of ours can be found at so many points, of so many wanted."""

    kind = "service-ready"
    id: str
    points: int
    wanted: int


# -- transfers


@dataclass(frozen=True, slots=True)
class TransferInfo(Event):
    """The file's description is known: a sender proved it, or an earlier run kept it."""

    kind = "transfer-info"
    id: str
    name: str
    type: str
    size: int


@dataclass(frozen=True, slots=True)
class TransferListed(Event):
    """What is in a collection is known: so many entries, of which so many are fetched, of so many bytes together."""

    kind = "transfer-listed"
    id: str
    entries: int
    chosen: int
    size: int


@dataclass(frozen=True, slots=True)
class TransferProgress(Event):
    kind = "transfer-progress"
    id: str
    have: int
    size: int


@dataclass(frozen=True, slots=True)
class TransferStatus(Event):
    """What it waits for (`state` as in `transfers.State`)."""

    kind = "transfer-status"
    id: str
    state: str
    why: Why


@dataclass(frozen=True, slots=True)
class TransferPaused(Event):
    kind = "transfer-paused"
    id: str
    why: Why


@dataclass(frozen=True, slots=True)
class TransferFailed(Event):
    kind = "transfer-failed"
    id: str
    why: Why


@dataclass(frozen=True, slots=True)
class TransferDone(Event):
    kind = "transfer-done"
    id: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class SourceDropped(Event):
    kind = "source-dropped"
    id: str
    why: Dropped


# -- fetches


@dataclass(frozen=True, slots=True)
class FetchStatus(Event):
    kind = "fetch-status"
    id: int
    stage: FetchStage


@dataclass(frozen=True, slots=True)
class FetchResponse(Event):
    """`length`: as the site says; None if it says none."""

    kind = "fetch-response"
    id: int
    status: int
    type: str
    length: int | None


@dataclass(frozen=True, slots=True)
class FetchProgress(Event):
    kind = "fetch-progress"
    id: int
    size: int


@dataclass(frozen=True, slots=True)
class FetchDone(Event):
    kind = "fetch-done"
    id: int
    size: int


@dataclass(frozen=True, slots=True)
class FetchFailed(Event):
    kind = "fetch-failed"
    id: int
    why: Why


# -- of a facilitator


@dataclass(frozen=True, slots=True)
class PriceChanged(Event):
    """Too many newcomers come, or no longer: what each has to do to be registered, in tries at a puzzle; 0: nothing."""

    kind = "price-changed"
    effort: int


@dataclass(frozen=True, slots=True)
class NodeRegistered(Event):
    """A node that was not listed before."""

    kind = "node-registered"
    identity: str
    roles: tuple[str, ...]
    transports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeLost(Event):
    """`reason`: "disconnected", "expired", "unreachable", "crowded out" or "dropped elsewhere"."""

    kind = "node-lost"
    identity: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """A record was refused. `code`: name of an ErrorCode; `reason` is for developers."""

    kind = "refused"
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class StorageTrouble(Event):
    """`failure`: kind of the Failure; `detail`: the shell's own words."""

    kind = "storage-trouble"
    failure: str
    detail: str


@dataclass(frozen=True, slots=True)
class StorageWorks(Event):
    """There is no such trouble any more."""

    kind = "storage-works"


@dataclass(frozen=True, slots=True)
class FacilitatorFound(Event):
    """Another one on the same store. `facilitator`: 8 hex digits that name its process."""

    kind = "facilitator-found"
    facilitator: str
    version: str


@dataclass(frozen=True, slots=True)
class ClockTrouble(Event):
    """The clock of another one on the same store is `ahead` of ours by so many seconds, or behind."""

    kind = "clock-trouble"
    facilitator: str
    ahead: int


@dataclass(frozen=True, slots=True)
class FacilitatorLost(Event):
    """`reason`: "silent" or "leaves"."""

    kind = "facilitator-lost"
    facilitator: str
    reason: str


def as_json(value: Event | Why) -> dict[str, Any]:
    """The fields as JSON-able values, without the kind; a Why is {"code": ..., its values}."""
    if isinstance(value, Why):
        return {"code": value.code.value, **value.values}
    data = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: as_json(item) if isinstance(item, Why) else item for name, item in data.items()}
