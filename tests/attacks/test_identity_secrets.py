"""
Attack family A14, secrets of identity: a provider that gives nothing but canaries, on every way through logins,
sessions, tokens and logouts, answered and refused; then every place that is written to is searched (AP-R14, R27, R52).

Where a secret is the answer it may stand: a sealed session in ``Set-Cookie``, an exchanged token at
``/.portero/token``, ``state``, ``nonce`` and ``id_token_hint`` in an address at the provider.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest

from authproxy.audit import configure_logging
from authproxy.identity.providers.client_auth import Proof
from authproxy.identity.providers.http import Document
from authproxy.identity.providers.token_answer import Grant
from authproxy.identity.sessions.cookies import Pieces
from authproxy.identity.sessions.seal import SessionKeys
from authproxy.identity.sessions.session import Session, Tokens
from authproxy.identity.sessions.tickets import Ticket
from authproxy.identity.shared.redis_link import read_redis_url
from authproxy.identity.tokens.key_files import SESSIONS, SIGNING
from authproxy.pages.pending import Pending
from policies.request import AccessRequest, Head, ShownProof, TrustedPeers, read_head
from policies.tokens import Credential
from tests.fakes.canaries import CanaryProvider, Watch
from tests.fakes.evil_login import ENDPOINT_LIES, FORGERIES
from tests.fakes.login_replicas import CI_KEY, PORT, REPORT, LoginReplicas, cookie_of, running_replicas, session_of
from tests.fakes.provider import Key, compact
from tests.fakes.redis_server import redis_server
from tests.fakes.scripted_browser import Page, ScriptedBrowser
from tests.fakes.world import RawAnswer

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
OWN: Final = [("Origin", f"http://acme.localhost:{PORT}")]
SLOW_LIES: Final = frozenset({"hang", "drip", "endless"})
"""Seconds each; that their answers are given up is tested elsewhere."""
SLOW_FORGERIES: Final = frozenset({"unknown-kid", "kid-path", "kid-sql", "kid-unicode"})
"""A login waits for the provider's next key set, which is not asked for often; a logout is to be sent again (503)."""


@pytest.fixture
def noisy_log() -> Iterator[None]:
    """The operational log at its most talkative, that of libraries included, as it was before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("debug")
    root.setLevel(logging.DEBUG)
    yield
    configure_logging("info")
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portero takes a lifetime of seconds for what it is, where it would make half a minute of it."""
    for module in ("token_answer", "grants"):
        monkeypatch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)


