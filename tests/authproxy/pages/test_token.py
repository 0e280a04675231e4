"""``/.portero/token``: what is exchanged for what, and what never is."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from authproxy.identity.sessions.cookies import SESSION
from authproxy.identity.tokens.own_tokens import ExchangeRefused, OwnTokens
from authproxy.pages.guard import BURST
from authproxy.pages.token import ACCESS_TOKEN, GRANT_TYPE, JWT
from policies.decision import Deny, Reason
from policies.errors import KeysUnavailable
from policies.principal import Confirmation, Principal
from policies.tables import Pattern
from tests.fakes.identity import an_account
from tests.fakes.own_keys import a_key_folder
from tests.fakes.pages import FORM, PagesWorld, Reply, a_login_provider, form_body
from tests.fakes.tenancy import a_tenant

GOOD = {
    "grant_type": GRANT_TYPE,
    "subject_token": "subject.token.canary",
    "subject_token_type": ACCESS_TOKEN,
    "audience": "function:acme/survey-report",
}


def a_world(**changes: Any) -> PagesWorld:
    world = PagesWorld()
    principal = Principal("login", "ana", expires_at=world.clock() + 600)
    for name, value in changes.items():
        setattr(principal, name, value)
    world.bearers["subject.token.canary"] = principal
    return world


async def ask(world: PagesWorld, *fields: tuple[bytes, bytes], **changes: str | None) -> Reply:
    """The good request with one thing changed; None leaves it out."""
    asked = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return await world.ask("/.portero/token", FORM, *fields, body=form_body(**asked), method="POST")


def error_of(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"])


async def test_a_token_is_exchanged_for_one_function() -> None:
    """RFC 8693 section 2.2.1; stored by nobody."""
    world = a_world()
    reply = await ask(world)
    assert reply.status == 200
    assert json.loads(reply.body) == {
        "access_token": "own.token.canary",
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": 300,
    }
    assert (reply.field("Cache-Control"), reply.field("Pragma")) == ("no-store", "no-cache")
    assert reply.field("Access-Control-Allow-Origin") is None
    assert world.own_tokens.exchanged == [("acme", "login|ana", "survey-report")]
    assert reply.subject == "login|ana"
    assert world.metrics.tokens_exchanged_total.counts == {("acme", "ok"): 1}


async def test_the_subject_token_is_judged_as_a_bearer_token() -> None:
    """With the digest that caches know it by, and nothing else of the request that could stand for somebody."""
    world = a_world()
    await ask(world, (b"DPoP", b"proof"))
    (asked,) = world.identified
    assert asked.authorization == b"Bearer subject.token.canary"
    assert asked.credential_digest == sha256(b"Bearer subject.token.canary").digest()
    assert (asked.cookie, asked.dpop, asked.certificate) == (None, None, None)


async def test_a_cookie_is_never_taken() -> None:
    """Design section 5: a page could have a browser send one."""
    world = a_world()
    browser = world.browser()
    await browser.log_in()
    cookie = (b"Cookie", f"{SESSION}={browser.session}".encode())
    for changes in ({"subject_token": None}, {"subject_token": ""}, {"subject_token": browser.session or "x"}):
        reply = await ask(world, cookie, **changes)
        assert (reply.status, error_of(reply)) == (400, "invalid_request")
    assert not world.own_tokens.exchanged


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"grant_type": None}, "unsupported_grant_type", id="no-grant-type"),
        pytest.param({"grant_type": "client_credentials"}, "unsupported_grant_type", id="other-grant-type"),
        pytest.param({"subject_token_type": None}, "invalid_request", id="no-type"),
        pytest.param({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request", id="id"),
        pytest.param(
            {"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request", id="refresh"
        ),
        pytest.param({"subject_token": "a b"}, "invalid_request", id="no-b64token"),
        pytest.param({"subject_token": "a\u00e9"}, "invalid_request", id="not-ascii"),
        pytest.param({"subject_token": "x" * 8001}, "invalid_request", id="too-long"),
        pytest.param({"subject_token": "unknown"}, "invalid_request", id="forged"),
        pytest.param({"actor_token": "x"}, "invalid_request", id="actor"),
        pytest.param({"actor_token_type": JWT}, "invalid_request", id="actor-type"),
        pytest.param(
            {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request", id="wants-rt"
        ),
        pytest.param({"scope": "admin"}, "invalid_scope", id="scope"),
        pytest.param({"resource": "https://acme.example"}, "invalid_target", id="resource"),
        pytest.param({"audience": None}, "invalid_target", id="no-audience"),
        pytest.param({"audience": "acme-functions"}, "invalid_target", id="no-function"),
        pytest.param({"audience": "function:globex/survey-report"}, "invalid_target", id="other-namespace"),
        pytest.param({"audience": "function:acme"}, "invalid_target", id="no-name"),
        pytest.param({"audience": "function:acme/"}, "invalid_target", id="empty-name"),
        pytest.param({"audience": "function:acme/../globex/f"}, "invalid_target", id="path"),
        pytest.param({"audience": "function:acme/f.globex/x"}, "invalid_target", id="slash-in-name"),
        pytest.param({"audience": "function:acme/a..b"}, "invalid_target", id="empty-piece"),
        pytest.param({"audience": "FUNCTION:acme/f"}, "invalid_target", id="case"),
        pytest.param({"audience": "function:acme/f function:acme/g"}, "invalid_target", id="two-in-one"),
    ],
)
async def test_what_may_not_be_asked_for_is_refused(changes: dict[str, str | None], error: str) -> None:
    """RFC 6749 section 5.2 and RFC 8693 section 2.2.2; nothing is given out, nothing of the token is repeated."""
    world = a_world()
    reply = await ask(world, **changes)
    assert (reply.status, error_of(reply)) == (400, error)
    assert reply.field("Cache-Control") == "no-store"
    assert reply.reason is not None
    assert not world.own_tokens.exchanged
    assert "canary" not in reply.text


async def test_a_parameter_that_stands_twice_is_refused() -> None:
    """RFC 8693 lets audience stand several times; a token for one function has one."""
    world = a_world()
    body = form_body(**GOOD) + b"&audience=function:acme/other"
    reply = await world.ask("/.portero/token", FORM, body=body, method="POST")
    assert (reply.status, error_of(reply)) == (400, "invalid_request")


async def test_credentials_beside_the_subject_token_are_refused() -> None:
    """Two could name two callers."""
    world = a_world()
    reply = await ask(world, (b"Authorization", b"Bearer subject.token.canary"))
    assert (reply.status, error_of(reply)) == (400, "invalid_request")
    assert not world.identified


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        pytest.param({"confirmation": Confirmation(jkt="x")}, "invalid_request", id="bound-to-a-key"),
        pytest.param({"confirmation": Confirmation(x5t="x")}, "invalid_request", id="bound-to-a-certificate"),
        pytest.param({"is_by_cookie": True}, "invalid_request", id="by-cookie"),
        pytest.param({"only_function": "other"}, "invalid_target", id="for-another-function"),
    ],
)
async def test_what_is_narrower_is_not_made_wider(changes: dict[str, Any], error: str) -> None:
    """A bound token becomes no bearer token, a token for one function none for another."""
    world = a_world(**changes)
    reply = await ask(world)
    assert (reply.status, error_of(reply)) == (400, error)
    assert not world.own_tokens.exchanged


async def test_what_is_not_the_tenants_is_no_target() -> None:
    """Two tenants in one namespace: ``owns`` says whose a function is."""
    tenant = a_tenant("acme", providers=(a_login_provider(),), owns=(Pattern("acme-", is_prefix=True),))
    world = PagesWorld((tenant,))
    world.bearers["subject.token.canary"] = Principal("login", "ana")
    assert error_of(await ask(world)) == "invalid_target"
    assert (await ask(world, audience="function:acme/acme-report")).status == 200


async def test_the_type_asked_for_is_the_type_given() -> None:
    """What Portero gives out is both."""
    reply = await ask(a_world(), requested_token_type=JWT, subject_token_type=JWT)
    assert json.loads(reply.body)["issued_token_type"] == JWT


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Deny(Reason.TOO_MANY_FAILURES, retry_after_s=3), 429),
        (Deny(Reason.KEYS_UNAVAILABLE), 503),
        (Deny(Reason.PROVIDER_UNAVAILABLE), 503),
    ],
)
async def test_what_waiting_may_heal_is_said_as_everywhere(refusal: Deny, status: int) -> None:
    """With Retry-After; the subject token may be good."""
    world = a_world()
    world.bearers["subject.token.canary"] = refusal
    reply = await ask(world)
    assert (reply.status, reply.reason) == (status, refusal.reason)
    assert reply.field("Retry-After") is not None


async def test_a_token_of_another_tenant_is_not_good_here() -> None:
    """``invalid_request``, as any subject token that is not valid."""
    world = a_world()
    world.bearers["subject.token.canary"] = Deny(Reason.TENANT_MISMATCH)
    reply = await ask(world)
    assert (reply.status, error_of(reply), reply.reason) == (400, "invalid_request", Reason.TENANT_MISMATCH)


@pytest.mark.parametrize(
    ("failure", "status"), [(KeysUnavailable("canary"), 503), (ExchangeRefused("nobody gets no token"), 400)]
)
async def test_who_signs_may_refuse(failure: Exception, status: int) -> None:
    """No key to sign with, or a caller whose time is up."""
    world = a_world()
    world.own_tokens.failure = failure
    reply = await ask(world)
    assert reply.status == status
    assert "canary" not in reply.text


async def test_what_is_given_out_is_good_for_that_function(tmp_path: Path) -> None:
    """With the real signer: judged again it names the same caller for the one function, and is exchanged no further."""
    world = a_world()
    own = OwnTokens(a_key_folder(tmp_path, world.clock))
    world.pages._parts = replace(world.pages._parts, own_tokens=own)
    world.bearers["subject.token.canary"] = Principal("service-account", "ci", expires_at=world.clock() + 60)
    tenant = replace(world.tenants[0], service_accounts=(an_account(name="ci"),))
    answered = json.loads((await ask(world)).body)
    assert answered["expires_in"] == 60
    caller = own.judge(tenant, answered["access_token"], world.clock())
    assert isinstance(caller, Principal), caller
    assert (caller.subject, caller.only_function) == ("service-account|ci", "survey-report")
    world.bearers[answered["access_token"]] = caller
    reply = await ask(world, subject_token=answered["access_token"])
    assert (reply.status, error_of(reply)) == (400, "invalid_request")


async def test_one_address_cannot_have_everything_verified() -> None:
    """AP-R31: beyond the burst 429; logins are counted apart."""
    world = a_world()
    for _ in range(BURST):
        await ask(world, subject_token="unknown")
    assert (await ask(world)).status == 429
    await world.browser().begin()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_only_post_is_served(method: str) -> None:
    """A token in an address would stand in logs; preflights get no CORS."""
    reply = await a_world().ask(f"/.portero/token?{form_body(**GOOD).decode()}", method=method)
    assert (reply.status, reply.field("Allow")) == (405, "POST")
    assert reply.field("Access-Control-Allow-Origin") is None
