"""The pool of circuits: five ready, replaced at once when dead or slow, renewed, one user each, retries bounded."""

from dataclasses import replace

import pytest

from convergence.circuit.relaying import Relaying
from convergence.codes import PathWhy
from convergence.errors import DestroyReason, EndReason, LocalError, RemoteError, Why
from convergence.events import Trouble
from convergence.path.building import MAX_YOUNG, RENEW_AFTER, RETRY_FIRST, RETRY_MAX
from convergence.path.entries import ENTRIES, user_of
from convergence.path.place import ATTEMPTS, HOP_TIMEOUT, INTRODUCED_HOP_TIMEOUT, LINK_TIMEOUT
from convergence.path.pool import POOL_SIZE, PROBE_EVERY, CircuitPool
from convergence.path.reputation import BACK_OFF_MAX
from convergence.path.select import Reach, entry_side
from convergence.wire.descriptor import Descriptor, Transport
from convergence.wire.target import Role
from tests.unit.circuit.rig import CRYPTO, Net
from tests.views import given_view


def refuse(circuit, stream_id, begin):
    circuit.endpoint.refuse(stream_id, EndReason.RESOLVEFAILED)


class Scene:
    """A client with a pool, and relays; `silent` ones answer nothing, `unreachable` ones cannot be dialled."""

    def __init__(self, relays=8, **options):
        self.net = Net("pool")
        self.client = self.net.add("client", relays=False)
        self.relays = self.net.relays(relays)
        self.directory, self.view = given_view([], self.client.rng)
        for machine in self.relays:  # as nodes do with a query for what nobody has
            machine.services.on_begin = lambda circuit, stream_id, begin: circuit.endpoint.refuse(
                stream_id, EndReason.MISC
            )
        self.unreachable = set()
        self.silent = set()
        self.dialled = []
        self.full = []
        self.directory.known = [self.describe(machine) for machine in self.relays]
        self.pool = CircuitPool(
            self.client.outbox,
            CRYPTO,
            self.client.rng,
            self,
            self.view,
            on_full=self.full.append,
            **options,
        )
        self.got, self.trouble = [], []

    @staticmethod
    def describe(machine, roles=Role.RELAY | Role.RDV | Role.EXIT, ws=True, rtc=False):
        keys = machine.keys
        ways = (Transport(1, f"ws://{machine.name}/"),) * ws + (Transport.rtc(),) * rtc
        return Descriptor(keys.identity, keys.ntor_public, 0, 1 << 40, roles, ways).target

    def mix(self, kinds):
        """The relays are servers without rtc (s), browsers (b) or servers with rtc (h)."""
        self.directory.known = [
            self.describe(machine, ws=kind != "b", rtc=kind != "s")
            for machine, kind in zip(self.relays, kinds, strict=True)
        ]

    def reach(self, identity, reply, now):
        """Stands for Neighbours."""
        self.dialled.append(identity)
        if identity in self.unreachable:
            reply(None, now)
        elif identity not in self.silent:
            self.client.reach(identity, reply, now)

    def do(self, call, *args):
        call(*args, self.net.now)
        self.net.pump()

    def fill(self):
        self.do(self.pool.fill)

    def rdv(self, point, name=bytes(32), provider=False):
        self.do(
            self.pool.rdv_circuit,
            point,
            name,
            provider,
            lambda circuit, now: self.got.append(circuit),
            lambda why, now: self.trouble.append(why),
        )

    def peer(self, node, direct=False):
        def ask(*arguments):
            self.pool.peer_circuit(*arguments, direct=direct)

        self.do(
            ask,
            node,
            lambda circuit, now: self.got.append(circuit),
            lambda why, now: self.trouble.append(why),
        )

    def exit(self):
        self.do(
            self.pool.exit_circuit,
            "host.example",
            80,
            lambda circuit, now: self.got.append(circuit),
            lambda why, now: self.trouble.append(why),
        )

    def deaf(self, machine):
        """From now on a relay that reads nothing: the links stand, circuits through it hang."""
        machine._create = lambda *args: None

    def avoided(self):
        return self.pool._reputation.avoided([node.identity for node in self.directory.known], self.net.now)

    @property
    def states(self):
        return [item["state"] for item in self.pool.snapshot()]

    def built(self):
        return sum(event.kind == "circuit-built" for event in self.client.events)

    def ready_circuits(self):
        return [place.circuit for place in self.pool._ready]


@pytest.fixture
def scene():
    return Scene()


# -- the ready ones


def test_five_circuits_are_built_and_kept(scene):
    scene.fill()
    assert scene.pool.ready == POOL_SIZE and scene.states == ["ready"] * POOL_SIZE
    assert scene.full == [scene.net.now]
    scene.fill()
    assert scene.pool.ready == POOL_SIZE and scene.built() == POOL_SIZE


