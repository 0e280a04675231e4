"""
A whole Portero against a provider that others wrote, in every way that a policy can be its client.

Each tenant of ``tests/worlds/oidc`` is another: how the client proves itself, whether requests are pushed, where groups
stand, how long tokens live, what they are bound to. The usual login alone is ``test_login.py``; programs with opaque
and DPoP-bound tokens are ``test_tokens_of_oidc_provider.py``. Longer than other modules: one world is up for all of it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
import pytest_asyncio

from tests.fakes.oidc_world import (
    SHORT_S,
    Certificate,
    OidcWorld,
    a_certificate,
    ask,
    outcome,
    people,
    running_oidc_world,
    running_portero,
    told,
    whoami,
    write_policies,
)
from tests.fakes.provider import Key
from tests.fakes.scripted_browser import Page, ScriptedBrowser

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPORT = "/reports/es?year=2026"
JOB = "/function/job"
ANA = {"login": "ana"}
INTERVAL_S = 1.0
"""Between two fetches of keys, ten seconds otherwise: rotations have to follow each other within the test."""
INTERVAL: Final = "authproxy.identity.providers.jwks.MIN_INTERVAL_S"
PATIENCE_S = 3
"""For what has to happen within two seconds: these are made so many more."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[OidcWorld]:
    with pytest.MonkeyPatch.context() as patch:
        # Lifetimes of seconds are taken for what they are, where Portero would make half a minute of them or refuse.
        for module in ("token_answer", "grants"):
            patch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)
        patch.setattr("policies.group_compiler.MIN_MAX_AGE_S", 1.0)
        patch.setattr(INTERVAL, INTERVAL_S)
        async with running_oidc_world() as world:
            yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(running: OidcWorld) -> AsyncIterator[OidcWorld]:
    """Clients, people and counts as at the beginning; sessions of other tests go on."""
    await running.provider.forget_counts()
    yield running
    await running.register()
    for name in ("acme", "globex", "staff", "partner"):
        await running.issuer(name).set_accounts(people())
        await running.issuer(name).fault("/token", times=0)
        await running.issuer(name).fault("/jwks", times=0)


async def begin(world: OidcWorld, browser: ScriptedBrowser, tenant: str = "acme", provider: str = "login") -> Page:
    """Open a protected page and end where the provider asks who it is, or back at the page when it knows."""
    page = await browser.go(world.origin(tenant) + REPORT)
    if page.path.startswith("/.portero/login"):
        [href] = [link for link in links(page) if f"provider={provider}" in link]
        page = await browser.click(page, href)
    return page


async def log_in(
    world: OidcWorld, browser: ScriptedBrowser, tenant: str = "acme", provider: str = "login", who: str = "ana"
) -> Page:
    page = await begin(world, browser, tenant, provider)
    return await browser.submit(page, {"login": who}) if page.forms else page


def links(page: Page) -> list[str]:
    return [piece.partition('"')[0].replace("&amp;", "&") for piece in page.text.split('href="')[1:]]


def query_of(url: str | None) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url or "").query).items()}


async def until(ask_again: Callable[[], Awaitable[Page]], status: int) -> Page:
    """The first answer of that status. Raises: TimeoutError."""
    async with asyncio.timeout(20):
        while True:
            page = await ask_again()
            if page.status == status:
                return page
            await asyncio.sleep(0.1)


# -- login -------------------------------------------------------------------------------------------------------------


async def test_a_login_asks_with_everything_that_binds_it(world: OidcWorld) -> None:
    """In the open: code, PKCE S256, state, nonce and our one address; pushed: nothing of that is in the browser."""
    open_, pushed = world.issuer("partner").issuer, world.issuer("acme").issuer
    page = await world.browser().go(f"{world.origin('initech')}/.portero/login?provider=partner", stop_at=open_)
    said = query_of(page.location)
    assert (said["response_type"], said["code_challenge_method"], said["client_id"]) == ("code", "S256", "portero")
    assert said["redirect_uri"] == f"{world.origin('initech')}/.portero/callback"
    assert min(len(said[name]) for name in ("state", "nonce", "code_challenge")) >= 32
    page = await world.browser().go(world.origin() + REPORT, stop_at=pushed)
    assert query_of(page.location).keys() == {"client_id", "request_uri"}
    counts = await world.issuer().counts()
    assert counts["/request"] == 1


