"""Whose page may make a browser use a session: the cross-origin rule, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Deny, Reason
from policies.origin import refuse_cross_origin
from policies.request import AccessRequest
from tests.fakes.tenancy import a_request

APP = "https://app.acme.example"
OURS = "https://acme.localhost"
LISTED = frozenset({APP})
CHANGING = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]


def asked(
    method: str = "POST",
    *,
    origin: str | None = None,
    site: str | None = None,
    port: int | None = None,
    scheme: str = "https",
    is_websocket: bool = False,
) -> AccessRequest:
    """A request as ``read_head`` would have made it, with what matters here set to any value."""
    request = a_request("/reports", scheme=scheme)
    return request._replace(method=method, origin=origin, fetch_site=site, port=port, is_websocket=is_websocket)


def is_refused(request: AccessRequest, listed: frozenset[str] = frozenset()) -> bool:
    refusal = refuse_cross_origin(request, "acme", listed)
    if refusal is not None:
        assert isinstance(refusal, Deny)
        assert (refusal.reason, refusal.tenant) == (Reason.ORIGIN_REFUSED, "acme")
    return refusal is not None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", None])
def test_reading_is_not_asked_about(method: str, site: str | None) -> None:
    """A page of another origin cannot read the answer; only what changes something is guarded here."""
    assert not is_refused(asked(method, origin="https://evil.example", site=site))


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    ("origin", "site", "is_allowed"),
    [
        (None, "same-origin", True),
        (None, "none", True),
        (OURS, None, True),
        (OURS, "same-origin", True),
        (OURS, "cross-site", True),
        (APP, "cross-site", True),
        (APP, None, True),
        (None, None, False),
        (None, "cross-site", False),
        (None, "same-site", False),
        (None, "", False),
        (None, "Same-Origin", False),
        (None, "same-origin, none", False),
        ("null", None, False),
        ("null", "cross-site", False),
        ("", None, False),
        ("https://evil.example", None, False),
        ("https://evil.example", "same-site", False),
        ("https://www.acme.localhost", "same-site", False),
        (OURS + ".evil.example", None, False),
        (OURS + ":8443", None, False),
        (OURS + "/", None, False),
        (OURS.upper(), None, False),
        ("http://acme.localhost", None, False),
        ("acme.localhost", None, False),
        (APP + ".evil.example", "cross-site", False),
        (f"{OURS} {APP}", None, False),
    ],
)
def test_what_changes_something_comes_from_our_pages(
    method: str, origin: str | None, site: str | None, is_allowed: bool
) -> None:
    """Origins are compared whole, and whoever says nothing is refused."""
    assert is_refused(asked(method, origin=origin, site=site), LISTED) is not is_allowed


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("origin", "site", "is_allowed"),
    [
        *((OURS, None, True), (APP, "cross-site", True), (None, "same-origin", True), (None, None, False)),
        *(("https://evil.example", None, False), ("https://evil.example", "cross-site", False)),
    ],
)
def test_every_websocket_comes_from_our_pages(
    method: str, origin: str | None, site: str | None, is_allowed: bool
) -> None:
    """No preflight guards a websocket, and its answer can be read by whoever opened it (RFC 6455 section 10.2)."""
    assert is_refused(asked(method, origin=origin, site=site, is_websocket=True), LISTED) is not is_allowed


def test_nobody_is_listed_by_default() -> None:
    """An origin counts only where the route lists it."""
    assert is_refused(asked(origin=APP))
    assert not is_refused(asked(origin=APP), LISTED)


@pytest.mark.parametrize(
    ("scheme", "port", "origin", "is_allowed"),
    [
        ("https", None, "https://acme.localhost", True),
        ("https", 443, "https://acme.localhost", True),
        ("https", 8443, "https://acme.localhost:8443", True),
        ("https", 8443, "https://acme.localhost", False),
        ("https", 80, "https://acme.localhost:80", True),
        ("http", 80, "http://acme.localhost", True),
        ("http", 8088, "http://acme.localhost:8088", True),
        ("http", 8088, "https://acme.localhost:8088", False),
        ("http", 443, "http://acme.localhost", False),
    ],
)
def test_our_own_origin_has_scheme_and_port(scheme: str, port: int | None, origin: str, is_allowed: bool) -> None:
    """RFC 6454: another port of our host is somebody else."""
    assert is_refused(asked(origin=origin, port=port, scheme=scheme)) is not is_allowed


@given(st.text(max_size=40), st.sampled_from([None, "cross-site", "same-site"]))
def test_no_other_origin_passes(origin: str, site: str | None) -> None:
    """Whatever stands there: equal to ours or listed, or refused."""
    assert is_refused(asked(origin=origin, site=site), LISTED) is (origin not in {OURS, APP})
