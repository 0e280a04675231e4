"""
Refreshing sessions: once in a process and over replicas, and what happens when holder, provider or store fail.

Longer than other modules: it is one protocol, each way in which it can be cut short has its own rule.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from authproxy.identity.sessions import refresh_once
from authproxy.identity.sessions.refresh import Refresher
from authproxy.identity.sessions.renewals import KnownRenewals, Over, Renewals
from authproxy.identity.sessions.seal import seal_under
from authproxy.identity.sessions.session import GrantInvalid, Session, SessionOver
from authproxy.identity.shared.state import key
from authproxy.identity.shared.state_memory import MemoryState
from policies.errors import CannotKnow, KeysUnavailable, ProviderUnavailable, StoreUnavailable
from tests.fakes.identity import CountingMetric
from tests.fakes.jumping_loop import JumpingLoop
from tests.fakes.refresh import PROVIDER, Fragile, RotatingClient, stale_session, tenant_of

TENANT = tenant_of()
LEASE_S = 0.3
LOOP = JumpingLoop
"""By whose clock leases last, in the store and for who holds them: no test waits, and none is late."""


def now() -> float:
    return asyncio.get_running_loop().time()


def memory(**options: int) -> MemoryState:
    return MemoryState(monotonic=now, **options)


class Metrics:
    def __init__(self) -> None:
        self.session_refreshes_total = CountingMetric()


class World:
    """Replicas with a store and a provider in common."""

    def __init__(self) -> None:
        self.store = Fragile(memory())
        self.client = RotatingClient()
        self.metrics = Metrics()
        self.replicas: list[Refresher] = []

    def replica(self, store: Fragile | None = None) -> Refresher:
        one = Refresher(store or self.store, self.client, metrics=self.metrics, monotonic=now)
        self.replicas.append(one)
        return one

    @property
    def outcomes(self) -> dict[str, int]:
        return {labels[1]: count for labels, count in self.metrics.session_refreshes_total.counts.items()}


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """With leases and pauses a tenth as long."""
    monkeypatch.setattr(refresh_once, "LEASE_S", LEASE_S)
    monkeypatch.setattr(refresh_once, "SETTLE_S", 0.2)
    monkeypatch.setattr(refresh_once, "POLL_S", (0.005, 0.01))
    monkeypatch.setattr(refresh_once, "WRITE_AGAIN_S", 0.03)
    monkeypatch.setattr(refresh_once, "WAIT_S", 3.0)
    monkeypatch.setattr("authproxy.identity.sessions.refresh.WAIT_S", 3.0)
    monkeypatch.setattr("authproxy.identity.sessions.refresh.COOL_S", 0.1)
    monkeypatch.setattr("authproxy.identity.sessions.refresh.CLOSE_S", 0.5)
    some = World()
    yield some
    for one in some.replicas:
        await one.close()


async def refreshed(one: Refresher, session: Session, store: str = "cookie") -> Session:
    return await one.refresh(tenant_of(store), PROVIDER, session, time.time())


# one process


async def test_all_who_wait_share_one_refresh(world: World) -> None:
    """A hundred requests of one session are one call, one version and one count."""
    one, session = world.replica(), stale_session()
    answers = await asyncio.gather(*(refreshed(one, session) for _ in range(100)))
    assert world.client.calls == 1
    assert {(answer.version, answer.refresh_token) for answer in answers} == {(2, "s1.2")}
    assert answers[0].claims["groups"] == ["new"]
    assert world.outcomes == {"refreshed": 1}


async def test_a_refreshed_session_is_known_at_once(world: World) -> None:
    """Old cookies of it are answered without store or provider, and carry their own last use on."""
    one, session = world.replica(), stale_session()
    assert one.known_now(session, time.time()) is None
    newer = await refreshed(one, session)
    calls = world.store.calls
    assert one.known_now(session, time.time()) == newer
    assert await refreshed(one, session) == newer
    used = replace(session, seen_at=session.seen_at + 30)
    known = one.known_now(used, time.time())
    assert known is not None
    assert known.seen_at == used.seen_at
    assert one.known_now(newer, time.time()) is None
    assert (world.store.calls, world.client.calls) == (calls, 1)


async def test_what_is_known_is_told_only_to_who_holds_the_session(world: World) -> None:
    """The same id with another secret, or of another tenant, is another session."""
    one, session = world.replica(), stale_session()
    await refreshed(one, session)
    assert one.known_now(replace(session, secret=b"?" * 32), time.time()) is None
    assert one.known_now(replace(session, tenant="globex"), time.time()) is None


async def test_what_is_known_ends(world: World) -> None:
    """After an hour, or the session's absolute end, whichever is earlier; and there is a bound."""
    one, session = world.replica(), stale_session()
    await refreshed(one, session)
    assert one.known_now(session, time.time() + 3590) is not None
    assert one.known_now(session, time.time() + 3610) is None
    known = KnownRenewals(max_known=3)
    for n in range(5):
        known.keep(stale_session(f"s{n}"), Over(1), time.time() + 60)
    assert len(known) == 3
    assert known.find(stale_session("s1"), time.time()) is None
    assert known.find(stale_session("s4"), time.time()) == Over(1)


