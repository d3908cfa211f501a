"""The View: what a node may ask about which nodes exist, however many there are.

Does: name the questions, the classes of nodes that they are about, and the order of the ring; put the answers of
several questions together.
Does not: answer. A whole list does (listview.py), or whoever sees a part of a large network only.

Answers come by callback: perhaps at once, within the call, perhaps seconds later, perhaps never. Whoever asks keeps a
deadline of its own. Whoever wires a View tells its users when answers may have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from hmac import digest
from typing import Any, Generic, TypeAlias, TypeVar
from typing import Protocol as Shape

from convergence.wire.target import RelayTarget, Role

_CARRIES, _RDV, _EXIT, _TOR = Role.RELAY.value, Role.RDV.value, Role.EXIT.value, (Role.TOR | Role.RELAY).value


class Class(Enum):
    """Which nodes are asked for. Each class can be asked for by itself, so that a rare kind is found among a million
    other nodes without a look at these."""

    ALL = auto()  # who works for others at all
    RELAYS = auto()  # can be any hop of a circuit but the last
    DIALLED = auto()  # of these, who has an address: servers without rtc, and all relays, can open links to it
    POINTS = auto()  # rendezvous points
    TOR_POINTS = auto()  # of these, who takes links from relays of the Tor network
    EXITS = auto()
    TOR = auto()  # leads into the Tor network

    def holds(self, node: RelayTarget) -> bool:
        """Whether a node is of this class."""
        roles = node.roles.value  # numbers: arithmetic on flags takes microseconds
        if self is Class.RELAYS:
            return bool(roles & _CARRIES) and (node.has_address or node.rtc)
        if self is Class.DIALLED:
            return bool(roles & _CARRIES) and node.has_address
        if self is Class.POINTS:
            return bool(roles & _RDV)
        if self is Class.TOR_POINTS:
            return bool(roles & _RDV and node.tor_specifiers)
        if self is Class.EXITS:
            return bool(roles & _EXIT)
        if self is Class.TOR:
            return roles & _TOR == _TOR
        return bool(roles)


class Known(Shape):
    """What a View tells of a node: at least how circuits are extended to it."""

    @property
    def target(self) -> RelayTarget: ...


NodeT = TypeVar("NodeT", covariant=True)
ItemT = TypeVar("ItemT")

Found: TypeAlias = Callable[[ItemT, float], None]
"""Takes an answer, and `now`."""


# The ring: one order of all nodes, for all names.


def place_of(value: bytes, identity: bytes) -> bytes:
    """Where a node stands on the ring (32 bytes): HMAC-SHA256(value, "convergence:ring:node" | identity).

    Args:
        value: of the ring, 32 bytes that nobody knew before the node chose its identity.
    """
    return digest(value, b"convergence:ring:node" + identity, "sha256")


def place_of_name(value: bytes, name: bytes) -> bytes:
    """Where a hash_name stands (32 bytes): HMAC-SHA256(value, "convergence:ring:name" | hash_name). Its points are the
    next nodes on the ring, round its end if need be. The label differs, so that nobody stands there by having the name
    as his identity."""
    return digest(value, b"convergence:ring:name" + name, "sha256")


Place: TypeAlias = Callable[[bytes, bytes], bytes]
"""A place on the ring, from its value and a name: `place_of_name` for a hash_name, `place_of` for an identity."""


class View(Shape, Generic[NodeT]):
    """The nodes of a network that are usable now."""

    def count(self, kind: Class, now: float) -> int:
        """How many of this class there are, as far as is known. This answer comes at once."""
        ...

    def sample(self, kind: Class, count: int, now: float, then: Found[Sequence[NodeT]]) -> None:
        """Up to `count` different nodes of a class, in any order, each of them as likely as its network wants; all of
        them, if there are no more."""
        ...

    def closest(
        self,
        kind: Class,
        name: bytes,
        count: int,
        now: float,
        then: Found[Sequence[Sequence[NodeT]]],
        *,
        place: Place = place_of_name,
    ) -> None:
        """The first `count` nodes of a class from the place of a hash_name on, in the order of the ring (`place_of`):
        one sequence for each value of the ring that counts now, the present one's first. Around a change there are two.

        Fewer than `count` in one sequence: these are all.

        Args:
            place: gives the place, from a value of the ring and `name`.
        """
        ...

    def values(self, now: float) -> tuple[bytes, ...]:
        """The values of the ring that count now, the present one first, if `closest` has to ask others for parts of it;
        none, if all nodes are known here."""
        ...

    def get(self, identity: bytes, now: float, then: Found[NodeT | None], *, quietly: bool = False) -> None:
        """The node of this identity; None if it is unknown or not usable.

        Args:
            quietly: ask nobody for it; it is unknown if it is not here.
        """
        ...


# Several questions at once.

Question: TypeAlias = Callable[[Found[Any]], None]


def together(questions: Sequence[Question], then: Found[list[Any]], now: float) -> None:
    """Ask all of them; then(the answers in the same order, now) follows once the last one is there, and never if one
    never comes. An answer that comes twice counts once."""
    answers: dict[int, Any] = {}

    def answered(number: int, answer: Any, now: float) -> None:
        if number not in answers:
            answers[number] = answer
            if len(answers) == len(questions):
                then([answers[number] for number in range(len(questions))], now)

    if not questions:
        then([], now)
    for number, question in enumerate(questions):
        question(lambda answer, now, number=number: answered(number, answer, now))  # type: ignore[misc]
