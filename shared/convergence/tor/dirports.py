"""Directory ports: HTTP in the clear, on a TCP connection for each request (dir-spec 4).

Does: carry a relay's requests to directories to which no circuit can be built.
Does not: serve clients, which ask by BEGIN_DIR only: whoever is on the way sees here what is asked for. Nor does it
believe anything: documents are checked the same (directory.py), whatever brought them.
"""

from __future__ import annotations

from collections.abc import Mapping

from convergence.channels import Owner
from convergence.effects import CloseLink, Pause, Protocol, Send
from convergence.errors import EndReason
from convergence.outbox import Outbox
from convergence.pipes.duplex import Handler, Pipe
from convergence.pipes.pending import Pending
from convergence.ports import Binding


class DirectoryPorts:
    """Args:
    addresses: host:port of those directories that have such a port, by their identities.
    """

    def __init__(self, outbox: Outbox, addresses: Mapping[bytes, str]) -> None:
        self._outbox = outbox
        self._addresses = addresses
        self._pipes: dict[int, _PortPipe] = {}  # by channel; no more than there are requests
        self.owner = Owner(self._opened, self._data, self._closed, lambda channel, congested, now: None)

    def carry(self, directory: bytes, pipe: Pending) -> bool:
        """Have the directory's port carry this pipe; whether it has one."""
        address = self._addresses.get(directory)
        if address is None:
            return False
        channel = self._outbox.connect(Protocol.DIRECTORY, address)
        carrier = self._pipes[channel] = _PortPipe(self, channel, pipe)
        pipe.bind(carrier)
        return True

    def _opened(self, channel: int, binding: Binding | None, now: float) -> None:
        if channel in self._pipes:
            self._pipes[channel].opened(now)

    def _data(self, channel: int, data: bytes, now: float) -> None:
        if channel in self._pipes:
            self._pipes[channel].data(data, now)

    def _closed(self, channel: int, reason: str, now: float) -> None:
        pipe = self._pipes.pop(channel, None)
        if pipe is not None:
            pipe.ended(reason, now)

    # -- what the pipes ask

    def close(self, channel: int) -> None:
        if self._pipes.pop(channel, None) is not None:
            self._outbox.emit(CloseLink(channel))

    def send(self, channel: int, data: bytes) -> None:
        self._outbox.emit(Send(channel, [data]))

    def pause(self, channel: int, paused: bool) -> None:
        self._outbox.emit(Pause(channel, paused))


class _PortPipe(Pipe):
    """One connection."""

    congested = False  # a request is short

    def __init__(self, owner: DirectoryPorts, channel: int, handler: Handler) -> None:
        self.handler: Handler | None = handler
        self.closed = False
        self._owner = owner
        self._channel = channel
        self._open = False
        self._unused = 0  # bytes handed up and not consumed: while there are any, we read no more
        self._paused = False

    # -- Duplex

    def write(self, data: bytes, now: float) -> None:
        if not self.closed:
            self._owner.send(self._channel, data)

    def end(self, now: float, code: int = EndReason.DONE) -> None:
        """The directory closes when it has answered."""

    def abort(self, code: int, now: float) -> None:
        self.closed = True
        self.handler = None
        self._owner.close(self._channel)

    def consumed(self, size: int, now: float) -> None:
        self._unused -= size
        self._pause()

    # -- what happens to the channel

    def opened(self, now: float) -> None:
        self._open = True
        if self.handler is not None:
            self.handler.opened(now)

    def data(self, data: bytes, now: float) -> None:
        self._unused += len(data)
        if self.handler is not None:
            self.handler.data(data, now)
        self._pause()

    def ended(self, reason: str, now: float) -> None:
        self.closed = True
        handler, self.handler = self.handler, None
        if handler is None:
            return
        if self._open and reason == "done":
            handler.ended(now)
        else:
            handler.aborted(EndReason.CONNECTREFUSED, now)

    def _pause(self) -> None:
        paused = self._unused > 0
        if paused is not self._paused and not self.closed:
            self._paused = paused
            self._owner.pause(self._channel, paused)
