"""Redis URLs: what they say, and what is wrong with a wrong one, never with its password."""

from __future__ import annotations

import pytest

from authproxy.limits.wire import RedisAddress, parse_redis_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", RedisAddress("localhost", 6379, None, False, None, None, 0)),
        ("redis://h:1/2", RedisAddress("h", 1, None, False, None, None, 2)),
        ("rediss://u:p%40@h", RedisAddress("h", 6379, None, True, "u", "p@", 0)),
        ("redis://:p@[::1]:7/", RedisAddress("::1", 7, None, False, None, "p", 0)),
        ("unix:///run/redis.sock", RedisAddress("", 6379, "/run/redis.sock", False, None, None, 0)),
        ("unix://u:p@/run/r%20s?db=4", RedisAddress("", 6379, "/run/r s", False, "u", "p", 4)),
    ],
)
def test_a_url_says_where_and_who(url: str, address: RedisAddress) -> None:
    """Host, port, socket, TLS, user, password and database."""
    assert parse_redis_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "redis:",
        "redis:///0",
        "unix://",
        "unix://host/run/redis.sock",
        "redis://:hunter2@h/x",
        "redis://:hunter2@h/0?ssl_cert_reqs=none",
        "redis://:hunter2@h:99999",
        "redis://:hunter2@h:port",
        "redis://:hunter2@h/-1",
        "redis://:hunter2@h/²",
        "redis://:hunter2@h/0?db",
        "",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    """Each mistake is a ValueError whose text may be shown."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        parse_redis_url(url)
    assert "hunter2" not in str(refused.value)


def test_an_address_does_not_show_its_password() -> None:
    """An address in a traceback or a log is harmless."""
    assert "hunter2" not in repr(parse_redis_url("redis://:hunter2@h"))
