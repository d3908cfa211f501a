"""Pipes in memory, their users, and chains of them, with stages between or without."""

from __future__ import annotations

import random

from convergence.errors import EndReason, LocalError
from convergence.pipes.duplex import Pipe

NOW = 5.0


class Reversed:
    """A stage, passed from its far side to its near one."""

    def __init__(self, stage):
        self.near, self.far = stage.far, stage.near


class End(Pipe):
    """One end of a pipe in memory.

    Args:
        window: bytes that may be handed up at the far end and not consumed.
        high: bytes; when more wait here, this end is congested, until no more than half as many wait.
        eager: whether bytes pass within the calls that allow it, not only when `step` is called.
    """

    def __init__(self, window, high, eager):
        self.window = window
        self.high = high
        self.handler = None
        self.peer = None
        self.queue = bytearray()
        self.unused = 0  # bytes handed up here and not consumed
        self.heard_end = False
        self.over = False
        self._eager = eager
        self._ending = False
        self._code = None  # gives up both ways once all is out
        self._told_end = False
        self._was_congested = False
        self._far_code = None  # the far end aborted, and we have not heard it

    @property
    def closed(self):
        return self.over

    @property
    def congested(self):
        return len(self.queue) > self.high

    def write(self, data, now):
        if not self._ending and not self.over:
            self.queue += data
            self._was_congested = self._was_congested or self.congested
            self._pass()

    def end(self, now, code=EndReason.DONE):
        if code != EndReason.DONE:
            self.handler, self._code = None, code
        self._ending = True
        self._pass()

    def abort(self, code, now):
        if not self.over:
            self._close()
            self.peer._far_code = code
            if self._eager:
                self.peer.step()

    def consumed(self, size, now):
        if size > self.unused:
            raise LocalError("more was consumed than was handed up")
        self.unused -= size
        self.peer._pass()

    def _pass(self):
        while self._eager and self.step():
            pass

    def _close(self):
        self.over = True
        self.queue.clear()
        handler, self.handler = self.handler, None
        return handler

    def step(self):
        """Carry one thing; returns whether there was one."""
        peer = self.peer
        room = peer.window - peer.unused
        if self.over:
            return False
        if self._far_code is not None:
            handler = self._close()
            if handler is not None:
                handler.aborted(self._far_code, NOW)
        elif self.queue and room and not peer.over:
            data = bytes(self.queue[:room])
            del self.queue[:room]
            peer.unused += len(data)
            if peer.handler is not None:
                peer.handler.data(data, NOW)
            else:
                peer.consumed(len(data), NOW)
        elif self._was_congested and len(self.queue) <= self.high // 2:
            self._was_congested = False
            if self.handler is not None:
                self.handler.drained(NOW)
        elif self._code is not None and not self.queue:
            self._close()
            peer._far_code = self._code
            if self._eager:
                peer.step()
        elif self._ending and not self.queue and not self._told_end and not peer.over:
            self._told_end = peer.heard_end = True
            if peer.handler is not None:
                peer.handler.ended(NOW)
        else:
            return False
        return True


class User:
    """Writes what it has to say while its end takes it, reads while it may, and keeps what it is told."""

    def __init__(self, end, pieces=()):
        self.end = end
        self.left = list(pieces)
        self.said = b"".join(pieces)
        self.heard = bytearray()
        self.calls = []
        self.reads = True
        self._owed = 0
        end.handler = self

    def opened(self, now): ...

    def data(self, data, now):
        assert data and not self.calls
        self.heard += data
        self._owed += len(data)
        if self.reads:
            self.read()

    def read(self):
        """What was handed up is consumed, and whatever comes from then on."""
        self.reads = True
        owed, self._owed = self._owed, 0
        self.end.consumed(owed, NOW)

    def drained(self, now):
        self.write()

    def ended(self, now):
        self.calls.append("ended")

    def aborted(self, code, now):
        self.calls.append(code)

    def write(self):
        while self.left and not self.end.congested:
            self.end.write(self.left.pop(0), NOW)


class Keeper:
    """A user that keeps what comes as it comes, and consumes it only if `reads`."""

    def __init__(self, end, reads=False):
        self.end = end
        self.reads = reads
        self.heard = []
        self.calls = []
        end.handler = self

    def opened(self, now):
        self.calls.append("opened")

    def data(self, data, now):
        self.heard.append(data)
        if self.reads:
            self.end.consumed(len(data), now)

    def drained(self, now):
        self.calls.append("drained")

    def ended(self, now):
        self.calls.append("ended")

    def aborted(self, code, now):
        self.calls.append(code)

    @property
    def size(self):
        return sum(map(len, self.heard))


class Chain:
    """Two users and the pipes between them, joined end to end.

    Args:
        between: for each joint, what it leads through.
    """

    def __init__(self, shapes, said=(), answered=(), *, between=None, eager=False, order=None):
        self.pipes = [(End(*shape, eager), End(*shape, eager)) for shape in shapes]
        for near, far in self.pipes:
            near.peer, far.peer = far, near
        joints = [[] for _ in shapes[1:]] if between is None else between
        for (_, end), (other, _), passages in zip(self.pipes, self.pipes[1:], joints, strict=False):
            for passage in passages:
                end = end.pipe(passage)
            assert end.pipe(other) is other
        self.near, self.far = User(self.pipes[0][0], said), User(self.pipes[-1][1], answered)
        self._order = order or random.Random(0)

    @property
    def ends(self):
        return [end for pipe in self.pipes for end in pipe]

    @property
    def limit(self):
        """Bytes that the pipes may hold for one way: a window, and a buffer that is congested, of each."""
        return sum(near.window + near.high for near, _ in self.pipes)

    @property
    def held(self):
        """Bytes on the way from near to far, what the reader has not consumed among them."""
        return sum(len(near.queue) for near, _ in self.pipes) + self.pipes[-1][1].unused

    def settle(self, check=lambda: None):
        """Carry everything, in any order, until all is quiet."""
        while True:
            ends = self.ends
            self._order.shuffle(ends)
            if not any(end.step() for end in ends):
                return
            check()
