"""PostgreSQL with TLS through a forwarded port: psql verifies the server's name, up to the test's own root."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import MIB
from tests.interop import postgresql
from tests.interop.postgresql import PostgreSql
from tests.interop.programs import Authority
from tests.interop.ways import Way

ROWS = 10 * MIB // 32
"""Of 32 hexadecimal digits each: 10 MiB."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSql]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    with postgresql.folder() as folder, PostgreSql(folder, authority).running() as server:
        yield server


@pytest.fixture(scope="module")
def port(way: Way, server: PostgreSql) -> Iterator[int]:
    with way.to_port(server.port) as service, service.forward() as (_, port):
        yield port


def value(server: PostgreSql, port: int, sql: str, given: bytes = b"") -> str:
    done = server.psql(port, sql, given=given)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().strip()


def test_the_connection_is_encrypted_end_to_end(server: PostgreSql, port: int) -> None:
    sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert value(server, port, sql) == "t|TLSv1.3"


def test_a_result_of_10_mib_arrives(server: PostgreSql, port: int) -> None:
    sql = f"SELECT string_agg(md5(i::text), '' ORDER BY i) FROM generate_series(1, {ROWS}) AS i"
    result = value(server, port, sql)
    assert result == "".join(hashlib.md5(b"%d" % number).hexdigest() for number in range(1, ROWS + 1))


def test_rows_are_copied_in(server: PostgreSql, port: int) -> None:
    table = f"rows_{port}"  # the server is the same for each way
    value(server, port, f"CREATE TABLE {table} (id integer PRIMARY KEY, word text)")
    rows = "".join(f"{number}\t{hashlib.md5(b'%d' % number).hexdigest()}\n" for number in range(1, ROWS + 1))
    assert value(server, port, f"COPY {table} FROM STDIN", rows.encode()) == f"COPY {ROWS}"
    sql = f"SELECT count(*), count(*) FILTER (WHERE word = md5(id::text)) FROM {table}"
    assert value(server, port, sql) == f"{ROWS}|{ROWS}"


def test_a_server_of_another_name_or_root_is_refused(server: PostgreSql, port: int, tmp_path: Path) -> None:
    """psql checks: what lies between cannot be the server."""
    renamed = server.psql(port, "SELECT 1", host="other.example")
    assert renamed.returncode == 2 and b"does not match host name" in renamed.stderr
    stranger = server.psql(port, "SELECT 1", authority=Authority(tmp_path).file)
    assert stranger.returncode == 2 and b"certificate verify failed" in stranger.stderr
