"""Every parser of the core as `name -> Target`: what to feed, and valid samples to mutate.

The rule for each: it returns, or raises ParseError; never another error. A fuzzer of any kind can drive these.
What people type may raise Problem too.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any

from convergence.crypto import ntor_v3
from convergence.crypto.rsa import RsaKey
from convergence.effects import DescriptionKind
from convergence.errors import CryptoError, LocalError, ParseError
from convergence.netdir.tor import TorRelay, TorView
from convergence.path import guardrecord
from convergence.path.buildtimes import BuildTimes
from convergence.pipes import coding, http
from convergence.pipes.door import Handshake
from convergence.pipes.framing import framing
from convergence.pipes.socks import Refused
from convergence.pipes.stage import Stage
from convergence.tor.relay import named_relay
from convergence.wire import (
    address,
    authority,
    buckets,
    cells,
    certs,
    compressed,
    conflux,
    consensus,
    consensus_diff,
    create,
    descriptor,
    exitpolicy,
    extensions,
    facilitator,
    handshake,
    linkspec,
    manifest,
    microdescriptor,
    netdoc,
    ordb,
    padding,
    protovers,
    rdv,
    relay,
    routerdesc,
    sdp,
    sharedrandom,
    sharelink,
    sharing,
    signals,
    x509,
    xon,
)
from convergence.wire.reader import Reader
from pynode.crypto import CPythonCrypto
from pynode.torkeys import RsaSecret
from tests.unit.netdir.authorities import Authority, rsa_secret, vector
from tests.unit.netdir.authorities import consensus as make_consensus
from tests.unit.netdir.authorities import relays as make_relays
from tests.unit.path.tornetwork import EXIT, Made

KEY = bytes(range(32))
SIGNATURE = bytes(64)


@dataclass(frozen=True)
class Target:
    """A parser and samples of what it accepts."""

    parse: Callable[[bytes], Any]
    samples: tuple[bytes, ...]


def _text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def _cutter(make: Callable[[], Any]) -> Callable[[bytes], Any]:
    """Whole, and again in two pieces whose border the data itself chooses."""

    def parse(data: bytes) -> Any:
        border = data[0] if data else 0
        cutter = make()
        cutter.feed(data[:border])
        cutter.feed(data[border:])
        return make().feed(data)

    return parse


def _greet(data: bytes) -> None:
    """A program's handshake with the proxy. It says the same however it is cut, and is answered whatever it says."""
    heard = []
    for border in (len(data), data[0] % 32 if data else 0):
        handshake, said = Handshake(), b""
        for piece in (data[:border], data[border:]):
            if handshake.ask is None and handshake.flaw is None:
                said += handshake.receive(piece)
        heard.append((handshake.ask, handshake.flaw, said))
        if handshake.ask is not None:
            assert handshake.granted("host.example") and all(handshake.refused(code) for code in range(16))
    assert heard[0] == heard[1]
    if handshake.flaw is not None:
        raise Refused(handshake.flaw)


