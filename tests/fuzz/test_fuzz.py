"""Bounded fuzzing with fixed seeds: each parser returns a record or raises ParseError, whatever it is fed."""

import random

import pytest

from convergence.crypto.keys import NodeKeys
from convergence.effects import CloseLink, Protocol
from convergence.errors import ParseError, Problem
from convergence.facilitator.client import FacilitatorClient
from convergence.facilitator.service import FacilitatorService
from convergence.netdir.headers import Headers
from convergence.netdir.nodes import NodeDirectory
from convergence.outbox import Outbox
from convergence.wire.facilitator import RecordType, encode_record
from pynode.crypto import CPythonCrypto
from tests.fuzz.targets import TARGETS

ROUNDS = 300
MAX_RANDOM = 600


def mutate(rng, data):
    """A few bits, bytes, cuts, insertions or repetitions away from `data`."""
    mutated = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(mutated) + 1)
        match rng.randrange(6):
            case 0 if at < len(mutated):
                mutated[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(mutated):
                mutated[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 2:
                del mutated[at:]
            case 3:
                mutated[at:at] = rng.randbytes(rng.randint(1, 8))
            case 4:
                del mutated[at : at + rng.randint(1, 8)]
            case _:
                mutated[at:at] = mutated[max(0, at - 16) : at]
    return bytes(mutated)


def inputs(name, samples):
    rng = random.Random(name)
    yield b""
    for size in (1, 2, 4, 8, MAX_RANDOM):
        yield bytes(size)
        yield b"\xff" * size
    for sample in samples:
        yield from (sample[:size] for size in range(min(len(sample), 200)))
        yield from (mutate(rng, sample) for _ in range(ROUNDS))
    yield from (rng.randbytes(rng.randint(0, MAX_RANDOM)) for _ in range(ROUNDS))


@pytest.mark.parametrize("name", TARGETS)
def test_samples_are_accepted(name):
    for sample in TARGETS[name].samples:
        TARGETS[name].parse(sample)


@pytest.mark.parametrize("name", TARGETS)
def test_a_record_or_parse_error(name):
    refused = 0
    for data in inputs(name, TARGETS[name].samples):
        try:
            TARGETS[name].parse(data)
        except (ParseError, Problem):
            refused += 1
    # END, DESTROY and TRUNCATED are read whatever they hold; everything else is refused often.
    assert refused or name in ("relay.End", "create.Destroy", "relay.Truncated")


class SeededRng:
    def __init__(self, seed):
        self._random = random.Random(seed)

    def random(self, size):
        return self._random.randbytes(size)


def record_inputs(name):
    """Framed and unframed garbage for a facilitator channel."""
    rng = random.Random(name)
    kinds = ("Register", "Signal", "Delivery", "NodeList", "Hello", "Unreachable", "Puzzle", "Solved")
    register, signal, delivery, nodes, hello, unreachable, puzzle, solved = (
        TARGETS[f"facilitator.{kind}"].samples[0] for kind in kinds
    )
    requests = (
        *((RecordType.REGISTER, register), (RecordType.LIST, b""), (RecordType.SOLVED, solved)),
        *((RecordType.SIGNAL, signal), (RecordType.REPLY, delivery)),
    )
    answers = (
        *((RecordType.HELLO, hello), (RecordType.DELIVER, delivery), (RecordType.REPLY, delivery)),
        *((RecordType.UNREACHABLE, unreachable), (RecordType.NODES, nodes), (RecordType.REGISTERED, b"")),
        (RecordType.PUZZLE, puzzle),
    )
    valid = [b"".join(encode_record(*record) for record in records) for records in (requests, answers)]
    for _ in range(ROUNDS):
        yield rng.randbytes(rng.randint(0, 100))
        for records in valid:
            yield mutate(rng, records)


def test_the_facilitator_outlives_any_bytes():
    service = FacilitatorService(CPythonCrypto(), SeededRng("nonces"), bytes(32))
    for channel, data in enumerate(record_inputs("service")):
        service.link_opened(channel, 1.0, protocol=Protocol.FACILITATOR)
        service.link_data(channel, data[: len(data) // 2], 1.0)
        service.link_data(channel, data[len(data) // 2 :], 1.0)
        service.link_closed(channel, 1.0, "")
        service.poll(1.0)
    health = service.health(1.0)
    assert (health["channels"], health["nodes"]) == (0, [])


def test_the_client_outlives_any_bytes():
    outbox, crypto, rng = Outbox(), CPythonCrypto(), SeededRng("client")
    keys = NodeKeys.generate(crypto, rng)
    directory = NodeDirectory(crypto)
    headers = Headers(crypto, lambda: directory.facilitator)
    client = FacilitatorClient(outbox, crypto, rng, keys, directory, headers, "ws://host/")
    now = 1.0
    for data in record_inputs("client"):
        client.start(now)
        channel = client.channel
        client.opened(channel, now)
        client.data(channel, data, now)
        client.stop(now)
        assert any(isinstance(effect, CloseLink) for effect in outbox.poll(now))
    assert client.channel is None
