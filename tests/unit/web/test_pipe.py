"""web/api/pipe.js against a worker's end that says one message after the other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.web.javascript import javascript

WINDOW = 1 << 18
CHUNK = 1 << 16

RIG = """
    Promise.withResolvers ??= () => { // which browsers have, and Node.js 20 has not
        const made = {};
        made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
        return made;
    };
    const { port1, port2: worker } = new MessageChannel();
    const stop = new AbortController();
    let overs = 0;
    const made = pipe.createPipe(port1, { signal: stop.signal, onOver: () => { overs += 1; } });
    const { pipe: { readable, writable, closed }, opened } = made;
    const heard = [];
    let more = null;
    worker.onmessage = ({ data }) => { heard.push(data); more?.(); };
    const hear = async (count) => {
        while (heard.length < count) await new Promise((resolve) => { more = resolve; });
        return heard.map(({ type, value }) => [type, value.byteLength ?? value]);
    };
    const say = (type, value = 0, why = null) => worker.postMessage({ type, value, why });
    const give = (text) => say("data", new TextEncoder().encode(text).buffer);
    const failure = (promise) => promise.then(() => null, ({ name, code, reason }) => [name, code, reason]);
    try { return await (async () => { %s })(); } finally { port1.close(); worker.close(); }
"""


def run(body: str, argument: Any = None) -> Any:
    return javascript(RIG % body, argument, pipe="api/pipe.js", errors="api/errors.js")


def test_a_large_chunk_goes_in_pieces_and_no_further_than_the_window() -> None:
    before, after, rest = run(
        """
        const written = writable.getWriter().write(new Uint8Array(argument));
        const before = [...(await hear(4))];
        say("took", 1);
        say("took", 65535);
        const after = (await hear(5)).length;
        say("took", 4 * 65536);
        await written;
        return [before, after, (await hear(6)).at(-1)];
        """,
        WINDOW + CHUNK + 5,
    )
    assert before == [["data", CHUNK]] * (WINDOW // CHUNK)
    assert after == 5 and rest == ["data", 5]


def test_credit_is_given_for_what_was_read() -> None:
    first, second = run("""
        give("one"); give("three"); say("end");
        const reader = readable.getReader();
        const one = new TextDecoder().decode((await reader.read()).value);
        const first = [one, ...(await hear(1))];
        const words = [];
        for (let part; !(part = await reader.read()).done; ) words.push(new TextDecoder().decode(part.value));
        return [first, [words, ...(await hear(2))]];
    """)
    assert first == ["one", ["took", 3]]
    assert second == [["three"], ["took", 3], ["took", 5]]


def test_a_reader_with_a_buffer_of_its_own_gets_the_end() -> None:
    assert run("""
        const reader = readable.getReader({ mode: "byob" });
        const asked = reader.read(new Uint8Array(10));
        give("abc");
        const { value } = await asked;
        const last = reader.read(new Uint8Array(10));
        say("end");
        return [new TextDecoder().decode(value), (await last).done];
    """) == ["abc", True]


def test_it_is_over_when_the_node_says_that_all_has_arrived() -> None:
    assert run("""
        say("open"); say("end");
        await opened;
        await writable.close();
        await readable.getReader().read();
        const before = overs;
        say("over");
        await closed;
        return [before, overs, await hear(1)];
    """) == [0, 1, [["end", 0]]]


def test_a_host_that_ends_both_ways_ends_a_write_that_waits() -> None:
    assert run(
        """
        const written = failure(writable.getWriter().write(new Uint8Array(argument)));
        await hear(4);
        say("end"); say("over");
        await closed;
        return [await written, (await readable.getReader().read()).done];
        """,
        2 * WINDOW,
    ) == [["ConvergenceError", "ended", 6], True]


def test_what_came_before_an_abort_is_read_first() -> None:
    words, read, write, end = run("""
        give("last words"); say("abort", 12);
        await failure(closed);
        const reader = readable.getReader();
        const words = new TextDecoder().decode((await reader.read()).value);
        return [words, await failure(reader.read()), await failure(writable.getWriter().write(new Uint8Array(1))),
            await failure(closed)];
    """)
    assert words == "last words"
    assert read == write == end == ["ConvergenceError", "ended", 12]


def test_a_refusal_before_it_opened_has_its_cause() -> None:
    assert run("""say("abort", 2, { code: "connect-nobody" }); return failure(opened)""") == [
        "ConvergenceError",
        "connect-nobody",
        2,
    ]


@pytest.mark.parametrize(
    "reason, number",
    [
        *(("11", 11), ("0", 1), ("256", 1), ("1.5", 1), ("'busy'", 1), ("undefined", 1)),
        ("new errors.ConvergenceError('mine', '', 7)", 7),
    ],
)
def test_the_far_end_hears_the_number_of_an_abort(reason: str, number: int) -> None:
    assert run(f"""
        await writable.abort({reason});
        const [said, read] = [await hear(1), await readable.getReader().read().then(() => "read", () => "failed")];
        return [said, read, overs];
    """) == [[["abort", number]], "failed", 1]


def test_an_abort_ends_a_write_that_waits() -> None:
    assert run(
        """
        const writer = writable.getWriter();
        const written = failure(writer.write(new Uint8Array(argument)));
        await hear(4);
        await writer.abort(new TypeError("mine"));
        return [(await written)[0], (await hear(5)).at(-1)];
        """,
        2 * WINDOW,
    ) == ["TypeError", ["abort", 1]]


def test_what_is_no_bytes_gives_the_pipe_up() -> None:
    assert run("""
        const failed = await failure(writable.getWriter().write("text"));
        return [failed[0], await hear(1), (await failure(closed))[0]];
    """) == ["TypeError", [["abort", 1]], "TypeError"]


@pytest.mark.parametrize("body", ["", "await readable.getReader().cancel();", "await readable.getReader().read();"])
def test_a_signal_gives_it_up(body: str) -> None:
    said, why, over = run(f"""
        const reading = (async () => {{ {body} }})();
        stop.abort();
        await failure(reading);
        return [await hear(1 + {int("cancel" in body)}), (await failure(closed))[0], overs];
    """)
    assert said[-1] == ["abort", 1] and (why, over) == ("AbortError", 1)


def test_a_reader_that_leaves_may_write_on() -> None:
    assert run("""
        give("unread");
        const reader = readable.getReader();
        const waiting = reader.read();
        await waiting;
        await reader.cancel();
        const writer = writable.getWriter();
        await writer.write(new Uint8Array(3));
        await writer.close();
        return hear(4);
    """) == [["took", 6], ["cancel", 0], ["data", 3], ["end", 0]]
