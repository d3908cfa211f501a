"""The CPython shell: what a server or a command line needs around the core.

Does: supply sockets, disk, clock, settings, logs and the web site.
Does not: speak any protocol of the network; that is `convergence`.
"""

from importlib import metadata


def version() -> str:
    """Of this program, for people."""
    try:
        return metadata.version("convergence")
    except metadata.PackageNotFoundError:
        return "(not installed)"
