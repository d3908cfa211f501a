"""TLS stages in chains of pipes, with CPython's engine at both ends: what passes, what ends them, and in what words."""

import ctypes
import random
import time
from ctypes.util import find_library

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convergence.codes import TlsWhy
from convergence.errors import EndReason
from convergence.outbox import Outbox
from convergence.pipes.stage import HIGH
from convergence.pipes.tls import (
    HANDSHAKE_LIMIT,
    MAX_ANSWERS,
    MAX_RECORDS,
    TABLE,
    Phase,
    Tls,
    TlsError,
    check_host,
    explained,
)
from pynode.tls import CPythonTls, CPythonTlsServer
from tests.ports.tls_servers import Authority
from tests.unit.pipes.memory import NOW, Chain, Keeper, Reversed

WINDOW = (1 << 14, 1 << 14)
SAID = st.lists(st.integers(1, 20_000).map(lambda size: random.Random(size).randbytes(size)), max_size=5)
WINDOWS = st.tuples(st.integers(100, 5000), st.integers(0, 5000))
ORDERS = st.integers(0, 1000).map(random.Random)


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    return Rig(tmp_path_factory.mktemp("tls"))


class Rig:
    """Makes clients that trust the test's authority, and servers that have its certificate."""

    def __init__(self, folder):
        self.authority = Authority()
        self.outbox = Outbox()
        self.tls = CPythonTls(self.authority.roots, self.authority.revoked)
        self.servers = CPythonTlsServer(*self.authority.good.files(folder), ["http/1.1"])

    def client(self, host="good.example"):
        return Tls.client(self.tls, host, ["http/1.1"], self.outbox, NOW)

    def server(self):
        return Tls(self.servers.server, self.outbox, NOW)

    def chain(self, said=(), answered=(), shapes=(WINDOW,) * 3, host="good.example", **options):
        """client's user -> TLS -> a pipe -> TLS -> server's user. Nobody has written yet."""
        self.outbox = Outbox()
        client, server = self.client(host), self.server()
        chain = Chain(shapes, said, answered, between=[[client], [Reversed(server)]], **options)
        chain.client, chain.server = client, server
        for stage in (client, server):
            stage.opened(stage.far, NOW)
        return chain


@settings(max_examples=40, deadline=None)
@given(SAID, SAID, st.lists(WINDOWS, min_size=3, max_size=3), st.booleans(), ORDERS)
def test_what_is_written_comes_out_whole(rig, said, answered, shapes, eager, order):
    """The pipes between cut it anywhere; both write before the handshake is done."""
    chain = rig.chain(said, answered, shapes, eager=eager, order=order)
    for user in (chain.near, chain.far):
        user.write()
    chain.settle()
    assert (chain.far.heard, chain.near.heard) == (chain.near.said, chain.far.said)
    assert chain.client.open and chain.server.open
    assert chain.client.engine.protocol == chain.server.engine.protocol == "http/1.1"
    assert not any(end.queue or end.unused for end in chain.ends), "all credit is given back"


@pytest.mark.parametrize("near_first", [True, False])
def test_each_way_ends_by_itself(rig, near_first):
    chain = rig.chain([b"question"], [b"answer"])
    first, second = (chain.near, chain.far) if near_first else (chain.far, chain.near)
    first.write()
    first.end.end(NOW)
    chain.settle()
    assert (second.heard, second.calls, first.calls) == (first.said, ["ended"], [])
    middle = chain.pipes[1]
    assert not any(end.heard_end for end in middle), "the pipe below may be one that ends both ways at once"
    second.write()
    second.end.end(NOW)
    chain.settle()
    assert (first.heard, first.calls) == (second.said, ["ended"])
    assert all(end.heard_end for end in middle) and chain.client.closed and chain.server.closed
    assert rig.outbox.deadline() is None, "no timer is left"


def test_near_opens_when_the_certificate_is_verified(rig):
    client, server = rig.client(), rig.server()
    far, user = Keeper(client.far), Keeper(client.near)
    client.opened(client.far, NOW)
    assert user.calls == [] and far.size > 0
    network = Keeper(server.far)
    Keeper(server.near)
    server.far.write(b"".join(far.heard), NOW)
    client.far.write(b"".join(network.heard), NOW)
    assert user.calls == ["opened"]


