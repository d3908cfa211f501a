"""A node that registers and answers no call: `python silent_node.py relay ...`. Prints {"event": "called"} for each."""

from __future__ import annotations

import sys
from typing import Any

from convergence.introduction.links import RtcLinks
from pynode.cli import main


def ignore(self: RtcLinks, *_: Any) -> None:
    print('{"event": "called"}', flush=True)


if __name__ == "__main__":
    RtcLinks.delivered = ignore  # type: ignore[assignment, method-assign]
    sys.exit(main(sys.argv[1:]))
