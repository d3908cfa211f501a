"""A relay that leads into the Tor network and lies about it: `python lying_entry.py relay ...`.

The consensus that it serves gives one relay another bandwidth than the authorities signed.
"""

from __future__ import annotations

import sys
from typing import Any

from convergence.tor.cache import DirectoryCache
from pynode.cli import main

consensus = DirectoryCache._consensus


def lying_consensus(self: DirectoryCache, *arguments: Any) -> bytes | None:
    document = consensus(self, *arguments)
    return document and document.replace(b"\nw Bandwidth=", b"\nw Bandwidth=9", 1)


if __name__ == "__main__":
    DirectoryCache._consensus = lying_consensus  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
