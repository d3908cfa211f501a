"""`python -m pynode`, and the console command `convergence`."""

from __future__ import annotations

import sys

from pynode.cli import main

if __name__ == "__main__":
    sys.exit(main())
