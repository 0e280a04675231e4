"""
Attack family A6: logins that somebody else began, ended or repeats, and sessions that were planted.

Each case is a login that would succeed but for one thing. What must hold every time: nobody is logged in by it, the
code is not spent at the provider unless it was this browser's own, and no answer tells a code, a state or a token.

Rules AP-R5, R20, R42, R47, R48, R52, R53; RFC 6749 section 10.12, RFC 9207, RFC 9700 section 4.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from authproxy.identity.sessions.cookies import LOGIN, SESSION
from policies.decision import Deny, Reason
from policies.tenancy import resolve
from tests.fakes.pages import Browser, PagesWorld, Reply, a_login, a_login_provider
from tests.fakes.tenancy import a_request, a_tenant

CODE = "code-canary"
TWO_PROVIDERS = (
    a_login_provider(login=a_login("Acme")),
    a_login_provider("partners", "https://partners.example", login=a_login("Partners")),
)


def is_out(reply: Reply, browser: Browser, reason: Reason = Reason.LOGIN_FAILED) -> bool:
    """Refused for that reason, nobody logged in, and nothing secret repeated."""
    secrets = (CODE, "rt-canary", "at-canary", "idt-canary")
    said = reply.text + repr(reply.fields)
    return reply.reason is reason and browser.session is None and not any(secret in said for secret in secrets)


async def test_a_callback_in_another_browser_logs_nobody_in() -> None:
    """Login CSRF: the attacker's own state and code, opened by the victim. The code is not spent (R42)."""
    world = PagesWorld()
    attacker, victim = world.browser(), world.browser()
    state = await attacker.begin()
    reply = await victim.come_back(state, code=CODE)
    assert is_out(reply, victim)
    assert world.client.redeemed == []
    assert not victim.cookies()


async def test_a_stolen_callback_is_worth_nothing() -> None:
    """The other way round: the victim's code and state, read off a log, in the attacker's browser."""
    world = PagesWorld()
    attacker, victim = world.browser(), world.browser()
    state = await victim.begin()
    await attacker.begin()
    assert is_out(await attacker.come_back(state, code=CODE), attacker)
    assert (await victim.come_back(state, code=CODE)).status == 303


async def test_a_cookie_under_another_name_is_another_login() -> None:
    """The seal holds the name: one's own login cookie cannot be renamed to fit another state."""
    world = PagesWorld()
    attacker, victim = world.browser(), world.browser()
    own = await attacker.begin()
    state = await victim.begin()
    attacker.jar.plant(attacker.host, {LOGIN + state[:8]: attacker.cookies()[LOGIN + own[:8]]})
    assert is_out(await attacker.come_back(state, code=CODE), attacker)
    assert world.client.redeemed == []


async def test_a_state_with_the_same_beginning_is_another_state() -> None:
    """The cookie's name holds eight characters of it; all of them are compared."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    for forged in (state[:8] + "A" * (len(state) - 8), state[:-1], state + "A", state.swapcase()):
        assert is_out(await browser.come_back(forged, code=CODE), browser)
    assert world.client.redeemed == []
    assert (await browser.come_back(state, code=CODE)).status == 303


async def test_a_state_works_once() -> None:
    """R47: the cookie put back, the same callback again; with the same code or another one."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    kept = browser.cookies()
    assert (await browser.come_back(state, code=CODE)).status == 303
    for code in (CODE, "another"):
        browser.jar.forget()
        browser.jar.plant(browser.host, kept)
        reply = await browser.come_back(state, code=code)
        assert is_out(reply, browser)
    assert [asked["code"] for asked in world.client.redeemed] == [CODE]


async def test_a_state_is_used_up_by_an_error_too() -> None:
    """Else an answer that was refused could be followed by a forged one."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    kept = browser.cookies()
    await browser.come_back(state, error="access_denied")
    browser.jar.plant(browser.host, kept)
    assert is_out(await browser.come_back(state, code=CODE), browser)
    assert world.client.redeemed == []


async def test_two_callbacks_at_once_spend_one_code() -> None:
    """A race is won by one of them."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    twin = world.browser()
    twin.jar.plant(twin.host, browser.cookies())
    replies = await asyncio.gather(*(b.come_back(state, code=CODE) for b in (browser, twin)))
    assert sorted(reply.status for reply in replies) == [303, 400]
    assert len(world.client.redeemed) == 1


