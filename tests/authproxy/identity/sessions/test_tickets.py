"""Sessions in the store: the browser has a ticket, the store a record that it alone cannot read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from authproxy.identity.sessions.cookies import Pieces
from authproxy.identity.sessions.seal import encode_session
from authproxy.identity.sessions.session import SessionOver
from authproxy.identity.sessions.sessions import SessionTooLarge
from authproxy.identity.shared.state import key
from policies.decision import Deny, Reason
from policies.errors import StoreUnavailable
from policies.principal import Principal
from tests.fakes.sessions import Jar, World, named, some_tokens, tenant_with

ACME = tenant_with(store="redis")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def jar() -> Jar:
    return Jar()


async def answer(world: World, jar: Jar, tenant: Any = ACME) -> Any:
    return await world.sessions.identify(tenant, jar.request(), world.now)


def is_over(found: object) -> bool:
    return isinstance(found, Principal) and found.is_anonymous and found.is_session_over


def is_refused(found: object) -> bool:
    return isinstance(found, Deny) and found.reason is Reason.SESSION_STORE_UNAVAILABLE


async def test_the_ticket_is_enough_for_every_replica(world: World, jar: Jar) -> None:
    """The same person, id and groups; the cookie is short and stays the same."""
    session = await world.log_in(jar, ACME, claims={"noise": "x" * 20_000})
    assert len(jar.field) < 200
    other = World(store=world.store, keys=world.sealer._keys)
    for replica in (world, other):
        found = named(await answer(replica, jar))
        assert (found.subject, found.session_id, found.set_cookie) == ("login|ana", session.id, b"")
        assert found.groups == frozenset(("analysts",))


async def test_the_store_is_asked_once_in_two_seconds(world: World, jar: Jar) -> None:
    """Between two looks nothing is asked, and no request waits."""
    await world.log_in(jar, ACME)
    reads = world.store.reads
    found = named(await answer(world, jar))
    assert world.store.reads == reads + 1
    world.clock.pass_s(1.9)
    assert world.sessions.known_now(ACME, jar.request(), world.now) is found
    assert world.sessions.identify_now(ACME, jar.request(), world.now) is found
    world.clock.pass_s(0.1)
    assert world.sessions.known_now(ACME, jar.request(), world.now) is None
    assert world.sessions.identify_now(ACME, jar.request(), world.now) is None
    named(await answer(world, jar))
    assert world.store.reads == reads + 2


async def test_without_the_store_nobody_is_known(world: World, jar: Jar) -> None:
    """AP-R50: 503, not access and not a logout; a login fails, and says why."""
    session = await world.log_in(jar, ACME)
    named(await answer(world, jar))
    world.store.is_down = True
    world.clock.pass_s(2)
    assert is_refused(await answer(world, jar))
    with pytest.raises(StoreUnavailable):
        await world.sessions.open(ACME, jar.request(), world.now)
    with pytest.raises(StoreUnavailable):
        await world.log_in(jar, ACME)
    with pytest.raises(StoreUnavailable):
        await world.log_in(Jar(), ACME)
    with pytest.raises(StoreUnavailable):
        await world.sessions.end(ACME, session, jar.request(), world.now)
    world.store.is_down = False
    assert is_over(await answer(world, jar))  # ended here, though the store could not be told


async def test_a_dump_of_the_store_is_of_no_use(world: World, jar: Jar) -> None:
    """Neither claims nor tokens, nor which session is whose; and keys alone open nothing either."""
    session = await world.log_in(jar, ACME, claims={"secret": "canary-claim"})
    dump = repr(world.store.values)
    for canary in ("canary-claim", "refresh-1", "ana", session.id, session.secret.hex()):
        assert canary not in dump
    (data,) = [value for _, value in world.store.values.values()]
    assert encode_session(session)[:20] not in data
    assert world.sealer.open("acme", "ticket", "__Host-portero-session", data) is None


async def test_records_that_were_swapped_in_the_store_are_none(world: World, jar: Jar) -> None:
    """Who can write to the store can end sessions and not make them."""
    other = Jar()
    one, two = await world.log_in(jar, ACME), await world.log_in(other, ACME, sub="bob", claims={"sub": "bob"})
    places = [key("acme", "ticket", session.id) for session in (one, two)]
    values = world.store.values
    values[places[0]], values[places[1]] = values[places[1]], values[places[0]]
    assert is_over(await answer(world, jar))
    values[places[0]] = (1, b"garbage")
    assert is_over(await answer(world, jar))
    del values[places[0]]
    assert is_over(await answer(world, jar))


async def test_a_made_up_ticket_costs_no_look_up(world: World, jar: Jar) -> None:
    """It is not sealed by us: nobody's, and the store is not asked."""
    await world.log_in(jar, ACME)
    reads = world.store.reads
    for name, text in list(jar.cookies.items()):
        jar.cookies[name] = text[:-3] + ("A" if text[-3] != "A" else "B") + text[-2:]
    found = named(await answer(world, jar))
    assert found.is_anonymous
    assert not found.is_session_over
    assert world.store.reads == reads


