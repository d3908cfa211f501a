"""web/code/release.js: what speaks for a manifest, of releases that pynode/published signed and that forgers changed.

Both sides read the same records: where the Python side has an opinion, it has to be the same.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pynode.published.log import Head, Log, inclusion_proof, tree_root
from pynode.published.manifest import Manifest
from pynode.published.minisign import SecretKey
from pynode.published.release import Release, Seen, Trust, check, comment, sign
from tests.unit.web.javascript import javascript

KEYS = [SecretKey.generate() for _ in range(3)]
STRANGER = SecretKey.generate()
PUBLIC = [key.public.text for key in KEYS]
TRUST = Trust(PUBLIC, 2)
OLD = Manifest.of({"a": b"old"}, "0.1.0", PUBLIC, 2)
NEW = Manifest.of({"a": b"new"}, "0.2.0", PUBLIC, 2)
LATER = Manifest.of({"a": b"later"}, "0.3.0", PUBLIC, 2)

CHECK = """
    const bytes = (text) => text === null ? null : new Uint8Array(Buffer.from(text, "base64"));
    return Promise.all(argument.map(({ manifest, record, log, ...known }) =>
        release.checkRelease({ manifestBytes: bytes(manifest), release: bytes(record), log: bytes(log), ...known })));
"""
WITHOUT_ED25519 = """
    const importKey = crypto.subtle.importKey;
    crypto.subtle.importKey = (format, key, algorithm, ...rest) => algorithm === "Ed25519"
        ? Promise.reject(new DOMException("Unrecognized name.", "NotSupportedError"))
        : importKey.call(crypto.subtle, format, key, algorithm, ...rest);
"""
"""As Chromium before 137 and Firefox before 129."""
ROOTS = "return Promise.all(argument.map((lines) => release.merkleRoot(lines)));"


def signed(manifest: Manifest, log: Log, keys: Sequence[SecretKey]) -> tuple[Log, Release]:
    release = None
    for key in keys:
        log, release = sign(manifest, log, release, key)
    assert release is not None
    return log, release


def base64_of(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def case(
    record: Release | bytes | None, log: Log | bytes | None, seen: Seen | None, manifest: Manifest, trust: Trust = TRUST
) -> dict[str, Any]:
    data = record.encode() if isinstance(record, Release) else record
    lines = log.encode() if isinstance(log, Log) else log
    head = seen and {"size": seen.head.size, "root": seen.head.root.hex(), "index": seen.index}
    return {
        "manifest": base64_of(manifest.encode()),
        "record": base64_of(data),
        "log": base64_of(lines),
        "trusted": {"keys": list(trust.keys), "threshold": trust.threshold},
        "seen": head,
        "python": check(manifest, data, lines, trust, seen),
    }


def verdicts(*cases: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page says, after a look that the command would say the same."""
    asked = [{name: value for name, value in each.items() if name != "python"} for each in cases]
    found: list[dict[str, Any]] = javascript(CHECK, asked, release="code/release.js")
    said = [(each["python"].ok, len(each["python"].signers)) for each in cases]
    assert [(one["ok"], one["signers"]) for one in found] == said
    return found


@pytest.fixture(scope="module")
def first() -> tuple[Log, Release]:
    return signed(OLD, Log(), KEYS)


@pytest.fixture(scope="module")
def seen(first: tuple[Log, Release]) -> Seen:
    log, release = first
    return Seen(log.head(), release.index, OLD.version)


def test_enough_signatures_in_a_log_that_only_grew(first: tuple[Log, Release], seen: Seen) -> None:
    log, release = signed(NEW, first[0], KEYS[:2])
    all_log, by_all = signed(NEW, first[0], KEYS)
    grown, _ = signed(LATER, log, KEYS)
    head = {"size": 2, "root": log.head().root.hex()}
    for found in verdicts(
        case(release, log, seen, NEW), case(release, grown, seen, NEW), case(release, log, None, NEW)
    ):
        assert (found["ok"], found["signers"], found["needed"], found["index"]) == (True, 2, 2, 1)
        assert (found["head"], found["why"], found["older"]) == (head, [], False)
    [found] = verdicts(case(by_all, all_log, seen, NEW))
    assert found["signers"] == 3


