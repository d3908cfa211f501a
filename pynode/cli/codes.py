"""Word codes for the commands: `share --code` offers one for a link, `get` takes one in a link's place.

Does: print codes and what becomes of them; get the link of one.
Does not: know files.
"""

from __future__ import annotations

import asyncio

from convergence.codes import CodeWhy
from convergence.errors import Problem, Why
from convergence.handover.ask import PATIENCE, Ask
from convergence.handover.handover import MAX_AT_ONCE
from convergence.handover.offer import Offer
from convergence.wire.sharelink import ShareLink
from convergence.wire.wordcode import WordCode
from pynode.app import App
from pynode.cli.output import CliError, Output, shown
from pynode.cli.words import words

NOBODY = 3
"""Exit code when nobody offered a code for as long as `get` waited."""


def offer_code(app: App, output: Output, share_id: str, name: str, link: ShareLink) -> None:
    """Draw codes for a link, one after the other, and print them and what becomes of each."""

    def say(code: WordCode | None, why: Why | None) -> None:
        if code is not None:
            output.say(f"{shown(name)} can be had once, within the hour, by whoever you read this code to:")
            output.result(str(code))
            output.record("code", id=share_id, code=str(code))
        elif why is not None:
            output.say(f"{shown(name)}: {words(why)}")
            output.record("code-ended", id=share_id, why=why.code, message=words(why))

    def told(offer: Offer, now: float) -> None:
        asyncio.get_running_loop().call_soon(say, offer.code, offer.why)

    try:
        app.call(lambda now: app.node.handover.offer(link, told, now))
    except Problem as problem:
        say(None, problem.why)


def check_codes(files: int) -> None:
    """Raises CliError if there are more files than codes at once."""
    if files > MAX_AT_ONCE:
        raise CliError(f"{MAX_AT_ONCE} files can have a code at a time: pack some of them into an archive.", 2)


async def link_of_code(app: App, output: Output, code: WordCode, wait: int) -> ShareLink:
    """The link that somebody offers for a code. Raises CliError.

    Args:
        wait: seconds in which somebody is to offer it; 0: PATIENCE, which is the most.
    """
    over: asyncio.Future[ShareLink] = asyncio.get_running_loop().create_future()
    said: list[Why] = []

    def told(ask: Ask, now: float) -> None:
        if over.done():
            return
        if ask.link is not None:
            over.set_result(ask.link)
        elif ask.over and ask.why is not None:
            code = NOBODY if ask.why.code is CodeWhy.NOBODY else 1
            over.set_exception(CliError(words(ask.why), code))
        elif ask.why is not None and ask.why not in said:
            said.append(ask.why)
            output.say(f"{words(ask.why)} Waiting.")
            output.record("status", code=ask.why.code, message=words(ask.why))

    output.say(f"Looking for whoever offers code {code.number}.")
    patience = min(wait or PATIENCE, PATIENCE)
    ask = app.call(lambda now: app.node.handover.ask(code, told, now, patience))
    try:
        link = await over
    except asyncio.CancelledError:
        app.call(ask.end)
        raise
    output.say("The words were right.")
    return link