async def test_a_waiter_that_leaves_takes_nothing_with_it(world: World) -> None:
    """The refresh goes on without those who asked first, also when all have left, and its result is kept and shared."""
    one, two, session = world.replica(), world.replica(), stale_session()
    gate = asyncio.Event()
    world.client.before = lambda: _wait(gate)
    first = asyncio.create_task(refreshed(one, session))
    second = asyncio.create_task(refreshed(one, session))
    await _until(lambda: world.client.calls == 1)
    first.cancel()
    second.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(first, second, return_exceptions=True)
    )
    third = asyncio.create_task(refreshed(one, session))
    await asyncio.sleep(0.02)
    gate.set()
    assert (await third).version == 2
    assert (await refreshed(two, session)).version == 2
    assert world.client.calls == 1


async def test_a_waiter_gives_up_in_time_and_the_result_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that takes longer than anybody waits: 503 for those, and its answer serves who comes then."""
    monkeypatch.setattr("authproxy.identity.sessions.refresh.WAIT_S", 0.1)
    one, session = world.replica(), stale_session()
    gate = asyncio.Event()
    world.client.before = lambda: _wait(gate)
    began = now()
    with pytest.raises(ProviderUnavailable):
        await refreshed(one, session)
    assert now() - began < 1.0
    gate.set()
    await _until(lambda: one.known_now(session, time.time()) is not None)
    assert (await refreshed(one, session)).version == 2
    assert world.client.calls == 1


async def test_a_newer_session_does_not_join_the_refresh_of_an_older_one(world: World) -> None:
    """Who has version 2 already is not content with version 2."""
    one, session = world.replica(), stale_session()
    newer = replace(await refreshed(one, session), fresh_until=time.time() - 1)
    assert (await refreshed(one, newer)).version == 3
    assert (await refreshed(one, session)).version == 3
    assert world.client.calls == 2


async def test_the_failure_of_an_older_version_is_not_the_answer_for_a_newer_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure lasts a second for those who had it; who brings a newer version asks at once, and does not spin."""
    monkeypatch.setattr("authproxy.identity.sessions.refresh.COOL_S", 60.0)
    one, session = world.replica(), stale_session()

    async def fail() -> None:
        raise ProviderUnavailable("down")

    world.client.before = fail
    with pytest.raises(ProviderUnavailable):
        await refreshed(one, session)
    world.client.before = _now
    async with asyncio.timeout(2.0):
        assert (await refreshed(one, replace(session, version=2))).version == 3


