"""The same seed gives the same run, byte for byte; whatever order a process keeps its sets in."""

import os
import random
import subprocess
import sys

from tests.sim.people import RELAY, content, get, network, share

LATER = 400.0  # seconds


def transcript(seed: int) -> str:
    """A run with loss, broken channels, kills and restarts."""
    world = network(seed, 10, loss=0.02, breaks=2e-4)
    chance = random.Random(seed)
    peers = [world.add(f"p{number}", circuits=2) for number in range(8)]
    world.run(10)
    links: list[str] = []

    def want() -> None:
        if links:
            get(chance.choice([peer for peer in peers if peer.alive]), chance.choice(links))

    def restart() -> None:
        peer = chance.choice([peer for peer in peers if peer.alive])
        world.leave(peer)
        world.later(2.0, lambda: world.revive(peer))

    for number in range(20):
        share(chance.choice(peers), content(number, chance.randrange(100_000)), links.append)
    for _ in range(40):
        world.later(chance.uniform(2, LATER), want)
    for number in range(3):
        world.later(100.0 * number + 50, lambda number=number: world.kill(world.hosts[f"r{number}"]))
        world.later(100.0 * number + 70, restart)
    for number in range(8):  # at once, so that many files change several of their points at once
        world.later(200.0, lambda number=number: world.add(f"late{number}", RELAY, circuits=0))
    world.run(LATER + 60)
    for peer in peers:
        peer.driver.run(peer.node.stop)
    world.run(60)
    return world.transcript.hexdigest()


def elsewhere(seed: int, hash_seed: str) -> "subprocess.Popen[str]":
    """The same in a process of its own."""
    program = f"from tests.sim.test_determinism import transcript; print(transcript({seed}))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)


def test_transcripts():
    others = [elsewhere(1, "1"), elsewhere(1, "2")]
    here = transcript(1)
    assert [other.communicate()[0].strip() for other in others] == [here, here]
    assert transcript(2) != here
