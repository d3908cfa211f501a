"""The manifest: one form, and nothing in it that a reader has to guess."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pynode.published.manifest import (
    MAX_FILE,
    MAX_FILES,
    MAX_MANIFEST,
    Entry,
    Manifest,
    Refused,
    canonical_json,
    check_keys,
    version_order,
)

DIGEST = "ab" * 32
ROOT = Path(__file__).parents[4]


def key(number: int, name: int | None = None) -> str:
    return base64.b64encode(b"Ed" + bytes([number if name is None else name]) * 8 + bytes([number]) * 32).decode()


P = 2**255 - 19
SMALL_ORDER = [
    *(0, 1, P - 1, P, P + 1),
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
]
"""As libsodium's has_small_order lists them (ed25519_ref10.c)."""


def small_order(y: int, sign: int = 1) -> str:
    return base64.b64encode(b"Ed" + bytes(8) + (y + (sign << 255)).to_bytes(32, "little")).decode()


def document(**changes: Any) -> dict[str, Any]:
    files = {"index.html": {"sha256": DIGEST, "size": 5}, "worker/worker.js": {"sha256": DIGEST, "size": 0}}
    whole = {"files": files, "format": 2, "keys": [key(1), key(2)], "threshold": 2, "version": "0.1.0"}
    return {**whole, **changes}


def files(**entries: Any) -> dict[str, Any]:
    return {"files": {name.replace("__", "/"): entry for name, entry in entries.items()}}


def test_it_reads_what_it_writes_and_its_hash_is_the_root() -> None:
    data = canonical_json(document())
    manifest = Manifest.parse(data)
    assert manifest.encode() == data and manifest.root == hashlib.sha256(data).hexdigest()
    assert manifest.files["index.html"] == Entry(DIGEST, 5) and manifest.version == "0.1.0"
    assert manifest.keys == (key(1), key(2)) and manifest.threshold == 2


def test_keys_for_which_anybody_can_sign_are_refused_with_either_sign() -> None:
    for y in SMALL_ORDER:
        for sign in (0, 1):
            with pytest.raises(Refused, match="anybody can sign"):
                check_keys([small_order(y, sign)], 1)
    check_keys([small_order(2)], 1)


def test_a_packed_file_alone_is_a_file() -> None:
    assert Manifest.of({"a.gz": b"", "b.js": b""}, "1")


def test_it_is_made_of_files() -> None:
    manifest = Manifest.of({"a.js": b"x"}, "1.2")
    assert manifest.files == {"a.js": Entry(hashlib.sha256(b"x").hexdigest(), 1)} and manifest.threshold == 0
    assert Manifest.parse(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(document()),  # spaces
        canonical_json(document()).decode() + "\n",
        canonical_json(document()).decode().replace('"format"', '"\\u0066ormat"'),
        canonical_json(document()).decode().replace('"format":2', '"format":2,"format":2'),
        canonical_json(document()).decode().replace('"size":5', '"size":5.0'),
        canonical_json(document()).decode().replace('"size":5', '"size":5e0'),
        json.dumps(dict(reversed(document().items())), separators=(",", ":")),
        "﻿" + canonical_json(document()).decode(),
    ],
)
def test_only_one_form_is_read(text: str) -> None:
    assert Manifest.parse(canonical_json(document()))
    with pytest.raises(Refused):
        Manifest.parse(text.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1},
        {"format": 2.0},
        {"format": True},
        {"more": 1},
        {"version": ""},
        {"version": "1.2.3.4.5"},
        {"version": "01"},
        {"version": "1.0 x"},
        {"version": "1.0\n"},
        {"version": "٣"},
        {"version": 1},
        {"files": {}},
        {"files": []},
        {"files": {"a.js": []}},
        {"files": {"a.js": {"sha256": DIGEST}}},
        {"files": {"a.js": {"sha256": DIGEST, "size": 1, "more": 1}}},
        {"files": {"a.js": {"sha256": DIGEST.upper(), "size": 1}}},
        {"files": {"a.js": {"sha256": DIGEST[2:], "size": 1}}},
        {"files": {"a.js": {"sha256": DIGEST + "\n", "size": 1}}},
        {"files": {"a.js": {"sha256": 1, "size": 1}}},
        {"files": {"a.js": {"sha256": DIGEST, "size": -1}}},
        {"files": {"a.js": {"sha256": DIGEST, "size": True}}},
        {"files": {"a.js": {"sha256": DIGEST, "size": "1"}}},
        {"files": {"a.js": {"sha256": DIGEST, "size": MAX_FILE + 1}}},
        {"files": {f"{n}.js": {"sha256": DIGEST, "size": MAX_FILE} for n in range(5)}},
        {"files": {f"{n}.js": {"sha256": DIGEST, "size": 1} for n in range(MAX_FILES + 1)}},
        {"files": {"a.js": {"sha256": DIGEST, "size": 1}, "A.js": {"sha256": DIGEST, "size": 1}}},
        {"files": {"manifest.json": {"sha256": DIGEST, "size": 1}}},
        {"files": {"Network.json": {"sha256": DIGEST, "size": 1}}},
        {"files": {"release.json.br": {"sha256": DIGEST, "size": 1}}},
        {"files": {"a.js": {"sha256": DIGEST, "size": 1}, "A.js.gz": {"sha256": DIGEST, "size": 1}}},
        {"keys": {}},
        {"keys": None},
        {"keys": [key(1), key(1)]},
        {"keys": [key(1), key(1, name=2)]},  # one key under two names would sign twice
        {"keys": [key(1), key(2, name=1)]},
        {"keys": [key(1), "RWQ"]},
        {"keys": [key(1), 5]},
        {"keys": [key(1), key(2).replace("RW", "AA")]},
        {"keys": [key(n) for n in range(1, 18)]},
        *({"keys": [small_order(y)], "threshold": 1} for y in SMALL_ORDER),
        {"threshold": 0},
        {"threshold": 3},
        {"threshold": -1},
        {"threshold": True},
        {"threshold": "2"},
        {"keys": [], "threshold": 1},
    ],
    ids=str,
)
def test_what_breaks_the_rules_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="the list of files"):
        Manifest.parse(canonical_json(document(**changes)))


@pytest.mark.parametrize(
    "name",
    [
        *("", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.hidden", "a b", "a\\b", "a\nb", "ä", "a?b", "a%2e"),
        *("a" * 201, "con:", "\x00", "http://x", "a\n"),
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(Refused):
        Manifest.parse(canonical_json(document(files={name: {"sha256": DIGEST, "size": 1}})))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"null", b"[]", b"1", b'"x"', b"{", b"\xff\xfe", b'{"files":NaN}', b"[" * 200_000, b"9" * 200_000),
        b'{"files":{"a":"\\ud800"},"format":2,"keys":[],"threshold":0,"version":"\\ud800"}',
        b" " * (MAX_MANIFEST + 1),
    ],
    ids=range(12),
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Manifest.parse(data)


def test_versions_are_compared_by_number() -> None:
    assert version_order("0.9") < version_order("0.10") < version_order("1")
    assert version_order("1.0") == version_order("1.0.0")


def test_a_build_can_use_it_on_a_bare_python() -> None:
    """Isolated, without site-packages: nothing but the standard library can be imported."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pynode.published.manifest"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
