"""A client gets the documents of the Tor network from honest directories, asks in time, and starts from what it kept.
What it does with lying ones: test_directory_hostile.py."""

from collections import Counter

import pytest

from convergence.netdir.consensus import TOLERANCE
from convergence.tor.directory import BATCH, BUCKET, CHUNK, PARALLEL
from convergence.wire.compressed import zstd_library
from tests.unit.netdir.authorities import HOUR, NOW, Authority
from tests.unit.tor.world import FIVE, Documents, World, response

FIRST, LAST = 1 + 2 * 3 / 4, 1 + 2 * 15 / 16  # hours after its date at which the next consensus is asked for


class Served:
    """The documents that all directories have, which change."""

    def __init__(self, documents):
        self.documents = documents

    def __call__(self, asked):
        return self.documents(asked)


def bootstrapped(documents=None, **options):
    served = Served(documents or Documents())
    world = World(served, served, **options).start().run(10)
    assert world.complete and world.refused == []
    return world, served


def kinds(world):
    return [asked.kind for asked in world.requests]


def test_bootstrap():
    documents = Documents()
    world, _ = bootstrapped(documents)
    assert world.client.consensus.data == documents.consensus
    assert world.known == documents.micro and world.changes > 1
    assert kinds(world) == ["consensus", "certificates", *["microdescriptors"] * 3]


@pytest.mark.parametrize("encoding", ["identity", "x-zstd"])
def test_bootstrap_byte_by_byte_over_one_directory(encoding):
    documents = Documents(20)

    def answer(asked):
        body = documents.find(asked)
        return response(
            zstd_library().compress(body) if encoding == "x-zstd" else body, encoding=encoding, framing="close"
        )

    world = World(answer)
    world.directories[0].cut = lambda data: [bytes([byte]) for byte in data]
    assert world.start().run(10).complete and len(world.circuits) == 1


def test_what_is_asked_for():
    documents = Documents()
    world, _ = bootstrapped(documents)
    consensus, certificates, *batches = world.requests
    prefixes = "+".join(sorted(authority.identity.hex()[:6].upper() for authority in FIVE))
    assert consensus.path == f"/tor/status-vote/current/consensus-microdesc/{prefixes}"
    assert "x-or-diff-from-consensus" not in consensus.headers
    names = {"-".join(part.hex().upper() for part in authority.name) for authority in FIVE}
    assert set(certificates.path.removeprefix("/tor/keys/fp-sk/").split("+")) == names
    asked = [digest for batch in batches for digest in batch.digests]
    assert sorted(asked) == sorted(documents.micro), "each once"
    assert [len(batch.digests) for batch in batches] == [BATCH, BATCH, 200 - 2 * BATCH]