async def test_a_login_of_another_tenant_is_none() -> None:
    """A state of globex on acme's host, its cookie brought along: sealed for one tenant (R46, R47)."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin(host="globex.localhost")
    browser.jar.plant("acme.localhost", browser.cookies("globex.localhost"))
    assert is_out(await browser.come_back(state, code=CODE), browser)
    assert world.client.redeemed == []


@pytest.mark.parametrize("purpose", [SESSION, "session"])
async def test_a_seal_for_another_purpose_is_no_login(purpose: str) -> None:
    """What we seal as a session, or for any other purpose, opens as nothing else."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    name = LOGIN + state[:8]
    plain = world.sealer.open("acme", "login", name, browser.cookies()[name])
    assert plain is not None
    browser.jar.plant(browser.host, {name: world.sealer.seal("acme", purpose, name, plain)})
    assert is_out(await browser.come_back(state, code=CODE), browser)


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"{}", id="no-members"),
        pytest.param(b'{"state":1}', id="number"),
        pytest.param(b'{"state":"%b","state":"x"}', id="twice"),
        pytest.param(b"\xff", id="not-utf-8"),
    ],
)
async def test_what_opens_and_is_no_login_is_none(plain: bytes) -> None:
    """Of an older version, say: refused, never an exception."""
    world = PagesWorld()
    browser = world.browser()
    state = "s" * 32
    name = LOGIN + state[:8]
    browser.jar.plant(browser.host, {name: world.sealer.seal("acme", "login", name, plain)})
    assert is_out(await browser.come_back(state, code=CODE), browser)


async def test_a_cookie_that_stands_twice_is_none() -> None:
    """R48: two of one name mean that somebody planted one."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    name = LOGIN + state[:8]
    value = browser.cookies()[name]
    fields = ((b"Cookie", f"{name}={value}; {name}={value}".encode()),)
    reply = await world.ask(f"/.portero/callback?state={state}&code={CODE}", *fields)
    assert (reply.reason, world.client.redeemed) == (Reason.LOGIN_FAILED, [])


@pytest.mark.parametrize("at", [0, 1, 5, 20, 60, -20, -1])
async def test_a_changed_cookie_is_none(at: int) -> None:
    """One character of it, wherever."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    name = LOGIN + state[:8]
    value = list(browser.cookies()[name])
    value[at] = "A" if value[at] != "A" else "B"
    browser.jar.plant(browser.host, {name: "".join(value)})
    assert is_out(await browser.come_back(state, code=CODE), browser)
    assert world.client.redeemed == []


@pytest.mark.parametrize(
    "state",
    [
        "",
        "x",
        "../../etc",
        "a" * 65,
        "a" * 21,
        "s" * 31 + "=",
        "é" * 32,
        "s" * 31 + "\u0130",
        "'; DROP TABLE",
        "s s" * 9,
    ],
)
async def test_a_state_that_is_none_of_ours_is_looked_for_nowhere(state: str) -> None:
    """It never becomes part of a cookie's name or a key."""
    world = PagesWorld()
    browser = world.browser()
    reply = await browser.navigate(f"/.portero/callback?code={CODE}&state={quote(state)}", site="cross-site")
    assert is_out(reply, browser)


async def test_a_planted_session_is_replaced_and_dies() -> None:
    """Fixation (R5): after the login the id is another one, and the planted session is over everywhere."""
    world = PagesWorld()
    attacker, victim = world.browser(), world.browser()
    world.client.sub = "mallory"
    await attacker.log_in()
    victim.jar.plant(victim.host, attacker.cookies())
    world.client.sub = "ana"
    await victim.log_in()
    assert victim.session != attacker.session
    assert '"login|ana"' in (await victim.fetch("/.portero/whoami")).text
    assert (await attacker.fetch("/.portero/whoami")).reason is Reason.SESSION_EXPIRED