@dataclass(slots=True)
class Search:
    """One run: what may appear nowhere, and what was answered."""

    world: LoginReplicas
    provider: CanaryProvider
    watch: Watch
    answers: dict[str, str] = field(default_factory=dict)
    outcomes: list[tuple[str, int, str | None]] = field(default_factory=list)

    def browser(self) -> ScriptedBrowser:
        return self.world.browser()

    def see(self, way: str, page: Page) -> Page:
        """Keep what a page and those before it said; only what is sent to the provider by way of the browser may."""
        for one in (*page.hops, page):
            self._keep(way, one.status, one.fields, one.body)
        return page

    def see_raw(self, way: str, answer: RawAnswer, *, has_token: bool = False) -> RawAnswer:
        self._keep(way, answer.status, answer.fields, b"" if has_token else answer.body)
        return answer

    def _keep(self, way: str, status: int, fields: Any, body: bytes) -> None:
        said = [(name, value) for name, value in fields if not self._may_hold(name.lower(), value)]
        cookies = [value.partition("=")[2].partition(";")[0] for name, value in fields if name.lower() == "set-cookie"]
        self.watch.add("cookie", *cookies)
        text = f"{status}\n" + "\n".join(f"{name}: {value}" for name, value in said)
        self.answers[f"{way} #{len(self.answers)}"] = f"{text}\n\n{body.decode('utf-8', 'replace')}"
        reason = next((value for name, value in fields if name.lower() == "x-portero-reason"), None)
        self.outcomes.append((way, status, reason))

    def _may_hold(self, name: str, value: str) -> bool:
        return name == "set-cookie" or (name == "location" and value.startswith(self.provider.issuer))

    # -- ways --------------------------------------------------------------------------------------------------------

    async def begin(self, way: str, browser: ScriptedBrowser) -> str:
        """Sent to the provider; the state."""
        url = f"{self.world.origin()}/.portero/login?prompt=login&return_to={REPORT}"
        page = self.see(way, await browser.go(url, stop_at=self.provider.issuer))
        asked = parse_qs(urlsplit(page.location or "").query)
        [state], [nonce] = asked["state"], asked["nonce"]
        self.watch.add("state", state)
        self.watch.add("nonce", nonce)
        self.provider.nonce = nonce
        return state

    async def come_back(self, way: str, browser: ScriptedBrowser, **words: str) -> Page:
        """As the provider's answer has the browser do it."""
        url = f"{self.world.origin()}/.portero/callback?{urlencode(words)}"
        return self.see(way, await browser.go(url))

    async def log_in(self, way: str, browser: ScriptedBrowser | None = None) -> tuple[ScriptedBrowser, Page]:
        browser = browser or self.browser()
        state = await self.begin(way, browser)
        return browser, await self.come_back(way, browser, state=state, code=self.provider.new_code())

    async def ask(self, way: str, line: str, *, has_token: bool = False, **options: Any) -> RawAnswer:
        """One request; what it carries is watched."""
        if token := options.get("token"):
            self.watch.add_token("bearer token", token)
        if cookie := options.get("cookie"):
            self.watch.add("cookie", *(pair.partition("=")[2] for pair in cookie.split("; ")))
        return self.see_raw(way, await self.world.ask(line, **options), has_token=has_token)

    async def post(self, way: str, path: str, form: dict[str, str], **options: Any) -> RawAnswer:
        for name in ("subject_token", "logout_token", "actor_token"):
            if name in form:
                self.watch.add_token(name, form[name])
        has_token = options.pop("has_token", False)
        return self.see_raw(way, await self.world.post(path, form, **options), has_token=has_token)

    # -- places ------------------------------------------------------------------------------------------------------

    async def places(self, log: str) -> dict[str, str]:
        """Every place that is written to, by name."""
        app = self.world.replicas[0]
        audit = app.parts.audit
        assert audit is not None
        audit.flush()
        return {
            "log": log,
            "audit": (self.world.folder / "audit.log").read_text(),
            "admin": await self._admin(app.admin_address),
            "repr": "\n".join(_reprs()),
            **{f"answer of {way}": text for way, text in self.answers.items()},
        }

    async def _admin(self, address: tuple[str, int]) -> str:
        host, port = address
        text = ""
        explain = {"method": "GET", "url": f"{self.world.origin()}{REPORT}", "as": {"subject": "login|ana"}}
        async with aiohttp.ClientSession() as session:
            for page in ("/metrics", "/policy/status", "/readyz"):
                async with session.get(f"http://{host}:{port}{page}") as answer:
                    text += await answer.text()
            async with session.post(f"http://{host}:{port}/explain", json=explain) as answer:
                text += await answer.text()
        return text

    async def check(self, log: str) -> dict[str, str]:
        places = await self.places(log)
        for place, text in places.items():
            found = self.watch.find(text)
            assert found is None, (place, found)
        return places


def _reprs() -> Iterator[str]:
    """``repr`` of everything of Portero's that is alive now."""
    gc.collect()
    for one in gc.get_objects():
        module = getattr(type(one), "__module__", "")
        if isinstance(module, str) and module.startswith(("authproxy.", "policies.")):
            yield repr(one)