def _handshake(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A handshake says with CryptoError what a parser says with ParseError."""

    def checked(data: bytes) -> Any:
        try:
            return parse(data)
        except CryptoError as error:
            raise ParseError(str(error)) from None

    return checked


def _listed(data: bytes) -> None:
    """What is in a collection, and where it is saved: below one folder, each apart."""
    paths = [entry.path for entry in manifest.parse_manifest(data)]
    for fold in (False, True):
        saved = manifest.saved_paths(paths, fold=fold)
        assert len(set(saved)) == len(paths)
        assert not any(part in ("", ".", "..") for path in saved for part in path.split("/"))


class _Greedy:
    """A user of a stage that reads all that comes; at most MAX_UNPACKED of it."""

    MAX_UNPACKED = 1 << 22

    def __init__(self, end: Any) -> None:
        self.end = end
        self.heard: list[Any] = []
        self.size = 0
        end.handler = self

    def opened(self, now: float) -> None: ...

    def data(self, data: Any, now: float) -> None:
        self.heard.append(data)
        self.size += len(data)
        if self.size < self.MAX_UNPACKED:
            self.end.consumed(len(data), now)

    def drained(self, now: float) -> None: ...

    def ended(self, now: float) -> None: ...

    def aborted(self, code: int, now: float) -> None: ...


def _stage(make: Callable[[], Stage[Any, bytes]], *asked: Any) -> Callable[[bytes], Any]:
    """What comes to the far end of a stage, in two pieces whose border the data itself chooses, and its end."""

    def parse(data: bytes) -> Any:
        border = data[0] if data else 0
        stage = make()
        near, _ = _Greedy(stage.near), _Greedy(stage.far)
        for part in asked:
            stage.near.write(part, 0.0)
        for piece in (data[:border], data[border:]):
            stage.far.write(piece, 0.0)
        stage.far.end(0.0)
        if stage.failure is not None:
            raise ParseError("refused by the stage")
        return near.heard

    return parse


def _packed(make: Callable[[], Stage[Any, bytes]], *pieces: bytes) -> bytes:
    """What a stage sends for them."""
    stage = make()
    far = _Greedy(stage.far)
    for piece in pieces:
        stage.near.write(piece, 0.0)
    stage.near.end(0.0)
    return b"".join(far.heard)


def _compressed() -> dict[str, Target]:
    """What decompresses whole answers, with the encodings that this platform has."""
    samples = {encoding: (vector(f"consensus.{encoding}"),) for encoding in ("deflate", "x-zstd", "x-tor-lzma")}
    samples["gzip"] = (gzip.compress(b"one") + gzip.compress(b"two"),)
    return {
        f"compressed.{encoding}": Target(partial(_decompress, encoding), samples[encoding])
        for encoding in compressed.offered()
        if encoding != "identity"
    }


def _decompress(encoding: str, data: bytes) -> bytes:
    found = compressed.decompress(encoding, data, 1 << 16)
    assert len(found) <= 1 << 16
    return found


def _directory() -> dict[str, Target]:
    """Tor's directory documents."""
    certificate = Authority(0).certificate()
    base = consensus.Consensus.parse(vector("consensus-microdesc"))
    return {
        "authority.KeyCertificate": Target(authority.KeyCertificate.parse, (certificate,)),
        "authority.parse_certificates": Target(_certificates, (certificate * 2,)),
        "consensus.Consensus": Target(
            consensus.Consensus.parse, (make_consensus([Authority(0)], relays=make_relays(2)), vector("consensus-ns"))
        ),
        "buildtimes.BuildTimes": Target(BuildTimes().restore, (b"\1\2" * 200,)),
        "consensus_diff.apply_diff": Target(partial(consensus_diff.apply_diff, base), (vector("consensus-diff"),)),
        "exitpolicy.PortPolicy": Target(_text(exitpolicy.PortPolicy.parse), (b"accept 80,443,8000-8010",)),
        "exitpolicy.Rule": Target(
            _text(lambda text: exitpolicy.Rule.parse("accept", text)),
            (b"10.0.0.0/8:80-90", b"[2001:db8::]/32:*", b"10.0.0.0/255.0.0.0:80"),
        ),
        "guardrecord.decode_guards": Target(guardrecord.decode_guards, (guardrecord.encode_guards(*_guards()),)),
        "microdescriptor.Microdescriptor": Target(
            microdescriptor.Microdescriptor.parse, tuple(netdoc.split(vector("microdescriptors"), "onion-key", 9)[-2:])
        ),
        "microdescriptor.find_microdescriptors": Target(_found, (vector("microdescriptors"),)),
        "netdir.TorView.relay": Target(_viewed, (Made(1, EXIT, 1, "accept 80", policy6="accept 22").microdescriptor,)),
        "netdoc.Document": Target(
            lambda data: netdoc.Document(data, "document", 1 << 16),
            (b"one a b\n\ntwo\n-----BEGIN A-----\nAAEC\n-----END A-----\n",),
        ),
        "netdoc.parse_address": Target(_text(netdoc.parse_address), (b"192.0.2.1:80", b"[2001:db8::1]:443")),
        "netdoc.parse_date": Target(_text(netdoc.parse_date), (b"2026-11-29 20:40:00",)),
        "protovers.Protocols": Target(_text(protovers.Protocols.parse), (b"Link=4-5 LinkAuth=1,3 Relay=2-6",)),
        "routerdesc.ExtraInfo": Target(
            routerdesc.ExtraInfo.parse, tuple(netdoc.split(vector("extra-infos"), "extra-info", 9)[:1])
        ),
        "routerdesc.RouterDescriptor": Target(
            routerdesc.RouterDescriptor.parse, tuple(netdoc.split(vector("descriptors"), "router", 9)[-2:])
        ),
        "rsa.RsaKey": Target(RsaKey.parse, (rsa_secret("fuzz").public,)),
    }


def _found(data: bytes) -> dict[bytes, bytes]:
    parts = netdoc.split(data, "onion-key", microdescriptor.MAX_MICRODESCRIPTORS)
    asked = {sha256(part).digest() for part in parts}
    found = microdescriptor.find_microdescriptors(data, asked)
    if not found:
        raise ParseError("none")
    assert found.keys() == asked
    return found


_ONE_RELAY = consensus.Consensus.parse(make_consensus([Authority(0)], relays=make_relays(1)))


def _viewed(data: bytes) -> TorRelay:
    """What a client makes of a relay whose microdescriptor this is: relays write most of it themselves."""
    digest = sha256(data).digest()
    [status] = _ONE_RELAY.relays
    status = status._replace(digest=digest)
    view = TorView(replace(_ONE_RELAY, relays=(status,)))
    view.add({digest: data})
    view.exit(status).allows(None, 80)
    found = view.relay(status)
    if found is None:
        raise ParseError("no relay that can be used")
    assert found.is_family(found) in (True, False) and found.shares_subnet(found)
    return found


def _guards() -> tuple[list[guardrecord.Guard], list[guardrecord.Guard]]:
    sample = [guardrecord.Guard(bytes([number]) * 20, 1_800_000_000) for number in range(3)]
    sample[1].confirmed = sample[2].unlisted = 1_800_000_001
    return sample, sample[1:2]


def _certificates(data: bytes) -> Any:
    found = authority.parse_certificates(data)
    if not found:
        raise ParseError("none")
    return found


def _stages() -> dict[str, Target]:
    """The decoders of pipes/, with the codings that this platform has."""
    makers: dict[str, Callable[[], Stage[bytes, bytes]]] = {"framing.framing": framing}
    for make in (coding.deflate, coding.gzip, coding.brotli, coding.zstd):
        try:
            make()
        except LocalError:
            continue
        makers[f"coding.{make.__name__}"] = make
    targets = {
        name: Target(_stage(make), (_packed(make, b"word " * 20, bytes(70_000), b"."), _packed(make, b"a")))
        for name, make in makers.items()
    }
    get = http.Request((("Host", "host.example"),), "GET", "/")
    targets["http.client"] = Target(_stage(http.client, get, http.EndOfMessage()), _ANSWERS)
    targets["http.server"] = Target(_stage(http.server), _REQUESTS)
    return targets


_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nX-A: b\r\n\r\nuntil the end",
)
_REQUESTS = (
    b"GET /a?b HTTP/1.1\r\nHost: host.example\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
)


