"""A provider that serves wrong bytes: `python lying_share.py share FILE ...`."""

from __future__ import annotations

import sys
from typing import Any

from pynode.cli import main
from pynode.storage import DiskStorage

load = DiskStorage.load


def lying_load(self: DiskStorage, bucket: str, key: bytes, reply: Any) -> None:
    """Pieces of the right length, with one bit turned."""

    def turned(piece: Any) -> None:
        reply(bytes([piece[0] ^ 1]) + piece[1:] if isinstance(piece, bytes) else piece)

    load(self, bucket, key, turned if bucket == "piece" else reply)


if __name__ == "__main__":
    DiskStorage.load = lying_load  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