def test_a_dead_one_is_replaced_at_once(scene):
    scene.fill()
    before = scene.net.now
    victim = scene.ready_circuits()[2]
    scene.net.by_identity[victim.path[0].identity].circuits[-1].destroy(DestroyReason.HIBERNATING, scene.net.now)
    scene.net.pump()
    assert scene.net.now == before and scene.pool.ready == POOL_SIZE
    assert scene.built() == POOL_SIZE + 1


def test_nothing_is_kept_of_circuits_that_die_young(scene):
    """Each leaves no timer that holds it until its renewal would have been due."""
    scene.fill()
    for _ in range(MAX_YOUNG):
        scene.do(lambda now: scene.ready_circuits()[0].destroy(DestroyReason.FINISHED, now))
    pending = [timer for _, _, timer in scene.client.outbox._timers if timer.pending]
    assert len(pending) <= 2 * POOL_SIZE and scene.pool.ready == POOL_SIZE


def test_relays_that_end_every_circuit_are_not_built_through_without_pause(scene):
    scene.fill()
    for _ in range(MAX_YOUNG + 1):
        assert scene.pool.ready == POOL_SIZE
        scene.do(lambda now: scene.ready_circuits()[0].destroy(DestroyReason.FINISHED, now))
    assert scene.pool.ready == POOL_SIZE - 1
    scene.net.tick(RETRY_FIRST)
    assert scene.pool.ready == POOL_SIZE


def test_a_ready_one_that_no_longer_answers_is_replaced(scene):
    """Its relay hangs with its links open, so that nothing but silence tells."""
    scene.fill()
    first = scene.ready_circuits()
    scene.net.tick(4 * PROBE_EVERY)
    assert scene.ready_circuits() == first
    victim = scene.net.by_identity[first[0].path[-1].identity]
    victim.services.on_begin = lambda *args: None
    scene.directory.known = [node for node in scene.directory.known if node.identity != victim.keys.identity]
    for _ in range(int(PROBE_EVERY * 4 / 3 + HOP_TIMEOUT) + 1):
        scene.net.tick(1)
    assert scene.pool.ready == POOL_SIZE
    assert all(circuit.path[-1].identity != victim.keys.identity for circuit in scene.ready_circuits())


@pytest.mark.parametrize("reason", [EndReason.RESOLVEFAILED, EndReason.DONE, EndReason.EXITPOLICY])
def test_whatever_a_relay_says_to_a_probe_shows_that_it_answers(scene, reason):
    scene.fill()
    for machine in scene.relays:
        machine.services.on_begin = lambda circuit, stream_id, begin: circuit.endpoint.refuse(stream_id, reason)
    first = scene.ready_circuits()
    for _ in range(int(PROBE_EVERY * 4 / 3 + HOP_TIMEOUT) + 1):
        scene.net.tick(1)
    assert all(machine.services.targets for machine in (scene.net.by_identity[c.path[-1].identity] for c in first))
    assert scene.ready_circuits() == first


def test_other_nodes_end_the_wait_for_another_try(scene):
    known, scene.directory.known = scene.directory.known, []
    scene.fill()
    scene.net.tick(RETRY_FIRST)
    assert scene.pool.ready == 0
    scene.directory.known = known
    scene.fill()
    assert scene.pool.ready == 0, "the next try has its time"
    scene.do(scene.pool.nodes_changed)
    assert scene.pool.ready == POOL_SIZE


def test_ready_circuits_are_renewed_but_not_all_together(scene):
    scene.fill()
    first = scene.ready_circuits()
    scene.net.tick(RENEW_AFTER - 1)
    assert scene.ready_circuits() == first
    times = set()
    for _ in range(400):
        scene.net.tick(1)
        assert scene.pool.ready == POOL_SIZE
        times |= {(circuit, scene.net.now) for circuit in first if circuit.closed and circuit not in dict(times)}
    assert all(circuit.closed for circuit in first) and len({when for _, when in times}) > 1


def test_a_slow_hop_is_given_up_within_its_time(scene):
    """Every node hangs but four: circuits through a hanging one are given up and built over others."""
    for machine in scene.relays[4:]:
        scene.deaf(machine)
    scene.fill()
    for _ in range(60):
        scene.net.tick(HOP_TIMEOUT)
        if scene.pool.ready == POOL_SIZE:
            break
    assert scene.pool.ready == POOL_SIZE
    good = {machine.keys.identity for machine in scene.relays[:4]}
    assert all(node.identity in good for circuit in scene.ready_circuits() for node in circuit.path)