def _descriptor() -> bytes:
    ws = descriptor.Transport(descriptor.TransportKind.WS, "wss://host.example:443/node")
    tls = descriptor.Transport.tls("192.0.2.7:9443", KEY[:20])
    transports = (ws, descriptor.Transport.rtc((KEY, KEY)), tls)
    return descriptor.Descriptor(KEY, KEY, 1, 2, descriptor.Role(7), transports, SIGNATURE).encode()


_GREETINGS = (
    b"\4\1\0\x50\0\0\0\1me\0host.example\0",
    b"\4\1\0\x50\1\2\3\4\0",
    b"\5\2\0\2\1\2me\3you\5\1\0\3\x0chost.example\0\x50",
    b"\5\1\0\5\1\0\1\1\2\3\4\1\xbb",
    b"\4\xf0\0\0\0\0\0\1\0host.example\0",
    b"\5\1\0\5\xf0\0\3\x0chost.example\0\0",
    b"\5\1\0\5\xf1\0\1\1\2\3\4\0\0",
    b"\5\1\0\5\1\0\4" + bytes(15) + b"\1\1\xbb",
    b"CONNECT host.example:80 HTTP/1.1\r\nHost: host.example\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    b"CONNECT [::1]:80 HTTP/1.0\r\nContent-Length: 0\r\nTor-Stream-Isolation: 7\r\n\r\n",
)
_INFO = ordb.FileInfo(KEY, 300_000, "h\u00f6liday.jpg", "image/jpeg")
_COLLECTION = replace(_INFO, manifest_size=1000)
_TREE = (
    manifest.Entry("a/b.txt", 5, "text/plain"),
    manifest.Entry("a/empty", None),
    manifest.Entry("con", 1 << 33),
)
_SPECIFIERS = (linkspec.LinkSpecifier(0, b"addr:p"), linkspec.ed25519_specifier(KEY))
_CERT = certs.Ed25519Cert.issue(certs.CertType.IDENTITY_SIGNING, KEY, 9e8, KEY, lambda message: SIGNATURE)
_AUTHENTICATE = handshake.Authenticate(*(KEY,) * 8, rand=bytes(24), extra=b"extra", signature=SIGNATURE)
_NODES = facilitator.NodeList(1, 2, (_descriptor(), b"other"), KEY, SIGNATURE)
_MESSAGES = (
    ordb.Info(KEY, _INFO),
    ordb.Request(3),
    ordb.Piece(1, (KEY, KEY), b"data"),
    ordb.Refuse(2, 1),
    ordb.Have(((0, 2), (5, 1))),
    ordb.Done(),
)
_VALUE = buckets.SharedValue(KEY, 5)
_HEADER = buckets.EpochHeader(1, 2, 3, _VALUE, _VALUE, KEY, (buckets.Ring(1, 2, 3, KEY),), KEY, SIGNATURE)
_BUCKET = buckets.Bucket(1, 1, 2, (KEY, KEY), (buckets.Entry(_descriptor(), 5), KEY[:8], buckets.Entry(b"other", 6)))
_COMMIT = sharedrandom.Commit(1, KEY, KEY, SIGNATURE)
_LINK = sharelink.ShareLink(KEY, KEY)
_OWNED = rdv.Name(KEY, owned=True)
_CRYPTO = CPythonCrypto()
_NTOR_KEY = (_CRYPTO.x25519_public(KEY), KEY)
_CAPABILITIES = frozenset((extensions.Capability(2, 5), extensions.Capability(2, 6)))
_REQUEST = extensions.CircuitRequest(True, _CAPABILITIES)
_NTOR_STATE, _ONIONSKIN = ntor_v3.client_start(_CRYPTO, KEY, KEY, _NTOR_KEY[0], _REQUEST.encode())


