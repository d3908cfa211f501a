"""Effects are values: equal by content, never changed after they are made."""

from dataclasses import FrozenInstanceError, fields

import pytest

from convergence.effects import CloseLink, Connect, Failure, Load, Pause, Protocol, Resolve, Scan, Send, Store
from convergence.events import ShareProgress

EFFECTS = [
    Connect(1, Protocol.LINK, "ws://host/"),
    Send(1, [b"data"]),
    CloseLink(1, "why"),
    Pause(1, True),
    Resolve(1, "host"),
    Store(1, [("piece", b"key", None)]),
    Load(1, "piece", b"key"),
    Scan(1, "piece"),
    ShareProgress("id", 1),
    Failure("quota", "full"),
]


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: type(effect).__name__)
def test_effects_cannot_be_changed(effect):
    name = fields(effect)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(effect, name, None)


def test_defaults():
    assert CloseLink(1).reason == "" and Scan(1, "piece").prefix == b""
