"""Directories that lie, or do not answer: none is believed, each is named with its reason and rests, others are asked,
and nothing goes round without a pause."""

import random
from email.utils import parsedate_to_datetime

import pytest

from convergence.errors import EndReason
from convergence.tor.directory import CERTIFICATE_REQUESTS, PARALLEL, RETRY_MAX
from convergence.tor.request import TIME_LIMIT
from convergence.wire.consensus import MAX_CONSENSUS, Consensus
from tests.unit.netdir.authorities import HOUR, NOW, Authority, consensus, consensus_body, rsa_secret
from tests.unit.tor.world import DESTROY, END, FIVE, Documents, World, certificates, error, response

HONEST = Documents()
HONEST_CONSENSUS = Consensus.parse(HONEST.consensus)
OLD = Documents(valid_after=NOW - HOUR)
FORGER = rsa_secret("forger")
STRANGERS = [Authority(number) for number in range(10, 15)]
PER_HOUR = 25  # requests at most for one kind of document, if all directories lie: pauses grow to RETRY_MAX


def lie(kind, answer):
    """A directory that gives this answer where it is asked for that kind of document, or calls it with what is asked;
    otherwise it is honest."""

    def answered(asked):
        if asked.kind != kind:
            return HONEST(asked)
        return answer(asked) if callable(answer) else answer

    return answered


def signed(signers, **options):
    return response(consensus(signers, **options))


def signed_as(names):
    """A forger signs under these names."""
    body = consensus_body()
    return response(body + b"".join(FIVE[0].signature(body, name=name, key=FORGER) for name in names))


def endless(framing):
    piece = bytes(1 << 20)
    [head, *_] = response(piece, framing="close")
    return [head, *[piece] * 20]


CONSENSUSES = {  # what is sent, and why it is refused
    "expired": (signed(FIVE, valid_after=NOW - 100 * HOUR), "the consensus has expired"),
    "of the future": (signed(FIVE, valid_after=NOW + 100 * HOUR), "comes from the future"),
    "other flavor": (signed(FIVE, flavor=""), "flavor ns"),
    "minority": (signed(FIVE[:2]), "signed by 2 of 5 authorities, 3 are needed"),
    "strangers": (signed(STRANGERS), "signed by 0 of 5"),
    "minority and strangers": (signed([*FIVE[:2], *STRANGERS]), "signed by 2 of 5"),
    "minority and false ones": (
        response(consensus(FIVE[:2]) + b"".join(one.signature(consensus_body(), key=FORGER) for one in FIVE[2:])),
        "signed by 2 of 5",
    ),
    "forged": (signed_as([one.name for one in FIVE]), "signed by 0 of 5"),
    "forged keys": (signed_as([(one.identity, bytes(20)) for one in FIVE]), "certificates of those who signed"),
    "a diff to nothing": (response(b"network-status-diff-version 1\nhash A B\n"), "there is no consensus"),
    "garbage": (response(b"\xff" * 1000), ""),
    "nothing": (response(b""), ""),
    "microdescriptors": (response(b"".join(HONEST.micro.values())), ""),
    "many signatures": (
        response(HONEST.consensus + HONEST.consensus[HONEST.consensus.index(b"directory-signature") :] * 20),
        "more than 64 signatures",
    ),
    "cut": (response(HONEST.consensus[:-1000]), ""),
    "404": (error(404), "answered 404"),
    "503": (error(503), "answered 503"),
    "304": (error(304), "answered 304"),
    "endless": (endless("close"), f"more than {MAX_CONSENSUS} bytes"),
    "end": ([END], ""),
    "abort": ([int(EndReason.MISC)], "no stream"),
    "destroy": ([DESTROY], "no stream"),
    "silence": ([], "took too long"),
    "one byte": ([b"H"], "took too long"),
}
CERTIFICATES = {
    "forged": (response(b"".join(one.certificate(signed_by=FORGER) for one in FIVE)), "did not sign"),
    "for other keys": (response(b"".join(Authority(number, 1).certificate() for number in range(5))), "not asked for"),
    "expired": (response(b"".join(one.certificate(expires=NOW - 1) for one in FIVE)), "has expired"),
    "of the future": (
        response(b"".join(one.certificate(published=NOW + 100 * HOUR) for one in FIVE)),
        "from the future",
    ),
    "of strangers": (response(b"".join(one.certificate() for one in STRANGERS)), "not asked for"),
    "without a vouch": (response(b"".join(one.certificate(crosscert=FORGER) for one in FIVE)), "does not vouch"),
    "garbage": (response(b"dir-key-certificate-version 3\n"), ""),
    "nothing": (response(b""), "none of the certificates"),
    "too many": (response(certificates() * 20), "more than 64 documents"),
    "404": (error(404), "answered 404"),
    "silence": ([], "took too long"),
    "destroy": ([DESTROY], "no stream"),
}
MICRODESCRIPTORS = {
    "others": (response(b"".join(Documents(seed="others").micro.values())), "microdescriptors are missing"),
    "changed": (
        lambda asked: response(HONEST.find(asked).replace(b"ntor-onion-key", b"ntor-onion-kex")),
        "microdescriptors are missing",
    ),
    "one": (lambda asked: response(HONEST.micro[asked.digests[0]]), "microdescriptors are missing"),
    "all but one": (
        lambda asked: response(b"".join(HONEST.micro[digest] for digest in asked.digests[1:])),
        "1 of ",
    ),
    "too many": (response(b"onion-key\n" * 10_000), "more than 8192 documents"),
    "garbage": (response(b"\xff" * 1000), "microdescriptors are missing"),
    "404": (error(404), "answered 404"),
    "endless": (endless("close"), "an answer of more than"),
    "silence": ([], "took too long"),
    "destroy": ([DESTROY], "no stream"),
}
LIES = [
    pytest.param(kind, answer, reason, id=f"{kind}: {name}")
    for kind, lies in (
        ("consensus", CONSENSUSES),
        ("certificates", CERTIFICATES),
        ("microdescriptors", MICRODESCRIPTORS),
    )
    for name, (answer, reason) in lies.items()
]