def test_a_hop_that_answers_in_time_restarts_the_clock():
    scene = Scene(relays=3, size=1)
    client = scene.client
    for machine in scene.relays:
        machine.reach = lambda identity, reply, now: None  # first hops answer, and then never extend
        scene.net.hold(client, scene.net.link_between(client, machine), False)
    links = [scene.net.link_between(client, machine) for machine in scene.relays]
    for link in links:
        scene.net.hold(client, link)
    scene.fill()
    scene.net.tick(HOP_TIMEOUT - 1)
    for link in links:
        scene.net.hold(client, link, False)
    assert [hop["built"] for hop in scene.pool.snapshot()[0]["hops"]] == [True, False]
    scene.net.tick(1)
    assert len(scene.dialled) == 1, "the first hop was in time"
    scene.net.tick(HOP_TIMEOUT)
    assert len(scene.dialled) == 2, "the second was not"


def test_unreachable_entries_are_passed_over(scene):
    scene.unreachable = {machine.keys.identity for machine in scene.relays[:3]}
    scene.fill()
    for _ in range(10):
        scene.net.tick(RETRY_MAX)
    assert scene.pool.ready == POOL_SIZE
    assert not {circuit.path[0].identity for circuit in scene.ready_circuits()} & scene.unreachable


def test_without_nodes_a_person_is_told_and_it_is_tried_again_ever_more_rarely():
    scene = Scene(relays=1)
    scene.fill()
    told = [event for event in scene.client.events if isinstance(event, Trouble)]
    assert len(told) == 1 and told[0].why == Why(PathWhy.FEW_RELAYS, {"needed": 2, "known": 1})
    deadlines = []
    for _ in range(10):
        deadline = scene.client.outbox.deadline()
        deadlines.append(deadline - scene.net.now)
        scene.net.tick(deadline - scene.net.now)
    assert deadlines[0] == RETRY_FIRST and deadlines[-1] == RETRY_MAX and deadlines == sorted(deadlines)
    scene.directory.known = [scene.describe(machine) for machine in scene.net.relays(4)]
    scene.net.tick(RETRY_MAX)
    assert scene.pool.ready == POOL_SIZE


def test_a_pool_of_size_0_builds_nothing():
    scene = Scene(size=0)
    scene.fill()
    assert scene.states == [] and scene.dialled == []


def test_a_node_that_is_paused_is_avoided_and_not_the_one_it_would_not_extend_to():
    scene = Scene(relays=6, hops=3)
    paused = scene.relays[0]
    relaying = Relaying(paused.outbox, CRYPTO, paused.rng, paused.keys, paused.services, limits=None)
    relaying.neighbours = paused
    paused._create = relaying.create
    scene.fill()
    for _ in range(20):
        scene.do(lambda now: scene.ready_circuits()[0].destroy(DestroyReason.FINISHED, now))
    assert scene.pool.ready == POOL_SIZE
    assert scene.avoided() == [paused.keys.identity]


@pytest.mark.parametrize("hops", [1, 3])
def test_ready_circuits_of_another_length_are_replaced_when_that_is_set(scene, hops):
    scene.fill()
    before = scene.ready_circuits()
    scene.do(scene.pool.set_hops, hops)
    assert all(circuit.closed for circuit in before) and scene.pool.ready == POOL_SIZE
    assert {len(circuit.path) for circuit in scene.ready_circuits()} == {hops}
    before = scene.ready_circuits()
    scene.do(scene.pool.set_hops, hops)
    assert scene.ready_circuits() == before


# -- who reaches whom

BROWSER = Reach(rtc=True)


def test_paths_are_along_links_that_there_can_be():
    for origin in (BROWSER, Reach(), Reach(rtc=True, schemes=("wss",))):
        scene = Scene(relays=8, hops=3, size=20, origin=origin)
        scene.mix("sssbbbhh")
        scene.fill()
        assert scene.pool.ready == 20
        for circuit in scene.ready_circuits():
            before = [origin, *map(Reach.of, circuit.path)]
            assert all(reach.reaches(node) for reach, node in zip(before, circuit.path, strict=False))


def test_a_page_that_reaches_nobody_is_told_what_it_takes():
    scene = Scene(relays=3, origin=Reach(schemes=("wss",)))
    scene.fill()
    [told] = [event.why for event in scene.client.events if isinstance(event, Trouble)]
    assert told == Why(PathWhy.OUT_OF_REACH, {"known": 3, "schemes": "wss", "rtc": False})