async def test_a_person_lands_where_she_wanted_and_the_function_sees_who_she_is(world: OidcWorld) -> None:
    """Path and query are kept; subject and groups reach the function; the provider named itself in its answer."""
    browser = world.browser()
    page = await log_in(world, browser)
    assert (page.status, page.url) == (200, world.origin() + REPORT)
    [callback] = [hop for hop in page.hops if "/.portero/callback" in hop.url]
    assert query_of(callback.url)["iss"] == world.issuer().issuer
    got = {name.lower(): value for name, value in json.loads(page.text)["fields"]}
    assert (got["x-portero-subject"], got["x-portero-groups"]) == ("login|ana", "analysts")
    assert not {"cookie", "authorization"} & got.keys()
    assert browser.jar.refused == []


async def test_an_answer_of_another_issuer_spends_no_code(world: OidcWorld) -> None:
    """RFC 9207: a provider that promises ``iss`` is not heard without it, nor under another's name."""
    for changed in ({"iss": world.issuer("globex").issuer}, {"iss": world.issuer().issuer + "/"}, {}):
        browser = world.browser()
        sent = await browser.submit(await begin(world, browser), ANA, stop_at=world.origin())
        said = {name: value for name, value in query_of(sent.location).items() if name != "iss"}
        page = await browser.go(f"{world.origin()}/.portero/callback?{urlencode({**said, **changed})}")
        assert outcome(page) == (400, "login-failed")
        assert (await whoami(world, browser)).status == 401
    assert "/token" not in await world.issuer().counts()


async def test_a_code_is_good_in_its_browser_at_its_tenant_and_once(world: OidcWorld) -> None:
    """AP-R42, R47: elsewhere it is not even shown to the provider, and a second time it changes nothing."""
    browser = world.browser()
    sent = await browser.submit(await begin(world, browser), ANA, stop_at=world.origin())
    callback = sent.location or ""
    assert outcome(await world.browser().go(callback)) == (400, "login-failed")
    elsewhere = callback.replace("//acme.", "//globex.")
    assert outcome(await browser.go(elsewhere)) == (400, "login-failed")
    assert "/token" not in await world.issuer().counts()
    assert (await browser.go(callback)).url == world.origin() + REPORT
    again = await browser.go(callback, follow=False)
    assert (again.status, again.location) == (303, f"{world.origin()}/")
    assert (await world.issuer().counts())["/token"] == 1


async def test_a_denied_login_says_so_and_can_be_tried_again(world: OidcWorld) -> None:
    """Whoever says no at the provider gets our page with the reason, no session, and a way back to the same page."""
    browser = world.browser()
    page = await browser.submit(await begin(world, browser), {"deny": "yes"})
    assert outcome(page) == (400, "login-failed")
    assert "did not let you in" in page.text
    assert "access_denied" in page.text
    assert "whoever it was" not in page.text
    assert (await whoami(world, browser)).status == 401
    assert "/token" not in await world.issuer().counts()
    [retry] = [link for link in links(page) if link.startswith("/.portero/login")]
    asked = await browser.click(page, retry)
    assert (await browser.submit(asked, ANA)).url == world.origin() + REPORT


async def test_who_is_not_known_there_does_not_come_back(world: OidcWorld) -> None:
    """A name that the provider does not know stays its business; here nobody is logged in."""
    browser = world.browser()
    page = await browser.submit(await begin(world, browser), {"login": "nobody"})
    assert page.url.startswith(world.issuer().issuer)
    assert (await whoami(world, browser)).status == 401


