"""`convergence release`: sign a build, check who signed it, make a key.

Does: put one signature at a time into the release's record and its line into the log; show what is signed before.
Does not: build, or publish: the record and the log are files to commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path

from pynode.cli.asking import ask_password
from pynode.cli.mirror import dist_folder
from pynode.cli.output import CliError, Output, sentence
from pynode.cli.verify import checked_folder, signed_words, word_lines
from pynode.published import minisign
from pynode.published.folder import read_manifest
from pynode.published.log import MAX_LOG, Log
from pynode.published.manifest import LOG, RELEASE, Manifest, Refused
from pynode.published.minisign import SecretKey
from pynode.published.packed import ENCODINGS
from pynode.published.release import MAX_RELEASE, Release, Seen, Trust, check, sign
from pynode.published.words import root_words


async def release_sign(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    folder = dist_folder(arguments.dist)
    manifest = checked_folder(folder)
    log_file = Path(arguments.log)
    record_file = log_file.parent / f"{manifest.version}.json"
    _show(manifest, output)
    try:
        listed = _read(log_file, MAX_LOG)
        if listed is None:  # a new one would be another log, signed by a key that people trust
            raise CliError(
                f"There is no {log_file}: name the log of releases with --log, or run this in the folder of the"
                " sources. Before the first release it is an empty file."
            )
        log = Log.parse(listed)
        before = _read(record_file, MAX_RELEASE)
        earlier = Release.parse(before) if before else None
        key = await _open_key(Path(arguments.key), output, stop)
        if key is None:
            return 130
        log, release = sign(manifest, log, earlier, key)
    except Refused as error:
        raise CliError(f"Nothing was signed: {error}.") from None
    for path, data in (
        *((log_file, log.encode()), (record_file, release.encode())),
        *((folder / RELEASE, release.encode()), (folder / LOG, log.encode())),
    ):
        _write(path, data)
    for name in (RELEASE, LOG):
        for ending in ENCODINGS.values():  # the packed files of the build hold the earlier record
            (folder / f"{name}{ending}").unlink(missing_ok=True)
    verdict = check(manifest, release.encode(), log.encode(), Trust.of(manifest), None)
    output.say(f"Signed with key {key.public.name}. Commit {log_file} and {record_file}.")
    if key.public.text not in manifest.keys:
        output.say("This version does not name that key: the signature counts for those who run one that does.")
    output.say(f"Of the keys that this version names: signed {signed_words(verdict)}.")
    signers = len(verdict.signers)
    output.record("signed", key=key.public.text, root=manifest.root, signers=signers, needed=verdict.needed)
    return 0


async def release_check(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code: 1 when the build is not released and signed."""
    folder = dist_folder(arguments.dist)
    checked_folder(folder)
    try:
        published = read_manifest(folder)
        manifest, seen = published.manifest, None
        trust = Trust.of(manifest)
        if arguments.after:
            earlier = read_manifest(Path(arguments.after))
            trust, seen = Trust.of(earlier.manifest), Seen.of(earlier.manifest, earlier.release)
    except Refused as error:
        raise CliError(sentence(str(error)), 2) from None
    verdict = check(manifest, published.release, published.log, trust, seen)
    _show(manifest, output)
    output.result(f"signed     {signed_words(verdict)}")
    output.record(
        "checked",
        root=manifest.root,
        version=manifest.version,
        ok=verdict.ok,
        signers=[key.text for key in verdict.signers],
        needed=verdict.needed,
        why=list(verdict.why),
    )
    return 0 if verdict.ok else 1


async def release_keygen(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code."""
    path = Path(arguments.file)
    public_file = Path(f"{path}.pub")
    for one in (path, public_file):
        if os.path.lexists(one):
            raise CliError(f"{one} is there already: a key is never overwritten, choose another name.")
    password: str | None = ""
    if not arguments.no_password:
        password = await ask_password("Password for the new key: ", output, stop)
        if password is not None and sys.stdin.isatty() and password != await ask_password("Once more: ", output, stop):
            raise CliError("The two passwords differ: no key was made.")
        if password == "":
            raise CliError("An empty password protects nothing: choose one, or say --no-password.", 2)
    if password is None:
        return 130
    key = SecretKey.generate()
    made: list[Path] = []
    try:
        text = key.encode(password)
        for name, data, mode in ((path, text, 0o600), (public_file, key.public.encode(), 0o644)):
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            made.append(name)
            with open(handle, "w") as file:
                file.write(data)
    except OSError as error:
        for one in made:
            with contextlib.suppress(OSError):
                one.unlink()
        raise CliError(f"{path} cannot be written: {os.strerror(error.errno or 0)}.") from None
    except Refused as error:
        raise CliError(sentence(str(error))) from None
    output.say(f"Keep {path} secret. {public_file} is its public half, for docs/releases/keys.json:")
    output.result(key.public.text)
    output.record("key", public=key.public.text, id=key.public.name)
    return 0


def _show(manifest: Manifest, output: Output) -> None:
    output.result(f"version    {manifest.version}")
    output.result(f"root hash  {manifest.root}")
    for number, line in enumerate(word_lines(root_words(manifest.root))):
        output.result(f"{'' if number else 'words':9}  {line}")


async def _open_key(path: Path, output: Output, stop: asyncio.Event) -> SecretKey | None:
    """None when it was stopped. Raises CliError, Refused."""
    data = _read(path, minisign.MAX_TEXT)
    if data is None:
        raise CliError(f"{path}: there is no such file. `convergence release keygen` makes a key.", 2)
    text = data.decode("ascii", "replace")
    password: str | None = ""
    if SecretKey.is_hidden(text):
        password = await ask_password(f"Password of {path.name}: ", output, stop)
    return None if password is None else SecretKey.parse(text, password)


def _read(path: Path, limit: int) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CliError(f"{path} cannot be read: {os.strerror(error.errno or 0)}.") from None
    if len(data) > limit:
        raise CliError(f"{path} is too long to be what it should be.")
    return data


def _write(path: Path, data: bytes) -> None:
    """Write a file: it is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise CliError(f"{path} cannot be written: {os.strerror(error.errno or 0)}.") from None
