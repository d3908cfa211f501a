"""A relay's documents on their way to the authorities: signed, taken or refused with a reason, handed over in time."""

from dataclasses import replace

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.crypto.routersign import RSA_BITS, check_descriptor, check_extra_info
from convergence.crypto.rsa import RsaKey
from convergence.errors import EndReason
from convergence.events import DescriptorRefused, DescriptorTaken
from convergence.outbox import Outbox
from convergence.pipes import http
from convergence.pipes.pending import Pending
from convergence.tor.network import DirectoryAddress
from convergence.tor.publishing import PUBLISH_EVERY, RETRY_FIRST, RETRY_MAX, Publisher
from convergence.tor.relay import NO_EXIT, OFFERED
from convergence.wire.routerdesc import ExtraInfo, RouterDescriptor
from pynode.torkeys import RsaSecret
from tests.unit.circuit.rig import CRYPTO, START, SeededRng
from tests.unit.netdir.authorities import rsa_secret

AUTHORITIES = [DirectoryAddress(f"192.0.2.{number}:9001", bytes([number]) * 20) for number in (1, 2)]


class Scene:
    """A relay that publishes, and authorities that answer as they are told.

    Attributes:
        answers: by authority: an HTTP status and reason, or None for one that cannot be reached.
        posted: what each of them got.
    """

    def __init__(self):
        self.now = START
        self.outbox = Outbox()
        self.answers = {one.fingerprint: (200, "Descriptor accepted") for one in AUTHORITIES}
        self.posted = {one.fingerprint: [] for one in AUTHORITIES}
        self.keys = replace(NodeKeys.generate(CRYPTO, SeededRng("relay")), rsa=RsaSecret.generate())
        self.events = []
        self.publisher = Publisher(
            self.outbox, CRYPTO, self, AUTHORITIES, self.keys, rsa_secret("onion"), self._describe
        )

    def _describe(self, published):
        return RouterDescriptor("ours", "192.0.2.7", 9001, published, (1, 2, 0), OFFERED, NO_EXIT)

    def connect_to(self, target, now):
        """As DirectorySources do: it opens, or fails, later."""
        pipe = Pending(self.outbox, lambda code, now: None, lambda now: None, now)
        if self.answers[target.identity] is None:
            self.outbox.call_at(now, lambda now: pipe.fail(EndReason.DESTROY, now))
            return pipe
        server = http.server()
        parts = []

        class Authority:
            def opened(self, now): ...
            def drained(self, now): ...
            def ended(self, now): ...
            def aborted(self, code, now): ...

            def data(handler, part, now):  # noqa: N805
                server.near.consumed(len(part), now)
                parts.append(part)
                if isinstance(part, http.EndOfMessage):
                    assert (parts[0].method, parts[0].target) == ("POST", "/tor/")
                    self.posted[target.identity].append(b"".join(item for item in parts if isinstance(item, bytes)))
                    server.near.write(http.Response((("Content-Length", "0"),), *self.answers[target.identity]), now)
                    server.near.write(http.EndOfMessage(), now)

        server.near.handler = Authority()
        server.far.handler = pipe
        pipe.bind(server.far)
        self.outbox.call_at(now, lambda now: pipe.closed or pipe.opened(now))
        return pipe

    def tick(self, seconds=0.0):
        self.now += seconds
        self.outbox.run_timers(self.now)
        self.events += self.outbox.poll(self.now)

    def publish(self):
        self.publisher.publish(self.now)
        self.tick()

    def told(self):
        events, self.events = self.events, []
        return events


@pytest.fixture
def scene():
    return Scene()


def taken(*authorities):
    return [DescriptorTaken(one.fingerprint.hex()) for one in authorities]


def documents(data):
    """The descriptor and the extra-info document that go together."""
    start = data.index(b"extra-info ours")
    return RouterDescriptor.parse(data[:start]), ExtraInfo.parse(data[start:])


def test_each_authority_gets_documents_that_hold(scene):
    scene.publish()
    assert scene.told() == taken(*AUTHORITIES)
    [data] = scene.posted[AUTHORITIES[0].fingerprint]
    assert scene.posted[AUTHORITIES[1].fingerprint] == [data]
    descriptor, extra = documents(data)
    check_descriptor(CRYPTO, descriptor, START)
    check_extra_info(CRYPTO, extra, RsaKey.parse(descriptor.rsa_key, RSA_BITS), START)
    assert descriptor.identity == scene.keys.identity and descriptor.ntor_key == scene.keys.ntor_public
    assert descriptor.extra_info == extra.digests and data.startswith(scene.publisher.descriptor)


def test_what_an_authority_refuses_is_told_with_its_reason_and_tried_again(scene):
    scene.answers[AUTHORITIES[0].fingerprint] = (400, "Missing TAP key")
    scene.answers[AUTHORITIES[1].fingerprint] = None
    scene.publish()
    refusals = scene.told()
    assert sorted(refusals, key=lambda event: event.authority) == [
        DescriptorRefused(AUTHORITIES[0].fingerprint.hex(), "the directory answered 400 Missing TAP key"),
        DescriptorRefused(AUTHORITIES[1].fingerprint.hex(), "there is no stream to the directory: 5"),
    ]
    scene.answers = dict.fromkeys(scene.answers, (200, ""))
    scene.tick(RETRY_FIRST)
    scene.tick()
    assert scene.told() == taken(*AUTHORITIES)


def test_tries_become_rare(scene):
    scene.answers[AUTHORITIES[0].fingerprint] = (500, "")
    scene.publish()
    for _ in range(6 * 3600):
        scene.tick(1)
    assert 5 < len(scene.posted[AUTHORITIES[0].fingerprint]) < 12 + 6 * 3600 / RETRY_MAX
    assert len(scene.posted[AUTHORITIES[1].fingerprint]) == 1


def test_it_is_published_anew_in_time_and_each_time_later(scene):
    scene.publish()
    scene.publish()
    scene.tick(PUBLISH_EVERY)
    scene.tick()
    dates = [documents(data)[0].published for data in scene.posted[AUTHORITIES[0].fingerprint]]
    assert dates == [START, START + 1, START + PUBLISH_EVERY]


def test_new_keys_are_told(scene):
    scene.publish()
    scene.publisher.keys = replace(NodeKeys.generate(CRYPTO, SeededRng("later")), rsa=scene.keys.rsa)
    scene.publish()
    descriptor, _ = documents(scene.posted[AUTHORITIES[0].fingerprint][-1])
    check_descriptor(CRYPTO, descriptor, START)
    assert descriptor.ntor_key == scene.publisher.keys.ntor_public != scene.keys.ntor_public


def test_nothing_goes_on_once_it_stopped(scene):
    scene.publisher.publish(scene.now)
    scene.publisher.stop(scene.now)
    for _ in range(3):
        scene.tick(PUBLISH_EVERY)
    assert scene.posted == {one.fingerprint: [] for one in AUTHORITIES} and scene.told() == []
