"""The network for Python programs: what `import convergence` gives besides the core (docs/api.md).

Does: put the names together.
Does not: hold anything itself.
"""

from __future__ import annotations

from convergence.pipes.coding import brotli, deflate, gzip, zstd
from convergence.pipes.framing import framing
from pynode.api.blocking import BlockingNode, BlockingPipe, BlockingService, join_sync
from pynode.api.errors import (
    AddressError,
    ConnectError,
    ConnectTimeout,
    JoinError,
    NetworkError,
    PipeBroken,
    ServeError,
)
from pynode.api.node import Node, Service, address_of, join, new_secret
from pynode.api.pipe import Pipe

__all__ = [
    "AddressError",
    "BlockingNode",
    "BlockingPipe",
    "BlockingService",
    "ConnectError",
    "ConnectTimeout",
    "JoinError",
    "NetworkError",
    "Node",
    "Pipe",
    "PipeBroken",
    "ServeError",
    "Service",
    "address_of",
    "brotli",
    "deflate",
    "framing",
    "gzip",
    "join",
    "join_sync",
    "new_secret",
    "zstd",
]
