"""
Attack family A7: a login is used to send a person to another host (AP-R8, R41).

Each form is tried at the page that begins a login, at every place that returns to an address, and by whom is logged in
already: no answer ever names another host, and no login begins.
"""

from __future__ import annotations

from urllib.parse import quote, quote_plus, urljoin, urlsplit

import pytest

from authproxy.pages.pending import find_pending, new_pending, pending_cookie
from policies.decision import Reason
from policies.navigation import read_return_to
from tests.fakes.pages import PagesWorld, Reply, a_login_provider
from tests.fakes.redirects import EVIL, FORMS, HARMLESS

HOST = "acme.localhost:8088"
REFUSED = {Reason.BAD_REQUEST, Reason.HEAD_TOO_LARGE}
"""The longest forms make the request itself too long."""


def leads_away(reply: Reply) -> bool:
    """As a browser reads it: backslashes are slashes, tabs and line breaks are nothing."""
    location = reply.field("Location")
    if location is None:
        return False
    read = location.replace("\\", "/").translate({9: None, 10: None, 13: None}).strip()
    return urlsplit(urljoin(f"http://{HOST}/.portero/login", read)).netloc != HOST


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
    assert urlsplit(urljoin(f"http://{HOST}/.portero/callback", form)).netloc == HOST


def test_there_are_enough_forms() -> None:
    """At least 320, none twice."""
    assert len(FORMS) == len(set(FORMS)) >= 320
    assert not set(FORMS) & set(HARMLESS)


async def test_no_form_begins_a_login() -> None:
    """400 ``bad-request``, nothing asked of the provider, no cookie, no Location; whichever way it is encoded."""
    world = PagesWorld()
    wrong = []
    for number, form in enumerate(FORMS):
        for encode in (quote, quote_plus):
            query = encode(form, safe="", errors="surrogatepass")
            browser = world.browser(host=HOST, peer=f"2001:db8:{number:x}::1")
            reply = await browser.navigate(f"/.portero/login?return_to={query}")
            if reply.reason not in REFUSED or reply.field("Location") or reply.cookies:
                wrong.append(form)
    assert not wrong
    assert not world.client.begun


async def test_no_form_leads_away_who_is_logged_in() -> None:
    """The short way, without a provider, is judged alike."""
    world = PagesWorld()
    browser = world.browser(host=HOST)
    await browser.log_in()
    wrong = []
    for number, form in enumerate(FORMS):
        browser.peer = f"2001:db8:{number:x}::1"
        reply = await browser.navigate(f"/.portero/login?return_to={quote(form, safe='', errors='surrogatepass')}")
        if reply.reason not in REFUSED or leads_away(reply):
            wrong.append(form)
    assert not wrong


async def test_no_form_that_was_sealed_leads_away() -> None:
    """Even if one had got into a login's cookie (an older version, a defect), it is judged again when it is used."""
    world = PagesWorld()
    for number, form in enumerate(FORMS):
        provider = a_login_provider()
        pending = new_pending(provider, form, f"http://{HOST}/.portero/callback", world.clock())
        line = pending_cookie(world.sealer, "acme", pending)
        cookie = line.partition(";")[0].encode()
        found = find_pending(world.sealer, "acme", cookie, pending.state)
        assert found is None or found.return_to == "/", form
        if number % 20 == 0:
            browser = world.browser(host=HOST)
            browser.jar.plant("acme.localhost", dict([line.partition(";")[0].split("=", 1)]))
            reply = await browser.come_back(pending.state)
            assert not leads_away(reply), form


@pytest.mark.parametrize("form", HARMLESS, ids=short)
async def test_a_path_of_ours_is_returned_to(form: str) -> None:
    """What only looks dangerous is not refused, and leads to our own host."""
    world = PagesWorld()
    browser = world.browser(host=HOST)
    reply = await browser.come_back(await browser.begin(form))
    assert reply.status == 303
    assert reply.field("Location") == form
    assert not leads_away(reply)


@pytest.mark.parametrize("parameter", ["rd", "redirect", "redirect_uri", "next", "url", "post_logout_redirect_uri"])
async def test_no_other_parameter_leads_anywhere(parameter: str) -> None:
    """What other products read is nothing here, on no page."""
    world = PagesWorld()
    browser = world.browser(host=HOST)
    await browser.log_in()
    for page in ("login", "callback", "logout", "whoami"):
        reply = await browser.navigate(f"/.portero/{page}?{parameter}=https://{EVIL}")
        assert not leads_away(reply)
        assert EVIL not in reply.text + repr(reply.fields)


async def test_a_host_that_is_not_ours_is_nobodys() -> None:
    """``redirect_uri`` is made of the request's host: it is one of the tenant's, or there is no page at all."""
    world = PagesWorld()
    with pytest.raises(AssertionError):  # the gate has no tenant for it: 404 before any page
        await world.ask("/.portero/login", host=EVIL)
    await world.browser(host=HOST).begin()
    assert world.client.begun[0]["redirect_uri"] == f"http://{HOST}/.portero/callback"
