"""`convergence status`: how a network is, as its facilitator sees it.

Does: /status.json as a table, or as it came.
Does not: ask the nodes themselves.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from pynode.cli.common import unless
from pynode.cli.output import Output, shown, table, time_words
from pynode.cli.sites import chosen_site, find_status


async def status(arguments: argparse.Namespace, output: Output, stop: asyncio.Event) -> int:
    """The command. Returns its exit code: 1 when no node is connected."""
    site = chosen_site(arguments.site)
    answer = await unless(stop, find_status(site))
    if answer is None:
        return 130
    nodes = [node for node in answer["nodes"] if isinstance(node, dict)]
    connected = [node for node in nodes if node.get("connected") is True]
    if output.as_json:
        output.record("status", site=site, facilitator=answer.get("facilitator"), nodes=nodes)
    else:
        output.result(f"{shown(site)}: {len(connected)} of {len(nodes)} known nodes are connected.")
        if nodes:
            heading = [["node", "state", "roles", "address", "registered", "valid for"]]
            for line in table(heading + [_row(node) for node in nodes]).split("\n"):
                output.result(line)
    return 0 if connected else 1


def _row(node: dict[str, Any]) -> list[str]:
    """Every value is the site's word: anything may stand there."""
    roles, transports = node.get("roles"), node.get("transports")
    return [
        shown(str(node.get("identity", "?")), 16),
        "connected" if node.get("connected") is True else "away",
        shown(", ".join(map(str, roles)) if isinstance(roles, list) else "?"),
        shown(", ".join(map(str, transports)) if isinstance(transports, list) else "?"),
        f"{_time(node.get('age'))} ago",
        _time(node.get("expires_in")),
    ]


def _time(value: Any) -> str:
    return time_words(max(0, value)) if isinstance(value, int) else "?"
