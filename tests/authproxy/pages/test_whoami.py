"""``/.portero/whoami``: what is said of a caller, to whom, and what never is."""

from __future__ import annotations

import json

import pytest

from authproxy.identity.sessions.cookies import SESSION
from policies.decision import Deny, Reason, RuleRef
from policies.principal import Principal
from policies.rbac_table import BindingInput, RoleInput, build_table
from tests.fakes.pages import PagesWorld, a_login_provider
from tests.fakes.tenancy import a_tenant

CANARIES = ("at-canary", "rt-canary", "idt-canary", "token-canary")
AUTHORIZATION = (b"Authorization", b"Bearer token-canary")


def an_account() -> Principal:
    principal = Principal("service-account", "ci", groups=frozenset({"ci", "all"}), expires_at=1_790_000_300.9)
    principal.claims = {"jti": "token-canary"}
    return principal


async def test_a_program_gets_json() -> None:
    """Who, by whom, groups sorted, until when; no session where none is."""
    world = PagesWorld()
    world.bearers["token-canary"] = an_account()
    reply = await world.ask("/.portero/whoami", AUTHORIZATION)
    assert (reply.status, reply.field("Content-Type")) == (200, "application/json")
    assert json.loads(reply.body) == {
        "tenant": "acme",
        "subject": "service-account|ci",
        "provider": "service-account",
        "name": None,
        "email": None,
        "groups": ["all", "ci"],
        "roles": [],
        "expires_at": 1_790_000_300,
        "session": None,
    }
    assert (reply.field("Cache-Control"), reply.subject) == ("no-store", "service-account|ci")
    assert reply.field("Access-Control-Allow-Origin") is None
    assert not any(canary in reply.text for canary in CANARIES)


async def test_roles_are_the_policys() -> None:
    """Included ones too, of this tenant alone."""
    roles = (RoleInput("analyst", (), ()), RoleInput("developer", ("analyst",), ()), RoleInput("owner", (), ()))
    binding = BindingInput("b", ("developer",), (), ("analysts",), (), (), RuleRef("b", "acme.yaml:9"))
    table = build_table(roles, (binding,), ())
    world = PagesWorld((a_tenant("acme", providers=(a_login_provider(),), rbac=table),))
    browser = world.browser()
    await browser.log_in()
    assert json.loads((await browser.fetch("/.portero/whoami")).body)["roles"] == ["analyst", "developer"]


async def test_a_browser_gets_a_page() -> None:
    """Name and times for a person, a button to log out, nothing to load, nothing that runs."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    reply = await browser.navigate("/.portero/whoami")
    assert (reply.status, reply.field("Content-Type")) == (200, "text/html; charset=utf-8")
    for text in ("Ana Ábrego", "login|ana", "analysts", "acme", "2026-09-21 14:13 UTC", "/.portero/logout"):
        assert text in reply.text
    assert not any(canary in reply.text for canary in CANARIES)
    assert (browser.session or "") not in reply.text


async def test_a_session_says_when_it_ends() -> None:
    """Begun, idle end, last end; Unix seconds."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    began = int(world.clock())
    facts = json.loads((await browser.fetch("/.portero/whoami")).body)
    assert facts["session"] == {"created_at": began, "idle_ends_at": began + 3600, "ends_at": began + 12 * 3600}


async def test_a_cookie_made_anew_goes_along() -> None:
    """A session that is in use is written anew now and then, on this page as on others."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    before = browser.session
    world.clock.pass_s(800)
    assert (await browser.fetch("/.portero/whoami")).status == 200
    assert browser.session not in {before, None}


async def test_nobody_is_sent_to_the_login() -> None:
    """A navigation by 302, everything else 401."""
    world = PagesWorld()
    reply = await world.browser().navigate("/.portero/whoami")
    assert (reply.status, reply.field("Location")) == (302, "/.portero/login?return_to=/.portero/whoami")
    assert (await world.ask("/.portero/whoami")).reason is Reason.CREDENTIAL_MISSING


async def test_a_session_that_is_over_is_said_to_be() -> None:
    """And the browser forgets it."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    world.clock.pass_s(2 * 3600)
    reply = await browser.fetch("/.portero/whoami")
    assert (reply.status, reply.reason) == (401, Reason.SESSION_EXPIRED)
    assert SESSION not in browser.cookies()


async def test_a_session_of_another_tenant_is_nobody() -> None:
    """AP-R46: planted on the other host it opens nothing."""
    world = PagesWorld()
    browser = world.browser()
    await browser.log_in()
    browser.jar.plant("globex.localhost", browser.cookies())
    reply = await browser.navigate("/.portero/whoami", host="globex.localhost")
    assert (reply.status, reply.reason) == (302, Reason.CREDENTIAL_MISSING)


@pytest.mark.parametrize("refusal", [Deny(Reason.TENANT_MISMATCH), Deny(Reason.TOO_MANY_FAILURES, retry_after_s=3)])
async def test_a_refusal_is_passed_on(refusal: Deny) -> None:
    """Who asks is not found out here."""
    world = PagesWorld()
    world.bearers["token-canary"] = refusal
    assert (await world.ask("/.portero/whoami", AUTHORIZATION)).reason is refusal.reason


async def test_a_token_for_one_function_learns_nothing_here() -> None:
    """AP-R15: the function that was handed it must not find out more than it says."""
    world = PagesWorld()
    principal = an_account()
    principal.only_function = "survey-report"
    world.bearers["token-canary"] = principal
    reply = await world.ask("/.portero/whoami", AUTHORIZATION)
    assert (reply.status, reply.reason) == (401, Reason.CREDENTIAL_INVALID)


async def test_groups_that_cannot_be_known_are_not_none() -> None:
    """``null`` and not an empty list."""
    world = PagesWorld()
    world.bearers["token-canary"] = Principal("login", "ana", has_unknown_groups=True)
    reply = await world.ask("/.portero/whoami", AUTHORIZATION)
    assert json.loads(reply.body)["groups"] is None


async def test_what_a_provider_says_is_text() -> None:
    """Names and groups come from strangers: escaped in the page, ASCII in the JSON."""
    world = PagesWorld()
    nasty = "<img src=x onerror=alert(1)>\"'&"
    principal = Principal("login", nasty, groups=frozenset({nasty}), email=nasty)
    principal.name = nasty
    world.bearers["token-canary"] = principal
    page = await world.browser().navigate("/.portero/whoami", AUTHORIZATION)
    assert page.status == 200
    assert "<img" not in page.text
    document = await world.ask("/.portero/whoami", AUTHORIZATION)
    assert json.loads(document.body)["name"] == nasty
    assert document.field("X-Content-Type-Options") == "nosniff"
