"""
A whole Portero and a provider that others wrote (panva's oidc-provider): people log in, stay in, and are out.

Every browser here is a scripted one; the same in Chromium is ``test_browser.py``. Longer than other modules: it is the
one place where a login is followed from its page to its end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.fakes.login_world import SECRET, LoginWorld, running_login_world
from tests.fakes.oidc_provider import PEOPLE, IssuerSettings, Ttl
from tests.fakes.openfaas import Invocation
from tests.fakes.scripted_browser import Page, ScriptedBrowser

REPORT = "/reports/es?year=2026"
ANA = {"login": "ana"}
STREAM_ENDS_S = 5.0
"""The issue's bound from a logout to the end of open streams."""


@pytest.fixture
async def world() -> AsyncIterator[LoginWorld]:
    async with running_login_world() as running:
        yield running


async def log_in(world: LoginWorld, browser: ScriptedBrowser, *, tenant: str = "acme", path: str = REPORT) -> Page:
    """Open a protected page, fill in the provider's form if there is one, and end where that leads."""
    page = await browser.go(world.origin(tenant) + path)
    return await browser.submit(page, ANA) if page.forms else page


async def whoami(world: LoginWorld, browser: ScriptedBrowser, tenant: str = "acme") -> Page:
    """As a script of the tenant's page asks."""
    page = Page(world.origin(tenant) + "/", 200, (), b"", ())
    return await browser.fetch(page, "/.portero/whoami")


def told(page: Page) -> dict[str, Any]:
    assert page.status == 200, page.text
    return dict(json.loads(page.text))


async def test_a_person_lands_on_the_page_asked_for(world: LoginWorld) -> None:
    """Login by PAR with PKCE; the path and the query are kept; the function is told who asks and gets no cookie."""
    browser = world.browser
    page = await log_in(world, browser)
    assert (page.status, page.url) == (200, world.origin() + REPORT)
    function_got = {name.lower(): value for name, value in json.loads(page.text)["fields"]}
    assert function_got["x-portero-subject"] == "login|ana"
    assert "cookie" not in function_got
    who = told(await whoami(world, browser))
    assert (who["subject"], who["name"], who["roles"]) == ("login|ana", "Ana Alba", ["analyst"])
    counts = await world.issuer.counts()
    assert (counts["/request"], counts["authorization_code granted"]) == (1, 1)
    assert browser.jar.refused == []


async def test_what_is_no_navigation_is_never_redirected(world: LoginWorld) -> None:
    """AP-R49: a script and a program get 401 and begin no login."""
    page = Page(world.origin() + "/", 200, (), b"", ())
    answer = await world.browser.fetch(page, REPORT)
    assert (answer.status, answer.field("X-Portero-Reason"), answer.hops) == (401, "credential-missing", ())
    assert "/request" not in await world.issuer.counts()


async def test_several_tabs_log_in_at_once(world: LoginWorld) -> None:
    """Each tab comes back to its own page, whichever is first; a third one finds the session."""
    browser = world.browser
    first = await browser.go(f"{world.origin()}/reports/es")
    second = await browser.go(f"{world.origin()}/reports/fr")
    landed_second = await browser.submit(second, ANA)
    landed_first = await browser.submit(first, ANA)
    assert [page.url for page in (landed_first, landed_second)] == [
        f"{world.origin()}/reports/es",
        f"{world.origin()}/reports/fr",
    ]
    third = await browser.go(f"{world.origin()}/reports/de")
    assert (third.status, third.hops) == (200, ())


async def test_a_callback_is_good_in_its_own_browser_and_once(world: LoginWorld) -> None:
    """AP-R42, R47: another browser's callback spends nothing and logs nobody in; the same one twice neither."""
    browser, thief = world.browser, world.browser
    page = await browser.go(world.origin() + REPORT)
    sent_back = await browser.submit(page, ANA, stop_at=world.origin())
    callback = sent_back.location or ""
    stolen = await thief.go(callback)
    assert (stolen.status, stolen.field("X-Portero-Reason")) == (400, "login-failed")
    assert (await whoami(world, thief)).status == 401
    assert (await browser.go(callback)).url == world.origin() + REPORT
    cookies = browser.jar.values("acme.localhost")
    browser.jar.forget("acme.localhost")
    assert (await browser.go(callback)).status == 400
    assert cookies
    assert (await world.issuer.counts())["/token"] == 1


