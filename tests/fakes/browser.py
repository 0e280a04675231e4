"""
A real browser: the machine's Chromium, headless, driven by Playwright.

Names below ``localhost`` lead to loopback inside the browser itself, whatever the machine's resolver says, and nothing
else can be reached. Each browser has a profile of its own that is gone at the end.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal

from playwright.async_api import Browser, BrowserContext, Page, async_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS: Final = (
    "--no-sandbox",  # the tests may run as root in a container, where the sandbox cannot be had
    "--disable-dev-shm-usage",  # containers give 64 MB of /dev/shm
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-proxy-server",
    "--host-resolver-rules=MAP *.localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
STEP_TIMEOUT_MS: Final = 15_000
PHONE: Final = (390, 844)
DESK: Final = (900, 700)


def chromium() -> str:
    """Raises: RuntimeError, never skips: what is missing is installed by ``make test`` or said there."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    raise RuntimeError("Chromium is not on the PATH: run `make test`, or install the package chromium")


@contextlib.asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """A browser until the block ends; ``person`` opens a profile in it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS), timeout=30_000)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def person(
    browser: Browser, *, size: tuple[int, int] = DESK, scheme: Literal["light", "dark"] = "light"
) -> AsyncIterator[BrowserContext]:
    """One person's profile: cookies of its own, as many tabs (``new_page``) as wanted."""
    width, height = size
    context = await browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale="en", is_mobile=size == PHONE
    )
    context.set_default_timeout(STEP_TIMEOUT_MS)
    try:
        yield context
    finally:
        await context.close()


async def screenshot(page: Page, file: Path) -> bytes:
    """The visible part of a page as PNG, also written to ``file``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return await page.screenshot(path=file)