async def test_the_other_kind_of_cookie_is_nobodys(world: World) -> None:
    """What policy says of the tenant's sessions holds for all of them."""
    for store, other in (("redis", "cookie"), ("cookie", "redis")):
        jar = Jar()
        await world.log_in(jar, tenant_with(store=store))
        found = named(await answer(world, jar, tenant_with(store=other)))
        assert found.is_anonymous
        assert not found.is_session_over


async def test_a_logout_cannot_be_undone_by_a_write(world: World, jar: Jar) -> None:
    """A refresh that was under way writes a newer version; the session stays ended, whoever remembers it."""
    session = await world.log_in(jar, ACME)
    await world.sessions.end(ACME, session, jar.request(), world.now)
    newer = replace(session, version=99, seen_at=world.now + 10)
    await world.sessions._tickets.save(newer, 60.0)
    world.revocations.sessions.clear()
    assert is_over(await answer(world, jar))


async def test_the_last_use_is_written_to_the_store(world: World, jar: Jar) -> None:
    """Whoever goes on is not idle, on any replica; whoever stops is."""
    other = World(store=world.store, keys=world.sealer._keys)
    await world.log_in(jar, ACME, refresh_token=None, expires_at=world.now + 1e6)
    before = jar.field
    for _ in range(20):
        named(await answer(world, jar))
        named(await answer(other, jar))
        world.clock.pass_s(600)
        other.clock.pass_s(600)
    assert jar.field == before
    world.clock.pass_s(3600)
    assert is_over(await answer(world, jar))


async def test_a_write_that_fails_is_not_the_callers_trouble(world: World, jar: Jar) -> None:
    """The session is known; only its last use is not written down."""
    await world.log_in(jar, ACME, refresh_token=None, expires_at=world.now + 1e6)
    world.clock.pass_s(600)
    get = world.store.get

    async def then_down(key: str) -> bytes | None:
        data = await get(key)
        world.store.is_down = True
        return data

    world.store.get = then_down  # type: ignore[method-assign] # the store goes down between two calls
    assert named(await answer(world, jar)).sub == "ana"


async def test_a_refreshed_session_is_in_the_store(world: World, jar: Jar) -> None:
    """Other replicas read it there; an older version never takes its place."""
    session = await world.log_in(jar, ACME)
    world.clock.pass_s(900)
    world.refresher.answer = some_tokens(world.now, {"groups": ["new"]})
    assert named(await answer(world, jar)).groups == frozenset(("new",))
    await world.sessions._tickets.save(replace(session, seen_at=world.now + 50), 60.0)
    other = World(store=world.store, keys=world.sealer._keys)
    other.clock.now = world.now
    assert named(await answer(other, jar)).groups == frozenset(("new",))
    assert other.refresher.asked == 0


async def test_a_session_that_its_provider_ended_is_gone_from_the_store(world: World, jar: Jar) -> None:
    await world.log_in(jar, ACME)
    world.clock.pass_s(900)
    world.refresher.answer = SessionOver()
    found = await answer(world, jar)
    assert is_over(found)
    assert b"Max-Age=0" in found.set_cookie
    assert [value for _, value in world.store.values.values()] == [b""]


async def test_claims_are_fetched_ahead_of_time_and_kept(world: World, jar: Jar) -> None:
    """As with sealed cookies, and written to the store."""
    await world.log_in(jar, ACME)
    world.clock.pass_s(720)
    world.refresher.answer = some_tokens(world.now, {"groups": ["new"]})
    assert named(await answer(world, jar)).groups == frozenset(("analysts",))
    await asyncio.sleep(0.01)
    assert named(await answer(world, jar)).groups == frozenset(("new",))
    other = World(store=world.store, keys=world.sealer._keys)
    other.clock.now = world.now
    assert named(await answer(other, jar)).groups == frozenset(("new",))


async def test_a_login_ends_the_ticket_of_before(world: World, jar: Jar) -> None:
    """AP-R5: a planted ticket is dead after the login, in the store too."""
    attacker = Jar()
    await world.log_in(attacker, ACME)
    jar.cookies = dict(attacker.cookies)
    await world.log_in(jar, ACME)
    world.revocations.sessions.clear()
    assert is_over(await answer(world, attacker))
    assert named(await answer(world, jar)).sub == "ana"


async def test_claims_that_cannot_be_kept_are_refused_at_the_login(world: World, jar: Jar) -> None:
    with pytest.raises(SessionTooLarge, match="cannot be kept"):
        await world.log_in(jar, ACME, claims={"x": "\ud800"})


async def test_a_ticket_of_one_tenant_is_none_of_another(world: World) -> None:
    """AP-R46, with one store and one set of keys."""
    jar = Jar()
    await world.log_in(jar, ACME)
    reads = world.store.reads
    found = named(await answer(world, jar, tenant_with("globex", "redis")))
    assert found.is_anonymous
    assert world.store.reads == reads


def test_a_ticket_shows_nobody_its_secret(world: World, jar: Jar) -> None:
    """Not in a log, not in a traceback's locals."""
    session = asyncio.run(world.log_in(jar, ACME))
    pieces = world.sessions._tickets.write(session)
    ticket = world.sessions._tickets.read("acme", Pieces(pieces.encode(), 1))
    assert ticket is not None
    assert ticket.secret == session.secret
    assert repr(ticket) == "Ticket(...)"
    assert world.sessions._tickets.read("acme", Pieces(pieces.encode(), 2)) is None