@pytest.fixture
async def search(noisy_log: None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Search]:
    monkeypatch.setattr("authproxy.pages.guard.BURST", 100_000)  # hundreds of logins from one address
    watch = Watch()
    provider = CanaryProvider(watch)
    client = {"client_id": "portero", "client_secret": "login-client"}
    async with running_replicas(login={"introspection": client}, provider=provider) as world:
        found = Search(world, provider, watch)
        watch.add("API key", world.api_key)
        for file in (world.folder / "keys" / SESSIONS).iterdir():
            text = file.read_text().strip()
            watch.add("session key", text, _unpadded(text))
        for file in (world.folder / "keys" / SIGNING).iterdir():
            watch.add("signing key", *file.read_text().splitlines()[1:-1])
        yield found


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def logins(search: Search) -> None:
    """Good ones, those that the browser spoils, and those that the provider does."""
    browser, page = await search.log_in("login")
    assert (page.status, page.path) == (200, REPORT)
    provider, origin = search.provider, search.world.origin()
    search.see("whoami", await browser.go(f"{origin}/.portero/whoami"))
    search.see("whoami json", await search.world.whoami(browser))
    search.see("logout page", await browser.go(f"{origin}/.portero/logout"))
    callback = next(hop for hop in page.hops if "/.portero/callback" in hop.url)
    other = search.browser()
    search.see("callback in another browser", await other.go(callback.url))
    state = await search.begin("errors", other)
    for words in (
        {"code": provider.new_code(), "state": state + "x"},
        {"code": provider.new_code(), "state": state, "iss": f"https://{provider.new_code()}.example"},
    ):
        assert (await search.come_back("callback that is wrong", other, **words)).status == 400
    for words in (
        {"error": "access_denied", "error_description": provider.new_code()},
        {"error": provider.new_code()},
        {"code": provider.new_code() + "\u00e9"},
        {},
    ):
        state = await search.begin("errors", other)
        assert (await search.come_back("callback with an error", other, state=state, **words)).status == 400
        await search.come_back("callback that came before", other, state=state, code=provider.new_code())
    url = f"{origin}/.portero/callback?state={state}&code={provider.new_code()}&code={provider.new_code()}"
    assert search.see("callback with two codes", await other.go(url)).status == 400


async def evil_logins(search: Search) -> None:
    provider = search.provider
    provider.elsewhere = f"{provider.issuer}/elsewhere?{provider.new_code()}"
    for lie in ENDPOINT_LIES:
        if lie in SLOW_LIES:
            continue
        provider.lie = lie
        _, page = await search.log_in(f"login with lie {lie}")
        assert page.status in {400, 503}, lie
    provider.lie = None
    for status in (400, 401, 403, 429, 500, 503):
        provider.statuses["token"] = status
        _, page = await search.log_in(f"login refused with {status}")
        assert page.status in {400, 503}, status
    provider.statuses.clear()
    for name in FORGERIES.keys() - SLOW_FORGERIES:
        provider.forge = FORGERIES[name]
        _, page = await search.log_in(f"login with {name}")
        assert page.status in {400, 503}, name
    provider.forge = None
    for members in (
        {"token_type": "mac"},
        {"access_token": "CANARY-access with blanks"},
        {"id_token": "CANARY-id-token.CANARY-id-token"},
        {"refresh_token": ["CANARY-refresh-in-a-list"]},
        {"expires_in": "CANARY-expires-in-text"},
    ):
        provider.answer = members
        await search.log_in(f"login with {members}")
    provider.answer = {}
    search.watch.add("token", "CANARY-access with", "CANARY-id-token", "CANARY-refresh-in-a-list", "CANARY-expires-in")


