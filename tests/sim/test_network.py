"""A large network under load, loss, churn and kills: every transfer completes, verified, or ends with a reason."""

import random
from dataclasses import dataclass, field

import pytest

from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.sharelink import ShareLink
from tests.sim.people import (
    RELAY,
    SETTLED,
    PathRecord,
    arrived,
    assert_drained,
    content,
    get,
    network,
    share,
    transfer,
)
from tests.sim.world import Host


@dataclass(frozen=True)
class Scale:
    relays: int
    peers: int
    files: int
    transfers: int
    minutes: int
    """In which the transfers begin."""

    @property
    def churn(self) -> int:
        """So many relays are killed, and so many join."""
        return self.minutes * 60 * self.relays // 2400

    @property
    def restarts(self) -> int:
        return self.minutes * 60 * self.peers // 2100


MEDIUM = Scale(relays=36, peers=70, files=120, transfers=250, minutes=15)
LARGE = Scale(relays=60, peers=140, files=300, transfers=1000, minutes=30)


def size_of(chance: random.Random) -> int:
    """Mostly tens of KiB; a few empty, tiny, of exactly one piece, and of several."""
    kind = chance.random()
    if kind < 0.06:
        return chance.choice([0, 1, PIECE_SIZE, PIECE_SIZE + 1, 2 * PIECE_SIZE - 1])
    if kind < 0.12:
        return chance.randrange(PIECE_SIZE, 4 * PIECE_SIZE)
    return chance.randrange(100, 50_000)


@dataclass(eq=False)
class File:
    owner: Host
    data: bytes
    link: str = ""


@dataclass(eq=False)
class Wish:
    """Somebody wants a file."""

    host: Host
    file: File
    id: str = ""
    outcome: str = ""


@dataclass
class Story:
    """What happens in the network, drawn from one seed."""

    world: object
    chance: random.Random
    scale: Scale
    peers: list[Host]
    files: list[File] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    killed: int = 0
    joined: int = 0
    restarted: int = 0

    def offer(self) -> None:
        """Somebody shares a new file."""
        owner = self.chance.choice([peer for peer in self.peers if peer.alive])
        file = File(owner, content(len(self.files), size_of(self.chance)))
        self.files.append(file)

        def known(link: str) -> None:
            file.link = link

        share(owner, file.data, known, name=f"file-{len(self.files)}")

    def want(self) -> None:
        """Somebody opens a link."""
        file = self.chance.choice([file for file in self.files if file.link])
        hosts = [
            peer
            for peer in self.peers
            if peer.alive and peer is not file.owner and not any(w.host is peer and w.file is file for w in self.wishes)
        ]
        wish = Wish(self.chance.choice(hosts), file)
        self.wishes.append(wish)
        wish.id = get(wish.host, file.link)

    def kill_relay(self) -> None:
        relays = [host for host in self.world.hosts.values() if host.keys is not None and host.alive]
        if len(relays) > self.scale.relays * 2 // 3:
            self.killed += 1
            victim = self.chance.choice(relays)
            (self.world.kill if self.chance.random() < 0.7 else self.world.leave)(victim)

    def add_relay(self) -> None:
        self.joined += 1
        self.world.add(f"late{self.joined}", RELAY, circuits=0)

    def restart_peer(self) -> None:
        """A page is closed, or its browser crashes; it is opened again after a while."""
        peer = self.chance.choice([peer for peer in self.peers if peer.alive])
        self.restarted += 1
        (self.world.kill if self.chance.random() < 0.5 else self.world.leave)(peer)
        self.world.later(self.chance.choice([0.5, 5, 60]), lambda: self.world.revive(peer))

    def serve_on(self) -> None:
        """Somebody shares what has arrived, under the same link."""
        done = [wish for wish in self.wishes if wish.host.alive and self.state(wish) == "done"]
        if done:
            wish = self.chance.choice(done)
            transfers = wish.host.node.transfers
            wish.host.driver.run(lambda now: transfers.share_received(wish.id, lambda *_: None, now))

    def state(self, wish: Wish) -> str:
        if not wish.host.alive:
            return "away"
        known = wish.host.node.transfers.transfers.get(wish.id)
        return "forgotten" if known is None else known.state

    def plan(self) -> None:
        world, chance, scale = self.world, self.chance, self.scale
        seconds = scale.minutes * 60

        def spread(count: int, call, first: float = 0.0) -> None:
            for _ in range(count):
                world.later(chance.uniform(first, seconds), call)

        for number in range(scale.files):
            world.later(number * seconds / scale.files / 2, self.offer)
        spread(scale.transfers, self.want, first=30)
        spread(scale.churn, self.kill_relay)
        spread(scale.churn, self.add_relay)
        spread(scale.restarts, self.restart_peer)
        spread(40, self.serve_on, first=300)

    def open_forgotten_again(self) -> None:
        """A node that went down before anything arrived has forgotten the link: its user opens it again."""
        for wish in self.wishes:
            if self.state(wish) == "forgotten":
                get(wish.host, wish.file.link)

    def settled(self) -> bool:
        return all(self.state(wish) in SETTLED for wish in self.wishes)


@pytest.fixture(
    scope="module",
    params=[pytest.param(MEDIUM, id="medium"), pytest.param(LARGE, id="large", marks=pytest.mark.long)],
)
def aftermath(request):
    """The network after all of it."""
    scale = request.param
    patch = pytest.MonkeyPatch()
    world = network("large", scale.relays, loss=0.02, breaks=3e-4)
    paths = PathRecord(world, patch)
    peers = [world.add(f"p{number}", circuits=2) for number in range(scale.peers)]
    story = Story(world, random.Random("large-story"), scale, peers)
    world.run(30)
    story.plan()
    world.run(scale.minutes * 60 + 120)
    story.open_forgotten_again()
    for _ in range(90):
        if not story.settled():
            world.run(10)
    for wish in story.wishes:
        wish.outcome = story.state(wish)
    patch.undo()
    return world, story, paths


def test_every_transfer_ends(aftermath):
    world, story, _ = aftermath
    scale = story.scale
    assert len(story.wishes) == scale.transfers
    assert min(story.killed, story.joined) > scale.churn * 2 / 3 and story.restarted > scale.restarts * 5 / 6
    # Those whose sender was away have waited for it.
    assert [wish.outcome for wish in story.wishes] == ["done"] * scale.transfers
    for wish in story.wishes:
        assert arrived(wish.host, wish.id) == wish.file.data


def test_nothing_is_fetched_twice(aftermath):
    world, story, _ = aftermath
    assert sum(host.storage.rewritten for host in world.hosts.values()) == 0
    for wish in story.wishes:
        assert transfer(wish.host, wish.id).download.duplicates == 0
        assert transfer(wish.host, wish.id).download.banned == 0


def test_no_relay_is_beside_both_ends(aftermath):
    """Although node lists differ all the time."""
    _, story, paths = aftermath
    for file in story.files:
        hash_name = ShareLink.parse(file.link).hash_name
        providers = paths.neighbours(hash_name, provider=True)
        clients = paths.neighbours(hash_name, provider=False)
        assert providers
        assert not providers & clients
        for attempt in paths.files[hash_name]:
            assert len({node.identity for node in attempt.path}) == 2


def test_everything_is_given_back(aftermath):
    world, story, _ = aftermath
    for peer in story.peers:
        peer.driver.run(peer.node.stop)
    world.run(1800)
    assert_drained(world)
