"""http and https through an exit: what is asked, what an answer may hold, and what a person is told when it fails."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from convergence import fetch as fetch_module
from convergence.circuit.exit import ExitService
from convergence.codes import FetchWhy, PathWhy, TlsWhy, UrlFlaw
from convergence.effects import CloseLink, Connect, Send
from convergence.errors import EndReason, LocalError, Problem, Why
from convergence.events import Event, as_json
from convergence.fetch import ATTEMPTS, IDLE_TIMEOUT, MAX_REDIRECTS, MAX_URL, PROGRESS_STEP, Fetch, Target
from convergence.path.exits import TRY_ELSEWHERE, ExitConnections
from convergence.pipes.http import MAX_HEAD
from convergence.pipes.tls import HANDSHAKE_LIMIT
from pynode.tls import CPythonTls, CPythonTlsServer
from tests.ports.tls_servers import root
from tests.unit.circuit.rig import Net


class Web:
    """A client, exits, and a site that a test plays."""

    def __init__(self):
        self.net = Net("web")
        self.client = self.net.add("client", relays=False)
        self.entry, self.exit = self.net.relays(2)
        self.service = ExitService(self.exit.outbox)
        self.exit.services.begin = self.service.begin
        self.exit.services.circuit_closed = lambda circuit, now: None
        self.circuits = []
        self.no_exit = False
        self.tls = None
        self.body = bytearray()

    def better(self, circuit, host, port):
        return False

    def serves(self, circuit, host, port):
        return True

    def begin_flags(self, circuit, port):
        return 0

    def exit_circuit(self, host, port, on_ready, on_failed, now, *, avoid=()):
        """Stands for the pool."""
        if self.no_exit:
            on_failed(Why(PathWhy.NO_EXIT), now)
            return
        circuit = self.net.build(self.client, [self.entry, self.exit])
        self.circuits.append(circuit)
        on_ready(circuit, self.net.now)

    def fetch(self, url="http://host.example/page"):
        fetch = Fetch(3, url, ExitConnections(self, self.client.outbox), self.client.outbox, self.tls, self.body.extend)
        fetch.start(self.net.now)
        self.net.tick(0)
        return fetch

    def asked(self, kind):
        return [effect for effect in self.exit.effects if isinstance(effect, kind)]

    @property
    def channel(self):
        return self.asked(Connect)[-1].channel

    def opened(self):
        self.service.opened(self.channel, self.net.now)
        self.net.pump()

    def request(self):
        """What the site has got on the newest channel."""
        return b"".join(b"".join(effect.buffers) for effect in self.asked(Send) if effect.channel == self.channel)

    def answer(self, data, *, close=None):
        self.service.data(self.channel, data, self.net.now)
        self.net.pump()
        if close is not None:
            self.service.closed(self.channel, close, self.net.now)
            self.net.pump()

    def events(self, kind):
        return [as_json(effect) for effect in self.client.effects if isinstance(effect, Event) and effect.kind == kind]

    def failed(self):
        codes = [data["why"]["code"] for data in self.events("fetch-failed")]
        assert len(codes) <= 1
        return codes[0] if codes else None

    def quiet(self):
        """Nothing is left of it."""
        return all(circuit.closed for circuit in self.circuits)


@pytest.fixture
def web():
    return Web()


def response(body=b"hello", status="200 OK", *headers):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# -- addresses


@pytest.mark.parametrize(
    ("url", "site", "authority", "path"),
    [
        ("http://host.example", ("http", "host.example", 80), "host.example", "/"),
        ("host.example/a?b=c#d", ("https", "host.example", 443), "host.example", "/a?b=c"),
        ("  http://HOST.example:8080/x ", ("http", "host.example", 8080), "host.example:8080", "/x"),
        ("https://host.example:80/", ("https", "host.example", 80), "host.example:80", "/"),
        ("http://[2001:db8::1]:81/", ("http", "2001:db8::1", 81), "[2001:db8::1]:81", "/"),
        ("http://b\u00fccher.example/", ("http", "xn--bcher-kva.example", 80), "xn--bcher-kva.example", "/"),
        ("http://user:secret@host.example/", ("http", "host.example", 80), "host.example", "/"),
    ],
)
def test_addresses_that_can_be_fetched(url, site, authority, path):
    target = Target.parse(url)
    assert (target.site, target.authority, target.path) == (site, authority, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http:///path",
        "ftp://host.example/",
        "http://host.example:99999/",
        "http://host.example:x/",
        "http://[2001:db8::1/",
        "http://host example/",
        "http://host.example/a b",
        "http://host.example/\u00fc",
        "http://host.example/\x01",
        "http://host.example/?\x7f",
        "http://" + "a" * 70 + ".example/",
        "http://host.example/" + "a" * MAX_URL,
    ],
)
def test_addresses_that_cannot(url):
    with pytest.raises(LocalError):
        Target.parse(url)


# -- a page


def test_a_page_arrives(web):
    fetch = web.fetch("http://host.example:8080/page?x=1")
    assert web.asked(Connect)[0].address == "host.example:8080"
    web.opened()
    head, *lines = web.request().decode().split("\r\n")
    assert head == "GET /page?x=1 HTTP/1.1"
    assert sorted(line.lower() for line in lines if line) == [
        "accept: */*",
        "host: host.example:8080",
        "user-agent: mozilla/5.0",
    ]
    web.answer(response(b"hello", "200 OK", "Content-Type: text/html"))
    assert web.body == b"hello" and fetch.over
    assert web.events("fetch-response") == [{"id": 3, "status": 200, "type": "text/html", "length": 5}]
    assert web.events("fetch-done") == [{"id": 3, "size": 5}]
    assert web.quiet() and web.asked(CloseLink)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(),
        b"HTTP/1.0 200 OK\r\n\r\nhello",
    ],
)
def test_framings_of_an_answer(web, answer):
    web.fetch()
    web.opened()
    for byte in range(len(answer)):
        web.answer(answer[byte : byte + 1])
    web.service.closed(web.channel, "done", web.net.now)
    web.net.pump()
    assert web.body == b"hello" and web.failed() is None and len(web.events("fetch-done")) == 1


def test_chunks_of_a_byte_each_are_handed_on_together(web):
    fetch = web.fetch()
    web.opened()
    handed = []
    fetch._sink = handed.append
    web.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + 10_000 * b"1\r\nx\r\n" + b"0\r\n\r\n")
    assert b"".join(handed) == 10_000 * b"x" and len(handed) < 100


def test_the_default_port_is_not_in_the_host_header(web):
    web.fetch("http://[2001:db8::1]/")
    web.opened()
    assert b"Host: [2001:db8::1]\r\n" in web.request()


def test_progress_is_told_in_steps(web):
    web.fetch()
    web.opened()
    body = bytes(3 * PROGRESS_STEP)
    web.answer(response(body))
    sizes = [data["size"] for data in web.events("fetch-progress")]
    assert 2 <= len(sizes) <= 3 and sizes == sorted(sizes) and len(web.body) == len(body)


# -- redirects


def redirect(location, status="302 Found"):
    return f"HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nbody".encode("latin-1")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
def test_redirects_within_a_site_are_followed_over_the_same_connection(web, status):
    web.fetch("http://host.example/a/b")
    web.opened()
    web.answer(redirect("../c", status))
    assert len(web.asked(Connect)) == 1
    assert web.request().endswith(
        b"GET /c HTTP/1.1\r\nHost: host.example\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n"
    )
    web.answer(response())
    assert web.body == b"hello" and len(web.circuits) == 1 and web.quiet()


def test_redirects_to_another_site_are_followed_on_the_same_circuit(web):
    web.fetch("http://host.example/a/b")
    web.opened()
    web.answer(redirect("http://other.example:8080/c"))
    assert web.asked(Connect)[-1].address == "other.example:8080" and len(web.asked(Connect)) == 2
    web.opened()
    assert web.request().startswith(b"GET /c HTTP/1.1\r\nHost: other.example:8080\r\n")
    web.answer(response())
    assert web.body == b"hello" and len(web.circuits) == 1 and web.quiet()


@pytest.mark.parametrize("length", [b"Content-Length: 99999999\r\n", b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_long_body_of_a_redirect_is_not_waited_for(web, length):
    """It might never end."""
    web.fetch()
    web.opened()
    web.answer(b"HTTP/1.1 302 Found\r\nLocation: /next\r\n" + length + b"\r\n" + b"1\r\nx\r\n")
    assert len(web.asked(Connect)) == 2 and web.body == b""


def test_a_site_that_closes_after_a_redirect_is_connected_to_again(web):
    web.fetch()
    web.opened()
    web.answer(b"HTTP/1.1 302 Found\r\nLocation: /next\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert len(web.asked(Connect)) == 2
    web.opened()
    web.answer(response())
    assert web.body == b"hello" and web.quiet()


def test_redirects_are_counted(web):
    web.fetch()
    web.opened()
    for number in range(MAX_REDIRECTS + 1):
        web.answer(redirect(f"/{number}"))
    assert web.failed() == FetchWhy.CIRCLE and web.quiet()


@pytest.mark.parametrize(
    "location", ["https://host.example/", "http://[", "http://host.example/\x01", "ftp://x/", "http://a b/", "//[::1"]
)
def test_redirects_to_what_cannot_be_fetched_fail_with_a_reason(web, location):
    web.fetch()
    web.opened()
    web.answer(redirect(location))
    assert web.failed() == FetchWhy.BAD_REDIRECT and web.quiet()
    assert web.events("fetch-failed")[0]["why"]["flaw"] in UrlFlaw


# -- failures


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example ESMTP\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" * 10,
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * (2 * MAX_HEAD),
    ],
)
def test_what_is_no_http_fails(web, answer):
    web.fetch()
    web.opened()
    web.answer(answer)
    assert web.failed() == FetchWhy.NOT_HTTP and web.quiet()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", response(b"hello")[:-2]])
def test_an_answer_cut_short_fails(web, answer):
    web.fetch()
    web.opened()
    web.answer(answer, close="done")
    assert web.failed() and not web.events("fetch-done") and web.quiet()


def test_an_answer_that_is_too_large_is_stopped(web, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_BODY", 1000)
    web.fetch()
    web.opened()
    web.answer(response(bytes(5000)))
    assert web.failed() == FetchWhy.TOO_LARGE and len(web.body) <= 1000 and web.quiet()


@pytest.mark.parametrize("reason", ["policy", "timeout", "unreachable", "limit"])
def test_other_exits_are_tried_and_then_a_person_is_told(web, reason):
    web.fetch()
    for _ in range(ATTEMPTS):
        assert web.failed() is None
        web.service.closed(web.channel, reason, web.net.now)
        web.net.pump()
    assert web.failed() and len(web.circuits) == ATTEMPTS and web.quiet()


@pytest.mark.parametrize("reason", ["refused", "resolve", "reset"])
def test_what_another_exit_would_not_mend_is_told_at_once(web, reason):
    web.fetch()
    web.service.closed(web.channel, reason, web.net.now)
    web.net.pump()
    assert web.failed() and len(web.circuits) == 1 and web.quiet()


def test_after_the_first_byte_nothing_is_tried_again(web):
    web.fetch()
    web.opened()
    web.answer(response(b"hello")[:-1])
    web.circuits[0].destroy(0, web.net.now)
    web.net.pump()
    assert web.failed() == FetchWhy.PATH_BROKE and len(web.circuits) == 1


def test_a_second_attempt_starts_afresh(web):
    web.fetch()
    web.opened()
    web.answer(b"HTTP/1.1 200 OK\r\nContent-Le")
    web.circuits[0].destroy(0, web.net.now)
    web.net.pump()
    web.opened()
    web.answer(response())
    assert web.body == b"hello" and len(web.circuits) == 2


def test_every_reason_has_a_code():
    assert set(fetch_module._WHY) >= TRY_ELSEWHERE
    assert EndReason.DONE not in fetch_module._WHY


def test_without_an_exit_a_person_is_told(web):
    web.no_exit = True
    web.fetch()
    assert web.failed() == PathWhy.NO_EXIT


def test_a_host_that_no_stream_can_name_fails(web):
    web.fetch("http://-bad-/")
    assert web.failed() and web.quiet()


def test_a_silent_site_is_given_up(web):
    web.fetch()
    web.opened()
    web.net.tick(IDLE_TIMEOUT - 10)
    web.answer(b"HTTP/1.1 200 OK\r\n")
    web.net.tick(20)
    assert web.failed() is None
    web.net.tick(IDLE_TIMEOUT)
    assert web.failed() == FetchWhy.TIMEOUT and web.quiet()
    web.net.tick(10 * IDLE_TIMEOUT)
    web.failed()


def test_a_silent_site_is_given_up_though_the_clock_is_set_back(web):
    web.fetch()
    web.opened()
    web.client.outbox.shift(-86400.0)
    web.net.now -= 86400.0
    web.net.tick(IDLE_TIMEOUT)
    assert web.failed() == FetchWhy.TIMEOUT


def test_cancel_closes_everything_and_is_told_once(web):
    fetch = web.fetch()
    web.opened()
    fetch.cancel(web.net.now)
    fetch.cancel(web.net.now)
    web.net.pump()
    assert web.failed() == FetchWhy.CANCELLED and web.quiet()
    web.net.tick(2 * IDLE_TIMEOUT)
    assert web.failed() == FetchWhy.CANCELLED


def test_a_circuit_that_comes_after_cancel_is_closed(web):
    ready = []
    web.exit_circuit = lambda host, port, on_ready, on_failed, now, *, avoid: ready.append(on_ready)
    fetch = web.fetch()
    fetch.cancel(web.net.now)
    circuit = web.net.build(web.client, [web.entry, web.exit])
    ready[0](circuit, web.net.now)
    web.net.pump()
    assert circuit.closed


# -- https


class SecureSite:
    """Speaks TLS on the newest channel, and HTTP inside it."""

    def __init__(self, web, folder, host="host.example", **options):
        authority = root("root")
        self.web = web
        web.tls = CPythonTls(authority.certificate.public_bytes(Encoding.PEM).decode(), frozenset())
        self.server = CPythonTlsServer(*authority.sign(host, (host,), **options).files(folder), ("http/1.1",))
        self.engine = None
        self.asked = b""

    def accept(self):
        """A new connection."""
        self.web.opened()
        self.engine, self._read = self.server.server(), 0
        self.turn()

    def turn(self):
        """Hear all that has come, say all that is to be said, until nothing moves."""
        while True:
            came = self.web.request()[self._read :]
            self._read += len(came)
            self.engine.receive(came)
            while plain := self.engine.read():
                self.asked += plain
            said = b""
            while records := self.engine.take():
                said += records
            if said:
                self.web.answer(said)
            elif not came:
                return

    def say(self, data, *, end=False):
        self.engine.write(data)
        if end:
            self.engine.end()
        self.turn()


def test_a_page_arrives_by_https_and_the_exit_sees_none_of_it(web, tmp_path):
    site = SecureSite(web, tmp_path)
    web.fetch("https://host.example/secret")
    assert web.asked(Connect)[0].address == "host.example:443"
    site.accept()
    assert site.asked.startswith(b"GET /secret HTTP/1.1\r\nHost: host.example\r\n")
    assert site.engine.protocol == "http/1.1"
    site.say(response(b"the answer"))
    assert web.body == b"the answer" and web.failed() is None and web.quiet()
    passed = web.request() + b"".join(b"".join(effect.buffers) for effect in web.asked(Send))
    assert not any(word in passed for word in (b"secret", b"GET", b"the answer"))


def test_https_redirects_stay_on_one_connection_and_never_lead_to_http(web, tmp_path):
    site = SecureSite(web, tmp_path)
    web.fetch("https://host.example/")
    site.accept()
    site.say(redirect("/next"))
    assert b"GET /next HTTP/1.1" in site.asked and len(web.asked(Connect)) == 1
    site.say(redirect("http://host.example/open"))
    assert web.failed() == FetchWhy.BAD_REDIRECT and len(web.asked(Connect)) == 1
    assert web.events("fetch-failed")[0]["why"]["flaw"] == UrlFlaw.DOWNGRADE


def test_http_may_lead_to_https(web, tmp_path):
    site = SecureSite(web, tmp_path)
    web.fetch("http://host.example/")
    web.opened()
    web.answer(redirect("https://host.example/"))
    site.accept()
    site.say(response(b"safe"))
    assert web.body == b"safe" and web.failed() is None


def test_a_body_that_the_end_ends_must_end_with_close_notify(web, tmp_path):
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    site = SecureSite(web, tmp_path)
    web.fetch("https://host.example/")
    site.accept()
    site.say(head + b"all of it", end=True)
    assert web.body == b"all of it" and web.failed() is None and len(web.events("fetch-done")) == 1


def test_an_answer_that_is_cut_is_no_answer(web, tmp_path):
    site = SecureSite(web, tmp_path)
    web.fetch("https://host.example/")
    site.accept()
    site.say(b"HTTP/1.1 200 OK\r\n\r\nnot all of")
    web.service.closed(web.channel, "done", web.net.now)
    web.net.pump()
    assert web.failed() == TlsWhy.TRUNCATED and not web.events("fetch-done") and web.quiet()


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        ("https://other.example/", {}, TlsWhy.WRONG_HOST),
        ("https://host.example/", {"days": (-3, -1)}, TlsWhy.EXPIRED),
        ("https://host.example/", {"days": (1, 3)}, TlsWhy.NOT_YET),
    ],
)
def test_a_certificate_that_is_not_good_fails_before_anything_is_asked(web, tmp_path, url, options, why):
    site = SecureSite(web, tmp_path, **options)
    web.fetch(url)
    site.accept()
    assert web.failed() == why and site.asked == b"" and web.quiet()


def test_a_site_that_speaks_no_tls_fails(web, tmp_path):
    SecureSite(web, tmp_path)
    web.fetch("https://host.example/")
    web.opened()
    web.answer(response())
    assert web.failed() == TlsWhy.GARBAGE and web.quiet()


def test_a_site_that_cuts_the_connection_before_tls_stands_is_told_as_one_that_may_speak_none(web, tmp_path):
    SecureSite(web, tmp_path)
    web.fetch("https://host.example/")
    web.opened()
    web.service.closed(web.channel, "reset", web.net.now)
    web.net.pump()
    assert web.failed() == TlsWhy.CUT and web.quiet()


def test_a_site_that_never_shakes_hands_has_a_deadline(web, tmp_path):
    SecureSite(web, tmp_path)
    web.fetch("https://host.example/")
    web.opened()
    web.net.tick(HANDSHAKE_LIMIT + 1)
    assert web.failed() == TlsWhy.SILENT and web.quiet()


def test_without_tls_https_is_refused_in_words(web):
    with pytest.raises(Problem) as refused:
        web.fetch("https://host.example/")
    assert refused.value.why.code is UrlFlaw.HTTPS
