"""A relay that leads into the Tor network and lies about it: `python lying_entry.py relay ...`.

The consensus that it serves gives a relay another name than the authorities signed.
"""

from __future__ import annotations

import sys

from convergence.pipes import http
from convergence.tor.cache import DirectoryCache
from pynode.cli import main

answer = DirectoryCache.answer


def lying_answer(self: DirectoryCache, request: http.Request, now: float) -> tuple[http.Response, bytes]:
    """Never compressed, and never a diff."""
    response, body = answer(self, http.Request((), request.method, request.target), now)
    return response, body.replace(b"\nr authority", b"\nr Authority", 1)


if __name__ == "__main__":
    DirectoryCache.answer = lying_answer  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
