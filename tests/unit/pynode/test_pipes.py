"""The pipes of this machine: sockets, commands, descriptors; each way with its end, its stops and its faults."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from convergence.errors import EndReason
from convergence.pipes.duplex import join
from pynode.pipes import HIGH_WATER, CommandPipe, SocketPipe, StdioPipe

NOW = 0.0
LIMIT = 60.0  # seconds: only to end a test that hangs
LARGE = bytes(range(256)) * 16384  # 4 MiB: more than all buffers on the way


class Driver:
    """Carries every input straight on."""

    def run(self, command):
        command(NOW)


class User:
    def __init__(self, pipe, greedy=True):
        self.pipe = pipe
        self.heard = bytearray()
        self.greedy = greedy
        self.code = None
        self.heard_end = asyncio.Event()
        self.over = asyncio.Event()
        self.came = asyncio.Event()
        self.room = asyncio.Event()
        pipe.handler = self

    def opened(self, now): ...

    def data(self, data, now):
        self.heard += data
        self.came.set()
        if self.greedy:
            self.pipe.consumed(len(data), now)

    def drained(self, now):
        self.room.set()

    def ended(self, now):
        self.heard_end.set()

    def aborted(self, code, now):
        self.code = code
        self.over.set()


def soon(what):
    return asyncio.wait_for(what, LIMIT)


async def sockets():
    """A SocketPipe, and the asyncio streams of a program that is connected to it."""
    pipes = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(
        lambda: SocketPipe(Driver(), pipes.put_nowait), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    pipe = await soon(pipes.get())
    server.close()
    return pipe, reader, writer


def run(loop, main):
    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        uvloop.run(main)
    else:
        asyncio.run(main)


loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@loops
def test_a_socket_carries_both_ways_and_each_ends_by_itself(loop):
    async def main():
        pipe, reader, writer = await sockets()
        user = User(pipe)
        writer.write(b"early")
        pipe.start()
        await soon(user.came.wait())
        writer.write_eof()
        await soon(user.heard_end.wait())
        assert user.heard == b"early" and not pipe.closed
        pipe.write(b"answer", NOW)
        pipe.end(NOW)
        assert await soon(reader.read()) == b"answer" and pipe.closed
        assert user.code is None
        writer.close()

    run(loop, main())


@loops
@pytest.mark.parametrize("end", ["half-close", "close", "reset"])
def test_what_a_program_does_before_there_is_a_handler_is_not_lost(loop, end):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near = socket.create_connection(listening.getsockname())
            far, _ = listening.accept()
        far.sendall(b"good-bye")
        if end == "half-close":
            far.shutdown(socket.SHUT_WR)
        else:
            if end == "reset":
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            far.close()
        near.setblocking(False)
        _, pipe = await asyncio.get_running_loop().create_connection(lambda: SocketPipe(Driver()), sock=near)
        for _ in range(20):  # whatever the loop hears of it by now
            await asyncio.sleep(0)
        user = User(pipe)
        pipe.start()
        if end == "reset":
            await soon(user.over.wait())
            assert user.code == EndReason.CONNRESET
        else:
            await soon(user.heard_end.wait())
            assert user.heard == b"good-bye" and user.code is None
            pipe.end(NOW)
        assert pipe.closed
        far.close()

    run(loop, main())


@loops
def test_a_command_that_ended_before_there_is_a_handler_is_heard(loop):
    async def main():
        exited = asyncio.Event()
        pipe = CommandPipe(Driver(), lambda code: exited.set())
        await pipe.launch(("sh", "-c", "echo output; exit 7"))
        await soon(exited.wait())
        user = User(pipe)
        pipe.start()
        await soon(user.over.wait())
        assert user.heard == b"output\n" and user.code == EndReason.MISC

    run(loop, main())


@loops
def test_nothing_is_read_before_start_and_no_more_than_is_consumed(loop):
    async def main():
        pipe, _, writer = await sockets()
        user = User(pipe, greedy=False)
        writer.write(LARGE)
        await asyncio.sleep(0)
        assert not user.heard
        pipe.start()
        await soon(user.came.wait())
        first = len(user.heard)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(user.heard) <= max(first, 2 * HIGH_WATER)
        user.greedy = True
        pipe.consumed(len(user.heard), NOW)
        writer.write_eof()
        await soon(user.heard_end.wait())
        assert user.heard == LARGE
        writer.close()

    run(loop, main())


@loops
def test_a_program_that_does_not_read_congests_the_pipe(loop):
    async def main():
        pipe, reader, writer = await sockets()
        user = User(pipe)
        pipe.start()
        sent = 0
        while not pipe.congested:
            pipe.write(LARGE[:65536], NOW)
            sent += 65536
            await asyncio.sleep(0)
            assert sent < 64 << 20
        while sent > 0:
            sent -= len(await soon(reader.read(65536)))
        await soon(user.room.wait())
        assert not pipe.congested
        writer.close()

    run(loop, main())


@loops
def test_a_socket_that_is_reset_is_told_by_its_code(loop):
    async def main():
        pipe, _, writer = await sockets()
        user = User(pipe)
        pipe.start()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()
        await soon(user.over.wait())
        assert user.code == EndReason.CONNRESET and pipe.closed

    run(loop, main())


@loops
def test_who_gives_up_with_a_code_resets_the_socket_after_what_was_written(loop):
    async def main():
        pipe, reader, writer = await sockets()
        User(pipe)
        pipe.start()
        pipe.write(b"last words", NOW)
        pipe.end(NOW, EndReason.MISC)
        assert pipe.closed
        assert await soon(reader.readexactly(10)) == b"last words"
        with pytest.raises(ConnectionResetError):
            await soon(reader.read())
        writer.close()

    run(loop, main())


async def command(*line):
    exits = []
    pipe = CommandPipe(Driver(), exits.append)
    await pipe.launch(line)
    return pipe, User(pipe), exits


@loops
def test_a_command_gets_what_is_written_and_its_end(loop):
    async def main():
        pipe, user, exits = await command("cat")
        pipe.start()
        for at in range(0, len(LARGE), 65536):
            pipe.write(LARGE[at : at + 65536], NOW)
            if pipe.congested:
                user.room.clear()
                await soon(user.room.wait())
        pipe.end(NOW)
        await soon(user.heard_end.wait())
        assert user.heard == LARGE and user.code is None and pipe.closed and exits in ([0], [])

    run(loop, main())


@loops
def test_a_command_that_fails_is_given_up_after_its_output(loop):
    async def main():
        pipe, user, exits = await command("sh", "-c", "echo output; exit 7")
        pipe.start()
        await soon(user.over.wait())
        assert user.heard == b"output\n" and user.code == EndReason.MISC and exits == [7]
        assert not user.heard_end.is_set()

    run(loop, main())


@loops
def test_a_command_that_reads_nothing_does_not_block_its_writer_for_ever(loop):
    async def main():
        pipe, user, _ = await command("sh", "-c", "exec 0<&-; sleep 0.1; echo done")
        pipe.start()
        while not pipe.congested and not user.heard_end.is_set():
            pipe.write(LARGE[:65536], NOW)
            await asyncio.sleep(0)
        await soon(user.heard_end.wait())
        assert user.heard == b"done\n" and not pipe.congested

    run(loop, main())


async def gone(pid):
    """The process has ended."""
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().split()[2] != "Z":
        await asyncio.sleep(0.01)


@loops
@pytest.mark.parametrize("then", ["wait", "exit 0"], ids=["it waits", "it has ended itself"])
def test_an_abort_ends_the_command_and_what_it_started(loop, then, tmp_path):
    async def main():
        told = tmp_path / "pid"
        pipe, user, exits = await command("sh", "-c", f"sleep 1000 & echo $! >{told}; echo up; {then}")
        pipe.start()
        await soon(user.came.wait())
        while then != "wait" and not exits:
            await asyncio.sleep(0.01)
        pipe.abort(EndReason.DONE, NOW)
        await soon(gone(int(told.read_text())))

    run(loop, main())


@loops
def test_a_command_that_ignores_sigterm_does_not_run_on(loop, monkeypatch):
    monkeypatch.setattr("pynode.pipes.KILL_GRACE", 0.1)

    async def main():
        exited = asyncio.Event()
        pipe = CommandPipe(Driver(), lambda code: exited.set())
        await pipe.launch(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done"])
        user = User(pipe)
        pipe.start()
        await soon(user.came.wait())
        pipe.abort(EndReason.DONE, NOW)
        await soon(exited.wait())

    run(loop, main())


def test_a_command_that_is_not_there_says_so():
    async def main():
        with pytest.raises(FileNotFoundError):
            await CommandPipe(Driver()).launch(["/no/such/command"])

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["pipes", "files"])
def test_descriptors_carry_files_and_pipes(kind, tmp_path):
    """`convergence pipe` between two sockets: what it reads from its input comes out of the far end, and back."""

    async def main():
        if kind == "files":
            (tmp_path / "in").write_bytes(LARGE)
            source, sink = os.open(tmp_path / "in", os.O_RDONLY), os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        else:
            source, give = os.pipe()
            take, sink = os.pipe()
        pipe, reader, writer = await sockets()
        local = StdioPipe(Driver(), source, sink)
        join(local, pipe)
        pipe.start()
        local.start()
        loop = asyncio.get_running_loop()
        if kind == "pipes":
            loop.run_in_executor(None, give_all, give)
            taken = loop.run_in_executor(None, take_all, take)
        assert await soon(reader.read()) == LARGE, "all of it, then its end"
        writer.write(LARGE[::-1])
        writer.write_eof()
        await soon(local.flushed.wait())
        if kind == "files":
            assert (tmp_path / "out").read_bytes() == LARGE[::-1]
        else:
            assert await soon(taken) == LARGE[::-1]
        writer.close()

    asyncio.run(main())


def give_all(descriptor):
    with open(descriptor, "wb") as file:
        file.write(LARGE)


def take_all(descriptor):
    with open(descriptor, "rb") as file:
        return file.read()


def test_a_reader_that_is_gone_is_told_as_a_reset():
    async def main():
        take, sink = os.pipe()
        source, _ = os.pipe()
        os.close(take)
        local = StdioPipe(Driver(), source, sink)
        user = User(local)
        local.start()
        local.write(b"into the void", NOW)
        await soon(user.over.wait())
        assert user.code == EndReason.CONNRESET and isinstance(local.failure, BrokenPipeError)

    asyncio.run(main())


def test_a_slow_sink_congests_and_then_drains():
    async def main():
        take, sink = os.pipe()
        source, _ = os.pipe()
        local = StdioPipe(Driver(), source, sink)
        user = User(local)
        local.start()
        while not local.congested:
            local.write(LARGE[:65536], NOW)
        loop = asyncio.get_running_loop()
        taken = loop.run_in_executor(None, take_all, take)
        await soon(user.room.wait())
        local.end(NOW)
        assert len(await soon(taken)) > HIGH_WATER
        await soon(local.flushed.wait())

    asyncio.run(main())


def test_a_command_that_was_over_before_it_had_a_handler_is_told_whole_and_in_order():
    """Also where the far end has ended meanwhile, and whoever waits looks whether the pipe is closed."""

    async def main():
        pipe = CommandPipe(Driver())
        exited = asyncio.Event()
        pipe._on_exit = lambda code: exited.set()
        await pipe.launch(["sh", "-c", "printf half; exit 7"])
        await soon(exited.wait())
        for _ in range(100):  # its output, and the end of that, have come
            await asyncio.sleep(0.001)
        assert not pipe.closed
        user = User(pipe)
        seen = []
        user.drained = lambda now: seen.append(pipe.closed)
        pipe.end(NOW)
        assert not pipe.closed, "nobody was told"
        pipe.start()
        await soon(user.over.wait())
        assert user.heard == b"half" and user.code == EndReason.MISC and pipe.closed
        assert not any(seen)

    asyncio.run(main())
