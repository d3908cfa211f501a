"""The page has words for all that the core and its worker may say."""

from __future__ import annotations

import importlib.util
from typing import Any

from convergence.errors import Code
from tests.unit.pynode.test_words import ALL, VALUES
from tests.unit.web.javascript import WEB, javascript


def of_the_worker() -> list[Code]:
    spec = importlib.util.spec_from_file_location("reasons", WEB / "worker" / "reasons.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Code)]
    return [code for kind in kinds for code in kind]


def said(whys: list[Any]) -> list[str]:
    result = javascript("return argument.map((why) => messages.words(why));", whys, messages="ui/messages.js")
    assert isinstance(result, list)
    return result


def test_each_code_has_words() -> None:
    known = [*ALL, *of_the_worker()]
    values = {**VALUES, "size": 5_000_000, "left": 10, "name": "TypeError"}
    for code, text in zip(known, said([{**values, "code": code} for code in known]), strict=True):
        assert text == "" if code == "rtc-none" else len(text) > 5 and text != code, code
        assert not any(word in text for word in ("undefined", "NaN", "[object", "..")), text
    names = javascript("return Object.keys(messages.WORDS);", None, messages="ui/messages.js")
    assert sorted(names) == sorted(known), "no words without a code"


def test_what_is_not_known_is_shown_as_it_is() -> None:
    assert said([None, {"code": "from-a-version-to-come"}, {"code": "constructor"}]) == [
        "",
        "from-a-version-to-come",
        "constructor",
    ]


def test_values_are_put_into_words() -> None:
    few, flaw = said(
        [{"code": "few-relays", "needed": 2, "known": 1}, {"code": "fetch-bad-redirect", "flaw": "url-https"}]
    )
    assert "2 relays are needed, 1 are known" in few and "http://" in flaw