async def test_prompt_asks_a_person_who_is_known_there_again(world: OidcWorld) -> None:
    """
    Who is logged in at the provider needs no form; ``prompt=login`` wants one, even of who is logged in here, and what
    comes of it is another session (AP-R5).
    """
    browser, copy = world.browser(), world.browser()
    await log_in(world, browser)
    browser.jar.forget("acme.localhost")
    assert (await begin(world, browser)).url == world.origin() + REPORT
    login = f"{world.origin()}/.portero/login?return_to=/reports/fr"
    assert (await browser.go(login)).url == f"{world.origin()}/reports/fr"
    asked = await browser.go(f"{login}&prompt=login")
    assert asked.url.startswith(f"{world.issuer().issuer}/interaction/")
    copy.jar.plant("acme.localhost", browser.jar.values("acme.localhost"))
    assert (await browser.submit(asked, ANA)).url == f"{world.origin()}/reports/fr"
    assert told(await whoami(world, browser))["subject"] == "login|ana"
    assert outcome(await whoami(world, copy)) == (401, "session-expired")
    assert outcome(await browser.go(f"{login}&prompt=none")) == (400, "bad-request")


async def test_two_tabs_log_in_at_two_providers_at_once(world: OidcWorld) -> None:
    """The chooser has both; each tab comes back to its own page; the login that ended last is the session."""
    browser = world.browser()
    chooser = await browser.go(world.origin("initech") + "/reports/es")
    assert (chooser.status, "Initech staff" in chooser.text, "Partners" in chooser.text) == (200, True, True)
    [to_staff] = [link for link in links(chooser) if "provider=staff" in link]
    other_chooser = await browser.go(world.origin("initech") + "/reports/fr")
    [to_partner] = [link for link in links(other_chooser) if "provider=partner" in link]
    by_staff, by_partner = await browser.click(chooser, to_staff), await browser.click(other_chooser, to_partner)
    assert [page.url.partition("/interaction/")[0] for page in (by_staff, by_partner)] == [
        world.issuer(name).issuer for name in ("staff", "partner")
    ]
    assert (await browser.submit(by_partner, ANA)).url == world.origin("initech") + "/reports/fr"
    assert told(await whoami(world, browser, "initech"))["subject"] == "partner|ana"
    assert (await browser.submit(by_staff, ANA)).url == world.origin("initech") + "/reports/es"
    assert told(await whoami(world, browser, "initech"))["subject"] == "staff|ana"


async def test_a_client_with_a_key_pushes_its_requests(world: OidcWorld) -> None:
    """PAR that the provider requires, by ``private_key_jwt``; with a key that it does not know nobody is sent off."""
    browser = world.browser()
    page = await log_in(world, browser, "globex")
    assert (page.status, page.url) == (200, world.origin("globex") + REPORT)
    counts = await world.issuer("globex").counts()
    assert (counts["/request"], counts["/token"], counts["authorization_code granted"]) == (1, 1, 1)
    other = {"jwks": {"keys": [Key("login-key", "EC", 32).jwk()]}}
    await world.issuer("globex").set_clients(world.login_client("globex") | other)
    page = await world.browser().go(world.origin("globex") + REPORT)
    assert outcome(page) == (503, "provider-unavailable")
    assert world.issuer("globex").issuer not in page.text


# -- refresh -----------------------------------------------------------------------------------------------------------


async def test_tokens_of_seconds_are_refreshed_once_however_many_ask(world: OidcWorld) -> None:
    """Every round of requests after the tokens' time is one refresh with a rotated token, and nobody is logged out."""
    browser, partner = world.browser(), world.issuer("partner")
    await log_in(world, browser, "initech", "partner")
    for rounds in (1, 2):
        await asyncio.sleep(SHORT_S + 0.2)
        pages = await asyncio.gather(*(browser.go(world.origin("initech") + REPORT) for _ in range(20)))
        assert {page.status for page in pages} == {200}
        counts = await partner.counts()
        assert (counts["refresh_token granted"], counts["authorization_code granted"]) == (rounds, 1)
        assert "refresh_token invalid_grant" not in counts
    assert told(await whoami(world, browser, "initech"))["subject"] == "partner|ana"


