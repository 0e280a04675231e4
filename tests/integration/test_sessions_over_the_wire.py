"""
Sessions and credentials as they look on the wire: of a whole Portero with a provider that people log in at, in front of
functions that tell what they got. Tampering with one thing at a time, and that the function got nothing.

Longer than other modules: a session's cookie is followed through all that is done to it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, Final

import jwt
import pytest
from aiohttp import web

from authproxy.demo import people
from authproxy.identity.tokens.key_files import SESSIONS, SIGNING
from tests.fakes.jobs import until
from tests.fakes.login_replicas import (
    CI_KEY,
    PORT,
    REPORT,
    LoginReplicas,
    cookie_of,
    endless,
    running_replicas,
    session_of,
)
from tests.fakes.openfaas import Invocation
from tests.fakes.own_keys import session_key, signing_key
from tests.fakes.provider import compact
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.scripted_browser import Page, ScriptedBrowser
from tests.fakes.world import RawAnswer

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
NAVIGATION: Final = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Accept", "text/html")]
FORM: Final = {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "audience": "function:acme/report"}
OWN: Final = "http://acme.localhost:8088"
SHORT_S: Final = 3
"""Of a login that is to end by itself, and not before the browser is back from it."""


@pytest.fixture
async def world() -> AsyncIterator[LoginReplicas]:
    async with running_replicas() as running:
        yield running


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portero takes a lifetime of seconds for what it is, where it would make half a minute of it."""
    for module in ("token_answer", "grants"):
        monkeypatch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)


@pytest.fixture
def keys_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portero looks at its folder of keys with every request, not every two seconds."""
    monkeypatch.setattr("authproxy.identity.tokens.keyring.LOOK_S", 0.0)


def told(answer: RawAnswer) -> dict[str, str]:
    """What the function was told, names in lower case."""
    assert answer.status == 200, answer.wire
    return {name.lower(): value for name, value in answer.json()["fields"]}


def ours(page: Page) -> list[Page]:
    """Every answer of Portero's in a chain of redirects."""
    return [one for one in (*page.hops, page) if f".localhost:{PORT}" in one.url]


async def expired(world: LoginReplicas) -> ScriptedBrowser:
    """A browser with the cookie of a session that has just ended by itself."""
    world.provider.gives_refresh_tokens, world.provider.login_ttl_s = False, SHORT_S
    browser = await world.log_in()
    await asyncio.sleep(SHORT_S + 0.1)
    return browser


# -- cookies -----------------------------------------------------------------------------------------------------------


def check_cookie(line: str) -> str:
    """The cookie's name, once its attributes are those of AP-R48."""
    pair, *attributes = [part.strip() for part in line.split(";")]
    names = [attribute.partition("=")[0].lower() for attribute in attributes]
    assert sorted(name for name in names if name != "max-age") == ["httponly", "path", "samesite", "secure"], line
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(attributes), line
    name, _, value = pair.partition("=")
    assert re.fullmatch(r"__Host-portero-(session(\.[1-7])?|login-[A-Za-z0-9_-]{8})", name), line
    if value:  # nothing about the person is in reach of who reads it
        assert re.fullmatch(r"[A-Za-z0-9._-]+", value), line
    return name


@pytest.mark.parametrize("store", ["cookie", "redis"])
async def test_every_cookie_has_every_attribute(redis: RedisServer, short_lives: None, store: str) -> None:
    """AP-R48: of the login, of the session, renewed, cleared by a logout and by its end; browsers take all of them."""
    async with running_replicas(redis=redis, store=store) as world:
        world.provider.login_ttl_s = SHORT_S
        browser = world.browser()
        asked = await browser.go(world.origin() + REPORT)
        pages = ours(asked)
        landed = await browser.submit(asked, {"person": "ana", "password": "survey"})
        pages += ours(landed)
        world.provider.login_ttl_s = 1
        await asyncio.sleep(SHORT_S + 0.1)
        pages.append(await browser.go(world.origin() + REPORT))
        world.provider.withdraw("ana")
        await asyncio.sleep(1.1)
        pages += ours(await browser.go(world.origin() + REPORT, follow=False))
        world.provider.login_ttl_s = 300
        await world.log_in(browser=browser)
        pages += ours(await browser.submit(await browser.go(world.origin() + "/.portero/logout"), follow=False))
        lines = [line for page in pages for line in page.every("Set-Cookie")]
        names = [check_cookie(line) for line in lines]
        assert any("login-" in name for name in names)
        assert names.count("__Host-portero-session") == (4 if store == "cookie" else 3), lines
        assert browser.jar.refused == []
        for page in pages:
            if page.every("Set-Cookie"):
                assert "no-store" in ", ".join(page.every("Cache-Control")), page.fields


