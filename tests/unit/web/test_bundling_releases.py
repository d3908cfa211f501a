"""web/bundling/releases.py: what maintainers write into docs/releases, and what they get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pynode.published.manifest import canonical_json
from web.bundling.releases import Unfit, proof, signers, ways_in

ROOT = "ab" * 32
NETWORK: dict[str, Any] = {
    "facilitator": {"identity": "cd" * 32, "path": "https://site.example/facilitator"},
    "url": "https://site.example/",
}


@pytest.mark.parametrize(
    ("line", "index", "fits"), [("0.1.0 {root}", 1, True), ("0.1.0 {root}", 0, False), ("0.1.0 " + "0" * 64, 1, False)]
)
def test_a_releases_proof_is_added_to_the_very_build_that_was_released(
    tmp_path: Path, line: str, index: int, fits: bool
) -> None:
    notes: list[str] = []
    assert proof(tmp_path, "0.1.0", ROOT, notes.append) == {} and notes == []
    log, record = f"0.0.9 {'cd' * 32}\n{line.format(root=ROOT)}\n", canonical_json({"format": 1, "index": index})
    (tmp_path / "log.txt").write_text(log)
    (tmp_path / "0.1.0.json").write_bytes(record)
    files = {"release.json": record, "releases.txt": log.encode()} if fits else {}
    assert proof(tmp_path, "0.1.0", ROOT, notes.append) == files
    assert notes == ([] if fits else ["0.1.0.json of docs/releases is for other bytes than these: left out"])


@pytest.mark.parametrize("record", ["{", "{}", "[]", '{"index":"0"}', '{ "index": 0 }'])
def test_a_record_that_is_none_is_named(tmp_path: Path, record: str) -> None:
    (tmp_path / "log.txt").write_text(f"0.1.0 {ROOT}\n")
    (tmp_path / "0.1.0.json").write_text(record)
    with pytest.raises(Unfit, match=f"{tmp_path}/0.1.0.json is not as"):
        proof(tmp_path, "0.1.0", ROOT, print)


@pytest.mark.parametrize(
    "keys",
    [
        *("{", "[]", "{}", '{"keys": []}', '{"keys": 5, "threshold": 0}', '{"keys": [], "threshold": 3}', None),
        '{"keys": ["x"], "threshold": 1}',
    ],
)
def test_keys_that_are_none_are_named(tmp_path: Path, keys: str | None) -> None:
    if keys is not None:
        (tmp_path / "keys.json").write_text(keys)
    with pytest.raises(Unfit, match=f"{tmp_path}/keys.json"):
        signers(tmp_path)


@pytest.mark.parametrize(
    "mirror",
    ["site.example/", "javascript:alert(1)//", "https://site.example", "https://site.example/?a/", "https:///"],
)
def test_mirrors_have_whole_addresses_of_folders(tmp_path: Path, mirror: str) -> None:
    mirrors = ["https://a.example/", "http://b.example:81/x/"]
    (tmp_path / "mirrors.txt").write_text("\n".join(mirrors))
    assert ways_in(tmp_path) == (mirrors, None)
    (tmp_path / "mirrors.txt").write_text(f"https://a.example/\n{mirror}\n")
    with pytest.raises(Unfit, match="mirrors.txt"):
        ways_in(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        *({"url": "https://site.example"}, {"url": None}, {"facilitator": None}, {"facilitator": "x"}),
        {"facilitator": {"identity": "cd" * 32, "path": "/facilitator"}},
        {"facilitator": {"identity": "cd" * 32, "path": 5}},
        {"facilitator": {"identity": "cd" * 31, "path": "https://site.example/facilitator"}},
    ],
)
def test_a_bookmark_names_a_network_that_can_be_found_from_anywhere(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "mirrors.txt").touch()
    (tmp_path / "network.json").write_text(json.dumps(NETWORK))
    assert ways_in(tmp_path) == ([], NETWORK)
    for text in (json.dumps({**NETWORK, **change}), "[]", "{"):
        (tmp_path / "network.json").write_text(text)
        with pytest.raises(Unfit, match=f"{tmp_path}/network.json"):
            ways_in(tmp_path)