async def test_a_withdrawn_grant_ends_the_session_at_the_next_need(world: OidcWorld) -> None:
    """Until the tokens' time is over nobody is asked; then the session is over, and a page is a login again."""
    browser, partner = world.browser(), world.issuer("partner")
    await log_in(world, browser, "initech", "partner")
    assert await partner.revoke("ana") >= 1
    assert (await whoami(world, browser, "initech")).status == 200
    page = await until(lambda: whoami(world, browser, "initech"), 401)
    assert outcome(page) == (401, "session-expired")
    assert (await partner.counts())["refresh_token invalid_grant"] == 1
    assert (await browser.go(world.origin("initech") + REPORT)).path.startswith("/.portero/login")


async def test_a_provider_that_is_down_costs_answers_and_no_session(world: OidcWorld) -> None:
    """503 while the claims are too old and nobody says anew; the cookies stay, and so does the session."""
    browser, partner = world.browser(), world.issuer("partner")
    await log_in(world, browser, "initech", "partner")
    await partner.fault("/token", status=503, times=1000)
    page = await until(lambda: browser.go(world.origin("initech") + REPORT), 503)
    assert outcome(page) == (503, "provider-unavailable")
    assert page.field("Retry-After")
    assert page.every("Set-Cookie") == []
    await partner.fault("/token", times=0)
    page = await until(lambda: browser.go(world.origin("initech") + REPORT), 200)
    assert page.hops == ()
    counts = await partner.counts()
    assert (counts["authorization_code granted"], "refresh_token invalid_grant" in counts) == (1, False)


async def test_new_keys_at_the_moment_of_a_refresh_cost_no_session(world: OidcWorld) -> None:
    """
    The refreshed ID token has a key that may not be asked for yet, because somebody just asked for another: the
    refresh token is spent, so the keys are waited for and the session goes on. So does a login of that moment.
    """
    another = world.browser()
    asked = await begin(world, another, "initech", "partner")
    browser, partner = world.browser(), world.issuer("partner")
    await log_in(world, browser, "initech", "partner")
    await asyncio.sleep(SHORT_S + 0.2)
    claims = {"iss": partner.issuer, "sub": "x", "aud": "survey", "exp": int(time.time()) + 60, "iat": int(time.time())}
    before = (await partner.counts()).get("/jwks", 0)
    reply = await world.ask(f"Bearer {forged(claims, 'unknown')}", JOB, tenant="initech")
    assert outcome(reply) == (401, "credential-invalid")
    assert (await partner.counts())["/jwks"] == before + 1
    await partner.rotate("replace")
    pages = await asyncio.gather(browser.go(world.origin("initech") + REPORT), another.submit(asked, ANA))
    assert [page.url for page in pages if page.status == 200] == [world.origin("initech") + REPORT] * 2
    counts = await partner.counts()
    assert (counts["refresh_token granted"], "refresh_token invalid_grant" in counts) == (1, False)
    assert counts["/jwks"] == before + 2


@pytest.mark.parametrize(
    ("tenant", "provider", "issuer"),
    [("initech", "partner", "partner"), ("initech", "staff", "staff"), ("globex", "login", "globex")],
    ids=["id_token", "access_token", "userinfo"],
)
async def test_groups_are_what_the_provider_says_now(world: OidcWorld, tenant: str, provider: str, issuer: str) -> None:
    """AP-R12: a group that is gone there is gone here with the next refresh, one that came is there; never a union."""
    browser = world.browser()
    page = await log_in(world, browser, tenant, provider)
    assert (page.status, told(await whoami(world, browser, tenant))["groups"]) == (200, ["analysts"])
    await world.issuer(issuer).set_accounts(people(ana=["others"]))
    page = await until(lambda: browser.go(world.origin(tenant) + REPORT), 403)
    assert outcome(page) == (403, "no-rule-allows")
    assert told(await whoami(world, browser, tenant))["groups"] == ["others"]
    await world.issuer(issuer).set_accounts(people(ana=["analysts"]))
    await until(lambda: browser.go(world.origin(tenant) + REPORT), 200)
    assert (await world.issuer(issuer).counts())["authorization_code granted"] == 1


