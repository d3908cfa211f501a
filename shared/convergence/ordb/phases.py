"""The phases of a download, as a table.

Does: say which step follows which, and what ends each.
Does not: act; download.py does.
"""

from __future__ import annotations

from enum import Enum

from convergence.states import TIMEOUT, Table

STORAGE_TIMEOUT = 120.0  # seconds that one answer of storage may take; then the download pauses


class Phase(Enum):
    LOADING = "loading"  # reads what an earlier run left
    WAITING = "waiting"  # for the first source's INFO
    SAVING = "saving"  # the FileInfo
    SCANNING = "scanning"  # finds out which pieces are there
    RUNNING = "running"
    LISTING = "listing"  # the manifest's pieces are there; reads them
    READING = "reading"  # all pieces are there; reads those whose leaves are not known
    COMPLETING = "completing"  # saves the leaves
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


_ENDS = {"fail": Phase.FAILED, "stop": Phase.STOPPED}
_STORAGE = {"broken": Phase.PAUSED, TIMEOUT: Phase.PAUSED, **_ENDS}
TABLE = Table(
    "download",
    Phase.LOADING,
    {
        Phase.LOADING: {"found": Phase.SCANNING, "nothing": Phase.WAITING, **_STORAGE},
        Phase.WAITING: {"described": Phase.SAVING, **_ENDS},
        Phase.SAVING: {"saved": Phase.SCANNING, **_STORAGE},
        Phase.SCANNING: {"scanned": Phase.RUNNING, **_STORAGE},
        Phase.RUNNING: {
            "manifest here": Phase.LISTING,
            "all here": Phase.READING,
            "part here": Phase.DONE,
            "broken": Phase.PAUSED,
            **_ENDS,
        },
        Phase.LISTING: {"listed": Phase.RUNNING, "damaged": Phase.RUNNING, **_STORAGE},
        Phase.READING: {"read": Phase.COMPLETING, "damaged": Phase.RUNNING, **_STORAGE},
        Phase.COMPLETING: {"saved": Phase.DONE, **_STORAGE},
        Phase.PAUSED: {
            "retry loading": Phase.LOADING,
            "retry saving": Phase.SAVING,
            "retry scanning": Phase.SCANNING,
            "retry running": Phase.RUNNING,
            "retry listing": Phase.LISTING,
            "retry reading": Phase.READING,
            "retry completing": Phase.COMPLETING,
            **_ENDS,
        },
    },
    deadlines=dict.fromkeys(
        (Phase.LOADING, Phase.SAVING, Phase.SCANNING, Phase.LISTING, Phase.READING, Phase.COMPLETING), STORAGE_TIMEOUT
    ),
    standing={
        Phase.WAITING: "whoever finds sources gives up in the end (rdv/client.py)",
        Phase.RUNNING: "each source and each batch of pieces has a deadline; without sources it is WAITING",
        Phase.PAUSED: "a person retries or gives up",
    },
)
