"""Minisign's formats, held against minisign itself."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pynode.published import minisign as module
from pynode.published.manifest import Refused
from pynode.published.minisign import PublicKey, SecretKey, Signature, WrongPassword

MESSAGE = b"what is signed\n"
COMMENT = "convergence log 1 " + "ab" * 32


def minisign(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("minisign")
    assert program, "the tests need minisign: build.py installs it"
    return subprocess.run([program, *map(str, arguments)], input=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with key, key.pub and file, made by minisign."""
    folder = tmp_path_factory.mktemp("theirs")
    assert minisign("-G", "-W", "-p", folder / "key.pub", "-s", folder / "key").returncode == 0
    (folder / "file").write_bytes(MESSAGE)
    yield folder


def test_its_keys_and_signatures_are_read(theirs: Path) -> None:
    secret = SecretKey.parse((theirs / "key").read_text())
    public = PublicKey.parse((theirs / "key.pub").read_text())
    assert secret.public == public and public.name in (theirs / "key.pub").read_text()
    assert PublicKey.parse(public.text) == public and PublicKey.parse(public.encode()) == public
    options = ("-S", "-l", "-s", theirs / "key", "-m", theirs / "file", "-x", theirs / "sig", "-t", COMMENT)
    assert minisign(*options).returncode == 0
    signature = Signature.parse((theirs / "sig").read_text())
    assert signature.trusted == COMMENT and signature.verifies(public, MESSAGE)
    assert not signature.verifies(public, MESSAGE + b"x")
    assert not signature.verifies(SecretKey.generate().public, MESSAGE)


def test_key_ids_are_shown_without_leading_zeros_as_it_does() -> None:
    assert PublicKey(bytes([0xAB, 0x0C, *bytes(6)]), bytes(32)).name == "CAB"


def test_its_prehashed_signatures_are_refused_with_advice(theirs: Path) -> None:
    assert minisign("-S", "-s", theirs / "key", "-m", theirs / "file", "-x", theirs / "hashed").returncode == 0
    with pytest.raises(Refused, match="minisign -S -l"):
        Signature.parse((theirs / "hashed").read_text())


def test_it_verifies_what_we_sign_and_signs_with_our_keys(tmp_path: Path) -> None:
    secret = SecretKey.generate()
    (tmp_path / "file").write_bytes(MESSAGE)
    (tmp_path / "file.minisig").write_text(secret.sign(MESSAGE, COMMENT).encode())
    verified = minisign("-V", "-P", secret.public.text, "-m", tmp_path / "file")
    assert verified.returncode == 0 and f"Trusted comment: {COMMENT}" in verified.stdout
    (tmp_path / "key").write_text(secret.encode())
    (tmp_path / "key.pub").write_text(secret.public.encode())
    signed = minisign("-S", "-l", "-s", tmp_path / "key", "-m", tmp_path / "file", "-x", tmp_path / "again")
    assert signed.returncode == 0, signed.stderr
    assert Signature.parse((tmp_path / "again").read_text()).verifies(secret.public, MESSAGE)
    assert minisign("-V", "-p", tmp_path / "key.pub", "-m", tmp_path / "file").returncode == 0
    (tmp_path / "file").write_bytes(MESSAGE + b"x")
    assert minisign("-V", "-p", tmp_path / "key.pub", "-m", tmp_path / "file").returncode != 0


def test_passwords_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = minisign("-G", "-p", tmp_path / "a.pub", "-s", tmp_path / "a", given="secret\nsecret\n")
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "a").read_text()
    assert SecretKey.is_hidden(text)
    with pytest.raises(WrongPassword, match="needs its password"):
        SecretKey.parse(text)
    key = SecretKey.parse(text, "secret")
    assert key.public == PublicKey.parse((tmp_path / "a.pub").read_text())
    monkeypatch.setattr(module, "OPSLIMIT", 1 << 15)
    monkeypatch.setattr(module, "MEMLIMIT", 1 << 24)
    ours = key.encode("pässword")
    assert SecretKey.parse(ours, "pässword") == key and not SecretKey.is_hidden(key.encode())
    with pytest.raises(WrongPassword, match="wrong"):
        SecretKey.parse(ours, "other")
    with pytest.raises(Refused, match="more memory"):  # one that asks for more than is to be spent
        SecretKey.parse(text, "secret")
    (tmp_path / "b").write_text(ours)
    (tmp_path / "file").write_bytes(MESSAGE)
    signed = minisign("-S", "-l", "-s", tmp_path / "b", "-m", tmp_path / "file", given="pässword\n")
    assert signed.returncode == 0, signed.stderr
    assert Signature.parse((tmp_path / "file.minisig").read_text()).verifies(key.public, MESSAGE)


def test_a_changed_comment_or_signature_does_not_verify() -> None:
    secret = SecretKey.generate()
    good = secret.sign(MESSAGE, COMMENT)
    assert good.verifies(secret.public, MESSAGE)
    for bad in (
        Signature(good.key_id, good.signature, COMMENT + "0", good.seal),
        Signature(good.key_id, bytes(64), COMMENT, good.seal),
        Signature(good.key_id, good.signature, COMMENT, bytes(64)),
        Signature(bytes(8), good.signature, COMMENT, good.seal),
    ):
        assert not bad.verifies(secret.public, MESSAGE)


GOOD = SecretKey(bytes(8), bytes(32)).sign(MESSAGE, COMMENT).encode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n\n\n", "x" * 5000, GOOD + "x", GOOD + "\n", GOOD.replace("\n", "\r\n"), GOOD[:-10], "\n" + GOOD),
        GOOD.replace("untrusted comment: ", "untrusted: "),
        GOOD.replace("\ntrusted comment: ", "\ncomment: "),
        GOOD.replace("convergence log", "convergence lög"),
        GOOD.replace("convergence log", "\ud800"),
        GOOD.replace("\nRW", "\nRW\u0661"),
        GOOD.replace("=\n", "\n", 1),
        GOOD.replace("\nRW", "\nR W"),
        GOOD.replace("==\n", "=\n", 1),
    ],
)
def test_what_is_no_signature_is_refused(text: str) -> None:
    assert Signature.parse(GOOD).trusted == COMMENT
    with pytest.raises(Refused):
        Signature.parse(text)


def flipped(text: str, at: int) -> str:
    head, line, *rest = text.split("\n")
    data = bytearray(base64.b64decode(line))
    data[at] ^= 1
    return "\n".join([head, base64.b64encode(data).decode(), *rest])


@pytest.mark.parametrize("at", [0, 2, 4, 60, 70, 110, 140])
def test_a_damaged_secret_key_is_refused(at: int) -> None:
    text = SecretKey.generate().encode()
    with pytest.raises(Refused):
        SecretKey.parse(flipped(text, at))


@pytest.mark.parametrize("text", ["", "x", "\n", "a\nb\nc", "untrusted comment: x\n" + "A" * 1000])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        PublicKey.parse(text)
    with pytest.raises(Refused):
        SecretKey.parse(text)


def test_a_secret_key_does_not_show_itself() -> None:
    secret = SecretKey(bytes(8), hashlib.sha256(b"seed").digest())
    assert repr(secret.seed) not in repr(secret)
