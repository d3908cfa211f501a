"""What a node says of itself: roles, ways, dates, and a signature."""

from convergence.announcement import Announcement
from convergence.crypto.keys import NodeKeys
from convergence.facilitator.client import LIFETIME, RTC_LIFETIME, STABLE_LIFETIME
from convergence.wire.target import Role
from tests.sim.world import SeededRng
from tests.unit.circuit.rig import CRYPTO, START

KEYS = NodeKeys.generate(CRYPTO, SeededRng("announcement"))
URL = "ws://node/"


def test_it_is_signed_and_says_how_the_node_is_reached():
    introducers = [bytes([number]) * 32 for number in range(2)]
    said = Announcement(CRYPTO, KEYS, Role.RELAY, urls=[URL], introducers=lambda now: introducers).describe(START)
    assert said.verify(CRYPTO.ed25519_verify) and said.identity == KEYS.identity and said.roles == Role.RELAY
    assert said.ws_url == URL and said.introducers == tuple(introducers)
    assert said.expires - said.published == LIFETIME


def test_a_node_without_an_address_is_listed_for_a_shorter_time():
    said = Announcement(CRYPTO, KEYS, Role.RELAY, introducers=lambda now: ()).describe(START)
    assert said.rtc and said.ws_url is None and said.expires - said.published == RTC_LIFETIME


def test_a_node_that_is_stable_says_for_hours_what_it_is_in_whichever_way_it_is_reached():
    for ways in ({"urls": [URL]}, {"introducers": lambda now: ()}):
        announcement = Announcement(CRYPTO, KEYS, Role.RELAY, **ways)
        said = announcement.describe(START, stable=True)
        assert said.expires - said.published == STABLE_LIFETIME
        said = announcement.describe(START)
        assert said.expires - said.published < STABLE_LIFETIME


def test_who_works_for_nobody_says_nothing_unless_others_think_that_it_does():
    paused = True
    announcement = Announcement(CRYPTO, KEYS, Role.RELAY, urls=[URL], paused=lambda: paused)
    assert announcement.describe(START) is None and announcement.roles == Role(0)
    paused = False
    assert announcement.describe(START).roles == Role.RELAY
    announcement.offered = Role(0)
    assert announcement.describe(START).roles == Role(0)


def test_of_two_of_one_second_the_later_counts():
    announcement = Announcement(CRYPTO, KEYS, Role.RELAY, urls=[URL])
    assert announcement.describe(START).published < announcement.describe(START).published


def test_the_way_to_the_tor_network_is_announced_only_while_there_is_one():
    announcement = Announcement(CRYPTO, KEYS, Role.RELAY | Role.TOR, urls=[URL])
    assert announcement.describe(START).roles == Role.RELAY
    announcement.withheld = Role(0)
    assert announcement.describe(START).roles == Role.RELAY | Role.TOR