def test_entries_of_a_file_stay_on_their_side_and_lead_to_the_point():
    scene = Scene(relays=16, origin=BROWSER)
    scene.mix("sb" * 8)
    name = b"n" * 32
    for provider in (True, False):
        scene.got.clear()
        for point in scene.directory.known * 3:
            scene.rdv(point, name, provider)
        assert not scene.trouble and len(scene.got) == 48
        for circuit in scene.got:
            entry, point = circuit.path
            assert Reach.of(entry).reaches(point)
            assert entry in entry_side(scene.directory.known, name, provider, point.identity)
        assert len({circuit.path[0].identity for circuit in scene.got}) <= 2 * ENTRIES


@pytest.mark.parametrize(
    ("kinds", "timeout"), [("bb", INTRODUCED_HOP_TIMEOUT), ("hs", HOP_TIMEOUT), ("hh", HOP_TIMEOUT)]
)
def test_a_hop_that_has_to_be_introduced_has_more_time(kinds, timeout):
    scene = Scene(relays=2, origin=BROWSER, size=0)
    scene.mix(kinds)
    entry, point = scene.relays
    scene.deaf(point)
    scene.peer(scene.directory.known[1])
    scene.net.tick(timeout - 0.5)
    assert len(scene.dialled) == 1 and not entry.circuits[0].closed
    scene.net.tick(1)
    assert entry.circuits[0].closed and len(scene.dialled) == 2
    assert scene.avoided() == []


def test_of_a_hop_that_could_not_be_introduced_there_is_only_the_word_of_another():
    scene = Scene(relays=3, origin=BROWSER, size=0)
    scene.mix("bbb")
    entry_of = {}
    for machine in scene.relays:
        machine.reach = lambda identity, reply, now, machine=machine: (
            entry_of.setdefault(identity, machine),
            reply(None, scene.net.now),
        )
    scene.rdv(scene.directory.known[0])
    point = scene.relays[0].keys.identity
    assert scene.trouble and point in entry_of and scene.avoided() == []
    scene.unreachable = {scene.relays[1].keys.identity}
    for _ in range(4):
        scene.rdv(scene.directory.known[0])
    assert scene.relays[1].keys.identity in scene.avoided()


def test_a_ready_circuit_is_extended_to_an_exit_that_its_end_reaches():
    scene = Scene(relays=6, origin=BROWSER)
    scene.mix("ssshhb")
    scene.directory.known[5] = scene.describe(scene.relays[5], Role.EXIT, ws=False, rtc=True)
    for number in range(5):
        machine = scene.relays[number]
        scene.directory.known[number] = scene.describe(machine, Role.RELAY, rtc=number > 2)
    scene.fill()
    for _ in range(20):
        scene.exit()
    assert len(scene.got) == 20 and not scene.trouble
    assert all(circuit.path[-2].rtc and circuit.path[-1] == scene.directory.known[5] for circuit in scene.got)


def test_an_exit_to_which_no_path_leads_is_passed_over():
    scene = Scene(relays=5, size=0)
    scene.mix("ssssb")
    for number, machine in enumerate(scene.relays[:3]):
        scene.directory.known[number] = scene.describe(machine, Role.RELAY)
    for _ in range(20):
        scene.exit()
    assert len(scene.got) == 20 and {circuit.path[-1] for circuit in scene.got} == {scene.directory.known[3]}


# -- blame


def refuse_create(machine, reason):
    """A relay that answers every CREATE2 with DESTROY."""

    def create(link, circ_id, payload, now):
        raise RemoteError("no", reason=reason)

    machine._create = create


@pytest.mark.parametrize("reason", [reason for reason in DestroyReason if reason])
def test_a_point_exposes_no_other_entries_by_refusing(scene, reason):
    """Whatever reason it names, and however often."""
    point, name = scene.relays[0], b"n" * 32
    refuse_create(point, reason)
    for _ in range(30):
        scene.rdv(scene.directory.known[0], name, provider=True)
    assert not scene.got and len(set(scene.dialled)) == ENTRIES
    assert scene.avoided() == []


def with_entries_in_use():
    """A scene, a point, a name, and the identities of the entries over which the name's provider reaches the point."""
    scene = Scene(relays=10, size=0)
    point, name = scene.directory.known[0], b"n" * 32
    for _ in range(10):
        scene.rdv(point, name, provider=True)
    return scene, point, name, {circuit.path[0].identity for circuit in scene.got}


def test_entries_that_extend_to_nobody_are_replaced():
    """What they do for a point says nothing; what they do for relays of our choice does."""
    scene, point, name, useless = with_entries_in_use()
    for identity in useless:
        scene.net.by_identity[identity].reach = lambda identity, reply, *rest: reply(None, scene.net.now)
    scene.got.clear()
    for _ in range(12):
        scene.rdv(point, name, provider=True)
    assert scene.got and not {circuit.path[0].identity for circuit in scene.got} & useless
    assert set(scene.avoided()) == useless


