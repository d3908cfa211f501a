"""All that the core may ask of its shell.

Does: name the requests. Effects exist only at the boundary and only per batch, never per cell.
Does not: perform them; the driver hands them to the platform's ports.

A *channel* is an ordered byte pipe numbered by the side that opens it: the driver numbers incoming channels
(even), the core numbers those it asks for (odd). What flows in it is told by its protocol.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeAlias

from convergence.events import Event


class Protocol(Enum):
    """What a channel carries."""

    LINK = "link"  # Tor cells, whole ones in each Send; address is a WebSocket URL
    TLS = "tls"  # the same over TLS, as between relays of the Tor network; address is "host:port"
    RTC = "rtc"  # the same in a WebRTC data channel; address is OFFERER or ANSWERER, `Describe` brings it about
    FACILITATOR = "facilitator"  # length-prefixed facilitator records; address is a WebSocket URL
    DIRECTORY = "directory"  # HTTP to a port that the configuration of a Tor network names; address is "host:port"
    TCP = "tcp"  # an exit stream's raw bytes; address is "host:port", the shell applies the exit policy


OFFERER = "offer"
ANSWERER = "answer"


class DescriptionKind(IntEnum):
    """What a description of an RTC channel is (RFC 8829). A second OFFER on a channel restarts ICE."""

    OFFER = 1
    ANSWER = 2
    CANDIDATES = 3  # `a=candidate:` lines that were found after the offer or answer went out


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a channel. Answered by `link_opened` or by `link_closed` with a reason.

    The address of a TCP channel is host:port. "/64" behind it says over which versions of IP, the preferred one first.

    On an RTC channel the OFFERER's shell answers at once with `link_described(OFFER)`, the ANSWERER's with
    `link_described(ANSWER)` once it was given the offer; both with CANDIDATES for those that are found later.
    """

    channel: int
    protocol: Protocol
    address: str
    source: Hashable = None  # on whose behalf, for limits; None for the node itself


@dataclass(frozen=True, slots=True)
class Describe:
    """Apply what the other side says of an RTC channel: SDP or candidate lines, made of values that were checked."""

    channel: int
    kind: DescriptionKind
    sdp: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Send:
    """Write these buffers in order. On a LINK, TLS or RTC channel each buffer is 1-127 whole fixed cells (at most 64
    KiB), or handshake cells, and travels as one message."""

    channel: int
    buffers: Sequence[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Close a channel after what was sent is flushed. No `link_closed` follows."""

    channel: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop (or go on) reading a channel: an exit stream that is not read, or a link that asks for too many circuits. A
    transport that cannot stop ignores it."""

    channel: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look a host name up under the exit policy. `done` brings a list of IP address strings or an error; a list of host
    names for what wire.relay.reverse_address knows."""

    request: int
    host: str
    source: Hashable = None  # as in Connect


@dataclass(frozen=True, slots=True)
class Store:
    """Write (or, with None, delete) `(bucket, key, value)` items in one transaction. `done` brings None or an error.

    Buckets: "piece" (key: 32-byte root + 4-byte index), "file" (key: root + hash_name), "transfer" (key: hash_name),
    "node" (facilitator: key: identity), "entry" (key: keyed hash of hash_name and side, path/entries.py), "known" (key:
    address of the facilitator, netdir/memory.py), "guard" (key: name of the network, path/guards.py), "tor-directory"
    (key: name of a document, tor/directory.py), "build-times" (key: name of the network, tor/circuits.py),
    "epochs" and "age" (facilitator/publisher.py), "buckets" (key: address of the facilitator, netdir/bucketview.py).
    """

    request: int
    items: Sequence[tuple[str, bytes, bytes | None]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Load:
    """Read one value. `done` brings bytes, None when there is none, or an error."""

    request: int
    bucket: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scan:
    """List the keys of a bucket that begin with `prefix`, sorted. `done` brings a list of bytes or an error."""

    request: int
    bucket: str
    prefix: bytes = b""


@dataclass(frozen=True, slots=True)
class Consult:
    """Ask the store that facilitators share (facilitator/questions.py). `done` brings the answer or an error."""

    request: int
    question: object


@dataclass(frozen=True, slots=True)
class Failure:
    """What `done` brings in place of a result when the shell could not do as asked.

    Args:
        kind: "quota", "io", "policy", "not-found", "refused" or "full".
        message: the shell's own words for people, without secrets.
    """

    kind: str
    message: str


Effect: TypeAlias = Connect | Describe | Send | CloseLink | Pause | Resolve | Store | Load | Scan | Consult | Event
