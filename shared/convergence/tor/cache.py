"""A relay's own directory: the network's documents that it holds, for those who ask by BEGIN_DIR (dir-spec 4.1, 5).

Does: answer HTTP requests for the consensus, or for a diff to it, for certificates, microdescriptors and the relay's
own descriptor, compressed as the client takes it; limit how many are answered at once, and share that out.
Does not: fetch documents (directory.py), or keep a log of who asks.
"""

from __future__ import annotations

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
from convergence.wire.compressed import chosen, compress
from convergence.wire.consensus import Consensus
from convergence.wire.consensus_diff import make_diff
from convergence.wire.netdoc import parse_base64, split

MAX_ANSWERS = 512  # at once; for one more, whoever has most gives one up
MAX_OF_SOURCE = 64  # of one source; each answer that is not read holds some 280 KB
TIME_LIMIT = 600.0  # seconds that a client has to ask and to take its answer
MAX_CERTIFICATES = 64
MAX_NAMES = 64  # of authorities, in a request for a consensus
MAX_BASES = 8  # consensuses of which one client may ask for a diff
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
        self._consensus: Consensus | None = None
        self._diffs: dict[str, bytes] = {}  # to that, by what they begin at
        self._packed: dict[tuple[str, str], bytes] = {}  # that and its diffs, by where they begin, and encoding

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
        accepted = (request.get("accept-encoding") or "").replace(" ", "").split(",")
        encoding = chosen([*accepted, "deflate"] if target != request.target else accepted)
        found = self._find(request, target, encoding, now) if request.method == "GET" else None
        if found == b"":
            return http.Response((), 304, "Not modified"), b""
        if found is None:
            return http.Response((("Content-Length", "0"),), 404, "Not found"), b""
        headers: http.Headers = (("Content-Type", "text/plain"), ("Content-Length", str(len(found))))
        if encoding != "identity":
            headers = (*headers, ("Content-Encoding", encoding))
        return http.Response(headers, 200, "OK"), found

    # -- documents

    def _find(self, request: http.Request, target: str, encoding: str, now: float) -> bytes | None:
        """The document in this encoding. None where there is nothing; empty for a consensus that the client has."""
        found: bytes | None = None
        if target == MICRODESC or target.startswith(f"{MICRODESC}/"):
            return self._status(request, target.removeprefix(MICRODESC).removeprefix("/"), encoding, now)
        if target.startswith(MICRO):
            found = self._microdescriptors(target.removeprefix(MICRO))
        elif target.startswith(KEYS):
            found = self._certificates(target.removeprefix(KEYS))
        elif target == "/tor/server/authority":
            found = self._descriptor() or None
        return None if found is None else compress(encoding, found)

    def _status(self, request: http.Request, wanted: str, encoding: str, now: float) -> bytes | None:
        """The consensus, or a diff from one that the client has, if more than half of the authorities that the client
        trusts have signed it. It may name those that it has in the path, too (dir-spec 4.5.2)."""
        consensus = self._directory.consensus
        if consensus is None or not self._directory.documents.usable(now):
            return None
        bases = (request.get("x-or-diff-from-consensus") or "").upper().replace(" ", "").split(",")
        if wanted.startswith("diff/"):
            base, _, wanted = wanted.removeprefix("diff/").partition("/")
            bases = [base.upper()]
        names = {name.lower() for name in wanted.split("+", MAX_NAMES) if name}
        if len(names) > MAX_NAMES:
            return None
        signers = {item.identity.hex() for item in consensus.signatures}
        signed = sum(any(signer.startswith(name) for signer in signers) for name in names)
        if names and 2 * signed <= len(names):
            return None
        if _date(request.get("if-modified-since")) >= consensus.valid_after:
            return b""
        base = next((base for base in bases[:MAX_BASES] if base in self._directory.earlier), "")
        return self._pack(consensus, base, encoding)

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

    def _pack(self, consensus: Consensus, base: str, encoding: str) -> bytes:
        """The consensus, or the diff from one before. Many ask for it: each is made and compressed once."""
        if self._consensus is not consensus:
            self._consensus, self._diffs, self._packed = consensus, {"": consensus.data}, {}
        if base not in self._diffs:
            self._diffs[base] = make_diff(self._directory.earlier[base], base, consensus.data)
        if (base, encoding) not in self._packed:
            self._packed[base, encoding] = compress(encoding, self._diffs[base])
        return self._packed[base, encoding]


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
