"""A build of the page that trusts one authority of a test, and nobody else."""

from __future__ import annotations

from pathlib import Path

import build
from web.bundling import tls


def secure_page(authority: Path, folder: Path) -> Path:
    """Write it to the folder.

    Args:
        authority: file of a certificate in PEM.
    """
    with build.only_one():  # another lane might be compiling
        files = build.bundle()
    files["tls/roots.der"] = tls.roots(authority.read_text())
    build.write_tree({**files, "manifest.json": build.manifest(files, build.project()["version"])}, folder)
    return folder
