"""
Sessions in cookies: begun, used, renewed, over. Each on one replica with everything it asks for faked.

Longer than other modules: the whole life of a session is read together.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any

import pytest

from authproxy.identity.sessions import lifetime
from authproxy.identity.sessions.cookies import MAX_COOKIE_BYTES, SESSION
from authproxy.identity.sessions.session import GrantInvalid, SessionOver
from authproxy.identity.sessions.sessions import SessionTooLarge, renewed
from policies.decision import Deny, Reason
from policies.errors import KeysUnavailable, ProviderUnavailable, StoreUnavailable
from policies.principal import Principal
from policies.tables import GroupsSpec
from tests.fakes.identity import a_provider, a_request
from tests.fakes.sessions import ISSUER, Jar, World, named, some_keys, some_tokens, tenant_with

ACME = tenant_with()
HOUR_S = 3600.0


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def jar() -> Jar:
    return Jar()


def now_answer(world: World, jar: Jar, tenant: Any = ACME) -> Any:
    return world.sessions.identify_now(tenant, jar.request(), world.now)


async def answer(world: World, jar: Jar, tenant: Any = ACME) -> Any:
    found = await world.sessions.identify(tenant, jar.request(), world.now)
    if isinstance(found, Principal):
        jar.take_lines(found.set_cookie)
    return found


def is_nobody(found: object) -> bool:
    return isinstance(found, Principal) and found.is_anonymous and not found.is_session_over and not found.set_cookie


def is_over(found: object) -> bool:
    return isinstance(found, Principal) and found.is_anonymous and found.is_session_over


# -- use ---------------------------------------------------------------------------------------------------------------


async def test_who_logged_in_is_known_by_the_cookie(world: World, jar: Jar) -> None:
    """Everything that a session says of its holder, and until when."""
    session = await world.log_in(jar, claims={"name": "Ana", "sid": "s1"})
    found = named(now_answer(world, jar))
    assert (found.subject, found.groups, found.name) == ("login|ana", frozenset(("analysts",)), "Ana")
    assert found.is_by_cookie
    assert not found.is_session_over
    assert (found.session_id, found.issuer, found.sid) == (session.id, ISSUER, "s1")
    assert found.issued_at == session.created_at == world.now
    assert found.expires_at == min(session.fresh_until, world.now + ACME.sessions.idle_s)
    assert found.set_cookie == b""
    assert world.outcomes() == {"begun": 1}


async def test_a_cookie_seen_before_is_the_same_principal(world: World, jar: Jar) -> None:
    """So that role masks and encoded fields are made once; a fresh opening says the same."""
    await world.log_in(jar)
    assert world.sessions.known_now(ACME, jar.request(), world.now) is None
    found = now_answer(world, jar)
    assert world.sessions.known_now(ACME, jar.request(), world.now) is found
    assert now_answer(world, jar) is found
    assert await answer(world, jar) is found
    world.sessions.revoke_all()
    again = now_answer(world, jar)
    assert again is not found
    assert (again.subject, again.expires_at, again.session_id) == (found.subject, found.expires_at, found.session_id)


@pytest.mark.parametrize("cookie", [None, b"", b"a=b", b"__Host-portero-login-abcdefgh=1"])
async def test_without_a_session_it_is_nobody(world: World, cookie: bytes | None) -> None:
    """Nothing is said of it."""
    request = a_request(cookie=cookie)
    assert not world.sessions.has_session(request)
    assert is_nobody(world.sessions.identify_now(ACME, request, world.now))
    assert is_nobody(await world.sessions.identify(ACME, request, world.now))
    assert world.sessions.known_now(ACME, request, world.now) is None
    assert await world.sessions.open(ACME, request, world.now) is None


async def test_keys_change_and_nobody_is_logged_out(jar: Jar) -> None:
    """The old key opens; what is written anew is sealed with the new one."""
    keys = [some_keys()]
    world = World(keys=lambda: keys[0])
    await world.log_in(jar)
    old = jar.field
    keys[0] = some_keys(keys[0].current)
    world.sessions.revoke_all()
    assert named(now_answer(world, jar)).sub == "ana"
    world.clock.pass_s(ACME.sessions.idle_s / 10)
    await answer(world, jar)
    assert jar.field != old
    keys[0] = keys[0]._replace(accepted={})
    world.sessions.revoke_all()
    assert named(now_answer(world, jar)).sub == "ana"
    assert is_nobody(world.sessions.identify_now(ACME, a_request(cookie=old), world.now))


async def test_a_key_that_was_taken_away_ends_what_it_sealed(jar: Jar) -> None:
    """At once, though the cookie was opened before; and nothing seals it anew under the new key (AP-R18)."""
    keys = [some_keys()]
    world = World(keys=lambda: keys[0])
    await world.log_in(jar)
    named(now_answer(world, jar))
    keys[0] = some_keys()
    assert world.sessions.known_now(ACME, jar.request(), world.now) is None
    assert is_nobody(now_answer(world, jar))
    world.clock.pass_s(lifetime.stamp_every_s(ACME.sessions))
    assert is_nobody(await answer(world, jar))


async def test_after_the_end_nothing_is_fetched_behind_requests(world: World, jar: Jar) -> None:
    """Whoever looks at a session as the process ends begins nothing that nobody would stop."""
    await world.log_in(jar)
    await world.sessions.close()
    world.clock.pass_s(0.9 * 900)
    assert named(now_answer(world, jar)).sub == "ana"
    await asyncio.sleep(0)
    assert world.refresher.asked == 0
    assert len(asyncio.all_tasks()) == 1


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_shorter_max_age_holds_for_sessions_that_are_there(world: World, jar: Jar) -> None:
    """What the policy of now takes for too old is fetched again, though it was good for an hour when it was fetched."""
    long = tenant_with(provider=a_provider(ISSUER, groups=GroupsSpec(max_age_s=HOUR_S)))
    short = tenant_with(provider=a_provider(ISSUER, groups=GroupsSpec(max_age_s=60.0)))
    await world.log_in(jar, long)
    named(now_answer(world, jar, long))
    world.clock.pass_s(59.0)
    assert named(now_answer(world, jar, short)).expires_at == world.now + 1.0
    world.clock.pass_s(1.0)
    assert now_answer(world, jar, short) is None
    assert named(now_answer(world, jar, long)).sub == "ana"


@pytest.mark.parametrize("ahead_s", [lifetime.SKEW_S + 1.0, HOUR_S])
async def test_a_replica_whose_clock_is_behind_takes_no_cookie_away(world: World, jar: Jar, ahead_s: float) -> None:
    """There the session is over for now; the browser keeps it for the replicas whose clocks are right."""
    await world.log_in(jar)
    world.clock.pass_s(-ahead_s)
    assert is_over(await answer(world, jar))
    world.clock.pass_s(ahead_s)
    assert named(await answer(world, jar)).sub == "ana"


async def test_a_renewed_version_ends_with_its_own_login_at_the_provider(world: World, jar: Jar) -> None:
    """The cookie tells of none, or of another: the provider named it only at the refresh."""
    session = await world.log_in(jar, sid=None)
    world.refresher.known[session.id] = replace(session, version=2, sid="s9")
    assert named(now_answer(world, jar)).sid == "s9"
    world.revocations.sids.add("s9")
    world.sessions.revoke_all()
    assert is_over(now_answer(world, jar))


async def test_a_session_that_is_used_goes_on_until_its_absolute_end(world: World, jar: Jar) -> None:
    """Written anew each tenth of ``idle``, no more often, and never beyond ``absolute``."""
    session = await world.log_in(jar, refresh_token=None, expires_at=world.now + 100 * HOUR_S)
    written = 0
    while world.now < session.created_at + ACME.sessions.absolute_s:
        found = named(await answer(world, jar))
        assert found.sub == "ana"
        written += bool(found.set_cookie)
        world.clock.pass_s(120)
    assert is_over(await answer(world, jar))
    assert jar.cookies == {}
    assert written == ACME.sessions.absolute_s / 360 - 1
    assert world.outcomes()["expired"] == 1


async def test_a_session_that_is_not_used_ends(world: World, jar: Jar) -> None:
    """At ``idle`` after the last use, also when it is in the cache; the browser forgets it."""
    await world.log_in(jar, expires_at=world.now + 100 * HOUR_S, refresh_token=None)
    named(now_answer(world, jar))
    world.clock.pass_s(ACME.sessions.idle_s - 1)
    named(now_answer(world, jar))
    world.clock.pass_s(1)
    found = now_answer(world, jar)
    assert is_over(found)
    assert found.set_cookie.startswith(b"Set-Cookie: __Host-portero-session=; Max-Age=0; ")
    assert found.set_cookie.endswith(b"\r\nCache-Control: private, no-store\r\n")
    assert world.sessions.known_now(ACME, jar.request(), world.now) is None


async def test_a_copy_that_is_never_written_anew_ends_by_itself(world: World, jar: Jar) -> None:
    """A hit is worth what a miss is: the cookie's own last use counts, not that it was shown meanwhile."""
    await world.log_in(jar, expires_at=world.now + 100 * HOUR_S, refresh_token=None)
    stolen = a_request(cookie=jar.field)
    for _ in range(6):
        named(world.sessions.identify_now(ACME, stolen, world.now))
        world.clock.pass_s(599)
    named(world.sessions.identify_now(ACME, stolen, world.now))
    world.clock.pass_s(10)
    assert is_over(world.sessions.identify_now(ACME, stolen, world.now))


