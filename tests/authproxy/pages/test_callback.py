"""``/.portero/callback``: what a login comes to, and what each failure says."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import pytest

from authproxy.identity.providers.oidc import LoginRefused
from authproxy.identity.sessions.cookies import LOGIN, SESSION
from authproxy.identity.sessions.session import SessionOver
from authproxy.identity.sessions.sessions import SessionTooLarge
from authproxy.identity.shared.state_memory import MemoryState
from policies.decision import Deny, Reason
from policies.errors import KeysUnavailable, ProviderUnavailable, StoreUnavailable
from tests.fakes.pages import PagesWorld, a_login_provider
from tests.fakes.tenancy import a_tenant


async def test_a_login_ends_where_it_was_asked_for() -> None:
    """303 to the page, a session, the login's cookie gone, no code in a Referer."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin("/reports/es?x=1")
    reply = await browser.come_back(state, code="c-1")
    assert (reply.status, reply.field("Location"), reply.subject) == (303, "/reports/es?x=1", "login|ana")
    assert (reply.field("Referrer-Policy"), reply.field("Cache-Control")) == ("no-referrer", "no-store")
    assert list(browser.cookies()) == [SESSION]
    begun, redeemed = world.client.begun[0], world.client.redeemed[0]
    assert redeemed["code"] == "c-1"
    for name in ("nonce", "code_verifier", "redirect_uri", "tenant", "provider"):
        assert redeemed[name] == begun[name]
    assert world.metrics.logins_total.counts == {("acme", "login", "ok"): 1}


async def test_a_parameter_that_stands_twice_is_refused() -> None:
    """RFC 6749 section 3.1; nothing is spent by it."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    twice = await browser.navigate(f"/.portero/callback?state={state}&code=a&code=b", site="cross-site")
    assert (twice.reason, world.client.redeemed) == (Reason.BAD_REQUEST, [])
    assert (await browser.come_back(state)).status == 303


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("access_denied", "access_denied"),
        ("temporarily_unavailable", "temporarily_unavailable"),
        ("<script>alert(1)</script>", "another error"),
        ("%0d%0a", "another error"),
    ],
)
async def test_an_error_of_the_provider_is_named(error: str, says: str) -> None:
    """Of a closed set; never the provider's own text. The page offers to try again, for the page first asked for."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin("/reports/es")
    reply = await browser.come_back(state, error=error, error_description="canary", error_uri="https://evil.example")
    assert (reply.status, reply.reason) == (400, Reason.LOGIN_FAILED)
    assert reply.field("X-Portero-Reason") == "login-failed"
    assert f"<dd>{says}</dd>" in reply.text
    assert "return_to=%2Freports%2Fes" in reply.text
    for canary in ("canary", "evil.example", "<script", state):
        assert canary not in reply.text
    assert not browser.cookies()
    assert not world.client.redeemed
    assert world.metrics.logins_total.counts == {("acme", "login", "refused"): 1}


async def test_what_is_never_read_may_be_anything() -> None:
    """Entra ID's descriptions have lines (``%0d%0a``): the login was refused all the same, and that is what is said."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin("/reports/es")
    said = "error_description=AADSTS65004%3a+declined.%0d%0aTrace+ID%3a+1%ff&error_uri=%00"
    reply = await browser.navigate(f"/.portero/callback?error=access_denied&{said}&state={state}", site="cross-site")
    assert (reply.status, reply.reason) == (400, Reason.LOGIN_FAILED)
    assert "<dd>access_denied</dd>" in reply.text
    assert not browser.cookies()


@pytest.mark.parametrize("name", ["state", "code", "iss", "error", "other"])
async def test_what_is_read_is_text(name: str) -> None:
    """Everything else that is no plain text makes the whole answer none."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    reply = await browser.navigate(f"/.portero/callback?x={state}&{name}=a%0d%0ab", site="cross-site")
    assert reply.reason is Reason.BAD_REQUEST


