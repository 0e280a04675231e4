"""
A person logs in through Kong: the provider that others wrote, a browser, the function, and out again.

What the pages do stands in ``test_login.py``; here it is that Kong, its plugins and the internal listener between them
lose nothing of it: redirects, several cookies, forms, and who is told about it at the back channel.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from tests.fakes.kong_world import Front
from tests.fakes.login_world import LoginWorld, running_login_world
from tests.fakes.oidc_provider import IssuerSettings, Ttl
from tests.fakes.scripted_browser import Page, ScriptedBrowser

REPORT = "/reports/es?year=2026"
ANA = {"login": "ana"}

Plugins = Literal["portero", "chain"]


@pytest.fixture(params=["portero", "chain"])
async def world(request: pytest.FixtureRequest, front: Front) -> AsyncIterator[LoginWorld]:
    async with running_login_world(kong=request.param, front=front) as running:
        yield running


async def log_in(world: LoginWorld, browser: ScriptedBrowser) -> Page:
    return await browser.submit(await browser.go(world.origin() + REPORT), ANA)


async def whoami(world: LoginWorld, browser: ScriptedBrowser) -> Page:
    return await browser.fetch(Page(world.origin() + "/", 200, (), b"", ()), "/.portero/whoami")


async def test_a_person_logs_in_asks_and_logs_out(world: LoginWorld) -> None:
    """From the page asked for to the provider and back to it, with who is asking; then the session is over."""
    browser = world.browser
    page = await log_in(world, browser)
    assert (page.status, page.url) == (200, world.origin() + REPORT)
    assert browser.jar.refused == []
    # Once more: awake by now, so that Kong asks the function itself.
    page = await browser.go(world.origin() + REPORT)
    told = {name.lower(): value for name, value in json.loads(page.text)["fields"]}
    assert told["x-portero-subject"] == "login|ana"
    assert not {"cookie", "x-portero-pass"} & set(told)
    assert page.field("Cache-Control") == "private"
    assert json.loads((await whoami(world, browser)).text)["subject"] == "login|ana"

    out = await browser.go(f"{world.origin()}/.portero/logout")
    out = await browser.submit(out)
    assert (await whoami(world, browser)).field("X-Portero-Reason") in {"session-expired", "credential-missing"}
    begun = await browser.go(world.origin() + REPORT, follow=False)
    assert (begun.status, begun.location is not None) == (302, True)


async def test_the_back_channel_ends_a_session(world: LoginWorld) -> None:
    """The provider's POST comes through Kong with its form."""
    browser = world.browser
    await log_in(world, browser)
    assert [one["status"] for one in await world.issuer.end_sessions("ana")] == [200]
    assert (await whoami(world, browser)).field("X-Portero-Reason") == "session-expired"


@pytest.mark.parametrize(
    ("plugins", "path", "status"),
    [("chain", REPORT, 200), ("portero", "/function/job", 403)],
    ids=["allowed", "refused"],
)
async def test_a_session_is_renewed_once_a_request(
    plugins: Plugins, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new cookie reaches the browser with a function's direct answer and with a refusal, and stands there once."""
    for module in ("token_answer", "grants"):
        monkeypatch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)
    settings = IssuerSettings(ttl=Ttl(access_token=3), ends_tokens_with_session=False)
    async with running_login_world([settings], kong=plugins) as world:
        browser = world.browser
        await log_in(world, browser)
        async with asyncio.timeout(20):
            while True:
                page = await browser.go(world.origin() + path)
                assert page.status == status
                cookies = [value for name, value in page.fields if name.lower() == "set-cookie"]
                if cookies:  # perhaps only with the next answer: it is renewed ahead of time
                    break
                await asyncio.sleep(0.1)
        assert len({cookie.partition("=")[0] for cookie in cookies}) == len(cookies)
        assert (await world.issuer.counts())["refresh_token granted"] == 1
        assert json.loads((await whoami(world, browser)).text)["subject"] == "login|ana"