async def test_each_login_makes_a_new_session() -> None:
    """Also of the same person in the same browser."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    first = browser.session
    await browser.log_in()
    assert browser.session != first
    old = world.browser()
    old.jar.plant(old.host, {SESSION: first or ""})
    assert (await old.fetch("/.portero/whoami")).reason is Reason.SESSION_EXPIRED


@pytest.mark.parametrize(
    ("wanted", "iss"),
    [
        pytest.param("https://id.example", "https://evil.example", id="another-issuer"),
        pytest.param("https://id.example", None, id="promised-and-missing"),
        pytest.param("https://id.example", "https://id.example/", id="almost"),
        pytest.param(None, "https://evil.example", id="never-promised"),
    ],
)
async def test_an_answer_of_another_issuer_is_none(wanted: str | None, iss: str | None) -> None:
    """Mix-up (RFC 9207): the code of one provider never gets to another one's token endpoint."""
    world = PagesWorld()
    browser = world.browser()
    world.client.issuer_in_answers = wanted
    state = await browser.begin()
    answer = {"code": CODE} | ({} if iss is None else {"iss": iss})
    assert is_out(await browser.come_back(state, **answer), browser)
    assert world.client.redeemed == []


async def test_a_code_goes_to_the_provider_that_was_asked() -> None:
    """Two providers, two tabs: each state knows its own, whatever else is said in the answer."""
    world = PagesWorld((a_tenant("acme", providers=TWO_PROVIDERS),))
    browser = world.browser()
    first = await browser.begin(provider="login")
    second = await browser.begin(provider="partners")
    await browser.come_back(first, code="for-login", provider="partners")
    await browser.come_back(second, code="for-partners", provider="login")
    assert [(asked["provider"], asked["code"]) for asked in world.client.redeemed] == [
        ("login", "for-login"),
        ("partners", "for-partners"),
    ]


@pytest.mark.parametrize("path", ["/.portero/callback", "/.portero/callback/login", "/.portero/callback/partners"])
async def test_a_code_of_one_provider_never_gets_to_another(path: str) -> None:
    """
    Mix-up where nobody names himself: the browser was sent to ``partners``, whose operator sends it on to ``login``
    with what it was given. ``login`` knows its own address alone, so its code is told apart by where it comes to (RFC
    9700 section 4.4.2.2), and an address that is not for one provider takes no answer without ``iss``.
    """
    world = PagesWorld((a_tenant("acme", providers=TWO_PROVIDERS),))
    browser = world.browser()
    await browser.begin(provider="login")
    assert world.client.begun[-1]["redirect_uri"] == "http://acme.localhost/.portero/callback/login"
    state = await browser.begin(provider="partners")
    assert world.client.begun[-1]["redirect_uri"] == "http://acme.localhost/.portero/callback/partners"
    reply = await browser.navigate(f"{path}?state={state}&code={CODE}", site="cross-site")
    if path.endswith("partners"):
        assert reply.status == 303
    else:
        assert is_out(reply, browser)
        assert world.client.redeemed == []


async def test_who_stops_promising_his_name_is_not_heard_without_it() -> None:
    """A login begun at the common address, on the word of a provider that takes it back while the browser is there."""
    world = PagesWorld((a_tenant("acme", providers=TWO_PROVIDERS),))
    browser = world.browser()
    world.client.issuer_in_answers = "https://partners.example"
    state = await browser.begin(provider="partners")
    assert world.client.begun[-1]["redirect_uri"] == "http://acme.localhost/.portero/callback"
    world.client.issuer_in_answers = None
    assert is_out(await browser.come_back(state, code=CODE), browser)
    assert world.client.redeemed == []


@pytest.mark.parametrize("name", ["nobody", "bearers-only", "login/x", "", "Login", "login%2Fx"])
async def test_nobody_else_has_an_address_of_his_own(name: str) -> None:
    """Only providers of the tenant that people log in at."""
    bearers = a_login_provider("bearers-only", "https://b.example", login=None)
    tenant = a_tenant("acme", providers=(*TWO_PROVIDERS, bearers))
    world = PagesWorld((tenant,))
    found = resolve(a_request(f"/.portero/callback/{name}"), world.policies)
    assert isinstance(found, Deny)


