"""Small networks in which everything goes wrong at once, one for each seed.

Larger files than in test_network.py, so that most faults hit a transfer under way: channels break, relays vanish,
leave and restart, peers crash and come back, disks fill up, people stop transfers and go on with them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from convergence.effects import Failure
from tests.sim.people import (
    RELAY,
    SETTLED,
    arrived,
    assert_drained,
    content,
    get,
    network,
    share,
    transfer,
)
from tests.sim.world import Host

SECONDS = 120.0  # that the storm lasts
CALM = 40.0  # until everybody is back


@dataclass(eq=False)
class File:
    owner: Host
    data: bytes
    link: str = ""


class Storm:
    """One network and what happens to it."""

    def __init__(self, seed: int) -> None:
        self.world = network(f"storm{seed}", 9, loss=0.05, breaks=2e-3)
        self.chance = chance = random.Random(f"storm-chance-{seed}")
        self.peers = [
            self.world.add(f"p{number}", circuits=chance.choice([0, 1, 3]), hops=chance.choice([1, 2, 2, 3]))
            for number in range(8)
        ]
        self.world.run(10)
        self.files = [
            File(
                chance.choice(self.peers), content(f"{seed}-{number}", chance.choice([0, 1, 300_000, 1 << 20, 3 << 20]))
            )
            for number in range(6)
        ]
        for number, file in enumerate(self.files):
            share(file.owner, file.data, lambda link, file=file: setattr(file, "link", link), name=f"{number}.bin")
        self.world.run(20)
        self.wishes: dict[tuple[Host, str], File] = {}
        self.late = 0
        for call, times in (
            (self.want, 30),
            (self.lose_relay, 4),
            (self.add_relay, 4),
            (self.crash_peer, 10),
            (self.fill_disk, 3),
            (self.stop_and_go_on, 4),
        ):
            for _ in range(times):
                self.world.later(chance.uniform(0, SECONDS), call)

    def up(self) -> list[Host]:
        return [peer for peer in self.peers if peer.alive]

    def want(self) -> None:
        file = self.chance.choice(self.files)
        host = self.chance.choice([peer for peer in self.up() if peer is not file.owner])
        self.wishes[host, get(host, file.link)] = file

    def lose_relay(self) -> None:
        relays = [host for host in self.world.hosts.values() if host.keys is not None and host.alive]
        self.chance.choice([self.world.kill, self.world.leave, self.world.restart])(self.chance.choice(relays))

    def add_relay(self) -> None:
        self.late += 1
        self.world.add(f"late{self.late}", RELAY, circuits=0)

    def crash_peer(self) -> None:
        if len(self.up()) > 3:
            peer = self.chance.choice(self.up())
            self.chance.choice([self.world.kill, self.world.leave])(peer)
            self.world.later(self.chance.choice([0.1, 3, 20]), lambda: self.world.revive(peer))

    def fill_disk(self) -> None:
        peer = self.chance.choice(self.up())
        peer.storage.fail = Failure("quota", "full")

        def empty() -> None:
            peer.storage.fail = None
            for host, transfer_id in self.wishes:
                if host is peer:
                    self.go_on(host, transfer_id)

        self.world.later(5.0, empty)

    def stop_and_go_on(self) -> None:
        wishes = [wish for wish in self.wishes if self.state(wish) not in (*SETTLED, "away", "forgotten")]
        if wishes:
            host, transfer_id = self.chance.choice(wishes)
            host.driver.run(lambda now: host.node.transfers.cancel(transfer_id, now))
            self.world.later(3.0, lambda: self.go_on(host, transfer_id))

    def state(self, wish: tuple[Host, str]) -> str:
        host, transfer_id = wish
        if not host.alive:
            return "away"
        known = host.node.transfers.transfers.get(transfer_id)
        return "forgotten" if known is None else known.state

    def go_on(self, host: Host, transfer_id: str) -> None:
        if host.alive:
            get(host, self.wishes[host, transfer_id].link)

    def wait(self, over: Callable[[], bool]) -> bool:
        for _ in range(30):
            if not over():
                self.world.run(20)
        return over()


@pytest.mark.parametrize("seed", range(6))
def test_storm(seed):
    storm = Storm(seed)
    world, wishes = storm.world, storm.wishes
    world.run(SECONDS + CALM)
    # Whoever crashed before anything came has forgotten the link: it is opened again.
    for wish in wishes:
        if storm.state(wish) == "forgotten":
            storm.go_on(*wish)
    assert storm.wait(lambda: all(storm.state(wish) == "done" for wish in wishes))
    for (host, transfer_id), file in wishes.items():
        assert arrived(host, transfer_id) == file.data
        assert transfer(host, transfer_id).download.duplicates == 0
        assert transfer(host, transfer_id).download.banned == 0
    assert all(host.storage.rewritten == 0 for host in world.hosts.values())
    for peer in storm.peers:
        world.leave(peer)
    world.run(1800)
    assert_drained(world)
