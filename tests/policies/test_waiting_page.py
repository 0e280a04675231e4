"""The page that comes back by itself: what it does, what it never does, and when a refusal is none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Deny, Reason
from policies.overflow import OVERFLOWS
from policies.problem import STATUS, STYLE, problem
from policies.waiting_page import LATEST_S, as_waiting_page, waiting_page

HOSTILE = "\"><script>alert(1)</script>\r\n\0\ud800'&{style}{0}"


def seconds_of(page: bytes) -> int:
    found = re.findall(rb'<meta http-equiv="refresh" content="(\d+)">', page)
    assert len(found) == 1
    return int(found[0])


@pytest.mark.parametrize(
    ("asked", "given_s"), [(-5, 1), (0, 1), (1, 1), (7, 7), (LATEST_S, LATEST_S), (10**12, LATEST_S)]
)
def test_it_comes_back_when_it_should(asked: int, given_s: int) -> None:
    """Not at once, which would be a flood, and not in a year."""
    assert seconds_of(waiting_page(asked, "req-1")) == given_s


def test_it_says_so_to_a_person() -> None:
    """In words, for whom no page reloads by itself; in the singular where it is one."""
    assert b"in 7&nbsp;seconds." in waiting_page(7, "req-1")
    assert b"in 1&nbsp;second." in waiting_page(1, "req-1")
    assert b'href="">Try again now' in waiting_page(1, "req-1")
    assert b"<dd>req-1</dd>" in waiting_page(1, "req-1")


@given(st.text(), st.text(), st.text())
def test_it_repeats_nothing_that_a_browser_acts_upon(request_id: str, title: str, detail: str) -> None:
    """Whatever stands in it: the same elements, and no address but its own."""
    plain = waiting_page(3, "req-1", title="a", detail="b")
    page = waiting_page(3, request_id + HOSTILE, title=title + HOSTILE, detail=detail + HOSTILE)
    assert re.findall(rb"<[a-z/!]+", page) == re.findall(rb"<[a-z/!]+", plain)
    assert seconds_of(page) == 3


def test_it_loads_and_runs_nothing() -> None:
    """No script, no image, no form, no style but the one that the policy of pages lets in; light and dark."""
    page = waiting_page(3, "req-1")
    assert not re.search(rb"<script|<img|<form|<iframe|javascript:| on[a-z]+=| style=|url=", page)
    assert page.count(STYLE.encode()) == 1
    for needed in (b'lang="en"', b'name="viewport"', b"noindex", b"prefers-color-scheme: dark", b"<h1>"):
        assert needed in page


@pytest.mark.parametrize("reason", sorted(OVERFLOWS - {Reason.COLD_START_TIMEOUT}))
def test_a_refusal_keeps_its_status_and_fields(reason: Reason) -> None:
    """The page is for who looks; what is said to programs stays."""
    document = problem(Deny(reason, retry_after_s=9), "req-1", accepts_html=True)
    page = as_waiting_page(document, "req-1")
    assert (page.status, page.reason, page.fields) == (STATUS[reason], reason, document.fields)
    assert seconds_of(page.body) == 9
    assert dict(page.fields)["Retry-After"] == "9"
    assert "'sha256-" in dict(page.fields)["Content-Security-Policy"]
    assert dict(page.fields)["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("refusal", "accepts_html"),
    [(Deny(Reason.QUEUE_FULL), False), (Deny(Reason.NO_RULE_ALLOWS), True), (Deny(Reason.COLD_START_TIMEOUT), True)],
    ids=["a program", "no use in waiting", "nothing known of when"],
)
def test_any_other_refusal_stays_what_it_is(refusal: Deny, accepts_html: bool) -> None:
    """A program gets its document, and nobody comes back for what does not change."""
    document = problem(refusal, "req-1", accepts_html=accepts_html)
    assert as_waiting_page(document, "req-1") is document