@pytest.mark.parametrize("eager", [True, False])
def test_nothing_is_said_to_a_server_that_is_not_verified(rig, eager):
    chain = rig.chain([b"secret" * 100], [b"answer"], host="bad.example", eager=eager)
    heard = bytearray()
    for user in (chain.near, chain.far):
        user.write()
    chain.settle(lambda: heard.extend(chain.far.heard))
    assert (chain.near.heard, chain.far.heard, heard) == (b"", b"", b"")
    assert chain.client.failure.why.code is TlsWhy.WRONG_HOST
    assert chain.near.calls == [EndReason.TORPROTOCOL] and len(chain.far.calls) == 1


def test_a_handshake_that_never_ends_is_ended(rig):
    rig.outbox = Outbox()
    client = rig.client()
    far, user = Keeper(client.far), Keeper(client.near)
    rig.outbox.run_timers(NOW + HANDSHAKE_LIMIT - 0.1)
    assert not client.closed
    rig.outbox.run_timers(NOW + HANDSHAKE_LIMIT)
    assert client.closed and client.failure.why.code is TlsWhy.SILENT
    assert user.calls == far.calls == [EndReason.TIMEOUT]
    assert rig.outbox.deadline() is None


def test_an_end_without_close_notify_is_no_end(rig):
    chain = rig.chain([b"question"], [b"half of the ans"])
    for user in (chain.near, chain.far):
        user.write()
    chain.settle()
    chain.pipes[1][1].end(NOW)  # of the pipe, not of the TLS in it
    chain.settle()
    assert chain.near.heard == b"half of the ans" and chain.near.calls == [EndReason.CONNRESET]
    assert chain.client.failure.why.code is TlsWhy.TRUNCATED


def test_what_follows_close_notify_is_nobodys(rig):
    chain = rig.chain([b"question"], [b"answer"])
    for user in (chain.near, chain.far):
        user.write()
    chain.far.end.end(NOW)
    chain.settle()
    chain.pipes[1][1].write(b"more" * 1000, NOW)
    chain.settle()
    assert (chain.near.heard, chain.near.calls) == (b"answer", ["ended"])
    assert not chain.pipes[1][0].unused, "its credit is given back"


def test_a_pipe_that_breaks_after_close_notify_is_over(rig):
    chain = rig.chain([b"question"], [b"answer"])
    for user in (chain.near, chain.far):
        user.write()
    chain.far.end.end(NOW)
    chain.settle()
    assert chain.near.calls == ["ended"] and not chain.client.closed
    chain.pipes[1][1].abort(EndReason.CONNRESET, NOW)
    chain.settle()
    assert chain.near.calls == ["ended", EndReason.CONNRESET] and chain.client.closed
    assert chain.near.heard == b"answer"


@pytest.mark.parametrize("who", ["near", "far"])
def test_an_abort_reaches_both_users(rig, who):
    chain = rig.chain([b"question"], [b"answer"])
    for user in (chain.near, chain.far):
        user.write()
    chain.settle()
    aborting, other = (chain.near, chain.far) if who == "near" else (chain.far, chain.near)
    aborting.end.abort(EndReason.HIBERNATING, NOW)
    chain.settle()
    assert (aborting.calls, other.calls) == ([], [EndReason.HIBERNATING])
    assert chain.client.closed and chain.server.closed and rig.outbox.deadline() is None


