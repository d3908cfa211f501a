"""The tree of errors: what each costs, and the codes that go on the wire."""

import pytest

from convergence.errors import (
    ConvergenceError,
    CryptoError,
    DestroyReason,
    EndReason,
    LinkError,
    LocalError,
    ParseError,
    RemoteError,
    Scope,
    StreamError,
)


@pytest.mark.parametrize(
    ("kind", "scope", "reason"),
    [
        (RemoteError, Scope.CIRCUIT, DestroyReason.PROTOCOL),
        (ParseError, Scope.CIRCUIT, DestroyReason.PROTOCOL),
        (CryptoError, Scope.CIRCUIT, DestroyReason.PROTOCOL),
        (LinkError, Scope.LINK, DestroyReason.PROTOCOL),
        (StreamError, Scope.STREAM, EndReason.TORPROTOCOL),
    ],
)
def test_scope_and_reason_of_each_kind(kind, scope, reason):
    error = kind("what was wrong")
    assert isinstance(error, RemoteError)
    assert (error.scope, error.reason, str(error)) == (scope, reason, "what was wrong")


def test_scope_and_reason_can_be_given():
    error = RemoteError("no", Scope.LINK, DestroyReason.RESOURCELIMIT)
    assert (error.scope, error.reason) == (Scope.LINK, DestroyReason.RESOURCELIMIT)
    assert RemoteError("no").scope is Scope.CIRCUIT, "one error's scope is no other's"


def test_faults_of_the_caller_are_no_faults_of_the_other_end():
    assert issubclass(LocalError, ConvergenceError) and not issubclass(LocalError, RemoteError)


def test_codes_are_those_of_tor_spec():
    assert [reason.value for reason in EndReason] == list(range(1, 15))
    assert [reason.value for reason in DestroyReason] == list(range(13))
    assert (EndReason.DONE, EndReason.TORPROTOCOL, DestroyReason.TIMEOUT) == (6, 13, 10)
