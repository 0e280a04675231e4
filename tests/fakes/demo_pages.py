"""
Every page that a person can come across in the demo, one after the other in a real browser.

One walk for two readers: the tests, which look whether a page fits and obeys its own policy, and ``tests/pictures.py``,
which pictures it for ``docs/pages.md``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import yaml
from playwright.async_api import BrowserContext, ConsoleMessage, Page

from authproxy.demo.people import PASSWORD
from authproxy.demo.run import Address, Demo

REPORT: Final = "/reports/es"
EMBARGOED: Final = "/reports/xx"
WHOAMI: Final = "/.portero/whoami"
LOGIN: Final = "/.portero/login"
LOGOUT: Final = "/.portero/logout"
STAFF: Final = "Globex staff"
PARTNERS: Final = "Partners and guests"
NOBODY: Final = "http://127.0.0.1:9/partners"
"""Issuer of a provider that does not answer."""
STREAM: Final = "/function/survey-stream"
"""Of globex anybody's here: one listens, one waits, and for others there is no room."""
_ONE_LISTENS: Final = {"access": "public", "concurrency": 1, "cold_start": {"max_held": 1, "overflow": "page"}}
_STATUS_TEXT: Final = "the server responded with a status of"
"""What the console says of every 4xx and 5xx: no trouble of a page."""


@contextlib.asynccontextmanager
async def running_demo(listen: Address = ("127.0.0.1", 0)) -> AsyncIterator[Demo]:
    """Functions do not take their time; people of globex are asked at which of two providers they have an account."""
    async with Demo(listen, ("127.0.0.1", 0), start_delay_s=0) as demo:
        file = demo.files.policies / "globex.yaml"
        said = yaml.safe_load(file.read_text())
        [staff] = said["identity"]
        staff["login"]["title"] = STAFF
        said["identity"].append({**staff, "name": "partners", "issuer": NOBODY})
        said["identity"][1]["login"] = {**staff["login"], "title": PARTNERS}
        said["functions"]["survey-stream"] = _ONE_LISTENS
        file.write_text(json.dumps(said))  # which is YAML, without anchors
        await demo.app.parts.folder.reload()
        if mistakes := demo.app.parts.folder.status.mistakes:
            raise RuntimeError(f"globex is not as the walk needs it: {mistakes}")
        yield demo


async def press(page: Page, selector: str) -> None:
    """A link or button that leads to another page; returns when it is there."""
    async with page.expect_navigation():
        await page.click(selector)


async def log_in(page: Page, sub: str = "ana") -> None:
    """Fill in the form of the demo's provider as a person does."""
    await page.check(f"input[value={sub}]")
    await page.fill("input[type=password]", PASSWORD)
    await press(page, "button")


async def log_out(page: Page, origin: str) -> None:
    """Here and at the provider, which sends the browser back."""
    await page.goto(origin + LOGOUT)
    await press(page, "main button")
    await page.wait_for_url(f"{origin}{LOGOUT}*")


def collect_troubles(context: BrowserContext) -> list[str]:
    """What the browser complains of: blocked styles, forms that may not lead where they lead, script errors."""
    troubles: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and _STATUS_TEXT not in message.text:
            troubles.append(message.text)

    context.on("console", hear)
    context.on("weberror", lambda error: troubles.append(str(error.error)))
    return troubles


@contextlib.asynccontextmanager
async def crowded_stream(demo: Demo) -> AsyncIterator[str]:
    """Until the block ends there is no room at globex's stream; yields the address of a result that is pending."""
    url, globex = demo.public_url + STREAM, {"Host": demo.files.hosts["globex"]}
    async with aiohttp.ClientSession(headers=globex) as session, session.get(url):
        waiting = asyncio.create_task(session.get(url))
        try:
            async with session.get(url, headers={"Prefer": "respond-async"}) as accepted:
                place = accepted.headers["Location"]
            while demo.app.parts.activator.held < 2:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)
            yield demo.origin("globex") + place
            await session.delete(demo.public_url + place)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def every_page(demo: Demo, page: Page) -> AsyncIterator[str]:
    """Walk through all pages: a name each time that ``page`` shows one. Nobody is logged in before, nor afterwards."""
    acme, globex = demo.origin("acme"), demo.origin("globex")
    await page.goto(globex + REPORT)
    yield "choose"
    await press(page, f"text={PARTNERS}")
    yield "unavailable"
    await page.goto(acme + REPORT)
    yield "provider-login"
    await page.fill("input[type=password]", "not the password")
    await press(page, "button")
    yield "provider-login-again"
    await log_in(page)
    await page.goto(acme + EMBARGOED)
    yield "denied"
    await page.goto(acme + "/nowhere")
    yield "not-found"
    await page.goto(acme + WHOAMI)
    yield "whoami"
    await page.goto(f"{demo.provider.issuer}/end-session")
    yield "provider-logout"
    await page.goto(acme + LOGOUT)
    yield "logout"
    await log_out(page, acme)
    yield "logged-out"
    await page.goto(f"{acme}/.portero/callback?code=x&state=y")
    yield "login-failed"
    async with crowded_stream(demo) as result:
        await page.goto(globex + STREAM)
        yield "overflow"
        await page.goto(result)
        yield "pending"
