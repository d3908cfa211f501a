"""web/code/network.js: which documents say where a network is. Whoever gives another one is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.web.javascript import javascript

READ = """
    try {
        return network.readNetwork(new TextEncoder().encode(argument));
    } catch (error) {
        if (!(error instanceof manifest.Refused)) throw error;
        return error.message;
    }
"""
FACILITATOR = '"facilitator":{"identity":"' + "aB" * 32 + '","path":"/facilitator"}'


def read(text: str) -> Any:
    return javascript(READ, text, network="code/network.js", manifest="code/manifest.js")


@pytest.mark.parametrize(
    "more", ["", ',"site":"A name","rtc":{"stun":[]}', ',"rtc":{"stun":["stun:a.example"]},"new":1']
)
def test_a_description_is_read(more: str) -> None:
    found = read(f"{{{FACILITATOR}{more}}}")
    assert found["facilitator"] == {"identity": "aB" * 32, "path": "/facilitator"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "5", "[]", "{}", '"x"', "{", "<!doctype html><title>For sale</title>", "\ufffd"),
        *('{"facilitator":null}', '{"facilitator":"x"}', '{"facilitator":{"identity":"00","path":"/"}}'),
        '{"facilitator":{"identity":["' + "00" * 32 + '"],"path":"/"}}',
        '{"facilitator":{"identity":"' + "00" * 32 + '"}}',
        *(f'{{{FACILITATOR},"rtc":{rtc}}}' for rtc in ("null", "{}", "5", '{"stun":"stun:a.example"}', '{"stun":[5]}')),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert read(text) == "it gave something else"
