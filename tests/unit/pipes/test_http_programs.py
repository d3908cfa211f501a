"""The HTTP parser against programs of others: Python's own client and server, over a loopback socket."""

import http.client
import http.server
import socket
import threading
from contextlib import contextmanager

import pytest

from convergence.pipes import http as pipes_http
from convergence.pipes.http import EndOfMessage, Request, Response
from convergence.pipes.stage import HIGH
from tests.unit.pipes.memory import NOW, Keeper

HOST = (("Host", "host.example"),)
SIZE = 8 * HIGH


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"x" * SIZE if self.path == "/large" else self.path.encode()
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.send_response_only(100)
        self.end_headers()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response_only(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in (body[:1], body[1:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()


def carry(far, sock):
    """What the parser gave goes out; what the socket gives comes in. Returns whether the socket goes on."""
    sock.sendall(b"".join(far.heard))
    far.heard.clear()
    data = sock.recv(1 << 16)
    if data:
        far.end.write(data, NOW)
    else:
        far.end.end(NOW)
    return bool(data)


def test_a_client_keeps_a_connection_to_a_server():
    parser = pipes_http.client()
    near, far = Keeper(parser.near, reads=True), Keeper(parser.far, reads=True)
    exchanges = [("GET", "/a", b""), ("POST", "/", b"question"), ("GET", "/large", b""), ("GET", "/b", b"")]
    with serving() as address, socket.create_connection(address, 30) as sock:
        for method, target, body in exchanges:
            length = (("Content-Length", str(len(body))),) if body else ()
            for part in (Request((*HOST, *length), method, target), body, EndOfMessage()):
                if part != b"":
                    near.end.write(part, NOW)
            while not isinstance(near.heard[-1:][0] if near.heard else None, EndOfMessage):
                assert carry(far, sock)
            answer = b"".join(part for part in near.heard if isinstance(part, bytes))
            assert answer == {"/large": b"x" * SIZE, "/": body}.get(target, target.encode())
            statuses = [part.status for part in near.heard if isinstance(part, Response)]
            assert statuses == ([100, 200] if body else [200]) and parser.reusable
            near.heard.clear()


class Echo(Keeper):
    """Answers each request, when it is whole, with its target and body: their client reads only then."""

    def data(self, part, now):
        self.end.consumed(len(part), now)
        self.heard.append(part.target.encode() if isinstance(part, Request) else part)
        if isinstance(part, EndOfMessage):
            for answer in (Response((("transfer-encoding", "chunked"),), 200), *self.heard):
                self.end.write(answer, now)
            self.heard.clear()


@pytest.mark.parametrize("body", [None, b"question", b"y" * SIZE], ids=["none", "short", "large"])
def test_a_server_answers_a_client_that_keeps_its_connection(body):
    parser = pipes_http.server()
    near, far = Echo(parser.near), Keeper(parser.far, reads=True)
    ours, theirs = socket.socketpair()
    ours.settimeout(30)

    def serve():
        with ours:
            while carry(far, ours):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    connection = http.client.HTTPConnection("host.example", timeout=30)
    connection.sock = theirs
    try:
        for target in ("/a", "/b"):
            connection.request("POST" if body else "GET", target, body)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, target.encode() + (body or b""))
    finally:
        connection.close()
        thread.join(30)
    assert near.calls == ["ended"] and parser.failure is None
