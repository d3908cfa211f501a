"""What the tests with real programs share: the ways that lie between the programs."""

from __future__ import annotations

import pytest

from tests.interop.ways import Way, direct


@pytest.fixture(scope="session", params=["direct"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """Each test runs once for each way."""
    return direct(tmp_path_factory.mktemp("services"))
