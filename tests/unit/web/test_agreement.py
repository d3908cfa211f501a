"""Does: hold the two readers of manifests and releases, pynode/published and web/code, to the same word on documents
that were changed at random, by what readers are apt to take differently.
Does not: say what that word should be.
"""

from __future__ import annotations

import json
from base64 import b64encode
from random import Random
from typing import Any

from convergence.codes import LinkFlaw
from convergence.errors import Problem
from convergence.wire.sharelink import ShareLink, find_link
from pynode.published.log import Log
from pynode.published.manifest import Manifest, Refused
from pynode.published.minisign import SecretKey
from pynode.published.release import Seen, Trust, check, sign
from tests.unit.web.javascript import javascript

SEED = 1
DOCUMENTS = 300
"""Of each kind."""

KEYS = [SecretKey(bytes([number]) * 8, bytes([number]) * 32) for number in range(1, 4)]
PUBLIC = [key.public.text for key in KEYS]
FILES = {"index.html": b"x", "a/b.js": b"", "1": b"y", "__proto__": b"z"}
OLD, NEW = (Manifest.of(FILES, version, PUBLIC, 2) for version in ("0.1", "0.2"))

INSERTED = [
    *(b'"', b"{", b"}", b",", b":", b"[", b"]", b" ", b"\n", b"\r", b"\r\n", b"\t", b"\0", b"\x0b", b"\x7f", b"\xff"),
    *(b"0", b"1", b"-", b".", b"e0", b".0", b"-0", b"9" * 30, b"9" * 5000, b"null", b"true", b"NaN", b"Infinity"),
    *(b"\\u0041", b"\\ud800", b"\\ud83d\\ude00", b"\\/", b"\\n", b"\\r", b"\\\\u"),
    *(b"\xc3\xa9", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\xf0\x9f\x98\x80" * 600),
    *(b'"format":2,', b'"format":1,', b'"format":NaN,', b"[" * 5000, b"=", b"==", b"..", b"/", b".br", b".gz", b"_"),
]
VALUES = [
    *(0, 1, 2, -1, 1.0, 0.5, 1e300, 2**53, 2**64, 64 << 20, (64 << 20) + 1, 100_000, 100_001, True, False, None),
    *(
        "",
        "0",
        "0.2",
        "1.2.3.4.5",
        "01",
        "\u0661",
        "0" * 64,
        "A" * 64,
        "x" * 2049,
        "\N{GRINNING FACE}" * 513,
        [],
        {},
        [1],
    ),
    *("untrusted comment: ", "a.js", "../a", PUBLIC[0], PUBLIC[0][:-1] + "=", "RWQ" + "A" * 53, "RWQ" + "B" * 53),
]
NAMES = ["manifest.json", "a/b.js.br", "A/B.JS", "1.gz", "release.json.gz", "x" * 200, "x" * 201, "constructor", "\xe9"]

SAY = """
    const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
    const refusal = (error) => { if (!(error instanceof code.Refused)) throw error; return null; };
    const { manifests, record, records, log, logs, trusted, seen, manifest } = argument;
    const check = (release, log) =>
        judge.checkRelease({ manifestBytes: bytes(manifest), release: bytes(release), log: bytes(log), trusted, seen })
            .then(({ ok, signers, head }) => [ok, signers, head]);
    return Promise.all([
        Promise.all(manifests.map((text) => code.parseManifest(bytes(text)).then(({ root }) => root, refusal))),
        Promise.all(records.map((each) => check(each, log))),
        Promise.all(logs.map((each) => check(record, each))),
    ]);
"""


def published() -> tuple[bytes, bytes, Seen]:
    log, release = sign(OLD, Log(), None, KEYS[0])
    seen = Seen.of(OLD, release.encode())
    release = None
    for key in KEYS:
        log, release = sign(NEW, log, release, key)
    return release.encode(), log.encode(), seen


def bytes_changed(random: Random, data: bytes) -> bytes:
    for _ in range(random.choice((1, 1, 1, 2))):
        at = random.randrange(len(data))
        end = at + random.choice((0, 0, 1, 5))
        data = data[:at] + random.choice((*INSERTED, b"", data[at : at + 70], bytes([data[at] ^ 1]))) + data[end:]
    return data


def values_changed(random: Random, data: bytes) -> bytes:
    """Mostly still in canonical form."""
    value = json.loads(data)
    places: list[Any] = [value]
    for place in places:
        places += [
            one for one in (place.values() if isinstance(place, dict) else place) if isinstance(one, dict | list)
        ]
    place = random.choice(places)
    if isinstance(place, list):
        place.insert(random.randint(0, len(place)), random.choice((*VALUES, *place)))
        if random.random() < 0.6:
            place.pop(random.randrange(len(place)))
    else:
        name = random.choice(list(place))
        place[random.choice((name, *NAMES))] = random.choice((*VALUES, *place.values()))
        if random.random() < 0.1:
            del place[name]
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=random.random() < 0.1).encode()


