"""A facilitator that tells each node of its neighbours in a row only: `python chain_facilitator.py facilitator ...`."""

from __future__ import annotations

import json
import sys

from pynode import facilitator_app
from pynode.cli import main
from tests.chain import ChainFacilitator


class TellingFacilitator(ChainFacilitator):
    """Reports who is where."""

    def placed(self, identity: bytes, place: int) -> None:
        print(json.dumps({"event": "placed", "identity": identity.hex(), "place": place}), flush=True)


if __name__ == "__main__":
    facilitator_app.FacilitatorService = TellingFacilitator  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
