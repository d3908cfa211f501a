"""web/code/pin.js: questions to the service worker, with a worker made for it and timers that are set by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.web.javascript import WEB, javascript

# A page with a worker: `pings` says which run of it takes the question and then, for each question whether it lives,
# which one answers; null for none. The last one goes on. What `ask` then came to, and after how many seconds.
ASK = """
    const { mock } = await import("node:test");
    mock.timers.enable({ apis: ["setInterval"] });
    let now = 0;
    performance.now = () => now;
    const { pings, answer, at } = argument;
    let [question, questions, run] = [null, 0, null];
    const next = () => (run = pings.length > 1 ? pings.shift() : pings[0]);
    const controller = {
        scriptURL: "https://site.example/sw-0123456789abcdef.js",
        postMessage({ type }, [port]) {
            if (type !== "status") {
                [question, questions] = [port, questions + 1];
                if (questions === 1) next();
                port.postMessage({ type: "taken", worker: run });
                return;
            }
            if (!next()) return;
            port.postMessage({ type: "taken", worker: run });
            port.postMessage({ type: "done", value: {} });
        },
    };
    globalThis.document = { baseURI: "https://site.example/" };
    Object.defineProperty(globalThis, "navigator", { value: { serviceWorker: { controller } }, configurable: true });
    const pin = await import(PIN);
    let came = null;
    pin.ask("install", { manifest: 1 }).then(
        (value) => { came = { value, seconds: now / 1000, questions }; },
        (error) => { came = { error: error.name, message: error.message, seconds: now / 1000, questions }; },
    );
    const turns = async () => { for (let turn = 0; turn < 5; turn++) await new Promise((done) => setImmediate(done)); };
    await turns();
    while (!came && now < 600_000) {
        now += 10_000;
        mock.timers.tick(10_000);
        if (answer && now === at * 1000) question.postMessage(answer);
        await turns();
    }
    setTimeout(() => process.exit(), 50); // open ports would keep it from ending
    return came;
"""


def asked(pings: list[str | None], answer: dict[str, Any] | None = None, at: int = 0) -> dict[str, Any] | None:
    """What became of a question that is answered `at` seconds after it was asked."""
    body = ASK.replace("PIN", repr((WEB / "code/pin.js").as_uri()))
    result: dict[str, Any] | None = javascript(body, {"pings": pings, "answer": answer, "at": at})
    return result


def test_an_answer_may_take_as_long_as_the_worker_lives() -> None:
    done = {"type": "done", "value": 7}
    assert asked(["a"], done, at=400) == {"value": 7, "seconds": 400, "questions": 1}
    assert asked(["a", None, None, None, None, "a"], done, at=90) == {"value": 7, "seconds": 90, "questions": 1}


def test_a_worker_that_says_nothing_for_a_minute_is_given_up() -> None:
    came = asked(["a", "a", None])
    assert came and came["error"] == "Error" and came["seconds"] == 80
    assert "does not answer. Reload the page" in came["message"]


def test_a_worker_that_was_ended_in_between_is_asked_again() -> None:
    done = {"type": "done", "value": 7}
    assert asked(["a", "a", "b", "c"], done, at=90) == {"value": 7, "seconds": 90, "questions": 3}


def test_a_worker_that_is_ended_again_and_again_is_given_up() -> None:
    came = asked(["a", "a", "b", "c", "d", "e"])
    assert came and came["error"] == "Error" and (came["seconds"], came["questions"]) == (50, 4)
    assert "again and again before it was done. Reload the page" in came["message"]


@pytest.mark.parametrize(("type", "error"), [("refused", "Refused"), ("failed", "Error")])
def test_what_must_not_run_and_what_went_wrong_are_told_apart(type: str, error: str) -> None:
    came = asked(["a"], {"type": type, "message": "why"}, at=10)
    assert came == {"error": error, "message": "why", "seconds": 10, "questions": 1}