async def test_sessions_do_not_wait_for_each_other(world: World) -> None:
    """One whose refresh hangs holds nobody else up."""
    one = world.replica()
    gate = asyncio.Event()
    world.client.before = lambda: _wait(gate)
    hanging = asyncio.create_task(refreshed(one, stale_session("s1")))
    await _until(lambda: world.client.calls == 1)
    world.client.before = _now
    assert (await refreshed(one, stale_session("s2"))).version == 2
    gate.set()
    await hanging


# how it ends


async def test_invalid_grant_is_over_for_everybody(world: World) -> None:
    """The provider's no is told to the other replicas, so that they do not ask again."""
    one, two, session = world.replica(), world.replica(), stale_session(refresh_token="s1.7")
    for _ in range(2):
        with pytest.raises(SessionOver):
            await refreshed(one, session)
    with pytest.raises(SessionOver):
        await refreshed(two, session)
    assert one.known_now(session, time.time()) is None
    assert world.client.calls == 1
    assert world.outcomes == {"over": 2}


@pytest.mark.parametrize("changes", [{"sub": "eve"}, {"issuer": "https://evil.example"}], ids=str)
async def test_a_refresh_into_somebody_else_is_over(world: World, changes: dict[str, str]) -> None:
    """A provider that answers for another subject or issuer ends the session: nobody becomes somebody else."""
    world.client.changes = changes
    with pytest.raises(SessionOver):
        await refreshed(world.replica(), stale_session())
    assert world.outcomes == {"over": 1}


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("5xx"), KeysUnavailable("none"), StoreUnavailable("down")], ids=repr
)
async def test_a_failure_that_may_pass_ends_nothing(world: World, error: CannotKnow) -> None:
    """It is the answer of all who wait and for a moment longer, then the provider is asked again."""
    one, session = world.replica(), stale_session()

    async def fail() -> None:
        await asyncio.sleep(0.02)
        raise error

    world.client.before = fail
    ends = await asyncio.gather(*(refreshed(one, session) for _ in range(20)), return_exceptions=True)
    assert {type(end) for end in ends} == {type(error)}
    assert len({id(end) for end in ends}) == 20
    with pytest.raises(type(error)):
        await refreshed(one, session)
    assert world.client.calls == 1
    world.client.before = _now
    await asyncio.sleep(0.15)
    assert (await refreshed(one, session)).version == 2
    assert set(world.outcomes) == {
        "store_unavailable" if isinstance(error, StoreUnavailable) else "provider_unavailable",
        "refreshed",
    }


