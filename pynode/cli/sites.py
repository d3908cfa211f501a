"""What a command asks of a site over HTTP.

Does: find a site's network (/network.json) and its nodes' health (/status.json), or say plainly why not.
Does not: believe anything a site says beyond its shape.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from convergence.errors import ParseError
from convergence.tor.network import TorConfig
from convergence.wire.descriptor import check_ws_url
from pynode.app import Network
from pynode.cli.output import CliError, shown
from pynode.config import MAX_STUN, check_stun
from pynode.nodes import NodeFiles
from pynode.tornetwork import PUBLIC, TorNetworkError, read_network
from pynode.transports.dialling import network_reason

DEFAULT_SITE = "http://127.0.0.1:8000/"
"""Where `convergence up` puts the site when nothing else is said."""

TIMEOUT = 15.0
MAX_ANSWER = 8 << 20
"""/status.json lists up to 1,024 nodes."""


def chosen_site(option: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The site to use: the option, $CONVERGENCE_SITE or the default, with a slash at its end. Raises CliError."""
    return site_address(option or environ.get("CONVERGENCE_SITE") or DEFAULT_SITE)


def site_address(text: str) -> str:
    """`text` as an http or https address that ends in a slash. Raises CliError."""
    address = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and address.isprintable()
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or " " in address:
        message = f'"{shown(text)}" is no address of a site: it should look like https://site.example/'
        raise CliError(message, 2)
    return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/index.html').rstrip('/')}/"


async def network_of(arguments: argparse.Namespace) -> Network:
    """The network that --nodes or --site, or the default, leads to. With --tor there need be none besides Tor's.
    Raises CliError."""
    tor = _tor_of(arguments)
    if arguments.nodes is not None:
        return Network("", nodes=NodeFiles(Path(arguments.nodes)), tor=tor)
    if tor is not None and tor.directories and arguments.site is None:
        return Network("", tor=tor)
    return replace(await find_network(chosen_site(arguments.site)), tor=tor)


def _tor_of(arguments: argparse.Namespace) -> TorConfig | None:
    if not getattr(arguments, "tor", False):
        if getattr(arguments, "entry_node", False):
            raise CliError("--entry-node goes with --tor.", 2)
        return None
    tor = tor_network(arguments.tor_network)
    return replace(tor, directories=()) if arguments.entry_node else tor


def tor_network(file: str | Path | None) -> TorConfig:
    """The Tor network of a file; None: the public one. Raises CliError."""
    try:
        return read_network(Path(file) if file else PUBLIC)
    except TorNetworkError as error:
        raise CliError(f"{error}.", 2) from None


async def network_of_files(arguments: argparse.Namespace, site: str) -> Network:
    """The network that a site belongs to; with --tor, files are reached through the Tor network. Raises CliError."""
    tor = _tor_of(arguments)
    return replace(await find_network(site), tor=tor, tor_points=True)


async def find_network(site: str) -> Network:
    """The network that a site belongs to. Raises CliError."""
    return _network(site, await _get_json(site, "network.json"))


async def network_document(site: str) -> dict[str, Any]:
    """A site's network.json as another site may serve it: the facilitator's address with its host. Raises CliError."""
    answer = await _get_json(site, "network.json")
    network = _network(site, answer)
    assert network.identity is not None
    path = "http" + network.facilitator.removeprefix("ws")
    document: dict[str, Any] = {"facilitator": {"identity": network.identity.hex(), "path": path}}
    try:
        document["site"] = shown(str(answer.get("site", "Convergence")))
        if "rtc" in answer:
            document["rtc"] = {"stun": [check_stun(server) for server in answer["rtc"]["stun"][:MAX_STUN]]}
    except (KeyError, TypeError, ValueError):
        raise CliError(_not_a_site(site)) from None
    return document


def _network(site: str, answer: Mapping[str, Any]) -> Network:
    try:
        facilitator = answer["facilitator"]
        identity, path = bytes.fromhex(facilitator["identity"]), facilitator["path"]
        if not isinstance(path, str):  # urljoin takes null for ""
            raise TypeError
        url = urljoin(site, path)
        url = "ws" + url.removeprefix("http")
        check_ws_url(url)
        # A site with https must name a facilitator with TLS; a mirror without https may name one, too.
        if len(identity) != 32 or (urlsplit(site).scheme == "https" and not url.startswith("wss:")):
            raise ValueError
    except (KeyError, TypeError, ValueError, ParseError):
        raise CliError(_not_a_site(site)) from None
    return Network(url, identity, site)


async def find_status(site: str) -> dict[str, Any]:
    """The facilitator's view of its nodes. Raises CliError."""
    answer = await _get_json(site, "status.json")
    if not isinstance(answer.get("nodes"), list):
        raise CliError(_not_a_site(site))
    return answer


async def _get_json(site: str, name: str) -> dict[str, Any]:
    import aiohttp  # 17 MB, which a relay of the Tor network does without

    address = urljoin(site, name)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(address, allow_redirects=False) as response:
                if response.status != 200:
                    raise CliError(_not_a_site(site))
                data = await response.content.read(MAX_ANSWER)
                while more := await response.content.read(MAX_ANSWER):
                    data += more
                    if len(data) > MAX_ANSWER:
                        raise CliError(_not_a_site(site))
        answer = json.loads(data)
    except (aiohttp.ClientConnectorError, TimeoutError) as error:
        reason = network_reason(getattr(error, "os_error", error))
        raise CliError(
            f"{shown(site)} does not answer ({reason}): check the address and that the site is running"
            " (`convergence up` starts one on this machine), or name another site of the same network."
        ) from None
    except (aiohttp.ClientError, ValueError, RecursionError):
        raise CliError(_not_a_site(site)) from None
    if not isinstance(answer, dict):
        raise CliError(_not_a_site(site))
    return answer


def _not_a_site(site: str) -> str:
    return f"{shown(site)} is no Convergence site: check the address."
