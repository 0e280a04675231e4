"""The scripted browser keeps cookies and names its requests as browsers do: a lax one would hide what it is to find."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from tests.fakes.cookie_jar import CookieJar
from tests.fakes.scripted_browser import CannotBrowse, ScriptedBrowser

HOST_COOKIE = "__Host-a=1; Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize(
    ("url", "line", "is_kept"),
    [
        pytest.param("http://acme.localhost:1/", HOST_COOKIE, True, id="host-prefix-on-loopback-name"),
        pytest.param("http://127.0.0.1:1/", HOST_COOKIE, True, id="host-prefix-on-loopback-address"),
        pytest.param("https://acme.test/", HOST_COOKIE, True, id="host-prefix-with-tls"),
        pytest.param("http://acme.test/", HOST_COOKIE, False, id="secure-without-tls"),
        pytest.param("http://acme.localhost/", "__Host-a=1; Path=/", False, id="host-prefix-not-secure"),
        pytest.param("http://acme.localhost/", "__Host-a=1; Secure", False, id="host-prefix-without-path"),
        pytest.param("https://a.acme.test/", f"{HOST_COOKIE}; Domain=acme.test", False, id="host-prefix-with-domain"),
        pytest.param("https://a.acme.test/", "a=1; Domain=globex.test", False, id="domain-of-another"),
        pytest.param("https://a.acme.test/", "a=1; Domain=acme.test", True, id="domain-above"),
        pytest.param("https://acme.test/", "a=1; SameSite=None", False, id="none-without-secure"),
        pytest.param("https://acme.test/", "a=1; Max-Age=0", False, id="expired"),
        pytest.param("https://acme.test/", "a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", False, id="expired-by-date"),
        pytest.param("https://acme.test/", "nothing", False, id="no-pair"),
    ],
)
def test_takes_cookies_that_a_browser_takes(url: str, line: str, is_kept: bool) -> None:
    """RFC 6265bis: prefix, Secure, Domain and SameSite are judged before a cookie is kept."""
    jar = CookieJar()
    jar.take(urlsplit(url), line)
    assert bool(jar.all(urlsplit(url).hostname or "")) is is_kept


@pytest.mark.parametrize(
    ("same_site", "is_same_site", "is_safe_navigation", "goes"),
    [
        ("Strict", True, False, True),
        ("Strict", False, True, False),
        ("Lax", False, True, True),
        ("Lax", False, False, False),
        ("None", False, False, True),
    ],
)
def test_sends_cookies_by_same_site(same_site: str, is_same_site: bool, is_safe_navigation: bool, goes: bool) -> None:
    """A cross-site request takes Lax cookies along only where it is a navigation by GET."""
    jar, url = CookieJar(), urlsplit("https://acme.test/")
    jar.take(url, f"a=1; Secure; SameSite={same_site}")
    assert (jar.field(url, is_same_site=is_same_site, is_safe_navigation=is_safe_navigation) == "a=1") is goes


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """``/hop?to=`` redirects with the status asked for, every other path says what arrived."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/loop":
            return web.Response(status=302, headers={"Location": "/loop"})
        if request.path == "/hop":
            return web.Response(status=int(request.query["status"]), headers={"Location": request.query["to"]})
        if request.path == "/form":
            page = f'<form method="post" action="{request.query["to"]}"><input name="x" value="1"><button name="y">'
            return web.Response(text=page, content_type="text/html")
        names = ("Host", "Cookie", "Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode")
        said = {name: request.headers[name] for name in names if name in request.headers}
        response = web.json_response({"method": request.method, "body": await request.text(), **said})
        response.headers["Set-Cookie"] = HOST_COOKIE
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_a_form_of_another_site_takes_no_lax_cookie_along() -> None:
    """A cross-site POST says where it comes from and carries no SameSite=Lax cookie; the redirect after it does."""
    async with echo() as port:
        acme, evil = f"http://acme.localhost:{port}", f"http://evil.localhost:{port}"
        browser = ScriptedBrowser()
        first = await browser.go(f"{acme}/a")
        assert '"Sec-Fetch-Site": "none"' in first.text
        form = await browser.go(f"{evil}/form?to={acme}/target")
        crossed = await browser.submit(form, {"y": "2"})
        assert '"body": "x=1&y=2"' in crossed.text
        assert f'"Origin": "{evil}"' in crossed.text
        assert '"Sec-Fetch-Site": "cross-site"' in crossed.text
        assert "Cookie" not in crossed.text
        form = await browser.go(f"{evil}/form?to=/hop?status=303%26to={acme}/target")
        landed = await browser.submit(form)
        assert landed.url == f"{acme}/target"
        assert '"method": "GET"' in landed.text
        assert '"Cookie": "__Host-a=1"' in landed.text
        assert '"Sec-Fetch-Site": "cross-site"' in landed.text


async def test_hosts_have_jars_of_their_own() -> None:
    """A cookie of one name below localhost is not sent to another, whatever the port."""
    async with echo() as port:
        browser = ScriptedBrowser()
        await browser.go(f"http://acme.localhost:{port}/a")
        other = await browser.go(f"http://globex.localhost:{port}/a")
        assert "Cookie" not in other.text
        same = await browser.go(f"http://acme.localhost:{port}/b")
        assert "Cookie" in same.text


async def test_307_keeps_method_and_body() -> None:
    """Fetch Standard: only a 303, and a 301 or 302 of a POST, makes a GET of it."""
    async with echo() as port:
        browser, base = ScriptedBrowser(), f"http://acme.localhost:{port}"
        page = await browser.go(f"{base}/a")
        kept = await browser.fetch(page, f"/hop?status=307&to={base}/b", method="POST", body=b"k=v")
        assert ('"method": "POST"' in kept.text, '"body": "k=v"' in kept.text) == (True, True)
        assert [hop.status for hop in kept.hops] == [307]


@pytest.mark.parametrize(
    "url", ["https://acme.localhost/", "http://example.com/", "http://10.0.0.1/", "file:///etc/hosts"]
)
async def test_never_leaves_this_machine(url: str) -> None:
    """What is not on loopback is refused before anything is resolved."""
    with pytest.raises(CannotBrowse):
        await ScriptedBrowser().go(url)


async def test_a_loop_of_redirects_ends() -> None:
    """As browsers do, after twenty hops."""
    async with echo() as port:
        with pytest.raises(CannotBrowse, match="redirected"):
            await ScriptedBrowser().go(f"http://acme.localhost:{port}/loop")
