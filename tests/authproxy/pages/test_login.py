"""``/.portero/login``: who is sent where, with which cookie, and who is not sent at all."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from authproxy.identity.sessions.cookies import LOGIN, SESSION
from authproxy.pages.guard import BURST
from authproxy.pages.parts import Identify
from authproxy.pages.pending import MAX_OURS_BYTES
from policies.decision import Deny, Reason
from policies.errors import KeysUnavailable, ProviderUnavailable, StoreUnavailable
from tests.fakes.pages import NAVIGATION, PagesWorld, a_login, a_login_provider, state_of
from tests.fakes.tenancy import a_tenant

TWO = (
    a_login_provider(login=a_login("Acme <staff>")),
    a_login_provider("partners", "https://id2.example", login=a_login("")),
)


def two_providers() -> PagesWorld:
    return PagesWorld((a_tenant("acme", providers=TWO),))


async def test_a_navigation_is_sent_to_the_provider() -> None:
    """303, nothing stored, nothing told on; what must come back goes into a cookie of this login's own."""
    world = PagesWorld()
    reply = await world.browser().navigate("/.portero/login?return_to=/reports/es%3Fx%3D1")
    assert reply.status == 303
    assert (reply.field("Location") or "").startswith("https://id.example/authorize?")
    assert (reply.field("Cache-Control"), reply.field("Referrer-Policy")) == ("no-store", "no-referrer")
    begun = world.client.begun[0]
    assert begun["redirect_uri"] == "http://acme.localhost/.portero/callback"
    (cookie,) = reply.cookies
    assert cookie.startswith(f"{LOGIN}{begun['state'][:8]}=")
    assert cookie.endswith("; Max-Age=3600; Path=/; Secure; HttpOnly; SameSite=Lax")
    for secret in (begun["nonce"], begun["code_verifier"], begun["state"]):
        assert secret not in cookie


async def test_each_login_is_random_enough() -> None:
    """State and nonce of more than 128 bits, a verifier as RFC 7636 wants it, none ever twice."""
    world = PagesWorld()
    for _ in range(5):
        await world.browser().begin()
    for name, least in (("state", 22), ("nonce", 22), ("code_verifier", 43)):
        values = [begun[name] for begun in world.client.begun]
        assert len(set(values)) == 5
        assert all(least <= len(value) <= 128 and re.fullmatch(r"[A-Za-z0-9_-]+", value) for value in values)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((), id="curl"),
        pytest.param(((b"Sec-Fetch-Mode", b"cors"), (b"Accept", b"text/html")), id="fetch"),
        pytest.param(((b"Accept", b"text/html"),), id="accept-alone"),
        pytest.param(((b"Sec-Fetch-Mode", b"navigate"), (b"Accept", b"application/json")), id="no-html"),
    ],
)
async def test_who_is_no_navigation_gets_401(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """AP-R49: a script that is redirected takes the login page for its answer."""
    world = PagesWorld()
    reply = await world.ask("/.portero/login?return_to=/x", *fields)
    assert (reply.status, reply.reason, reply.cookies) == (401, Reason.CREDENTIAL_MISSING, [])
    assert not world.client.begun


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("return_to=//evil.example", id="other-host"),
        pytest.param("return_to=", id="empty"),
        pytest.param("return_to=/a&return_to=/b", id="twice"),
        pytest.param("return_to=%", id="broken-escape"),
        pytest.param("return_to=/.portero/callback", id="own-page"),
        pytest.param("prompt=none", id="prompt-none"),
        pytest.param("prompt=login%20consent", id="two-prompts"),
        pytest.param("provider=nobody", id="unknown-provider"),
        pytest.param("provider=", id="no-provider"),
    ],
)
async def test_what_is_asked_wrongly_begins_no_login(query: str) -> None:
    """400 ``bad-request``, no cookie, no question to the provider."""
    world = PagesWorld()
    reply = await world.browser().navigate(f"/.portero/login?{query}")
    assert (reply.status, reply.reason, reply.cookies) == (400, Reason.BAD_REQUEST, [])
    assert not world.client.begun


async def test_a_tenant_without_login_has_no_such_page() -> None:
    """404, also for what is no navigation."""
    world = PagesWorld((a_tenant("acme", providers=(a_login_provider(login=None),)),))
    assert (await world.browser().navigate("/.portero/login")).reason is Reason.ROUTE_UNKNOWN
    assert (await world.ask("/.portero/login")).reason is Reason.ROUTE_UNKNOWN


