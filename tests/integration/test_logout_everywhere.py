"""
Logout everywhere: what one replica is told ends sessions, tokens, streams and websockets on another, within 5 s; and
what merely grows old is cut when it has, unless it can be renewed. Two whole Porteros share a real Redis (AP-R54).

Longer than other modules: every way to be out is held against everything that is open.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from authproxy.demo.people import find_person
from tests.fakes.jobs import until
from tests.fakes.login_replicas import REPORT, LoginReplicas, Stream, cookie_of, running_replicas, session_of
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.scripted_browser import ScriptedBrowser

pytestmark = pytest.mark.redis

HERE, THERE = 0, 1
"""The replica that is told, and the other."""
BOUND_S = 5.0
"""From a logout to its effect, everywhere."""
SLACK_S = 5.0
"""Of this machine: an expiry has its effect with a sweep each half second; what is forgotten stays for 25."""
PATIENCE_S = 3
"""For what has to happen within two seconds: these are made so many more."""
CLOSED_1008 = b"\x88\x02\x03\xf0"
NAVIGATION = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Accept", "text/html")]
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"

Logout = Callable[[LoginReplicas, ScriptedBrowser], Awaitable[None]]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def world(redis: RedisServer) -> AsyncIterator[LoginReplicas]:
    async with running_replicas(2, redis=redis) as running:
        yield running


@pytest.fixture
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portero takes a lifetime of seconds for what it is, where it would make half a minute of it."""
    for module in ("token_answer", "grants"):
        monkeypatch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)


def say(measured: str) -> None:
    print(measured)  # noqa: T201 - what was measured, for pytest -rP


async def outcome(world: LoginReplicas, browser: ScriptedBrowser, at: int = THERE) -> tuple[int, str | None]:
    answer = await world.ask(f"GET {REPORT}", at=at, cookie=cookie_of(browser))
    return answer.status, answer.reason


async def with_token(world: LoginReplicas, token: str, path: str = "/function/report", at: int = THERE) -> int:
    return (await world.ask(f"GET {path}", at=at, token=token)).status


async def by_own_page(world: LoginReplicas, browser: ScriptedBrowser) -> None:
    out = await browser.submit(await browser.go(f"{world.origin()}/.portero/logout"), follow=False)
    assert (out.status, session_of(browser)) == (303, {})


async def by_sid(world: LoginReplicas, browser: ScriptedBrowser) -> None:
    oldest = world.provider.sessions_of("ana")[0]
    assert await world.tell_logout(at=HERE, sub="ana", sid=oldest.sid) == 200


async def by_sub(world: LoginReplicas, browser: ScriptedBrowser) -> None:
    assert await world.tell_logout(at=HERE, sub="ana") == 200


async def by_sid_alone(world: LoginReplicas, browser: ScriptedBrowser) -> None:
    assert await world.tell_logout(at=HERE, sid=world.provider.sessions_of("ana")[0].sid) == 200


@pytest.mark.parametrize("store", ["cookie", "redis"])
@pytest.mark.parametrize(
    ("logout", "ends_all"),
    [(by_own_page, False), (by_sid, False), (by_sid_alone, False), (by_sub, True)],
    ids=["own-page", "sid", "sid-alone", "sub"],
)
async def test_a_logout_at_one_replica_ends_it_at_the_other(
    redis: RedisServer, logout: Logout, ends_all: bool, store: str
) -> None:
    """
    Within 5 s the other replica cuts the stream, closes the websocket with 1008 and takes the cookie for nothing; so it
    is with every session of the subject if no sid is named, and with nobody else's in any case.
    """
    async with running_replicas(2, redis=redis, store=store) as world:
        first, second, other = await world.log_in(), await world.log_in(), await world.log_in("dan")
        stolen, kept, others = cookie_of(first), cookie_of(second), cookie_of(other)
        for cookie in (stolen, kept, others) * 2:  # twice: the second time by a cached decision
            assert (await world.ask(f"GET {REPORT}", at=THERE, cookie=cookie)).status == 200
        async with (
            world.stream(THERE, cookie=stolen) as stream,
            world.websocket(THERE, cookie=stolen) as socket,
            world.stream(THERE, cookie=kept) as seconds,
            world.stream(THERE, cookie=others) as unrelated,
        ):
            assert [one.status for one in (stream, socket, seconds, unrelated)] == [200, 101, 200, 200]
            told_at = time.time()
            await logout(world, first)
            ends = [await stream.end(BOUND_S + SLACK_S), await socket.end(BOUND_S + SLACK_S)]
            took_s = [at - told_at for at in ends]
            say(f"stream {took_s[0]:.3f} s, websocket {took_s[1]:.3f} s")
            assert max(took_s) <= BOUND_S
            assert socket.received == CLOSED_1008
            for at in (HERE, THERE):
                answer = await world.ask(f"GET {REPORT}", at=at, cookie=stolen)
                assert (answer.status, answer.reason) == (401, "session-expired")
                sent = await world.ask(f"GET {REPORT}", at=at, cookie=stolen, fields=NAVIGATION)
                assert (sent.status, (sent.field("location") or "").partition("?")[0]) == (302, "/.portero/login")
            if ends_all:
                assert await seconds.end(BOUND_S) - told_at <= BOUND_S
            await asyncio.sleep(0.2)
            assert seconds.is_open is not ends_all
            assert (await world.ask(f"GET {REPORT}", at=THERE, cookie=kept)).status == (401 if ends_all else 200)
            assert unrelated.is_open
            assert (await world.ask(f"GET {REPORT}", at=THERE, cookie=others)).status == 200


