"""A build of the page that trusts authorities of a test, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import build
from pynode.published.manifest import canonical_json
from web.bundling import tls


def secure_page(authority: Path, folder: Path, *, tor: Sequence[str] = ()) -> Path:
    """Write it to the folder.

    Args:
        authority: file of a certificate in PEM, who vouches for https sites.
        tor: v3 identities, in hex, of the authorities of a Tor network; none for the public one.
    """
    with build.only_one():  # another lane might be compiling
        files = build.bundle()
    files["tls/roots.der"] = tls.roots(authority.read_text())
    if tor:
        files["tor.json"] = canonical_json({"authorities": list(tor)})
    build.write_tree({**files, "manifest.json": build.manifest(files, build.project()["version"])}, folder)
    return folder
