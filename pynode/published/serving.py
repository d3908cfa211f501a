"""A mirror: the files of a manifest over HTTP, for pages of any origin.

Does: serve the verified files, at "/" or below another path, packed where there is a packed file; name the network
that it was given.
Does not: serve anything else in the folder, notice later changes there, or take part in a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from pynode.headers import BOOKMARK_PAGE, BOOKMARK_POLICY, HEADERS
from pynode.published.folder import BESIDE
from pynode.published.manifest import NETWORK, Manifest
from pynode.published.served import INDEX
from pynode.site import file_response

OPEN = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
"""Everything here is public: a bookmarklet on any page may read it."""


def mirror_app(
    folder: Path, manifest: Manifest, *, network: Mapping[str, Any] | None = None, path: str = "/"
) -> web.Application:
    """The mirror as an aiohttp application.

    Args:
        folder: has the files, which must have been compared with the manifest.
        network: what /network.json says; None for no such document.
        path: below which everything is served; it begins and ends with a slash.
    """
    index = {path + name: folder / name for name in (*manifest.files, *BESIDE)}
    if INDEX in manifest.files:
        index[path] = folder / INDEX

    async def file(request: web.Request) -> web.StreamResponse:
        if request.path + "/" == path:
            raise web.HTTPPermanentRedirect(path)
        found = index.get(request.path)
        if found is None or not found.is_file():
            raise web.HTTPNotFound(text="There is nothing here.\n")
        return file_response(found)

    async def network_json(request: web.Request) -> web.StreamResponse:
        return web.json_response(network, headers={"Cache-Control": "no-store"})

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update({**HEADERS, **OPEN})
        if request.path == path.removesuffix("/") + BOOKMARK_PAGE:
            response.headers["Content-Security-Policy"] = BOOKMARK_POLICY

    app = web.Application(client_max_size=1024)
    app.on_response_prepare.append(add_headers)
    if network is not None:
        app.router.add_get(path + NETWORK, network_json)
    app.router.add_get("/{path:.*}", file)
    return app
