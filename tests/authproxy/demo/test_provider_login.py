"""The demo's provider as browsers and a client meet it: login, codes, refresh, logout, and what is refused."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
from aiohttp import web

from authproxy.demo.people import PASSWORD, PEOPLE, Person
from authproxy.demo.provider import Provider
from authproxy.demo.provider_tokens import LOGOUT_EVENT
from tests.fakes.relying_party import RelyingParty
from tests.fakes.scripted_browser import ScriptedBrowser

ORIGIN = "http://acme.localhost:8088"
OTHER_ORIGIN = "http://globex.localhost:8088"
ANA = {"person": "ana", "password": PASSWORD}


class Portero:
    """What stands where Portero listens: takes logout tokens."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, dict[str, str]]] = []
        self.status = 200

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((request.host, request.path, dict(parse_qsl(await request.text()))))
        return web.Response(status=self.status)


@pytest.fixture
async def portero() -> AsyncIterator[tuple[Portero, int]]:
    made = Portero()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, int(runner.addresses[0][1])
    await runner.cleanup()


@pytest.fixture
async def provider(portero: tuple[Portero, int]) -> AsyncIterator[Provider]:
    made = Provider()
    await made.start()
    made.register([ORIGIN, OTHER_ORIGIN], ("127.0.0.1", portero[1]))
    yield made
    await made.stop()


@pytest.fixture
async def client(provider: Provider) -> RelyingParty:
    made = RelyingParty(provider.issuer, "portero", provider.client_secret, f"{ORIGIN}/.portero/callback")
    await made.discover()
    return made


async def tokens(client: RelyingParty, browser: ScriptedBrowser) -> dict[str, str]:
    begun = await client.begin()
    back = await client.log_in(browser, begun, ANA)
    answer = await client.redeem(back["code"], begun.code_verifier)
    assert answer.status == 200
    return answer.body


async def claims_of(client: RelyingParty, token: str, audience: str = "portero") -> dict[str, object]:
    [key] = (await client.ask(client.metadata["jwks_uri"], method="GET")).body["keys"]
    algorithms = ["ES256"]
    return dict(jwt.decode(token, jwt.PyJWK(key).key, algorithms=algorithms, audience=audience, issuer=client.issuer))


@pytest.mark.parametrize("person", PEOPLE, ids=lambda person: person.sub)
async def test_a_person_logs_in_by_the_form(client: RelyingParty, person: Person) -> None:
    """Code with PKCE, state, nonce and iss; ID token, access token and userinfo say who it is, and of which tenant."""
    begun = await client.begin()
    back = await client.log_in(ScriptedBrowser(), begun, {"person": person.sub, "password": PASSWORD})
    assert (back["state"], back["iss"]) == (begun.state, client.issuer)
    answer = await client.redeem(back["code"], begun.code_verifier)
    assert (answer.status, answer.body["token_type"], answer.fields["cache-control"]) == (200, "Bearer", "no-store")
    id_claims = await claims_of(client, answer.body["id_token"])
    assert id_claims["nonce"] == begun.nonce
    assert id_claims["sid"]
    access_claims = await claims_of(client, answer.body["access_token"], "survey")
    userinfo = await client.ask(client.metadata["userinfo_endpoint"], method="GET", bearer=answer.body["access_token"])
    for told in (id_claims, access_claims, userinfo.body):
        assert (told["sub"], told["organization"], told["groups"]) == (person.sub, person.tenant, list(person.groups))
    wrong = await client.ask(client.metadata["userinfo_endpoint"], method="GET", bearer=answer.body["id_token"])
    assert wrong.status == 401


async def test_discovery_offers_what_is_there_and_no_par(client: RelyingParty) -> None:
    """S256 alone, iss in the answer, back-channel logout with sid; PAR is tested against another provider."""
    said = client.metadata
    assert said["code_challenge_methods_supported"] == ["S256"]
    assert said["authorization_response_iss_parameter_supported"] is True
    assert said["backchannel_logout_session_supported"] is True
    assert "pushed_authorization_request_endpoint" not in said