async def sessions(search: Search) -> None:
    """Tampered with, refreshed, failed to be refreshed, ended."""
    provider, origin = search.provider, search.world.origin()
    browser, _ = await search.log_in("session")
    [(name, value)] = session_of(browser).items()
    for at in (0, 2, 5, 9, len(value) // 2, -1):
        spoilt = value[:at] + ("A" if value[at] != "A" else "B") + (value[at + 1 :] if at != -1 else "")
        await search.ask("tampered cookie", f"GET {REPORT}", cookie=f"{name}={spoilt}")
    await search.ask("cookie twice", f"GET {REPORT}", cookie=f"{name}={value}; {name}={value}")
    await search.ask("foreign cookie", f"GET {REPORT}", cookie=f"{name}={value}", tenant="globex")
    await search.ask("another origin", "POST /function/report", cookie=f"{name}={value}", body=b"x")
    await search.ask("no role", "GET /function/job", cookie=f"{name}={value}")
    await refreshes(search)
    for endpoint_status in (200, 500):
        browser, _ = await search.log_in("logout")
        page = search.see("logout page", await browser.go(f"{origin}/.portero/logout"))
        if endpoint_status != 200:
            provider.statuses["revocation"] = endpoint_status
        assert search.see("logout", await browser.submit(page, follow=False)).status == 303
        provider.statuses.clear()


async def refreshes(search: Search) -> None:
    """Good, refused, lied about, and forged: each with a session of its own that has just grown too old."""
    provider = search.provider
    lies = ("gzip", "duplicate", "array", "nan", "html", "status-204")
    forgeries = ("other-key-same-kid", "alg-none", "twice-sub", "kid-long")
    statuses = {500: 503, 429: 503, 400: 401}
    provider.lifetime_s = 1
    cookies = [
        cookie_of((await search.log_in("session that grows old"))[0]) for _ in (None, *lies, *forgeries, *statuses)
    ]
    await asyncio.sleep(1.05)

    async def refresh(way: str) -> int:
        return (await search.ask(f"refresh with {way}", f"GET {REPORT}", cookie=cookies.pop())).status

    assert await refresh("nothing wrong") == 200
    for lie in lies:
        provider.lie = lie
        assert await refresh(f"lie {lie}") in {401, 503}, lie
    provider.lie = None
    for name in forgeries:
        provider.forge = FORGERIES[name]
        assert await refresh(name) in {401, 503}, name
    provider.forge = None
    for status, outcome in statuses.items():
        provider.statuses["token"] = status
        assert await refresh(str(status)) == outcome, status
    provider.statuses.clear()
    provider.lifetime_s = 300


async def tokens(search: Search) -> None:
    """Bearer tokens, opaque ones, keys, exchanges; good, bad and those that nobody can be asked about."""
    world, provider = search.world, search.provider
    good = provider.mint("ana", groups=["analysts"], organization=["acme"], jti="CANARY-jti-of-bearer")
    forged = provider.mint("ana", key=Key("CANARY-kid-of-forger", "EC", 9), jti="CANARY-jti-of-forger")
    search.watch.add("claim", "CANARY-jti-of-bearer", "CANARY-kid-of-forger", "CANARY-jti-of-forger")
    now = int(time.time())
    account = compact(
        {"alg": "ES256"}, {"iss": "acme/ci", "sub": "ci", "aud": "survey", "iat": now, "exp": now + 60}, CI_KEY
    )
    assert (await search.ask("bearer", f"GET {REPORT}", token=good)).status == 200
    assert (await search.ask("account", "GET /function/job", token=account)).status == 200
    assert (await search.ask("API key", "GET /function/job", token=world.api_key)).status == 200
    assert (await search.ask("bad API key", "GET /function/job", token=world.api_key[:-1] + "_")).status == 401
    for token in (forged, good[:-4] + "AAAA", "e30.e30.", good + "."):
        assert (await search.ask("forged bearer", f"GET {REPORT}", token=token)).status == 401
    basic = [("Authorization", "Basic Q0FOQVJZLWJhc2ljOkNBTkFSWS1iYXNpYw==")]
    search.watch.add("basic", "CANARY-basic:CANARY-basic")
    await search.ask("basic", f"GET {REPORT}", fields=basic)
    await search.ask("two credentials", f"GET {REPORT}", token=good, fields=basic)
    await search.ask("dpop", f"GET {REPORT}", token=good, fields=[("DPoP", good)])
    about = {"active": True, "sub": "ana", "iss": provider.issuer, "aud": "survey", "groups": ["analysts"]}
    about |= {"organization": ["acme"], "exp": now + 300, "token_type": "Bearer"}
    for introspected, status in (
        (about, 200),
        ({"active": False}, 200),
        ({"active": "yes", "CANARY-introspected": 1}, 200),
        ([about], 200),
        (about | {"sub": "CANARY-sub\n"}, 200),
        (about, 500),
        (about, 401),
    ):
        opaque = f"CANARY-opaque-{secrets.token_hex(8)}"
        provider.introspected, provider.introspection_status = introspected, status
        answer = await search.ask("opaque", f"GET {REPORT}", token=opaque)
        assert (answer.status == 200) is (introspected is about and status == 200), answer.wire
    form = {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "audience": "function:acme/report"}
    for subject in (good, account, world.api_key):
        answer = await search.post("exchange", "/.portero/token", form | {"subject_token": subject}, has_token=True)
        assert answer.status == 200, answer.wire
        exchanged = answer.json()["access_token"]
        assert (await search.ask("exchanged", "GET /function/report", token=exchanged)).status == 200
        assert (await search.ask("exchanged elsewhere", "GET /function/job", token=exchanged)).status == 401
        search.watch.add_token("exchanged", exchanged)
    bad: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"subject_token": forged}, {}),
        ({"subject_token": good + "\u00e9"}, {}),
        ({"subject_token": exchanged, "audience": "function:acme/job"}, {}),
        ({"subject_token": good, "audience": f"function:{provider.code}/report"}, {}),
        ({"subject_token": good, "actor_token": good}, {}),
        ({"subject_token": good, "subject_token_type": provider.code}, {}),
        ({"subject_token": good, "grant_type": provider.code}, {}),
        ({"subject_token": good, "scope": provider.code}, {}),
        ({"subject_token": good}, {"token": good}),
        ({"subject_token": f"CANARY-opaque-{secrets.token_hex(8)}"}, {}),
    ]
    for words, options in bad:
        answer = await search.post("bad exchange", "/.portero/token", form | words, **options)
        assert 400 <= answer.status < 600, (words, answer.wire)
    await search.ask("exchange without form", "POST /.portero/token", body=f"subject_token={good}".encode())
    await search.ask("exchange by query", f"GET /.portero/token?subject_token={good}")
    await search.ask("token in a query", f"GET {REPORT}&access_token={good}")