async def test_a_session_of_one_tenant_is_none_of_another(world: LoginWorld) -> None:
    """The cookies of acme, planted for globex's host, name nobody; and ana is not globex's though she logs in there."""
    browser = world.browser
    await log_in(world, browser)
    browser.jar.plant("globex.localhost", browser.jar.values("acme.localhost"))
    assert (await whoami(world, browser, "globex")).status == 401
    page = await log_in(world, browser, tenant="globex")
    assert (page.status, page.field("X-Portero-Reason")) == (403, "tenant-mismatch")
    assert (await whoami(world, browser, "globex")).status == 401
    assert told(await whoami(world, browser))["subject"] == "login|ana"


async def test_logout_ends_it_here_and_there(world: LoginWorld) -> None:
    """RP-initiated: the button, the provider's question, back to us; every copy of the cookies is dead at once."""
    browser, copy = world.browser, world.browser
    await log_in(world, browser)
    copy.jar.plant("acme.localhost", browser.jar.values("acme.localhost"))
    asked = await browser.submit(await browser.go(f"{world.origin()}/.portero/logout"))
    assert asked.url.startswith(f"{world.issuer.issuer}/session/end")
    assert (await whoami(world, copy)).field("X-Portero-Reason") == "session-expired"
    out = await browser.submit(asked, {"logout": "yes"})
    assert (out.status, out.url.partition("?")[0]) == (200, f"{world.origin()}/.portero/logout")
    assert [one["status"] for one in await world.issuer.logouts()] == [200]
    again = await browser.go(world.origin() + REPORT)
    assert again.url.startswith(f"{world.issuer.issuer}/interaction/")


async def test_logout_by_another_site_is_refused(world: LoginWorld) -> None:
    """AP-R53: a form of another site does not log anybody out."""
    browser = world.browser
    await log_in(world, browser)
    body = f'<form method="post" action="{world.origin()}/.portero/logout">'
    answer = await browser.submit(Page("http://evil.localhost:1/", 200, (), body.encode(), ()))
    assert (answer.status, answer.field("X-Portero-Reason")) == (403, "origin-refused")
    assert told(await whoami(world, browser))["subject"] == "login|ana"


async def test_the_back_channel_ends_sessions_and_open_streams(world: LoginWorld) -> None:
    """A logout token ends the session of its sid: the next request is 401, and an open stream is cut within 5 s."""
    browser, other = world.browser, world.browser
    await log_in(world, browser)
    await log_in(world, other)

    async def events(_: Invocation) -> web.StreamResponse:
        return _Endless()

    world.faas.add("live", "acme", handler=events)
    async with stream(world, browser, "/function/live") as lines:
        assert await anext(lines)
        began = time.monotonic()
        told_clients = await world.issuer.end_sessions("ana")
        assert [one["status"] for one in told_clients] == [200, 200]
        async with asyncio.timeout(STREAM_ENDS_S + 5):
            async for _ in lines:
                pass
        assert time.monotonic() - began <= STREAM_ENDS_S
    for one in (browser, other):
        assert (await whoami(world, one)).field("X-Portero-Reason") == "session-expired"


async def test_a_forged_logout_token_ends_nothing(world: LoginWorld) -> None:
    """Neither garbage nor the tenant's own ID tokens are taken: 400, and the session goes on."""
    browser = world.browser
    await log_in(world, browser)
    for token in ("", "x", "e30.e30.x"):
        status = await post(world, "/.portero/backchannel-logout", {"logout_token": token})
        assert status == 400
    unknown = await world.issuer.tell_logout("portero", "ana", "a-session-of-nobody")
    assert unknown["status"] == 200
    assert told(await whoami(world, browser))["subject"] == "login|ana"


class _Endless(web.StreamResponse):
    """Server-sent events, ten a second, until the connection ends."""

    async def write_eof(self, data: bytes = b"") -> None:
        for _ in range(600):
            await self.write(b"data: x\n\n")
            await asyncio.sleep(0.1)
        await super().write_eof(data)


class stream:  # noqa: N801 - used as a function
    """``async with stream(...) as lines``: an open answer of a function, line by line, by a browser's cookies."""

    def __init__(self, world: LoginWorld, browser: ScriptedBrowser, path: str) -> None:
        host, port = world.address
        cookie = "; ".join(f"{name}={value}" for name, value in browser.jar.values("acme.localhost").items())
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._answer: aiohttp.ClientResponse | None = None
        self._url = URL(f"http://{host}:{port}{path}")
        self._fields = {"Host": f"acme.localhost:{port}", "Cookie": cookie}

    async def __aenter__(self) -> AsyncIterator[bytes]:
        answer = self._answer = await self._session.get(self._url, headers=self._fields)
        assert answer.status == 200

        async def lines() -> AsyncIterator[bytes]:
            try:
                async for line in answer.content:
                    yield line
            except aiohttp.ClientPayloadError:
                return

        return lines()

    async def __aexit__(self, *_: object) -> None:
        if self._answer is not None:
            self._answer.close()
        await self._session.close()


