"""Documents of dist/ that differ from those in web/: pages with their policy and the hashes of what they include, and
the bookmarklet.

Does: fill in what is stated elsewhere, or known only when the rest is built.
Does not: read or write files, or say what the policy of a page is (pynode/headers.py).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urljoin

# The characters that encodeURI keeps: none of them ends a link, and people can still read the text.
PLAIN_IN_ADDRESS = "-_.!~*'();/?:@&=+$,"

_INCLUDED = re.compile(r'<(?:link rel="stylesheet" href|script type="module" src)="([^"]+)"')
_POLICY_PLACE = "<!-- The build puts the policy of pynode/headers.py here, for sites that send no headers. -->"
_PLACE = re.compile(r"\{\{([A-Z]+)\}\}")


def with_policy(page: str, policy: str) -> str:
    """The page with its Content-Security-Policy. Raises ValueError: it has no place for one, or two."""
    before, after = page.split(_POLICY_PLACE)
    return f'{before}<meta http-equiv="Content-Security-Policy" content="{html.escape(policy, quote=False)}">{after}'


def with_integrity(page: str, files: Mapping[str, bytes]) -> str:
    """The page with the SHA-384 of each style sheet and script that it includes. Raises KeyError: no such file."""

    def pinned(match: re.Match[str]) -> str:
        digest = base64.b64encode(hashlib.sha384(files[match[1]]).digest()).decode()
        return f'{match[0]} integrity="sha384-{digest}"'

    return _INCLUDED.sub(pinned, page)


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with a value at each {{NAME}}. Raises KeyError for a name without one."""
    return _PLACE.sub(lambda match: values[match[1]], template)


def bookmarklet(
    document: str, loader: str, root: str, mirrors: Sequence[str], network: Mapping[str, Any] | None = None
) -> str:
    """The address that a bookmark holds: a string literal, so that evaluating it runs nothing in the page that it is
    clicked on. The browser puts the document in the page's place.

    Args:
        document: an HTML document with {{ROOT}}, {{MIRRORS}}, {{NETWORK}}, {{LINKS}} and, in a script, {{LOADER}}.
        loader: the program.
        root: the root hash, in hex.
        mirrors: addresses of folders, each ending in "/".
        network: a network.json, with the `url` that its paths are relative to; None: what the first mirror says.

    Raises:
        ValueError: the loader holds what would end the script that it is put into.
    """
    if re.search(r"</script|<!--", loader, re.IGNORECASE):
        raise ValueError("the loader holds the end of a script element, or a comment's begin")
    pages = [html.escape(urljoin(mirror, "open.html")) for mirror in mirrors]
    values = {
        "ROOT": root,
        "MIRRORS": json.dumps(list(mirrors)).replace("<", "\\u003c"),
        "NETWORK": json.dumps(network).replace("<", "\\u003c"),
        "LINKS": "".join(f'<li><a href="{page}">{page}</a></li>' for page in pages),
        "LOADER": loader.strip(),
    }
    return "javascript:" + quote(json.dumps(filled(document, values)), safe=PLAIN_IN_ADDRESS)
