"""A relay asks a directory at its directory port where no circuit comes about, and believes no more of it."""

import pytest

from convergence.effects import CloseLink, Connect, Pause, Protocol, Send
from convergence.tor.dirports import DirectoryPorts
from convergence.tor.request import TIME_LIMIT
from tests.unit.netdir.authorities import consensus
from tests.unit.tor.world import END, FIVE, Asked, Documents, World, response

HONEST = Documents()


class Relay(World):
    """The first directory has a port; no directory can be reached by circuits. `listens`: whether anybody is there."""

    def __init__(self, *answers):
        super().__init__(*answers)
        self.listens = True
        self.dialled = []
        self.open = {}  # channel -> what came on it
        self.paused = 0
        for directory in self.directories:
            directory.reached = False
        self.ports = DirectoryPorts(self.outbox, {self.directories[0].target.identity: "192.0.2.1:9030"})
        self.sources._ports = self.ports

    def perform(self, effect):
        channel = getattr(effect, "channel", None)
        match effect:
            case Connect():
                assert effect.protocol is Protocol.DIRECTORY
                self.dialled.append(effect.address)
                if self.listens:
                    self.open[channel] = b""
                    self.later(lambda now: self.ports.owner.opened(channel, None, now))
                else:
                    self.later(lambda now: self.ports.owner.closed(channel, "refused", now))
            case Send():
                self.open[channel] += b"".join(effect.buffers)
                if self.open[channel].endswith(b"\r\n\r\n"):
                    self.answer(channel, self.open[channel])
            case CloseLink():
                self.open.pop(channel, None)
            case Pause():
                self.paused += effect.paused
            case _:
                super().perform(effect)

    def closed(self, channel, now):
        del self.open[channel]
        self.ports.owner.closed(channel, "done", now)

    def answer(self, channel, request):
        lines = request.decode().split("\r\n")[:-2]
        fields = (line.split(": ", 1) for line in lines[1:])
        asked = Asked(self.now, lines[0].split(" ")[1], {name.lower(): value for name, value in fields})
        self.requests.append(asked)
        for part in self.directories[0].answer(asked):
            if part is END:
                self.later(lambda now: self.closed(channel, now))
            else:
                self.later(lambda now, part=part: self.ports.owner.data(channel, part, now))


@pytest.mark.parametrize("framing", ["length", "close", "chunked"])
def test_all_documents_come_from_the_port_of_a_directory(framing):
    world = Relay(lambda asked: response(HONEST.find(asked), version="1.1", framing=framing)).start()
    assert world.run(100).complete and world.refused == []
    assert set(world.dialled) == {"192.0.2.1:9030"} and len(world.dialled) == len(world.requests)
    world.client.stop(world.now)
    world.step(world.now)
    assert not world.open and not world.ports._pipes, "each connection ends with its answer"


def test_a_directory_without_a_port_fails_as_before():
    world = Relay(HONEST, HONEST)
    world.candidates = world.directories[1:]
    world.start().run(100)
    assert world.dialled == [] and "no stream" in world.reasons[0]


def test_where_nobody_listens_it_is_said_and_tried_seldom():
    world = Relay(HONEST)
    world.listens = False
    world.start().run(1000)
    assert "no stream" in world.reasons[0] and 2 < len(world.dialled) < 20
    world.listens = True
    assert world.run(1000).complete


def test_what_comes_in_the_clear_is_believed_no_more():
    lie = response(consensus(FIVE[:2]))
    world = Relay(lambda asked: lie if asked.kind == "consensus" else HONEST(asked)).start()
    world.run(100)
    assert not world.complete and "signed by 2 of 5" in world.reasons[0]


def test_a_port_that_says_nothing_has_its_time():
    world = Relay(lambda asked: []).start()
    world.run(TIME_LIMIT + 1)
    assert "took too long" in world.reasons[0]
    world.client.stop(world.now)
    world.step(world.now)
    assert not world.open and not world.ports._pipes


def test_what_happens_to_a_connection_that_is_over_is_nobodys():
    ports = DirectoryPorts(World().outbox, {})
    ports.owner.opened(1, None, 0.0)
    ports.owner.data(1, b"late", 0.0)
    ports.owner.closed(1, "done", 0.0)


def test_clients_have_no_ports():
    world = World(HONEST)
    world.directories[0].reached = False
    world.start().run(100)
    assert world.sources._ports is None and not world.complete