async def test_who_is_logged_in_is_not_asked_again(client: RelyingParty) -> None:
    """Single sign-on by the browser's cookie; prompt=login and max_age=0 ask all the same, prompt=none never."""
    browser = ScriptedBrowser()
    silent = await browser.go((await client.begin({"prompt": "none"})).url, stop_at=ORIGIN)
    assert client.query_at_callback(silent)["error"] == "login_required"
    await tokens(client, browser)
    again = await browser.go((await client.begin()).url, stop_at=ORIGIN)
    assert client.query_at_callback(again)["code"]
    silent = await browser.go((await client.begin({"prompt": "none"})).url, stop_at=ORIGIN)
    assert client.query_at_callback(silent)["code"]
    for more in ({"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "0"}):
        assert (await browser.go((await client.begin(more)).url, stop_at=ORIGIN)).forms


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "",
        "http://acme.localhost:8088/.portero/callback/",
        "http://acme.localhost:8088/.portero/callback?x=1",
        "http://acme.localhost:8088/.portero/callbackx",
        "http://ACME.localhost:8088/.portero/callback",
        "http://acme.localhost/.portero/callback",
        "https://acme.localhost:8088/.portero/callback",
        "http://acme.localhost:8088@evil.example/.portero/callback",
        "http://evil.example/.portero/callback",
        "//acme.localhost:8088/.portero/callback",
    ],
)
async def test_no_browser_is_sent_to_an_address_that_is_not_registered(client: RelyingParty, redirect_uri: str) -> None:
    """RFC 9700 section 2.1: letter by letter; the person gets a page, not a redirect, and so for another client."""
    for more in ({"redirect_uri": redirect_uri}, {"client_id": "somebody"}):
        page = await ScriptedBrowser().go((await client.begin(more)).url, follow=False)
        assert (page.status, page.location, page.forms) == (400, None, [])


@pytest.mark.parametrize(
    ("more", "error"),
    [
        pytest.param({"state": ""}, "invalid_request", id="no-state"),
        pytest.param({"nonce": ""}, "invalid_request", id="no-nonce"),
        pytest.param({"code_challenge": ""}, "invalid_request", id="no-pkce"),
        pytest.param({"code_challenge": "short"}, "invalid_request", id="short-challenge"),
        pytest.param({"code_challenge_method": "plain"}, "invalid_request", id="plain-pkce"),
        pytest.param({"code_challenge_method": ""}, "invalid_request", id="no-method"),
        pytest.param({"response_type": "id_token"}, "unsupported_response_type", id="implicit"),
        pytest.param({"response_mode": "fragment"}, "unsupported_response_type", id="fragment"),
        pytest.param({"scope": "profile"}, "invalid_scope", id="no-openid"),
        pytest.param({"request": "e30.e30."}, "request_not_supported", id="request-object"),
        pytest.param({"prompt": "none login"}, "invalid_request", id="none-and-more"),
    ],
)
async def test_a_request_that_is_less_than_it_must_be_is_refused(
    client: RelyingParty, more: dict[str, str], error: str
) -> None:
    """The client is told by a redirect, with its state and the issuer."""
    begun = await client.begin(more)
    page = await ScriptedBrowser().go(begun.url, stop_at=ORIGIN)
    told = client.query_at_callback(page)
    assert (told["error"], told["iss"]) == (error, client.issuer)
    assert told.get("state") == (None if "state" in more else begun.state)


async def test_a_wrong_password_asks_again(client: RelyingParty) -> None:
    """Once more, with the person still chosen; nobody is logged in meanwhile."""
    browser = ScriptedBrowser()
    page = await browser.go((await client.begin()).url)
    again = await browser.submit(page, {"person": "bob", "password": "guess"})
    assert (again.status, again.location) == (400, None)
    assert ("person", "bob") in again.forms[0].values
    landed = await browser.submit(again, {"password": PASSWORD}, stop_at=ORIGIN)
    assert client.query_at_callback(landed)["code"]


async def test_the_form_is_good_for_one_browser_and_once(client: RelyingParty) -> None:
    """A form that somebody else filled in, or that comes twice, logs nobody in."""
    mine, other = ScriptedBrowser(), ScriptedBrowser()
    page = await mine.go((await client.begin()).url)
    await other.go((await client.begin()).url)
    assert (await other.submit(page, ANA, follow=False)).status == 400
    assert (await mine.submit(page, ANA, follow=False)).status == 303
    assert (await mine.submit(page, ANA, follow=False)).status == 400