@pytest.mark.parametrize(("kind", "answer", "reason"), LIES)
def test_the_truth_comes_from_another_directory(kind, answer, reason):
    world = World(lie(kind, answer), HONEST, HONEST, HONEST)
    liar = world.directories[0]
    world.candidates = [liar]
    world.start().until(lambda: world.asked(kind))
    world.candidates = world.directories
    world.run(10 * TIME_LIMIT)
    assert world.complete and world.client.consensus.data == HONEST.consensus
    assert world.known == HONEST.micro
    named = [event for _, event in world.refused if event.source == liar.target.identity.hex()]
    assert any(event.document == kind and reason in event.reason for event in named)
    assert sum(asked.kind == kind for asked in liar.requests) <= PARALLEL, "it rests"
    others = len(world.refused) - len(named)
    assert others <= (CERTIFICATE_REQUESTS if "those who signed" in reason else 0), "only who lacks what was invented"
    assert world.run(60).timers and world.circuits == []


@pytest.mark.parametrize(("kind", "answer", "reason"), LIES)
def test_when_all_lie_it_is_tried_seldom(kind, answer, reason):
    world = World(*[lie(kind, answer)] * 4).start().run(HOUR)
    assert not world.complete or kind == "microdescriptors"
    assert any(reason in given for given in world.reasons)
    ours = [asked for asked in world.requests if asked.kind == kind]
    assert len(ours) <= PER_HOUR * (PARALLEL if kind == "microdescriptors" else 1) + len(world.known)
    assert len(world.requests) - len(ours) <= 2 * PER_HOUR
    for directory in world.directories:
        directory.answer = HONEST
    assert world.run(RETRY_MAX + 2 * TIME_LIMIT).complete


def test_a_liar_that_keeps_a_newer_consensus_back():
    """It has the one in use, still, when it is time for another."""
    later = HONEST.later()
    world = World(HONEST, HONEST).start().run(10)
    world.directories[1].answer = later
    world.candidates = world.directories[:1]
    world.until(lambda: len(world.asked("consensus")) == 2)
    world.candidates = world.directories
    world.run(10)
    assert world.client.consensus.data == later.consensus
    assert "once more" in world.reasons[0] and len(world.refused) == 1


@pytest.mark.parametrize("answer", [HONEST, OLD])
def test_when_nobody_has_a_newer_consensus_it_is_asked_for_seldom(answer):
    world = World(HONEST, HONEST).start().run(10)
    for directory in world.directories:
        directory.answer = answer
    asked = len(world.requests)
    world.run(10 * HOUR)
    assert world.complete and len(world.requests) - asked <= 10 * HOUR / RETRY_MAX + 10
    assert "once more" in world.reasons[0] or "not newer" in world.reasons[0]


def unmodified(asked):
    """No newer consensus than HONEST has."""
    since = parsedate_to_datetime(asked.headers["if-modified-since"]).timestamp()
    assert HONEST_CONSENSUS.valid_after < since < HONEST_CONSENSUS.fresh_until
    return error(304)


def test_that_a_directory_has_nothing_newer_is_no_fault_and_others_are_asked():
    later = HONEST.later()
    world = World(HONEST, HONEST).start().run(10)
    world.directories[0].answer, world.directories[1].answer = unmodified, later
    world.candidates = world.directories[:1]
    world.until(lambda: len(world.asked("consensus")) == 2)
    world.candidates = world.directories
    world.run(10)
    assert world.client.consensus.data == later.consensus
    assert world.refused == []


