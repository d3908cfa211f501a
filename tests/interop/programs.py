"""Real programs for tests, and what they need: a port, a certificate, an eye on their memory.

Does: start servers and wait for what they say when they are ready; end each by its process id; be a certificate
authority for a day; measure the memory of processes.
Does not: know any one of the programs.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import select
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.processes import ENVIRONMENT, LOG, PATIENCE, remembered

SAMPLING = 0.02
"""Seconds between two looks at the memory of processes that come and go. The kernel keeps the peak in between."""


def free_port(address: str = "127.0.0.1") -> int:
    """One for a program that cannot ask the system itself. No other test is in this network namespace."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as asking:
        asking.bind((address, 0))
        port: int = asking.getsockname()[1]
    return port


class Server:
    """A program that runs until it is stopped. Its log is in the report of a test that fails."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        self.line = " ".join(map(str, command))
        self.log: deque[str] = deque(maxlen=LOG)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
        self._lines: Queue[str | None] = Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        remembered.append(self)

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.log.append(line.rstrip("\n"))
            self._lines.put(line)
        self._lines.put(None)

    def until(self, words: str) -> str:
        """The next line that has these words."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except Empty:
                raise AssertionError(f"{self.line}: no {words!r} in time; {list(self.log)}") from None
            assert line is not None, f"{self.line} ended without {words!r}: {list(self.log)}"
            if words in line:
                return line

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def serving(
    *command: str | Path, ready: str, env: Mapping[str, str] | None = None, ended_by: int = signal.SIGTERM
) -> Iterator[Server]:
    """A server that has said the words `ready`."""
    server = Server(*command, env=env)
    try:
        server.until(ready)
        yield server
    finally:
        server.stop(ended_by)


@contextlib.contextmanager
def child(
    command: Sequence[str | Path], *, patience: float = PATIENCE, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of which the test reads and writes what `options` of Popen make pipes. None is left behind.

    Args:
        patience: seconds after which it is killed, so that no test waits for it for ever.
    """
    process = subprocess.Popen(command, env=ENVIRONMENT, bufsize=0, **options)
    watch = threading.Timer(patience, process.kill)
    watch.daemon = True
    watch.start()
    try:
        yield process
    finally:
        watch.cancel()
        process.kill()  # nothing if it has ended and was waited for
        for end in (process.stdin, process.stdout, process.stderr):
            if end is not None:
                end.close()
        process.wait(PATIENCE)


def gone(pid: int) -> None:
    """Wait until a process that need not be our child has ended."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            assert select.select([handle], [], [], PATIENCE)[0], f"process {pid} still runs"
        finally:
            os.close(handle)


class Authority:
    """A certificate authority, good for a day; `file` is its certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"Authority {x509.random_serial_number():x}")
        made = self._builder(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self._signed(made))

    def certificate(self, *hosts: str) -> tuple[Path, Path]:
        """Files of a certificate for these names and addresses, and of its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        made = self._builder(_name(hosts[0]), key.public_key()).add_extension(names, critical=False)
        chain, secret = self._folder / f"{hosts[0]}.pem", self._folder / f"{hosts[0]}.key"
        chain.write_bytes(self._signed(made))
        plain = serialization.NoEncryption()
        secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        secret.chmod(0o600)
        return chain, secret

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        day = datetime.timedelta(days=1)
        return made.not_valid_before(now - day).not_valid_after(now + day)

    def _signed(self, made: x509.CertificateBuilder) -> bytes:
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Memory:
    """The most that each of some processes had resident, in bytes, measured while the block runs."""

    def __init__(self, *pids: int) -> None:
        self.peaks = dict.fromkeys(pids, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._look()
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLING):
            self._look()

    def _look(self) -> None:
        for pid in self.peaks:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                peak = next(line for line in lines if line.startswith("VmHWM:"))  # since the program began
                self.peaks[pid] = max(self.peaks[pid], int(peak.split()[1]) * 1024)

    def below(self, ceiling: int) -> bool:
        """Whether each was seen, and stayed below."""
        return all(0 < peak < ceiling for peak in self.peaks.values())


def need_root() -> None:
    """Skip a test of a program that has to become another user, where only our own can be had."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split()[2] == "1":
        pytest.skip("needs root, to run a server as another user")
