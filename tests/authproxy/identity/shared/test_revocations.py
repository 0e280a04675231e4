"""
Revocations: what a mark ends, that replicas hear of it in time, and what happens while Redis cannot be reached.

Longer than other modules: each way in which Redis loses something has its own rule.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authproxy.identity.shared.marks import GRACE_S, Mark, Marks, digest, make_mark
from authproxy.identity.shared.redis_link import TIMEOUT_S
from authproxy.identity.shared.revocations import CHANNEL, Revocations
from authproxy.metrics import Counter
from policies.errors import StoreUnavailable
from tests.fakes.redis_cluster import redis_cluster
from tests.fakes.redis_server import RedisServer, free_port, redis_server
from tests.fakes.steady_loop import SteadyLoop

LOOP = SteadyLoop
"""What is to be heard in time is, of time in which Redis and the replicas run."""
NOW = 1_790_000_000.0
ISSUER = "https://id.example"


class Clock:
    """Wall and monotonic time of one replica."""

    def __init__(self) -> None:
        self.wall = NOW
        self.steady = 50.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def alone(clock: Clock | None = None, max_marks: int = 1000) -> Revocations:
    clock = clock or Clock()
    return Revocations(None, clock=lambda: clock.wall, monotonic=lambda: clock.steady, max_marks=max_marks)


def is_over(
    revocations: Revocations,
    *,
    tenant: str = "acme",
    session: str | None = "s1",
    issuer: str | None = ISSUER,
    sub: str | None = "ana",
    sid: str | None = "op1",
    at: float = NOW - 100,
) -> bool:
    return revocations.is_revoked(tenant, session_id=session, issuer=issuer, sub=sub, sid=sid, established_at=at)


# what a mark ends


async def test_nothing_is_revoked_before_anybody_says_so() -> None:
    """Also not for callers without any name."""
    revocations = alone()
    assert not is_over(revocations)
    assert not is_over(revocations, session=None, issuer=None, sub=None, sid=None)
    assert not revocations.is_behind


async def test_a_session_that_was_revoked_is_over_whenever_it_began() -> None:
    """A clock that is wrong does not bring it back (A11); other sessions go on."""
    revocations = alone()
    await revocations.revoke_session("acme", "s1", NOW + 60)
    for at in (0.0, NOW, NOW + 3600, math.inf, math.nan):
        assert is_over(revocations, at=at)
    assert not is_over(revocations, session="s2")
    assert not is_over(revocations, session=None)


async def test_a_subject_that_was_revoked_is_over_in_every_session_begun_before() -> None:
    """All of its sessions and tokens (A10: several sessions per sub), of this issuer and no other."""
    revocations = alone()
    await revocations.revoke_subject("acme", ISSUER, "ana", NOW, NOW + 60)
    assert is_over(revocations, session="s1", sid="op1")
    assert is_over(revocations, session="s2", sid=None)
    assert is_over(revocations, session=None, sid=None, at=0.0)
    assert not is_over(revocations, sub="bob")
    assert not is_over(revocations, issuer="https://other.example")
    assert not is_over(revocations, at=NOW + 10)


async def test_a_providers_session_that_was_revoked_leaves_its_subjects_others() -> None:
    """Logout by sid ends one of two sessions of the same person (A10)."""
    revocations = alone()
    await revocations.revoke_sid("acme", ISSUER, "op1", NOW, NOW + 60)
    assert is_over(revocations, sid="op1")
    assert not is_over(revocations, sid="op2")
    assert not is_over(revocations, sid=None)
    assert not is_over(revocations, issuer="https://other.example")
    assert not is_over(revocations, at=NOW + 10)


async def test_a_tenants_logouts_are_its_own() -> None:
    """The same session id, issuer, subject and sid of another tenant go on (R46)."""
    revocations = alone()
    await revocations.revoke_session("acme", "s1", NOW + 60)
    await revocations.revoke_subject("acme", ISSUER, "ana", NOW, NOW + 60)
    await revocations.revoke_sid("acme", ISSUER, "op1", NOW, NOW + 60)
    assert is_over(revocations)
    assert not is_over(revocations, tenant="globex")


async def test_words_of_one_kind_are_not_those_of_another() -> None:
    """A provider that calls a subject as our session is called, or a sid as its subject, ends only what it means."""
    revocations = alone()
    await revocations.revoke_subject("acme", ISSUER, "x", NOW, NOW + 60)
    assert not is_over(revocations, session="x", sub="y", sid="x")
    await revocations.revoke_subject("acme", "https://a", "b/c", NOW, NOW + 60)
    assert not is_over(revocations, issuer="https://a/b", sub="c")
    assert not is_over(revocations, issuer="https://", sub="ab/c")


@pytest.mark.parametrize(
    ("established_at", "is_ended"),
    [
        (NOW - 1, True),
        (NOW, True),
        (NOW + 0.9, True),
        (NOW + 1, True),
        (NOW + 1.9, True),
        (NOW + 2, False),
        (math.nan, True),
        (-math.inf, True),
        (math.inf, False),
    ],
    ids=str,
)
async def test_what_began_in_the_second_of_the_logout_or_the_next_is_over(
    established_at: float, is_ended: bool
) -> None:
    """``iat`` is whole seconds, and clocks differ: who cannot be told apart is logged out; what is no number too."""
    revocations = alone()
    await revocations.revoke_subject("acme", ISSUER, "ana", NOW + 0.7, NOW + 60)
    await revocations.revoke_sid("acme", ISSUER, "op1", NOW + 0.7, NOW + 60)
    assert is_over(revocations, sid=None, at=established_at) is is_ended
    assert is_over(revocations, sub=None, at=established_at) is is_ended


async def test_a_later_logout_ends_more_and_an_earlier_one_no_less() -> None:
    """Marks of the same are joined: the later instant counts, in whichever order they come."""
    for instants in ((NOW, NOW + 50), (NOW + 50, NOW)):
        revocations = alone()
        for at in instants:
            await revocations.revoke_subject("acme", ISSUER, "ana", at, NOW + 600)
        assert is_over(revocations, at=NOW + 51)
        assert not is_over(revocations, at=NOW + 53)


async def test_a_logout_from_far_ahead_does_not_end_the_future() -> None:
    """An issuer that writes ``iat: 1e300`` does not lock its subject out for good (A11)."""
    revocations = alone()
    await revocations.revoke_subject("acme", ISSUER, "ana", 1e300, 1e300)
    assert is_over(revocations, at=NOW + 60)
    assert not is_over(revocations, at=NOW + 90)


@pytest.mark.parametrize("instant", [math.nan, -math.inf], ids=str)
async def test_an_instant_that_is_none_is_refused(instant: float) -> None:
    """It would compare as never revoked."""
    with pytest.raises(ValueError):
        await alone().revoke_subject("acme", ISSUER, "ana", instant, NOW)
    with pytest.raises(ValueError):
        await alone().revoke_session("acme", "s1", instant)


# telling those who keep verdicts


async def test_the_generation_grows_with_what_is_new_and_only_then() -> None:
    """Who keeps a verdict compares one number; a logout told twice wakes nobody twice."""
    revocations = alone()
    heard: list[int] = []
    revocations.on_change(lambda: heard.append(revocations.generation))
    await revocations.revoke_session("acme", "s1", NOW + 60)
    await revocations.revoke_session("acme", "s1", NOW + 60)
    await revocations.revoke_subject("acme", ISSUER, "ana", NOW, NOW + 60)
    await revocations.revoke_subject("acme", ISSUER, "ana", NOW - 5, NOW + 60)
    await revocations.revoke_subject("acme", ISSUER, "ana", NOW + 5, NOW + 60)
    assert heard == [1, 2, 3]


async def test_a_listener_that_fails_keeps_nobody_from_hearing(capsys: pytest.CaptureFixture[str]) -> None:
    """The others are called, the logout holds, and the defect is logged."""
    revocations = alone()
    heard: list[bool] = []

    def broken() -> None:
        raise RuntimeError("defect")

    revocations.on_change(broken)
    revocations.on_change(lambda: heard.append(is_over(revocations)))
    await revocations.revoke_session("acme", "s1", NOW + 60)
    assert heard == [True]
    assert "revocation-callback-failed" in capsys.readouterr().err


async def test_what_is_revoked_is_counted_by_kind() -> None:
    """By its kind and nothing that a caller chose."""
    counter = Counter("revocations_total", "", ("kind",))

    class Metrics:
        revocations_total = counter

    revocations = Revocations(None, metrics=Metrics())
    await revocations.revoke_session("acme", "s1", NOW)
    await revocations.revoke_sid("acme", ISSUER, "op1", NOW, NOW)
    assert (counter.value(("session",)), counter.value(("sid",)), counter.total()) == (1, 1, 2)


# how long it is remembered


async def test_a_mark_is_forgotten_when_nobody_can_need_it() -> None:
    """Marks do not pile up: after its end and a grace a mark is gone, and looking up costs what it cost before."""
    clock = Clock()
    revocations = alone(clock)
    await revocations.revoke_session("acme", "s1", NOW + 60)
    clock.pass_time(60 + GRACE_S - 1)
    await revocations.revoke_session("globex", "x", clock.wall + 60)
    assert is_over(revocations)
    clock.pass_time(2)
    await revocations.revoke_session("globex", "y", clock.wall + 60)
    assert len(revocations._marks) == 2
    assert "acme" not in revocations._marks._tenants


async def test_a_clock_that_jumps_ahead_and_back_forgets_nothing() -> None:
    """Time to remember is counted by the monotonic clock (A11)."""
    clock = Clock()
    revocations = alone(clock)
    await revocations.revoke_session("acme", "s1", NOW + 43_200)
    clock.wall += 30 * 86_400
    await revocations.revoke_session("acme", "s2", clock.wall)
    clock.wall = NOW
    await revocations.revoke_session("acme", "s3", NOW + 43_200)
    assert is_over(revocations, session="s1")
    assert is_over(revocations, session="s2")


async def test_too_many_marks_end_their_whole_tenant_and_no_other() -> None:
    """Bounded memory errs on the side of logged out: what there is no room for ends more, never less."""
    revocations = alone(max_marks=50)
    await revocations.revoke_session("globex", "g1", NOW + 60)
    for n in range(60):
        await revocations.revoke_session("acme", f"s{n}", NOW + 60)
    assert len(revocations._marks) <= 50
    assert all(is_over(revocations, session=f"s{n}") for n in range(60))
    assert is_over(revocations, session="never revoked")
    assert not is_over(revocations, session="later", at=NOW + 10)
    assert is_over(revocations, tenant="globex", session="g1")
    assert not is_over(revocations, tenant="globex", session="g2")


async def test_marks_rewritten_again_and_again_cost_one() -> None:
    """A subject that is logged out a thousand times is one mark."""
    clock = Clock()
    marks = Marks()
    for n in range(1000):
        marks.add(make_mark("acme", "subject", (ISSUER, "ana"), NOW + n, NOW + n), clock.wall, clock.steady)
    assert len(marks) == 1
    assert len(marks._ends) < 200
    marks.forget_ended(clock.steady + 1000 + GRACE_S)
    assert len(marks) == 0
    assert not marks._tenants


# what stands in Redis


@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
@settings(max_examples=200, deadline=None)
def test_a_mark_that_nobody_wrote_is_none(data: bytes) -> None:
    """Whatever stands in Redis, reading it gives a mark or nothing."""
    assert Mark.decode(data) is None


@pytest.mark.parametrize(
    "text",
    [
        '["acme","session","00",1,2]',
        '["acme","session",7,1,2]',
        '["acme","root","' + "0" * 32 + '",1,2]',
        '["acme",["session"],"' + "0" * 32 + '",1,2]',
        '[7,"session","' + "0" * 32 + '",1,2]',
        '["acme","session","' + "0" * 32 + '",1]',
        '["acme","session","' + "0" * 32 + '",1e300,2]',
        '["acme","session","' + "0" * 32 + '",true,2]',
        '["acme","session","' + "0" * 32 + '",NaN,2]',
        '["acme","session","' + "0" * 32 + '",-1,2]',
        '["acme","session","' + "0" * 32 + '",1,99999999999999]',
        "[" * 5000,
        '{"a":1,"b":2,"c":3,"d":4,"e":5}',
    ],
)
def test_a_mark_with_one_thing_wrong_is_none(text: str) -> None:
    """Types, kinds and ranges are checked before anything is compared."""
    assert Mark.decode(text.encode()) is None


def test_a_mark_is_read_as_it_was_written() -> None:
    """And tells nobody whom it is about."""
    mark = make_mark("acme", "subject", (ISSUER, "ana@acme.example"), NOW, NOW + 60)
    assert Mark.decode(mark.encode().encode()) == mark
    assert "ana" not in mark.encode()
    assert mark.digest == digest("subject", ISSUER, "ana@acme.example")


# several replicas


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Replicas:
    """Replicas over one Redis, closed at the end."""

    def __init__(self, server: RedisServer, *, is_cluster: bool = False) -> None:
        self.server = server
        self._is_cluster = is_cluster
        self._all: list[Revocations] = []

    async def add(self, timeout_s: float = TIMEOUT_S) -> Revocations:
        one = Revocations(self.server.url, is_cluster=self._is_cluster, timeout_s=timeout_s)
        self._all.append(one)
        await one.start()
        return one

    async def close(self) -> None:
        for one in self._all:
            await one.close()


@pytest.fixture
async def replicas(redis: RedisServer) -> AsyncIterator[Replicas]:
    some = Replicas(redis)
    yield some
    await some.close()


async def seconds_until(condition: Callable[[], bool], at_most_s: float) -> float:
    """How long it took until ``condition`` held; fails after ``at_most_s``."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < at_most_s, "not in time"
        await asyncio.sleep(0.005)
    return loop.time() - began