def test_a_reader_that_stops_stops_the_writer(rig):
    size, record = 8_000_000, 1 << 16
    chain = rig.chain([bytes(record)] * (size // record), shapes=[WINDOW, WINDOW, WINDOW])
    chain.far.reads = False
    chain.near.write()
    held = []
    chain.settle(lambda: held.append(chain.held))
    stages = [way for stage in (chain.client, chain.server) for way in (stage.outgoing, stage.incoming)]
    assert max(held) <= chain.limit + 2 * HIGH + record, "what the stages handed up is counted by the pipes"
    assert all(way._account <= HIGH + record for way in stages)
    written = size - sum(map(len, chain.near.left))
    assert chain.near.left and written < 2_000_000, written
    chain.far.read()
    chain.settle()
    assert len(chain.far.heard) == len(chain.near.said) and not chain.near.left


class Late:
    """A factory whose engine is loaded later, as a browser's."""

    def __init__(self, tls):
        self.tls = tls
        self.open = self.ended = self.closed = False

    def client(self, host, protocols, now, wake):
        self._wake, self._asked = wake, (host, protocols, now)
        return self

    def load(self):
        stage_engine = self.tls.client(*self._asked, lambda now: None)
        for name in ("receive", "receive_end", "read", "write", "end", "take"):
            setattr(self, name, getattr(stage_engine, name))
        self.engine = stage_engine
        self._wake(NOW)

    def take(self):
        return b""

    def read(self):
        self.open, self.ended = self.engine.open, self.engine.ended
        return b""

    def close(self):
        self.closed = True


def test_an_engine_that_is_loaded_later_begins_then(rig):
    late = Late(rig.tls)
    client = Tls.client(late, "good.example", [], rig.outbox, NOW)
    far, user = Keeper(client.far), Keeper(client.near)
    client.opened(client.far, NOW)
    client.near.write(b"early", NOW)
    assert far.size == 0
    late.load()
    assert far.heard[0][:3] == b"\x16\x03\x01", "a handshake record"
    client.near.abort(EndReason.DONE, NOW)
    assert late.closed and far.calls == [EndReason.DONE] and user.calls == []


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=2000))
def test_garbage_is_a_code(rig, data):
    engine = rig.tls.client("good.example", [], NOW, lambda now: None)
    engine.receive(data)
    engine.receive_end()
    with pytest.raises(TlsError) as caught:
        while engine.read():
            pass
    assert isinstance(caught.value.why.code, TlsWhy)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 255), st.integers(1, 3000))
def test_an_altered_answer_is_a_code(rig, where, by, cut):
    """One byte of all that the server sends, wherever it is."""
    engine = rig.tls.client("good.example", [], time.time(), lambda now: None)
    server, sent, got = rig.authority.server("good"), bytearray(), b""
    with pytest.raises(TlsError) as caught:
        for _ in range(20):
            answer = server(b"".join(iter(engine.take, b"")))
            start = len(sent)
            sent += answer or b""
            if start <= where < len(sent):
                sent[where] ^= by
            for at in range(start, len(sent), cut):
                engine.receive(bytes(sent[at : at + cut]))
                while plain := engine.read():
                    got += plain
            if engine.open and not engine.ended and answer:
                engine.end()
            if answer is None:
                engine.receive_end()
                engine.read()
            if engine.ended:
                assert where >= len(sent)
                raise TlsError(TlsWhy.NO_HOST)  # there was no such byte
    assert isinstance(caught.value.why.code, TlsWhy)


def test_records_are_never_longer_than_said(rig):
    engine, server = rig.tls.client("good.example", [], NOW, lambda now: None), rig.servers.server()
    for _ in range(3):
        while records := engine.take():
            server.receive(records)
        server.read()
        while records := server.take():
            engine.receive(records)
        engine.read()
    assert engine.open and server.open
    engine.write(random.Random(1).randbytes(300_000))
    sizes = [len(records) for records in iter(engine.take, b"")]
    assert max(sizes) <= MAX_RECORDS and sum(sizes) > 300_000