def test_so_many_batches_at_once():
    documents = Documents(1000)
    world = World(lambda asked: [1.0, *documents(asked)]).start().run(30)
    assert world.complete
    began = Counter(asked.when - world.requests[0].when for asked in world.asked("microdescriptors"))
    assert -(-1000 // BATCH) == 11 and PARALLEL == 3
    assert began == {2: 3, 3: 3, 4: 3, 5: 2}


def test_certificates_that_are_known_are_not_asked_for_again():
    world, served = bootstrapped()
    served.documents = served.documents.later()
    world.run(4 * HOUR)
    assert kinds(world).count("consensus") == 2 and kinds(world).count("certificates") == 1


def test_the_certificates_of_a_majority_do():
    """An authority whose certificate nobody has does not stop the others."""
    documents = Documents(signers=[*FIVE[:4], Authority(4, epoch=1)])
    world = World(documents, documents).start().run(10)
    assert world.complete and world.refused == []
    documents.micro |= (later := documents.later(signers=[*FIVE[:4], Authority(4, epoch=1)])).micro
    later.micro = documents.micro
    world.directories[0].answer = world.directories[1].answer = later
    world.run(4 * HOUR)
    assert world.client.consensus.data == later.consensus and world.refused == []
    assert kinds(world).count("certificates") == 1, "what is not needed is not asked for"


def test_a_new_signing_key_has_its_certificate_asked_for():
    new = [Authority(number, epoch=1) for number in range(5)]
    world, served = bootstrapped()
    served.documents = served.documents.later(signers=new)
    served.documents.certificates = b"".join(authority.certificate() for authority in new)
    world.run(4 * HOUR)
    assert world.client.consensus.data == served.documents.consensus and world.refused == []


@pytest.mark.parametrize("seed", range(5))
def test_the_next_consensus_is_asked_for_late_in_the_life_of_this_one(seed):
    world, served = bootstrapped(seed=str(seed))
    served.documents = served.documents.later()
    asked = len(world.requests)
    world.run(FIRST * HOUR - 80)
    assert len(world.requests) == asked
    world.run((LAST - FIRST) * HOUR + 80)
    assert kinds(world)[asked:] == ["consensus"] and world.complete
    assert world.client.consensus.data == served.documents.consensus


def test_clients_ask_at_different_times():
    whens = set()
    for seed in range(5):
        world, served = bootstrapped(seed=str(seed))
        served.documents = served.documents.later()
        whens.add(round(world.run(4 * HOUR).requests[-1].when))
    assert len(whens) == 5


def test_a_diff_is_asked_for_and_only_new_microdescriptors():
    world, served = bootstrapped()
    first = world.client.consensus
    served.documents = served.documents.later(relays=210)
    known = set(world.known)
    world.run(4 * HOUR)
    assert world.complete and world.client.consensus.data == served.documents.consensus
    consensus, batch = world.requests[-2:]
    assert consensus.headers["x-or-diff-from-consensus"] == first.diff_base
    assert set(batch.digests) == set(served.documents.micro) - known and len(batch.digests) == 10
    assert set(world.known) == set(served.documents.micro)


def test_a_day_of_consensuses():
    world, served = bootstrapped()
    for hours in range(3, 24, 3):
        earlier = served.documents
        served.documents = Documents(valid_after=NOW + hours * HOUR, seed=str(hours // 6))
        served.documents.micro |= earlier.micro
        world.run(3 * HOUR)
        assert world.client.documents.live(world.now) and world.complete
        assert set(world.known) == {relay.digest for relay in world.client.consensus.relays}
    assert kinds(world).count("consensus") == 8 and world.refused == []
    kept = [name for _, name in world.storage if name.startswith(CHUNK)]
    assert len(kept) == 3, "what is needed no more is deleted"


# -- the clock


@pytest.mark.parametrize("by", [HOUR, 2.9 * HOUR, 30 * HOUR, 900 * HOUR])
def test_a_clock_that_jumps_ahead_has_the_next_consensus_asked_for_in_time(by):
    world, served = bootstrapped()
    hours = int((world.now + by - NOW) // HOUR)
    served.documents = served.documents.later(hours)
    asked = len(world.requests)
    world.shift(by)
    world.run(LAST * HOUR - (world.now - NOW) if by == HOUR else 60)
    assert kinds(world)[asked:] == ["consensus"]
    assert world.complete and world.client.documents.live(world.now)


def test_a_clock_that_jumps_back_does_not_keep_an_old_consensus():
    world = World(Documents(), now=float(NOW + 20 * HOUR))
    world.start().run(60)
    assert world.complete, "it has expired by this clock, but is better than none"
    world.shift(-20 * HOUR)
    served = Documents().later()
    world.directories[0].answer = served
    world.run(LAST * HOUR)
    assert world.client.consensus.data == served.consensus


def test_a_clock_that_jumps_while_all_is_asked():
    documents = Documents()
    for by in (-1e6, 1e6):
        for steps in range(30):
            world = World(documents).start()
            for _ in range(steps):
                world.step(world.now)
            world.shift(by)
            world.run(1)
            world.shift(-by)
            assert world.run(120).complete


def test_after_sleep_it_is_tried_at_once():
    world = World(Documents())
    world.directories[0].reached = False
    world.start().run(1000)
    asked = len(world.refused)
    world.directories[0].reached = True
    world.client.moved(world.now)
    assert world.run(1).complete and len(world.refused) == asked


def test_after_a_move_no_directory_rests():
    world, _ = bootstrapped()
    for directory in world.directories:
        world.sources.rest(directory.target.identity, world.now)
    world.client.moved(world.now)
    assert not any(world.sources.rests(directory.target.identity, world.now) for directory in world.directories)


def test_a_move_while_what_was_kept_is_read_asks_nothing():
    world, _ = bootstrapped()
    again = World(Documents(), storage=world.storage).start()
    again.client.moved(again.now)
    assert again.run(10).complete and again.requests == []


# -- what was kept


def kept(relays=200):
    world, _ = bootstrapped(Documents(relays))
    return world.storage


def restarted(storage, *, now=NOW + 120, documents=None, **options):
    documents = documents or Documents()
    return World(documents, documents, storage=storage, now=float(now), **options).start().run(10)


def test_a_restart_asks_nothing():
    world = restarted(kept(500), documents=Documents(500))
    assert world.complete and world.requests == [] and world.changes >= 2
    world.run(FIRST * HOUR - 200)
    assert world.requests == []
    world.run(HOUR)
    assert kinds(world)[0] == "consensus" and "x-or-diff-from-consensus" in world.requests[0].headers


def test_a_restart_with_the_certificates_of_a_majority_only():
    documents = Documents(signers=[*FIVE[:3], Authority(3, 1), Authority(4, 1)])
    world, _ = bootstrapped(documents)
    again = restarted(world.storage, documents=documents)
    assert again.complete and again.requests == []


@pytest.mark.parametrize("hours", [4, TOLERANCE // HOUR, 100])
def test_a_restart_with_an_old_consensus_asks_for_another_at_once(hours):
    """Microdescriptors are needed all the same, also when the consensus is of no use any more."""
    later = Documents().later(hours)
    world = restarted(kept(), now=NOW + hours * HOUR + 60, documents=later)
    assert world.complete and kinds(world) == ["consensus"]
    assert world.client.consensus.data == later.consensus


def test_another_network_finds_nothing_of_use():
    others = [Authority(number) for number in range(10, 13)]
    documents = Documents(20, signers=others, seed="others")
    documents.certificates = b"".join(authority.certificate() for authority in others)
    world = restarted(kept(), documents=documents, authorities=others)
    assert world.complete and world.client.consensus.data == documents.consensus and world.refused == []
    assert len([name for _, name in world.storage if name.startswith(CHUNK)]) == 1 + 3, "until the next consensus"


def names(storage):
    return sorted(name for _, name in storage)


@pytest.mark.parametrize("damage", ["lost", "empty", "cut", "changed", "failure"])
@pytest.mark.parametrize("which", range(5))
def test_a_restart_from_damaged_documents(which, damage):
    storage = kept()
    name = BUCKET, names(storage)[which]
    data = storage[name]
    storage[name] = {
        "lost": None,
        "empty": b"",
        "cut": data[: len(data) // 2],
        "changed": data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :],
        "failure": OSError(),
    }[damage]
    world = restarted(storage)
    assert world.complete and world.refused == []
    assert len(world.requests) <= 3
    again = restarted(world.storage)
    assert again.complete and again.requests == [], "it is mended then"


def test_a_restart_from_odd_names():
    storage = kept()
    for name in (b"micro/", b"micro/\xff", b"micro/" + b"9" * 5000):
        storage[BUCKET, name] = b"onion-key\n"
    world = restarted(storage)
    assert world.complete and world.requests == []
    world.directories[0].answer = world.directories[1].answer = Documents().later()
    world.run(4 * HOUR)
    assert len(names(storage)) == 5, "what nobody knows is deleted with the next consensus"


def test_other_certificates_are_not_kept():
    """A directory may send more than was asked for. What it adds does not take the place of what is needed."""
    documents = Documents()
    honest = documents.certificates
    strangers = b"".join(Authority(number).certificate() for number in range(20, 40))
    served = Served(lambda asked: response(strangers + honest) if asked.kind == "certificates" else documents(asked))
    world = World(served).start().run(10)
    assert world.complete
    assert sorted(world.storage[BUCKET, b"certificates"].split(b"dir-key-certificate-version")) == sorted(
        honest.split(b"dir-key-certificate-version")
    )


# -- the end


@pytest.mark.parametrize("restarts", [True, False])
def test_stopping_at_any_moment_leaves_nothing(restarts):
    storage, documents = kept() if restarts else {}, Documents()
    for steps in range(30):
        world = World(documents, documents, storage=dict(storage)).start()
        for _ in range(steps):
            world.step(world.now)
        changes, asked = world.changes, len(world.requests)
        world.client.stop(world.now)
        assert world.timers == [] and world.circuits == []
        world.run(1000)
        assert world.timers == [] and world.circuits == []
        assert len(world.requests) == asked and world.refused == [] and world.changes <= changes + 1
