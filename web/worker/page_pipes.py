"""Pipes of the node for a page: connections that it asks for, and services that it offers.

Does: join each pipe of the core to a port of page_pipes.js, with credit from whoever consumes, both ways.
Does not: know what pipes carry, or how the page shows them (web/api/).

What the core hands up goes to the page at once, and its credit back when the page has read it: so what waits for a page
that does not read is no more than the window of the stream that brings it. What the page writes goes to the core at
once, and the page's credit back while the pipe is not congested: so no more than WINDOW (web/api/pipe.js) waits here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from pyodide.ffi import to_js

from convergence.codes import AddressFlaw
from convergence.errors import EndReason, LocalError, Problem
from convergence.events import as_json
from convergence.node import Node
from convergence.pipes.duplex import MAX_DROPPED, Duplex
from convergence.pipes.pending import Pending
from convergence.ports import Crypto
from convergence.services import private_address
from convergence.wire.address import TcpAddress, parse_address

LINGER = 30.0  # seconds for what was written to go out, once the page neither reads nor writes
SECRET_LEN = 32  # bytes


class PagePipes:
    """All pipes of the page. `attach` before the first call.

    Args:
        ports: what createPagePipes made.
        run: runs a call of the node, and raises what it raises.
    """

    def __init__(self, node: Node, crypto: Crypto, ports: Any, run: Callable[..., Any]) -> None:
        self.ports = ports
        self.run = run
        self.pipes: dict[int, _PagePipe] = {}
        self._node = node
        self._crypto = crypto
        self._services: dict[int, str] = {}  # by the number of the service's port

    def attach(self, listener: Any, entry: Callable[[Callable[..., None]], Any]) -> None:
        listener.wrote = entry(self._wrote)
        listener.said = entry(self._said)

    def connect(self, args: Any) -> None:
        """A pipe at `args.port` to `args.address`. Raises Problem. What becomes of it is said on the port."""
        address = parse_address(args.address)

        def begin(now: float) -> None:
            pipe = self._node.connect(address, now, patience=args.patience, isolation=args.isolation or None)
            pipe.handler = _PagePipe(self, self.ports.add(args.port), pipe)

        self.run(begin)

    def serve(self, args: Any) -> str:
        """Offer what the page answers at `args.port`: the address `args.address`, or a private one, of the 32 bytes
        `args.secret`. Returns the address. Raises Problem."""
        secret = None if args.secret is None else args.secret.to_bytes()
        if secret is None:
            address = parse_address(args.address)
        elif len(secret) == SECRET_LEN:
            address = private_address(self._crypto, secret)
        else:
            raise Problem(AddressFlaw.NO_SECRET)
        if isinstance(address, TcpAddress):
            raise Problem(AddressFlaw.NO_NAME)
        service = self.ports.add(args.port)

        def accept(pipe: Duplex, now: float) -> _PagePipe:
            return _PagePipe(self, self.ports.offer(service), pipe)

        try:
            self._services[service] = self.run(
                lambda now: self._node.services.serve(address, accept, now, secret=secret)
            )
        except LocalError:
            self.ports.close(service)
            raise
        return str(address)

    def standing(self, service_id: str, points: int) -> None:
        """So many points know the service."""
        for service, known in self._services.items():
            if known == service_id:
                self.ports.say(service, "standing", points)

    # -- what the page says

    def _wrote(self, number: int, data: Any) -> None:
        if number in self.pipes:
            self.pipes[number].wrote(data.to_bytes())

    def _said(self, number: int, kind: str, value: int = 0) -> None:
        if kind == "stop":
            service_id = self._services.pop(number, None)
            if service_id is not None:
                self.run(lambda now: self._node.services.unserve(service_id, now))
                self.ports.close(number)
        elif number in self.pipes:
            self.pipes[number].said(kind, value)


class _PagePipe:
    """The Handler of a pipe of the core, for the page at a port."""

    def __init__(self, owner: PagePipes, number: int, pipe: Duplex) -> None:
        self._owner = owner
        self._number = number
        self._pipe = pipe
        self._owed = 0  # bytes that the page wrote, whose credit is held back
        self._unread = 0  # bytes that the page was given and has not read
        self._dropped = 0
        self._deaf = self._ended = False
        owner.pipes[number] = self

    # -- what the page says

    def wrote(self, data: bytes) -> None:
        self._owed += len(data)
        self._owner.run(lambda now: self._pipe.write(data, now))
        self._settle()

    def said(self, kind: str, value: int) -> None:
        self._owner.run(lambda now: self._do(kind, value, now))

    def _do(self, kind: str, value: int, now: float) -> None:
        match kind:
            case "took":
                self._take(min(value, self._unread), now)
            case "cancel":
                self._deaf = True
                self._take(self._unread, now)
            case "end":
                self._ended = True
                self._pipe.end(now)
            case "abort":
                self._pipe.abort(value, now)
        if self._pipe.closed:
            self._over()
        elif self._deaf and self._ended:
            asyncio.get_running_loop().call_later(LINGER, self._give_up)

    def _take(self, size: int, now: float) -> None:
        self._unread -= size
        if size:
            self._pipe.consumed(size, now)

    # -- Handler

    def opened(self, now: float) -> None:
        self._say("open")

    def data(self, data: bytes, now: float) -> None:
        if not self._deaf:
            self._unread += len(data)
            self._owner.ports.give(self._number, to_js(data))
            return
        self._dropped += len(data)
        if self._dropped > MAX_DROPPED:
            self._pipe.abort(EndReason.CONNRESET, now)
            self.aborted(EndReason.CONNRESET, now)
        else:
            self._pipe.consumed(len(data), now)

    def drained(self, now: float) -> None:
        self._settle()
        if self._pipe.closed:
            self._over()

    def ended(self, now: float) -> None:
        self._say("end")
        if self._pipe.closed:
            self._over()

    def aborted(self, code: int, now: float) -> None:
        why = self._pipe.why if isinstance(self._pipe, Pending) else None
        self._owner.ports.say(self._number, "abort", int(code), json.dumps(why and as_json(why)))
        self._close()

    # -- inside

    def _settle(self) -> None:
        """Give the credit back that was held."""
        if self._owed and (self._pipe.closed or not self._pipe.congested):
            owed, self._owed = self._owed, 0
            self._say("took", owed)

    def _say(self, kind: str, value: int = 0) -> None:
        self._owner.ports.say(self._number, kind, value)

    def _give_up(self) -> None:
        if not self._pipe.closed:
            self.said("abort", EndReason.DONE)

    def _over(self) -> None:
        self._say("over")
        self._close()

    def _close(self) -> None:
        self._owner.pipes.pop(self._number, None)
        self._owner.ports.close(self._number)
