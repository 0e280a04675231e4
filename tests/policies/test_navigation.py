"""Where a browser is sent: to a login only when it navigates, and back to a path of ours only."""

from __future__ import annotations

from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Challenge, Deny, Reason
from policies.navigation import LOGIN_PATH, MAX_RETURN_CHARS, login_location, read_return_to
from policies.problem import login_redirect
from policies.tables import ClientSpec, LoginSpec, TenantTable
from tests.fakes.identity import a_provider
from tests.fakes.tenancy import a_request, a_tenant

LOGIN = LoginSpec(ClientSpec("portero", "none", None), ("openid",), "login")
ACME = a_tenant(providers=(a_provider(), a_provider("https://id.other.example", name="other", login=LOGIN)))
WITHOUT = a_tenant(providers=(a_provider(),))
MISSING = Challenge(Reason.CREDENTIAL_MISSING, tenant="acme")
NAVIGATION = ((b"Sec-Fetch-Mode", b"navigate"), (b"Accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"))


def location(
    target: str, refusal: Challenge | Deny = MISSING, tenant: TenantTable | None = ACME, method: str = "GET"
) -> str | None:
    return login_location(a_request(target, *NAVIGATION, method=method), refusal, tenant)


def returned_to(target: str) -> str | None:
    """The path that the login is told to return to, as its page decodes it."""
    found = location(target)
    assert found is not None
    path, _, query = found.partition("?")
    assert path == LOGIN_PATH
    values = parse_qs(query, strict_parsing=True)["return_to"] if query else [None]
    assert len(values) == 1
    return values[0]


@pytest.mark.parametrize(
    "target",
    [
        "/reports/es",
        "/reports/",
        "/reports?country=es&year=2026",
        "/reports?next=https://evil.example/%0d%0a",
        "/reports?a=1+2%2B3",
        "/reports/%C3%A9/a;b=c",
        "/reports/100%25",
        "/.portero/whoami",
    ],
)
def test_a_navigation_goes_to_the_login_and_comes_back(target: str) -> None:
    """AP-R49: to the path and query that were asked for, to the letter, through one decoding."""
    assert returned_to(target) == target
    assert read_return_to(target) == target


@pytest.mark.parametrize("target", ["/", "/.portero/login", "/.portero/callback?code=x", "/" + "a" * MAX_RETURN_CHARS])
def test_some_pages_are_not_worth_coming_back_to(target: str) -> None:
    """The start page needs no mention; our own pages would run in a circle; what is too long is forgotten."""
    assert location(target) == LOGIN_PATH


