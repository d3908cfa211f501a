"""The directory of a relay: what it answers, and whom it leaves out when too many ask."""

from base64 import b64encode
from hashlib import sha256
from types import SimpleNamespace

import pytest

from convergence.circuit.endpoint import DIRECTORY
from convergence.errors import RemoteError
from convergence.pipes import http
from convergence.tor import cache as module
from convergence.tor.cache import MAX_NAMES, MAX_OF_SOURCE, MICRODESC, TIME_LIMIT, DirectoryCache
from convergence.tor.request import DocumentRequest
from convergence.wire.authority import parse_certificates
from convergence.wire.compressed import decompress
from convergence.wire.consensus import Consensus
from convergence.wire.consensus_diff import apply_diff
from tests.unit.circuit.rig import Net
from tests.unit.netdir.authorities import vector

CONSENSUS = Consensus.parse(vector("consensus-microdesc"))
CERTIFICATES = vector("certificates")
MICRO = [b"onion-key\nntor-onion-key " + bytes([65 + number]) * 43 + b"\n" for number in range(3)]
OURS = b"router ours 192.0.2.1 9001 0 0\n"


def micro_name(raw):
    return b64encode(sha256(raw).digest()).decode().rstrip("=")


class Scene:
    """A client with a circuit to a relay that holds these documents."""

    def __init__(self):
        self.net = Net()
        client = self.net.add("client", relays=False)
        [relay] = self.net.relays(1)
        self.directory = SimpleNamespace(
            consensus=CONSENSUS,
            documents=SimpleNamespace(usable=lambda now: True),
            microdescriptor=lambda digest: {sha256(raw).digest(): raw for raw in MICRO}.get(digest, b""),
            certificates=CERTIFICATES,
            earlier={},
        )
        self.source_of = lambda channel: channel
        self.cache = DirectoryCache(relay.outbox, self.directory, lambda: OURS, lambda channel: self.source_of(channel))
        self.relay = relay
        relay.services.begin = self._begin
        self.circuit = self.net.build(client, [relay])

    def _begin(self, circuit, stream_id, begin, now):
        assert begin is DIRECTORY
        self.cache.begin(circuit, stream_id, now)

    def ask(self, path, *headers, upload=None):
        """What a client of ours gets."""
        results = []
        stream = self.circuit.open_directory(None, self.net.now)
        DocumentRequest(
            self.circuit.client.outbox,
            stream,
            path,
            headers,
            1 << 24,
            lambda result, now: results.append(result),
            self.net.now,
            upload=upload,
        )
        self.net.pump()
        [result] = results
        return result

    def answer(self, path, *headers):
        """Status, headers and body, as they are."""
        response, body = self.cache.answer(http.Request(headers, "GET", path), self.net.now)
        return response.status, response.get("content-encoding"), body


@pytest.fixture
def scene():
    return Scene()


