"""Tor's directory in the core: a consensus of 9,000 relays read and believed, microdescriptors found and read, paths
chosen.

The documents are made here and have the size of today's. Only CPU time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256

from convergence.netdir.consensus import ConsensusDirectory
from convergence.outbox import Outbox
from convergence.path.guards import Guards
from convergence.path.torpath import TorPaths, Wanted
from convergence.wire.consensus import Consensus
from convergence.wire.microdescriptor import Microdescriptor, find_microdescriptors
from tests.bench.lab import Figure, best
from tests.unit.circuit.rig import SeededRng
from tests.unit.netdir.authorities import NOW, Authority, consensus, relays, vector
from tests.unit.path.tornetwork import usual

AUTHORITIES = 9
ANSWER = 92  # microdescriptors that tor asks for at once
PATHS = 100


def run(tiny: bool = False) -> list[Figure]:
    count, rounds = (100, 1) if tiny else (9000, 7)
    authorities = [Authority(number) for number in range(AUTHORITIES)]
    data = consensus(authorities, relays=relays(count))
    parsed = Consensus.parse(data)
    certificates = b"".join(authority.certificate() for authority in authorities)

    def believe() -> None:
        directory = ConsensusDirectory(authority.identity for authority in authorities)
        assert directory.add_certificates(certificates, directory.missing(parsed, NOW), NOW) == []
        assert directory.update(parsed, NOW)

    one = vector("microdescriptors").split(b"\nonion-key\n")[-1]
    parts = [b"onion-key\nx-number %d\n" % number + one for number in range(count)]
    digests = {sha256(part).digest() for part in parts}
    answers = [b"".join(parts[at : at + ANSWER]) for at in range(0, count, ANSWER)]

    def find_all() -> None:
        for answer in answers:
            assert find_microdescriptors(answer, digests)

    def read_all() -> None:
        for part in parts:
            Microdescriptor.parse(part)

    view = usual(count).view()
    paths = TorPaths(SeededRng("bench"), Guards(Outbox(), SeededRng("bench"), "tor"))

    def first_path() -> None:
        paths.update(view, NOW)
        paths.exit_path([Wanted(443)], NOW).use.over(NOW)

    def next_path() -> None:
        for _ in range(PATHS):
            paths.exit_path([Wanted(443)], NOW).use.over(NOW)

    def figure(name: str, work: Callable[[], object], note: str = "") -> Figure:
        return Figure(name, best(name, rounds, partial(_rate, work)) ** -1 * 1000, "ms", note=note)

    return [
        figure(f"consensus of {count} relays read", partial(Consensus.parse, data), f"{len(data) / 1e6:.1f} MB"),
        figure("its signatures and certificates checked", believe, f"{AUTHORITIES} authorities, RSA of 1024 bits"),
        figure(f"{count} microdescriptors found by digest", find_all),
        figure("the same, all of them read", read_all),
        figure("first path to an exit after a new consensus", first_path),
        figure(f"{PATHS} more", next_path),
    ]


def _rate(work: Callable[[], object]) -> float:
    """How often a second of CPU time does it."""
    began = time.process_time()
    work()
    return 1 / max(time.process_time() - began, 1e-6)