async def test_one_writing_serves_all_that_show_the_old_cookie(world: World, jar: Jar) -> None:
    """A page's parallel requests get one and the same new cookie."""
    await world.log_in(jar)
    world.clock.pass_s(600)
    found = [now_answer(world, jar) for _ in range(5)]
    assert found[0].set_cookie
    assert all(one is found[0] for one in found)


@pytest.mark.parametrize("idle_s", [10.0, 60.0, 100.0, 3600.0])
async def test_short_idling_is_written_often_enough(world: World, jar: Jar, idle_s: float) -> None:
    """Whoever goes on is never idle, however short that is."""
    tenant = tenant_with(idle_s=idle_s)
    await world.log_in(jar, tenant, expires_at=world.now + 100 * HOUR_S, refresh_token=None)
    for _ in range(30):
        assert named(await answer(world, jar, tenant)).sub == "ana"
        world.clock.pass_s(idle_s / 3)


@pytest.mark.parametrize("ahead_s", [61.0, 1e6])
async def test_a_session_from_a_later_time_is_over(world: World, jar: Jar, ahead_s: float) -> None:
    """AP-R50: when a clock was wrong, nothing that it wrote is believed; also not from the cache."""
    world.clock.pass_s(ahead_s)
    await world.log_in(jar)
    named(now_answer(world, jar))
    world.clock.pass_s(-ahead_s)
    assert is_over(now_answer(world, jar))


