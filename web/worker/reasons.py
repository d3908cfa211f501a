"""What this shell itself has to tell people, as codes like the core's.

Does: name it. web/ui/messages.js has the words.
"""

from __future__ import annotations

from convergence.errors import Code


class FileWhy(Code):
    """Why a file of this browser cannot be shared or saved."""

    UNREADABLE = "file-unreadable"
    CHANGED = "file-changed"
    NO_ROOM = "file-no-room"  # size, left: bytes
    NOT_STORED = "file-not-stored"  # detail: the browser's own words
    INCOMPLETE = "file-incomplete"  # detail
    NOT_HERE = "file-not-here"
    BODY_NOT_HERE = "body-not-here"


class HostWhy(Code):
    """What is wrong with the node itself."""

    DEFECT = "defect"  # name: of an exception's type


class TorWhy(Code):
    """What is wrong with the way into the Tor network, besides what the core says (PathWhy)."""

    NO_CODE = "tor-code"  # detail
    NOT_YET = "tor-not-yet"
    REFUSED = "tor-refused"  # document; detail: for developers
