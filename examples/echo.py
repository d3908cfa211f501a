"""An echo in fifteen lines. One terminal: `python echo.py`. Another: `python echo.py hello`."""

import asyncio
import sys

import convergence


async def echo(pipe: convergence.Pipe[bytes]) -> None:
    async for data in pipe:
        await pipe.write(data)


async def main(words: list[str]) -> None:
    async with convergence.join() as node:
        if not words:
            async with await node.serve("hash:echo", echo) as service:
                print(f"Serving {service.address}. Stop with Ctrl-C.", flush=True)
                await asyncio.Event().wait()
        async with await node.connect("hash:echo") as pipe:
            await pipe.write(" ".join(words).encode())
            pipe.end()
            print((await pipe.readall()).decode())


asyncio.run(main(sys.argv[1:]))
