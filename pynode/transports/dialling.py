"""From a node's address to a TCP connection, and what to say when there is none.

Does: look a host up, pass over private addresses that a stranger names, connect, name what failed in a few
words. Does not: speak WebSocket or TLS.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Hashable, Iterable

import picows

from convergence.effects import Protocol
from pynode.exit import is_public, plain_address
from pynode.transports import printable
from pynode.transports.lookups import LookUps, TooManyLookUpsError

MAX_ADDRESSES = 4
"""Addresses of one host that are tried."""

MAX_LOOKUPS = 32
"""Look-ups for others at a time: the nodes that circuits go on to, or that a facilitator probes..."""
MAX_OWN_LOOKUPS = 8
"""...and for ourselves, of nodes and of facilitators apart."""

PRIVATE_NAMES = ("localhost", "local", "lan", "internal", "localdomain", "home.arpa")
"""Names, and ends of names, that no public registry hands out; nor one without a dot."""


class PrivateAddress(OSError):
    """A node on a public network names an address that is not on the internet."""


def is_private(hosts: Iterable[str]) -> bool:
    """Whether all of these names and addresses are of a private network, whose nodes have private addresses.

    Ask this once, at the start, for the names in the node's own configuration. Then neither a name that resolves to
    another address later nor a list of nodes can change which addresses are dialled.
    """
    for host in filter(None, hosts):
        address = plain_address(host)
        if address is None:
            if "." in host and not any(host == name or host.endswith(f".{name}") for name in PRIVATE_NAMES):
                return False
        elif is_public(address):
            return False
    return True


class Dialler:
    """Makes a node's TCP connections to facilitators and other nodes.

    Args:
        public_only: whether links to private and reserved addresses are refused.
    """

    def __init__(self, public_only: bool = False) -> None:
        # Strangers name nodes, and whom we look those up for; only the facilitator's name is the operator's own choice.
        self._for_others = LookUps("link-look-up", MAX_LOOKUPS)
        self._own = LookUps("own-look-up", MAX_OWN_LOOKUPS)
        self._facilitators = LookUps("facilitator-look-up", MAX_OWN_LOOKUPS)
        self._public_only = public_only

    async def connect(self, protocol: Protocol, host: str, port: int, source: Hashable = None) -> socket.socket:
        """A TCP connection to one of the host's addresses, on behalf of `source` (None: of this node).

        A node's address is a stranger's word. On the public internet, links to private and reserved addresses are
        refused, or anybody could make all nodes connect to hosts of their own networks.
        """
        loop = asyncio.get_running_loop()
        links = protocol is not Protocol.FACILITATOR
        own = self._own if links else self._facilitators
        found = await (own if source is None else self._for_others).find(host, port, source)
        failure: OSError = OSError("the name has no address")
        for family, kind, number, _, address in found[:MAX_ADDRESSES]:
            plain = plain_address(str(address[0]))
            public = plain is not None and is_public(plain)
            if links and self._public_only and not public:
                failure = PrivateAddress()
                continue
            connection = socket.socket(family, kind, number)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, address)
            except OSError as error:
                connection.close()
                failure = error
                continue
            except BaseException:
                connection.close()
                raise
            return connection
        raise failure

    def close(self) -> None:
        """Stop looking names up."""
        for look_ups in (self._for_others, self._own, self._facilitators):
            look_ups.close()


def connect_reason(error: BaseException) -> str:
    """Why a WebSocket could not be opened, in a few words."""
    if isinstance(error, picows.WSHandshakeError):
        status = f" (HTTP {error.response.status.value})" if error.response is not None else ""
        return f"not a WebSocket server{status}"
    if isinstance(error, (picows.WSInvalidURL, ValueError)) and not isinstance(error, ssl.SSLError):
        return "not a WebSocket address"
    return network_reason(error)


def network_reason(error: BaseException) -> str:
    """Why a connection could not be made, in a few words."""
    if isinstance(error, TooManyLookUpsError):
        return "too many look-ups"
    if isinstance(error, PrivateAddress):
        return "not an address on the internet"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {printable(error.verify_message)}"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "name not found"
    for code, words in _ERRNO_WORDS.items():
        # Several addresses that failed alike come as one OSError whose text lists them.
        if isinstance(error, OSError) and (error.errno == code or f"[Errno {code}]" in str(error)):
            return words
    return "cannot connect"


_ERRNO_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "no route to host",
    errno.EMFILE: "too many open files",
}