@pytest.mark.parametrize(
    ("host", "scheme", "allows", "reason"),
    [
        ("acme.example", "http", False, Reason.HTTPS_REQUIRED),
        ("evil-localhost.example", "http", False, Reason.HTTPS_REQUIRED),
        ("acme.example", "http", True, None),
        ("acme.example", "https", False, None),
        ("acme.localhost", "http", False, None),
        ("localhost", "http", False, None),
        ("127.0.0.1", "http", False, None),
        ("192.0.2.1", "http", False, Reason.HTTPS_REQUIRED),
    ],
)
async def test_a_login_needs_https(host: str, scheme: str, allows: bool, reason: Reason | None) -> None:
    """Browsers keep ``__Host-`` cookies over https alone, and on their own machine; the sentence says so."""
    tenant = a_tenant("acme", providers=(a_login_provider(),), hosts=(host,))
    world = PagesWorld((tenant,), allow_loopback_http=allows)
    reply = await world.ask("/.portero/login", *NAVIGATION, host=host, scheme=scheme)
    assert reply.reason is reason
    assert reason is None or "trusted_peers" in reply.text


async def test_several_providers_are_chosen_from() -> None:
    """A page of links with the titles that policy gives; nothing begins before one is followed."""
    world = two_providers()
    browser = world.browser()
    page = await browser.navigate("/.portero/login?return_to=/a%26b&prompt=login")
    assert page.status == 200
    assert not world.client.begun
    assert not page.cookies
    assert "Acme &lt;staff&gt;" in page.text
    assert ">partners<" in page.text
    assert "<form" not in page.text
    links = [link.replace("&amp;", "&") for link in re.findall(r'<a class="button" href="([^"]+)"', page.text)]
    assert len(links) == 2
    await browser.navigate(links[1])
    assert world.client.begun[0]["provider"] == "partners"
    assert world.client.begun[0]["prompt"] == "login"
    reply = await browser.come_back(world.client.begun[0]["state"])
    assert reply.field("Location") == "/a&b"


async def test_who_is_logged_in_is_sent_on() -> None:
    """No login begins; ``prompt=login`` has the person log in anew."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    reply = await browser.navigate("/.portero/login?return_to=/reports/es")
    assert (reply.status, reply.field("Location")) == (303, "/reports/es")
    assert len(world.client.begun) == 1
    again = await browser.navigate("/.portero/login?return_to=/reports/es&prompt=login")
    assert (again.field("Location") or "").startswith("https://id.example/")
    assert world.client.begun[1]["prompt"] == "login"


async def test_a_bearer_token_is_no_login() -> None:
    """Only the browser's own session counts: what sent the field cannot be sent on without it."""
    world = PagesWorld()
    reply = await world.browser().navigate("/.portero/login", (b"Authorization", b"Bearer x"))
    assert (reply.field("Location") or "").startswith("https://id.example/")
    assert world.identified[0].authorization is None


async def test_a_session_that_is_of_no_use_begins_a_login() -> None:
    """Else the browser would go in circles between the page that wants a login and the login."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    world.clock.pass_s(13 * 3600)
    assert (await browser.navigate("/.portero/login")).field("Location") not in {"/", None}
    mismatch = PagesWorld()
    mismatch.pages._parts = replace(mismatch.pages._parts, identify=_says(Deny(Reason.TENANT_MISMATCH)))
    assert state_of(await mismatch.browser().navigate("/.portero/login"))


async def test_a_store_that_is_down_begins_no_login() -> None:
    """It would end at the callback: said before the person has typed a password."""
    world = PagesWorld()
    world.pages._parts = replace(world.pages._parts, identify=_says(Deny(Reason.SESSION_STORE_UNAVAILABLE)))
    reply = await world.browser().navigate("/.portero/login")
    assert (reply.status, reply.reason) == (503, Reason.SESSION_STORE_UNAVAILABLE)
    assert not world.client.begun


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ProviderUnavailable("canary"), Reason.PROVIDER_UNAVAILABLE),
        (KeysUnavailable("canary"), Reason.KEYS_UNAVAILABLE),
        (StoreUnavailable("canary"), Reason.SESSION_STORE_UNAVAILABLE),
        (RuntimeError("canary"), Reason.INTERNAL_ERROR),
    ],
)
async def test_what_cannot_be_had_is_a_refusal(failure: Exception, reason: Reason) -> None:
    """No cookie, no redirect, and nothing of the exception's text (AP-R52)."""
    world = PagesWorld()
    world.client.failure = failure
    reply = await world.browser().navigate("/.portero/login")
    assert (reply.reason, reply.cookies) == (reason, [])
    assert "canary" not in reply.text