@pytest.mark.parametrize("reason", [reason for reason in DestroyReason if reason])
def test_a_first_hop_that_refuses_is_to_blame_for_that(scene, reason):
    entry = scene.relays[0]
    refuse_create(entry, reason)
    for _ in range(20):
        scene.peer(scene.directory.known[1])
    assert entry.keys.identity in scene.dialled and len(scene.got) == 20
    assert scene.avoided() == [entry.keys.identity]


def test_a_request_goes_round_a_relay_that_is_dead_and_accuses_nobody():
    scene = Scene(relays=4, size=1)
    dead = scene.relays[3]
    dead.services.on_begin = lambda *args: None
    refuse_create(dead, DestroyReason.RESOURCELIMIT)
    scene.silent = set()
    for _ in range(10):
        before = scene.net.now
        scene.fill()
        assert scene.pool.ready == 1 and scene.net.now == before
        scene.do(lambda now: scene.ready_circuits()[0].destroy(DestroyReason.FINISHED, now))
    assert set(scene.avoided()) <= {dead.keys.identity}


@pytest.mark.parametrize("reason", [reason for reason in DestroyReason if reason])
def test_a_relay_that_refuses_most_others_is_avoided_whatever_reason_it_names(reason):
    scene = Scene(relays=6, hops=3)
    refuser = scene.relays[0]
    refuse_create(refuser, reason)
    scene.fill()
    for _ in range(40):
        scene.do(lambda now: scene.ready_circuits()[0].destroy(DestroyReason.FINISHED, now))
        scene.net.tick(RETRY_MAX)
        scene.pool._reputation.worked(refuser.keys.identity)  # what it refuses to us directly is another matter
    assert scene.avoided() == [refuser.keys.identity]


def break_links(scene):
    """Our own network fails: all our links die at one moment."""
    for link in list(scene.client.links.values()):
        link.gone("connection lost", scene.net.now)
    scene.net.pump()


def test_links_of_ours_that_die_under_new_circuits_count_against_no_extension(scene):
    scene.fill()
    proven = scene.pool._reputation.proven(scene.net.now)
    break_links(scene)
    assert proven and proven <= scene.pool._reputation.proven(scene.net.now)


def test_links_of_ours_that_die_while_circuits_are_built_count_against_no_extension(scene):
    scene.fill()
    for machine in scene.relays:  # extensions take so long that the links die first
        machine.reach = lambda *args: None
    scene.do(lambda now: [circuit.destroy(DestroyReason.FINISHED, now) for circuit in scene.ready_circuits()])
    for _ in range(100):
        asked = len(scene.dialled)
        break_links(scene)
        if len(scene.dialled) == asked:
            scene.net.tick(RETRY_MAX)
    assert scene.pool.ready == 0
    for machine in scene.relays:
        del machine.reach
    break_links(scene)
    scene.net.tick(BACK_OFF_MAX)
    assert scene.pool.ready == POOL_SIZE and scene.avoided() == []


def test_an_entry_that_ends_its_link_whenever_it_is_to_extend_is_replaced():
    """The link is the entry's own doing or our network's; another relay is not to blame in either case."""
    scene, point, name, useless = with_entries_in_use()
    for identity in useless:
        machine = scene.net.by_identity[identity]

        def hang_up(*args, machine=machine):
            scene.net.break_link(scene.client, scene.net.link_between(scene.client, machine))

        machine.reach = hang_up
    scene.got.clear()
    for _ in range(4):
        scene.rdv(point, name, provider=True)
    assert scene.got and not {circuit.path[0].identity for circuit in scene.got} & useless
    assert not scene.pool._reputation._partners.keys() & {(point.identity, False), (point.identity, True)}


def test_every_wait_for_a_link_ends():
    """Nobody answers, for ever: all places go on to other relays, and a late answer changes nothing."""
    scene = Scene(relays=8)
    replies = []
    scene.reach = lambda identity, reply, now: (scene.dialled.append(identity), replies.append(reply))
    scene.fill()
    assert scene.states == ["building"] * POOL_SIZE
    scene.rdv(scene.directory.known[0])
    for _ in range(ATTEMPTS):
        assert not scene.trouble
        scene.net.tick(LINK_TIMEOUT)
    assert scene.trouble == [Why(PathWhy.ENTRY_SILENT)]
    assert set(scene.dialled) == {machine.keys.identity for machine in scene.relays}
    late, replies[:] = list(replies), []
    del scene.reach
    scene.net.tick(RETRY_MAX)
    scene.net.tick(LINK_TIMEOUT)
    assert scene.pool.ready == POOL_SIZE
    before = scene.pool.snapshot()
    for reply in late:
        scene.do(lambda now, reply=reply: reply(None, now))
    assert scene.pool.snapshot() == before