def signature_changed(random: Random, data: bytes) -> bytes:
    value = json.loads(data)
    signatures = value["signatures"]
    at = random.randrange(len(signatures))
    signatures[at] = bytes_changed(random, signatures[at].encode()).decode("utf-8", "replace")
    signatures.pop(at - 1)  # then this one is needed
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_both_say_the_same() -> None:
    random = Random(SEED)
    record, log, seen = published()
    trust = Trust.of(OLD)
    manifests, records, logs = [NEW.encode()], [record], [log]
    for _ in range(DOCUMENTS):
        manifests.append(random.choice((bytes_changed, values_changed, values_changed))(random, NEW.encode()))
        records.append(random.choice((bytes_changed, values_changed, signature_changed))(random, record))
        logs.append(bytes_changed(random, log))

    def root(data: bytes) -> str | None:
        try:
            return Manifest.parse(data).root
        except Refused:
            return None

    def verdict(record: bytes, log: bytes) -> list[Any]:
        found = check(NEW, record, log, trust, seen)
        head = {"size": found.head.size, "root": found.head.root.hex()} if found.ok and found.head else None
        return [found.ok, len(found.signers), head]

    expected = [
        list(map(root, manifests)),
        [verdict(each, log) for each in records],
        [verdict(record, each) for each in logs],
    ]
    argument = {
        "manifests": [b64encode(data).decode() for data in manifests],
        "records": [b64encode(data).decode() for data in records],
        "logs": [b64encode(data).decode() for data in logs],
        "manifest": b64encode(NEW.encode()).decode(),
        "record": b64encode(record).decode(),
        "log": b64encode(log).decode(),
        "trusted": {"keys": PUBLIC, "threshold": 2},
        "seen": {"size": seen.head.size, "root": seen.head.root.hex(), "index": seen.index},
    }
    said = javascript(SAY, argument, code="code/manifest.js", judge="code/release.js")
    for documents, ours, theirs in zip((manifests, records, logs), expected, said, strict=True):
        assert [each for each in zip(documents, ours, theirs, strict=True) if each[1] != each[2]] == []
        taken = [one for one in ours if one is not None and one[0]]
        assert ours[0] in taken and len(taken) < DOCUMENTS


def test_both_find_the_same_links() -> None:
    random, link = Random(SEED), ShareLink(bytes(range(32)), bytes(range(32, 64))).format("https://site.example")
    pieces = [
        *"\n\r\t >|=.#-_a",
        "\r\n> ",
        "=\r\n",
        "%23",
        "%2523",
        "%2E",
        "%E2%80%8B",
        "\u200b",
        "\xad",
        "\u0661",
        link,
    ]
    texts = []
    for _ in range(1000):
        text = link
        for _ in range(random.randrange(4)):
            at = random.randrange(len(text) + 1)
            text = text[:at] + random.choice(pieces) + text[at + random.randrange(2) :]
        texts.append(text)
    found = javascript("return argument.map((text) => find.linksIn(text));", texts, find="ui/find.js")
    for text, links in zip(texts, found, strict=True):
        try:
            expected = [find_link(text).link.format()]
        except Problem as problem:
            if problem.why.code == LinkFlaw.ALTERED_PART:
                continue  # the page leaves that to the node
            expected = [link for link in links if problem.why.code == LinkFlaw.SEVERAL]
            assert (len(expected) > 1) == (problem.why.code == LinkFlaw.SEVERAL), text
        assert links == expected, text
    assert len([links for links in found if len(links) == 1]) > 200
