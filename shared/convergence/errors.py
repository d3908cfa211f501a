"""One tree of protocol errors: whose fault it is, and what must be closed for it.

Does: name the fault, its scope and the reason code that goes on the wire.
Does not: close anything. The node converts a `LocalError` raised inside a layer where input enters the core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum


class Scope(Enum):
    """What an error costs: the smallest thing that has to be closed for it."""

    STREAM = "stream"
    CIRCUIT = "circuit"
    LINK = "link"


class EndReason(IntEnum):
    """Why a stream ends (tor-spec, "Closing streams")."""

    MISC = 1
    RESOLVEFAILED = 2
    CONNECTREFUSED = 3
    EXITPOLICY = 4
    DESTROY = 5
    DONE = 6
    TIMEOUT = 7
    NOROUTE = 8
    HIBERNATING = 9
    INTERNAL = 10
    RESOURCELIMIT = 11
    CONNRESET = 12
    TORPROTOCOL = 13
    NOTDIRECTORY = 14


class DestroyReason(IntEnum):
    """Why a circuit is destroyed or truncated (tor-spec, "Tearing down circuits")."""

    NONE = 0
    PROTOCOL = 1
    INTERNAL = 2
    REQUESTED = 3
    HIBERNATING = 4
    RESOURCELIMIT = 5
    CONNECTFAILED = 6
    OR_IDENTITY = 7
    CHANNEL_CLOSED = 8
    FINISHED = 9
    TIMEOUT = 10
    DESTROYED = 11
    NOSUCHSERVICE = 12


class ConvergenceError(Exception):
    """Root of every error the core raises."""


class LocalError(ConvergenceError):
    """The caller asked for something that cannot be done; nothing needs closing."""


class Code(StrEnum):
    """Something that people are told. Its value is unique among all codes (convergence/codes.py): the shells keep the
    words for each, so that they can be translated."""


@dataclass(frozen=True, slots=True)
class Why:
    """A code, and the numbers and names that its words need: JSON-able, no secrets."""

    code: Code
    values: Mapping[str, int | str | None] = field(default_factory=dict)


class Problem(LocalError):
    """A LocalError that people see. The shells put `why` into words; `str` gives it to developers."""

    def __init__(self, code: Code, **values: int | str | None) -> None:
        super().__init__(" ".join([code.value, *(f"{name}={value}" for name, value in values.items())]))
        self.why = Why(code, values)


class RemoteError(ConvergenceError):
    """The other end broke a rule.

    Args:
        message: what was wrong, without secrets or stream data.
        scope: what to close.
        reason: code for END (scope STREAM) or DESTROY (scope CIRCUIT).
    """

    scope: Scope = Scope.CIRCUIT

    def __init__(self, message: str, scope: Scope | None = None, reason: int = DestroyReason.PROTOCOL) -> None:
        super().__init__(message)
        if scope is not None:
            self.scope = scope
        self.reason = reason


class ParseError(RemoteError):
    """Bytes that are no valid record. The parser does not know what they came from; its caller widens the scope."""


class CryptoError(RemoteError):
    """A handshake, signature, digest or tag that does not verify."""


class ClockError(RemoteError):
    """What another one dated cannot be true by this machine's clock.

    Args:
        ahead: seconds by which this clock is ahead of the other one; less than zero where it is behind.
    """

    def __init__(self, message: str, ahead: float) -> None:
        super().__init__(message)
        self.ahead = ahead


class LinkError(RemoteError):
    """A neighbour broke the link protocol: the link is closed."""

    scope = Scope.LINK


class StreamError(RemoteError):
    """A stream broke its protocol: END with `reason` (an `EndReason`)."""

    scope = Scope.STREAM

    def __init__(self, message: str, reason: int = EndReason.TORPROTOCOL) -> None:
        super().__init__(message, Scope.STREAM, reason)