# -- circuits to rendezvous points


def test_a_circuit_to_a_point_ends_there_and_is_the_callers_alone(scene):
    scene.fill()
    point = scene.directory.known[0]
    for _ in range(3):
        scene.rdv(point)
    assert len(set(scene.got)) == 3 and all(circuit.path[-1] == point for circuit in scene.got)
    assert not set(scene.got) & set(scene.ready_circuits())
    assert scene.states.count("in use") == 3


def test_providers_and_clients_never_share_an_entry(scene):
    name = b"n" * 32
    for number in range(4):
        point = scene.directory.known[number]
        sides = {}
        for provider in (True, False):
            scene.got.clear()
            for _ in range(10):
                scene.rdv(point, name, provider)
            sides[provider] = {circuit.path[0].identity for circuit in scene.got}
            allowed = {node.identity for node in entry_side(scene.directory.known, name, provider, point.identity)}
            assert sides[provider] <= allowed
        assert not sides[True] & sides[False]


def test_own_node_is_never_part_of_a_path():
    scene = Scene(relays=4)
    own = scene.directory.known[0].identity
    scene.pool = CircuitPool(
        scene.client.outbox, CRYPTO, scene.client.rng, scene, scene.view, own=own, on_full=scene.full.append
    )
    scene.fill()
    assert all(node.identity != own for circuit in scene.ready_circuits() for node in circuit.path)


@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5])
def test_the_number_of_hops_can_be_set(hops):
    scene = Scene(relays=12, hops=hops, size=2)
    scene.fill()
    scene.rdv(scene.directory.known[0])
    assert all(len(circuit.path) == hops for circuit in [*scene.ready_circuits(), *scene.got])


def test_attempts_are_bounded_and_the_caller_hears_why(scene):
    for machine in scene.relays:
        scene.deaf(machine)
    scene.rdv(scene.directory.known[0])
    for _ in range(ATTEMPTS + 2):
        scene.net.tick(HOP_TIMEOUT)
    assert (
        scene.trouble == [Why(PathWhy.ENTRY_SILENT)] and not scene.got
    )  # nothing is said of the point: none was asked
    assert len(scene.dialled) == ATTEMPTS
    scene.net.tick(10 * HOP_TIMEOUT)
    assert len(scene.trouble) == 1 and scene.states == []


def test_unreachable_entries_use_up_attempts_too(scene):
    scene.unreachable = {machine.keys.identity for machine in scene.relays}
    scene.rdv(scene.directory.known[0])
    assert scene.trouble == [Why(PathWhy.ENTRY_SILENT)] and len(scene.dialled) == ATTEMPTS


def test_too_few_nodes_are_told_at_once():
    scene = Scene(relays=1)
    scene.rdv(scene.directory.known[0])
    assert len(scene.trouble) == 1 and scene.trouble[0].code is PathWhy.FEW_RELAYS and not scene.dialled


def test_a_link_that_takes_no_circuit_uses_up_an_attempt(scene):
    scene.net.link_between(scene.client, scene.relays[0])
    scene.net.pump()
    full = {}

    class Full:
        open = True

        def attach(self, handler):
            full[handler] = 1
            raise LocalError("this link takes no more circuits")

    scene.reach = lambda identity, reply, now: reply(Full(), scene.net.now)
    scene.pool._neighbours = scene
    scene.rdv(scene.directory.known[0])
    assert scene.trouble == [Why(PathWhy.ENTRY_SILENT)] and len(full) == ATTEMPTS


def test_a_circuit_in_use_that_dies_is_not_replaced(scene):
    scene.rdv(scene.directory.known[0])
    scene.do(lambda now: scene.got[0].destroy(DestroyReason.FINISHED, now))
    assert scene.states == [] and len(scene.got) == 1 and not scene.trouble


# -- circuits to exits


def test_an_exit_circuit_extends_a_ready_one_and_the_pool_is_filled_up(scene):
    scene.fill()
    ready = set(scene.ready_circuits())
    scene.exit()
    [circuit] = scene.got
    assert circuit in ready and len(circuit.path) == 3 and circuit.built
    assert scene.pool.ready == POOL_SIZE and circuit not in scene.ready_circuits()
    assert scene.built() == POOL_SIZE + 2


def go_on(scene, circuit, node):
    """Extend a circuit in use, as an asker does that was referred."""
    scene.do(
        scene.pool.extend,
        circuit,
        node,
        lambda circuit, now: scene.got.append(circuit),
        lambda why, now: scene.trouble.append(why),
    )