async def test_claims_of_a_session_without_refresh_end_it(world: World, jar: Jar) -> None:
    """No refresh token: over when the tokens are, and the browser logs in again."""
    await world.log_in(jar, refresh_token=None, expires_at=world.now + 300)
    assert named(now_answer(world, jar)).expires_at == world.now + 300
    world.clock.pass_s(300)
    assert is_over(await answer(world, jar))
    assert world.refresher.asked == 0


# -- end ---------------------------------------------------------------------------------------------------------------


async def test_a_logout_ends_every_copy_at_once(world: World, jar: Jar) -> None:
    """The browser is cleared, and a copy in another place is of no use, though it is in the cache."""
    session = await world.log_in(jar)
    copy = a_request(cookie=jar.field)
    named(world.sessions.identify_now(ACME, copy, world.now))
    jar.take(await world.sessions.end(ACME, session, jar.request(), world.now))
    assert jar.cookies == {}
    assert is_over(world.sessions.identify_now(ACME, copy, world.now))
    assert world.sessions.known_now(ACME, copy, world.now) is None
    assert await world.sessions.open(ACME, copy, world.now) is None
    until = world.revocations.sessions["acme", session.id]
    assert until >= session.created_at + ACME.sessions.absolute_s
    assert world.outcomes() == {"begun": 1, "ended": 1, "revoked": 1}