@pytest.mark.parametrize("reason", Reason)
def test_only_who_is_not_logged_in_is_sent_to_the_login(reason: Reason) -> None:
    """A bad token and every 403 stay what they are: logging in again would not help, or run in a circle."""
    is_sent = reason in {Reason.CREDENTIAL_MISSING, Reason.SESSION_EXPIRED}
    assert (location("/reports", Challenge(reason)) is not None) is is_sent
    assert (location("/reports", Deny(reason)) is not None) is is_sent


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("POST", NAVIGATION),
        ("HEAD", NAVIGATION),
        ("GET", ()),
        ("GET", NAVIGATION[:1]),
        ("GET", NAVIGATION[1:]),
        ("GET", ((b"Sec-Fetch-Mode", b"cors"), NAVIGATION[1])),
        ("GET", ((b"Sec-Fetch-Mode", b"websocket"), NAVIGATION[1])),
        ("GET", (NAVIGATION[0], (b"Accept", b"application/json"))),
        ("GET", (NAVIGATION[0], (b"Accept", b"*/*"))),
    ],
)
def test_what_is_no_navigation_gets_its_401(method: str, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """AP-R49: fetch and curl would take the login page for the answer."""
    assert login_location(a_request("/reports", *fields, method=method), MISSING, ACME) is None


def test_where_nobody_can_log_in_nobody_is_sent() -> None:
    """A tenant without a login, and a host that is no tenant's."""
    assert location("/reports", tenant=WITHOUT) is None
    assert location("/reports", tenant=None) is None


def test_the_redirect_is_an_answer_of_its_own() -> None:
    """302, not to be kept, with the reason, and with nothing in it that could begin another field."""
    answer = login_redirect(MISSING, LOGIN_PATH + "?return_to=/a", "r1")
    assert (answer.status, answer.body, answer.reason) == (302, b"", Reason.CREDENTIAL_MISSING)
    assert dict(answer.fields) == {
        "Location": "/.portero/login?return_to=/a",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Portero-Reason": "credential-missing",
        "X-Request-Id": "r1",
    }
    hostile = dict(login_redirect(MISSING, "/a\r\nSet-Cookie: x", "r\r\n1").fields)
    assert (hostile["Location"], hostile["X-Request-Id"]) == ("/a??Set-Cookie: x", "r??1")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "reports", "//evil.example", "///evil.example", "/\\evil.example", "\\/evil.example", "/\\/evil"),
        *("https://evil.example", "https:evil.example", "javascript:alert(1)", "data:text/html,x", "?a", "#a", "/a#b"),
        *("/\t/evil.example", "/\n/evil.example", " /a", "/a ", "/a b", "/a\x00", "/é", "/\u2215evil", "/a\\b"),
        *("/%2f/evil.example", "/%2Fevil.example", "/%5cevil.example", "/%5C%5Cevil", "/%09/evil", "/%0d%0aX:1"),
        *(
            "/..//evil.example",
            "/./a",
            "/a/../b",
            "/%2e%2e//evil",
            "/a//b",
            "/;/evil",
            "/a/;/b",
            "/%c0%af/evil",
            "/%zz",
        ),
        *("/.portero", "/.portero/", "/.portero/login", "/.portero/callback", "/.portero/token", "/%2eportero/login"),
        *("/.portero/whoami/", "/.portero/result/1", "/" + "a" * MAX_RETURN_CHARS, "/?" + "a" * MAX_RETURN_CHARS),
    ],
)
def test_a_login_returns_to_no_such_place(text: str) -> None:
    """AP-R8, R41: not another host's in any reading, nothing that breaks a field, no circle (A7 has hundreds more)."""
    assert read_return_to(text) is None


HOSTILE = st.text(st.sampled_from("/\\.%25cfF;:@?#\t\n a-é\u2215ehttps"), max_size=24)


@given(st.one_of(HOSTILE, HOSTILE.map(lambda text: "/" + text), st.text(max_size=40)))
def test_whatever_is_returned_to_is_a_path_of_ours(text: str) -> None:
    """A browser on our host stays there; the path is canonical, safe in a field, and judged alike again."""
    found = read_return_to(text)
    if found is None:
        return
    assert found.startswith("/")
    assert found.isascii()
    assert found.isprintable()
    assert read_return_to(found) == found
    for base in ("https://acme.localhost/.portero/callback", "http://acme.localhost:8088/"):
        resolved, ours = urlsplit(urljoin(base, found)), urlsplit(base)
        assert (resolved.scheme, resolved.netloc) == (ours.scheme, ours.netloc)


@given(st.text(st.sampled_from("/ab.;%25E9?&=+#é\\ "), max_size=24))
def test_a_login_never_returns_to_what_was_not_asked(target: str) -> None:
    """Whatever was asked for, the login page reads back the canonical path and query, or nothing."""
    try:
        request = a_request("/" + target, *NAVIGATION)
    except TypeError:
        return  # refused before it is a request
    found = login_location(request, MISSING, ACME)
    assert found is not None
    asked = request.target.path if request.target.query is None else f"{request.target.path}?{request.target.query}"
    values = parse_qs(found.partition("?")[2], keep_blank_values=True).get("return_to", [])
    assert values in ([], [asked])
