"""Another version at the site: what the page shows of it, what it takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from pynode.published.log import Head, Log, release_line
from pynode.published.minisign import SecretKey
from pynode.published.release import Release, comment
from pynode.published.words import root_words
from tests.browser.changing import STARTED, ChangingSite, Publisher, Version
from tests.browser.harness import CONFIG, limited_storage, pinned, stop_workers
from tests.browser.hostile import flipped

KEYS = [SecretKey.generate() for _ in range(3)]
SAY = """async (message) => {
    const { port1, port2 } = new MessageChannel();
    const answered = new Promise((resolve) => {
        port1.onmessage = ({ data }) => ["taken", "progress"].includes(data.type) || resolve(data);
    });
    navigator.serviceWorker.controller.postMessage(message, [port2]);
    return answered;
}"""
"""What the service worker answers to a message."""
CHOSEN = f"async (wanted) => (await ({SAY})({{ type: 'status' }})).value.automatic === wanted"
MARK = "async () => (await (await fetch('icon.svg')).text()).match(/<!-- (\\S+)/)[1]"
SOON = 60_000  # ms


@pytest.fixture
def site() -> Iterator[ChangingSite]:
    site = ChangingSite()
    yield site
    site.stop()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context()
    yield context
    context.close()


@pytest.fixture
def publisher() -> Publisher:
    return Publisher(KEYS, 2)


def runs(page: Page, version: Version) -> None:
    """Wait until the page shows that version, and check that its files are what is served."""
    expect(page.get_by_test_id("code")).to_have_attribute("data-root", version.root, timeout=SOON)
    expect(page.get_by_test_id("status")).to_have_text(STARTED)
    assert page.evaluate(MARK) == version.manifest.version


def first_visit(context: BrowserContext, site: ChangingSite, version: Version) -> Page:
    site.serve(version.served())
    page = context.new_page()
    page.goto(site.address)
    pinned(page)
    runs(page, version)
    return page


def offered(page: Page, site: ChangingSite, version: Version) -> None:
    """The site has that version; the page is loaded again and shows what it says of it."""
    site.serve(version.served())
    page.reload()
    expect(page.get_by_test_id("offer")).to_contain_text(version.manifest.version)
    expect(page.get_by_test_id("offer")).to_contain_text(root_words(version.root))


def automatic(page: Page) -> None:
    page.get_by_test_id("code-summary").click()
    page.get_by_test_id("code-automatic").check()


def test_another_version_is_shown_and_waits_for_a_yes(context: BrowserContext, site: ChangingSite) -> None:
    unsigned = Publisher()
    old, new = unsigned.version("0.1.0"), unsigned.version("0.2.0", other_worker=True)
    page = first_visit(context, site, old)
    page.get_by_test_id("code-summary").click()
    expect(page.get_by_test_id("code-automatic")).to_be_hidden()
    offered(page, site, new)
    expect(page.get_by_test_id("offer-standing")).to_contain_text("no signatures came with it")
    runs(page, old)
    page.get_by_test_id("offer-keep").click()
    expect(page.get_by_test_id("offer")).to_contain_text("You kept yours.")
    page.reload()
    expect(page.get_by_test_id("offer")).to_contain_text("You kept yours.")
    expect(page.get_by_test_id("offer-keep")).to_have_count(0)
    runs(page, old)
    other_tab = context.new_page()
    other_tab.goto(site.address)
    expect(other_tab.get_by_test_id("code")).to_have_attribute("data-root", old.root)
    page.get_by_test_id("offer-use").click()
    expect(page.get_by_test_id("code")).to_have_attribute("data-root", new.root, timeout=SOON)
    expect(other_tab.get_by_test_id("code")).to_have_attribute("data-root", new.root, timeout=SOON)
    other_tab.close()
    site.stop()
    page.reload()
    runs(page, new)
    site.start()


def test_firefox_switches_too(firefox: Browser, site: ChangingSite) -> None:
    context = firefox.new_context(**CONFIG.context_options("firefox"))
    old, new = Publisher().version("0.1.0"), Publisher().version("0.2.0", other_worker=True)
    page = first_visit(context, site, old)
    offered(page, site, new)
    page.get_by_test_id("offer-use").click()
    runs(page, new)
    site.stop()
    page.reload()
    runs(page, new)
    site.start()
    context.close()


def test_a_version_with_a_wrong_file_is_not_taken(context: BrowserContext, site: ChangingSite) -> None:
    old, new = Publisher().version("0.1.0"), Publisher().version("0.2.0")
    page = first_visit(context, site, old)
    site.serve(new.served() | {"icon.svg": flipped(new.files["icon.svg"])})
    page.reload()
    page.get_by_test_id("offer-use").click()
    expect(page.get_by_test_id("offer-note")).to_contain_text("Nothing was changed.")
    expect(page.get_by_test_id("offer-note")).to_contain_text("icon.svg")
    runs(page, old)
    site.serve(new.served())
    page.get_by_test_id("offer-use").click()
    runs(page, new)


def test_a_choice_made_after_the_worker_was_ended_keeps_what_is_pinned(
    context: BrowserContext, site: ChangingSite, publisher: Publisher
) -> None:
    old, new = publisher.release(publisher.version("0.1.0")), publisher.version("0.2.0")
    page = first_visit(context, site, old)
    offered(page, site, new)
    stop_workers(page)
    page.get_by_test_id("offer-keep").click()
    expect(page.get_by_test_id("offer")).to_contain_text("You kept yours.")
    for wanted in (True, False):
        stop_workers(page)
        page.get_by_test_id("code-summary").click()
        page.get_by_test_id("code-automatic").set_checked(wanted)
        page.wait_for_function(CHOSEN, arg=wanted)  # it is written: a worker may be ended before
        stop_workers(page)
        page.reload()
        runs(page, old)
        assert page.evaluate(SAY, {"type": "status"})["value"]["automatic"] is wanted
        expect(page.get_by_test_id("offer")).to_contain_text("You kept yours.")


def test_two_tabs_that_take_the_same_version_at_once_leave_it_whole(
    context: BrowserContext, site: ChangingSite
) -> None:
    """One of them is slow, and finds no room when the other one has switched already."""
    old, new = Publisher().version("0.1.0"), Publisher().version("0.2.0")
    page = first_visit(context, site, old)
    slow = context.new_page()
    slow.goto(site.address)
    site.serve(new.served())
    held = site.hold("icon.svg")
    slow.evaluate(f"message => {{ ({SAY})(message); }}", {"type": "accept", "root": new.root})
    assert held.asked.wait(SOON / 1000)
    assert page.evaluate(SAY, {"type": "accept", "root": new.root})["type"] == "done"
    assert page.evaluate(SAY, {"type": "switch", "root": new.root})["type"] == "done"
    runs(page, new)
    with limited_storage(page, site.address, 1):
        held.go.set()
        runs(slow, new)
        page.wait_for_timeout(1000)  # for what the first one might still do
    stop_workers(page)
    site.stop()
    page.reload()
    runs(page, new)
    site.start()


def test_messages_to_a_worker_that_keeps_nothing_pin_nothing(context: BrowserContext, site: ChangingSite) -> None:
    version = Publisher().version("0.1.0")
    page = first_visit(context, site, version)
    page.evaluate("async () => { for (const name of await caches.keys()) await caches.delete(name); }")
    stop_workers(page)
    root = "0" * 64
    for message in (
        {"type": "decline", "root": root},
        {"type": "automatic", "on": True},
        {"type": "accept", "root": root},
    ):
        assert page.evaluate(SAY, message)["type"] == "refused"
        stop_workers(page)
    page.reload()
    runs(page, version)
    expect(page.get_by_test_id("code")).to_have_attribute("data-from", "first")


def test_a_version_that_is_offered_while_the_first_one_is_being_kept_takes_its_place_wholly(
    context: BrowserContext, site: ChangingSite
) -> None:
    """The first one's node is slow to start: until it runs, or for ten seconds, its files are not written."""
    old, new = Publisher().version("0.1.0", slow=True), Publisher().version("0.2.0")
    site.serve(old.served())
    page = context.new_page()
    page.goto(site.address)
    expect(page.get_by_test_id("code")).to_have_attribute("data-phase", "writing")
    site.serve(new.served())
    assert page.evaluate(SAY, {"type": "accept", "root": new.root})["type"] == "done"
    assert page.evaluate(SAY, {"type": "switch", "root": new.root})["type"] == "done"
    runs(page, new)
    stop_workers(page)
    site.stop()
    page.reload()
    runs(page, new)
    site.start()


