"""A facilitator on a shared store whose epochs last two seconds, and which can fail at the worst moment. A program.

    hasty.py FOLDER STORE MOMENT FUSE

Does: print a line `signed EPOCH HASH` before each header that it signs. Kill or stop itself at MOMENT, if the file FUSE
is there: whoever is the first to come to that moment deletes it.
Does not: anything else than a real one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

from convergence.netdir import headers

headers.EPOCH = 2  # before others take it from there

from convergence.facilitator import decisions, publisher, service, sharing  # noqa: E402
from convergence.facilitator.questions import Propose  # noqa: E402
from convergence.wire.buckets import EpochHeader  # noqa: E402
from pynode.config import Address  # noqa: E402
from pynode.facilitator_app import FacilitatorApp  # noqa: E402
from pynode.loop import run  # noqa: E402
from pynode.redis_address import parse_redis  # noqa: E402
from pynode.redis_store import RedisStore  # noqa: E402

decisions.PATIENCE, decisions.SETTLED, publisher.LEAD = 0.5, 0.2, 0.5
publisher.MIN_POINTS, sharing.BEAT, sharing.SILENT = 0, 0.2, 1.0
service.FacilitatorService.__init__.__kwdefaults__["list_up_to"] = 0


def main(folder: str, store: str, moment: str, fuse: str) -> int:
    def fail(at: str, with_signal: signal.Signals) -> None:
        if moment == at:
            try:
                os.unlink(fuse)
            except FileNotFoundError:
                return
            os.kill(os.getpid(), with_signal)

    sign, consult = EpochHeader.sign, RedisStore.consult

    def signing(header: EpochHeader, by: object) -> EpochHeader:
        print("signed", header.epoch, sha256(header.body()).hexdigest(), flush=True)
        fail("killed as it signs", signal.SIGKILL)
        return sign(header, by)  # type: ignore[arg-type]

    def consulting(self: RedisStore, question: object, reply: object) -> None:
        consult(self, question, reply)  # type: ignore[arg-type]
        if isinstance(question, Propose):
            fail("paused as it proposes", signal.SIGSTOP)
            fail("paused as it has proposed", signal.SIGUSR1)

    def stop_soon(loop: asyncio.AbstractEventLoop) -> None:
        """When the proposal has left, and before its answer is heard."""
        loop.call_soon(lambda: loop.call_soon(lambda: os.kill(os.getpid(), signal.SIGSTOP)))

    EpochHeader.sign, RedisStore.consult = signing, consulting  # type: ignore[method-assign, assignment]

    async def serve(stop: asyncio.Event) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, stop_soon, loop)
        app = FacilitatorApp(Path(folder), Address("127.0.0.1", 0), store=parse_redis(store))
        await app.start()
        print("port", app.port, flush=True)
        await stop.wait()
        await app.stop()
        return 0

    return run(serve)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
