from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convergence.errors import Problem
from convergence.wire.sharelink import MAX_TEXT, Found, ShareLink, find_link

LINK = ShareLink(bytes(range(32)), bytes(range(32, 64)))
BARE = LINK.format()
FULL = LINK.format("https://site.example")
SITE = "https://site.example/"


def test_links_come_back() -> None:
    assert len(BARE) == 87
    for text in (BARE, "#" + BARE, f"  {BARE}\n", LINK.format("https://site.example/"), LINK.format("http://[::1]:80")):
        assert ShareLink.parse(text) == LINK
    assert LINK.format("https://site.example/") == FULL


@pytest.mark.parametrize(
    ("text", "site"),
    [
        (FULL, SITE),
        (f"HTTPS://site.example/path?x=1#{BARE}", "HTTPS://site.example/path"),
        (f"<{FULL}>", SITE),
        (f"\N{LEFT DOUBLE QUOTATION MARK}{FULL}\N{RIGHT DOUBLE QUOTATION MARK}", SITE),
        (f"'{FULL}'", SITE),
        (f"[a file]({FULL})", SITE),
        (f"See {FULL}.", SITE),
        (f"(see {FULL})", SITE),
        (f"{FULL}, and more", SITE),
        (f"Here it is: {FULL}\nSee you\n", SITE),
        (f"Here it is:\n\n{FULL}\n\n{FULL}", SITE),
        (f"Link: {BARE} ({FULL})", SITE),
        (f"https://site.example/%23{BARE}", SITE),
        (f"https://site.example/%2523{BARE.replace('.', '%2E')}", SITE),
        (f"{FULL}?utm_source=mail&fbclid=x", SITE),
        (f"{FULL}&fbclid=x", SITE),
        (f"https://site.example/?utm_source=mail#{BARE}", SITE),
        (f"https://site.example/a/?q=a.b/c#{BARE}", f"{SITE}a/"),
        (FULL[:40] + "\u200b" + FULL[40:], SITE),
        (FULL[:40] + "\u00ad" + FULL[40:60] + "\ufeff" + FULL[60:], SITE),
        (FULL[:40] + "%E2%80%8B" + FULL[40:], SITE),
        (f"site.example/#{BARE}", "site.example/"),
        (f"localhost:8080/#{BARE}", "localhost:8080/"),
        (f"[::1]:8080/#{BARE}", "[::1]:8080/"),
        (f"http://127.0.0.1:8080/#{BARE}", "http://127.0.0.1:8080/"),
        (f"ftp://site.example/#{BARE}", ""),
        (BARE, ""),
        (f"#{BARE}", ""),
        (f"It is {BARE}!", ""),
        (f"{BARE}=", ""),
    ],
)
def test_what_is_around_a_link_does_no_harm(text: str, site: str) -> None:
    assert find_link(text) == Found(LINK, site)


@pytest.mark.parametrize("at", range(0, len(FULL), 3))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n> ", "\r\n> > ", "=\r\n", " \n | "])
def test_a_line_may_end_anywhere(at: int, end: str) -> None:
    found = find_link(f"> hello\n> {FULL[:at]}{end}{FULL[at:]}\n> bye")
    assert found.link == LINK
    assert found.site == SITE or (at < len(SITE) and SITE.endswith(found.site)), "or what is left of a torn name"


def test_two_links_are_one_too_many() -> None:
    other = ShareLink(bytes(32), bytes(32)).format()
    with pytest.raises(Problem, match="^link-several$"):
        find_link(f"{BARE}\n{other}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "link-none"),
        (" \n", "link-none"),
        ("\u200b", "link-none"),
        ("https://site/", "link-cut"),
        ("https://site/#", "link-half"),
        (BARE[:43], "link-half"),
        (BARE[:80], "link-part-short part=second"),
        (BARE[1:], "link-part-short part=first"),
        (BARE + "A", "link-part-long part=second"),
        (BARE + ".x", "link-part-long part=second"),
        (BARE[:-1] + "=", "link-part-long part=second"),
        (BARE[:-1] + "\N{LATIN SMALL LETTER E WITH ACUTE}", "link-part-long part=second"),
        (BARE[:-1] + "_", "link-part-altered part=second"),
    ],
)
def test_wrong_links_tell_a_person_what_is_wrong(text: str, hint: str) -> None:
    with pytest.raises(Problem, match=f"^{hint}$") as caught:
        ShareLink.parse(text)
    assert BARE[:20] not in str(caught.value)


@given(st.text(max_size=300), st.text(max_size=300))
def test_text_around_a_link_never_makes_another_one_of_it(before: str, after: str) -> None:
    try:
        found = find_link(f"{before} {FULL} {after}")
    except Problem as problem:
        assert problem.why.code == "link-several"
    else:
        assert found.link == LINK


@pytest.mark.parametrize(
    "text", [" " * MAX_TEXT, "a" * MAX_TEXT, "=\n" * MAX_TEXT, ("a" * 43 + ".") * 9000, "a\n" * MAX_TEXT]
)
def test_long_texts_end(text: str) -> None:
    with pytest.raises(Problem):
        find_link(text)


def test_a_link_does_not_show() -> None:
    assert BARE[:43] not in repr(LINK) + repr(find_link(FULL))
