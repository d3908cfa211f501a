"""The key file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pynode.keyfile import KeyFileError, Keys, load_or_create_keys, load_or_create_rsa


class Rng:
    def __init__(self) -> None:
        self.next = 0

    def random(self, size: int) -> bytes:
        self.next += 1
        return bytes([self.next]) * size


class NoRng:
    def random(self, size: int) -> bytes:
        raise AssertionError("no new keys were wanted")


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys.json"
    keys = load_or_create_keys(path, Rng())
    assert keys == Keys(b"\x01" * 32, b"\x02" * 32)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    assert load_or_create_keys(path, NoRng()) == keys


def test_keys_do_not_show() -> None:
    assert repr(Keys(b"\x01" * 32, b"\x02" * 32)) == "Keys()"


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.json"
    load_or_create_keys(path, Rng())
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        load_or_create_keys(path, NoRng())
    assert "chmod 600" in caplog.text and "0101" not in caplog.text


GOOD = {"version": 1, "identity": "01" * 32, "ntor": "02" * 32}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "damaged"),
        ("no json", "damaged"),
        ("[]", "damaged"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "damaged"),
        (json.dumps(GOOD | {"ntor": "02"}), "damaged"),
        (json.dumps(GOOD | {"ntor": None}), "damaged"),
        (json.dumps({"version": 1}), "damaged"),
        (json.dumps(GOOD | {"version": 2}), "another version"),
    ],
)
def test_a_damaged_file_is_never_replaced(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content, "latin-1")
    with pytest.raises(KeyFileError, match=words) as error:
        load_or_create_keys(path, NoRng())
    assert "0202" not in str(error.value)
    assert path.read_text("latin-1") == content


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="cannot"):
        load_or_create_keys(tmp_path / "file" / "keys.json", Rng())
    with pytest.raises(KeyFileError, match="cannot read"):
        load_or_create_keys(tmp_path, Rng())


def test_an_rsa_identity_is_made_once_and_kept_as_pem(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret_id_key"
    key = load_or_create_rsa(path)
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() == key.pem()
    assert load_or_create_rsa(path).public == key.public


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN RSA PRIVATE KEY-----\n"])
def test_a_damaged_rsa_identity_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret_id_key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="damaged"):
        load_or_create_rsa(path)
    assert path.read_bytes() == content