def test_a_circuit_in_use_goes_on_to_other_points_up_to_the_longest_path():
    scene = Scene(relays=8)
    scene.rdv(scene.directory.known[0])
    [circuit] = scene.got
    on_path = {node.identity for node in circuit.path}
    others = [node for node in scene.directory.known if node.identity not in on_path]
    for count, node in enumerate(others[:3], 3):
        go_on(scene, circuit, node)
        assert circuit.built and len(circuit.path) == count and circuit.path[-1] == node
    assert scene.got == [circuit] * 4 and not scene.trouble
    go_on(scene, circuit, others[3])
    assert [why.code for why in scene.trouble] == [PathWhy.NO_PATH] and circuit.built and len(circuit.path) == 5


@pytest.mark.parametrize("what", ["one hop", "itself", "the entry", "us", "in use", "out of reach"])
def test_what_cannot_go_on_stays_as_it_is(what):
    scene = Scene(relays=5, hops=1 if what == "one hop" else 2, own=None)
    point, other = scene.directory.known[:2]
    scene.rdv(point)
    [circuit] = scene.got
    node = {"itself": point, "the entry": circuit.path[0]}.get(what) or next(
        other for other in scene.directory.known if other not in circuit.path
    )
    if what == "us":
        scene.pool._exclude = (node.identity,)
    if what == "out of reach":  # a browser, from a server that speaks no rtc
        node = replace(node, schemes=frozenset(), rtc=True)
    if what == "in use":
        scene.net.by_identity[point.identity].services.on_begin = lambda *args: None
        circuit.open_stream("x.example:80", None, scene.net.now)
    go_on(scene, circuit, node)
    assert [why.code for why in scene.trouble] == [PathWhy.NO_PATH] and circuit.built


def test_a_referral_to_a_dead_node_costs_the_circuit_and_blames_nobody():
    """Neither the point, nor whoever is named, nor the entry: the one chose, of the other we have no proof."""
    scene = Scene(relays=4, size=0)
    scene.rdv(scene.directory.known[0])
    [circuit] = scene.got
    dead = next(node for node in scene.directory.known if node not in circuit.path)
    scene.deaf(scene.net.by_identity[dead.identity])
    go_on(scene, circuit, dead)
    scene.net.tick(INTRODUCED_HOP_TIMEOUT)
    assert [why.code for why in scene.trouble] == [PathWhy.RELAY_SILENT] and circuit.closed
    reputation = scene.pool._reputation
    assert not reputation._failed and not reputation._extensions


def test_a_referral_that_leads_on_forgives_nobody():
    """Else a point could clear its friend of the failures that we saw."""
    scene = Scene(relays=4, size=0)
    scene.rdv(scene.directory.known[0])
    [circuit] = scene.got
    friend = next(node for node in scene.directory.known if node not in circuit.path)
    scene.pool._reputation.failed(friend.identity, scene.net.now)
    go_on(scene, circuit, friend)
    assert circuit.path[-1] == friend and [*scene.pool._reputation._failed] == [friend.identity]


def test_no_node_is_found_where_nobody_looks_any_up(scene):
    found = []
    scene.pool.look_up(b"descriptor", scene.net.now, lambda node, now: found.append(node))
    assert found == [None]


def test_a_ready_circuit_that_is_being_probed_is_not_extended(scene):
    scene.fill()
    for machine in scene.relays:
        machine.services.on_begin = lambda *args: None
    scene.net.tick(PROBE_EVERY * 4 / 3)
    probed = {circuit for circuit in scene.ready_circuits() if circuit.in_use}
    assert probed
    for _ in range(POOL_SIZE + 1):
        scene.exit()
    assert len(scene.got) == POOL_SIZE + 1 and scene.trouble == []
    assert not probed & set(scene.got)


def test_a_file_keeps_its_entries(scene):
    """Who breaks its circuits again and again sees the same few first hops each time."""
    point, name = scene.directory.known[0], b"n" * 32
    for _ in range(30):
        scene.rdv(point, name, provider=True)
    entries = {circuit.path[0].identity for circuit in scene.got}
    assert len(entries) == ENTRIES
    side = entry_side(scene.directory.known, name, True, point.identity)
    assert entries < {node.identity for node in side}
    gone = min(entries)
    scene.directory.known = [node for node in scene.directory.known if node.identity != gone]
    scene.got.clear()
    for _ in range(10):
        scene.rdv(point, name, provider=True)
    assert {circuit.path[0].identity for circuit in scene.got} == entries - {gone}, "one is enough"


