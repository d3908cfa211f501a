"""`convergence serve`: what it tells programs of commands that do not start. Whole commands run in tests/interop."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from typing import cast

import pytest

from pynode.app import App
from pynode.cli.output import Output
from pynode.cli.service import _Commands
from tests.unit.pynode.test_local import FakeApp


def test_a_command_that_cannot_start_is_told_to_programs_and_takes_no_place() -> None:
    records = io.StringIO()
    arguments = argparse.Namespace(program=["/no/such/command"], most=1)

    async def main() -> None:
        commands = _Commands(cast(App, FakeApp()), Output(True, out=records), arguments)
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await commands.open()

    asyncio.run(main())
    told = [json.loads(line) for line in records.getvalue().splitlines()]
    assert [record["event"] for record in told] == ["failed", "failed"]
    assert "/no/such/command cannot be started" in told[0]["message"]