async def test_two_tabs_log_in_at_once() -> None:
    """Each ends where it was asked for, in any order; the second tab's session takes the first one's place."""
    world = PagesWorld()
    browser = world.browser()
    first = await browser.begin("/reports/es")
    second = await browser.begin("/reports/fr")
    reply = await browser.come_back(second)
    assert (reply.status, reply.field("Location")) == (303, "/reports/fr")
    reply = await browser.come_back(first)
    assert (reply.status, reply.field("Location")) == (303, "/reports/es")
    assert list(browser.cookies()) == [SESSION]
    assert (await browser.fetch("/.portero/whoami")).status == 200


async def test_a_login_that_took_too_long_is_none() -> None:
    """R47: ten minutes; the code is not looked at."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin("/reports/es")
    world.clock.pass_s(600)
    reply = await browser.come_back(state, code=CODE)
    assert is_out(reply, browser)
    assert "return_to=%2Freports%2Fes" in reply.text
    assert world.client.redeemed == []


async def test_a_login_from_the_future_is_none() -> None:
    """A clock that went back an hour does not make a login last for an hour."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    world.clock.pass_s(-3600)
    assert is_out(await browser.come_back(state, code=CODE), browser)


async def test_an_expired_login_of_who_is_logged_in_goes_on() -> None:
    """Twenty tabs were restored, one logged in: the others are sent to their pages, no code is spent (table 4, 10)."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin("/reports/es")
    world.clock.pass_s(601)
    await browser.log_in("/")
    assert LOGIN + state[:8] in browser.cookies()
    before = browser.session
    reply = await browser.come_back(state, code=CODE)
    assert (reply.status, reply.field("Location")) == (303, "/reports/es")
    assert browser.session == before
    assert CODE not in [asked["code"] for asked in world.client.redeemed]


async def test_an_unknown_login_of_who_is_logged_in_goes_home() -> None:
    """Back in the history, or somebody else's link: to ``/``, and the session stays whose it was."""
    world = PagesWorld()
    attacker, browser = world.browser(), world.browser()
    await browser.log_in()
    before = browser.session
    world.client.sub = "mallory"
    reply = await browser.come_back(await attacker.begin("/evil"), code=CODE)
    assert (reply.status, reply.field("Location")) == (303, "/")
    assert browser.session == before
    assert CODE not in [asked["code"] for asked in world.client.redeemed]


async def test_a_refused_callback_carries_only_our_words() -> None:
    """R20 and R52: nothing of what was sent comes back, not even as an error."""
    world = PagesWorld()
    browser = world.browser()
    reply = await browser.navigate(
        "/.portero/callback?state=canary-1&code=canary-2&error=canary-3&error_description=canary-4&iss=canary-5",
        site="cross-site",
    )
    assert "canary" not in reply.text + repr(reply.fields)
    assert reply.field("Cache-Control") == "no-store"


async def test_nobody_is_logged_in_or_out_by_a_frame_or_a_form() -> None:
    """R53: a page of another site can begin no login unseen, and its form ends no session."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    cookie = (b"Cookie", f"{SESSION}={browser.session}".encode())
    cross = (b"Sec-Fetch-Site", b"cross-site")
    assert (await world.ask("/.portero/logout", cookie, cross, method="POST")).reason is Reason.ORIGIN_REFUSED
    assert (await world.ask("/.portero/login", cookie, cross, (b"Sec-Fetch-Mode", b"no-cors"))).status == 401
    page = await browser.navigate("/.portero/logout", site="cross-site")
    assert "frame-ancestors 'none'" in (page.field("Content-Security-Policy") or "")


def test_a_pending_login_does_not_print_its_secrets() -> None:
    """``repr`` ends up in logs and traces."""
    from authproxy.pages.pending import new_pending

    pending = new_pending(TWO_PROVIDERS[0], "/", "http://acme.localhost/.portero/callback", 0.0)
    for secret in (pending.state, pending.nonce, pending.code_verifier):
        assert secret not in repr(pending)
        assert secret not in f"{pending!s}"