def test_the_consensus_is_told_and_only_what_is_newer(scene):
    signers = [signature.identity.hex().upper()[:6] for signature in CONSENSUS.signatures]
    for path in (MICRODESC, f"{MICRODESC}/{'+'.join(signers)}", f"{MICRODESC}/{signers[0]}.z"):
        assert scene.ask(path) == CONSENSUS.data
    assert scene.answer(MICRODESC, ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")) == (304, None, b"")
    assert scene.ask(MICRODESC, ("If-Modified-Since", "no date")) == CONSENSUS.data
    assert not scene.cache._answers


def test_who_has_an_earlier_consensus_gets_a_diff(scene):
    before = CONSENSUS.diff_base
    scene.directory.earlier[before] = CONSENSUS.data
    after = scene.directory.consensus = Consensus.parse(vector("consensus-microdesc-next"))
    for bases in (before, f"{'0' * 64}, {before.lower()}"):
        made = scene.ask(MICRODESC, ("X-Or-Diff-From-Consensus", bases))
        assert len(made) < len(after.data) and apply_diff(CONSENSUS, made) == after.data
    assert scene.ask(f"{MICRODESC}/diff/{before}/{after.signatures[0].identity.hex()}.z") == made
    for bases in ("0" * 64, "", after.diff_base, ",".join(["0" * 64] * 8 + [before])):
        assert scene.ask(MICRODESC, ("X-Or-Diff-From-Consensus", bases)) == after.data
    names = [("accept-encoding", "deflate"), ("x-or-diff-from-consensus", before)]
    assert scene.answer(MICRODESC, *names)[2] is scene.answer(MICRODESC, *names)[2], "made once"
    assert scene.answer(f"{MICRODESC}/diff/{before}/{'0' * 40}")[0] == 404, "nobody whom the client trusts signed it"


def test_a_consensus_that_the_client_would_not_trust_is_not_sent(scene):
    half = f"{CONSENSUS.signatures[0].identity.hex()}+{'0' * 40}"
    assert scene.answer(f"{MICRODESC}/{half}")[0] == 404
    scene.directory.documents.usable = lambda now: False
    assert scene.answer(MICRODESC)[0] == 404


def test_a_long_list_of_authorities_costs_us_nothing(scene):
    names = "+".join(f"{number:04x}" for number in range(MAX_NAMES + 1))
    assert isinstance(scene.ask(f"{MICRODESC}/{names}"), RemoteError)


def test_microdescriptors_are_told_by_digest(scene):
    names = [micro_name(raw) for raw in MICRO]
    assert scene.ask(f"/tor/micro/d/{'-'.join(names)}") == b"".join(MICRO)
    assert scene.ask(f"/tor/micro/d/{names[1]}-{micro_name(b'another')}.z") == MICRO[1]
    for name in (micro_name(b"another"), "no digest", ""):
        assert scene.answer(f"/tor/micro/d/{name}")[0] == 404


def test_certificates_are_told_by_their_names(scene):
    certs = parse_certificates(CERTIFICATES)
    assert {cert.identity for cert in parse_certificates(scene.ask("/tor/keys/all"))} == {
        cert.identity for cert in certs
    }
    identity, signing = certs[0].identity.hex().upper(), certs[0].signing_digest.hex().upper()
    for path in (f"fp/{identity}", f"sk/{signing}", f"fp-sk/{identity}-{signing}+{'0' * 40}-{'0' * 40}"):
        [cert] = parse_certificates(scene.ask(f"/tor/keys/{path}"))
        assert cert == certs[0]
    assert scene.answer(f"/tor/keys/fp/{'0' * 40}")[0] == 404


@pytest.mark.parametrize(
    ("target", "accepted", "encoding"),
    [
        (MICRODESC, "", None),
        (MICRODESC, "br, identity", None),
        (f"{MICRODESC}.z", "", "deflate"),
        (MICRODESC, "deflate", "deflate"),
        (MICRODESC, "deflate, gzip", "gzip"),
        (f"{MICRODESC}.z", "deflate, gzip, x-zstd, x-tor-lzma", "x-zstd"),
        ("/tor/server/authority", "gzip", "gzip"),
    ],
)
def test_documents_are_compressed_as_the_client_takes_them(scene, target, accepted, encoding):
    status, used, body = scene.answer(target, ("accept-encoding", accepted))
    document = CONSENSUS.data if target.startswith(MICRODESC) else OURS
    assert (status, used, decompress(used or "identity", body, 1 << 20)) == (200, encoding, document)


def test_a_consensus_is_compressed_once(scene):
    assert scene.answer(f"{MICRODESC}.z")[2] is scene.answer(f"{MICRODESC}.z")[2], "compressed once"


def test_our_own_descriptor_is_told(scene):
    assert scene.ask("/tor/server/authority") == OURS


@pytest.mark.parametrize(
    "path", ["/", "/tor/", "/tor/server/all", "/tor/status-vote/current/consensus", "/tor/keys/", "*"]
)
def test_there_is_nothing_else(scene, path):
    result = scene.ask(path)
    assert isinstance(result, RemoteError) and str(result) == "the directory answered 404 Not found"


def test_nothing_can_be_handed_over(scene):
    assert isinstance(scene.ask("/tor/", upload=b"x" * 100_000), RemoteError)
    assert scene.circuit.built and not scene.cache._answers


def test_what_is_no_http_ends_the_stream_only(scene):
    stream = scene.circuit.open_directory(None, scene.net.now)
    stream.write(b"\0" * 1000, scene.net.now)
    scene.net.pump()
    assert stream.closed and scene.circuit.built and not scene.cache._answers


def test_who_asks_nothing_is_cut_off_and_who_asks_much_gives_way(scene, monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWERS", 4)
    streams = [scene.circuit.open_directory(None, scene.net.now) for _ in range(5)]
    scene.net.pump()
    assert [stream.closed for stream in streams] == [False] * 4 + [True], "its own part is all there is"
    scene.source_of = lambda channel: "another"
    assert scene.ask("/tor/server/authority") == OURS
    assert [stream.closed for stream in streams] == [True, False, False, False, True]
    scene.net.tick(TIME_LIMIT)
    assert all(stream.closed for stream in streams) and not scene.cache._answers


def test_one_source_has_few_answers_at_once_and_gets_more_as_it_takes_them(scene):
    scene.source_of = lambda channel: "greedy"
    streams = [scene.circuit.open_directory(None, scene.net.now) for _ in range(MAX_OF_SOURCE + 3)]
    scene.net.pump()
    assert [stream.closed for stream in streams] == [False] * MAX_OF_SOURCE + [True] * 3
    streams[0].end(scene.net.now)
    scene.net.pump()
    assert scene.ask("/tor/server/authority") == OURS
