"""``/.portero/logout``: a button, and what it does here and at the provider."""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from authproxy.identity.sessions.cookies import SESSION
from authproxy.pages import logout
from policies.decision import Reason
from policies.errors import ProviderUnavailable, StoreUnavailable
from policies.tables import SessionsSpec
from tests.fakes.pages import Browser, PagesWorld, a_login_provider
from tests.fakes.tenancy import a_tenant


async def logged_in(world: PagesWorld) -> Browser:
    browser = world.browser()
    assert (await browser.log_in()).status == 303
    return browser


async def test_get_shows_a_button_and_ends_nothing() -> None:
    """AP-R53: a link, an image or a prefetch logs nobody out."""
    world = PagesWorld()
    browser = await logged_in(world)
    page = await browser.navigate("/.portero/logout", site="cross-site")
    assert page.status == 200
    assert '<form method="post" action="/.portero/logout">' in page.text
    assert not page.cookies
    assert not world.revocations.told
    assert (await browser.fetch("/.portero/whoami")).status == 200


async def test_post_ends_the_session_here_and_at_the_provider() -> None:
    """The session is revoked, the cookie cleared, the refresh token given back, the browser sent to the provider."""
    world = PagesWorld()
    browser = await logged_in(world)
    stolen = browser.cookies()
    reply = await browser.post("/.portero/logout")
    target = urlsplit(reply.field("Location") or "")
    assert (reply.status, target.netloc, reply.subject) == (303, "id.example", "login|ana")
    asked = parse_qs(target.query)
    assert asked["post_logout_redirect_uri"] == ["http://acme.localhost/.portero/logout"]
    assert asked["id_token"] == ["idt-canary"]
    assert world.client.revoked == ["rt-canary"]
    assert not browser.cookies()
    assert [told[0] for told in world.revocations.told] == ["session"]
    browser.jar.plant(browser.host, stolen)
    assert (await browser.fetch("/.portero/whoami")).reason is Reason.SESSION_EXPIRED
    assert world.metrics.logouts_total.counts == {("acme", "own"): 1}


async def test_who_is_logged_out_is_told_so() -> None:
    """With a way in again, where there is one."""
    world = PagesWorld()
    page = await world.browser().navigate("/.portero/logout?state=x")
    assert "You are logged out" in page.text
    assert 'href="/.portero/login"' in page.text
    assert "<form" not in page.text
    none = PagesWorld((a_tenant("acme"),))
    assert 'href="/.portero' not in (await none.browser().navigate("/.portero/logout")).text


async def test_post_without_a_session_is_no_error() -> None:
    """The button of a second tab, after the first was used; what is left of a cookie is cleared."""
    world = PagesWorld()
    browser = world.browser()
    browser.jar.plant(browser.host, {SESSION: "1.garbage"})
    reply = await browser.post("/.portero/logout")
    assert (reply.status, reply.field("Location")) == (303, "/.portero/logout")
    assert not browser.cookies()


