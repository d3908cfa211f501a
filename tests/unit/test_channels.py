"""Every channel has one owner, from the request to the end; nothing is kept of it then."""

from convergence.channels import Channels, Owner
from convergence.effects import CloseLink, Connect, Protocol, Send


class Part:
    """Records what happens to its channels."""

    def __init__(self, calls, name):
        def record(what):
            return lambda *arguments: calls.append((name, what, *arguments))

        self.owner = Owner(record("opened"), record("data"), record("closed"), record("congested"))


def make():
    calls = []
    parts = {protocol: Part(calls, protocol.value).owner for protocol in Protocol}
    return Channels(parts), calls


def test_a_channel_that_was_asked_for_belongs_to_who_its_protocol_says():
    channels, calls = make()
    channels.note([Connect(1, Protocol.TCP, "host:80"), Connect(3, Protocol.LINK, "ws://a/"), Send(1, [])])
    channels.opened(3, Protocol.LINK, b"binding", 5.0)
    channels.data(3, b"cells", 6.0)
    channels.congested(1, True, 7.0)
    channels.closed(1, "refused", 8.0)
    assert calls == [
        ("link", "opened", 3, b"binding", 5.0),
        ("link", "data", 3, b"cells", 6.0),
        ("tcp", "congested", 1, True, 7.0),
        ("tcp", "closed", 1, "refused", 8.0),
    ]


def test_a_channel_that_others_open_has_an_owner_too():
    channels, calls = make()
    channels.opened(2, Protocol.LINK, None, 1.0)
    channels.data(2, b"cells", 2.0)
    assert [call[:3] for call in calls] == [("link", "opened", 2), ("link", "data", 2)]


def test_one_that_we_gave_up_before_it_opened_is_nobodys():
    channels, calls = make()
    channels.note([Connect(1, Protocol.LINK, "ws://a/"), CloseLink(1)])
    channels.opened(1, Protocol.LINK, b"binding", 1.0)
    channels.data(1, b"cells", 2.0)
    assert calls == [] and not channels._owner


def test_nothing_is_kept_of_a_channel_that_ended_on_either_side():
    channels, calls = make()
    channels.note([Connect(1, Protocol.TCP, "host:80"), Connect(3, Protocol.LINK, "ws://a/")])
    channels.note([CloseLink(1)])
    channels.closed(3, "gone", 1.0)
    calls.clear()
    for channel in (1, 3, 99):
        channels.data(channel, b"late", 2.0)
        channels.closed(channel, "again", 2.0)
        channels.congested(channel, True, 2.0)
    assert calls == [] and not channels._owner
