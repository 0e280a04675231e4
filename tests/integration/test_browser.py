"""
What a person, and what a hostile page, can do in a real browser in front of the demo.

One demo and one browser for all; each test is another person with a profile of his own. Longer than other modules: they
are what makes it slow.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page

from authproxy.demo.run import Demo
from authproxy.pages.render import TEMPLATES, render
from policies.decision import Deny, Reason
from policies.problem import problem
from policies.waiting_page import waiting_page
from tests.fakes.browser import DESK, PHONE, person, running_browser
from tests.fakes.demo_pages import (
    LOGIN,
    LOGOUT,
    PARTNERS,
    REPORT,
    STAFF,
    WHOAMI,
    collect_troubles,
    every_page,
    log_in,
    log_out,
    press,
    running_demo,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER_REPORT = "/reports/fr"
NARROW = (320, 640)
LONG = "Bundesrechtsschutzversicherungsgesellschaftsangestelltenvereinigung"
AT = {"machine": "2026-11-24T09:56:00+00:00", "person": "2026-11-24 09:56 UTC"}
LONG_VALUES: dict[str, dict[str, Any]] = {
    "choose.html": {"choices": [{"title": f"{LONG} and guests", "href": "/a"}]},
    "failed.html": {"detail": LONG * 2, "reason": LONG, "kind": LONG, "retry": "/a", "request_id": "f" * 128},
    "logged_out.html": {"may_log_in": True},
    "logout.html": {"who": f"{LONG}@{LONG}.example"},
    "pending.html": {"seconds": 10**9, "location": "/a", "detail": LONG * 2},
    "whoami.html": {
        "name": f"{LONG} {LONG}",
        "subject": f"login|{'0' * 255}",
        "provider": LONG,
        "email": f"{LONG}@{LONG}.example",
        "groups": [f"cn={LONG},dc=acme,dc=example", *(f"group-{at}" for at in range(200))],
        "roles": [LONG],
        "session": {"created_at": AT, "idle_ends_at": AT, "ends_at": AT},
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        # Pages that come back by themselves do so when they have been looked at, however long that takes.
        patch.setattr("policies.waiting_page.SOONEST_S", 60)
        patch.setattr("authproxy.pages.result.POLL_S", 60)
        async with running_demo() as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def somebody(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with person(browser) as who:
        yield who


@pytest.fixture
def acme(demo: Demo) -> str:
    return demo.origin("acme")


@pytest.fixture
def globex(demo: Demo) -> str:
    return demo.origin("globex")


async def logged_in(who: BrowserContext, origin: str, sub: str = "ana") -> Page:
    """A tab that shows the report after a login."""
    page = await who.new_page()
    await page.goto(origin + REPORT)
    await log_in(page, sub)
    assert page.url == origin + REPORT
    return page


async def status_of(page: Page, path: str) -> int:
    """Of a script's request from where the page is: no navigation, cookies included, redirects not followed."""
    script = "path => fetch(path, {redirect: 'manual'}).then(answer => answer.status)"
    return int(await page.evaluate(script, path))


def refusals(demo: Demo, path: str) -> list[str]:
    """The reasons that the audit gives for what was refused at ``path``, oldest first."""
    lines = [json.loads(line) for line in demo.files.audit.read_text().splitlines()]
    return [line["reason"] for line in lines if line.get("path") == path and line.get("reason")]


# ---- in


async def test_a_person_lands_on_the_page_asked_for(demo: Demo, somebody: BrowserContext, acme: str) -> None:
    """By way of the provider's form, with the query kept; the browser has nothing to complain of."""
    troubles = collect_troubles(somebody)
    page = await somebody.new_page()
    await page.goto(f"{acme}{REPORT}?year=2026")
    assert page.url.startswith(f"{demo.provider.issuer}/authorize")
    await log_in(page)
    assert page.url == f"{acme}{REPORT}?year=2026"
    assert '"asked_by": "login|ana"' in await page.inner_text("body")
    assert troubles == []


async def test_whoami_shows_who_but_no_token(somebody: BrowserContext, acme: str) -> None:
    """Name, groups and roles; in the whole document, its headers and what scripts can reach there is no token."""
    page = await logged_in(somebody, acme)
    answer = await page.goto(acme + WHOAMI)
    assert answer is not None
    text = await page.inner_text("main")
    for shown in ("Ana Alba", "login|ana", "analysts", "analyst", "Ends at the latest"):
        assert shown in text
    everything = await page.content() + json.dumps(await answer.all_headers())
    values = [cookie["value"] for cookie in await somebody.cookies() if cookie["domain"] == "acme.localhost"]
    assert values
    assert not [value for value in ("eyJ", *values) if value in everything]
    assert (
        await page.evaluate("document.cookie + JSON.stringify([{...localStorage}, {...sessionStorage}])") == "[{},{}]"
    )
    await page.goto(acme + REPORT)
    facts = await page.evaluate("path => fetch(path).then(answer => answer.json())", WHOAMI)
    assert (facts["subject"], facts["roles"]) == ("login|ana", ["analyst"])