# -- logout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["acme", "globex"])
async def test_logout_ends_it_here_and_there_and_comes_back(world: OidcWorld, tenant: str) -> None:
    """RP-initiated: the refresh token is given back, the provider's session ends, and our page says so."""
    browser = world.browser()
    await log_in(world, browser, tenant)
    asked = await browser.submit(await browser.go(f"{world.origin(tenant)}/.portero/logout"))
    assert asked.url.startswith(f"{world.issuer(tenant).issuer}/session/end")
    assert (await whoami(world, browser, tenant)).status == 401
    out = await browser.submit(asked, {"logout": "yes"})
    assert (out.status, out.url.partition("?")[0]) == (200, f"{world.origin(tenant)}/.portero/logout")
    assert "You are logged out" in out.text
    assert (await world.issuer(tenant).counts())["/token/revocation"] == 1
    assert (await begin(world, browser, tenant)).url.startswith(f"{world.issuer(tenant).issuer}/interaction/")


async def test_a_logout_at_the_provider_ends_that_session_and_then_all(
    world: OidcWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back channel: by ``sid`` the one browser's session, by ``sub`` alone all of the person's, and of nobody else."""
    monkeypatch.setattr("authproxy.identity.shared.marks.SKEW_S", 1 + PATIENCE_S)
    one, two, bobs = world.browser(), world.browser(), world.browser()
    for browser, who in ((one, "ana"), (two, "ana"), (bobs, "bob")):
        await log_in(world, browser, who=who)
    asked = await one.go(f"{world.issuer().issuer}/session/end")
    await one.submit(asked, {"logout": "yes"})
    assert outcome(await whoami(world, one)) == (401, "session-expired")
    assert [(await whoami(world, browser)).status for browser in (two, bobs)] == [200, 200]
    assert (await world.issuer().tell_logout("portero", "ana"))["status"] == 200
    assert outcome(await whoami(world, two)) == (401, "session-expired")
    assert told(await whoami(world, bobs))["subject"] == "login|bob"
    # Within two seconds nobody can tell which came first: that is said, and no browser goes round in circles.
    assert outcome(await log_in(world, two)) == (400, "login-failed")
    await asyncio.sleep(2 + PATIENCE_S)
    assert (await log_in(world, two)).status == 200


async def test_logout_tokens_end_nothing_at_another_tenant(world: OidcWorld) -> None:
    """A provider of one tenant is nobody at the other's back channel, and its own people stay logged in."""
    browser, other = world.browser(), world.browser()
    await log_in(world, browser)
    await log_in(world, other, "globex")
    address = f"{world.origin('globex')}/.portero/backchannel-logout"
    await world.issuer().set_clients(world.login_client("acme") | {"backchannel_logout_uri": address})
    assert (await world.issuer().tell_logout("portero", "ana"))["status"] == 400
    assert [(await whoami(world, browser)).status, (await whoami(world, other, "globex")).status] == [200, 200]


async def test_a_logout_with_a_key_that_may_not_be_asked_for_yet_can_be_sent_again(
    world: OidcWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 and not 400: whether it is a logout is not known. As soon as the keys may be asked for, it is one."""
    browser, issuer = world.browser(), world.issuer()
    await log_in(world, browser, who="bob")
    monkeypatch.setattr(INTERVAL, 0.0)
    now = int(time.time())
    claims = {"iss": issuer.issuer, "sub": "x", "aud": "survey", "iat": now, "exp": now + 60}
    assert (await world.ask(f"Bearer {forged(claims, 'no-key')}", JOB)).status == 401
    monkeypatch.setattr(INTERVAL, 60.0)
    await issuer.rotate("replace")
    assert (await issuer.tell_logout("portero", "bob"))["status"] == 503
    assert (await whoami(world, browser)).status == 200
    monkeypatch.setattr(INTERVAL, 0.0)
    assert (await issuer.tell_logout("portero", "bob"))["status"] == 200
    assert outcome(await whoami(world, browser)) == (401, "session-expired")


# -- programs ----------------------------------------------------------------------------------------------------------


async def bound_token(world: OidcWorld, certificate: Certificate) -> str:
    client = await world.program("umbrella")
    answer = await client.ask(
        client.metadata["token_endpoint"],
        {"grant_type": "client_credentials"},
        fields={"Client-Cert": certificate.escaped},
    )
    assert answer.status == 200, answer
    return str(answer.body["access_token"])


async def test_a_token_of_a_certificate_wants_it_from_a_trusted_peer(world: OidcWorld) -> None:
    """RFC 8705 behind a proxy that ends TLS: the very certificate, in either spelling; without it the token is void."""
    mine, other = a_certificate("mine"), a_certificate("other")
    bearer = f"Bearer {await bound_token(world, mine)}"
    for spelling in (mine.field, mine.escaped):
        reply = await world.ask(bearer, JOB, tenant="umbrella", Client_Cert=spelling)
        assert reply.status == 200
        assert not {name.lower() for name, _ in reply.body["fields"]} & {"client-cert", "authorization"}
    for fields in ({}, {"Client_Cert": other.field}, {"Client_Cert": other.escaped}):
        reply = await world.ask(bearer, JOB, tenant="umbrella", **fields)
        assert outcome(reply) == (401, "credential-invalid"), fields


async def test_where_tokens_must_be_bound_another_is_none(world: OidcWorld) -> None:
    """``bound_tokens: require``: the same provider's token that is bound to nothing, with or without a certificate."""
    await world.issuer("umbrella").set_clients(world.program_client(is_bound=False))
    token = (await (await world.program("umbrella")).token("client_credentials")).body["access_token"]
    assert "cnf" not in jwt.decode(token, options={"verify_signature": False})
    for fields in ({}, {"Client_Cert": a_certificate("any").field}):
        reply = await world.ask(f"Bearer {token}", JOB, tenant="umbrella", **fields)
        assert outcome(reply) == (401, "credential-invalid"), fields


async def test_a_token_of_a_certificate_wants_it_from_the_connection(world: OidcWorld, tmp_path: Path) -> None:
    """RFC 8705 over TLS of our own: the certificate of the handshake counts, and a field that names it is nothing."""
    mine, other, server = (a_certificate(name) for name in ("mine", "other", "umbrella.localhost"))
    bearer = f"Bearer {await bound_token(world, mine)}"
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(mine.pem + other.pem)
    believed = "trusted_peers: [127.0.0.1/32]\nclient_certificates: trusted-peers\n"
    write_policies(tmp_path, {believed: "", **world.addresses})
    certificate_file, key_file = server.write(tmp_path / "server")
    tls_files = {"tls_cert": certificate_file, "tls_key": key_file, "tls_client_ca": authorities}

    def tls(certificate: Certificate | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=server.pem.decode())
        if certificate is not None:
            context.load_cert_chain(*certificate.write(tmp_path / certificate.field[-20:].replace("/", "_")))
        return context

    async with running_portero(tmp_path, secrets=world.folder / "secrets", **tls_files) as app:

        async def by(certificate: Certificate | None, **fields: str) -> tuple[int, str | None]:
            sent = {"Authorization": bearer, **fields}
            return outcome(await ask(app.public_address, "umbrella", JOB, sent, tls=tls(certificate)))

        assert (await by(mine))[0] == 200
        assert await by(other) == (401, "credential-invalid")
        assert await by(None) == (401, "credential-invalid")
        assert await by(other, **{"Client-Cert": mine.field}) == (401, "credential-invalid")


# -- keys --------------------------------------------------------------------------------------------------------------


def forged(claims: dict[str, object], kid: str) -> str:
    """A token that says whatever it likes, with a key that nobody has."""
    return jwt.encode(claims, Key("x", "EC", 8).pem(), algorithm="ES256", headers={"kid": kid, "typ": "at+jwt"})


async def test_keys_rotate_under_a_flood_and_nobody_who_is_good_notices(
    world: OidcWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While strangers name keys that nobody has, the provider announces keys and signs with them: every valid token is
    taken, and the provider is asked for its keys at most once an interval.
    """
    interval_s = INTERVAL_S / 2
    monkeypatch.setattr(INTERVAL, interval_s)
    issuer, client, is_over = world.issuer(), await world.program(), asyncio.Event()
    statuses: list[int] = []
    refused: set[tuple[int, str | None]] = set()
    began = time.monotonic()

    async def traffic() -> None:
        while not is_over.is_set():
            token = (await client.token("client_credentials")).body["access_token"]
            statuses.append((await world.ask(f"Bearer {token}", JOB)).status)

    async def flood(number: int) -> None:
        now = int(time.time())
        claims = {"iss": issuer.issuer, "sub": "x", "aud": "survey", "iat": now, "exp": now + 60, "jti": "x"}
        for count in range(100_000):
            if is_over.is_set():
                return
            token = forged({**claims, "client_id": "x"}, f"k{number}-{count}")
            refused.add(outcome(await world.ask(f"Bearer {token}", JOB, X_Forwarded_For=f"203.0.113.{number}")))

    async def all_is_known() -> None:
        """The keys were asked for, and that was over when they were asked for again."""
        before = (await issuer.counts()).get("/jwks", 0)
        while (await issuer.counts()).get("/jwks", 0) < before + 2:  # noqa: ASYNC110  # it is another process
            await asyncio.sleep(0.05)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(traffic())
            group.create_task(flood(number))
        signing = set()
        for _ in range(2):
            await issuer.rotate("announce")
            await all_is_known()
            signing.add(await issuer.rotate("sign"))
            before = len(statuses)
            while len(statuses) < before + 10:  # noqa: ASYNC110  # the traffic tells nobody
                await asyncio.sleep(0.01)
        is_over.set()
    assert len(signing) == 2
    assert len(statuses) >= 20
    assert set(statuses) == {200}
    assert refused == {(401, "credential-invalid")}
    fetches = (await issuer.counts())["/jwks"]
    assert 2 <= fetches <= (time.monotonic() - began) / interval_s + 1


async def test_keys_that_cannot_be_had_leave_those_that_are_known(world: OidcWorld) -> None:
    """A provider whose keys fail under a flood is asked once an interval, and known keys go on being good."""
    issuer, client = world.issuer(), await world.program()
    token = (await client.token("client_credentials")).body["access_token"]
    assert (await world.ask(f"Bearer {token}", JOB)).status == 200
    await asyncio.sleep(INTERVAL_S)
    await issuer.fault("/jwks", status=500, times=1000)
    await world.provider.forget_counts()
    claims = jwt.decode(token, options={"verify_signature": False})
    began = time.monotonic()
    replies = await asyncio.gather(*(world.ask(f"Bearer {forged(claims, f'f{n}')}", JOB) for n in range(40)))
    assert {reply.status for reply in replies} <= {401, 503}
    fresh = (await client.token("client_credentials")).body["access_token"]
    assert (await world.ask(f"Bearer {fresh}", JOB)).status == 200
    assert (await issuer.counts())["/jwks"] <= (time.monotonic() - began) / INTERVAL_S + 1