def test_without_room_to_remember_the_switch_the_old_version_stays_whole(
    context: BrowserContext, site: ChangingSite
) -> None:
    old, new = Publisher().version("0.1.0"), Publisher().version("0.2.0")
    page = first_visit(context, site, old)
    site.serve(new.served())
    assert page.evaluate(SAY, {"type": "accept", "root": new.root})["type"] == "done"
    with limited_storage(page, site.address, 1):
        answer = page.evaluate(SAY, {"type": "switch", "root": new.root})
        assert answer["type"] == "refused" and "no room" in answer["message"]
    stop_workers(page)
    page.reload()
    runs(page, old)


def test_without_room_for_another_version_nothing_changes(context: BrowserContext, site: ChangingSite) -> None:
    old, new = Publisher().version("0.1.0"), Publisher().version("0.2.0")
    page = first_visit(context, site, old)
    offered(page, site, new)
    with limited_storage(page, site.address, 1):
        page.get_by_test_id("offer-use").click()
        expect(page.get_by_test_id("offer-note")).to_contain_text("This browser has no room for that.")
        runs(page, old)
        page.reload()
        runs(page, old)
    page.get_by_test_id("offer-use").click()
    runs(page, new)


def no_release(version: Version, log: Log) -> None:
    version.records = {}


