"""Log lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import make_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.codes import FetchStage, PathWhy, StorageWhy
from convergence.errors import Why
from convergence.events import Event, FetchStatus, ShareFailed, TransferInfo, Trouble
from pynode.logs import BUG_PAUSE, Bugs, Lines, log_event, setup


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, package = logging.getLogger(), logging.getLogger("pynode")
    before = root.handlers[:], root.level, package.level
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    package.setLevel(before[2])


def made(kind: str, **fields: Any) -> Event:
    """An event with any fields."""
    event = make_dataclass("Made", fields, bases=(Event,), namespace={"kind": kind}, frozen=True)(**fields)
    assert isinstance(event, Event)
    return event


def test_a_line_reads_well(stream: io.StringIO) -> None:
    setup("relay-1", stream=stream)
    log_event(
        made(
            "circuit_built", **{"hops": 2, "seconds": 0.123456789, "why": "two words", "empty": "", "roles": ("a", "b")}
        )
    )
    line = stream.getvalue()
    assert line.endswith('circuit built hops=2 seconds=0.123457 why="two words" empty="" roles=a,b\n')
    assert "info    relay-1  " in line


def test_failures_are_warnings_and_debug_is_quiet(stream: io.StringIO) -> None:
    setup("n", "warning", stream=stream)
    log_event(made("circuit_built"))
    log_event(made("circuit_failed"))
    logging.getLogger("pynode.websocket").debug("not shown")
    assert stream.getvalue().count("\n") == 1 and "warning n  circuit failed" in stream.getvalue()


def test_json_lines(stream: io.StringIO) -> None:
    setup("n", as_json=True, stream=stream)
    log_event(made("link_lost", **{"channel": 3, "psk": b"x" * 32, "node": "forged"}))
    entry = json.loads(stream.getvalue())
    assert entry.pop("time") > 0
    assert entry == {"level": "warning", "node": "n", "message": "link lost", "channel": 3, "psk": "***"}


def test_secrets_and_bytes_are_masked(stream: io.StringIO) -> None:
    setup("n", stream=stream)
    log_event(made("x", **{"hash_name": "deadbeef", "ntor_secret": 1, "blob": b"stream data"}))
    assert "deadbeef" not in stream.getvalue() and "hash_name=***" in stream.getvalue()
    assert 'blob="<11 bytes>"' in stream.getvalue()


def test_a_reason_is_a_code_with_its_values(stream: io.StringIO) -> None:
    setup("n", stream=stream)
    log_event(Trouble(Why(PathWhy.FEW_RELAYS, {"needed": 2, "known": 1}), retrying=True))
    assert stream.getvalue().endswith("warning n  trouble why=few-relays retrying=True needed=2 known=1\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_people_fetch_and_share_is_not_written(stream: io.StringIO, as_json: bool) -> None:
    setup("n", "debug", as_json=as_json, stream=stream)
    url = "http://user:TOKEN@TOKEN.example/TOKEN?key=TOKEN"
    log_event(FetchStatus(1, FetchStage.ASKING))
    log_event(made("fetch-response", **{"id": 1, "status": 200, "url": url, "host": "TOKEN.example"}))
    log_event(ShareFailed("TOKEN", Why(StorageWhy.SHARE, {"failure": "io", "detail": "broken"})))
    log_event(TransferInfo("ab12", "TOKEN.pdf", "text/plain", 5))
    log_event(made("share-ready", **{"id": "ab12", "link": "http://site/#TOKEN", "points": 3}))
    lines = stream.getvalue()
    assert lines.count("\n") == 5 and "status" in lines and "ab12" in lines
    assert "TOKEN" not in lines


def test_exceptions_are_shown_in_both_forms(stream: io.StringIO) -> None:
    for as_json in (False, True):
        setup("n", as_json=as_json, stream=stream)
        try:
            raise ZeroDivisionError("why")
        except ZeroDivisionError:
            logging.getLogger("pynode").exception("a bug")
    assert stream.getvalue().count("ZeroDivisionError: why") == 2


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match="none of debug"):
        setup("n", "loud")


@given(st.text(max_size=400), st.text(max_size=400))
def test_nothing_received_makes_a_second_line(message: str, value: str) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s", (message,), None)
    record.fields = {"name": value}
    line = Lines("n").format(record)
    assert line.isprintable() and len(line) < 4000


def test_a_bug_is_told_once_a_minute_by_its_place_and_not_by_its_text(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    bugs = Bugs(lambda: now)
    for _ in range(3):
        try:
            {}[b"what somebody sent"]  # type: ignore[index]
        except KeyError as error:
            bugs(error)
    assert len(caplog.records) == 1 and caplog.records[0].levelname == "ERROR"
    assert caplog.records[0].fields["type"] == "KeyError"  # type: ignore[attr-defined]
    record = vars(caplog.records[0])
    assert "test_logs.py:" in record["fields"]["at"] and "somebody" not in str(record)
    now = BUG_PAUSE
    bugs(RuntimeError("never raised"))
    bugs(RuntimeError("never raised"))
    assert len(caplog.records) == 2
