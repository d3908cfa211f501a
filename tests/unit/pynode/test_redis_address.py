import pytest

from pynode.config import ConfigError, parse
from pynode.redis_address import ALLOWED, RedisAddress, parse_redis

ONE = (("store.example", 6379),)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("redis://store.example", RedisAddress(ONE)),
        ("redis://store.example:7000/3", RedisAddress((("store.example", 7000),), db=3)),
        ("redis://[2001:db8::1]:7000", RedisAddress((("2001:db8::1", 7000),))),
        (
            "rediss://me:p%40ss%3A@store.example?ca=/etc/ca.pem&prefix=test",
            RedisAddress(ONE, tls=True, username="me", password="p@ss:", ca="/etc/ca.pem", prefix="test"),
        ),
        ("redis://:secret@store.example", RedisAddress(ONE, password="secret")),
        ("unix:///run/redis/redis.sock", RedisAddress((), "/run/redis/redis.sock")),
        ("unix:///run/redis.sock?db=2&prefix=a", RedisAddress((), "/run/redis.sock", db=2, prefix="a")),
        (
            "redis+sentinel://one.example,two.example:7000/ours/1",
            RedisAddress((("one.example", 26379), ("two.example", 7000)), kind="sentinel", service="ours", db=1),
        ),
        (
            "rediss+cluster://one.example,two.example",
            RedisAddress((("one.example", 6379), ("two.example", 6379)), kind="cluster", tls=True),
        ),
    ],
)
def test_addresses(text, address):
    assert parse_redis(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "store.example",
            "http://store.example",
            "redis://",
            "redis://store.example:0",
            "redis://store.example/x",
        ),
        *("redis://one.example,two.example", "redis://store.example/1/2", "redis://store.example/-1"),
        *("redis://store.example?db=1", "redis://store.example?color=red", "redis://store.example?prefix=a%20b"),
        *("redis://me@store.example", "redis://store.example#x", "redis+mirror://store.example"),
        *("unix://store.example/path", "unix:path", "unix:///path?ca=/x", "unix:///path?db=x"),
        *("redis+sentinel://one.example", "redis+cluster://one.example/1", "redis+sentinel:///ours"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is(text):
    with pytest.raises(ValueError) as caught:
        parse_redis(text)
    assert str(caught.value) == ALLOWED


def test_no_secret_is_shown():
    address = parse_redis("redis://me:secret@store.example")
    assert "secret" not in f"{address} {address!r}"
    assert str(parse_redis("redis+sentinel://one.example,[2001:db8::1]/ours")) == (
        "one.example:26379,[2001:db8::1]:26379/ours"
    )


def test_it_is_a_setting():
    address = parse('[facilitator]\nstore = "redis://store.example"').facilitator.store
    assert address == RedisAddress(ONE)
    with pytest.raises(ConfigError, match="line 2: facilitator.store must be"):
        parse('[facilitator]\nstore = "redis://:secret"')
