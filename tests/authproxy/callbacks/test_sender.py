"""Callbacks under way: how often they are tried, how many there may be, and that each end is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from authproxy.callbacks import sender
from authproxy.callbacks.message import Callback
from authproxy.callbacks.post import Attempt, Outcome
from authproxy.callbacks.sender import Callbacks
from authproxy.callbacks.target import Target

YES = Attempt(Outcome.DELIVERED, "status 200")
AGAIN = Attempt(Outcome.AGAIN, "status 503")
QUICK = (0.001, 0.001, 0.001, 0.001)


class Posts:
    """Ends attempts as told and counts them, at once and in all."""

    def __init__(self, *ends: Attempt) -> None:
        self.ends = list(ends) or [YES]
        self.before: Callable[[Callback], Awaitable[object]] | None = None
        self.made: list[Callback] = []
        self.at_once: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def post(self, callback: Callback) -> Attempt:
        self.made.append(callback)
        names = ("all", callback.tenant, callback.target.host)
        for name in names:
            self.at_once[name] += 1
            self.most[name] = max(self.most[name], self.at_once[name])
        try:
            if self.before is not None:
                await self.before(callback)
            await asyncio.sleep(0)
        finally:
            for name in names:
                self.at_once[name] -= 1
        return self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]


class Ends(Counter[tuple[str, str]]):
    def count(self, tenant: str, outcome: str) -> None:
        self[tenant, outcome] += 1


def callback(tenant: str = "acme", host: str = "hooks.example", body: bytes = b"x") -> Callback:
    return Callback(tenant, Target(host, 443, is_tls=True, path="/secret"), (), body)


@pytest.fixture
async def running() -> AsyncIterator[Callable[..., tuple[Callbacks, Ends]]]:
    made: list[Callbacks] = []

    def make(posts: Posts, **options: object) -> tuple[Callbacks, Ends]:
        ends = Ends()
        callbacks = Callbacks(posts, ends.count, **{"pauses_s": QUICK, **options})  # type: ignore[arg-type]  # test's own
        made.append(callbacks)
        return callbacks, ends

    yield make
    for callbacks in made:
        await callbacks.close()


async def settled(callbacks: Callbacks) -> None:
    async with asyncio.timeout(20):
        while len(callbacks):  # noqa: ASYNC110  # nobody is told by design: deliveries are behind
            await asyncio.sleep(0.002)


Make = Callable[..., tuple[Callbacks, Ends]]


async def test_a_receiver_that_comes_back_gets_it(running: Make) -> None:
    """Tried again until it is taken, each end told once, nothing left."""
    posts = Posts(AGAIN, AGAIN, YES)
    callbacks, ends = running(posts)
    assert callbacks.send(callback())
    assert (len(callbacks), callbacks.body_bytes) == (1, 1)
    await settled(callbacks)
    assert len(posts.made) == 3
    assert ends == {("acme", "delivered"): 1}
    assert callbacks.body_bytes == 0
    assert not callbacks._tenants
    assert not callbacks._hosts


async def test_five_attempts_are_enough(running: Make) -> None:
    """Then it is given up; the result stays where it can be fetched."""
    posts = Posts(AGAIN)
    callbacks, ends = running(posts)
    callbacks.send(callback())
    await settled(callbacks)
    assert len(posts.made) == 5
    assert ends == {("acme", "unreachable"): 1}


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FORBIDDEN])
async def test_a_no_is_a_no(running: Make, outcome: Outcome) -> None:
    """What trying cannot mend is not tried again."""
    posts = Posts(Attempt(outcome, "why"))
    callbacks, ends = running(posts)
    callbacks.send(callback())
    await settled(callbacks)
    assert len(posts.made) == 1
    assert ends == {("acme", outcome.value): 1}


async def test_two_minutes_are_enough(running: Make) -> None:
    """Whatever a receiver asks for, and however slowly it answers."""
    posts = Posts(Attempt(Outcome.AGAIN, "status 429", 60.0))
    callbacks, ends = running(posts, deadline_s=0.1)
    callbacks.send(callback())
    callbacks.send(callback(host="other.example"))
    posts.before = lambda one: asyncio.sleep(60 if one.target.host == "other.example" else 0)
    await settled(callbacks)
    assert ends == {("acme", "unreachable"): 2}
    assert len(posts.made) == 2


def test_pauses_fit_into_the_deadline() -> None:
    """Five attempts of ten seconds each and the longest pauses between them end before they are cut off."""
    assert sum(sender.PAUSES_S) * 1.25 + 5 * 10.0 <= sender.DEADLINE_S


async def test_a_slow_host_keeps_only_its_own_waiting(running: Make) -> None:
    """Four of its callbacks are under way, the others wait; another host of the same tenant is served."""
    posts, gate = Posts(), asyncio.Event()
    callbacks, ends = running(posts)
    posts.before = lambda one: gate.wait() if one.target.host == "slow.example" else asyncio.sleep(0)
    for _ in range(10):
        assert callbacks.send(callback(host="slow.example"))
    assert callbacks.send(callback(host="quick.example"))
    while not ends:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.002)
    assert posts.at_once["slow.example"] == sender.AT_ONCE_PER_HOST
    gate.set()
    await settled(callbacks)
    assert ends == {("acme", "delivered"): 11}


async def test_a_tenant_with_many_slow_hosts_leaves_room(running: Make) -> None:
    """Its caller chooses names under a wildcard; another tenant is served all the same."""
    posts, gate = Posts(), asyncio.Event()
    callbacks, ends = running(posts)
    posts.before = lambda one: gate.wait() if one.tenant == "acme" else asyncio.sleep(0)
    for number in range(100):
        assert callbacks.send(callback(host=f"h{number}.example"))
    assert callbacks.send(callback("globex"))
    while not ends:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.002)
    assert posts.at_once["acme"] == sender.AT_ONCE_PER_TENANT
    assert ends == {("globex", "delivered"): 1}
    gate.set()
    await settled(callbacks)


async def test_room_is_bounded_by_host_tenant_and_bytes(running: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is dropped and told, at once."""
    monkeypatch.setattr(sender, "END_S", 0.01)
    for name, value in (("PER_HOST", 3), ("PER_TENANT", 5), ("TOTAL", 7), ("TENANT_BYTES", 100), ("TOTAL_BYTES", 150)):
        monkeypatch.setattr(sender, f"MAX_{name}", value)
    posts = Posts()
    posts.before = lambda _one: asyncio.Event().wait()
    callbacks, ends = running(posts)
    assert [callbacks.send(callback(host="a.example")) for _ in range(4)] == [True, True, True, False]
    assert [callbacks.send(callback(host="b.example")) for _ in range(3)] == [True, True, False]
    assert [callbacks.send(callback("globex", body=b"x" * 60)) for _ in range(2)] == [True, False]
    assert [callbacks.send(callback("other", body=b"x" * size)) for size in (100, 20)] == [False, True]
    assert not callbacks.send(callback("last"))
    assert len(callbacks) == 7
    assert sum(ends.values()) == 5
    await callbacks.close()
    assert (len(callbacks), callbacks.body_bytes) == (0, 0)
    assert sum(ends.values()) == 12
    assert sum(count for (_, outcome), count in ends.items() if outcome == "lost") == 7


async def test_a_closed_sender_takes_nothing(running: Make) -> None:
    """What is due is still tried, once; what pauses between attempts is lost at once."""
    posts = Posts(AGAIN, YES, AGAIN)
    callbacks, ends = running(posts, pauses_s=(60.0,))
    callbacks.send(callback())
    while not callbacks._pausing:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.001)
    callbacks.send(callback("globex"))
    callbacks.send(callback("other"))
    await callbacks.close()
    await callbacks.close()
    assert not callbacks.send(callback("late"))
    assert ends == {("acme", "lost"): 1, ("globex", "delivered"): 1, ("other", "lost"): 1, ("late", "dropped"): 1}
    assert len(posts.made) == 3
    assert not callbacks._pausing


async def test_a_defect_is_contained(running: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """An attempt that raises ends that callback, gives its room back and is told."""

    async def broken(_callback: Callback) -> None:
        raise RuntimeError("defect")

    posts = Posts()
    posts.before = broken
    callbacks, ends = running(posts)
    callbacks.send(callback())
    await settled(callbacks)
    assert ends == {("acme", "unreachable"): 1}
    assert "/secret" not in "".join(capsys.readouterr())
