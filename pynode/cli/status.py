"""`convergence status`: how a network is, as its facilitator sees it.

Does: /status.json as a table, or as it came.
Does not: ask the nodes themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import time
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
    facilitators = [one for one in answer.get("facilitators") or [] if isinstance(one, dict)]
    store = answer.get("store") if isinstance(answer.get("store"), dict) else None
    effort = answer["effort"] if isinstance(answer.get("effort"), int) else 0
    if output.as_json:
        more: dict[str, Any] = {"facilitators": facilitators, "store": store} if store is not None else {}
        if effort:
            more["effort"] = effort
        more |= {name: answer[name] for name in ("epoch", "draw", "drawn") if name in answer}
        output.record("status", site=site, facilitator=answer.get("facilitator"), nodes=nodes, **more)
    else:
        every = answer.get("registered")
        known = f"{len(nodes)} known nodes"
        if isinstance(every, int) and every > len(nodes):
            known = f"the first {len(nodes)} of {every} known nodes"
        output.result(f"{shown(site)}: {len(connected)} of {known} are connected.")
        if nodes:
            heading = [["node", "state", "roles", "address", "registered", "valid for"]]
            for line in table(heading + [_row(node) for node in nodes], output.width).split("\n"):
                output.result(line)
        if effort:
            output.result(f"Unusually many nodes join just now: each does about {effort} tries at a puzzle first.")
        for sentence in network_words(answer, time.time()):
            output.result(sentence)
        if store is not None:
            _show_facilitators(output, facilitators, store)
    return 0 if connected else 1


def _show_facilitators(output: Output, facilitators: list[dict[str, Any]], store: dict[str, Any]) -> None:
    """Those that share a store, the one that answered first."""
    state, trouble = (shown(str(store.get(name) or ""), 16) for name in ("state", "trouble"))
    words = {"slow": "is too slow", "full": "is full", "io": "cannot be used: the log of a facilitator says why"}
    output.result("")
    output.result(f"Their store {words.get(trouble, trouble) if trouble else 'works' if state == 'shared' else state}.")
    rows = [["facilitator", "nodes", "channels", "runs for", "version"]]
    for one in facilitators:
        since = one.get("since")
        running = _time(int(time.time()) - since) if isinstance(since, int) else "?"
        values = [
            one.get("name", "?"),
            one.get("nodes", "?"),
            one.get("channels", "?"),
            running,
            one.get("version", "?"),
        ]
        rows.append([shown(str(value), 64) for value in values])
    for line in table(rows, output.width).split("\n"):
        output.result(line)
    differ = max((abs(one["ahead"]) for one in facilitators if isinstance(one.get("ahead"), int)), default=0)
    if differ:
        output.result(f"Their clocks differ by {_time(differ)}: set them, or nodes of one are refused by the other.")


def network_words(answer: dict[str, Any], now: float) -> list[str]:
    """How nodes are told which nodes there are, and how the random value of the day was drawn; nothing of what the
    answer does not say."""
    epoch, drawn, draw = (answer.get(name) for name in ("epoch", "drawn", "draw"))
    words = []
    if isinstance(epoch, dict) and isinstance(epoch.get("number"), int) and isinstance(epoch.get("published"), int):
        age = _time(int(now) - epoch["published"])
        words.append(f"Nodes are told by header and buckets: epoch {epoch['number']}, signed {age} ago.")
    elif "epoch" in answer and epoch is None:
        words.append("Nodes are told by a list: the network is small.")
    if isinstance(drawn, dict):
        by, silent = _names(drawn.get("by")), _names(drawn.get("silent"))
        if len(by) > 1:
            words.append(f"Today's random value was drawn by {', '.join(by)} together, as this facilitator says.")
        elif by:
            words.append(f"Today's random value was drawn by {by[0]} alone, who knew it a day ahead.")
        else:
            words.append("Nobody drew today's random value: it could be known a day ahead.")
        if silent:
            words.append(f"{', '.join(silent)} had committed to a number for it, and did not tell it.")
    partners = [one for one in draw if isinstance(one, dict)] if isinstance(draw, list) else []
    missing = _names([one.get("facilitator") for one in partners if one.get("contributes") is not True])
    if partners and missing:
        words.append(f"The next draw misses what {', '.join(missing)} could have said by now.")
    elif partners:
        words.append("All others have said for the next draw what they could by now.")
    return words


def _names(values: Any) -> list[str]:
    return [shown(str(value), 16) for value in values[:16]] if isinstance(values, list) else []


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