async def until_kept(server: RedisServer, marks: int) -> None:
    """Until so many stand in Redis, within the time that replicas have for it."""
    await seconds_until(lambda: server.command("ZCARD", "portero:{revocations}:marks") == b":%d" % marks, 5.0)


async def until_subscribed(server: RedisServer, replicas: int) -> None:
    """Until so many listen."""
    await seconds_until(lambda: server.command("PUBSUB", "NUMSUB", CHANNEL).endswith(b":%d" % replicas), 5.0)


def tells(revocations: Revocations, name: str) -> Callable[[], bool]:
    """Asks for a session of ours by its name."""
    return lambda: revocations.is_revoked(
        "acme", session_id=name, issuer=None, sub=None, sid=None, established_at=time.time()
    )


def later() -> float:
    return time.time() + 3600


@pytest.mark.redis
async def test_a_logout_on_one_replica_is_heard_by_the_others(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 5 s by contract; by publish/subscribe alone, without any poll, it is a matter of milliseconds."""
    monkeypatch.setattr("authproxy.identity.shared.revocations.POLL_S", 60.0)
    one, two, three = [await replicas.add() for _ in range(3)]
    assert not one.is_behind
    await until_subscribed(replicas.server, 3)
    heard: list[int] = []
    two.on_change(lambda: heard.append(two.generation))
    await one.revoke_session("acme", "s1", later())
    assert tells(one, "s1")()
    assert await seconds_until(tells(two, "s1"), 5.0) < 0.9
    await seconds_until(tells(three, "s1"), 5.0)
    assert heard == [1]
    await three.revoke_subject("acme", ISSUER, "ana", time.time(), later())
    await seconds_until(lambda: is_over(one, session=None, sid=None, at=time.time() - 5), 5.0)


@pytest.mark.redis
async def test_a_logout_is_heard_without_any_message(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be lost: the poll of each second finds it."""
    monkeypatch.setattr("authproxy.identity.shared.revocations.CHANNEL", CHANNEL + ":nobody")
    one = await replicas.add()
    monkeypatch.setattr("authproxy.identity.shared.revocations.CHANNEL", CHANNEL)
    two = await replicas.add()
    monkeypatch.setattr("authproxy.identity.shared.revocations.CHANNEL", CHANNEL + ":nobody")
    await one.revoke_session("acme", "s1", later())
    await seconds_until(tells(two, "s1"), 2.5)


@pytest.mark.redis
async def test_a_subscription_that_was_cut_is_made_again(replicas: Replicas) -> None:
    """Cut off by the server, a replica goes on polling and hears messages again soon."""
    one, two = await replicas.add(), await replicas.add()
    replicas.server.command("CLIENT", "KILL", "TYPE", "pubsub")
    await one.revoke_session("acme", "s1", later())
    await seconds_until(tells(two, "s1"), 2.5)
    await until_subscribed(replicas.server, 2)


@pytest.mark.redis
async def test_a_replica_that_starts_later_knows_what_was_revoked(replicas: Replicas) -> None:
    """Everything is read before ``start`` returns, however many pages it is."""
    one = await replicas.add(timeout_s=10.0)  # 300 at once wait for each other
    for n in range(5):
        await asyncio.gather(*(one.revoke_session("acme", f"s{n}-{i}", later()) for i in range(300)))
    two = await replicas.add()
    assert not two.is_behind
    assert all(tells(two, f"s{n}-{i}")() for n in range(5) for i in range(300))
    assert not tells(two, "another")()


@pytest.mark.redis
async def test_a_pause_of_redis_delays_logouts_and_loses_none(replicas: Replicas) -> None:
    """While it is silent the page is told so and the logout holds here; within 5 s of its return all know."""
    one, two = await replicas.add(), await replicas.add()
    replicas.server.freeze()
    for name in ("s1", "s2"):
        with pytest.raises(StoreUnavailable):
            await one.revoke_session("acme", name, later())
        assert tells(one, name)()
        assert not tells(two, name)()
    await asyncio.sleep(1.5)
    replicas.server.thaw()
    for name in ("s1", "s2"):
        await seconds_until(tells(two, name), 5.0)


@pytest.mark.redis
async def test_a_redis_that_lost_everything_is_told_again(replicas: Replicas) -> None:
    """Killed and started empty: each replica writes back what it knows, and one that starts then has it all."""
    one, two = await replicas.add(), await replicas.add()
    await one.revoke_session("acme", "before", later())
    await seconds_until(tells(two, "before"), 5.0)
    replicas.server.kill()
    with pytest.raises(StoreUnavailable):
        await one.revoke_session("acme", "during", later())
    with pytest.raises(StoreUnavailable):
        await two.revoke_subject("acme", ISSUER, "ana", time.time(), later())
    replicas.server.start()
    await seconds_until(tells(two, "during"), 5.0)
    await seconds_until(lambda: is_over(one, session=None, sid=None), 5.0)
    three = await replicas.add()
    for name in ("before", "during"):
        await seconds_until(tells(three, name), 5.0)


@pytest.mark.redis
@pytest.mark.parametrize("has_new_marks", [False, True])
async def test_a_redis_that_was_emptied_unnoticed_is_noticed(replicas: Replicas, has_new_marks: bool) -> None:
    """FLUSHALL breaks no connection; also when others have written since, what was lost is written back."""
    one, two = await replicas.add(), await replicas.add()
    await one.revoke_session("acme", "before", later())
    await seconds_until(tells(two, "before"), 5.0)
    replicas.server.command("FLUSHALL")
    if has_new_marks:
        for n in range(3):
            await two.revoke_session("acme", f"after{n}", later())
        await seconds_until(tells(one, "after2"), 5.0)
    await until_kept(replicas.server, 4 if has_new_marks else 1)
    three = await replicas.add()
    assert tells(three, "before")()


@pytest.mark.redis
async def test_a_failover_that_lost_the_newest_marks_is_noticed(replicas: Replicas) -> None:
    """A copy that is a little behind takes over: numbers went back, so everything is compared again."""
    one, two = await replicas.add(), await replicas.add()
    await one.revoke_session("acme", "kept", later())
    await seconds_until(tells(two, "kept"), 5.0)
    server = replicas.server
    old = server.command("HGET", "portero:{revocations}:state", "sequence").split(b"\r\n")[1].decode()
    await one.revoke_session("acme", "lost", later())
    await seconds_until(tells(two, "lost"), 5.0)
    for name in ("marks", "ends"):
        server.command("ZREMRANGEBYRANK", f"portero:{{revocations}}:{name}", "1", "-1")
    server.command("HSET", "portero:{revocations}:state", "sequence", old)
    await until_kept(server, 2)
    assert tells(await replicas.add(), "lost")()


@pytest.mark.redis
async def test_what_a_failover_lost_behind_newer_marks_is_told_again(replicas: Replicas) -> None:
    """Numbers went on, and a pool that dials anew by itself hides the change: only the subscription shows it."""
    one = await replicas.add()
    server = replicas.server
    await one.revoke_session("acme", "lost", later())
    await asyncio.sleep(1.3)  # read back: "lost" is behind what comes now
    for name in ("marks", "ends"):
        server.command("ZREMRANGEBYRANK", f"portero:{{revocations}}:{name}", "0", "-1")
    await one.revoke_session("acme", "after", later())
    await asyncio.sleep(1.3)
    assert not tells(await replicas.add(), "lost")()
    server.command("CLIENT", "KILL", "TYPE", "pubsub")
    other = await replicas.add()
    await seconds_until(tells(other, "lost"), 5.0)


@pytest.mark.redis
async def test_a_redis_emptied_before_it_was_ever_read_is_told_again(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first logout of all, lost before anybody read it back, is written once more."""
    monkeypatch.setattr("authproxy.identity.shared.revocations.CHANNEL", CHANNEL + ":nobody")
    one = await replicas.add()
    monkeypatch.setattr("authproxy.identity.shared.revocations.CHANNEL", CHANNEL)
    await one.revoke_session("acme", "first", later())
    replicas.server.command("FLUSHALL")
    await until_kept(replicas.server, 1)


@pytest.mark.redis
async def test_a_number_that_a_failover_lost_is_never_given_again(replicas: Replicas) -> None:
    """A copy that lost the newest mark takes over and gets another: it is not taken for the one that was seen."""
    one, two = await replicas.add(), await replicas.add()
    server, state = replicas.server, "portero:{revocations}:state"
    await one.revoke_session("acme", "kept", later())
    old = server.command("HGET", state, "sequence").split(b"\r\n")[1].decode()
    await one.revoke_session("acme", "lost", later())
    await seconds_until(tells(two, "lost"), 5.0)
    lose = "redis.call('ZREMRANGEBYRANK', KEYS[1], -1, -1) return redis.call('HSET', KEYS[2], 'sequence', ARGV[1])"
    server.command("EVAL", lose, "2", "portero:{revocations}:marks", state, old)
    await one.revoke_session("acme", "after", later())
    await seconds_until(tells(two, "after"), 5.0)


@pytest.mark.redis
async def test_a_logout_told_twice_is_news_once(replicas: Replicas) -> None:
    """Marks written back by many replicas do not make all the others read them again."""
    one, two = await replicas.add(), await replicas.add()
    until = later()
    await one.revoke_session("acme", "s1", until)
    at = time.time()
    await one.revoke_subject("acme", ISSUER, "ana", at, until)
    state = replicas.server.command("HGET", "portero:{revocations}:state", "sequence")
    await two.revoke_subject("acme", ISSUER, "ana", at, until)
    assert replicas.server.command("HGET", "portero:{revocations}:state", "sequence") == state


@pytest.mark.redis
async def test_a_start_without_redis_takes_a_second_and_goes_on_trying() -> None:
    """It says that it is behind, until Redis is there."""
    port = free_port()
    revocations = Revocations(f"redis://127.0.0.1:{port}")
    loop = asyncio.get_running_loop()
    began = loop.time()
    await revocations.start()
    assert loop.time() - began < 2.0
    assert revocations.is_behind
    with pytest.raises(StoreUnavailable):
        await revocations.revoke_session("acme", "s1", later())
    assert tells(revocations, "s1")()
    with redis_server() as server:
        server.kill()
        server.port = port
        server.start()
        await seconds_until(lambda: not revocations.is_behind, 5.0)
        await until_kept(server, 1)
        await revocations.close()


@pytest.mark.redis
async def test_a_replica_says_when_it_is_behind(redis: RedisServer) -> None:
    """Five seconds without reading, by the monotonic clock, and until it has read again."""
    clock = Clock()
    revocations = Revocations(redis.url, monotonic=lambda: time.monotonic() + clock.steady)
    await revocations.start()
    assert not revocations.is_behind
    redis.freeze()
    await asyncio.sleep(0.1)
    clock.steady += 6.0
    assert revocations.is_behind
    redis.thaw()
    await seconds_until(lambda: not revocations.is_behind, 5.0)
    await revocations.close()


@pytest.mark.redis
@pytest.mark.parametrize(
    "words",
    [
        ("ZADD", "portero:{revocations}:marks", "1", "junk"),
        ("ZADD", "portero:{revocations}:marks", "inf", "junk"),
        ("ZADD", "portero:{revocations}:marks", "9e15", '["acme","session","zz",1,2]'),
        ("SET", "portero:{revocations}:marks", "junk"),
        ("SET", "portero:{revocations}:state", "junk"),
        ("HSET", "portero:{revocations}:state", "sequence", "junk"),
        ("HSET", "portero:{revocations}:state", "epoch", "\u00e9"),
    ],
    ids=lambda words: f"{words[0]}-{words[-1]}",
)
async def test_junk_in_redis_ends_nothing_and_stops_nothing(replicas: Replicas, words: tuple[str, ...]) -> None:
    """What others wrote is no mark; once it is gone, logouts are heard again."""
    one, two = await replicas.add(), await replicas.add()
    replicas.server.command(*words)
    await asyncio.sleep(0.3)
    assert not tells(two, "s1")()
    replicas.server.command("FLUSHALL")
    await asyncio.sleep(1.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            await one.revoke_session("acme", "s1", later())
        except StoreUnavailable:
            assert loop.time() - began < 5.0
        else:
            break
    await seconds_until(tells(two, "s1"), 5.0)


@pytest.mark.redis
async def test_ended_marks_do_not_pile_up_in_redis(replicas: Replicas, redis: RedisServer) -> None:
    """A mark whose end and grace have passed makes room with the next logout."""
    one = await replicas.add()
    for n in range(5):
        await one.revoke_session("acme", f"old{n}", time.time() - GRACE_S - 60)
    await one.revoke_session("acme", "new", later())
    assert redis.command("ZCARD", "portero:{revocations}:marks") == b":1"
    assert redis.command("ZCARD", "portero:{revocations}:ends") == b":1"


@pytest.mark.redis
async def test_no_room_in_redis_is_said(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page answers 503, the logout holds where it was asked for, and is told once there is room."""
    monkeypatch.setattr("authproxy.identity.shared.revocations.MAX_KEPT", 2)
    one = await replicas.add()
    for n in range(2):
        await one.revoke_session("acme", f"s{n}", later())
    with pytest.raises(StoreUnavailable):
        await one.revoke_session("acme", "s3", later())
    assert tells(one, "s3")()
    monkeypatch.setattr("authproxy.identity.shared.revocations.MAX_KEPT", 10)
    await seconds_until(tells(await replicas.add(), "s3"), 5.0)


@pytest.mark.redis
async def test_logouts_travel_through_a_cluster() -> None:
    """Scripts of one slot, and messages from any node."""
    with redis_cluster() as node:
        some = Replicas(node, is_cluster=True)
        try:
            one, two = await some.add(), await some.add()
            await asyncio.sleep(0.3)
            await one.revoke_session("acme", "s1", later())
            await seconds_until(tells(two, "s1"), 5.0)
        finally:
            await some.close()


@pytest.mark.redis
async def test_closing_ends_all_connections(redis: RedisServer) -> None:
    """Twice is once, also before any start, and nothing is left at the server."""
    revocations = Revocations(redis.url)
    await revocations.close()
    await revocations.start()
    revocations = Revocations(redis.url)
    await revocations.start()
    await revocations.revoke_session("acme", "s1", later())
    loop = asyncio.get_running_loop()
    began = loop.time()
    await revocations.close()
    await revocations.close()
    assert loop.time() - began < 1.0
    await seconds_until(lambda: redis.command("CLIENT", "LIST").count(b"\n") <= 2, 10.0)


async def test_asking_costs_next_to_nothing() -> None:
    """A microsecond where nothing is revoked (measured: 0.1 us), a few more dict probes where something is."""
    revocations = alone()
    took_s = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(1000):
            is_over(revocations)
        took_s.append((time.perf_counter() - began) / 1000)
    assert min(took_s) < 20e-6  # a slow machine, and the wrapper of this test
