"""The real browser as the tests start it: cookies on names below localhost, a jar a host, nothing outside reachable."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Error

from tests.fakes.browser import PHONE, person, running_browser, screenshot

LINE = "__Host-portero-session=abc; Path=/; Secure; HttpOnly; SameSite=Lax"


async def test_keeps_host_cookies_without_tls_below_localhost(tmp_path: Path) -> None:
    """Names below localhost are trustworthy: a Secure __Host- cookie is kept and goes to its own host alone."""

    async def answer(request: web.Request) -> web.Response:
        text = f"<p>{request.headers.get('Cookie')} {request.headers.get('Sec-Fetch-Mode')}</p>"
        return web.Response(text=text, content_type="text/html", headers={"Set-Cookie": LINE})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with running_browser() as browser, person(browser, size=PHONE, scheme="dark") as who:
            page, seen = await who.new_page(), []
            for host in ("acme.localhost", "acme.localhost", "globex.localhost"):
                await page.goto(f"http://{host}:{port}/")
                seen.append(await page.inner_text("p"))
            assert seen == ["None navigate", "__Host-portero-session=abc navigate", "None navigate"]
            assert (await screenshot(page, tmp_path / "page.png")).startswith(b"\x89PNG")
            with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
                await page.goto("http://outside.example/")
    finally:
        await runner.cleanup()
