"""Which addresses of a caller's are taken for a callback."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.callbacks.target import MAX_URL_CHARS, Target, is_listed, read_target

LISTED = frozenset({"hooks.example", "*.cb.example", "xn--mnchen-3ya.example", "1.1.1.1", "[2606:4700::1111]"})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "hooks.example"})


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://hooks.example", "https://hooks.example/"),
        ("https://hooks.example/", "https://hooks.example/"),
        ("HTTPS://Hooks.Example./a/b", "https://hooks.example/a/b"),
        ("https://hooks.example:443/a?b=c&d=%20", "https://hooks.example/a?b=c&d=%20"),
        ("https://hooks.example?x", "https://hooks.example/?x"),
        ("https://a.cb.example/", "https://a.cb.example/"),
        ("https://b.a.cb.example/", "https://b.a.cb.example/"),
        ("https://xn--mnchen-3ya.example/", "https://xn--mnchen-3ya.example/"),
        ("https://1.1.1.1./x", "https://1.1.1.1/x"),
        ("https://[2606:4700:0::1111]/x", "https://[2606:4700::1111]/x"),
        ("https://hooks.example/..%2f../a//b", "https://hooks.example/..%2f../a//b"),
    ],
)
def test_an_https_url_of_a_listed_host_is_taken(text: str, url: str) -> None:
    """In the one spelling that was judged: it is that one which is dialled."""
    target = read_target(text, LISTED)
    assert isinstance(target, Target)
    assert target.url == url


REFUSED = r"""
x //hooks.example/ /hook https:/hooks.example/ https:hooks.example https:// http://hooks.example/ ftp://hooks.example/
file:///etc/passwd gopher://hooks.example/_x data:,x javascript:x unix:///run/x.sock https+unix://hooks.example/
https://other.example/ https://cb.example/ https://acb.example/ https://.cb.example/ https://hooks.example.evil.example/
https://evil.example/hooks.example https://user@hooks.example/ https://u:p@hooks.example/ https://@hooks.example/
https://hooks.example@evil.example/ https://evil.example@hooks.example/ https://evil.example#@hooks.example/
https://hooks.example\@evil.example/ https://evil.example\.hooks.example/ https:\\hooks.example/
https://hooks.example:80/ https://hooks.example:8443/ https://hooks.example:22/ https://hooks.example:/
https://hooks.example:0443/ https://hooks.example:-443/ https://hooks.example:443:443/ https://hooks.example:99999/
https://hooks.example:443@evil/ https://hooks.example../ https://hooks..example/ https://hooks.example%2eevil.example/
https://hooks%2eexample/ https://hooks.example%00.evil.example/ https://hooks.example%0d%0a/ https://hooks.example/#x
https://hooks.example/?# https://hooks.example/%zz https://hooks.example/% https://hooks.example/" https://hooks.example/^
https://hooks.example/<x> https://hooks.example/{x} https://hooks.example/\x https://hooks.example/[x]
https://hooks.example/é https://hooks.examplé/ https://münchen.example/ https://xn--.example/ https://xn--hooks-.example/
https://16843009/ https://0x01010101/ https://01.1.1.1/ https://1.1.257/ https://1.1.1/ https://0x1.1.1.1/
https://[::ffff:1.1.1.1]/ https://[2606:4700::1111%25lo]/ https://2606:4700::1111/ https://[2606:4700::1111/
https://[]/ https://[hooks.example]/
""".split()  # noqa: SIM905  # as a list it would be three pages


@pytest.mark.parametrize(
    "text",
    [
        *REFUSED,
        *(
            "",
            " https://hooks.example/",
            "https://hooks.example/ x",
            "https://hooks.example/\t",
            "https://hooks.example/\n",
        ),
        *("https://hooks.example/\0", "https://hooks.example/\r\nX-Evil: 1", "https://\uff48ooks.example/"),
        "https://hooks.example/" + "x" * MAX_URL_CHARS,
    ],
    ids=lambda text: repr(text)[:60],
)
def test_anything_else_is_refused(text: str) -> None:
    """Each is a way that some parser takes for another host, port or request than another parser does."""
    why = read_target(text, LISTED)
    assert isinstance(why, str)
    assert why.startswith("X-Callback-Url ")
    assert "hooks" not in why


@pytest.mark.parametrize("text", ["http://127.0.0.1:8080/x", "http://localhost:1/x", "http://[::1]:65535/x"])
def test_plain_http_is_for_the_demo_on_loopback(text: str) -> None:
    """On any port of a listed host, and only where the setting says so."""
    assert isinstance(read_target(text, LOOPBACK), str)
    target = read_target(text, LOOPBACK, allow_loopback_http=True)
    assert isinstance(target, Target)
    assert (target.url, target.is_tls) == (text, False)


@pytest.mark.parametrize(
    "text", ["http://hooks.example/", "http://127.0.0.2/", "http://2130706433/", "http://127.1/", "http://[::]/"]
)
def test_plain_http_leads_nowhere_else(text: str) -> None:
    """The demo's leave is for loopback and for listed hosts, both."""
    assert isinstance(read_target(text, LOOPBACK, allow_loopback_http=True), str)


@pytest.mark.parametrize(
    ("host", "listed", "is_expected"),
    [
        ("a.b.example", {"*.b.example"}, True),
        ("a.a.b.example", {"*.b.example"}, True),
        ("b.example", {"*.b.example"}, False),
        ("ab.example", {"*.b.example"}, False),
        ("b.example", {"b.example"}, True),
        ("a.b.example", {"b.example"}, False),
        ("1.2.3.4", {"*.2.3.4", "*.3.4", "*.4"}, False),
        ("[::1]", {"*.1]"}, False),
        ("a.example", set(), False),
        ("a", {"*.", "*"}, False),
    ],
)
def test_a_wildcard_lists_what_stands_under_a_name(host: str, listed: set[str], is_expected: bool) -> None:
    """One label or more, never the name itself, never an address."""
    assert is_listed(host, frozenset(listed)) is is_expected


def test_an_address_shows_no_path() -> None:
    """Paths of web hooks are what lets the sender in."""
    target = read_target("https://hooks.example/services/T0/secret?token=secret", LISTED)
    assert isinstance(target, Target)
    assert "secret" not in repr(target)


@given(st.text(max_size=80) | st.from_regex(r"https://[ -~]{0,40}", fullmatch=True))
def test_reading_never_raises(text: str) -> None:
    """Hostile text gives a refusal, or a target whose host is listed."""
    target = read_target(text, LISTED)
    if isinstance(target, Target):
        assert target.port == 443
        assert is_listed(target.host, LISTED)