async def logouts(search: Search) -> None:
    """By the back channel: good, twice, forged in every way, broken."""
    provider, path = search.provider, "/.portero/backchannel-logout"
    good = provider.logout_token(jti=f"CANARY-logout-{secrets.token_hex(8)}")
    assert (await search.post("back channel", path, {"logout_token": good})).status == 200
    assert (await search.post("back channel twice", path, {"logout_token": good})).status == 400
    for name, forge in FORGERIES.items():
        claims = provider.logout_claims(jti=f"CANARY-logout-{secrets.token_hex(8)}")
        token = provider.forged(forge, claims, "logout+jwt")
        answer = await search.post(f"back channel with {name}", path, {"logout_token": token})
        assert answer.status in ({400, 503} if name in SLOW_FORGERIES else {400}), (name, answer.wire)
    for more in ({"nonce": "CANARY-nonce-in-logout"}, {"events": None}, {"sub": None, "sid": None}, {"aud": "x"}):
        answer = await search.post("bad back channel", path, {"logout_token": provider.logout_token(**more)})
        assert answer.status == 400, (more, answer.wire)
    await search.post("back channel by query", f"{path}?logout_token={good}", {})
    await search.ask("back channel without form", f"POST {path}", body=f"logout_token={good}".encode())


async def defects(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where secrets are at hand something of ours raises: 500, with nothing said; the trace stays in the log."""
    parts = search.world.replicas[0].parts.identity

    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("a defect")

    async def fail_later(*_: object, **__: object) -> Any:
        raise RuntimeError("a defect")

    browser, _ = await search.log_in("before the defects")
    cookie = cookie_of(browser)
    good = search.provider.mint("ana", groups=["analysts"], organization=["acme"], jti="CANARY-jti-of-bearer")
    form = {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "audience": "function:acme/report"}
    ways: list[tuple[object, str, Any]] = [
        (parts.sessions, "begin", fail_later),
        (parts.client, "redeem", fail_later),
        (parts.client, "judge_logout_token", fail_later),
        (parts.own_tokens, "exchange", fail),
        (parts.sealer, "seal", fail),
        (parts.sealer, "open", fail),
        (parts.refresher, "refresh", fail_later),
        (parts.revocations, "is_revoked", fail),
        (parts.state, "add", fail_later),
    ]
    count = 0
    for part, name, failing in ways:
        with monkeypatch.context() as patch:
            patch.setattr(type(part), name, failing)
            for known in (parts.sessions, parts.callers):
                known.revoke_all()
            fresh = search.browser()
            page = search.see(
                f"defect of {name}",
                await fresh.go(f"{search.world.origin()}/.portero/login?return_to={REPORT}", stop_at="http://127."),
            )
            state = parse_qs(urlsplit(page.location or "").query).get("state", ["x" * 32])[0]
            search.watch.add("state", state)
            await search.come_back(f"defect of {name}", fresh, state=state, code=search.provider.new_code())
            answers = [
                await search.ask(f"defect of {name}", f"GET {REPORT}", cookie=cookie),
                await search.ask(f"defect of {name}", f"GET {REPORT}", token=good),
                await search.post(
                    f"defect of {name}", "/.portero/token", form | {"subject_token": good}, has_token=True
                ),
                await search.post(
                    f"defect of {name}",
                    "/.portero/backchannel-logout",
                    {"logout_token": search.provider.logout_token(jti=f"CANARY-logout-{secrets.token_hex(8)}")},
                ),
            ]
            count += sum(answer.status == 500 for answer in answers)
    assert count >= 4


async def test_no_secret_of_identity_reaches_a_place_that_is_written_to(
    search: Search, short_lives: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14, R27, R52: some 200 ways through; log, audit, metrics, status, explanations, answers and repr say nothing."""
    await logins(search)
    await evil_logins(search)
    await sessions(search)
    await tokens(search)
    await logouts(search)
    await asyncio.sleep(2.1)  # the subject was logged out everywhere a moment ago
    await defects(search, monkeypatch)
    browser, _ = await search.log_in("live")
    good = search.provider.mint("ana", groups=["analysts"], organization=["acme"])
    search.watch.add_token("bearer token", good)
    async with (
        search.world.stream(cookie=cookie_of(browser)) as one,
        search.world.stream(token=good) as other,
        search.world.websocket(cookie=cookie_of(browser)) as socket,
    ):
        assert [one.status, other.status, socket.status] == [200, 200, 101]
        gc.collect()  # tasks whose end nobody has looked at say so
        log = capsys.readouterr()
        places = await search.check(log.err + log.out)
    assert "a defect" in places["log"]
    assert "internal-error" in places["audit"]
    assert '"subject":"login|ana"' in places["audit"]
    assert "portero_logins_total" in places["admin"]
    assert '"decision"' in places["admin"] or "no-rule-allows" in places["admin"]
    assert len(search.outcomes) > 300
    assert {"code", "state", "nonce", "code_verifier", "client secret", "cookie"} <= search.watch.kinds
    assert {"access token", "refresh token", "ID token", "API key", "session key", "signing key"} <= search.watch.kinds
    assert {"subject_token", "logout_token", "bearer token"} <= search.watch.kinds


async def test_the_password_of_redis_and_what_is_kept_there_are_told_nowhere(
    noisy_log: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it runs, when it is killed in between, and when it is back with another password."""
    watch = Watch()
    provider = CanaryProvider(watch)
    password = f"CANARY-redis-{secrets.token_hex(8)}"
    watch.add("password of Redis", password)
    file = tmp_path / "password"
    file.write_text(password)
    with redis_server(password=password) as redis:
        async with running_replicas(provider=provider, store="redis", redis=redis, redis_password=file) as world:
            search = Search(world, provider, watch)
            browser, page = await search.log_in("login")
            assert page.status == 200
            state = await search.begin("login under way", other := search.browser())
            leaving = search.see("logout page", await browser.go(f"{world.origin()}/.portero/logout"))
            cookie = cookie_of(browser)
            redis.kill()
            await asyncio.sleep(2.1)  # what the store said of a ticket is used for two seconds
            assert (await search.ask("down", f"GET {REPORT}", cookie=cookie)).status == 503
            page = await search.come_back("login while down", other, state=state, code=provider.new_code())
            assert page.status == 503
            assert search.see("logout while down", await browser.submit(leaving, follow=False)).status == 503
            token = provider.logout_token()
            answer = await search.post("back channel", "/.portero/backchannel-logout", {"logout_token": token})
            assert answer.status == 503
            redis._password = f"CANARY-redis-{secrets.token_hex(8)}"  # it takes our password no longer
            watch.add("password of Redis", redis._password)
            redis.start()
            await asyncio.sleep(1.2)
            assert (await search.ask("password refused", f"GET {REPORT}", cookie=cookie)).status in {401, 503}
            log = capsys.readouterr()
            places = await search.check(log.err + log.out)
            assert "session-store-unavailable" in places["audit"]


def a_head() -> Head:
    fields = ((b"Host", b"acme.localhost"), (b"Authorization", b"Bearer CANARY"), (b"Cookie", b"a=CANARY"))
    return Head("GET", b"/x?token=CANARY", fields, (1, 1), "192.0.2.1", "http")


def a_request() -> AccessRequest:
    request = read_head(a_head(), TrustedPeers(()))
    assert isinstance(request, AccessRequest)
    return request


VALUES: Final[dict[str, object]] = {
    "head": a_head(),
    "request": a_request(),
    "target": a_request().target,
    "credential": Credential("Bearer", "CANARY"),
    "proof": ShownProof(b"CANARY"),
    "cookie": Pieces(b"CANARY", 1),
    "ticket": Ticket("id", b"CANARY"),
    "session keys": SessionKeys((b"1234", b"CANARY"), {b"1234": b"CANARY"}),
    "answer of a provider": Document({"access_token": "CANARY"}, ""),
    "grant": Grant("CANARY", "CANARY", "CANARY", None),
    "client's proof": Proof({"client_secret": "CANARY"}, "CANARY"),
    "login under way": Pending("CANARY", "CANARY", "CANARY", "login", "i", "/", "u", 0.0),
    "redis": read_redis_url("redis://user:CANARY@127.0.0.1:1/0"),
    "tokens": Tokens("i", "s", None, {"a": "CANARY"}, "CANARY", "CANARY", "CANARY", 0.0, 0.0),
    "session": Session(
        *("id", b"CANARY", 1, "acme", "login", "i", "s", None, {"a": "CANARY"}, 0.0, 0.0, 0.0),
        *("CANARY", "CANARY", "CANARY"),
    ),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_what_holds_a_secret_does_not_show_it(value: object) -> None:
    """Whoever prints a value, or an error that quotes it, tells no secret."""
    assert "CANARY" not in repr(value)
    assert "CANARY" not in f"{value}"


@pytest.mark.parametrize("secret", ["CANARY-with-words+/=", b"\x00CANARY\xffCANARY"], ids=["text", "bytes"])
def test_the_search_finds_what_is_there(secret: str | bytes) -> None:
    """As it is, in an address, in base64, as the repr of bytes; else the tests above could not fail."""
    watch = Watch()
    watch.add("it", secret)
    data = secret.encode() if isinstance(secret, str) else secret
    written = [repr(secret), base64.b64encode(data).decode()]
    written += [urlencode({"a": secret})] if isinstance(secret, str) else [data.hex()]
    for text in written:
        assert watch.find(f"before {text} after"), text
    assert watch.find("nothing of it") is None