async def test_a_late_answer_clears_no_new_session(world: World, jar: Jar) -> None:
    """A request with the session of before, answered after the next login, must not log the person out."""
    await world.log_in(jar)
    late = jar.request()
    await world.log_in(jar)
    found = named(world.sessions.identify_now(ACME, late, world.now))
    assert is_over(found)
    assert found.set_cookie == b""


async def test_a_logout_of_the_subject_ends_what_began_before_it(world: World, jar: Jar) -> None:
    """The look-up is made once a change, not once a request; and a session that began after it goes on."""
    await world.log_in(jar)
    named(now_answer(world, jar))
    looks = world.revocations.looks
    named(now_answer(world, jar))
    assert world.revocations.looks == looks
    world.revocations.revoke_subject("acme", "bob", world.now)
    named(now_answer(world, jar))
    named(now_answer(world, jar))
    assert world.revocations.looks == looks + 1
    world.revocations.revoke_subject("acme", "ana", world.now)
    assert is_over(now_answer(world, jar))
    world.clock.pass_s(1)
    await world.log_in(jar)
    assert named(now_answer(world, jar)).sub == "ana"


async def test_a_session_counts_from_when_its_tokens_were_had(world: World, jar: Jar) -> None:
    """A logout that arrives while the login is being completed ends it: the browser is not sent on with nothing."""
    tokens = some_tokens(world.now)
    world.revocations.revoke_subject("acme", "ana", world.now + 1)
    world.clock.pass_s(2)
    with pytest.raises(SessionOver):
        await world.sessions.begin(ACME, ACME.providers[0], tokens, jar.request(), world.now)
    assert world.outcomes() == {}


async def test_a_login_makes_another_session_and_ends_the_old_one(world: World, jar: Jar) -> None:
    """AP-R5: a planted cookie is not what the person logs in to."""
    attacker = Jar()
    planted = await world.log_in(attacker, sub="mallory", claims={"sub": "mallory"})
    jar.cookies = dict(attacker.cookies)
    session = await world.log_in(jar)
    assert session.id != planted.id
    assert session.secret != planted.secret
    assert named(now_answer(world, jar)).sub == "ana"
    assert is_over(now_answer(world, attacker))


async def test_a_logout_that_nobody_can_be_told_of_is_an_error(world: World, jar: Jar) -> None:
    """The page must say so; here the session is over all the same."""
    session = await world.log_in(jar)
    world.revocations.is_down = True
    with pytest.raises(StoreUnavailable):
        await world.sessions.end(ACME, session, jar.request(), world.now)
    assert is_over(now_answer(world, jar))


async def test_ending_nothing_clears_the_browser(world: World, jar: Jar) -> None:
    """Whatever stands there under our names."""
    jar.cookies = {SESSION: "garbage", f"{SESSION}.3": "stale", "other": "1"}
    jar.take(await world.sessions.end(ACME, None, jar.request(), world.now))
    assert jar.cookies == {"other": "1"}
    foreign = await world.log_in(Jar(), tenant_with("globex"))
    await world.sessions.end(ACME, foreign, jar.request(), world.now)
    assert world.revocations.sessions == {}


# -- policy ------------------------------------------------------------------------------------------------------------


async def test_policy_of_now_judges_a_session_of_before(world: World, jar: Jar) -> None:
    """A provider that is gone or has become another issuer, and a tenant that the claims do not name."""
    await world.log_in(jar)
    named(now_answer(world, jar))
    gone = replace(ACME, providers=())
    other = replace(ACME, providers=(a_provider("https://other.example"),))
    strict = replace(ACME, providers=(a_provider(ISSUER, tenant_claim="org"),))
    assert is_over(now_answer(world, jar, gone))
    assert is_over(now_answer(world, jar, other))
    refused = now_answer(world, jar, strict)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.TENANT_MISMATCH
    assert named(now_answer(world, jar)).sub == "ana"
    short = tenant_with(idle_s=10.0)
    world.clock.pass_s(11)
    assert is_over(now_answer(world, jar, short))


