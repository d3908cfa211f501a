"""What goes wrong for a program that uses the network: one tree of exceptions, with codes for programs and words for
people.

Does: name each kind; take the words from where the commands have theirs.
Does not: decide what an error costs: the core has closed what had to be closed.

    ConvergenceError              the root of everything that this package raises by itself
      NetworkError
        JoinError                 no network: the site is down, or no nodes are known
        AddressError              (ValueError) what was given is no address
        ServeError                it cannot be offered
        ConnectError              (ConnectionError) no connection came about
          ConnectTimeout          (TimeoutError) not in time
        PipeBroken                (ConnectionError) the connection stood, and then broke
"""

from __future__ import annotations

from convergence.errors import Code, ConvergenceError, EndReason, Why
from pynode.cli.words import connect_words, end_words, words


class NetworkError(ConvergenceError):
    """`str` gives a sentence for people.

    Attributes:
        why: a code of convergence.codes, where there is one: unique, and stable for programs.
    """

    why: Code | None = None


class JoinError(NetworkError):
    """The network cannot be joined."""


class AddressError(NetworkError, ValueError):
    """What was given is no address."""

    def __init__(self, why: Why) -> None:
        super().__init__(words(why))
        self.why = why.code


class ServeError(NetworkError):
    """The service cannot be offered: it is already, at the limit, or because no point took it in time."""

    def __init__(self, message: str, why: Code | None = None) -> None:
        super().__init__(message)
        self.why = why


class ConnectError(NetworkError, ConnectionError):
    """No connection came about.

    Attributes:
        code: an EndReason, such as CONNECTREFUSED or RESOLVEFAILED, or another number as received.
    """

    def __init__(self, code: int, why: Why | None = None) -> None:
        super().__init__(connect_words(why, code))
        self.code = code
        self.why = None if why is None else why.code


class ConnectTimeout(ConnectError, TimeoutError):
    """It did not come about in the time that the program gave."""

    def __init__(self) -> None:
        super().__init__(EndReason.TIMEOUT)


class PipeBroken(NetworkError, ConnectionError):
    """The far end, or something between, gave the connection up. All that came before was read.

    Attributes:
        code: an EndReason, or another number as received.
    """

    def __init__(self, code: int, why: Why | None = None) -> None:
        super().__init__(words(why) if why is not None else end_words(code))
        self.code = code
        self.why = None if why is None else why.code
