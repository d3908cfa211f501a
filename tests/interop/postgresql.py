"""A PostgreSQL server on loopback, that takes TLS only, and its client.

Does: make a database cluster in a folder of its own, run the server as a user that is not root, which it refuses to be,
run psql.
Does not: touch a cluster of this machine.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.e2e.processes import ENVIRONMENT, PATIENCE
from tests.interop.programs import Authority, free_port, need_root, serving
from tests.namespace import program

HOST = "db.example"
"""The name in the server's certificate; there is no such host."""
USER = "tester"
PASSWORD = "only for this test"
ACCOUNTS = ("postgres", "nobody")
"""Who may run the server: the first of them that the machine has."""
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "ssl": "on",
    "ssl_cert_file": "server.pem",
    "ssl_key_file": "server.key",
    "fsync": "off",
    "max_connections": "20",
    "shared_buffers": "16MB",
}


class PostgreSql:
    """A server that runs at `port`; `authority` is the file of what signed its certificate."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        need_root()
        self.port = free_port()
        self.authority = authority.file
        self._account = next(pwd.getpwnam(name) for name in ACCOUNTS if _exists(name))
        self._data = folder / "data"
        password = folder / "password"
        password.write_text(PASSWORD)
        os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        os.chown(password, self._account.pw_uid, self._account.pw_gid)
        options = ["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=scram-sha-256", f"--username={USER}"]
        command = [*self._as_account(), program("initdb"), *options, f"--pwfile={password}", "-D", str(self._data)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        for source, name in zip(authority.certificate(HOST), ("server.pem", "server.key"), strict=True):
            shutil.copy(source, self._data / name)
            os.chown(self._data / name, self._account.pw_uid, self._account.pw_gid)
        (self._data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")

    @contextlib.contextmanager
    def running(self) -> Iterator[PostgreSql]:
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": self.port}.items()]
        command = [*self._as_account(), program("postgres"), "-D", str(self._data), *settings]
        # SIGINT: end now, whoever is connected.
        with serving(*command, ready="ready to accept connections", ended_by=signal.SIGINT):
            yield self

    def psql(
        self, port: int, sql: str, *, given: bytes = b"", host: str = HOST, authority: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command through the port `port` of loopback, as a server called `host`. Output: bare values."""
        wanted = {
            "host": host,
            "hostaddr": "127.0.0.1",
            "port": port,
            "user": USER,
            "dbname": "postgres",
            "sslmode": "verify-full",
            "sslrootcert": authority or self.authority,
            "connect_timeout": round(PATIENCE),
        }
        connection = " ".join(f"{name}='{value}'" for name, value in wanted.items())
        command = [program("psql"), "--no-psqlrc", "--no-align", "--tuples-only", "-d", connection, "-c", sql]
        env = {**ENVIRONMENT, "PGPASSWORD": PASSWORD}
        return subprocess.run(command, input=given, capture_output=True, env=env, timeout=PATIENCE, check=False)

    def _as_account(self) -> Sequence[str]:
        account = self._account
        return ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--")


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder that another user can reach; those of pytest are for its own."""
    with tempfile.TemporaryDirectory(prefix="convergence-postgresql-") as name:
        yield Path(name)