@pytest.mark.parametrize(
    ("verdict", "reason", "why"),
    [
        (10, "", TlsWhy.EXPIRED),
        (9, "", TlsWhy.NOT_YET),
        (62, "", TlsWhy.WRONG_HOST),
        (18, "", TlsWhy.SELF_SIGNED),
        (20, "", TlsWhy.UNKNOWN_ROOT),
        (23, "", TlsWhy.REVOKED),
        (66, "", TlsWhy.WEAK),
        (24, "", TlsWhy.BAD_CERTIFICATE),
        (0, "UNSUPPORTED_PROTOCOL", TlsWhy.OLD),
        (0, "TLSV1_ALERT_PROTOCOL_VERSION", TlsWhy.OLD),
        (0, "SSLV3_ALERT_HANDSHAKE_FAILURE", TlsWhy.REFUSED),
        (0, "WRONG_VERSION_NUMBER", TlsWhy.GARBAGE),
        (0, "", TlsWhy.GARBAGE),
    ],
)
def test_reasons_become_codes(verdict, reason, why):
    assert explained(verdict, reason).why.code is why


@pytest.mark.parametrize("host", ["", ".", ".example", "a b", "a\n", "ä.example", "a\0", "x" * 254, "a/b", "[::1]"])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(TlsError):
        check_host(host)


@pytest.mark.parametrize("host", ["a.example", "a_b.example", "a.example.", "192.0.2.1", "2001:db8::1", "localhost"])
def test_a_host_is_taken(host):
    check_host(host)


def test_time_ends_the_handshake_only():
    assert TABLE.deadlines == {Phase.HANDSHAKE: HANDSHAKE_LIMIT}


class Updating:
    """OpenSSL as a server that can ask for new keys (RFC 8446, 4.6.3): Python's `ssl` does not offer that."""

    def __init__(self, certificate, key):
        self.ssl, self.crypto = ctypes.CDLL(find_library("ssl")), ctypes.CDLL(find_library("crypto"))
        for function in (self.ssl.TLS_server_method, self.ssl.SSL_CTX_new, self.ssl.SSL_new):
            function.restype = ctypes.c_void_p
        for function in (self.crypto.BIO_new, self.crypto.BIO_s_mem):
            function.restype = ctypes.c_void_p
        context = ctypes.c_void_p(self.ssl.SSL_CTX_new(ctypes.c_void_p(self.ssl.TLS_server_method())))
        assert self.ssl.SSL_CTX_use_certificate_chain_file(context, str(certificate).encode()) == 1
        assert self.ssl.SSL_CTX_use_PrivateKey_file(context, str(key).encode(), 1) == 1
        self.connection = ctypes.c_void_p(self.ssl.SSL_new(context))
        memory = ctypes.c_void_p(self.crypto.BIO_s_mem())
        self.input, self.output = (ctypes.c_void_p(self.crypto.BIO_new(memory)) for _ in range(2))
        self.ssl.SSL_set_bio(self.connection, self.input, self.output)
        self.ssl.SSL_set_accept_state(self.connection)
        self.buffer = ctypes.create_string_buffer(1 << 16)

    def answer(self, data):
        if data:
            self.crypto.BIO_write(self.input, data, len(data))
        self.ssl.SSL_do_handshake(self.connection)
        size = self.crypto.BIO_read(self.output, self.buffer, len(self.buffer))
        return ctypes.string_at(self.buffer, max(size, 0))

    def ask_for_new_keys(self):
        assert self.ssl.SSL_key_update(self.connection, 1) == 1
        return self.answer(b"")


def test_a_server_that_asks_for_answers_and_reads_none_is_ended(rig, tmp_path):
    """Each KeyUpdate has to be answered, and costs its sender nothing: no plain bytes, so no credit."""
    client, server = rig.client(), Updating(*rig.authority.good.files(tmp_path))
    network, user = Keeper(client.far), Keeper(client.near, reads=True)
    client.opened(client.far, NOW)
    said = 0
    while not user.calls or said < len(network.heard):
        heard = b"".join(network.heard[said:])
        said = len(network.heard)
        client.far.consumed(len(heard), NOW)
        client.far.write(server.answer(heard), NOW)
    asked = 0
    while not client.closed:
        assert asked < 4 * (MAX_ANSWERS + HIGH) and client.outgoing.pushed <= MAX_ANSWERS
        updates = b"".join(server.ask_for_new_keys() for _ in range(100))
        asked += len(updates)
        client.far.write(updates, NOW)
    assert client.failure.why.code is TlsWhy.GARBAGE and user.calls == ["opened", EndReason.TORPROTOCOL]