async def test_large_sessions_are_split(world: LoginReplicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups make several cookies, each with every attribute; without one of them it is no session."""
    groups = ("analysts", *(secrets.token_hex(16) for _ in range(110)))
    monkeypatch.setattr(people, "PEOPLE", tuple(replace(person, groups=groups) for person in people.PEOPLE))
    browser = await world.log_in()
    cookies = session_of(browser)
    assert len(cookies) > 1
    assert all(len(name) + len(value) <= 4096 for name, value in cookies.items())
    assert (await world.ask(f"GET {REPORT}", cookie=cookie_of(browser))).status == 200
    for left_out in cookies:
        rest = "; ".join(f"{name}={value}" for name, value in cookies.items() if name != left_out)
        assert (await world.ask(f"GET {REPORT}", cookie=rest)).status == 401, left_out
    out = await browser.submit(await browser.go(world.origin() + "/.portero/logout"), follow=False)
    assert {check_cookie(line) for line in out.every("Set-Cookie")} >= set(cookies)
    assert session_of(browser) == {}


@pytest.mark.parametrize("store", ["cookie", "redis"])
async def test_a_session_of_one_tenant_is_nothing_on_anothers_host(redis: RedisServer, store: str) -> None:
    """The raw cookie, planted; alone, and beside globex's own session (two of one name: neither counts)."""
    async with running_replicas(redis=redis, store=store) as world:
        ana, gil = await world.log_in(), await world.log_in("gil", tenant="globex")
        stolen, own = cookie_of(ana), cookie_of(gil, "globex")
        world.faas.requests.clear()
        refused = await world.ask(f"GET {REPORT}", tenant="globex", cookie=stolen)
        assert (refused.status, refused.reason) == (401, "credential-missing")
        assert refused.all("set-cookie") == []
        both = await world.ask(f"GET {REPORT}", tenant="globex", cookie=f"{own}; {stolen}")
        assert both.status == 401
        assert world.faas.requests == []
        assert (await world.ask("GET /function/open", tenant="globex", cookie=stolen)).status == 200
        assert "x-portero-subject" not in told(await world.ask("GET /function/open", tenant="globex", cookie=stolen))
        assert told(await world.ask(f"GET {REPORT}", tenant="globex", cookie=own))["x-portero-subject"] == "login|gil"


async def test_what_is_done_to_the_cookie_field_hides_and_doubles_no_session(world: LoginReplicas) -> None:
    """A8, AP-R48: two hundred others, several fields, one name twice in one field or in two, and too much of it all."""
    cookie = cookie_of(await world.log_in())
    others = "; ".join(f"c{number}=v" for number in range(200))
    good: list[list[str]] = [[f"{others}; {cookie}"], [f"{cookie}; {others}"], ["a=1", cookie, "b=2"]]
    doubled: list[list[str]] = [[f"{cookie}; {cookie}"], [cookie, cookie], ["__Host-portero-session=1.AAAA", cookie]]
    expected: list[tuple[list[list[str]], tuple[int, str | None]]] = [
        (good, (200, None)),
        (doubled, (401, "credential-missing")),
        ([[f"{cookie}; x={'y' * 70_000}"]], (431, "head-too-large")),
    ]
    for forms, outcome in expected:
        for values in forms:
            answer = await world.ask(f"GET {REPORT}", fields=[("Cookie", value) for value in values])
            assert (answer.status, answer.reason) == outcome


async def test_a_login_makes_a_new_session_and_ends_the_old_one(world: LoginReplicas) -> None:
    """AP-R5: who plants a session of his own in another's browser has nothing once the other has logged in."""
    attacker = await world.log_in("bob", path="/.portero/whoami")
    victim = world.browser()
    victim.jar.plant("acme.localhost", session_of(attacker))
    page = await victim.go(f"{world.origin()}/.portero/login?prompt=login&return_to=/.portero/whoami")
    landed = await victim.submit(page, {"person": "ana", "password": "survey"})
    assert (landed.status, landed.path) == (200, "/.portero/whoami")
    assert json.loads((await world.whoami(victim)).text)["subject"] == "login|ana"
    assert session_of(victim) != session_of(attacker)
    answer = await world.ask("GET /.portero/whoami", cookie=cookie_of(attacker))
    assert (answer.status, answer.reason) == (401, "session-expired")
    again = cookie_of(victim)
    page = await victim.go(f"{world.origin()}/.portero/login?prompt=login&return_to=/.portero/whoami")
    await victim.submit(page, {"person": "ana", "password": "survey"})
    assert (await world.ask("GET /.portero/whoami", cookie=again)).reason == "session-expired"
    assert (await world.whoami(victim)).status == 200


# -- what the function gets --------------------------------------------------------------------------------------------


async def test_the_function_is_told_who_and_gets_no_credential(world: LoginReplicas) -> None:
    """AP-R55: no cookie of ours, no Authorization, no word of the caller's own making; the other cookies stay."""
    browser = await world.log_in()
    spoofed = [("X-Portero-Subject", "root"), ("X-Portero-Groups", "admins"), ("X_Portero_Subject", "root")]
    by_cookie = await world.ask(f"GET {REPORT}", cookie=f"theme=dark; {cookie_of(browser)}; lang=es", fields=spoofed)
    token = world.provider.issue_token("acme", "ana")
    by_token = await world.ask(f"GET {REPORT}", token=token, cookie=cookie_of(browser))
    for answer in (by_cookie, by_token):
        fields = told(answer)
        assert (fields["x-portero-subject"], fields["x-portero-groups"]) == ("login|ana", "analysts")
        assert fields["x-portero-tenant"] == "acme"
        assert "authorization" not in fields
        assert "portero-session" not in json.dumps(answer.json())
        assert token not in json.dumps(answer.json())
    assert told(by_cookie)["cookie"] == "theme=dark; lang=es"
    assert "cookie" not in told(by_token)


async def test_the_assertion_verifies_with_the_published_keys(world: LoginReplicas) -> None:
    """For this function and tenant, of this type, for minutes; a caller's own assertion is not passed on."""
    browser = await world.log_in()
    forged = [("X-Portero-Assertion", "e30.e30.e30")]
    assertion = told(await world.ask(f"GET {REPORT}", cookie=cookie_of(browser), fields=forged))["x-portero-assertion"]
    claims = await verified(world, assertion, "function:acme/report")
    assert (claims["sub"], claims["groups"], claims["name"]) == ("login|ana", ["analysts"], "Ana Alba")
    assert claims["exp"] - time.time() <= 300
    with pytest.raises(jwt.InvalidAudienceError):
        await verified(world, assertion, "function:acme/open")
    assert (await world.ask(f"GET {REPORT}", token=assertion)).status == 401
    assert "x-portero-assertion" not in told(await world.ask("GET /function/open", fields=forged))


async def verified(world: LoginReplicas, assertion: str, audience: str, tenant: str = "acme") -> dict[str, Any]:
    """As ``docs/examples/verify_assertion.py`` does it. Raises: jwt.PyJWTError."""
    answer = await world.ask("GET /.portero/jwks.json", tenant=tenant)
    header = jwt.get_unverified_header(assertion)
    assert header["typ"] == "portero-assertion+jwt"
    key = jwt.PyJWKSet.from_dict(answer.json())[header["kid"]]
    claims = jwt.decode(
        assertion,
        key,
        algorithms=["ES256"],
        audience=audience,
        issuer=f"urn:portero:{tenant}",
        options={"require": ["exp", "iat", "sub", "aud", "iss"], "strict_aud": True},
    )
    return dict(claims)


# -- pages of other origins --------------------------------------------------------------------------------------------

FROM_ELSEWHERE: Final = {
    "nothing said": [],
    "null": [("Origin", "null")],
    "another site": [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")],
    "another tenant": [("Origin", "http://globex.localhost:8088"), ("Sec-Fetch-Site", "same-site")],
    "another port": [("Origin", "http://acme.localhost:9099"), ("Sec-Fetch-Site", "same-site")],
    "another scheme": [("Origin", "https://acme.localhost:8088")],
    "ours as a beginning": [("Origin", f"{OWN}.evil.example")],
    "same-site alone": [("Sec-Fetch-Site", "same-site")],
}


@pytest.mark.parametrize("fields", FROM_ELSEWHERE.values(), ids=FROM_ELSEWHERE.keys())
async def test_a_page_of_another_origin_changes_nothing(world: LoginReplicas, fields: list[tuple[str, str]]) -> None:
    """POST and websocket by cookie: 403 origin-refused, and the function got nothing; a token is no page's doing."""
    browser = await world.log_in()
    world.faas.requests.clear()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await world.ask(f"{method} /function/report", cookie=cookie_of(browser), fields=fields, body=b"x")
        assert (answer.status, answer.reason) == (403, "origin-refused"), method
    upgrade = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    wire = await world.ask(
        "GET /function/localhost/socket",
        cookie=cookie_of(browser),
        fields=[("Connection", "Upgrade"), *upgrade, *fields],
    )
    assert (wire.status, wire.reason) == (403, "origin-refused")
    assert world.faas.requests == []
    assert world.sockets == []
    token = world.provider.issue_token("acme", "ana")
    assert (await world.ask("POST /function/report", token=token, fields=fields, body=b"x")).status == 200


async def test_a_page_of_our_own_may(world: LoginReplicas) -> None:
    """By Origin, or by what the browser says; and its websocket gets no credential through to the function."""
    browser = await world.log_in()
    for fields in ([("Origin", OWN)], [("Sec-Fetch-Site", "same-origin")], [("Sec-Fetch-Site", "none")]):
        answer = await world.ask("POST /function/report", cookie=cookie_of(browser), fields=fields, body=b"x")
        assert told(answer)["x-portero-subject"] == "login|ana"
    async with world.websocket(cookie=cookie_of(browser)) as socket:
        assert socket.status == 101
        await socket.send(b"\x81\x82\0\0\0\0hi")
        await until(lambda: len(socket.received) >= 4)
        assert socket.received == b"\x81\x02hi"
    assert world.sockets[0]["x-portero-subject"] == "login|ana"
    assert "cookie" not in world.sockets[0]


async def test_only_a_navigation_is_sent_to_the_login(world: LoginReplicas) -> None:
    """AP-R49: a script, a program, a form, a frame of a picture get 401 and no redirect."""
    sent = await world.ask(f"GET {REPORT}", fields=NAVIGATION)
    assert (sent.status, sent.field("location")) == (302, "/.portero/login?return_to=/reports/es%3Fyear%3D2026")
    others: list[list[tuple[str, str]]] = [
        [],
        [("Sec-Fetch-Mode", "cors"), ("Accept", "text/html")],
        [("Sec-Fetch-Mode", "no-cors"), ("Accept", "text/html")],
        [("Sec-Fetch-Mode", "navigate"), ("Accept", "application/json")],
        [("Accept", "text/html")],
    ]
    for fields in others:
        answer = await world.ask(f"GET {REPORT}", fields=fields)
        assert (answer.status, answer.field("location")) == (401, None), fields
        assert answer.field("www-authenticate") == 'Bearer realm="acme"'
    posted = await world.ask("POST /function/report", fields=NAVIGATION, body=b"x")
    assert (posted.status, posted.field("location")) == (401, None)


# -- its end, and its renewal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["cookie", "redis"])
async def test_a_session_that_has_ended_is_nobodys(redis: RedisServer, short_lives: None, store: str) -> None:
    """A public function answers as to anybody; a protected one says why; the browser is told to forget the cookie."""
    async with running_replicas(redis=redis, store=store) as world:
        browser = await expired(world)
        public = await world.ask("GET /function/open", cookie=cookie_of(browser))
        assert "x-portero-subject" not in told(public)
        assert "Max-Age=0" in (public.field("set-cookie") or "")
        protected = await world.ask(f"GET {REPORT}", cookie=cookie_of(browser))
        assert (protected.status, protected.reason) == (401, "session-expired")
        sent = await world.ask(f"GET {REPORT}", cookie=cookie_of(browser), fields=NAVIGATION)
        assert sent.status == 302
        assert (sent.field("location") or "").startswith("/.portero/login?return_to=/reports/es")


async def test_a_refresh_gives_the_cookie_on_the_functions_answer(world: LoginReplicas, short_lives: None) -> None:
    """No shared cache may keep what a session was given in, whatever the function says of its answer."""

    async def for_everybody(_: Invocation) -> web.StreamResponse:
        fields = {"Cache-Control": "public, max-age=600", "CDN-Cache-Control": "max-age=9", "Set-Cookie": "theme=dark"}
        return web.Response(text="the report", headers=fields)

    world.faas.add("report", "acme", handler=for_everybody)
    world.provider.login_ttl_s = SHORT_S
    browser = await world.log_in()
    before = session_of(browser)
    fresh = await world.ask(f"GET {REPORT}", cookie=cookie_of(browser))
    assert (fresh.all("set-cookie"), fresh.all("cache-control")) == (["theme=dark"], ["public, max-age=600"])
    await asyncio.sleep(SHORT_S + 0.1)
    page = await browser.go(world.origin() + REPORT)
    assert (page.status, page.text) == (200, "the report")
    assert page.every("Cache-Control") == ["private, no-store"]
    assert page.every("CDN-Cache-Control") == []
    assert len(page.every("Set-Cookie")) == 2
    assert session_of(browser).keys() == before.keys()
    assert session_of(browser) != before
    assert world.provider.refreshes == 1
    assert (await browser.go(world.origin() + REPORT)).status == 200


async def test_a_provider_that_fails_is_not_the_end_of_a_session(world: LoginReplicas, short_lives: None) -> None:
    """Once the claims are too old: 503 while nobody can be asked, and no answer without the question."""
    world.provider.login_ttl_s = 1
    browser = await world.log_in()
    await world.provider.stop()
    await asyncio.sleep(1.1)
    world.faas.requests.clear()
    answer = await world.ask(f"GET {REPORT}", cookie=cookie_of(browser))
    assert (answer.status, answer.reason) == (503, "provider-unavailable")
    assert answer.all("set-cookie") == []
    assert world.faas.requests == []


# -- credentials that are no sessions ----------------------------------------------------------------------------------


async def test_what_programs_bring(world: LoginReplicas) -> None:
    """An API key, a service account's token, an exchanged token: each for what it is for, and each in its own name."""
    assert told(await world.ask("GET /function/job", token=world.api_key))["x-portero-subject"] == "api-key|reporting"
    assert (await world.ask("GET /function/live", token=world.api_key)).status == 403
    assert (await world.ask("GET /function/job", tenant="globex", token=world.api_key)).status == 401
    other = world.api_key[:-1] + ("A" if world.api_key[-1] != "A" else "E")
    assert (await world.ask("GET /function/job", token=other)).status == 401
    now = int(time.time())
    claims = {"iss": "acme/ci", "sub": "ci", "aud": "survey", "iat": now, "exp": now + 60, "jti": "1"}
    signed = compact({"alg": "ES256", "typ": "JWT"}, claims, CI_KEY)
    assert told(await world.ask("GET /function/job", token=signed))["x-portero-subject"] == "service-account|ci"
    assert (await world.ask("GET /function/job", tenant="globex", token=signed)).status == 401


@pytest.mark.parametrize("whose", ["ana", "api-key"])
async def test_an_exchanged_token_is_for_its_function_alone(world: LoginReplicas, whose: str) -> None:
    """Not for another one, another tenant, our own pages, or another exchange."""
    subject = world.provider.issue_token("acme", "ana") if whose == "ana" else world.api_key
    exchanged = await world.post("/.portero/token", FORM | {"subject_token": subject})
    assert exchanged.status == 200, exchanged.wire
    assert "no-store" in (exchanged.field("cache-control") or "")
    token = exchanged.json()["access_token"]
    assert (await world.ask("GET /function/report", token=token)).status == 200
    for path in ("/function/live", "/function/job", "/function/open", "/.portero/whoami"):
        answer = await world.ask(f"GET {path}", token=token)
        assert (answer.status, answer.reason) in {(401, "credential-invalid"), (403, "no-rule-allows")}, path
    assert (await world.ask("GET /function/report", tenant="globex", token=token)).status == 401
    other = await world.post("/.portero/token", FORM | {"subject_token": token, "audience": "function:acme/job"})
    assert (other.status, other.json()["error"]) == (400, "invalid_target")


async def test_authorization_wins_over_the_cookie(world: LoginReplicas) -> None:
    """Also when it is bad: a refusal, and never the cookie's session instead."""
    browser = await world.log_in()
    key = await world.ask("GET /function/job", token=world.api_key, cookie=cookie_of(browser))
    assert told(key)["x-portero-subject"] == "api-key|reporting"
    for authorization in ("Bearer x", "Bearer e30.e30.e30", "Basic YTpi", "Bearer"):
        fields = [("Authorization", authorization)]
        for path in (REPORT, "/function/open"):
            answer = await world.ask(f"GET {path}", cookie=cookie_of(browser), fields=fields)
            assert answer.status in {400, 401}, (authorization, path)
    exchanged = await world.post("/.portero/token", FORM, cookie=cookie_of(browser), fields=[("Origin", OWN)])
    assert exchanged.status == 400


# -- keys, stores, restarts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["cookie", "redis"])
async def test_keys_are_rotated_and_nobody_is_logged_out(
    redis: RedisServer, keys_are_read_at_once: None, store: str
) -> None:
    """Old and new sessions live beside each other; without its key the old one is nobody's."""
    async with running_replicas(2, redis=redis, store=store) as world:
        old = await world.log_in()
        session_key(world.folder / "keys", "2026-02", time.time() - 1_000)
        new = await world.log_in("dan")
        for browser in (old, new):
            for at in (0, 1):
                assert (await world.ask(f"GET {REPORT}", at=at, cookie=cookie_of(browser))).status == 200
        (world.folder / "keys" / SESSIONS / "2026-01.key").unlink()
        await world.restart(1)
        assert (await world.ask(f"GET {REPORT}", at=1, cookie=cookie_of(new))).status == 200
        answer = await world.ask(f"GET {REPORT}", at=1, cookie=cookie_of(old))
        assert (answer.status, answer.reason) == (401, "credential-missing")


async def test_signing_keys_are_rotated_and_every_assertion_verifies(
    world: LoginReplicas, keys_are_read_at_once: None
) -> None:
    """A new key is published before it is used, and the old one after it no longer is."""
    cookie = cookie_of(await world.log_in())
    before = told(await world.ask(f"GET {REPORT}", cookie=cookie))["x-portero-assertion"]
    folder = world.folder / "keys"
    signing_key(folder, "2026-02", time.time(), number=73)
    published = [key["kid"] for key in (await world.ask("GET /.portero/jwks.json")).json()["keys"]]
    assert len(published) == 2
    announced = told(await world.ask(f"GET {REPORT}", cookie=cookie))["x-portero-assertion"]
    assert kid(announced) == kid(before)
    signing_key(folder, "2026-02", time.time() - 301, number=73)
    used = told(await world.ask(f"GET {REPORT}", cookie=cookie))["x-portero-assertion"]
    assert kid(used) != kid(before)
    for assertion in (before, announced, used):
        await verified(world, assertion, "function:acme/report")
    (folder / SIGNING / "2026-01.pem").unlink()
    with pytest.raises(KeyError):
        await verified(world, before, "function:acme/report")


def kid(assertion: str) -> str:
    return str(jwt.get_unverified_header(assertion)["kid"])


async def test_tickets_need_redis_and_sealed_cookies_do_not(redis: RedisServer) -> None:
    """Design section 16: 503 session-store-unavailable for the one, nothing for the other; then as before."""
    async with (
        running_replicas(redis=redis, store="redis") as tickets,
        running_replicas(redis=redis, store="cookie") as sealed,
    ):
        by_ticket, by_cookie = cookie_of(await tickets.log_in()), cookie_of(await sealed.log_in())
        assert (await tickets.ask(f"GET {REPORT}", cookie=by_ticket)).status == 200
        redis.freeze()
        await asyncio.sleep(2.1)  # what the store said of a ticket is used for two seconds
        tickets.faas.requests.clear()
        refused = await tickets.ask(f"GET {REPORT}", cookie=by_ticket)
        assert (refused.status, refused.reason) == (503, "session-store-unavailable")
        assert refused.all("set-cookie") == []
        assert tickets.faas.requests == []
        asked = await tickets.browser().go(tickets.origin() + REPORT, follow=False)
        assert asked.status == 302
        assert (await sealed.ask(f"GET {REPORT}", cookie=by_cookie)).status == 200
        redis.thaw()
        deadline = time.monotonic() + 20
        while (await tickets.ask(f"GET {REPORT}", cookie=by_ticket)).status != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("store", ["cookie", "redis"])
@pytest.mark.parametrize("has_keys", [True, False], ids=["keys", "no-keys"])
async def test_a_restart_keeps_sessions_where_there_are_keys(redis: RedisServer, store: str, has_keys: bool) -> None:
    """With ``--keys`` they go on; without, they were of the process that has ended, and nothing is said of them."""
    async with running_replicas(redis=redis, store=store, has_keys=has_keys) as world:
        cookie = cookie_of(await world.log_in())
        await world.restart(0)
        answer = await world.ask(f"GET {REPORT}", cookie=cookie)
        assert (answer.status, answer.reason) == ((200, None) if has_keys else (401, "credential-missing"))


async def test_what_redis_holds_is_of_no_use_without_the_cookie(redis: RedisServer) -> None:
    """A dump of the store names nobody and gives no token away."""
    async with running_replicas(redis=redis, store="redis") as world:
        browser = await world.log_in()
        await world.tell_logout(sub="bob")
        keys = re.findall(rb"\$\d+\r\n(portero:[^\r]+)", redis.command("KEYS", "*"))
        assert any(b"ticket" in key for key in keys), keys
        kinds = {key: redis.command("TYPE", key.decode()) for key in keys}
        dump = b"".join(redis.command("DUMP", key.decode()) + key for key in kinds)
        for word in (b"ana", b"Ana", b"analysts", b"eyJ", b"login|", b"bob"):
            assert word not in dump, word
        [value] = session_of(browser).values()
        assert value.encode() not in dump


async def test_a_stream_by_cookie_holds_nothing_back(world: LoginReplicas) -> None:
    """The first event arrives at once, and the function learns whose the stream is."""
    world.faas.add("live", "acme", handler=endless)
    browser = await world.log_in()
    async with world.stream(cookie=cookie_of(browser)) as stream:
        await until(lambda: b"data: x" in stream.received, timeout_s=5.0)
    assert dict(world.faas.requests[-1].fields)["X-Portero-Subject"] == "login|ana"