async def test_who_logs_in_after_a_logout_is_in_everywhere(
    world: LoginReplicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Within the two seconds in which nobody can tell what came first, a login is refused with a page, and not sent round
    in circles by a provider that still knows the person; after that it is as good as any.
    """
    monkeypatch.setattr("authproxy.identity.shared.marks.SKEW_S", 1 + PATIENCE_S)
    browser = await world.log_in()
    assert await world.tell_logout(at=HERE, sub="ana") == 200
    refused = await browser.go(world.origin() + REPORT)
    assert (refused.status, refused.field("X-Portero-Reason")) == (400, "login-failed")
    assert "logged out everywhere" in refused.text
    assert len(refused.hops) <= 4
    await asyncio.sleep(2.1 + PATIENCE_S)
    await world.log_in(browser=browser, at=THERE)
    assert [await outcome(world, browser, at) for at in (HERE, THERE)] == [(200, None)] * 2


async def test_a_logout_token_is_good_once_over_all_replicas(world: LoginReplicas, redis: RedisServer) -> None:
    """
    A10, AP-R26: shown again, to whichever replica, it ends nothing that has begun since; and without Redis nobody knows
    whether a token was used, so it is not acted upon, and the provider is told to send it again.
    """
    browser, path = await world.log_in(), "/.portero/backchannel-logout"
    form = {"logout_token": world.provider.logout_token(sub="ana")}
    assert (await world.post(path, form, at=HERE)).status == 200
    await asyncio.sleep(2.1)
    await world.log_in(browser=browser)
    for at in (THERE, HERE):
        again = await world.post(path, form, at=at)
        assert (again.status, again.reason) == (400, "credential-invalid")
    assert [await outcome(world, browser, at) for at in (HERE, THERE)] == [(200, None)] * 2
    redis.kill()
    for one in (form, {"logout_token": world.provider.logout_token(sub="ana")}):
        unknown = await world.post(path, one, at=THERE)
        assert (unknown.status, unknown.reason) == (503, "session-store-unavailable")
    assert [await outcome(world, browser, at) for at in (HERE, THERE)] == [(200, None)] * 2


async def test_tokens_of_the_subject_end_too(world: LoginReplicas) -> None:
    """Bearer tokens of before and what was exchanged for them, and the streams opened by them; nobody else's."""
    ana, dan = world.provider.issue_token("acme", "ana"), world.provider.issue_token("acme", "dan")
    form = {"grant_type": EXCHANGE, "subject_token_type": ACCESS_TOKEN, "audience": "function:acme/report"}
    exchanged = (await world.post("/.portero/token", form | {"subject_token": ana})).json()["access_token"]
    for token in (ana, dan, exchanged) * 2:
        assert await with_token(world, token) == 200
    async with (
        world.stream(THERE, token=ana) as stream,
        world.websocket(THERE, token=ana) as socket,
        world.stream(THERE, token=dan) as unrelated,
    ):
        told_at = time.time()
        await by_sub(world, world.browser())
        took_s = [await one.end(BOUND_S + SLACK_S) - told_at for one in (stream, socket)]
        say(f"stream {took_s[0]:.3f} s, websocket {took_s[1]:.3f} s")
        assert max(took_s) <= BOUND_S
        assert socket.received == CLOSED_1008
        assert [await with_token(world, token) for token in (ana, exchanged)] == [401, 401]
        assert await with_token(world, dan) == 200
        assert unrelated.is_open
    await asyncio.sleep(2.1)  # tokens count whole seconds, and clocks may differ by one
    assert await with_token(world, world.provider.issue_token("acme", "ana")) == 200


async def test_tokens_of_one_provider_session_end_with_it(world: LoginReplicas) -> None:
    """A logout of one sid leaves the subject's tokens of other sessions."""
    await world.log_in()
    await world.log_in()
    sessions = world.provider.sessions_of("ana")
    tokens = [world.provider._signer.access_token(find_person("acme", "ana"), 300, one) for one in sessions]
    assert [await with_token(world, token) for token in tokens] == [200, 200]
    revocations = world.replicas[THERE].parts.identity.revocations
    before = revocations.generation
    await by_sid(world, world.browser())
    await until(lambda: revocations.generation > before, timeout_s=BOUND_S)  # what runs when it comes is cut
    assert [await with_token(world, token) for token in tokens] == [401, 200]


async def test_another_tenant_is_not_touched(world: LoginReplicas) -> None:
    """The same provider and the same words at globex's host end nothing of acme."""
    browser = await world.log_in()
    assert await world.tell_logout(at=HERE, tenant="globex", sub="ana") == 200
    await asyncio.sleep(1.2)
    assert await outcome(world, browser) == (200, None)


async def test_a_lost_message_costs_a_second(world: LoginReplicas, redis: RedisServer) -> None:
    """Publish/subscribe is only speed: with its connections gone, the poll finds the logout."""
    browser = await world.log_in()
    async with world.stream(THERE, cookie=cookie_of(browser)) as stream:
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        told_at = time.time()
        await by_sub(world, browser)
        took_s = await stream.end(BOUND_S + SLACK_S) - told_at
        say(f"stream {took_s:.3f} s")
        assert took_s <= BOUND_S


async def test_a_replica_that_starts_later_knows_of_it(world: LoginReplicas) -> None:
    """Also of a session that is a sealed cookie and so is nowhere but in the browser."""
    first, second = await world.log_in(), await world.log_in("dan")
    stolen = cookie_of(first)
    await by_own_page(world, first)
    await world.restart(THERE)
    answer = await world.ask(f"GET {REPORT}", at=THERE, cookie=stolen)
    assert (answer.status, answer.reason) == (401, "session-expired")
    assert await outcome(world, second) == (200, None)


async def test_a_logout_that_cannot_be_told_is_told_when_redis_is_back(
    world: LoginReplicas, redis: RedisServer
) -> None:
    """The person is told 503 and is out here at once; there as soon as Redis is back."""
    browser = await world.log_in()
    cookie = cookie_of(browser)
    assert await outcome(world, browser) == (200, None)
    async with world.stream(THERE, cookie=cookie) as stream:
        page = await browser.go(f"{world.origin()}/.portero/logout")
        redis.kill()
        out = await browser.submit(page, follow=False)
        assert (out.status, out.field("X-Portero-Reason")) == (503, "session-store-unavailable")
        assert (await world.ask(f"GET {REPORT}", at=HERE, cookie=cookie)).status == 401
        assert await world.tell_logout(at=HERE, sub="ana") == 503
        await asyncio.sleep(0.2)
        assert stream.is_open
        redis.start()
        back_at = time.time()
        took_s = await stream.end(BOUND_S + SLACK_S) - back_at
        say(f"stream {took_s:.3f} s after the return of Redis")
        assert took_s <= BOUND_S
        assert (await world.ask(f"GET {REPORT}", at=THERE, cookie=cookie)).status == 401


async def test_a_policy_change_cuts_what_a_session_opened(world: LoginReplicas) -> None:
    """A role that is taken away is taken from what runs, too."""
    browser = await world.log_in()
    async with (
        world.stream(THERE, cookie=cookie_of(browser)) as stream,
        world.websocket(THERE, cookie=cookie_of(browser)) as socket,
    ):
        file = world.folder / "policies" / "acme.yaml"
        policy = json.loads(file.read_text())
        policy["bindings"][0]["groups"] = ["directors"]
        file.write_text(json.dumps(policy))
        assert await world.replicas[THERE].parts.folder.reload()
        changed_at = time.time()
        assert max([await one.end(BOUND_S) - changed_at for one in (stream, socket)]) <= BOUND_S
        assert socket.received == CLOSED_1008


async def _cut_at(streams: tuple[Stream, ...], earliest: float, latest: float) -> None:
    """All end when their credential does, which is between two instants, and not before."""
    ends = [await one.end(latest - time.time() + SLACK_S + BOUND_S) for one in streams]
    say(f"cut {ends[0] - latest:.3f} s and {ends[1] - latest:.3f} s after the expiry")
    assert min(ends) >= earliest - 1.0  # lifetimes are whole seconds
    assert max(ends) <= latest + SLACK_S


async def test_what_a_token_opened_is_cut_when_it_expires(world: LoginReplicas) -> None:
    """AP-R54: at the token's ``exp``, the websocket with 1008."""
    began = time.time()
    token = world.provider.issue_token("acme", "ana", ttl_s=3)
    expires_at = time.time() + 3
    async with world.stream(THERE, token=token) as stream, world.websocket(THERE, token=token) as socket:
        await _cut_at((stream, socket), began + 3, expires_at)
        assert socket.received == CLOSED_1008


@pytest.mark.parametrize("store", ["cookie", "redis"])
async def test_what_a_session_without_refresh_opened_is_cut_when_it_expires(
    redis: RedisServer, short_lives: None, store: str
) -> None:
    """The provider gives no refresh token: the session lasts as long as its access token."""
    async with running_replicas(2, redis=redis, store=store) as world:
        world.provider.gives_refresh_tokens, world.provider.login_ttl_s = False, 3
        began = time.time()
        browser = await world.log_in()
        expires_at = time.time() + 3
        cookie = cookie_of(browser)
        async with world.stream(THERE, cookie=cookie) as stream, world.websocket(THERE, cookie=cookie) as socket:
            await _cut_at((stream, socket), began + 3, expires_at)
            assert socket.received == CLOSED_1008
        assert await outcome(world, browser) == (401, "session-expired")


@pytest.mark.parametrize("store", ["cookie", "redis"])
async def test_what_a_session_opened_goes_on_while_it_can_be_refreshed(
    redis: RedisServer, short_lives: None, store: str
) -> None:
    """
    Over several lives of the access token, until the grant is withdrawn; the cookie that the browser has from before
    works afterwards on every replica (the result is shared), though the provider has rotated the token that it holds.
    """
    async with running_replicas(2, redis=redis, store=store) as world:
        provider = world.provider
        provider.login_ttl_s = 3
        began = time.time()
        cookie, other = cookie_of(await world.log_in()), cookie_of(await world.log_in("dan"))
        async with (
            world.stream(THERE, cookie=cookie) as stream,
            world.websocket(THERE, cookie=cookie) as socket,
            world.stream(THERE, cookie=other) as others,
            world.websocket(THERE, cookie=other) as others_socket,
        ):
            await until(lambda: provider.refreshes >= 4, timeout_s=30)  # two of each
            took_s = time.time() - began
            assert all(one.is_open for one in (stream, socket, others, others_socket))
            assert provider.refreshes <= 2 * took_s
            say(f"{provider.refreshes} refreshes of two in {took_s:.1f} s")
            provider.login_ttl_s = 300  # of the next one, which is fresh still when it is asked for
            so_far, refresher = provider.refreshes, world.replicas[THERE].parts.identity.refresher
            provider.withdraw("dan")
            withdrawn_at = time.time()
            ends = [await one.end(3 + SLACK_S + BOUND_S) - withdrawn_at for one in (others, others_socket)]
            say(f"cut {ends[0]:.3f} s and {ends[1]:.3f} s after the grant was withdrawn")
            assert max(ends) <= 3 + SLACK_S
            assert others_socket.received == CLOSED_1008
            await until(lambda: provider.refreshes > so_far and not refresher._flights)
            assert stream.is_open
            assert socket.is_open
            for at in (HERE, THERE):
                answer = await world.ask(f"GET {REPORT}", at=at, cookie=cookie)
                assert answer.status == 200, answer.wire
                assert bool(answer.all("set-cookie")) == (store == "cookie")