async def test_groups_are_read_as_policy_says_now(world: World, jar: Jar) -> None:
    """The claims are kept, not what was made of them."""
    await world.log_in(jar, claims={"teams": ["a", "b"], "spoilt": [1]})
    for claim, groups, unknown in (("teams", ["a", "b"], False), ("spoilt", [], True), ("none", [], False)):
        found = named(now_answer(world, jar, tenant_with(provider=a_provider(ISSUER, groups_claim=claim))))
        assert (sorted(found.groups), found.has_unknown_groups) == (groups, unknown)


async def test_claims_that_name_nobody_are_over(world: World, jar: Jar) -> None:
    """Or somebody else than who logged in."""
    for claims in ({"sub": "bob"}, {"sub": None}, {"sub": ""}):
        await world.log_in(jar, claims=claims)
        assert is_over(now_answer(world, jar))


# -- refresh -----------------------------------------------------------------------------------------------------------


async def test_claims_that_are_too_old_are_fetched_again(world: World, jar: Jar) -> None:
    """The request waits; the browser gets the session anew; groups that are gone are gone."""
    session = await world.log_in(jar)
    assert session.fresh_until == world.now + 900
    world.clock.pass_s(900)
    assert now_answer(world, jar) is None
    world.refresher.answer = some_tokens(world.now, {"groups": []}, refresh_token="refresh-2")
    found = named(await answer(world, jar))
    assert found.groups == frozenset()
    assert found.set_cookie
    assert found.session_id == session.id
    assert found.issued_at == session.created_at
    fresh = World(keys=world.sealer._keys)
    reopened = await fresh.sessions.open(ACME, jar.request(), world.now)
    assert reopened is not None
    assert (reopened.version, reopened.refresh_token) == (2, "refresh-2")
    assert reopened.seen_at == pytest.approx(world.now, abs=1)
    assert world.refresher.asked == 1


async def test_a_cookie_of_before_the_refresh_is_good_for_the_refreshed(world: World, jar: Jar) -> None:
    """Parallel requests, and a browser that has lost the answer."""
    await world.log_in(jar)
    old = a_request(cookie=jar.field)
    world.clock.pass_s(900)
    world.refresher.answer = some_tokens(world.now)
    await answer(world, jar)
    found = named(world.sessions.identify_now(ACME, old, world.now))
    assert found.set_cookie
    world.sessions.revoke_all()
    assert named(world.sessions.identify_now(ACME, old, world.now)).set_cookie
    assert world.refresher.asked == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProviderUnavailable("no"), Reason.PROVIDER_UNAVAILABLE),
        (StoreUnavailable("no"), Reason.SESSION_STORE_UNAVAILABLE),
        (KeysUnavailable("no"), Reason.KEYS_UNAVAILABLE),
    ],
    ids=["provider", "store", "keys"],
)
async def test_what_cannot_be_known_is_refused_and_heals(
    world: World, jar: Jar, error: Exception, reason: Reason
) -> None:
    """AP-R50: never access, and nobody is logged out for it."""
    await world.log_in(jar)
    world.clock.pass_s(900)
    world.refresher.answer = error
    refused = await answer(world, jar)
    assert isinstance(refused, Deny)
    assert (refused.reason, refused.tenant) == (reason, "acme")
    world.refresher.answer = some_tokens(world.now)
    assert named(await answer(world, jar)).sub == "ana"


async def test_a_session_that_its_provider_ended_is_over_everywhere(world: World, jar: Jar) -> None:
    """Also copies that look fresh; the browser forgets it."""
    session = await world.log_in(jar)
    world.clock.pass_s(900)
    world.refresher.answer = SessionOver()
    assert is_over(await answer(world, jar))
    assert jar.cookies == {}
    assert ("acme", session.id) in world.revocations.sessions


async def test_a_session_over_that_nobody_can_be_told_of_is_over(world: World, jar: Jar) -> None:
    """The store is down as well."""
    await world.log_in(jar)
    world.clock.pass_s(900)
    world.refresher.answer = SessionOver()
    world.revocations.is_down = True
    assert is_over(await answer(world, jar))