def _ntor_reply(onionskin: bytes) -> bytes:
    return ntor_v3.server_reply(_CRYPTO, KEY, KEY, [_NTOR_KEY], onionskin, 72, lambda message: message)[0]


_CANDIDATES = sdp.Candidates(
    (
        sdp.Candidate(sdp.CandidateType.HOST, 1, 2113937151, "192.0.2.1", 50000),
        sdp.Candidate(sdp.CandidateType.HOST, 2, 2113937151, "01234567-89ab-cdef-0123-456789abcdef.local", 1),
        sdp.Candidate(sdp.CandidateType.SRFLX, 3, 1677729535, "2001:db8::1", 65535),
    )
)
_DESCRIPTION = sdp.Description(sdp.Setup.ACTIVE, KEY, "ufrag", "password" * 3, _CANDIDATES.items)
_SDP = tuple(_DESCRIPTION.to_sdp(kind) for kind in (DescriptionKind.OFFER, DescriptionKind.ANSWER))
_INTRODUCTIONS = tuple(
    signals.Introduction(kind, KEY[:16], KEY, KEY, 9, description, SIGNATURE)
    for kind, description in ((DescriptionKind.ANSWER, _DESCRIPTION), (DescriptionKind.CANDIDATES, _CANDIDATES))
)