def test_what_is_missing_is_named(first: tuple[Log, Release], seen: Seen) -> None:
    log, release = signed(NEW, first[0], KEYS[:2])
    _, one = signed(NEW, first[0], KEYS[:1])
    _, strangers = signed(NEW, first[0], [KEYS[0], STRANGER])
    other_comment = KEYS[1].sign(NEW.encode(), comment(Head(2, bytes(32)))).encode()
    global_off = KEYS[1].sign(NEW.encode(), "x").encode().splitlines()
    global_off[2] = f"trusted comment: {comment(log.head())}"
    other_file = KEYS[1].sign(OLD.encode(), comment(log.head())).encode()
    twice = replace(release, signatures=(release.signatures[0],) * 2)
    too_few = [
        one,
        strangers,
        twice,
        replace(release, signatures=(release.signatures[0], "rubbish", other_comment)),
        replace(release, signatures=(release.signatures[0], "\n".join(global_off) + "\n")),
        replace(release, signatures=(release.signatures[0], other_file)),
    ]
    for found in verdicts(*(case(each, log, seen, NEW) for each in too_few)):
        assert (found["ok"], found["signers"], found["head"]) == (False, 1, None)
        assert found["why"] == ["1 of the 2 keys needed have signed it"]

    stripped, unlogged, keyless, damaged = verdicts(
        case(None, log, seen, NEW),
        case(release, None, seen, NEW),
        case(release, log, seen, NEW, Trust()),
        case(b"{", log, seen, NEW),
    )
    assert stripped["why"] == ["no signatures came with it"] and stripped["index"] == 1
    assert unlogged["why"] == ["no release log came with it"]
    assert keyless["why"] == ["the version that runs names no keys that could sign for another"]
    assert damaged["why"] == ["its release.json is damaged"]


def test_signatures_in_another_form_than_minisigns_do_not_count(first: tuple[Log, Release], seen: Seen) -> None:
    log, release = signed(NEW, first[0], KEYS[:2])
    good, other = release.signatures
    forms = [
        good.replace("\n", "\r\n"),
        good.replace("==\n", "=\n"),
        good.replace("==\n", "\n"),
        good.replace("\nRW", "\nR W"),
        f" {good}",
        f"{good}\n",
    ]
    for found in verdicts(*(case(replace(release, signatures=(form, other)), log, seen, NEW) for form in forms)):
        assert found["signers"] == 1


def test_forged_logs(first: tuple[Log, Release], seen: Seen) -> None:
    log, release = signed(NEW, first[0], KEYS[:2])
    # All keys sign a log without what was there before: the keys alone do not make a history.
    rewritten, anew = signed(NEW, Log().with_release("0.0.9", "0" * 64), KEYS)
    short, shorter = signed(NEW, Log(), KEYS)
    changed = log.encode().replace(b"0.1.0", b"0.1.1")
    long_seen = replace(seen, head=Head(3, bytes(32)))
    again = b"".join([log.encode(), b"0.3.0 ", OLD.root.encode(), b"\n"])
    found = verdicts(
        case(anew, rewritten, seen, NEW),
        case(shorter, short, seen, NEW),
        case(release, changed, None, NEW),
        case(release, log, long_seen, NEW),
        case(release, again, seen, NEW),
        case(release, log.encode()[:-1], seen, NEW),
        case(replace(release, index=0), log, seen, NEW),
        case(replace(release, proof=()), log, seen, NEW),
        case(replace(release, proof=(*release.proof, bytes(32))), log, seen, NEW),
    )
    contradicts = "the release log contradicts the one seen before: releases were taken out of it or changed"
    assert contradicts in found[0]["why"] and contradicts in found[1]["why"] and contradicts in found[3]["why"]
    assert "the release log is not the one that was signed" in found[2]["why"]
    assert {each["why"][0] for each in found[4:6]} == {"its release log is damaged"}
    assert all(not each["ok"] and each["why"] for each in found)


def test_an_earlier_line_of_the_log_is_a_roll_back(first: tuple[Log, Release]) -> None:
    log, release = signed(NEW, first[0], KEYS)
    later = Seen(log.head(), release.index, NEW.version)
    [found] = verdicts(case(first[1], log, later, OLD))
    assert found["older"] and "the release log has it before the version that runs" in found["why"]


def test_keys_rotate_by_what_the_old_ones_signed(first: tuple[Log, Release], seen: Seen) -> None:
    young = [SecretKey.generate(), SecretKey.generate()]
    rotated = Manifest.of({"a": b"new"}, "0.2.0", [key.public.text for key in young], 1)
    log, release = signed(rotated, first[0], [*KEYS[:2], *young])
    following = Manifest.of({"a": b"more"}, "0.3.0", rotated.keys, 1)
    after, by_young = signed(following, log, young[:1])
    after_old, by_old = signed(following, log, KEYS)
    newer = Seen(log.head(), release.index, rotated.version)
    found = verdicts(
        case(release, log, seen, rotated),
        case(by_young, after, newer, following, Trust.of(rotated)),
        case(by_old, after_old, newer, following, Trust.of(rotated)),
    )
    assert [each["ok"] for each in found] == [True, True, False]


