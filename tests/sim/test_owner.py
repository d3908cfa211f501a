"""Somebody who has a link makes very many nodes that say they serve it: whoever fetches finds the owner first."""

from typing import Any

from convergence.netdir.view import Class
from convergence.rdv.guests import FILES
from convergence.rdv.keys import Subject
from convergence.rdv.service import RdvService
from convergence.wire.ordb import PIECE_SIZE
from convergence.wire.sharelink import ShareLink
from tests.sim.people import arrived, content, get, network, relays_of, settle, share_and_stand
from tests.sim.world import Host, SeededRng, World

DATA = content("owner", 6 * PIECE_SIZE + 5)
CROWD = 8  # of each stranger


class Liar:
    """Takes every client, and serves nothing."""

    met = 0

    def __init__(self, stream: Any) -> None: ...

    def opened(self, now: float) -> None:
        Liar.met += 1

    def idle(self, now: float) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def crowd(world: World, stranger: Host, subject: Subject) -> None:
    """As many nodes as the stranger likes: each has circuits of its own."""
    node = stranger.node
    for number in range(CROWD):
        rng = SeededRng(f"{stranger.name}-{number}")
        service = RdvService(node.pool, node.view, node.outbox, world.crypto, rng, FILES)

        def begin(now: float, service: RdvService = service) -> None:
            service.set_points(Class.POINTS, now)
            service.offer(subject, Liar, now)

        stranger.driver.run(begin)


def test_a_crowd_with_the_link_does_not_keep_anybody_from_the_owner() -> None:
    world = network("crowd", 8)
    owner, taker = world.add("owner", circuits=0), world.add("taker", circuits=0)
    strangers = [world.add(f"stranger{number}", circuits=0) for number in range(4)]
    world.run(5)
    link = share_and_stand(world, owner, DATA)
    parsed = ShareLink.parse(link)
    for stranger in strangers:
        crowd(world, stranger, Subject.file(parsed.hash_name, parsed.key))
        # With a secret of his own he makes proofs, and names that nobody asks for.
        crowd(world, stranger, Subject.file(parsed.hash_name, parsed.key, b"x" * 32))
    world.run(60)
    names = [relay.node._point._adverts.names for relay in relays_of(world).values()]
    assert sum(len(offers) for at in names for name, offers in at.items() if not name.owned) >= 3 * 4 * CROWD
    begun = world.now
    transfer_id = get(taker, link)
    assert settle(world, taker, transfer_id) == "done" and arrived(taker, transfer_id) == DATA
    assert world.now - begun < 20 and Liar.met, "further streams led to liars, the first one to the owner"
