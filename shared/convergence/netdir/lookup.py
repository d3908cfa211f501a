"""What a View said of nodes by name, for those who cannot wait: links that are to be dialled, pipes, introductions.

Does: ask for a node when it is first wanted, remember what came late, and ask again now and then.
Does not: dial. Whoever gets None goes on without the node, or waits to hear that there is more to know.
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.errors import ParseError
from convergence.netdir.nodes import NodeDirectory
from convergence.netdir.view import Found, View
from convergence.outbox import Outbox
from convergence.wire.descriptor import Descriptor
from convergence.wire.target import RelayTarget

MAX_KNOWN = (
    1024  # nodes remembered that the View did not tell of at once; the one wanted longest ago is forgotten first
)
MAX_ASKED = 256  # nodes asked for and not answered yet; beyond, nobody waits for the oldest any more
ASK_AGAIN = 60.0  # seconds after which what is remembered is asked for anew


def look_up_shown(
    view: View[Descriptor], directory: NodeDirectory, descriptor: bytes, now: float, then: Found[RelayTarget | None]
) -> None:
    """The node of a descriptor that another node showed us: as the View knows it, or else as it says, if it could be
    news (`NodeDirectory.vouch`). None: it may not be used. Nothing of it is kept, and nobody is asked: whoever
    showed it could see, with a friend, whose question follows."""

    def found(node: Descriptor | None, now: float) -> None:
        node = node or directory.vouch(descriptor, now)
        then(None if node is None else node.target, now)

    try:
        identity = Descriptor.parse(descriptor).identity
    except ParseError:
        then(None, now)
    else:
        view.get(identity, now, found, quietly=True)


class Lookup:
    """Args:
    on_found: called with `now` when a node that `get` did not know is known.
    """

    def __init__(self, outbox: Outbox, view: View[Descriptor], on_found: Callable[[float], None]) -> None:
        self._outbox = outbox
        self._view = view
        self._on_found = on_found
        self._known: dict[bytes, Descriptor] = {}  # wanted latest last
        self._asked: dict[bytes, float] = {}  # when, in steady time; the earliest first

    def get(self, identity: bytes, now: float) -> Descriptor | None:
        """The node of this identity, if that is known now; else it is asked for."""
        known = self._known.pop(identity, None)
        if known is not None and (known.expires > now or known.ws_url is not None):  # it may be there all the same
            self._known[identity] = known
        else:
            known = None
        steady = self._outbox.steady(now)
        if steady < self._asked.get(identity, float("-inf")) + ASK_AGAIN:
            return known
        self._asked.pop(identity, None)
        self._asked[identity] = steady
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        at_once: list[Descriptor | None] = []
        late = False

        def found(node: Descriptor | None, now: float) -> None:
            if not late:
                at_once.append(node)
            elif self._asked.get(identity) == steady:
                self._found(identity, node, now)

        self._view.get(identity, now, found)
        late = True
        if not at_once:
            return known
        del self._asked[identity]
        self._known.pop(identity, None)
        return at_once[0]

    def _found(self, identity: bytes, node: Descriptor | None, now: float) -> None:
        known = self._known.pop(identity, None)
        if node is None:
            return
        self._known[identity] = node
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        if known is None:
            self._on_found(now)