@pytest.mark.parametrize(
    ("site", "fields"),
    [
        pytest.param("cross-site", (), id="other-site"),
        pytest.param("same-site", (), id="other-host-of-our-site"),
        pytest.param("same-site", ((b"Origin", b"http://globex.localhost"),), id="other-tenant"),
        pytest.param("cross-site", ((b"Origin", b"null"),), id="null-origin"),
        pytest.param("", ((b"Origin", b"http://acme.localhost:81"),), id="other-port"),
        pytest.param("", ((b"Origin", b"https://acme.localhost"),), id="other-scheme"),
        pytest.param("", (), id="nothing-said"),
    ],
)
async def test_no_page_of_another_origin_logs_anybody_out(site: str, fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """AP-R53: refused before the session is looked at, even if the browser sent the cookie."""
    world = PagesWorld()
    browser = await logged_in(world)
    cookie = (b"Cookie", f"{SESSION}={browser.session}".encode())
    said = ((b"Sec-Fetch-Site", site.encode()),) if site else ()
    reply = await world.ask("/.portero/logout", cookie, *said, *fields, method="POST")
    assert (reply.status, reply.reason) == (403, Reason.ORIGIN_REFUSED)
    assert not world.revocations.told
    assert not reply.cookies


async def test_a_browser_without_fetch_metadata_logs_out_by_origin() -> None:
    """Older browsers send Origin with a form; our page asks for that by its Referrer-Policy."""
    world = PagesWorld()
    browser = await logged_in(world)
    page = await browser.navigate("/.portero/logout")
    assert page.field("Referrer-Policy") == "same-origin"
    cookie = (b"Cookie", f"{SESSION}={browser.session}".encode())
    reply = await world.ask("/.portero/logout", cookie, (b"Origin", b"http://acme.localhost"), method="POST")
    assert reply.status == 303


async def test_the_form_may_lead_to_the_provider_and_nowhere_else() -> None:
    """Browsers hold redirects after a form to form-action: without the origin the logout would end in an error."""
    world = PagesWorld()
    browser = await logged_in(world)
    world.client.end_session = "https://logout.example:8443/end;x"
    policy = (await browser.navigate("/.portero/logout")).field("Content-Security-Policy") or ""
    assert re.search(r"form-action ([^;]+)", policy).group(1) == "'self' https://logout.example:8443"  # type: ignore[union-attr]  # asserted by it
    world.client.failure = ProviderUnavailable("canary")
    policy = (await browser.navigate("/.portero/whoami")).field("Content-Security-Policy") or ""
    assert "form-action 'self' https://id.example;" in policy


@pytest.mark.parametrize(
    "end_session",
    [
        None,
        "javascript:alert(1)",
        "https://a@evil.example/",
        "//evil.example",
        "https://id.example/\r\nSet-Cookie: a=b",
    ],
)
async def test_without_a_good_address_the_logout_is_ours_alone(end_session: str | None) -> None:
    """AP-R41; the session is over all the same."""
    world = PagesWorld()
    browser = await logged_in(world)
    world.client.end_session = end_session
    reply = await browser.post("/.portero/logout")
    assert reply.field("Location") == "/.portero/logout"
    assert not browser.cookies()


async def test_a_provider_that_hangs_keeps_nobody_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its part is waited for a little and then left."""
    monkeypatch.setattr(logout, "WAIT_S", 0.05)
    world = PagesWorld()
    browser = await logged_in(world)

    async def hang(*_: object, **__: object) -> None:
        await asyncio.sleep(30)

    world.client.end_session_url = hang  # type: ignore[method-assign]  # a provider that never answers
    world.client.revoke_refresh_token = hang  # type: ignore[method-assign]  # likewise
    began = time.monotonic()
    reply = await browser.post("/.portero/logout")
    assert time.monotonic() - began < 5
    assert reply.field("Location") == "/.portero/logout"
    assert not browser.cookies()


async def test_a_logout_that_cannot_be_told_is_not_pretended() -> None:
    """AP-R50: other replicas would go on taking the session, so the answer is 503."""
    world = PagesWorld()
    browser = await logged_in(world)
    world.revocations.failure = StoreUnavailable("canary")
    reply = await browser.post("/.portero/logout")
    assert (reply.status, reply.reason) == (503, Reason.SESSION_STORE_UNAVAILABLE)
    assert browser.session is not None


async def test_a_session_whose_provider_is_gone_still_ends() -> None:
    """Nobody is left to be told."""
    world = PagesWorld()
    browser = await logged_in(world)
    changed = PagesWorld((a_tenant("acme", providers=(a_login_provider("other"),)),))
    browser.world = changed
    reply = await browser.post("/.portero/logout")
    assert (reply.field("Location"), browser.cookies()) == ("/.portero/logout", {})
    assert not changed.client.revoked


async def test_a_logout_ends_copies_that_are_still_in_use() -> None:
    """A browser that idled too long has a cookie that is over; a copy of it that somebody keeps in use is not."""
    sessions = SessionsSpec(idle_s=300.0)
    world = PagesWorld((a_tenant("acme", providers=(a_login_provider(),), sessions=sessions),))
    world.client.refresh_token = None
    browser, thief = world.browser(), world.browser()
    await browser.log_in()
    thief.jar.plant(thief.host, browser.cookies())
    for _ in range(4):
        world.clock.pass_s(100)
        assert (await thief.fetch("/.portero/whoami")).status == 200
    assert (await browser.post("/.portero/logout")).status == 303
    assert (await thief.fetch("/.portero/whoami")).reason is Reason.SESSION_EXPIRED
