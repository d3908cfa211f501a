"""web/code/manifest.js: which lists of files it reads, and what it says of all others."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import Any

import pytest

import build
from tests.unit.pynode.published.test_manifest import SMALL_ORDER, small_order
from tests.unit.web.javascript import javascript

FILE = {"sha256": "0" * 64, "size": 3}
KEY, OTHER = (b64encode(b"Ed" + bytes([number]) * 40).decode() for number in (1, 2))
GOOD = {"files": {"a.js": FILE}, "format": 2, "keys": [KEY, OTHER], "threshold": 2, "version": "0.1.0"}

READ = """
    return Promise.all(argument.map(async (text) => {
        const bytes = new Uint8Array(Buffer.from(text, "base64"));
        return manifest.parseManifest(bytes).then(
            (value) => ({ ...value, files: Object.fromEntries(value.files) }),
            (error) => error instanceof manifest.Refused ? error.message : `defect: ${error}`);
    }));
"""


def read(*documents: bytes) -> list[Any]:
    values: list[Any] = javascript(
        READ, [b64encode(document).decode() for document in documents], manifest="code/manifest.js"
    )
    return values


def written(**values: Any) -> bytes:
    return build.canonical_json(GOOD | values)


def same_key(key: bytes, name: bytes) -> str:
    return b64encode(b"Ed" + name * 8 + key * 32).decode()


def test_a_list_as_build_py_writes_it_is_read_and_named_by_its_hash() -> None:
    files = {"index.html": b"<p>", "pyodide/a.b-c_d.wasm": b"", "__proto__": b"x"}
    documents = [build.manifest(files, "0.1.0"), written()]
    unsigned, signed = read(*documents)
    assert [one["root"] for one in (unsigned, signed)] == [hashlib.sha256(one).hexdigest() for one in documents]
    del signed["root"]
    assert signed | {"format": 2} == GOOD
    assert unsigned["version"] == "0.1.0" and set(unsigned["files"]) == set(files)


def test_at_the_limits_it_is_still_read() -> None:
    keys = [b64encode(b"Ed" + bytes([number]) * 40).decode() for number in range(1, 17)]
    files = {f"{number:03}" + "x" * 100: FILE for number in range(1000)} | {"y" * 200: FILE | {"size": 64 << 20}}
    files.pop("000" + "x" * 100)
    [many] = read(written(files=files, keys=keys, threshold=16))
    assert many["threshold"] == 16 and len(many["files"]) == 1000


@pytest.fixture(scope="module")
def complaints() -> dict[str, str]:
    """What it says of each bad document, by the document's name in BAD. One process reads them all."""
    return dict(zip(BAD, read(*(document for document, _ in BAD.values())), strict=True))


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no JSON"),
    "no text": (b"\xff", "no JSON"),
    "a mark before it": (b"\xef\xbb\xbf" + written(), "no JSON"),
    "too deep": (b"[" * 100_000, "no JSON"),
    "deep": (b"[" * 5_000 + b"]" * 5_000, "no JSON"),
    "too long": (b" " * (256 * 1024 + 1), "too long"),
    "a line's end": (written() + b"\n", "canonical"),
    "spaces": (json.dumps(GOOD, sort_keys=True).encode(), "canonical"),
    "not sorted": (json.dumps(dict(reversed(GOOD.items())), separators=(",", ":")).encode(), "canonical"),
    "a name twice": (written().replace(b'"format":2', b'"format":2,"format":2'), "canonical"),
    "a float": (written().replace(b'"size":3', b'"size":3.0'), "canonical"),
    "null": (b"null", "format 2"),
    "a list": (b"[]", "format 2"),
    "format 1": (written(format=1), "format 2"),
    "more than it may have": (written(more=1), "format 2"),
    "version": (written(version="01.0"), "version"),
    "version is a number": (written(version=1), "version"),
    "no files": (written(files={}), "no files"),
    "files are a list": (written(files=[FILE]), "no files"),
    "1,001 files": (written(files={f"{number}": FILE for number in range(1001)}), "too many"),
    "digest": (written(files={"a": {"sha256": "G" * 64, "size": 3}}), "SHA-256 of a"),
    "digest in capitals": (written(files={"a": {"sha256": "A" * 64, "size": 3}}), "SHA-256 of a"),
    "negative size": (written(files={"a": FILE | {"size": -1}}), "size of a"),
    "half a byte": (written(files={"a": FILE | {"size": 0.5}}), "size of a"),
    "size in words": (written(files={"a": FILE | {"size": "3"}}), "size of a"),
    "too long a file": (written(files={"a": FILE | {"size": (64 << 20) + 1}}), "size of a"),
    "too much in all": (written(files={f"{number}": FILE | {"size": 60 << 20} for number in range(5)}), "together"),
    "a file's own field": (written(files={"a": FILE | {"x": 1}}), "describes a wrongly"),
    "a file is null": (written(files={"a": None}), "describes a wrongly"),
    "twice but for capitals": (written(files={"a.js": FILE, "A.js": FILE}), "twice"),
    "itself": (written(files={"manifest.json": FILE}), "beside"),
    "a network": (written(files={"NETWORK.json": FILE}), "beside"),
    "what is sent in its place": (written(files={"manifest.json.gz": FILE}), "packed"),
    "what is sent in place of a file": (written(files={"a.js": FILE, "A.js.br": FILE}), "packed"),
    **{
        f"a key that signs nothing, {y} {sign}": (written(keys=[small_order(y, sign)], threshold=1), "anybody can sign")
        for y in SMALL_ORDER
        for sign in (0, 1)
    },
    "key": (written(keys=["x"], threshold=1), "none of minisign's"),
    "key of another kind": (written(keys=[b64encode(b"EC" + bytes(40)).decode()], threshold=1), "none of minisign's"),
    "a key twice": (written(keys=[KEY, KEY]), "key twice"),
    "a key by two names": (written(keys=[same_key(b"k", b"1"), same_key(b"k", b"2")]), "key twice"),
    "two keys by one name": (written(keys=[same_key(b"k", b"1"), same_key(b"l", b"1")]), "key twice"),
    "too many keys": (written(keys=[same_key(bytes([n]), bytes([n])) for n in range(17)]), "too many"),
    "more signatures than keys": (written(threshold=3), "impossible"),
    "no signature needed": (written(threshold=0), "impossible"),
    "signatures without keys": (written(keys=[], threshold=1), "impossible"),
    **{
        f"the name {name!r}": (written(files={name: FILE}), "not allowed")
        for name in ("", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "a\\b", "a b", "ä", "a?b", "x" * 201)
    },
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused_with_a_reason(name: str, complaints: dict[str, str]) -> None:
    complaint = complaints[name]
    assert isinstance(complaint, str) and complaint.startswith("the list of files ") and BAD[name][1] in complaint


def test_versions_are_compared_number_by_number() -> None:
    pairs = [("0.10.0", "0.9.9"), ("1.0", "0.99"), ("1.0.1", "1.0"), ("1.0", "1.0.0")]
    body = "return argument.map(([a, b]) => Math.sign(manifest.compareVersions(a, b)));"
    assert javascript(body, pairs, manifest="code/manifest.js") == [1, 1, 1, 0]
    assert javascript(body, [(b, a) for a, b in pairs], manifest="code/manifest.js") == [-1, -1, -1, 0]
