"""The CPython backend under the suite that every backend has to pass."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from pynode.crypto import CPythonCrypto, SystemRng

spec = importlib.util.spec_from_file_location("ports_suite", Path(__file__).parent / "suite.py")
assert spec is not None and spec.loader is not None
suite = sys.modules["ports_suite"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(suite)


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_backend(check):
    check(CPythonCrypto())


def test_the_suite_reports_a_broken_backend_instead_of_raising():
    class Broken(CPythonCrypto):
        def x25519(self, secret, public, /):
            return bytes(32)

    failed = [name for name, passed, detail in suite.run(Broken()) if not passed]
    assert "x25519_vectors" in failed and "ntor_vector" in failed and "aes_ctr_vectors" not in failed


def test_randomness_has_the_size_asked_for_and_does_not_repeat():
    rng = SystemRng()
    assert [len(rng.random(size)) for size in (0, 1, 32, 70_000)] == [0, 1, 32, 70_000]
    assert rng.random(32) != rng.random(32)