async def test_tokens_of_another_subject_end_the_session(world: World, jar: Jar) -> None:
    """Whatever the refresh came to: a session is never somebody else's."""
    await world.log_in(jar)
    world.clock.pass_s(900)
    world.refresher.answer = some_tokens(world.now, sub="bob")
    assert is_over(await answer(world, jar))


async def test_another_session_known_under_the_same_id_is_not_taken(world: World, jar: Jar) -> None:
    """A newer version must be one of the same person and tenant."""
    session = await world.log_in(jar)
    others: list[dict[str, Any]] = [
        {"sub": "bob"},
        {"issuer": "https://x.example"},
        {"tenant": "globex"},
        {"id": "x" * 22},
    ]
    for changes in others:
        world.refresher.known[session.id] = replace(session, version=9, **changes)
        world.sessions.revoke_all()
        assert named(now_answer(world, jar)).set_cookie == b""


async def test_tokens_that_are_stale_when_they_come_are_not_used(world: World, jar: Jar) -> None:
    """And it is not asked for ever."""
    await world.log_in(jar)
    world.clock.pass_s(900)
    world.refresher.answer = some_tokens(world.now - 5000)
    assert is_over(await answer(world, jar))
    assert world.refresher.asked == 1


async def test_claims_are_fetched_ahead_of_time_behind_the_request(world: World, jar: Jar) -> None:
    """From 80 % of their freshness on, once, while requests go on with what is known."""
    await world.log_in(jar)
    world.clock.pass_s(719)
    named(await answer(world, jar))
    world.clock.pass_s(1)
    world.refresher.answer = some_tokens(world.now, {"groups": ["new"]})
    found = [named(now_answer(world, jar)) for _ in range(10)]
    assert {tuple(one.groups) for one in found} == {("analysts",)}
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.refresher.asked == 1
    assert named(now_answer(world, jar)).groups == frozenset(("new",))
    await world.sessions.close()


@pytest.mark.parametrize("error", [ProviderUnavailable("no"), StoreUnavailable("no")], ids=["provider", "store"])
async def test_a_refresh_ahead_that_fails_hurts_nobody(world: World, jar: Jar, error: Exception) -> None:
    """It is tried again after a while, not with each request."""
    await world.log_in(jar)
    world.clock.pass_s(720)
    world.refresher.answer = error
    for _ in range(14):
        named(await answer(world, jar))
        await asyncio.sleep(0.01)
        world.clock.pass_s(1)
    assert world.refresher.asked == 1
    world.clock.pass_s(1)
    named(await answer(world, jar))
    await asyncio.sleep(0.01)
    assert world.refresher.asked == 2
    assert world.sessions._ahead.failed == 2


async def test_a_defect_behind_a_request_is_logged_and_nothing_else(world: World, jar: Jar) -> None:
    """``GrantInvalid`` should have become ``SessionOver``; what is fresh is fresh."""
    await world.log_in(jar)
    world.clock.pass_s(720)
    world.refresher.answer = GrantInvalid()
    named(now_answer(world, jar))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert named(now_answer(world, jar)).sub == "ana"


async def test_a_refresh_ahead_that_finds_the_session_over_ends_it(world: World, jar: Jar) -> None:
    """The provider's word counts before the claims are too old."""
    await world.log_in(jar)
    world.clock.pass_s(720)
    world.refresher.answer = SessionOver()
    named(now_answer(world, jar))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert is_over(now_answer(world, jar))


def test_judging_outside_of_a_loop_refreshes_nothing(jar: Jar) -> None:
    """There is time until the claims are too old."""
    world = World()
    asyncio.run(world.log_in(jar))
    world.clock.pass_s(720)
    assert named(now_answer(world, jar)).sub == "ana"
    assert len(world.sessions._ahead) == 0


# -- size --------------------------------------------------------------------------------------------------------------


def noise(chars: int) -> str:
    return secrets.token_urlsafe(chars)[:chars]


