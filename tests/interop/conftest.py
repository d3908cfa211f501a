"""What the tests with real programs share: a web site, and the ways that lie between programs.

They live as long as a lane's stay in this folder.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.ways import ZONE, Way, direct
from tests.interop.website import Website


@pytest.fixture(scope="package")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    website = Website(tmp_path_factory.mktemp("website"), f"*{ZONE}")
    yield website
    website.close()


@pytest.fixture(scope="package", params=["direct"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    """Each test runs once for each way. A way with exits may ask for `website`, whose ports they are to allow."""
    return direct(tmp_path_factory.mktemp("services"))
