"""Long-lived secret keys on disk: a node's, its RSA identity on the Tor network, and a private service's.

Does: read them, make them the first time, in a file that only its owner can read; change an onion key in time.
Does not: know what they are used for, or put them anywhere else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convergence.ports import Rng

if TYPE_CHECKING:
    from pynode.torkeys import RsaSecret

KEY_LEN = 32
VERSION = 1
MAX_FILE = 4096
ONION_LIFETIME = 7 * 86400
"""Seconds for which a relay makes itself known by an ntor key; it answers to it for as long again."""

log = logging.getLogger("pynode.keyfile")


class KeyFileError(Exception):
    """The keys cannot be read or made. The message says what to do; it holds no keys."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Ed25519 seed of the identity and X25519 secret of the circuit handshake, 32 bytes each."""

    identity: bytes = field(repr=False)
    ntor: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OnionSecrets:
    """X25519 secrets of a relay's ntor keys, 32 bytes each: the current one and the one before, which at first nobody
    knows; and when the current one was made, Unix seconds."""

    current: bytes = field(repr=False)
    previous: bytes = field(repr=False)
    made: int


def load_or_create_keys(path: Path, rng: Rng) -> Keys:
    """The node's keys; new ones, saved before they are used, where there is no file yet.

    Raises:
        KeyFileError: the file is damaged or cannot be read or written. It is never replaced, so that a node's identity
            is not lost by accident.
    """
    return Keys(*_load_or_create(path, ("identity", "ntor"), rng))


def load_or_create_secret(path: Path, rng: Rng) -> bytes:
    """The secret of a private service's owner, 32 bytes; likewise."""
    return _load_or_create(path, ("service",), rng)[0]


def load_or_create_rsa(path: Path) -> RsaSecret:
    """A relay's RSA identity on the Tor network, in PEM as C Tor keeps its own; likewise."""
    from pynode.torkeys import RsaSecret  # few nodes need it, and it loads X.509

    pem = _kept(path, lambda: RsaSecret.generate().pem())
    try:
        return RsaSecret.from_pem(pem)
    except ValueError:
        raise _damaged(path) from None


def load_or_create_identity(path: Path, rng: Rng) -> bytes:
    """The Ed25519 seed of a relay's identity on the Tor network, 32 bytes; likewise."""
    return _load_or_create(path, ("identity",), rng)[0]


def load_onion_keys(path: Path, rng: Rng, now: float) -> OnionSecrets:
    """A relay's ntor keys as of `now`: made, or changed ONION_LIFETIME after the last time, and saved. Raises
    KeyFileError."""

    def encoded(keys: OnionSecrets) -> bytes:
        names = {"version": VERSION, "ntor": keys.current.hex(), "previous": keys.previous.hex(), "made": keys.made}
        return json.dumps(names).encode()

    data = _kept(path, lambda: encoded(OnionSecrets(rng.random(KEY_LEN), rng.random(KEY_LEN), int(now))))
    current, previous = _parsed(path, ("ntor", "previous"), data)
    made = json.loads(data).get("made")
    if type(made) is not int:
        raise _damaged(path)
    if now < made + ONION_LIFETIME:
        return OnionSecrets(current, previous, made)
    keys = OnionSecrets(rng.random(KEY_LEN), current, int(now))
    try:
        with _aside(path, encoded(keys)) as aside:
            aside.replace(path)
    except OSError as error:
        raise _unwritten(path, error) from error
    return keys


def _load_or_create(path: Path, names: tuple[str, ...], rng: Rng) -> list[bytes]:
    def make() -> bytes:
        return json.dumps({"version": VERSION, **{name: rng.random(KEY_LEN).hex() for name in names}}).encode()

    return _parsed(path, names, _kept(path, make))


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file holds; made and saved where there is none."""
    try:
        return _read(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise KeyFileError(f"cannot read the keys in {path}: {os.strerror(error.errno or 0)}") from error
    data = make()
    try:
        _create(path, data)
        return data
    except FileExistsError:
        return _read(path)  # another process was faster
    except OSError as error:
        raise _unwritten(path, error) from error


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        data = file.read(MAX_FILE)
    if mode & 0o077:
        log.warning("others can read the keys in %s: run chmod 600 on it, or delete it to get a new identity", path)
    return data


def _parsed(path: Path, names: tuple[str, ...], data: bytes) -> list[bytes]:
    try:
        entry = json.loads(data)
        if entry["version"] != VERSION:
            raise KeyFileError(f"the keys in {path} are of another version of this program")
        seeds = [entry[name] for name in names]
        if not all(isinstance(seed, str) and re.fullmatch("[0-9a-f]{64}", seed) for seed in seeds):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    return [bytes.fromhex(seed) for seed in seeds]


def _damaged(path: Path) -> KeyFileError:
    return KeyFileError(f"the keys in {path} are damaged: restore the file, or delete it to get a new identity")


def _unwritten(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"cannot write the keys to {path}: {os.strerror(error.errno or 0)}")


def _create(path: Path, data: bytes) -> None:
    """The file is there whole or not at all, and replaces no other one."""
    with _aside(path, data) as aside:
        os.link(aside, path)


@contextlib.contextmanager
def _aside(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside that path, for as long as the body runs."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        aside.unlink(missing_ok=True)
