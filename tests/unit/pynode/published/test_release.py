"""Who may take the place of a version that runs: signatures, the log, and the way back that there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pynode.published.log import Log, tree_root
from pynode.published.manifest import Manifest, Refused, canonical_json
from pynode.published.minisign import PublicKey, SecretKey
from pynode.published.release import Release, Seen, Trust, Verdict, check, comment, sign

KEYS = [SecretKey(bytes([number]) * 8, bytes([number]) * 32) for number in range(1, 7)]
OLD, NEW = KEYS[:3], KEYS[3:]


def build(number: int, keys: list[SecretKey] = OLD, threshold: int = 2) -> Manifest:
    return Manifest.of({"index.html": b"%d" % number}, f"0.{number}", [key.public.text for key in keys], threshold)


def published(log: Log, manifest: Manifest, *keys: SecretKey) -> tuple[Log, bytes]:
    """The log with this release, and its record with the keys' signatures."""
    release = None
    for key in keys:
        log, release = sign(manifest, log, release, key)
    assert release is not None
    return log, release.encode()


ONE = build(1)
LOG_1, RELEASE_1 = published(Log(), ONE, OLD[0], OLD[1])
TWO = build(2)
LOG_2, RELEASE_2 = published(LOG_1, TWO, OLD[1], OLD[2])
TRUST, SEEN = Trust.of(ONE), Seen.of(ONE, RELEASE_1)


def judged(
    manifest: Manifest = TWO, release: bytes | None = RELEASE_2, log: bytes | None = None, **options: Any
) -> Verdict:
    trust, seen = options.pop("trust", TRUST), options.pop("seen", SEEN)
    return check(manifest, release, LOG_2.encode() if log is None else log, trust, seen)


def refused(verdict: Verdict, *words: str) -> None:
    assert not verdict.ok
    for word in words:
        assert any(word in why for why in verdict.why), verdict.why


def test_two_of_three_are_enough() -> None:
    verdict = judged()
    assert verdict.ok and verdict.why == () and (len(verdict.signers), verdict.needed) == (2, 2)
    assert {key.text for key in verdict.signers} == {OLD[1].public.text, OLD[2].public.text}
    assert verdict.index == 1 and verdict.head == LOG_2.head()
    assert judged(seen=None).ok and judged(ONE, RELEASE_1, LOG_1.encode(), seen=None).ok
    assert SEEN == Seen(LOG_1.head(), 0, "0.1")


def test_the_log_may_have_grown_since_it_was_signed() -> None:
    log, _ = published(LOG_2, build(3), OLD[0])
    assert judged(log=log.encode()).ok


def test_too_few_signatures() -> None:
    log, release = published(LOG_1, TWO, OLD[0])
    verdict = judged(release=release, log=log.encode())
    refused(verdict, "1 of the trusted keys signed, 2 have to")
    assert len(verdict.signers) == 1


def test_stripped_signatures() -> None:
    refused(judged(release=None), "no release.json")
    bare = {**json.loads(RELEASE_2), "signatures": []}
    refused(judged(release=canonical_json(bare)), "0 of the trusted keys")
    verdict = check(TWO, RELEASE_2, None, TRUST, SEEN)
    refused(verdict, "no log")


def test_a_key_counts_once() -> None:
    record = json.loads(RELEASE_2)
    record["signatures"] = record["signatures"][:1] * 2
    refused(judged(release=canonical_json(record)), "1 of the trusted keys", "twice, which counts once")


def test_keys_of_others_do_not_count() -> None:
    log, release = published(LOG_1, TWO, OLD[0], NEW[0], NEW[1])
    refused(judged(release=release, log=log.encode()), "1 of the trusted keys")


def test_a_key_under_another_name_does_not_count() -> None:
    stranger = SecretKey(OLD[0].key_id, NEW[0].seed)
    log, release = published(LOG_1, TWO, stranger, OLD[1])
    refused(judged(release=release, log=log.encode()), "does not verify", "1 of the trusted keys")


def test_what_else_was_signed_does_no_harm_to_enough() -> None:
    record = json.loads(RELEASE_2)
    record["signatures"] += ["garbage", record["signatures"][0]]
    assert judged(release=canonical_json(record)).ok


def test_signatures_of_another_version_are_not_taken() -> None:
    other = json.loads(RELEASE_2)
    _, three = published(LOG_1, build(3), OLD[0], OLD[1])
    other["signatures"] = json.loads(three)["signatures"]
    refused(judged(release=canonical_json(other)), "does not verify")


def test_signers_who_saw_different_logs_are_not_added_up() -> None:
    forged, _ = published(Log(), build(0), OLD[0])
    _, of_true = published(LOG_1, TWO, OLD[0])
    _, of_forged = published(forged, TWO, OLD[1])
    mixed = json.loads(of_true)
    mixed["signatures"] += json.loads(of_forged)["signatures"]
    refused(judged(release=canonical_json(mixed)), "signed another log", "1 of the trusted keys")


def test_a_forged_log() -> None:
    """Signed well, by keys that lie about the past."""
    forged, _ = published(Log(), build(0), OLD[0])
    log, release = published(forged, TWO, OLD[0], OLD[1])
    refused(judged(release=release, log=log.encode()), "may only grow")
    shown = Log((LOG_2.lines[0], f"0.2 {'ab' * 32}".encode())).encode()
    refused(judged(log=shown), "not the one that was signed")
    refused(judged(log=LOG_1.encode()), "only 1 of 2 lines")
    refused(judged(log=b"garbage\n"), "line 1 of the log")
    swapped = Log(tuple(reversed(LOG_2.lines))).encode()
    refused(judged(log=swapped), "not the one that was signed")