def no_log(version: Version, log: Log) -> None:
    del version.records["releases.txt"]


def one_signature(version: Version, log: Log) -> None:
    release = Release.parse(version.records["release.json"])
    version.records["release.json"] = replace(release, signatures=release.signatures[:1]).encode()


def one_twice(version: Version, log: Log) -> None:
    release = Release.parse(version.records["release.json"])
    version.records["release.json"] = replace(release, signatures=release.signatures[:1] * 2).encode()


def wrong_keys(version: Version, log: Log) -> None:
    release = Release.parse(version.records["release.json"])
    others = [SecretKey.generate().sign(version.manifest.encode(), comment(log.head())) for _ in range(3)]
    version.records["release.json"] = replace(release, signatures=tuple(one.encode() for one in others)).encode()


def other_head(version: Version, log: Log) -> None:
    release = Release.parse(version.records["release.json"])
    others = [key.sign(version.manifest.encode(), comment(Head(2, bytes(32)))) for key in KEYS]
    version.records["release.json"] = replace(release, signatures=tuple(one.encode() for one in others)).encode()


def changed_log(version: Version, log: Log) -> None:
    version.records["releases.txt"] = log.encode().replace(b"0.1.0", b"0.1.1")


def rewritten_log(version: Version, log: Log) -> None:
    """All keys signed a log that no longer has the first version."""
    publisher = Publisher(KEYS, 2)
    publisher.log = Log().with_release("0.0.9", "0" * 64)
    publisher.release(version)


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (no_release, "no signatures came with it"),
        (no_log, "no release log came with it"),
        (one_signature, "1 of the 2 keys needed have signed it"),
        (one_twice, "1 of the 2 keys needed have signed it"),
        (wrong_keys, "0 of the 2 keys needed have signed it"),
        (other_head, "0 of the 2 keys needed have signed it"),
        (changed_log, "the release log is not the one that was signed"),
        (rewritten_log, "the release log contradicts the one seen before"),
    ],
)
def test_what_is_not_properly_signed_never_comes_by_itself(
    context: BrowserContext,
    site: ChangingSite,
    publisher: Publisher,
    forge: Callable[[Version, Log], None],
    words: str,
) -> None:
    old = publisher.release(publisher.version("0.1.0"))
    page = first_visit(context, site, old)
    automatic(page)
    new = publisher.release(publisher.version("0.2.0"))
    forge(new, publisher.log)
    offered(page, site, new)
    expect(page.get_by_test_id("offer-standing")).to_contain_text(words)
    expect(page.get_by_test_id("offer-use")).to_be_enabled()
    runs(page, old)


def test_enough_signatures_are_said_so_and_wait_unless_told_otherwise(
    context: BrowserContext, site: ChangingSite, publisher: Publisher
) -> None:
    old = publisher.release(publisher.version("0.1.0"))
    page = first_visit(context, site, old)
    new = publisher.release(publisher.version("0.2.0", other_worker=True), KEYS[1:])
    offered(page, site, new)
    expect(page.get_by_test_id("offer-standing")).to_have_text(
        "Signed by 2 of 3 keys (2 needed), in the release log at line 2, and the log is consistent."
    )
    runs(page, old)
    automatic(page)
    page.reload()
    runs(page, new)
    # Older than what runs: by its version, and by its line in the log although it calls itself newer.
    site.serve(old.served())
    page.reload()
    expect(page.get_by_test_id("offer")).to_contain_text("Refused: the site offers the older version 0.1.0")
    expect(page.get_by_test_id("offer").get_by_role("button")).to_have_count(0)
    runs(page, new)