def test_signatures_of_minisign_itself(tmp_path: Path) -> None:
    subprocess.run(["minisign", "-GW", "-p", tmp_path / "a.pub", "-s", tmp_path / "a.key"], check=True)
    public = (tmp_path / "a.pub").read_text().splitlines()[1]
    manifest = Manifest.of({"a": b""}, "0.1.0", [public], 1)
    (tmp_path / "manifest.json").write_bytes(manifest.encode())
    log = Log().with_release(manifest.version, manifest.root)
    said = comment(log.head())
    for options, number in ((["-l"], 1), (["-H"], 0)):  # the file itself; prehashed, as is minisign's own default
        command = ["minisign", "-S", *options, "-s", tmp_path / "a.key", "-m", tmp_path / "manifest.json", "-t", said]
        subprocess.run(command, check=True, input=b"")
        release = Release(0, 1, (), ((tmp_path / "manifest.json.minisig").read_text(),))
        [found] = verdicts(case(release, log, None, manifest, Trust([public], 1)))
        assert found["signers"] == number, found


def test_a_browser_that_cannot_check_signatures_takes_none_for_good(first: tuple[Log, Release], seen: Seen) -> None:
    log, release = signed(NEW, first[0], KEYS)
    asked = case(release, log, seen, NEW)
    del asked["python"]
    [found] = javascript(WITHOUT_ED25519 + CHECK, [asked], release="code/release.js")
    assert (found["ok"], found["signers"], found["index"], found["head"]) == (False, 0, 1, None)
    assert found["why"] == ["this browser cannot check signatures (Ed25519): a current one can"]


def test_roots_and_proofs_of_trees_of_all_shapes() -> None:
    lines = [f"0.0.{number} {number:064x}" for number in range(66)]
    sizes = range(67)
    roots = javascript(ROOTS, [lines[:size] for size in sizes], release="code/release.js")
    assert roots == [tree_root([line.encode() for line in lines[:size]]).hex() for size in sizes]
    manifests = [Manifest.of({"a": bytes([number])}, f"0.0.{number}", PUBLIC, 2) for number in range(13)]
    log = Log()
    for manifest in manifests:
        log = log.with_release(manifest.version, manifest.root)
    head, cases = log.head(), []
    for index, manifest in enumerate(manifests):
        signatures = tuple(key.sign(manifest.encode(), comment(head)).encode() for key in KEYS[:2])
        proof = tuple(inclusion_proof(log.lines, index))
        cases.append(case(Release(index, head.size, proof, signatures), log, None, manifest))
    assert all(found["ok"] for found in verdicts(*cases))


def test_records_of_any_shape_are_damaged_and_nothing_worse(first: tuple[Log, Release]) -> None:
    log, release = signed(NEW, first[0], KEYS[:2])
    good = json.loads(release.encode())
    wrong: dict[str, list[Any]] = {
        "format": [2, None],
        "index": [-1, 2, 0.5, "1", None],
        "size": [0, 1, 100_001, None],
        "proof": [None, {}, ["x"], ["0" * 64] * 18, [1]],
        "signatures": [None, {}, [1], ["x"] * 33, ["x" * 2049]],
        "more": [1],
    }
    records = [json.dumps(good | {name: value}).encode() for name, values in wrong.items() for value in values]
    records += [b"", b"null", b"[]", b"1", b"\xff", b" " * 65_537, json.dumps(good).encode()[:-2]]
    text = release.encode().decode()
    records += [
        form.encode()
        for form in (
            json.dumps(good, sort_keys=True),
            text.replace('"format":1', '"format":1.0'),
            text.replace('"size":2', '"size":2e0'),
            text.replace('"format":1', '"format":NaN,"format":1'),
            text.replace("untrusted comment: ", "untrusted comment: \\ud800", 1),
            text.replace("untrusted comment: ", "untrusted comment: " + "\N{GRINNING FACE}" * 600, 1),
        )
    ]
    for found in verdicts(*(case(record, log, None, NEW) for record in records)):
        assert found["why"] == ["its release.json is damaged"]
