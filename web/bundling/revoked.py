"""The list of intermediate certificates that Mozilla revoked (OneCRL): `python3 -m web.bundling.revoked onecrl.json`.

Does: make pynode/revoked.txt from the copy of OneCRL that comes with Firefox (defaults/settings/security-state in its
browser/omni.ja, a zip archive).
Does not: get it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path

from web.bundling.steps import ROOT

LIST = ROOT / "pynode" / "revoked.txt"
NAMED = 8  # bytes: pynode/tls.py, `names_of`
HEADER = """\
# Intermediate certificates that Mozilla revoked: OneCRL as of {date}, from Firefox.
# Made by web/bundling/revoked.py. A line: the first 8 bytes of
# SHA-256(issuer + serial number) or of SHA-256(subject + SHA-256(key)), all in DER.
"""


def made(onecrl: bytes) -> str:
    """The list's text."""
    content = json.loads(onecrl)
    names = set()
    for entry in content["data"]:
        if "serialNumber" in entry:
            serial = b64decode(entry["serialNumber"])
            named = b64decode(entry["issuerName"]) + bytes([2, len(serial)]) + serial
        else:
            named = b64decode(entry["subject"]) + b64decode(entry["pubKeyHash"])
        names.add(hashlib.sha256(named).digest()[:NAMED].hex())
    date = datetime.fromtimestamp(content["timestamp"] / 1000, UTC).date()
    return HEADER.format(date=date) + "".join(f"{name}\n" for name in sorted(names))


def packed() -> bytes:
    """The same for the page's TLS: the names one after the other, in order."""
    lines = LIST.read_text(encoding="ascii").splitlines()
    return b"".join(sorted(bytes.fromhex(line) for line in lines if not line.startswith("#")))


if __name__ == "__main__":
    LIST.write_text(made(Path(sys.argv[1]).read_bytes()), encoding="ascii")
