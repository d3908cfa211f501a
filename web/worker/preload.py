"""All that a node imports and that touches no JavaScript: what is in a snapshot of Python's memory.

Does: import. Does not: run anything; whatever is made here would be the same after every start.
"""

import asyncio
import json
import time
import urllib.parse

import convergence.driver
import convergence.node

__all__ = ["asyncio", "convergence", "json", "time", "urllib"]