def test_keys_that_the_old_ones_signed_take_over(
    context: BrowserContext, site: ChangingSite, publisher: Publisher
) -> None:
    old = publisher.release(publisher.version("0.1.0"))
    page = first_visit(context, site, old)
    automatic(page)
    publisher.keys, publisher.threshold = [SecretKey.generate(), SecretKey.generate()], 1
    rotated = publisher.release(publisher.version("0.2.0"), KEYS[:2])
    site.serve(rotated.served())
    page.reload()
    runs(page, rotated)
    log = publisher.log
    by_old = publisher.release(publisher.version("0.3.0"), KEYS)
    offered(page, site, by_old)
    expect(page.get_by_test_id("offer-standing")).to_contain_text("0 of the 1 keys needed have signed it")
    publisher.log = log
    by_young = publisher.release(publisher.version("0.3.0", mark="by the new keys"), publisher.keys[:1])
    site.serve(by_young.served())
    page.reload()
    runs(page, by_young)


def test_a_signed_version_that_was_not_taken_makes_older_ones_a_roll_back(
    context: BrowserContext, site: ChangingSite, publisher: Publisher
) -> None:
    first, second, third = (publisher.release(publisher.version(number)) for number in ("0.1.0", "0.2.0", "0.3.0"))
    for version in (first, second):
        version.records["releases.txt"] = publisher.log.encode()
    page = first_visit(context, site, first)
    offered(page, site, third)
    expect(page.get_by_test_id("offer-use")).to_be_enabled()
    site.serve(second.served())
    page.reload()
    expect(page.get_by_test_id("offer")).to_contain_text("Refused: the site offers the older version 0.2.0")
    expect(page.get_by_test_id("offer").get_by_role("button")).to_have_count(0)


def test_a_version_that_calls_itself_newer_than_its_line_in_the_log_is_a_roll_back(
    context: BrowserContext, site: ChangingSite, publisher: Publisher
) -> None:
    """The keys' holders keep no rule of the log, which their own program would not break."""
    high, low = publisher.release(publisher.version("9.0.0")), publisher.version("0.1.0")
    publisher.log = Log((*publisher.log.lines, release_line("0.1.0", low.root)))
    publisher.release(low)
    page = first_visit(context, site, low)
    high.records["releases.txt"] = publisher.log.encode()
    site.serve(high.served())
    page.reload()
    expect(page.get_by_test_id("offer")).to_contain_text("Refused: the site offers the older version 9.0.0")
    expect(page.get_by_test_id("offer").get_by_role("button")).to_have_count(0)


def test_a_list_of_files_that_is_none_is_refused(context: BrowserContext, site: ChangingSite) -> None:
    old = Publisher().version("0.1.0")
    page = first_visit(context, site, old)
    for manifest in (b"{}", b"<!doctype html>", b" " * 300_000):
        site.serve({**old.files, "manifest.json": manifest})
        page.reload()
        words = "the list of files" if len(manifest) < 300 else "What you have goes on."
        if len(manifest) < 300:
            expect(page.get_by_test_id("offer")).to_contain_text(words, ignore_case=True)
        expect(page.get_by_test_id("offer").get_by_role("button")).to_have_count(0)
        runs(page, old)


def test_a_worker_replaced_under_its_own_name_is_called_an_attack(context: BrowserContext, site: ChangingSite) -> None:
    old = Publisher().version("0.1.0")
    page = first_visit(context, site, old)
    [worker] = [name for name in old.files if name.startswith("sw-")]
    site.serve(old.served() | {worker: old.files[worker] + b"\n// replaced\n"})
    page.evaluate("navigator.serviceWorker.getRegistration().then((registration) => registration.update())")
    expect(page.get_by_test_id("error")).to_contain_text("This site tries to replace the program that keeps its code")
    expect(page.get_by_test_id("error")).to_contain_text("bookmarklet")
    expect(page.get_by_test_id("status")).to_have_text(STARTED)