def test_a_proof_of_something_else() -> None:
    for change in ({"index": 0}, {"proof": ["00" * 32]}, {"proof": []}, {"size": 1, "index": 0}):
        verdict = judged(release=canonical_json({**json.loads(RELEASE_2), **change}))
        assert not verdict.ok and not verdict.signers


def test_there_is_no_way_back() -> None:
    seen = Seen.of(TWO, RELEASE_2)
    refused(
        judged(ONE, RELEASE_1, seen=seen), "version 0.1 is older than 0.2", "release 0 of the log, and release 1 ran"
    )
    refused(judged(seen=seen), "release 1 ran before")  # the very same is no update
    # An old version that the log has once more under a new number is old still.
    again = Manifest.of({"index.html": b"1"}, "0.1", ONE.keys, 1)
    refused(judged(again, release=None, seen=seen), "version 0.1 is older than 0.2")


def test_an_unsigned_build_trusts_nobody() -> None:
    unsigned = Manifest.of({"index.html": b"0"}, "0.1")
    refused(judged(trust=Trust.of(unsigned), seen=Seen.of(unsigned, None)), "names no keys")
    assert Seen.of(unsigned, None).index == -1 and Seen.of(unsigned, None).head == Log().head()
    assert judged(seen=Seen.of(unsigned, None), trust=TRUST).ok  # what was no release is followed by the first


def test_keys_rotate_by_a_release_that_the_old_ones_sign() -> None:
    rotating = build(3, NEW)
    log, release = published(LOG_2, rotating, OLD[0], OLD[2], NEW[0])
    after_two = Seen.of(TWO, RELEASE_2)
    assert judged(rotating, release, log.encode(), seen=after_two).ok
    log, release_4 = published(log, build(4, NEW), NEW[1], NEW[2])
    after_three = Seen.of(rotating, release)
    assert judged(build(4, NEW), release_4, log.encode(), trust=Trust.of(rotating), seen=after_three).ok
    refused(judged(build(4, NEW), release_4, log.encode(), seen=after_two), "0 of the trusted keys")
    _, old_again = published(log, build(5, NEW), *OLD)
    log, _ = published(log, build(5, NEW), OLD[0])
    refused(
        judged(build(5, NEW), old_again, log.encode(), trust=Trust.of(rotating), seen=after_three), "0 of the trusted"
    )


# -- signing


def test_signing_twice_with_one_key_leaves_one_signature() -> None:
    log, first = sign(TWO, LOG_1, None, OLD[0])
    _, second = sign(TWO, log, first, OLD[0])
    assert second == first


def test_a_later_signer_signs_the_log_that_the_first_one_did() -> None:
    log, release = sign(TWO, LOG_1, None, OLD[0])
    longer = log.with_release("0.3", "ab" * 32)
    same, release = sign(TWO, longer, release, OLD[1])
    assert same == longer and release.size == 2 and judged(release=release.encode(), log=longer.encode()).ok


def test_nothing_is_signed_over_another_build_or_log() -> None:
    _, release = sign(TWO, LOG_1, None, OLD[0])
    with pytest.raises(Refused, match="version 0.2 with root hash"):  # another build of the same version
        sign(Manifest.of({"index.html": b"other"}, "0.2"), LOG_2, None, OLD[1])
    with pytest.raises(Refused, match="of another build or of another log"):
        sign(build(3), LOG_2, release, OLD[1])
    strange = Release(release.index, release.size, release.proof, (KEYS[0].sign(b"", "hello").encode(),))
    with pytest.raises(Refused, match="another log"):
        sign(TWO, LOG_2, strange, OLD[1])


def test_the_trusted_comment_is_the_logs_head() -> None:
    assert comment(LOG_2.head()) == f"convergence log 2 {tree_root(LOG_2.lines).hex()}"


def test_nothing_is_signed_that_names_a_key_with_which_nobody_can_sign() -> None:
    off_the_curve = PublicKey(bytes(8), (2).to_bytes(32, "little")).text
    with pytest.raises(Refused, match="nobody can sign with"):
        sign(Manifest.of({"index.html": b""}, "0.1", [off_the_curve], 1), Log(), None, OLD[0])


# -- documents


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": True},
        {"index": -1},
        {"index": 2},
        {"index": 0.0},
        {"index": "1"},
        {"size": 100_001},
        {"proof": ["00"]},
        {"proof": [1]},
        {"proof": "00"},
        {"proof": ["00" * 32] * 18},
        {"signatures": {}},
        {"signatures": [1]},
        {"signatures": ["x" * 3000]},
        {"signatures": ["\N{GRINNING FACE}" * 600]},
        {"signatures": ["x"] * 40},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    assert Release.parse(RELEASE_2).encode() == RELEASE_2
    with pytest.raises(Refused):
        Release.parse(canonical_json({**json.loads(RELEASE_2), **change}))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[]", b"null", b"\xff", b"[" * 60_000, b" " * 70_000, RELEASE_2 + b"\n", b"\xef\xbb\xbf" + RELEASE_2),
        RELEASE_2.replace(b'"format":1', b'"format":7,"format":1'),
        RELEASE_2.replace(b'"size":2', b'"size":2e0'),
        RELEASE_2.replace(b"untrusted comment: ", b"untrusted comment: \\ud800", 1),
    ],
    ids=range(11),
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Release.parse(data)
    refused(judged(release=data))