async def test_a_large_session_takes_pieces_and_a_small_one_clears_them(world: World, jar: Jar) -> None:
    """The stale piece goes when the session is written anew; before that it is not looked at."""
    await world.log_in(jar, claims={"noise": noise(3500)})
    assert set(jar.cookies) == {SESSION, f"{SESSION}.1"}
    assert named(now_answer(world, jar)).sub == "ana"
    stale = jar.cookies[f"{SESSION}.1"]
    world.clock.pass_s(900)
    world.refresher.answer = some_tokens(world.now)
    await answer(world, jar)
    assert set(jar.cookies) == {SESSION}
    jar.cookies[f"{SESSION}.1"] = stale
    assert named(now_answer(world, jar)).sub == "ana"


async def test_an_id_token_is_left_out_where_it_does_not_fit(world: World, jar: Jar) -> None:
    """A logout at the provider then asks whose it is; that is better than no login."""
    await world.log_in(jar, claims={"noise": noise(3500)}, id_token=noise(3000))
    session = await world.sessions.open(ACME, jar.request(), world.now)
    assert session is not None
    assert session.id_token is None
    assert sum(len(n) + len(v) + 3 for n, v in jar.cookies.items()) <= MAX_COOKIE_BYTES


async def test_a_session_that_does_not_fit_is_refused_at_the_login(world: World, jar: Jar) -> None:
    """With a word to the operator; the session of before is not ended by a login that failed."""
    old = await world.log_in(jar)
    with pytest.raises(SessionTooLarge, match=r"use sessions\.store: redis"):
        await world.log_in(jar, claims={"noise": noise(8000)})
    with pytest.raises(SessionTooLarge, match="cannot be kept"):
        await world.log_in(jar, claims={"noise": "\ud800"})
    assert named(now_answer(world, jar)).session_id == old.id


async def test_a_session_that_grows_too_large_goes_on_without_being_written(world: World, jar: Jar) -> None:
    """What other requests fetched is known here; the browser keeps the cookie that it has."""
    await world.log_in(jar)
    before = dict(jar.cookies)
    world.clock.pass_s(900)
    world.refresher.answer = some_tokens(world.now, {"noise": noise(8000), "groups": ["new"]})
    assert named(await answer(world, jar)).groups == frozenset(("new",))
    assert jar.cookies == before


async def test_opened_cookies_are_not_kept_without_bound(world: World) -> None:
    """The least recently used goes first."""
    world.sessions._opened._max_opened = 5
    for _ in range(9):
        jar = Jar()
        await world.log_in(jar)
        named(now_answer(world, jar))
    assert len(world.sessions._opened) == 5


# -- lifetime ----------------------------------------------------------------------------------------------------------


def test_a_version_follows_the_one_before() -> None:
    """What stays and what is new."""
    provider = a_provider(ISSUER, groups=GroupsSpec(max_age_s=60.0))
    first = lifetime.begun("acme", provider, some_tokens(1000.0), 1001.0)
    assert (first.version, first.created_at, first.seen_at, first.fresh_until) == (1, 1000.0, 1001.0, 1060.0)
    assert "nonce" not in first.claims
    tokens = some_tokens(2000.0, {"groups": ["b"]}, refresh_token=None, id_token=None, sid=None)
    second = renewed(first, tokens, provider, ACME, 2000.0)
    assert (second.version, second.fresh_until, second.fetched_at) == (2, 2060.0, 2000.0)
    assert (second.id, second.secret, second.created_at, second.seen_at) == (
        first.id,
        first.secret,
        first.created_at,
        first.seen_at,
    )
    assert (second.refresh_token, second.id_token, second.sid) == ("refresh-1", first.id_token, "s1")
    assert second.claims == {"iss": ISSUER, "sub": "ana", "groups": ["b"]}
    with pytest.raises(SessionOver):
        renewed(first, some_tokens(2000.0, sub="bob"), provider, ACME, 2000.0)
    with pytest.raises(SessionOver):
        renewed(first, some_tokens(2000.0, issuer="https://x.example"), provider, ACME, 2000.0)


def test_ids_and_secrets_are_random() -> None:
    """AP-R51: 128 and 256 bits of the system's generator."""
    sessions = [lifetime.begun("acme", a_provider(), some_tokens(0.0), 0.0) for _ in range(100)]
    assert len({s.id for s in sessions}) == len({s.secret for s in sessions}) == 100
    assert all(len(s.id) == 22 and len(s.secret) == 32 for s in sessions)
