"""What the documentation of the API shows runs, and so does the example, against a whole network on loopback."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import convergence
from convergence.pipes.http import EndOfMessage, Response, server
from pynode.api.pipe import Pipe
from tests.unit.pynode.living import Living, living

ROOT = Path(__file__).parents[3]
LIMIT = 60  # seconds, only to end a hung test
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    """With the services that the examples connect to."""
    with living(tmp_path_factory.mktemp("network")) as network, convergence.join_sync(network.site, rtc=False) as node:

        async def echo(pipe: Pipe[bytes]) -> None:
            async for data in pipe:
                await pipe.write(data)

        async def greeter(pipe: Pipe[bytes]) -> None:
            await pipe.write(b"Hello, " + await pipe.readline())

        async def website(pipe: Pipe[bytes]) -> None:
            http = pipe.through(server(), convergence.gzip())
            async for part in http:
                if isinstance(part, EndOfMessage):
                    for answer in (Response((("content-length", "2"),), 200), b"ok", EndOfMessage()):
                        await http.write(answer)
                    return

        caller = node._running
        for name, handler in (("echo", echo), ("greeter", greeter), ("website", website)):
            caller.run(node._node.serve(f"hash:{name}", handler))
        yield network


async def echo(pipe: Pipe[bytes]) -> None:
    async for data in pipe:
        await pipe.write(data)


async def run_block(source: str, names: dict[str, Any]) -> None:
    """Blocks await at their top, as in a coroutine."""
    code = compile(source, "docs/api.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.isawaitable(result):
        await result


def names_for(network: Living, said: Callable[..., None]) -> dict[str, Any]:
    return {"convergence": convergence, "site": network.site, "echo": echo, "Path": Path, "print": said}


def heading(number: int) -> str:
    return str(BLOCKS[number]).strip().splitlines()[0][:40]


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=heading)
def test_each_example_runs(network: Living, number: int) -> None:
    said: list[str] = []

    def say(*words: Any, file: Any = None, **options: Any) -> None:
        if file is not None:
            print(*words, file=file, **options)
        else:
            said.append(" ".join(map(str, words)))

    source = BLOCKS[number].replace('"https://site.example/"', "site")
    names = names_for(network, say)
    if "join_sync" in source:
        exec(compile(source, "docs/api.md", "exec"), names)
    else:

        async def main() -> None:
            async with asyncio.timeout(LIMIT):
                await run_block(source, names)

        asyncio.run(main())
    assert said and all(said)


def test_the_page_has_examples_of_all_that_it_tells() -> None:
    text = "".join(BLOCKS)
    assert len(BLOCKS) >= 10
    calls = ("join", "join_sync", "serve", "connect", "open_connection", "through", "pipe", "new_secret", "know")
    assert [call for call in calls if f"{call}(" not in text] == []


def test_the_echo_of_fifteen_lines(network: Living) -> None:
    program = ROOT / "examples/echo.py"
    code = [line for line in program.read_text().splitlines() if line and not line.startswith(('"""', "import "))]
    assert len(code) <= 15
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'shared'}{os.pathsep}{ROOT}", "CONVERGENCE_SITE": network.site}
    source = program.read_text().replace("hash:echo", "hash:echo of the example")
    served = subprocess.Popen([sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None and "Serving hash:echo of the example" in served.stdout.readline()
        done = subprocess.run(
            [sys.executable, "-c", source, "hello", "there"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.stdout == "hello there\n", done.stderr
    finally:
        served.kill()
        served.communicate()
