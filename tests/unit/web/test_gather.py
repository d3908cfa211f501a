"""web/code/gather.js against mirrors that each have one fault: what it takes from whom, and what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

import build
from tests.browser.hostile import FAULTS, HARMLESS, Mirrors, flipped, mirrors
from tests.unit.web.javascript import javascript

FILES = {"a.js": b"let a;\n", "b/c.wasm": bytes(range(256)) * 1024, "d.css": b"p {}", "empty.txt": b""}
PATIENCE = 30.0  # seconds; no test waits so long
BRIEF = 1.5  # seconds that a mirror which falls silent costs

GATHER = """
    const kept = new Map();
    for (const [name, hex] of Object.entries(argument.kept)) kept.set(name, Uint8Array.from(Buffer.from(hex, "hex")));
    const list = await manifest.parseManifest(new TextEncoder().encode(argument.manifest));
    const [stored, steps, refusals] = [[], [], []];
    const options = {
        patience: argument.patience,
        have: async (name) => kept.get(name) ?? null,
        keep: async (name) => stored.push(name),
        progress: (...step) => steps.push(step),
        refused: (refusal) => refusals.push(refusal),
    };
    try {
        const files = await code.gather(list, argument.sources, options);
        const hashes = {};
        for (const [name, bytes] of files) hashes[name] = await manifest.sha256(bytes);
        return { hashes, stored, steps, refusals };
    } catch (error) {
        if (!(error instanceof manifest.Refused)) throw error;
        return { message: error.message, listed: error.refusals, stored, refusals };
    }
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Mirrors]:
    with mirrors(FILES) as running:
        yield running


def gather(*sources: str, kept: dict[str, bytes] | None = None, patience: float = PATIENCE) -> dict[str, Any]:
    argument = {
        "manifest": build.manifest(FILES, "0.1.0").decode(),
        "sources": sources,
        "kept": {name: data.hex() for name, data in (kept or {}).items()},
        "patience": patience,
    }
    result: dict[str, Any] = javascript(GATHER, argument, code="code/gather.js", manifest="code/manifest.js")
    return result


def gathered(result: dict[str, Any]) -> bool:
    return bool(result.get("hashes") == {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()})


def test_every_file_comes_from_a_mirror_that_has_it(site: Mirrors) -> None:
    result = gather(site.address("good"))
    assert gathered(result) and result["refusals"] == [] and sorted(result["stored"]) == sorted(FILES)
    total = sum(map(len, FILES.values()))
    assert result["steps"][0] == [0, total] and result["steps"][-1] == [total, total]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_a_fault_is_refused_and_said_whose_it_was(site: Mirrors, fault: str) -> None:
    for name in FILES:
        if name == "empty.txt" and fault in ("flipped", "short", "half", "redirected"):
            continue  # no byte to change
        source = site.address(site.faulty(fault, name))
        if fault in ("half", "silent"):  # the others are kept: on a busy machine, they could be late as well
            result = gather(
                source, kept={other: data for other, data in FILES.items() if other != name}, patience=BRIEF
            )
        else:
            result = gather(source)
        assert name in result["message"] and source in result["message"]
        assert name not in result["stored"]
        [refusal] = [one for one in result["listed"] if one["name"] == name]
        assert refusal["source"] == source
        assert REASONS[fault] in refusal["why"]


REASONS = {
    "flipped": "SHA-256 differs",
    "short": "where the list of files says",
    "long": "it sent more than",
    "swapped": "",  # longer, shorter or other bytes
    "missing": "it answered 404",
    "redirected": "SHA-256 differs",
    "half": f"it sent nothing for {BRIEF} seconds",
    "silent": f"it sent nothing for {BRIEF} seconds",
}


@pytest.mark.parametrize("fault", HARMLESS)
def test_bytes_decide_whatever_else_is_told_of_them(site: Mirrors, fault: str) -> None:
    result = gather(site.address(site.faulty(fault, "a.js")))
    assert gathered(result) and result["refusals"] == []


def test_a_good_mirror_makes_up_for_a_hostile_one(site: Mirrors) -> None:
    bad = [site.address(site.faulty(fault, "b/c.wasm")) for fault in ("flipped", "missing", "silent")]
    result = gather(*bad, site.address("good"), patience=2 * BRIEF)  # the good one may be slow on a busy machine
    assert gathered(result)
    assert [(one["source"], one["name"]) for one in result["refusals"]] == [(source, "b/c.wasm") for source in bad]


def test_two_mirrors_with_different_faults_have_everything_together(site: Mirrors) -> None:
    assert gathered(gather(*(site.address(site.faulty("missing", name)) for name in ("a.js", "d.css"))))


def test_what_is_kept_is_hashed_again_and_fetched_anew_when_it_was_changed(site: Mirrors) -> None:
    site.asked.clear()
    result = gather(site.address("good"), kept=FILES | {"b/c.wasm": flipped(FILES["b/c.wasm"])})
    assert gathered(result) and result["stored"] == ["b/c.wasm"] and site.asked == ["/good/b/c.wasm"]
    [refusal] = result["refusals"]
    assert refusal["source"] == "What this browser kept," and "SHA-256 differs" in refusal["why"]


def test_without_any_mirror_what_is_kept_is_enough_or_is_refused() -> None:
    assert gathered(gather(kept=FILES))
    assert "No source has the file d.css" in gather(kept=FILES | {"d.css": b"p {!"})["message"]


def test_a_dead_mirror_costs_its_time_once(site: Mirrors) -> None:
    dead = "http://127.0.0.1:9/"
    result = gather(dead, site.address("good"))
    assert gathered(result)
    asked_dead = [one for one in result["refusals"] if one["source"] == dead]
    assert 1 <= len(asked_dead) <= 4  # as many as are fetched at once