async def test_a_defect_is_an_answer_and_is_logged_without_secrets(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception that nobody thought of is a 503 for all who wait; nobody waits for ever."""

    async def fail() -> None:
        raise RuntimeError("defect")

    world.client.before = fail
    with pytest.raises(ProviderUnavailable) as error:
        await refreshed(world.replica(), stale_session(refresh_token="canary.1"))
    said = capsys.readouterr().err
    assert "session-refresh-failed" in said
    assert "canary" not in said + str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"refresh_token": None}, {"created_at": time.time() - 86_400 * 2}],
    ids=["no refresh token", "absolute end"],
)
async def test_a_session_that_cannot_be_refreshed_is_over_without_asking(
    world: World, changes: dict[str, float | None]
) -> None:
    """Neither provider nor store are asked."""
    with pytest.raises(SessionOver):
        await refreshed(world.replica(), replace(stale_session(), **changes))  # type: ignore[arg-type]  # fields by name
    assert (world.client.calls, world.store.calls) == (0, 0)


# several replicas


async def test_replicas_refresh_once_together(world: World) -> None:
    """Three replicas, sixty requests each, one call; everybody has the same next version and nobody is logged out."""
    replicas, session = [world.replica() for _ in range(3)], stale_session()
    world.client.before = lambda: asyncio.sleep(0.1)
    answers = await asyncio.gather(*(refreshed(replicas[n % 3], session) for n in range(180)))
    assert {answer.refresh_token for answer in answers} == {"s1.2"}
    assert world.client.calls == 1
    assert world.outcomes == {"refreshed": 1, "shared": 2}


async def test_a_provider_slower_than_the_lease_is_asked_once(world: World) -> None:
    """The lease is renewed for as long as the provider takes (A9)."""
    one, two, session = world.replica(), world.replica(), stale_session()
    world.client.before = lambda: asyncio.sleep(4 * LEASE_S)
    answers = await asyncio.gather(refreshed(one, session), refreshed(two, session))
    assert [answer.version for answer in answers] == [2, 2]
    assert world.client.calls == 1


async def test_a_holder_that_died_is_replaced(world: World) -> None:
    """Its lease ends, another takes over and the session lives on (A9)."""
    session = stale_session()
    name = key("acme", "refreshing", session.id)
    assert await world.store.acquire(name, "dead", LEASE_S)
    await world.store.put(key("acme", "refresh-begun", session.id, "1"), b"dead", 60.0)
    began = now()
    answers = await asyncio.gather(refreshed(world.replica(), session), refreshed(world.replica(), session))
    assert now() - began >= LEASE_S
    assert [answer.version for answer in answers] == [2, 2]
    assert world.client.calls == 1


async def test_who_lost_the_lease_does_not_ask(world: World) -> None:
    """A holder that was stopped until its lease was another's finds the other's result instead of asking (fencing)."""
    session = stale_session()
    asked = {"renew": 0}

    class Losing(Fragile):
        async def renew(self, key: str, holder: str, ttl_s: float) -> bool:
            asked["renew"] += 1
            if asked["renew"] > 1:
                return await super().renew(key, holder, ttl_s)
            await self._store.release(key, holder)
            await self._store.acquire(key, "another", LEASE_S)
            newer = replace(session, version=2, refresh_token="another's", fresh_until=time.time() + 300)
            assert await Renewals(self._store).write(session, newer, 60.0)
            return False

    answer = await refreshed(world.replica(Losing(memory())), session)
    assert answer.refresh_token == "another's"
    assert world.client.calls == 0


async def test_who_gets_the_lease_looks_once_more(world: World) -> None:
    """Another ended between the first look and the lease: its result is taken, and the provider is not asked."""
    session = stale_session()
    newer = replace(session, version=2, refresh_token="another's", fresh_until=time.time() + 300)

    class Quicker(Fragile):
        async def acquire(self, key: str, holder: str, ttl_s: float) -> int | None:
            assert await Renewals(self._store).write(session, newer, 60.0)
            return await super().acquire(key, holder, ttl_s)

    assert (await refreshed(world.replica(Quicker(memory())), session)).refresh_token == "another's"
    assert world.client.calls == 0


async def test_a_late_result_overwrites_nothing_newer(world: World) -> None:
    """A holder whose lease ended while the provider took its time takes the newer version that is there (fencing)."""
    one, session = world.replica(), stale_session()
    newer = replace(session, version=3, refresh_token="newer", fresh_until=time.time() + 300)

    async def overtaken() -> None:
        assert await Renewals(world.store).write(session, newer, 60.0)

    world.client.after = overtaken
    assert (await refreshed(one, session)).refresh_token == "newer"
    assert (await refreshed(world.replica(), session)).refresh_token == "newer"


async def test_invalid_grant_is_not_believed_before_a_second_look(world: World) -> None:
    """Another was quicker and has told its result meanwhile: that is taken, and nobody is logged out (A9)."""
    one, session = world.replica(), stale_session()
    newer = replace(session, version=2, refresh_token="another's", fresh_until=time.time() + 300)

    async def raced() -> None:
        assert await Renewals(world.store).write(session, newer, 60.0)
        raise GrantInvalid

    world.client.before = raced
    assert (await refreshed(one, session)).refresh_token == "another's"
    assert world.outcomes == {"shared": 1}


async def test_a_no_to_who_took_over_waits_for_the_one_before(world: World) -> None:
    """The lease of a holder ended while its answer was under way: the no is about its token, not about the login."""
    holder, session = world.replica(), stale_session()
    is_under_way = asyncio.Event()

    async def slow() -> None:
        if not is_under_way.is_set():
            is_under_way.set()
            await world.store.release(key("acme", "refreshing", session.id), await lease_holder(world, session))
            await asyncio.sleep(2 * refresh_once.SETTLE_S)

    async def no_longer() -> None:
        if is_under_way.is_set():
            raise GrantInvalid  # of a provider that ends no login for a token that was shown twice

    world.client.before, world.client.after = no_longer, slow
    first = asyncio.create_task(refreshed(holder, session))
    await is_under_way.wait()
    taken_over = await refreshed(world.replica(), session)
    assert (await first).refresh_token == taken_over.refresh_token == "s1.2"
    assert world.client.calls == 2
    assert world.outcomes == {"refreshed": 1, "shared": 1}


async def lease_holder(world: World, session: Session) -> str:
    """Who left word that it was about to ask."""
    word = await world.store.get(key("acme", "refresh-begun", session.id, str(session.version)))
    assert word is not None
    return word.decode()


async def test_invalid_grant_without_a_store_to_ask_is_neither(world: World) -> None:
    """Whether another was quicker cannot be known: 503, not a logout; and it is asked again later."""
    one, session = world.replica(), stale_session()

    async def raced() -> None:
        world.store.is_down = True
        raise GrantInvalid

    world.client.before = raced
    with pytest.raises(StoreUnavailable):
        await refreshed(one, session)
    world.store.is_down = False
    newer = replace(session, version=2, refresh_token="another's", fresh_until=time.time() + 300)
    assert await Renewals(world.store).write(session, newer, 60.0)
    await asyncio.sleep(0.15)
    assert (await refreshed(one, session)).refresh_token == "another's"


async def test_who_renewed_is_believed_before_who_was_refused(world: World) -> None:
    """A refusal never hides a renewal, in whichever order they are told; a later refusal does count."""
    session, renewals = stale_session(), Renewals(world.store)
    newer = replace(session, version=2)
    assert await renewals.write(session, Over(1), 60.0)
    assert await renewals.write(session, newer, 60.0)
    assert not await renewals.write(session, Over(1), 60.0)
    assert await renewals.read(session) == newer
    assert await renewals.read(newer) is None
    assert await renewals.write(newer, Over(2), 60.0)
    assert await renewals.read(newer) == Over(2)
    assert await renewals.read(session) == Over(2)


@pytest.mark.parametrize(
    "form", ["junk", "empty", "other secret", "other purpose", "other tenant", "no kind", "bad over"]
)
async def test_a_shared_result_that_nobody_sealed_is_none(world: World, form: str) -> None:
    """Whoever can write to the store, but has not got the cookie, can neither log anybody out nor in."""
    session = stale_session()
    tenant, secret, purpose = session.tenant, session.secret, "renewed session"
    data = {
        "junk": b"junk",
        "empty": b"",
        "other secret": seal_under(b"?" * 32, purpose, tenant, b"o1"),
        "other purpose": seal_under(secret, "ticket", tenant, b"o1"),
        "other tenant": seal_under(secret, purpose, "globex", b"o1"),
        "no kind": seal_under(secret, purpose, tenant, b"x1"),
        "bad over": seal_under(secret, purpose, tenant, b"o" + b"9" * 5000),
    }[form]
    await world.store.put(key("acme", "renewed", session.id), data, 60.0)
    assert (await refreshed(world.replica(), session)).version == 2
    assert world.client.calls == 1


async def test_nothing_of_a_session_can_be_read_in_the_store(world: World) -> None:
    """Tokens, subject and id stand there neither in a key nor in a value (R27)."""
    session = stale_session("canary-id", refresh_token="canary-id.1", sub="canary-sub")
    kept = memory()
    await refreshed(world.replica(Fragile(kept)), session)
    stored = repr(kept._values._slots) + repr(kept._leases._slots)
    assert "portero:{acme}:renewed:" in stored
    assert "canary" not in stored


# the store is down


async def test_a_cookie_session_goes_on_without_the_store(world: World) -> None:
    """Once it is down for as long as a lease lasts: one call a process, its result told when it is back (R50)."""
    one, two, session = world.replica(), world.replica(), stale_session()
    world.store.is_down = True
    began = now()
    answers = await asyncio.gather(*(refreshed(one, session) for _ in range(50)))
    assert now() - began >= LEASE_S
    assert {answer.version for answer in answers} == {2}
    assert world.client.calls == 1
    second = stale_session("s2")
    began = now()
    assert (await refreshed(one, second)).version == 2
    assert now() - began < LEASE_S
    world.store.is_down = False
    await _until_shared(world, session)
    await _until_shared(world, second)
    assert (await refreshed(two, session)).refresh_token == "s1.2"
    assert world.client.calls == 2


async def test_a_new_outage_is_waited_for_anew(world: World) -> None:
    """An outage long ago does not make this one old: another replica's lease may be running."""
    one = world.replica()
    world.store.is_down = True
    await refreshed(one, stale_session("s1"))
    world.store.is_down = False
    await asyncio.sleep(LEASE_S + 0.1)
    world.store.is_down = True
    began = now()
    await refreshed(one, stale_session("s2"))
    assert now() - began >= LEASE_S


async def test_an_outage_that_ended_does_not_count_for_the_next(world: World) -> None:
    """Down, back for one refresh, down again: the second outage is waited for as long as any (fencing)."""
    one = world.replica()
    world.store.is_down = True
    first = asyncio.create_task(refreshed(one, stale_session("s1")))
    await asyncio.sleep(0.8 * LEASE_S)
    world.store.is_down = False
    assert (await first).version == 2
    world.store.is_down = True
    began = now()
    await refreshed(one, stale_session("s2"))
    assert now() - began >= LEASE_S


async def test_a_short_outage_costs_no_second_call(world: World) -> None:
    """Back before a lease would have ended, replicas agree again and refresh once."""
    one, two, session = world.replica(), world.replica(), stale_session()
    world.store.is_down = True
    tasks = [asyncio.create_task(refreshed(replica, session)) for replica in (one, two)]
    await asyncio.sleep(LEASE_S / 2)
    world.store.is_down = False
    assert [answer.version for answer in await asyncio.gather(*tasks)] == [2, 2]
    assert world.client.calls == 1


async def test_who_saw_another_refresh_does_not_go_alone(world: World) -> None:
    """The store fails while another replica asks the provider: its result is waited for (A9: Redis paused)."""
    one, two, session = world.replica(), world.replica(), stale_session()
    gate = asyncio.Event()
    world.client.before = lambda: _wait(gate)
    first = asyncio.create_task(refreshed(one, session))
    await _until(lambda: world.client.calls == 1)
    second = asyncio.create_task(refreshed(two, session))
    await asyncio.sleep(0.05)
    world.store.is_down = True
    gate.set()
    assert (await first).version == 2
    await asyncio.sleep(2 * LEASE_S)
    assert not second.done()
    world.store.is_down = False
    assert (await second).refresh_token == "s1.2"
    assert world.client.calls == 1


async def test_a_result_that_could_not_be_written_is_waited_for_by_who_takes_over(world: World) -> None:
    """A replica that comes right after the outage finds the lease free, and word of a refresh that had begun."""
    one, two, session = world.replica(), world.replica(), stale_session()

    async def lose_store() -> None:
        world.store.is_down = True

    world.client.after = lose_store
    assert (await refreshed(one, session)).version == 2
    await asyncio.sleep(1.2 * LEASE_S)
    world.store.is_down = False
    assert (await refreshed(two, session)).refresh_token == "s1.2"
    assert world.client.calls == 1


async def test_a_session_that_is_fresh_still_does_not_go_alone(world: World) -> None:
    """Refreshing ahead of time is no reason to risk a login."""
    world.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await refreshed(world.replica(), stale_session(fresh_until=time.time() + 60))
    assert world.client.calls == 0


async def test_a_session_in_the_store_waits_for_the_store(world: World) -> None:
    """Sessions under tickets are 503 while the store is down (design section 16)."""
    world.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await refreshed(world.replica(), stale_session(), "redis")
    assert world.client.calls == 0
    assert world.outcomes == {"store_unavailable": 1}


async def test_a_full_memory_alone_holds_nobody_up(world: World) -> None:
    """A process without Redis shares with nobody: when its memory is full it goes on at once."""
    one = world.replica(Fragile(memory(max_entries=1), is_shared=False))
    for n in range(4):
        began = now()
        assert (await refreshed(one, stale_session(f"s{n}"))).version == 2
        assert now() - began < LEASE_S


async def test_a_dead_holder_keeps_no_lease(world: World) -> None:
    """After every way a refresh can end the lease is free for the next one."""
    one = world.replica()
    session = await refreshed(one, stale_session())
    with pytest.raises(SessionOver):
        await refreshed(one, stale_session("s2", refresh_token="s2.9"))

    async def fail() -> None:
        raise ProviderUnavailable("down")

    world.client.before = fail
    with pytest.raises(ProviderUnavailable):
        await refreshed(one, stale_session("s3"))
    for session_id in (session.id, "s2", "s3"):
        assert await world.store.acquire(key("acme", "refreshing", session_id), "next", 1.0)


# ending


async def test_closing_waits_for_a_refresh_under_way(world: World) -> None:
    """A rotated token is not lost to a restart: the result is shared before the end."""
    one, session = world.replica(), stale_session()
    world.client.before = lambda: asyncio.sleep(0.1)
    waiter = asyncio.create_task(refreshed(one, session))
    await _until(lambda: world.client.calls == 1)
    await one.close()
    assert (await waiter).version == 2
    assert (await refreshed(world.replica(), session)).version == 2
    assert world.client.calls == 1
    with pytest.raises(ProviderUnavailable):
        await refreshed(one, stale_session("s2"))


async def test_closing_does_not_wait_for_ever(world: World) -> None:
    """A provider that hangs is given up, and those who wait for it are told."""
    one = world.replica()
    world.client.before = lambda: asyncio.sleep(60)
    waiter = asyncio.create_task(refreshed(one, stale_session()))
    await _until(lambda: world.client.calls == 1)
    began = now()
    await one.close()
    assert now() - began < 3.0
    with pytest.raises(StoreUnavailable):
        await waiter
    await one.close()


async def test_the_number_of_refreshes_at_once_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More are refused, and those under way go on."""
    monkeypatch.setattr("authproxy.identity.sessions.refresh.MAX_FLIGHTS", 2)
    one = world.replica()
    gate = asyncio.Event()
    world.client.before = lambda: _wait(gate)
    tasks = [asyncio.create_task(refreshed(one, stale_session(f"s{n}"))) for n in range(2)]
    await _until(lambda: world.client.calls == 2)
    with pytest.raises(ProviderUnavailable):
        await refreshed(one, stale_session("s9"))
    gate.set()
    assert [answer.version for answer in await asyncio.gather(*tasks)] == [2, 2]


async def _wait(gate: asyncio.Event) -> None:
    await gate.wait()


async def _now() -> None: ...


async def _until(condition: Callable[[], bool]) -> None:
    deadline = now() + 3.0
    while not condition():
        assert now() < deadline
        await asyncio.sleep(0.005)


async def _until_shared(world: World, session: Session) -> None:
    deadline = now() + 3.0
    while await Renewals(world.store).read(session) is None:
        assert now() < deadline
        await asyncio.sleep(0.005)