_IDENTITY = RsaSecret.generate()

TARGETS: dict[str, Target] = {
    "cells.CellCutter": Target(
        _cutter(cells.CellCutter),
        (
            cells.encode_cell(0, 7, b"\0\4\0\5")
            + cells.encode_cell(0, 129, b"certs")
            + cells.encode_cell(0x80000001, 10, b"skin"),
        ),
    ),
    "address.parse_address": Target(
        _text(address.parse_address),
        (
            b"tcp://example.org:443",
            b"hash:Satoshi Nakamoto",
            b"[::1]:80",
            str(address.PrivateAddress(KEY)).encode(),
        ),
    ),
    "address.address_of": Target(
        _text(lambda text: address.address_of(text, 80)),
        (b"example.org", b"chat.hash.conv", address.PrivateAddress(KEY).host.encode(), b"xn--caf-dma.hash.conv"),
    ),
    "buckets.Bucket": Target(buckets.Bucket.parse, (_BUCKET.encode(),)),
    "buckets.BucketRequest": Target(buckets.BucketRequest.parse, (buckets.BucketRequest(1, 2, 3, 4).encode(),)),
    "buckets.EpochHeader": Target(buckets.EpochHeader.parse, (_HEADER.encode(),)),
    "certs.CrossCert": Target(certs.CrossCert.parse, (certs.CrossCert(KEY, 9, bytes(128)).encode(),)),
    "certs.Ed25519Cert": Target(certs.Ed25519Cert.parse, (_CERT.encode(),)),
    "create.Create2": Target(create.Create2.parse, (create.Create2(2, bytes(84)).encode(),)),
    "create.Created2": Target(create.Created2.parse, (create.Created2(bytes(64)).encode(),)),
    "create.Destroy": Target(create.Destroy.parse, (b"\1",)),
    "descriptor.Descriptor": Target(descriptor.Descriptor.parse, (_descriptor(),)),
    "extensions.CircuitRequest": Target(extensions.CircuitRequest.parse, (_REQUEST.encode(), b"\1\x09\3new")),
    "extensions.CircuitResponse": Target(
        lambda data: extensions.CircuitResponse.parse(data, _REQUEST), (extensions.CircuitResponse(31).encode(), b"\0")
    ),
    "facilitator.ErrorRecord": Target(facilitator.ErrorRecord.parse, (b"\1why not \xc3\xa9",)),
    "facilitator.NodeList": Target(facilitator.NodeList.parse, (_NODES.encode(),)),
    "facilitator.RecordCutter": Target(
        _cutter(lambda: facilitator.RecordCutter(tuple(facilitator.RecordType))),
        (
            facilitator.encode_record(3)
            + facilitator.encode_record(5, b"\1no")
            + facilitator.encode_record(1, b"x" * 99),
        ),
    ),
    "facilitator.ListRequest": Target(facilitator.ListRequest.parse, (facilitator.ListRequest(9).encode(), b"")),
    "facilitator.Ask": Target(
        facilitator.Ask.parse, (facilitator.Ask(9).encode(), facilitator.Ask(9, bytes(32)).encode())
    ),
    "facilitator.Delivery": Target(facilitator.Delivery.parse, (facilitator.Delivery(9, KEY).encode(),)),
    "facilitator.Descriptors": Target(
        facilitator.Descriptors.parse, (facilitator.Descriptors((_descriptor(), b"other")).encode(),)
    ),
    "facilitator.Hello": Target(facilitator.Hello.parse, (facilitator.Hello(KEY, KEY).encode(),)),
    "facilitator.Register": Target(
        facilitator.Register.parse, (facilitator.Register(SIGNATURE, _descriptor()).encode(),)
    ),
    "facilitator.Puzzle": Target(facilitator.Puzzle.parse, (facilitator.Puzzle(KEY[:16], 9, 9).encode(),)),
    "facilitator.Solved": Target(
        facilitator.Solved.parse,
        (facilitator.Solved(9, facilitator.Register(SIGNATURE, _descriptor())).encode(),),
    ),
    "facilitator.Signal": Target(facilitator.Signal.parse, (facilitator.Signal(9, KEY, KEY).encode(),)),
    "facilitator.Unreachable": Target(facilitator.Unreachable.parse, (facilitator.Unreachable(9, 1).encode(),)),
    "descriptor.parse_tls_address": Target(
        _text(descriptor.parse_tls_address), (b"0123456789abcdef0123456789abcdef01234567@192.0.2.7:9443",)
    ),
    "descriptor.check_ws_url": Target(
        _text(descriptor.check_ws_url), (b"wss://host.example:443/a%20b", b"ws://[::1]:80")
    ),
    "door.Handshake": Target(_greet, _GREETINGS),
    "conflux.Link": Target(
        conflux.Link.parse, (conflux.Link(bytes(32), 7, 1 << 40, conflux.Wish.HIGH_THROUGHPUT).encode(),)
    ),
    "conflux.Switch": Target(conflux.Switch.parse, (conflux.Switch(21).encode(),)),
    "handshake.AuthChallenge": Target(handshake.AuthChallenge.parse, (handshake.AuthChallenge(KEY, (1, 3)).encode(),)),
    "handshake.Authenticate": Target(handshake.Authenticate.parse, (_AUTHENTICATE.encode(),)),
    "handshake.Certs": Target(handshake.Certs.parse, (handshake.Certs(((4, _CERT.encode()), (5, b""))).encode(),)),
    "handshake.Netinfo": Target(
        handshake.Netinfo.parse, (handshake.Netinfo(9, "127.0.0.1", ("::1", "10.0.0.1", None)).encode(),)
    ),
    "handshake.Versions": Target(handshake.Versions.parse, (handshake.Versions().encode(),)),
    "tor.relay.named_relay": Target(
        lambda data: named_relay(linkspec.read_specifiers(Reader(data, "specifiers"))),
        (linkspec.encode_specifiers((*_SPECIFIERS, linkspec.LinkSpecifier(2, bytes(20)))),),
    ),
    "linkspec.read_specifiers": Target(
        lambda data: linkspec.ed25519_identity(linkspec.read_specifiers(Reader(data, "specifiers"))),
        (linkspec.encode_specifiers(_SPECIFIERS),),
    ),
    "manifest.parse_manifest": Target(_listed, (manifest.encode_manifest(_TREE), bytes(4))),
    "ntor_v3.client_finish": Target(
        _handshake(lambda data: ntor_v3.client_finish(_CRYPTO, _NTOR_STATE, data, 72)), (_ntor_reply(_ONIONSKIN),)
    ),
    "ntor_v3.server_reply": Target(_handshake(_ntor_reply), (_ONIONSKIN,)),
    "ordb.FileInfo": Target(ordb.FileInfo.parse, (_INFO.encode(), _COLLECTION.encode())),
    "ordb.MessageCutter": Target(
        _cutter(ordb.MessageCutter), tuple(ordb.encode_message(message) for message in _MESSAGES)
    ),
    "padding.PaddingNegotiate": Target(
        padding.PaddingNegotiate.parse,
        (padding.PaddingNegotiate(padding.PaddingCommand.START, 1500, 9500).encode(),),
    ),
    "rdv.DbInfo": Target(
        rdv.DbInfo.parse,
        (
            rdv.DbInfo((rdv.Advert(KEY, rdv.AdvertOp.ADD), rdv.Advert(KEY, rdv.AdvertOp.REMOVE))).encode(),
            rdv.DbInfo((rdv.Advert.add(_OWNED, rdv.Proof(20_000, bytes(64))), rdv.Advert.remove(_OWNED))).encode(),
        ),
    ),
    "rdv.parse_rdv_target": Target(_text(rdv.parse_rdv_target), (rdv.format_rdv_target(_OWNED).encode(),)),
    "relay.Begin": Target(
        relay.Begin.parse, (relay.Begin("host.example", 80, 5).encode(), relay.Begin("2001:db8::1", 22).encode())
    ),
    "relay.Connected": Target(
        relay.Connected.parse, (relay.Connected("127.0.0.1", 60).encode(), relay.Connected("::1", 60).encode())
    ),
    "relay.End": Target(relay.End.parse, (relay.End(4, "127.0.0.1", 60).encode(), relay.End(4, "::1", 60).encode())),
    "relay.Extend2": Target(relay.Extend2.parse, (relay.Extend2(_SPECIFIERS, 2, bytes(84)).encode(),)),
    "relay.Extended2": Target(relay.Extended2.parse, (relay.Extended2(bytes(64)).encode(),)),
    "relay.Resolve": Target(relay.Resolve.parse, (b"host.example\0",)),
    "relay.Resolved": Target(
        relay.Resolved.parse,
        (relay.Resolved((relay.Answer.of("127.0.0.1", 60), relay.Answer.of("::1", 60))).encode(),),
    ),
    "relay.Sendme": Target(relay.Sendme.parse, (relay.Sendme(1, bytes(20)).encode(),)),
    "relay.Truncated": Target(relay.Truncated.parse, (b"\x08",)),
    "relay.parse_target": Target(_text(relay.parse_target), (b"host.example:80", b"[::1]:22")),
    "relay.unpack_message": Target(relay.unpack_message, (relay.pack_message(2, 7, b"data"),)),
    "sdp.Candidates": Target(sdp.Candidates.parse, (_CANDIDATES.encode(),)),
    "sdp.Candidates.from_lines": Target(_text(sdp.Candidates.from_lines), (_CANDIDATES.to_lines().encode(),)),
    "sdp.Description": Target(sdp.Description.parse, (_DESCRIPTION.encode(),)),
    "sdp.Description.from_sdp": Target(_text(sdp.Description.from_sdp), tuple(text.encode() for text in _SDP)),
    "sharedrandom.Commit": Target(sharedrandom.Commit.parse, (_COMMIT.encode(),)),
    "sharedrandom.DrawRequest": Target(sharedrandom.DrawRequest.parse, (sharedrandom.DrawRequest(7).encode(),)),
    "sharedrandom.Draw": Target(sharedrandom.Draw.parse, (sharedrandom.Draw(((_COMMIT, KEY),)).encode(),)),
    "sharelink.find_link": Target(
        _text(sharelink.find_link), (_LINK.format().encode(), _LINK.format("https://site.example").encode())
    ),
    "sharing.parse_shared": Target(
        sharing.parse_shared,
        tuple(
            map(
                sharing.encode_shared,
                (
                    sharing.NodeRecord(KEY[:16], 9, 8, KEY[:16], _descriptor()),
                    sharing.Dropped(KEY, 9),
                    sharing.Beat(9, 8, 7, 6, "1.0", hears=(b"n" * 16,)),
                    sharing.Passed((sharing.Forward(9, KEY, 8, KEY[:16], KEY), sharing.Back(9, KEY, 9, KEY))),
                    sharing.Decision(KEY, True, KEY[:16], 9, KEY),
                    sharing.Decided(9),
                    sharing.CutPart((sharing.CutNode(KEY, 9, 8, KEY), sharing.CutNode(KEY, 9))),
                    sharing.Drawn(sharedrandom.Draw(((_COMMIT, KEY),))),
                ),
            )
        ),
    ),
    "signals.Introduction": Target(signals.Introduction.parse, tuple(item.encode() for item in _INTRODUCTIONS)),
    "x509.X509": Target(x509.X509.parse, (_IDENTITY.certificate(1.8e9),)),
    "xon.Xoff": Target(xon.Xoff.parse, (xon.Xoff().encode(),)),
    "xon.Xon": Target(xon.Xon.parse, (xon.Xon(5000).encode(),)),
    **_stages(),
    **_compressed(),
    **_directory(),
}
