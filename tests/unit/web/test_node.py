"""web/api/node.js: what is refused before the worker is asked. Whole nodes: tests/browser/test_api.py."""

from __future__ import annotations

import pytest

from tests.unit.web.javascript import javascript

# No worker is started: the checks come before anything of a node is used.
SERVE = """
    const { serve } = node.Node.prototype;
    return serve.call({}, WHAT, HANDLER).catch(({ name, message }) => [name, message]);
"""


@pytest.mark.parametrize(
    ("what", "handler", "word"),
    [
        ('"hash:x"', "undefined", "function"),
        ('"hash:x"', "{}", "function"),
        ('{ secret: "x".repeat(32) }', "() => {}", "bytes"),
        ("{ secret: null }", "() => {}", "bytes"),
    ],
)
def test_what_cannot_be_served_is_a_type_error_at_once(what: str, handler: str, word: str) -> None:
    name, message = javascript(SERVE.replace("WHAT", what).replace("HANDLER", handler), None, node="api/node.js")
    assert name == "TypeError" and word in message


@pytest.mark.parametrize("patience", ["NaN", "-1", "Infinity", "'soon'", "{}"])
def test_a_patience_that_is_no_number_of_seconds_is_refused_in_words(patience: str) -> None:
    body = """
        const { connect } = node.Node.prototype;
        return connect.call({}, "hash:x", { patience: PATIENCE }).catch(({ name, message }) => [name, message]);
    """
    name, message = javascript(body.replace("PATIENCE", patience), None, node="api/node.js")
    assert name == "RangeError" and "seconds" in message
