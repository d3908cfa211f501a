"""A facilitator that tells each node of its neighbours in a row only: `python chain_facilitator.py facilitator ...`."""

from __future__ import annotations

import sys

from pynode import app
from pynode.cli import main
from tests.chain import ChainFacilitator

if __name__ == "__main__":
    app.FacilitatorService = ChainFacilitator  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
