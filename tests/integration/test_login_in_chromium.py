"""
What a person does in a real browser, in front of the demo: log in, look around in two tabs, log out.

With ``PORTERO_SCREENSHOTS=docs/images`` the pages are pictured there: on a phone in the dark, on a desk in the light.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page

from authproxy.demo.people import PASSWORD
from authproxy.demo.run import Demo
from tests.fakes.browser import DESK, PHONE, person, running_browser, screenshot

REPORT = "/reports/es"
WHOAMI = "/.portero/whoami"
LOGOUT = "/.portero/logout"
Scheme = Literal["light", "dark"]


@pytest.fixture
async def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Demo]:
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    async with Demo(("127.0.0.1", 0), ("127.0.0.1", 0), start_delay_s=0) as running:
        yield running


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as running:
        yield running


async def log_in(page: Page, sub: str = "ana") -> None:
    """Fill in the provider's form as a person does."""
    await page.check(f"input[value={sub}]")
    await page.fill("input[type=password]", PASSWORD)
    await page.click("button")


async def status_of(page: Page, path: str) -> int:
    """Of a script's request from the page where it is: no navigation, cookies included."""
    return int(await page.evaluate("path => fetch(path).then(answer => answer.status)", path))


def collect_troubles(context: BrowserContext) -> list[str]:
    """What the browser complains of: blocked styles, forms that may not lead where they lead, script errors."""
    troubles: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error" and "the server responded with a status of" not in message.text:
            troubles.append(message.text)

    context.on("console", hear)
    context.on("weberror", lambda error: troubles.append(str(error.error)))
    return troubles


async def test_a_person_is_in_in_both_tabs_and_out_in_both(demo: Demo, browser: Browser) -> None:
    """The page asked for, whoami, a second tab without a login, logout, and out in both; here and at the provider."""
    acme = demo.origin("acme")
    async with person(browser) as who:
        troubles = collect_troubles(who)
        first = await who.new_page()
        await first.goto(acme + REPORT)
        assert first.url.startswith(demo.provider.issuer)
        await log_in(first)
        assert first.url == acme + REPORT
        assert '"asked_by": "login|ana"' in await first.inner_text("body")
        second = await who.new_page()
        await second.goto(acme + WHOAMI)
        text = await second.inner_text("main")
        assert "Ana Alba" in text
        assert "analyst" in text
        assert "eyJ" not in await second.content()
        await second.goto(acme + REPORT)
        assert second.url == acme + REPORT
        assert [await status_of(page, REPORT) for page in (first, second)] == [200, 200]
        await second.goto(acme + LOGOUT)
        await second.click("main button")
        await second.wait_for_url(f"{acme}{LOGOUT}*")
        assert "logged out" in (await second.inner_text("h1")).lower()
        assert await status_of(first, REPORT) == 401
        for page in (first, second):
            await page.goto(acme + REPORT)
            assert page.url.startswith(demo.provider.issuer)
        assert troubles == []


async def test_a_session_of_acme_gives_nothing_at_globex(demo: Demo, browser: Browser) -> None:
    """The browser sends acme's cookies to acme alone; by hand they name nobody; the person is not globex's either."""
    async with person(browser) as who:
        page = await who.new_page()
        await page.goto(demo.origin("acme") + REPORT)
        await log_in(page)
        await page.goto(demo.origin("globex") + "/")
        assert await status_of(page, "/reports/pt") == 401
        ours = [cookie for cookie in await who.cookies() if cookie["domain"] == "acme.localhost"]
        assert any(cookie["name"].startswith("__Host-portero-session") for cookie in ours)
        assert all(cookie["httpOnly"] and cookie["secure"] and cookie["sameSite"] == "Lax" for cookie in ours)
        for cookie in ours:
            await who.add_cookies(
                [
                    {
                        "name": cookie["name"],
                        "value": cookie["value"],
                        "url": demo.origin("globex").replace("http:", "https:"),
                        "secure": True,
                    }
                ]
            )
        assert await status_of(page, "/reports/pt") == 401
        answer = await page.goto(demo.origin("globex") + "/reports/pt")
        assert answer is not None
        assert answer.status == 403
        assert "not for" in await page.inner_text("main")


async def test_a_logout_at_the_provider_reaches_an_open_page(demo: Demo, browser: Browser) -> None:
    """By the back channel, with the tenant's host at the address Portero listens on: the open tab is out."""
    async with person(browser) as who:
        page = await who.new_page()
        await page.goto(demo.origin("acme") + REPORT)
        await log_in(page)
        assert list((await demo.provider.end_sessions("ana")).values()) == [200]
        assert await status_of(page, REPORT) == 401


@pytest.mark.parametrize(
    ("size", "scheme", "suffix"), [(PHONE, "dark", "phone"), (DESK, "light", "desk")], ids=["phone-dark", "desk-light"]
)
async def test_every_page_fits_and_obeys_its_own_policy(
    demo: Demo, browser: Browser, tmp_path: Path, size: tuple[int, int], scheme: Scheme, suffix: str
) -> None:
    """No page is wider than the screen, light and dark differ, and the browser blocks nothing of it."""
    folder = Path(os.environ.get("PORTERO_SCREENSHOTS", tmp_path))
    acme = demo.origin("acme")
    async with person(browser, size=size, scheme=scheme) as who:
        troubles = collect_troubles(who)
        page = await who.new_page()

        async def picture(name: str) -> None:
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} is {wide} pixels too wide"
            shade = await page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (sum(shade[:3]) < 200) is (scheme == "dark"), f"{name}: {shade}"
            assert await screenshot(page, folder / f"{name}-{suffix}.png")

        await page.goto(acme + REPORT)
        await picture("login")
        await log_in(page, "bob")
        await picture("refused")
        await page.goto(acme + WHOAMI)
        await picture("whoami")
        await page.goto(acme + LOGOUT)
        await picture("logout")
        await page.click("main button")
        await page.wait_for_url(f"{acme}{LOGOUT}*")
        await picture("logged-out")
        await page.goto(f"{acme}/.portero/callback?code=x&state=y")
        await picture("login-failed")
        assert troubles == []