async def test_another_replicas_clock_may_be_a_little_ahead() -> None:
    """A provider that knows the person answers within a second; clocks that agree to the second are enough for us."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    world.clock.pass_s(-5)
    assert (await browser.come_back(state)).status == 303


@pytest.mark.parametrize("code", ["", "x" * 4097, "ü"])
async def test_an_answer_without_a_code_is_none(code: str) -> None:
    """Neither a code nor an error."""
    world = PagesWorld()
    browser = world.browser()
    reply = await browser.come_back(await browser.begin(), code=code)
    assert (reply.reason, world.client.redeemed) == (Reason.LOGIN_FAILED, [])


async def test_who_is_no_browser_gets_json() -> None:
    """As everywhere: problem+json, no page."""
    reply = await PagesWorld().ask("/.portero/callback?code=x&state=y")
    assert (reply.status, reply.reason) == (400, Reason.LOGIN_FAILED)
    assert reply.field("Content-Type") == "application/problem+json"


@pytest.mark.parametrize(
    ("failure", "status", "reason"),
    [
        (LoginRefused(Deny(Reason.LOGIN_FAILED, "the ID token is not good")), 400, Reason.LOGIN_FAILED),
        (LoginRefused(Deny(Reason.TENANT_MISMATCH, "not of this tenant")), 403, Reason.TENANT_MISMATCH),
        (ProviderUnavailable("canary"), 503, Reason.PROVIDER_UNAVAILABLE),
        (KeysUnavailable("canary"), 503, Reason.KEYS_UNAVAILABLE),
        (RuntimeError("canary"), 500, Reason.INTERNAL_ERROR),
    ],
)
async def test_a_code_that_comes_to_nothing_makes_no_session(failure: Exception, status: int, reason: Reason) -> None:
    """The refusal of who asked the provider, and no cookie but the login's own, taken away."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    world.client.failure = failure
    reply = await browser.come_back(state)
    assert (reply.status, reply.reason) == (status, reason)
    assert browser.session is None
    assert "canary" not in reply.text


async def test_a_store_that_is_down_lets_nobody_in() -> None:
    """AP-R50: whether a state was used cannot be known, so the code is not spent and the login may be sent again."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()

    class Down(MemoryState):
        async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
            raise StoreUnavailable("canary")

    whole = world.pages._parts
    world.pages._parts = replace(whole, state=Down())
    reply = await browser.come_back(state)
    assert (reply.status, reply.reason) == (503, Reason.SESSION_STORE_UNAVAILABLE)
    assert not world.client.redeemed
    world.pages._parts = whole
    assert (await browser.come_back(state)).status == 303


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (StoreUnavailable("canary"), Reason.SESSION_STORE_UNAVAILABLE),
        (SessionTooLarge("canary"), Reason.LOGIN_FAILED),
        (SessionOver("canary"), Reason.LOGIN_FAILED),
    ],
)
async def test_a_session_that_cannot_be_kept_is_given_back(failure: Exception, reason: Reason) -> None:
    """Nobody will ever use its refresh token: the provider is told."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()

    async def full(*_: object) -> NoReturn:
        raise failure

    world.sessions.begin = full  # type: ignore[method-assign,assignment]  # a store that is full
    reply = await browser.come_back(state)
    assert reply.reason is reason
    assert world.client.revoked == ["rt-canary"]
    assert "canary" not in reply.text


async def test_a_provider_that_is_no_longer_the_policys_logs_nobody_in() -> None:
    """Removed, without login, or another issuer under the same name: what was begun is void."""
    for provider in (
        a_login_provider("other"),
        a_login_provider(login=None),
        a_login_provider(issuer="https://new.example"),
    ):
        world = PagesWorld()
        browser = world.browser()
        state = await browser.begin()
        changed = PagesWorld((a_tenant("acme", providers=(provider,)),))
        browser.world = changed
        reply = await browser.come_back(state)
        assert (reply.reason, changed.client.redeemed) == (Reason.LOGIN_FAILED, [])


async def test_a_login_comes_back_to_the_address_it_began_at() -> None:
    """Cookies know no ports: the same browser at another port of the host is another place (AP-R47)."""
    world = PagesWorld()
    browser = world.browser(host="acme.localhost:8088")
    state = await browser.begin()
    reply = await browser.come_back(state, host="acme.localhost:9099")
    assert (reply.reason, world.client.redeemed) == (Reason.LOGIN_FAILED, [])


async def test_a_key_that_has_changed_logs_nobody_out() -> None:
    """A login begun under the key before is finished under the new one, as long as the old is accepted."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    old = world.keys.accepted
    world.keys = world.keys._replace(current=(b"key2", bytes(32)), accepted={**old, b"key2": bytes(32)})
    assert (await browser.come_back(state)).status == 303


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
async def test_only_get_spends_a_code(method: str) -> None:
    """Whoever looks at the address in advance does not."""
    world = PagesWorld()
    browser = world.browser()
    state = await browser.begin()
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies().items()).encode()
    reply = await world.ask(f"/.portero/callback?state={state}&code=x", (b"Cookie", cookie), method=method)
    assert (reply.status, reply.field("Allow")) == (405, "GET")
    assert not world.client.redeemed
    assert LOGIN + state[:8] in browser.cookies()