async def test_a_second_tab_is_in_without_a_login(somebody: BrowserContext, acme: str) -> None:
    """The session is the browser's; its cookie is for this host alone and out of reach of scripts."""
    await logged_in(somebody, acme)
    second = await somebody.new_page()
    visited: list[str] = []
    second.on("framenavigated", lambda frame: visited.append(frame.url))
    await second.goto(acme + OTHER_REPORT)
    assert visited == [acme + OTHER_REPORT]
    [cookie] = [c for c in await somebody.cookies() if c["domain"].endswith("acme.localhost")]
    assert cookie["name"] == "__Host-portero-session"
    assert cookie["domain"] == "acme.localhost"  # with a dot before it, it would be for hosts below, too
    assert (cookie["path"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == ("/", True, True, "Lax")


async def test_two_tabs_log_in_at_once(demo: Demo, somebody: BrowserContext, acme: str) -> None:
    """Both are at the form before either is filled in; each lands on its own page, and nothing of a login is left."""
    tabs = {path: await somebody.new_page() for path in (REPORT, OTHER_REPORT)}
    await asyncio.gather(*(page.goto(acme + path) for path, page in tabs.items()))
    assert all(page.url.startswith(demo.provider.issuer) for page in tabs.values())
    for path, page in tabs.items():
        await log_in(page)
        assert page.url == acme + path
    names = [cookie["name"] for cookie in await somebody.cookies() if cookie["domain"] == "acme.localhost"]
    assert names == ["__Host-portero-session"]


async def test_going_back_after_a_login_does_no_harm(somebody: BrowserContext, acme: str) -> None:
    """The callback in the history holds a code that is spent: who is logged in goes on, and stays in."""
    page = await somebody.new_page()
    callbacks: list[str] = []
    page.on("request", lambda request: callbacks.append(request.url) if "/.portero/callback" in request.url else None)
    await page.goto(acme + REPORT)
    await log_in(page)
    [callback] = callbacks
    await page.goto(callback)
    assert page.url == f"{acme}/"
    assert await status_of(page, REPORT) == 200


async def test_a_person_of_another_tenant_may_try_again(somebody: BrowserContext, acme: str) -> None:
    """The provider's own session does not decide it: the second try asks who it is."""
    troubles = collect_troubles(somebody)
    page = await somebody.new_page()
    await page.goto(acme + REPORT)
    await log_in(page, "gil")
    assert page.url.startswith(f"{acme}/.portero/callback")
    assert "tenant-mismatch" in await page.inner_text("main")
    assert [cookie for cookie in await somebody.cookies() if cookie["domain"] == "acme.localhost"] == []
    await press(page, "text=Try again")
    await log_in(page, "ana")
    assert page.url == acme + REPORT
    assert troubles == []


async def test_a_person_of_several_providers_is_asked_which(demo: Demo, somebody: BrowserContext, globex: str) -> None:
    """One leads on to the page asked for; one that does not answer is a 503 of ours, and a way back."""
    troubles = collect_troubles(somebody)
    page = await somebody.new_page()
    await page.goto(globex + REPORT)
    assert page.url == f"{globex}{LOGIN}?return_to={REPORT}"
    await press(page, f"text={PARTNERS}")
    assert "provider-unavailable" in await page.inner_text("main")
    await page.go_back()
    await press(page, f"text={STAFF}")
    assert page.url.startswith(demo.provider.issuer)
    await log_in(page, "gil")
    assert page.url == globex + REPORT
    assert troubles == []


async def test_a_script_is_never_sent_to_a_login(somebody: BrowserContext, acme: str) -> None:
    """fetch() to a protected path without a session is 401, whatever it says it accepts (AP-R49)."""
    page = await somebody.new_page()
    await page.goto(f"{acme}/")
    for accepted in ("*/*", "text/html"):
        script = """accept => fetch("/reports/es", {redirect: "manual", headers: {Accept: accept}})
            .then(async answer => [answer.status, answer.type, (await answer.json()).reason])"""
        assert await page.evaluate(script, accepted) == [401, "basic", "credential-missing"]


# ---- out


async def test_a_logout_in_one_tab_is_one_in_both(demo: Demo, somebody: BrowserContext, acme: str) -> None:
    """The other tab's scripts get 401, its reload goes to the login; the provider has forgotten the person, too."""
    troubles = collect_troubles(somebody)
    first = await logged_in(somebody, acme)
    second = await somebody.new_page()
    await second.goto(acme + WHOAMI)
    await press(second, "main button")
    await second.wait_for_url(f"{acme}{LOGOUT}*")
    assert "logged out" in await second.inner_text("h1")
    assert await status_of(first, REPORT) == 401
    for page in (first, second):
        await page.goto(acme + REPORT)
        assert page.url.startswith(f"{demo.provider.issuer}/authorize")
        assert await page.is_visible("input[type=password]")
    assert troubles == []


async def test_a_logout_at_the_provider_is_one_here(demo: Demo, somebody: BrowserContext, acme: str) -> None:
    """By the back channel: the person leaves at the provider, and the tab that knows nothing of it is out."""
    troubles = collect_troubles(somebody)
    page = await logged_in(somebody, acme)
    other = await somebody.new_page()
    await other.goto(f"{demo.provider.issuer}/end-session")
    await press(other, "button")
    assert await other.inner_text("h1") == "Logged out"
    assert await status_of(page, REPORT) == 401
    await page.reload()
    assert page.url.startswith(f"{demo.provider.issuer}/authorize")
    assert troubles == []


async def test_logging_out_twice_is_as_good_as_once(somebody: BrowserContext, acme: str) -> None:
    """A second tab's form of the same session ends at the same page, without an error."""
    page = await logged_in(somebody, acme)
    stale = await somebody.new_page()
    await stale.goto(acme + LOGOUT)
    await log_out(page, acme)
    await press(stale, "main button")
    assert "logged out" in await stale.inner_text("h1")


# ---- other hosts and other pages


async def test_a_session_of_acme_gives_nothing_at_globex(somebody: BrowserContext, acme: str, globex: str) -> None:
    """Neither as the browser sends it (not at all) nor carried over by hand; nor is its person anybody there."""
    await logged_in(somebody, acme)
    page = await somebody.new_page()
    for is_carried_over in (False, True):
        if is_carried_over:
            [ours] = [cookie for cookie in await somebody.cookies() if cookie["domain"] == "acme.localhost"]
            url = globex.replace("http:", "https:")
            await somebody.add_cookies([{"name": ours["name"], "value": ours["value"], "url": url, "secure": True}])
        await page.goto(f"{globex}/")
        assert await status_of(page, REPORT) == 401
        assert await status_of(page, WHOAMI) == 401
        await page.goto(globex + REPORT)
        assert page.url.startswith(globex + LOGIN)
    await press(page, f"text={STAFF}")
    assert page.url.startswith(f"{globex}/.portero/callback")  # the provider knows ana, and globex does not take her
    assert "tenant-mismatch" in await page.inner_text("main")


@pytest_asyncio.fixture(loop_scope="module")
async def hostile_port() -> AsyncIterator[int]:
    """
    Pages of somebody else: on acme's own host at another port, or below it.

    To the browser these are of the same site, so that it sends acme's cookies along: only Portero's rule is left.
    """

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>Win!</title><body>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("host", ["acme.localhost", "evil.acme.localhost"])
async def test_a_page_of_another_origin_cannot_use_the_session(
    demo: Demo, somebody: BrowserContext, acme: str, hostile_port: int, host: str
) -> None:
    """No POST by script or form, no logout, no websocket: ``origin-refused``; and what it may ask, it cannot read."""
    own = await logged_in(somebody, acme)
    page = await somebody.new_page()
    await page.goto(f"http://{host}:{hostile_port}/")
    reports_before = await own.evaluate("path => fetch(path).then(answer => answer.text())", REPORT)
    seen = {path: len(refusals(demo, path)) for path in ("/answers", "/live", LOGOUT)}

    for path in ("/answers", LOGOUT):
        script = """url => fetch(url, {method: "POST", mode: "no-cors", credentials: "include",
            body: new URLSearchParams({country: "es", score: "1"})}).then(answer => answer.type)"""
        assert await page.evaluate(script, acme + path) == "opaque"
    script = """url => new Promise(done => { const socket = new WebSocket(url.replace("http", "ws"))
        socket.onopen = () => done("open"); socket.onclose = () => done("closed") })"""
    assert await page.evaluate(script, f"{acme}/live") == "closed"
    for path in (WHOAMI, REPORT):
        script = 'url => fetch(url, {credentials: "include"}).then(answer => answer.text(), error => error.name)'
        assert await page.evaluate(script, acme + path) == "TypeError"
    script = """url => new Promise(done => { const events = new EventSource(url, {withCredentials: true})
        events.onopen = () => done("open"); events.onerror = () => { events.close(); done("refused") } })"""
    assert await page.evaluate(script, f"{acme}/live") == "refused"
    script = """url => { const form = document.createElement("form"); form.method = "post"; form.action = url
        document.body.append(form); form.submit() }"""
    async with page.expect_navigation():
        await page.evaluate(script, acme + LOGOUT)
    assert "origin-refused" in await page.inner_text("body")

    for path, count in (("/answers", 1), ("/live", 1), (LOGOUT, 2)):
        async with asyncio.timeout(15):  # the audit is written a little later
            while len(found := refusals(demo, path)[seen[path] :]) < count:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.02)
        assert found == ["origin-refused"] * count
    assert await own.evaluate("path => fetch(path).then(answer => answer.text())", REPORT) == reports_before
    script = (
        "body => fetch('/answers', {method: 'POST', body: new URLSearchParams(body)}).then(answer => answer.status)"
    )
    assert await own.evaluate(script, {"country": "es", "score": "1"}) == 201, "a page of ours may"


async def test_a_page_of_another_site_brings_no_session_at_all(
    somebody: BrowserContext, acme: str, globex: str
) -> None:
    """``SameSite=Lax``: its form and its frame come without the cookie; a link of it comes with it."""
    own = await logged_in(somebody, acme)
    page = await somebody.new_page()
    await page.goto(f"{globex}/")
    script = """url => { const form = document.createElement("form"); form.method = "post"; form.action = url
        document.body.append(form); form.submit() }"""
    async with page.expect_navigation():
        await page.evaluate(script, acme + LOGOUT)
    assert await status_of(own, REPORT) == 200
    await page.goto(f"{globex}/")
    script = (
        "url => { const link = document.createElement('a'); link.href = url; document.body.append(link); link.click() }"
    )
    async with page.expect_navigation():
        await page.evaluate(script, acme + REPORT)
    assert page.url == acme + REPORT
    assert '"asked_by": "login|ana"' in await page.inner_text("body")


async def test_our_pages_are_in_nobodys_frame(somebody: BrowserContext, acme: str, hostile_port: int) -> None:
    """A button that nobody sees cannot be clicked by mistake."""
    await logged_in(somebody, acme)
    page = await somebody.new_page()
    complaints = collect_troubles(somebody)
    await page.goto(f"http://acme.localhost:{hostile_port}/")
    script = """url => new Promise(done => { const frame = document.createElement("iframe")
        frame.src = url; frame.onload = () => done(); document.body.append(frame) })"""
    for path in (LOGOUT, WHOAMI):
        await page.evaluate(script, acme + path)
    assert len([text for text in complaints if "frame-ancestors" in text]) == 2


# ---- how it looks


@pytest.mark.parametrize(
    ("size", "scheme"), [(NARROW, "light"), (PHONE, "dark"), (DESK, "light")], ids=["narrow", "phone-dark", "desk"]
)
async def test_every_page_fits_and_obeys_its_own_policy(
    demo: Demo, browser: Browser, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    """No page is wider than the screen, light and dark differ, and the browser blocks nothing of it."""
    async with person(browser, size=size, scheme=scheme) as who:
        troubles = collect_troubles(who)
        page, seen = await who.new_page(), []
        async for name in every_page(demo, page):
            seen.append(name)
            await _fits(page, name)
            shade = await page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (sum(shade[:3]) < 200) is (scheme == "dark"), f"{name}: {shade}"
            assert await page.locator("h1").count() == 1, name
            comes_back = await page.locator("meta[http-equiv=refresh]").count()
            assert comes_back == (name in {"overflow", "pending"}), name
        assert len(seen) == 13
        assert troubles == []


async def test_long_names_and_many_groups_wrap(browser: Browser) -> None:
    """Also on the narrowest screen that there is."""
    async with person(browser, size=NARROW) as who:
        page = await who.new_page()
        for name in TEMPLATES:
            values = {"tenant": LONG, "host": f"{LONG}.{LONG}.example:8443", **LONG_VALUES[name]}
            await page.set_content(render(name, values).decode())
            await _fits(page, name)
        refusal = problem(Deny(Reason.NO_RULE_ALLOWS, LONG * 5), "f" * 128, accepts_html=True)
        await page.set_content(refusal.body.decode())
        await _fits(page, "problem")
        await page.set_content(waiting_page(10**9, "f" * 128, title=LONG, detail=LONG * 5).decode())
        await _fits(page, "waiting")


async def _fits(page: Page, name: str) -> None:
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name} is {wide} pixels too wide"
    script = """[...document.querySelectorAll("main, main *")].map(element => element.getBoundingClientRect())
        .filter(box => box.left < 0 || box.right > innerWidth + 0.5).length"""
    assert await page.evaluate(script) == 0, f"{name} has something beyond its edge"
