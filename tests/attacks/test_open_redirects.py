"""Attack family A7: a login returns to a path of our own host and to nothing else (AP-R8, AP-R41)."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest

from policies.navigation import read_return_to
from tests.fakes.redirects import FORMS, HARMLESS


def short(form: str) -> str:
    return ascii(form)[1:61]


@pytest.mark.parametrize("form", FORMS, ids=short)
def test_no_form_of_an_open_redirect_is_returned_to(form: str) -> None:
    """Other hosts, other schemes, blanks, escapes, look-alikes, circles and what is no path: refused, never raised."""
    assert read_return_to(form) is None


@pytest.mark.parametrize("form", HARMLESS, ids=short)
def test_paths_of_ours_are_returned_to_as_they_are(form: str) -> None:
    """What only looks hostile is kept to the letter, and a browser resolves it to our own host."""
    assert read_return_to(form) == form
    assert urlsplit(urljoin("http://acme.localhost:8088/.portero/callback", form)).netloc == "acme.localhost:8088"


def test_there_are_enough_forms() -> None:
    """At least 320, none twice."""
    assert len(FORMS) == len(set(FORMS)) >= 320
    assert not set(FORMS) & set(HARMLESS)