def test_while_all_have_nothing_newer_they_are_asked_seldom():
    world = World(HONEST, HONEST).start().run(10)
    for directory in world.directories:
        directory.answer = unmodified
    asked = len(world.requests)
    world.run(10 * HOUR)
    assert world.refused == [] and 2 < len(world.requests) - asked <= 10 * HOUR / RETRY_MAX + 10


def test_an_older_consensus_does_not_replace_a_newer_one():
    world = World(HONEST).start().run(10)
    world.directories[0].answer = OLD
    world.run(3 * HOUR)
    assert world.client.consensus.data == HONEST.consensus
    assert set(world.reasons) == {"the consensus is not newer than the one in use"}


@pytest.mark.parametrize("wrong", ["result", "base", "signatures"])
def test_a_diff_that_gives_something_else(wrong):
    world = World(HONEST).start().run(10)
    later = HONEST.later()
    if wrong == "signatures":
        later.consensus = consensus(FIVE[:2], valid_after=NOW + 2 * HOUR)
        bad = later.find
    else:

        def bad(asked):
            body = later.find(asked)
            return (
                body.replace(b"Bandwidth=100", b"Bandwidth=999")
                if wrong == "result"
                else body.replace(b"hash ", b"hash 00")
            )

    world.directories[0].answer = lambda asked: response(bad(asked))
    world.run(3 * HOUR)
    assert world.client.consensus.data == HONEST.consensus and world.refused
    world.directories[0].answer = HONEST.later()
    assert world.run(RETRY_MAX).complete and world.client.consensus.data == HONEST.later().consensus


def test_the_sender_of_a_bad_consensus_is_blamed_not_that_of_the_certificates():
    world = World(lie("consensus", signed(FIVE[:2])), HONEST, HONEST)
    world.candidates = world.directories[:1]
    world.start().until(lambda: world.requests)
    world.candidates = world.directories[1:]
    assert world.run(60).complete
    assert [(event.document, event.source) for _, event in world.refused] == [("consensus", (bytes([1]) * 20).hex())]


def test_microdescriptors_that_nobody_has_do_not_stop_the_others():
    lost = dict(list(HONEST.micro.items())[50:53])
    documents = Documents()
    for digest in lost:
        del documents.micro[digest]
    world = World(documents, documents).start().run(HOUR)
    assert sorted(world.client.missing()) == sorted(lost)
    assert len(world.requests) <= 2 * PER_HOUR
    documents.micro |= lost
    assert world.run(RETRY_MAX).complete


def test_what_came_of_an_answer_is_kept_and_not_asked_for_again():
    def half(asked):
        return response(b"".join(HONEST.micro[digest] for digest in asked.digests[::2]))

    world = World(lie("microdescriptors", half)).start().run(200)
    assert world.complete
    digests = [digest for asked in world.asked("microdescriptors") for digest in asked.digests]
    assert len(digests) <= 2 * 200 + 20


def test_nobody_to_ask():
    world = World(HONEST)
    world.candidates = []
    world.start().run(HOUR)
    assert len(world.timers) == 1
    world.candidates = world.directories
    assert world.run(RETRY_MAX).complete


@pytest.mark.parametrize("state", [{"reached": False}, {"reached": None}, {"accepts": None}, {"accepts": DESTROY}])
def test_when_nobody_can_be_reached(state):
    world = World(*[HONEST] * 3)
    for directory in world.directories:
        for name, value in state.items():
            setattr(directory, name, value)
    world.start().run(HOUR)
    assert world.requests == [] and 10 < len(world.refused) <= PER_HOUR
    assert all("no stream" in reason for reason in world.reasons)
    assert len(world.circuits) <= 1
    for directory in world.directories:
        directory.reached = directory.accepts = True
    assert world.run(RETRY_MAX + 2 * TIME_LIMIT).complete


def test_a_day_among_liars():
    """Most directories lie, each time otherwise. There is always one that does not."""
    rng = random.Random("liars")
    every = {"consensus": CONSENSUSES, "certificates": CERTIFICATES, "microdescriptors": MICRODESCRIPTORS}
    truth = [HONEST]

    def liar(asked):
        answer, _ = rng.choice(list(every[asked.kind].values()))
        return answer if isinstance(answer, list) else error(503)

    world = World(liar, liar, liar, lambda asked: truth[0](asked)).start()
    for hours in range(0, 24, 3):
        if hours:
            truth[0] = Documents(valid_after=NOW + hours * HOUR, seed=str(hours // 6))
        world.run(3 * HOUR)
        assert world.complete and world.client.documents.live(world.now - HOUR)
    assert len(world.requests) < 24 * 3 * PER_HOUR
    assert all(len(value) < 1 << 18 for value in world.storage.values())
