"""The core of Convergence, and the door to the API for Python programs, which is the CPython shell's (docs/api.md).

Does: load that API when one of its names is first asked for.
Does not: need it: where there is only the core, as in a browser, these names do not exist.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pynode.api import AddressError as AddressError
    from pynode.api import BlockingNode as BlockingNode
    from pynode.api import BlockingPipe as BlockingPipe
    from pynode.api import BlockingService as BlockingService
    from pynode.api import ConnectError as ConnectError
    from pynode.api import ConnectTimeout as ConnectTimeout
    from pynode.api import JoinError as JoinError
    from pynode.api import NetworkError as NetworkError
    from pynode.api import Node as Node
    from pynode.api import Pipe as Pipe
    from pynode.api import PipeBroken as PipeBroken
    from pynode.api import ServeError as ServeError
    from pynode.api import Service as Service
    from pynode.api import address_of as address_of
    from pynode.api import brotli as brotli
    from pynode.api import deflate as deflate
    from pynode.api import framing as framing
    from pynode.api import gzip as gzip
    from pynode.api import join as join
    from pynode.api import join_sync as join_sync
    from pynode.api import new_secret as new_secret
    from pynode.api import zstd as zstd

_API = {
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
}


def __getattr__(name: str) -> Any:
    if name in _API:
        try:
            from pynode import api
        except ModuleNotFoundError as error:
            if error.name != "pynode":
                raise
        else:
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