@pytest.mark.parametrize("location", ["javascript:alert(1)", "https://a@evil.example/x", "/x", "https://id.example/ x"])
async def test_an_address_that_no_browser_should_get_is_not_sent(location: str) -> None:
    """AP-R41: whatever the client came to, ``Location`` is http(s), without userinfo, visible ASCII."""
    world = PagesWorld()
    world.client.location = location
    reply = await world.browser().navigate("/.portero/login")
    assert reply.reason is Reason.PROVIDER_UNAVAILABLE
    assert reply.field("Location") is None


async def test_nine_tabs_leave_eight_logins() -> None:
    """AP-R48: the oldest is given up, and the newest eight can all come back."""
    world = PagesWorld()
    browser = world.browser()
    states = []
    for _ in range(9):
        states.append(await browser.begin())
        world.clock.pass_s(1)
    names = [name for name in browser.cookies() if name.startswith(LOGIN)]
    assert sorted(names) == sorted(LOGIN + state[:8] for state in states[1:])


async def test_pending_logins_never_fill_the_head() -> None:
    """Long addresses to return to: older logins are given up before the browser's requests become too large."""
    world = PagesWorld()
    browser = world.browser()
    for number in range(8):
        await browser.begin(f"/{number}?{'x' * 2000}")
        world.clock.pass_s(1)
    size = sum(len(name) + len(value) + 3 for name, value in browser.cookies().items())
    assert size <= MAX_OURS_BYTES
    assert len(browser.cookies()) >= 2


async def test_a_page_elsewhere_cannot_make_the_cookies_too_large() -> None:
    """
    Any page may send the browser to a login, with any address to return to. A server in front that takes lines of 8 KiB
    would answer 400 for as long as the cookies are kept, so that logins stand back where a session is large.
    """
    world = PagesWorld()
    browser = world.browser()
    browser.jar.plant(browser.host, {SESSION: "2." + "x" * 3800, f"{SESSION}.1": "x" * 3200})
    for number in range(4):
        state = await browser.begin(f"/{number}?{'x' * 2000}", prompt="login")
        assert LOGIN + state[:8] in browser.cookies()
        assert len("; ".join(f"{name}={value}" for name, value in browser.cookies().items())) < 8000
    assert (await browser.come_back(state)).status == 303


async def test_no_login_is_larger_than_a_browser_keeps() -> None:
    """An address that doubles its length in the seal is not remembered; the login goes on all the same."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin("/?" + '"' * 2000)
    assert not browser.jar.refused
    assert (await browser.come_back(state)).field("Location") == "/"
    longest = "/?" + "x" * 2046
    assert (await browser.come_back(await browser.begin(longest, prompt="login"))).field("Location") == longest


async def test_cookies_of_no_use_are_cleared() -> None:
    """What does not open: of an old key, another tenant's, garbage."""
    world = PagesWorld()
    browser = world.browser()
    browser.jar.plant(browser.host, {f"{LOGIN}garbage0": "AAAA"})
    state = await browser.begin()
    assert [name for name in browser.cookies() if name.startswith(LOGIN)] == [LOGIN + state[:8]]


async def test_one_address_cannot_flood_a_provider() -> None:
    """Beyond the burst 429 with Retry-After, for that address and tenant alone; time heals it."""
    world = PagesWorld()
    guest = world.browser()
    for _ in range(BURST):
        await world.browser().begin()
    reply = await guest.navigate("/.portero/login")
    assert (reply.status, reply.reason) == (429, Reason.RATE_LIMITED)
    assert reply.field("Retry-After") == "1"
    assert (await guest.navigate("/.portero/callback?state=x")).status == 429
    await world.browser(peer="203.0.113.9").begin()
    await world.browser(host="globex.localhost").begin()
    world.clock.pass_s(1)
    await guest.begin()
    assert len(world.client.begun) == BURST + 3


def _says(refusal: Deny) -> Identify:
    async def identify(*_: object) -> Deny:
        return refusal

    return identify