def test_a_file_whose_entries_are_all_gone_gets_others(scene):
    point, name = scene.directory.known[0], b"n" * 32
    scene.rdv(point, name)
    kept = set(scene.pool.entries._kept[user_of(name, False)])
    scene.directory.known = [node for node in scene.directory.known if node.identity not in kept]
    scene.rdv(point, name)
    assert len(scene.got) == 2 and scene.got[1].path[0].identity not in kept


def test_exit_circuits_are_handed_out_once(scene):
    scene.fill()
    for _ in range(12):
        scene.exit()
    assert len(set(scene.got)) == 12


@pytest.mark.parametrize(("hops", "exit_hops"), [(2, 2), (3, 3), (2, 4)])
def test_ready_circuits_of_an_unfit_length_are_left_alone(hops, exit_hops):
    scene = Scene(hops=hops, exit_hops=exit_hops)
    scene.fill()
    ready = scene.ready_circuits()
    scene.exit()
    assert len(scene.got[0].path) == exit_hops and scene.ready_circuits() == ready


def test_a_ready_circuit_is_not_extended_to_a_node_that_is_on_it():
    scene = Scene(relays=2)
    scene.fill()
    scene.exit()
    assert not scene.got and scene.trouble[0].values["needed"] == 2
    assert scene.pool.ready == POOL_SIZE


def test_without_a_ready_circuit_a_new_one_is_built(scene):
    scene.exit()
    assert len(scene.got) == 1 and len(scene.got[0].path) == 3


def test_only_exits_end_exit_circuits(scene):
    scene.directory.known = [scene.describe(machine, Role.RELAY) for machine in scene.relays[:-1]]
    scene.directory.known.append(scene.describe(scene.relays[-1], Role.EXIT))
    scene.fill()
    for _ in range(3):
        scene.exit()
    assert {circuit.path[-1].identity for circuit in scene.got} == {scene.relays[-1].keys.identity}


def test_no_exit_is_said_in_plain_words(scene):
    scene.directory.known = [scene.describe(machine, Role.RELAY) for machine in scene.relays]
    scene.fill()
    scene.exit()
    assert len(scene.trouble) == 1 and scene.trouble == [Why(PathWhy.NO_EXIT)]
    assert scene.pool.ready == POOL_SIZE


def test_an_exit_that_hangs_is_replaced(scene):
    good, bad = scene.relays[0], scene.relays[1]
    scene.directory.known = [scene.describe(machine, Role.RELAY) for machine in scene.relays[2:]]
    scene.directory.known += [scene.describe(machine, Role.EXIT) for machine in (good, bad)]
    scene.deaf(bad)
    scene.fill()
    for _ in range(8):
        scene.exit()
    for _ in range(6):
        scene.net.tick(HOP_TIMEOUT)
    assert len(scene.got) == 8 and {circuit.path[-1].identity for circuit in scene.got} == {good.keys.identity}
    assert not scene.trouble


# -- stopping


def test_stop_closes_everything_and_builds_no_more(scene):
    scene.fill()
    scene.rdv(scene.directory.known[0])
    scene.do(scene.pool.stop)
    assert scene.states == [] and scene.got[0].closed and scene.pool.ready == 0
    scene.rdv(scene.directory.known[0])
    assert len(scene.trouble) == 1
    scene.fill()
    scene.net.tick(10 * RENEW_AFTER)
    assert scene.states == []
    assert all(circuit.closed for machine in scene.relays for circuit in machine.circuits)


def test_a_link_that_opens_after_stop_is_not_used(scene):
    scene.silent = {machine.keys.identity for machine in scene.relays}
    replies = []
    scene.reach = lambda identity, reply, now: replies.append(reply)
    scene.pool._neighbours = scene
    scene.rdv(scene.directory.known[0])
    scene.do(scene.pool.stop)
    scene.do(lambda now: replies[0](None, now))
    assert scene.states == []


def test_the_snapshot_tells_hops_and_holds_no_objects(scene):
    scene.fill()
    scene.exit()
    in_use = next(item for item in scene.pool.snapshot() if item["state"] == "in use")
    assert in_use["purpose"] == "exit"
    assert [set(hop) for hop in in_use["hops"]] == [{"identity", "nickname", "roles", "built"}] * 3
    assert all(hop["built"] is True and hop["roles"] == ["relay", "rdv", "exit"] for hop in in_use["hops"])


def test_a_circuit_has_its_number_while_it_stands(scene):
    scene.fill()
    scene.exit()
    place = next(place for place in scene.pool._places.values() if place.request.purpose == "exit")
    numbers = [item["id"] for item in scene.pool.snapshot() if item["purpose"] == "exit"]
    assert [scene.pool.number(place.circuit)] == numbers
    scene.do(scene.pool.stop)
    assert scene.pool.number(place.circuit) is None
