"""A release: a manifest that enough keys signed and that is in the log of releases.

Does: read and write release.json; add a signature; say whether a release may replace the running version.
Does not: check files against the manifest, or fetch anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nacl.bindings import crypto_core_ed25519_is_valid_point

from pynode.published.log import (
    MAX_LINES,
    MAX_PROOF,
    Head,
    Log,
    inclusion_proof,
    release_line,
    root_by_proof,
)
from pynode.published.manifest import (
    MAX_KEYS,
    Manifest,
    Refused,
    canonical_json,
    is_digest,
    parse_json,
    version_order,
)
from pynode.published.minisign import MAX_TEXT, PublicKey, SecretKey, Signature

FORMAT = 1
MAX_RELEASE = 64 << 10
"""Bytes of release.json."""
MAX_SIGNATURES = 2 * MAX_KEYS
"""When keys change, the old and the new ones may all sign."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that must sign: `threshold` of these minisign public keys. Without keys, no signature counts."""

    keys: Sequence[str] = ()
    threshold: int = 0

    @classmethod
    def of(cls, manifest: Manifest) -> Trust:
        """The keys that a manifest names: they sign the release after it."""
        return cls(manifest.keys, manifest.threshold)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of the running version: the head of the log, the release's index in it (-1: it was in no log),
    and its version."""

    head: Head
    index: int
    version: str

    @classmethod
    def of(cls, manifest: Manifest, release: bytes | None) -> Seen:
        """What to remember of a running version and its release.json. Raises Refused."""
        if release is None:
            return cls(Log().head(), -1, manifest.version)
        record = Release.parse(release)
        return cls(record.head(manifest), record.index, manifest.version)


@dataclass(frozen=True, slots=True)
class Release:
    """release.json, which lies beside manifest.json.

    Args:
        index: the release's line in the log, from 0.
        size: lines of the log when it was signed.
        proof: that the line is in it.
        signatures: .minisig files of manifest.json. Each trusted comment is `comment` of the log's head.
    """

    index: int
    size: int
    proof: tuple[bytes, ...]
    signatures: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Release:
        """Read a record from untrusted bytes. Raises Refused."""
        if len(data) > MAX_RELEASE:
            raise Refused("the record of the release is too long")
        value = parse_json(data, "the record of the release")
        if (
            not isinstance(value, dict)
            or set(value) != {"format", "index", "proof", "signatures", "size"}
            or any(type(value[name]) is not int for name in ("format", "index", "size"))
            or any(not isinstance(value[name], list) for name in ("proof", "signatures"))
            or value["format"] != FORMAT
        ):
            raise Refused("the record of the release is not of format 1")
        proof, signatures = value["proof"], value["signatures"]
        if not 0 <= value["index"] < value["size"] <= MAX_LINES:
            raise Refused("the release is not within its log")
        if len(proof) > MAX_PROOF or not all(map(is_digest, proof)):
            raise Refused("the proof that the release is in the log is malformed")
        if len(signatures) > MAX_SIGNATURES or not all(
            isinstance(one, str) and len(one.encode()) <= MAX_TEXT for one in signatures
        ):
            raise Refused("the release has too many or too long signatures")
        return cls(value["index"], value["size"], tuple(map(bytes.fromhex, proof)), tuple(signatures))

    def encode(self) -> bytes:
        """release.json."""
        return canonical_json(
            {
                "format": FORMAT,
                "index": self.index,
                "proof": [step.hex() for step in self.proof],
                "signatures": list(self.signatures),
                "size": self.size,
            }
        )

    def head(self, manifest: Manifest) -> Head:
        """The head of the log that has this manifest's release, if the proof is right. Raises Refused."""
        line = release_line(manifest.version, manifest.root)
        return Head(self.size, root_by_proof(line, self.index, self.size, self.proof))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Args:
    signers: the trusted keys that signed.
    needed: how many must sign.
    index, head: the release's line in the log, and the log's head that it was signed with; None when unknown.
    why: the reasons against it; empty if it is released and signed.
    """

    signers: tuple[PublicKey, ...]
    needed: int
    index: int | None
    head: Head | None
    why: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.why


def comment(head: Head) -> str:
    """The trusted comment of every signature. So a signature of the manifest also signs the log."""
    return f"convergence log {head.size} {head.root.hex()}"


def check(manifest: Manifest, release: bytes | None, log: bytes | None, trust: Trust, seen: Seen | None) -> Verdict:
    """Whether a release is signed by enough of the trusted keys, in the log, and newer than what was seen.

    Args:
        release, log: release.json and releases.txt as they were served; None for a missing one.
        seen: None when nothing is remembered.
    """
    why: list[str] = []
    if seen is not None and version_order(manifest.version) < version_order(seen.version):
        why.append(f"version {manifest.version} is older than {seen.version}, which ran before")
    if release is None:
        why.append("nobody signed it: there is no release.json")
        return Verdict((), trust.threshold, None, None, tuple(why))
    try:
        record = Release.parse(release)
        head = record.head(manifest)
    except Refused as error:
        return Verdict((), trust.threshold, None, None, (*why, str(error)))
    signers = _count(manifest, record, head, trust, why)
    if log is None:
        why.append("there is no log of releases beside it")
    else:
        why += _against_log(record, head, log, seen)
    if seen is not None and record.index <= seen.index:
        why.append(f"it is release {record.index} of the log, and release {seen.index} ran before")
    return Verdict(tuple(signers), trust.threshold, record.index, head, tuple(why))


def _count(manifest: Manifest, record: Release, head: Head, trust: Trust, why: list[str]) -> list[PublicKey]:
    """The trusted keys that signed. Adds to `why` what is wrong with signatures, and with their number."""
    keys = {key.key_id: key for key in map(PublicKey.parse, trust.keys)}
    signers: list[PublicKey] = []
    faults: list[str] = []
    message, wanted = manifest.encode(), comment(head)
    for text in record.signatures:
        try:
            signature = Signature.parse(text)
        except Refused as error:
            faults.append(str(error))
            continue
        key = keys.get(signature.key_id)
        if key is None:  # a key that others trust, as when keys change
            continue
        if not signature.verifies(key, message):
            faults.append(f"the signature of key {key.name} does not verify")
        elif signature.trusted != wanted:
            faults.append(f"key {key.name} signed another log of releases than the one shown")
        elif key in signers:
            faults.append(f"key {key.name} signed twice, which counts once")
        else:
            signers.append(key)
    if not keys:
        why.append("the version that judges it names no keys that could sign")
    elif len(signers) < trust.threshold:
        # Faults in other signatures do no harm when enough keys have signed.
        why += [f"{len(signers)} of the trusted keys signed, {trust.threshold} have to", *faults]
    return signers


def _against_log(record: Release, head: Head, data: bytes, seen: Seen | None) -> list[str]:
    try:
        log = Log.parse(data)
        if log.head(head.size) != head:
            return ["the log of releases is not the one that was signed"]
        # Lines that were there once must still be there, in the same order.
        if seen is not None and log.head(seen.head.size) != seen.head:
            return ["the log of releases was changed where it had been read before: it may only grow"]
    except Refused as error:
        return [str(error)]
    return []


def sign(manifest: Manifest, log: Log, release: Release | None, key: SecretKey) -> tuple[Log, Release]:
    """Add a signature. Returns the log with this release in it, and the release's record.

    Args:
        release: what others signed before; None for the first.

    Raises:
        Refused: the log or the record is of another build, a signature in it is of another log, or the build names a
            key that has no secret key.
    """
    for text in manifest.keys:
        if not crypto_core_ed25519_is_valid_point(PublicKey.parse(text).key):
            raise Refused(f"nobody can sign with {text}, which the build names: take it out of keys.json, build again")
    log = log.with_release(manifest.version, manifest.root)
    index = log.find(manifest.version, manifest.root)
    assert index is not None
    size = len(log.lines) if release is None else release.size
    head = log.head(size)
    if release is not None and (release.index != index or release.head(manifest) != head):
        raise Refused("the record of the release is of another build or of another log than these")
    signature = key.sign(manifest.encode(), comment(head)).encode()
    proof = tuple(inclusion_proof(log.lines[:size], index))
    before = () if release is None else release.signatures
    others = []
    for one in before:
        earlier = Signature.parse(one)
        if earlier.trusted != comment(head):
            raise Refused("a signature in the record of the release is of another log than this")
        if earlier.key_id != key.key_id:
            others.append(one)
    if len(others) >= MAX_SIGNATURES:
        raise Refused("the release has as many signatures as it may have")
    return log, Release(index, size, proof, (*others, signature))