async def post(world: LoginWorld, path: str, form: dict[str, str]) -> int:
    host, port = world.address
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.post(f"http://{host}:{port}{path}", data=form, headers={"Host": f"acme.localhost:{port}"}) as answer,
    ):
        return answer.status


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portero takes a lifetime of seconds for what it is, where it would make half a minute of it."""
    for module in ("token_answer", "grants"):
        monkeypatch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)


async def test_a_login_is_refreshed_with_rotation_and_new_groups(short_lives: None) -> None:
    """Twice and more, each time with the newest refresh token; a group that is gone at the provider is gone here."""
    settings = IssuerSettings(ttl=Ttl(access_token=2), ends_tokens_with_session=False)
    async with running_login_world([settings]) as world:
        browser = world.browser
        await log_in(world, browser)
        deadline = time.monotonic() + 40
        while (await world.issuer.counts()).get("refresh_token granted", 0) < 2:
            assert (await browser.go(world.origin() + REPORT)).status == 200
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        await world.issuer.set_accounts({**PEOPLE, "ana": {**PEOPLE["ana"], "groups": []}})
        while (page := await browser.go(world.origin() + REPORT)).status == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert (page.status, page.field("X-Portero-Reason")) == (403, "no-rule-allows")
        counts = await world.issuer.counts()
        assert "refresh_token invalid_grant" not in counts
        assert counts["authorization_code granted"] == 1


async def test_a_grant_that_is_withdrawn_ends_the_session(short_lives: None) -> None:
    """invalid_grant is the end; a token endpoint that fails is not, as long as the claims are fresh."""
    async with running_login_world([IssuerSettings(ttl=Ttl(access_token=2))]) as world:
        browser = world.browser
        await log_in(world, browser)
        await world.issuer.revoke("ana")
        deadline = time.monotonic() + 30
        while (page := await whoami(world, browser)).status == 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
        assert page.field("X-Portero-Reason") == "session-expired"


async def test_several_providers_are_a_choice() -> None:
    """A page with one link each; who came by one is another subject than who came by the other."""
    issuers = [IssuerSettings("login", login_as="ana"), IssuerSettings("partner", login_as="ana", par="none")]
    entries = {"login": {"login": {"client_id": "portero", "client_secret": "login-client", "title": "Acme staff"}}}
    async with running_login_world(issuers, entries=entries) as world:
        for name, title in (("login", "Acme staff"), ("partner", "partner")):
            browser = world.browser
            page = await browser.go(world.origin() + REPORT)
            assert page.path.startswith("/.portero/login")
            assert title in page.text
            [href] = [link for link in links(page) if f"provider={name}" in link]
            landed = await browser.click(page, href)
            assert (landed.status, landed.path) == (200, REPORT)
            assert told(await whoami(world, browser))["subject"] == f"{name}|ana"


def links(page: Page) -> list[str]:
    return [piece.partition('"')[0].replace("&amp;", "&") for piece in page.text.split('href="')[1:]]


async def test_a_provider_that_is_down_gives_503_and_no_way_in(world: LoginWorld) -> None:
    """While its token endpoint fails nobody gets in, and the failure is no answer about the person."""
    browser = world.browser
    await world.issuer.fault("/token", status=500, times=1)
    page = await log_in(world, browser)
    assert (page.status, page.field("X-Portero-Reason")) == (503, "provider-unavailable")
    assert (await whoami(world, browser)).status == 401
    assert (await log_in(world, browser)).status == 200


async def test_secrets_stay_where_they_belong(world: LoginWorld, capfd: pytest.CaptureFixture[str]) -> None:
    """AP-R14, R52: codes, tokens, cookies and the client secret stand in no log, metric, page or audit line."""
    browser = world.browser
    page = await log_in(world, browser)
    callback = next(hop for hop in page.hops if "/.portero/callback" in hop.url)
    code = callback.url.partition("code=")[2].partition("&")[0]
    state = callback.url.partition("state=")[2].partition("&")[0]
    broken = await browser.go(callback.url.replace("code=", "code=x"))
    me = await browser.go(f"{world.origin()}/.portero/whoami")
    cookies = [value for value in browser.jar.values("acme.localhost").values() if len(value) > 20]
    await browser.submit(await browser.go(f"{world.origin()}/.portero/logout"), follow=False)
    host, port = world.app.admin_address
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as answer:
        metrics = await answer.text()
    logged = "".join(capfd.readouterr())
    everything = f"{logged}\n{world.audit}\n{metrics}\n{broken.text}\n{me.text}\n{page.text}"
    assert "portero_logins_total" in metrics
    assert cookies
    for secret in (code, state, SECRET, "eyJ", *cookies):
        assert secret
        assert secret not in everything
