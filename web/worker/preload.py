"""All that is in a snapshot of Python's memory: what a node imports, and the browser's shell.

Does: import what touches no JavaScript; compile the rest of the shell, so that a start from the snapshot needs no
compiler.
Does not: run anything; whatever is made here would be the same after every start.
"""

import asyncio
import json
import sys
import time
import urllib.parse
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from zipimport import zipimporter

import files
import links
import page_pipes
import settings
import storage
import tor
import wordcodes

import convergence.driver
import convergence.node
import convergence.wire.filename

__all__ = [
    "asyncio",
    "convergence",
    "files",
    "json",
    "links",
    "page_pipes",
    "settings",
    "storage",
    "time",
    "tor",
    "urllib",
    "wordcodes",
]

TOUCH_JAVASCRIPT = ("crypto", "node_host", "tls", "transport")


class Compiled:
    """Finds and loads modules whose code it has."""

    def __init__(self, codes: dict[str, CodeType]) -> None:
        self._codes = codes

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in self._codes else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes the module."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self._codes[module.__name__], module.__dict__)


_archive = zipimporter(__spec__.loader.archive)
sys.meta_path.insert(0, Compiled({name: _archive.get_code(name) for name in TOUCH_JAVASCRIPT}))
