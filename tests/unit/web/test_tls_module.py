"""The page's TLS as it is built: what it may ask of its surroundings, and that everybody gets the same bytes."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import certifi
import pytest

from tests.unit.web.javascript import javascript
from web.bundling import revoked, tls

LINES = '{"timestamp": 1794348206673, "data": [{"issuerName": "MAA=", "serialNumber": "AQ=="}, %s]}'
BY_KEY = '{"subject": "MAA=", "pubKeyHash": "%s="}' % ("A" * 43)


def test_it_asks_for_randomness_and_a_clock_only() -> None:
    """What else its C library names, tls.js answers with ENOSYS."""
    script = """
    const module = new WebAssembly.Module(Buffer.from(argument, "base64"));
    const names = (list) => list.map(({ name }) => name).sort();
    return [names(WebAssembly.Module.imports(module)), names(WebAssembly.Module.exports(module))];
    """
    asked, given = javascript(script, base64.b64encode(tls.engine()).decode())
    assert asked == ["clock_time_get", "fd_close", "fd_seek", "fd_write", "random_get"]
    assert {"connect", "receive", "read", "write", "take", "end", "close", "memory"} <= set(given)


def test_it_names_no_path_of_the_machine() -> None:
    assert str(Path.home()).encode() not in tls.engine() and str(tls.WORK).encode() not in tls.engine()
    assert b"ssl/" in tls.engine(), "but those of the sources, from which errors come"


def test_roots_are_all_of_certifis() -> None:
    pem = certifi.contents()
    der = tls.roots(pem)
    at = count = 0
    while at < len(der):
        assert der[at : at + 2] == b"\x30\x82", "a sequence with a size of two bytes"
        at += 4 + int.from_bytes(der[at + 2 : at + 4])
        count += 1
    assert (at, count) == (len(der), pem.count("BEGIN CERTIFICATE")) and count > 100


def test_revoked_certificates_are_named_in_order() -> None:
    text = revoked.made((LINES % BY_KEY).encode())
    names = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(names) == 2 and names == sorted(names) and all(len(name) == 16 for name in names)
    assert "2026-11-10" in text
    packed = revoked.packed()
    assert packed == b"".join(sorted(packed[at : at + 8] for at in range(0, len(packed), 8)))


@pytest.mark.long
def test_another_folder_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tls.engine()
    elsewhere = tmp_path / "with spaces and an é"
    elsewhere.mkdir()
    (archive,) = tls.WORK.glob(f"{tls.CARRIER}-*.tar.gz")
    shutil.copyfile(archive, elsewhere / archive.name)
    monkeypatch.setattr(tls, "WORK", elsewhere)
    assert tls.engine() == module
