"""Network namespaces: one of its own for the whole test process, and more beside it for a lab.

Does: move this process, before it has other threads, to where no packet leaves the machine but browsers still find an
address to offer; make further namespaces and run programs in them. Nothing stays behind: a namespace lives as long as a
process in it, or a file descriptor of ours.
Does not: need root where the system lets anybody make user namespaces; connect namespaces with each other
(tests/netlab.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from web.bundling.setup import find_program

ADDRESS = "10.99.0.1"
"""What browsers in the test process's own namespace offer as their host candidate."""

# A browser offers the address that its default route would use, so there has to be one; it leads nowhere. Who tries to
# go there, to a name server say, is told after some 30 ms and not after seconds.
NETWORK = f"""
link set lo up
link add nowhere type veth peer name nobody
link set nowhere up
link set nobody up
address add {ADDRESS}/24 dev nowhere
route add default via 10.99.0.2 dev nowhere
ntable change name arp_cache dev nowhere retrans 10
"""

_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_CLONE_NEWNET = 0x40000000
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_OURS = "/proc/thread-self/ns/net"
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter() -> str | None:
    """Move this process, and all that it starts from now on, into a private network namespace with NETWORK in it.

    To be called on the main thread while there is no other. For who is not root a user namespace comes with it, in
    which they are. Returns None, or why that is impossible: then nothing has changed.
    """
    if why := _rehearse():
        return why
    _isolate()
    return None


def program(name: str) -> str:
    """Path of a program, also of one that only root has in PATH. Raises FileNotFoundError."""
    if path := find_program(name):
        return path
    raise FileNotFoundError(f"{name} is not installed")


class Namespace:
    """A further network namespace, empty but for a loopback device that is up."""

    def __init__(self) -> None:
        with _returning():
            _call("unshare", _CLONE_NEWNET)
            self._handle = os.open(_OURS, os.O_RDONLY)
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        """What `ip link ... netns` and `nsenter --net` understand, in any process of this user."""
        return f"/proc/{os.getpid()}/fd/{self._handle}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is inside: its new sockets, threads and processes belong there, and stay."""
        with _returning():
            _call("setns", self._handle, _CLONE_NEWNET)
            yield

    def run(self, *command: str, given: str = "") -> str:
        """Run a command inside, with `given` as its input. Returns what it printed; AssertionError if it fails."""
        with self.entered():
            return _run(*command, given=given)

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` inside."""
        self.run("ip", "-batch", "-", given="\n".join(lines))

    def wrapper(self, folder: Path, executable: str) -> Path:
        """A program in `folder` that runs `executable` inside: for who starts it by a path, as Playwright does."""
        path = folder / f"{Path(executable).name}-in-{self._handle}"
        path.write_text(f'#!/bin/sh\nexec nsenter --net={self.path} {shlex.quote(executable)} "$@"\n')
        path.chmod(0o755)
        return path

    def close(self) -> None:
        os.close(self._handle)


def _rehearse() -> str:
    """Try it in a child. Returns what went wrong: a step may be refused when those before cannot be undone any more."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _isolate()
        except BaseException as error:
            os.write(writing, (str(error) or repr(error)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as report:
        why = report.read()
    os.waitpid(child, 0)
    return why


def _isolate() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNET)
    except PermissionError:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        # Gaining capabilities closed our /proc entry, in which others look for Namespace.path.
        _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)
    _run("ip", "-batch", "-", given=NETWORK)


def _run(name: str, *arguments: str, given: str) -> str:
    done = subprocess.run(
        [program(name), *arguments],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name} {shlex.join(arguments)}: {done.stdout.strip()}"
    return done.stdout


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    """Come back to this namespace afterwards."""
    here = os.open(_OURS, os.O_RDONLY)
    try:
        yield
    finally:
        _call("setns", here, _CLONE_NEWNET)
        os.close(here)


def _call(name: str, *arguments: int) -> None:
    """A system call of libc. Raises OSError."""
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