async def test_two_forms_at_once_are_both_good(client: RelyingParty) -> None:
    """Two tabs of a browser that the provider has not met, as when it opens those of yesterday again."""
    browser = ScriptedBrowser()
    begun = [(await client.begin()).url for _ in range(2)]
    for page in await asyncio.gather(*(browser.go(url) for url in begun)):
        assert (await browser.submit(page, ANA, follow=False)).status == 303


async def test_pages_are_safe_to_show(client: RelyingParty) -> None:
    """No script, nothing from elsewhere; forms lead back here and to the client alone; what was sent is not told."""
    evil = '"><script>alert(1)</script>'
    page = await ScriptedBrowser().go((await client.begin({"login_hint": evil, "state": evil, "display": evil})).url)
    policy = page.field("Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    assert f"form-action 'self' {ORIGIN};" in policy
    assert "frame-ancestors 'none'" in policy
    assert "<script" not in page.text
    assert "alert(1)" not in page.text
    assert (page.field("Cache-Control"), page.field("X-Content-Type-Options")) == ("no-store", "nosniff")


async def test_a_code_is_good_once_for_its_address_and_its_verifier(client: RelyingParty) -> None:
    """What is wrong spends the code; a code that comes again ends what came of it (RFC 6749 section 4.1.2)."""
    browser = ScriptedBrowser()
    begun = await client.begin()
    code = (await client.log_in(browser, begun, ANA))["code"]
    assert (await client.redeem(code, "x" * 43)).body["error"] == "invalid_grant"
    assert (await client.redeem(code, begun.code_verifier)).body["error"] == "invalid_grant"
    begun = await client.begin()
    code = (await client.log_in(browser, begun, ANA))["code"]
    elsewhere = await client.redeem(code, begun.code_verifier, redirect_uri=f"{OTHER_ORIGIN}/.portero/callback")
    assert elsewhere.body["error"] == "invalid_grant"
    begun = await client.begin()
    code = (await client.log_in(browser, begun, ANA))["code"]
    good = await client.redeem(code, begun.code_verifier)
    assert (await client.redeem(code, begun.code_verifier)).body["error"] == "invalid_grant"
    after = await client.token("refresh_token", refresh_token=good.body["refresh_token"])
    assert after.body["error"] == "invalid_grant"


async def test_refresh_tokens_rotate_and_reuse_ends_the_grant(client: RelyingParty, provider: Provider) -> None:
    """RFC 9700 section 4.14.2: the new one is good, the old one spoils both; the ID token names the same person."""
    first = await tokens(client, ScriptedBrowser())
    second = (await client.token("refresh_token", refresh_token=first["refresh_token"])).body
    assert second["refresh_token"] != first["refresh_token"]
    before, after = await claims_of(client, first["id_token"]), await claims_of(client, second["id_token"])
    assert all(before[name] == after[name] for name in ("iss", "sub", "aud", "sid", "auth_time"))
    assert "nonce" not in after
    for token in (first["refresh_token"], second["refresh_token"]):
        assert (await client.token("refresh_token", refresh_token=token)).body["error"] == "invalid_grant"
    assert provider.refreshes == 1


async def test_a_revoked_refresh_token_ends_its_grant(client: RelyingParty) -> None:
    """RFC 7009: also a token that nobody knows is answered 200."""
    given = await tokens(client, ScriptedBrowser())
    for token in (given["refresh_token"], "nobody-knows"):
        assert (await client.ask(client.metadata["revocation_endpoint"], {"token": token})).status == 200
    answer = await client.token("refresh_token", refresh_token=given["refresh_token"])
    assert answer.body["error"] == "invalid_grant"


async def test_only_the_client_gets_tokens(client: RelyingParty, provider: Provider) -> None:
    """By Basic or by the form, with its own secret, one way at a time; a parameter comes once."""
    endpoint, secret = client.metadata["token_endpoint"], provider.client_secret
    grant = {"grant_type": "refresh_token", "refresh_token": "x"}
    both = await client.ask(endpoint, {**grant, "client_id": "portero", "client_secret": secret})
    assert both.body["error"] == "invalid_request"
    for pair in ("portero:wrong", f"other:{secret}", f"portero{secret}", ":"):
        fields = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        refused = await client.ask(endpoint, grant, fields=fields, is_client=False)
        assert (refused.status, refused.body["error"]) == (401, "invalid_client")
        assert refused.fields["www-authenticate"].startswith("Basic")
    for fields in ({"Authorization": "Basic %%%"}, {"Authorization": f"Bearer {secret}"}, {}):
        assert (await client.ask(endpoint, grant, fields=fields, is_client=False)).status == 401
    good = await client.ask(endpoint, {**grant, "client_id": "portero", "client_secret": secret}, is_client=False)
    assert (good.status, good.body["error"]) == (400, "invalid_grant")
    assert (await client.ask(endpoint, {"grant_type": "password"})).body["error"] == "unsupported_grant_type"
    assert (await client.ask(endpoint, {})).body["error"] == "invalid_request"


async def test_logout_by_the_client_ends_everything_and_tells_it(
    client: RelyingParty, portero: tuple[Portero, int]
) -> None:
    """With the session's ID token no question is asked: refresh ends, the back channel tells sub and sid, then back."""
    browser = ScriptedBrowser()
    given = await tokens(client, browser)
    sid = (await claims_of(client, given["id_token"]))["sid"]
    query = f"id_token_hint={given['id_token']}&state=s%26t&post_logout_redirect_uri={ORIGIN}/.portero/logout"
    page = await browser.go(f"{client.metadata['end_session_endpoint']}?{query}", stop_at=ORIGIN)
    assert page.location == f"{ORIGIN}/.portero/logout?state=s%26t"
    [(host, path, form)] = portero[0].got
    assert (host, path) == (urlsplit(ORIGIN).netloc, "/.portero/backchannel-logout")
    notice = await claims_of(client, form["logout_token"])
    assert (notice["sub"], notice["sid"], notice["events"]) == ("ana", sid, {LOGOUT_EVENT: {}})
    assert "nonce" not in notice
    assert jwt.get_unverified_header(form["logout_token"])["typ"] == "logout+jwt"
    answer = await client.token("refresh_token", refresh_token=given["refresh_token"])
    assert answer.body["error"] == "invalid_grant"
    assert (await browser.go((await client.begin()).url)).forms


async def test_logout_without_an_id_token_asks_first(client: RelyingParty, portero: tuple[Portero, int]) -> None:
    """Any page of the web can send a browser to the logout: only the person's own form ends the session."""
    browser = ScriptedBrowser()
    await tokens(client, browser)
    end = client.metadata["end_session_endpoint"]
    asked = await browser.go(f"{end}?client_id=portero&post_logout_redirect_uri={ORIGIN}/.portero/logout")
    assert client.query_at_callback(await browser.go((await client.begin()).url, stop_at=ORIGIN))["code"]
    out = await browser.submit(asked, stop_at=ORIGIN)
    assert out.location == f"{ORIGIN}/.portero/logout"
    assert len(portero[0].got) == 1
    assert "Logged out" in (await browser.go(end)).text


@pytest.mark.parametrize(
    "query",
    [
        "client_id=portero&post_logout_redirect_uri=http://evil.example/",
        "client_id=other&post_logout_redirect_uri=http://acme.localhost:8088/.portero/logout",
        "post_logout_redirect_uri=http://acme.localhost:8088/.portero/logout",
        "id_token_hint=e30.e30.x&post_logout_redirect_uri=http://acme.localhost:8088/.portero/logout",
        "client_id=portero&client_id=portero",
    ],
)
async def test_a_logout_sends_nobody_elsewhere(client: RelyingParty, query: str) -> None:
    """The address afterwards is registered letter by letter, and of a client that is known."""
    page = await ScriptedBrowser().go(f"{client.metadata['end_session_endpoint']}?{query}", follow=False)
    assert (page.status, page.location) == (400, None)


async def test_an_operators_logout_tells_every_tenant_that_was_used(
    client: RelyingParty, provider: Provider, portero: tuple[Portero, int]
) -> None:
    """One call an origin; a client that refuses does not keep the session alive."""
    browser, portero[0].status = ScriptedBrowser(), 503
    await tokens(client, browser)
    client.redirect_uri = f"{OTHER_ORIGIN}/.portero/callback"
    await tokens(client, browser)
    path = "/.portero/backchannel-logout"
    assert await provider.end_sessions("ana") == {ORIGIN + path: 503, OTHER_ORIGIN + path: 503}
    assert await provider.end_sessions("ana") == {}
    assert {host for host, _, _ in portero[0].got} == {urlsplit(ORIGIN).netloc, urlsplit(OTHER_ORIGIN).netloc}
