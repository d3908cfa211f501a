"""A relay's own directory: the network's documents that it holds, for those who ask by BEGIN_DIR (dir-spec 4.1, 5).

Does: answer HTTP requests for the consensus, certificates, microdescriptors and the relay's own descriptor, with
deflate where the client takes it; limit how many are answered at once, and share that out.
Does not: fetch documents (directory.py), make diffs of consensuses (who asks for one gets the whole), or keep a log of
who asks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable
from email.utils import parsedate_to_datetime

from convergence.circuit.relay import RelayCircuit
from convergence.circuit.streams import Stream
from convergence.errors import EndReason, ParseError
from convergence.limits import gives_way
from convergence.outbox import Outbox, Timer
from convergence.pipes import http
from convergence.tor.directory import BATCH, TorDirectory
from convergence.wire.authority import START, KeyCertificate
from convergence.wire.netdoc import parse_base64, split

MAX_ANSWERS = 512  # at once; for one more, whoever has most gives one up
MAX_OF_SOURCE = 64  # of one source; each answer that is not read holds some 280 KB
TIME_LIMIT = 600.0  # seconds that a client has to ask and to take its answer
MAX_CERTIFICATES = 64
MAX_NAMES = 64  # of authorities, in a request for a consensus
DEFLATE = "deflate"
MICRODESC, MICRO, KEYS = "/tor/status-vote/current/consensus-microdesc", "/tor/micro/d/", "/tor/keys/"


class DirectoryCache:
    """Args:
    directory: whose documents these are.
    descriptor: gives our own, as it was signed last.
    source_of: whom limits count a link's channel under.
    """

    def __init__(
        self,
        outbox: Outbox,
        directory: TorDirectory,
        descriptor: Callable[[], bytes],
        source_of: Callable[[int], Hashable],
    ) -> None:
        self._outbox = outbox
        self._directory = directory
        self._descriptor = descriptor
        self._source_of = source_of
        self._answers: dict[_Answer, None] = {}  # the oldest first
        self._packed: tuple[bytes, bytes] = (b"", b"")  # the consensus, and the same compressed

    def begin(self, circuit: RelayCircuit, stream_id: int, now: float) -> None:
        """A BEGIN_DIR."""
        source = self._source_of(circuit.link.channel)
        if sum(answer.source == source for answer in self._answers) >= MAX_OF_SOURCE:
            circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
            return
        if len(self._answers) >= MAX_ANSWERS:
            crowded = gives_way(self._answers, source)
            if crowded is None:
                circuit.endpoint.refuse(stream_id, EndReason.RESOURCELIMIT)
                return
            crowded.cut(now)
        answer = _Answer(self, self._outbox, circuit.endpoint.accept_stream(stream_id), source, now)
        self._answers[answer] = None
        answer.stream.accept(now)

    def forget(self, answer: _Answer) -> None:
        """It is over."""
        self._answers.pop(answer, None)

    def answer(self, request: http.Request, now: float) -> tuple[http.Response, bytes]:
        """The answer to a request, and its body."""
        target = request.target.removesuffix(".z")
        found = self._find(request, target, now) if request.method == "GET" else None
        if found == b"":
            return http.Response((), 304, "Not modified"), b""
        if found is None:
            return http.Response((("Content-Length", "0"),), 404, "Not found"), b""
        headers: http.Headers = (("Content-Type", "text/plain"),)
        offered = (request.get("accept-encoding") or "").replace(" ", "").split(",")
        if target != request.target or DEFLATE in offered:
            headers = (*headers, ("Content-Encoding", DEFLATE))
            found = self._pack(found)
        return http.Response((*headers, ("Content-Length", str(len(found)))), 200, "OK"), found

    # -- documents

    def _find(self, request: http.Request, target: str, now: float) -> bytes | None:
        """None where there is nothing; empty for a consensus that the client has."""
        if target == MICRODESC or target.startswith(f"{MICRODESC}/"):
            return self._consensus(request, target.removeprefix(MICRODESC).removeprefix("/"), now)
        if target.startswith(MICRO):
            return self._microdescriptors(target.removeprefix(MICRO))
        if target.startswith(KEYS):
            return self._certificates(target.removeprefix(KEYS))
        return self._descriptor() or None if target == "/tor/server/authority" else None

    def _consensus(self, request: http.Request, wanted: str, now: float) -> bytes | None:
        """The consensus, if more than half of the authorities that the client trusts have signed it."""
        consensus = self._directory.consensus
        if consensus is None or not self._directory.documents.usable(now):
            return None
        names = {name.lower() for name in wanted.split("+", MAX_NAMES) if name}
        if len(names) > MAX_NAMES:
            return None
        signers = {item.identity.hex() for item in consensus.signatures}
        signed = sum(any(signer.startswith(name) for signer in signers) for name in names)
        if names and 2 * signed <= len(names):
            return None
        return b"" if _date(request.get("if-modified-since")) >= consensus.valid_after else consensus.data

    def _microdescriptors(self, names: str) -> bytes | None:
        found = []
        for name in names.split("-")[:BATCH]:
            try:
                found.append(self._directory.microdescriptor(parse_base64(name, "a request", 32)))
            except ParseError:
                return None
        return b"".join(found) or None

    def _certificates(self, names: str) -> bytes | None:
        kind, _, names = names.rpartition("/")
        wanted = set(names.lower().split("+"))
        found: dict[str, bytes] = {}
        for raw in split(self._directory.certificates, START, MAX_CERTIFICATES):
            cert = KeyCertificate.parse(raw)
            identity, signing = cert.identity.hex(), cert.signing_digest.hex()
            name = {"": "all", "fp": identity, "sk": signing, "fp-sk": f"{identity}-{signing}"}.get(kind)
            if name in wanted:
                found[f"{identity}-{signing}"] = raw
        return b"".join(found.values()) or None

    def _pack(self, document: bytes) -> bytes:
        """Compressed; a consensus, which many ask for, only once."""
        consensus = self._directory.consensus
        if consensus is None or document is not consensus.data:
            return zlib.compress(document)
        if self._packed[0] is not document:
            self._packed = document, zlib.compress(document)
        return self._packed[1]


class _Answer:
    """One request: the handler of the HTTP parser at its near end."""

    def __init__(self, cache: DirectoryCache, outbox: Outbox, stream: Stream, source: Hashable, now: float) -> None:
        self.source = source
        self.stream = stream
        self._cache = cache
        self._request: http.Request | None = None
        self._timer: Timer = outbox.call_at(now + TIME_LIMIT, self.cut)
        self._http = http.server()
        self._http.near.handler = self
        self._http.far.pipe(stream)

    def cut(self, now: float) -> None:
        """End it now."""
        self._over()
        self._http.near.abort(EndReason.TIMEOUT, now)

    def opened(self, now: float) -> None:
        """The client may ask."""

    def data(self, data: http.Part, now: float) -> None:
        near = self._http.near
        near.consumed(len(data), now)
        if isinstance(data, http.Request):
            self._request = data
        elif isinstance(data, http.EndOfMessage) and self._request is not None:
            request, self._request = self._request, None
            response, body = self._cache.answer(request, now)
            near.write(response, now)
            if body:
                near.write(body, now)
            near.write(http.EndOfMessage(), now)
            near.end(now)

    def drained(self, now: float) -> None:
        """Nothing to do: the answer was written whole. It is a reference to what all clients get."""

    def ended(self, now: float) -> None:
        self._over()
        self._http.near.end(now)

    def aborted(self, code: int, now: float) -> None:
        self._over()

    def _over(self) -> None:
        self._timer.cancel()
        self._cache.forget(self)


def _date(text: str | None) -> float:
    """Unix seconds of a date in HTTP's form; 0 for none."""
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
