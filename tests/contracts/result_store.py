"""
What every ``ResultStore`` must do, wherever results are kept.

Subclass ``ResultStoreContract`` as ``Test...`` and give it the fixture ``world``. A world's time passes as fast as it
likes; a pending result that nobody renews and a kept one end by it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from authproxy.results.result import Owner, Result, is_id, size_of, without_room
from authproxy.results.store import PENDING_S, ResultBounds, ResultStore
from policies.decision import Reason
from policies.problem import STATUS

_names = itertools.count()
ROOMY = ResultBounds(max_async=100, tenant_results=1000, tenant_bytes=16 * 1024 * 1024)


@dataclass
class World:
    """Replicas that share their results (one for a store that shares with nobody), and how time passes for them."""

    replicas: Sequence[ResultStore]
    wait: Callable[[float], Awaitable[None]]

    def at(self, turn: int) -> ResultStore:
        return self.replicas[turn % len(self.replicas)]


def fresh_tenant() -> str:
    """A tenant that no other test has."""
    return f"t{next(_names)}"


def a_result(body: bytes = b"done", *fields: tuple[bytes, bytes], status: int = 200) -> Result:
    return Result(status, fields or ((b"Content-Type", b"text/plain"),), body, 1_790_000_000.5)


async def opened(
    store: ResultStore,
    tenant: str,
    subject: str | None = "login|ana",
    *,
    flow: str = "login|ana",
    bounds: ResultBounds = ROOMY,
    keep_s: float = 60.0,
) -> str:
    answer = await store.open(Owner(tenant, subject), flow, bounds, keep_s)
    assert not isinstance(answer, Reason), answer
    return answer


class ResultStoreContract:
    """The promises; each test is one."""

    async def test_a_result_is_pending_and_then_done(self, world: World) -> None:
        """Every replica sees whose it is from the start, and what it came to in the end."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant)
        assert await world.at(1).read(tenant, result_id) == (Owner(tenant, "login|ana"), None)
        assert await world.at(2).finish(tenant, result_id, a_result())
        assert await world.at(1).read(tenant, result_id) == (Owner(tenant, "login|ana"), a_result())

    @pytest.mark.parametrize(
        "result",
        [
            a_result(b""),
            a_result(bytes(range(256)) * 4096),
            a_result(b"x", (b"X-Odd", b"\xff\xfe \t"), (b"X-Odd", b""), (b"x-odd", b"again")),
            a_result(b"nothing here", status=599),
        ],
        ids=["empty", "a mebibyte of any bytes", "fields", "status"],
    )
    async def test_an_answer_comes_back_as_it_was(self, world: World, result: Result) -> None:
        """Status, fields in their order, and body, byte for byte; as often as it is asked for."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant, None)
        assert await world.at(0).finish(tenant, result_id, result)
        for turn in range(2):
            assert await world.at(turn).read(tenant, result_id) == (Owner(tenant, None), result)

    async def test_ids_are_128_bits_that_nobody_guesses(self, world: World) -> None:
        """As many different ones as there are results, each in the one form that is looked up."""
        tenant = fresh_tenant()
        ids = [await opened(world.at(n), tenant) for n in range(50)]
        assert len(set(ids)) == 50
        assert all(is_id(result_id) and len(result_id) == 22 for result_id in ids)

    @pytest.mark.parametrize(
        "guess",
        ["", "x", "A" * 22, "A" * 21 + "B", "A" * 23, "é" * 22, "A" * 21 + "\n", "*", "../" * 7 + "A", "\ud800" * 22],
        ids=ascii,
    )
    async def test_what_is_no_id_names_nothing(self, world: World, guess: str) -> None:
        """No call fails, none does anything."""
        tenant = fresh_tenant()
        await opened(world.at(0), tenant)
        store = world.at(1)
        assert await store.read(tenant, guess) is None
        assert not await store.renew(tenant, guess)
        assert not await store.finish(tenant, guess, a_result())
        assert not await store.delete(tenant, guess)

    async def test_another_tenants_result_is_unknown(self, world: World) -> None:
        """An id is good for its own tenant alone, for reading, renewing, finishing and deleting."""
        tenant, other = fresh_tenant(), fresh_tenant()
        result_id = await opened(world.at(0), tenant)
        await opened(world.at(0), other)
        assert await world.at(1).read(other, result_id) is None
        assert not await world.at(1).renew(other, result_id)
        assert not await world.at(1).finish(other, result_id, a_result(b"theirs"))
        assert not await world.at(1).delete(other, result_id)
        assert await world.at(0).read(tenant, result_id) == (Owner(tenant, "login|ana"), None)

    async def test_a_result_is_done_once(self, world: World) -> None:
        """Of many who finish it at once one does, and what it brought stays."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant)
        answers = await asyncio.gather(*(world.at(n).finish(tenant, result_id, a_result(b"%d" % n)) for n in range(20)))
        assert answers.count(True) == 1
        found = await world.at(0).read(tenant, result_id)
        assert found is not None
        assert found[1] == a_result(b"%d" % answers.index(True))
        assert not await world.at(0).renew(tenant, result_id)

    @pytest.mark.parametrize("room", [0, 1_000_000], ids=["no room", "room"])
    async def test_the_same_end_may_be_told_again(self, world: World, room: int) -> None:
        """Whoever got no answer asks once more, and learns that it is kept; it is counted once."""
        tenant = fresh_tenant()
        bounds = ROOMY._replace(tenant_bytes=room)
        result_id = await opened(world.at(0), tenant, bounds=bounds)
        before = world.at(0).sizes().bytes
        assert await world.at(0).finish(tenant, result_id, a_result())
        after = world.at(0).sizes().bytes
        for turn in range(3):
            assert await world.at(turn).finish(tenant, result_id, a_result())
            assert not await world.at(turn).finish(tenant, result_id, a_result()._replace(finished_at=2.0))
        assert world.at(0).sizes().bytes == after > before

    # -- ends ------------------------------------------------------------------------------------------------------

    async def test_a_pending_result_that_nobody_renews_is_gone(self, world: World) -> None:
        """Whoever ran it has died: its place is free, and what comes too late is not kept."""
        tenant = fresh_tenant()
        bounds = ROOMY._replace(max_async=1)
        result_id = await opened(world.at(0), tenant, bounds=bounds)
        assert await world.at(1).open(Owner(tenant, "login|ana"), "login|ana", bounds, 60.0) is Reason.QUEUE_FULL
        await world.wait(PENDING_S + 0.05)
        assert await world.at(1).read(tenant, result_id) is None
        assert not await world.at(0).renew(tenant, result_id)
        assert not await world.at(0).finish(tenant, result_id, a_result())
        assert not await world.at(0).delete(tenant, result_id)
        await opened(world.at(1), tenant, bounds=bounds)

    async def test_a_renewed_result_stays_pending(self, world: World) -> None:
        """For as long as it is renewed in time."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant)
        for turn in range(4):
            await world.wait(PENDING_S * 0.6)
            assert await world.at(turn).renew(tenant, result_id)
        assert await world.at(1).read(tenant, result_id) == (Owner(tenant, "login|ana"), None)
        assert await world.at(1).finish(tenant, result_id, a_result())

    async def test_a_result_is_kept_for_its_time_and_no_longer(self, world: World) -> None:
        """Counted from when it is done; afterwards its place and its bytes are free."""
        tenant = fresh_tenant()
        bounds = ResultBounds(1, 1, 2 * size_of(a_result()))
        result_id = await opened(world.at(0), tenant, bounds=bounds, keep_s=30.0)
        await world.wait(PENDING_S * 0.6)
        await world.at(0).finish(tenant, result_id, a_result())
        await world.wait(20.0)
        assert await world.at(1).read(tenant, result_id) == (Owner(tenant, "login|ana"), a_result())
        assert await world.at(1).open(Owner(tenant, None), "192.0.2.1", bounds, 1.0) is Reason.QUEUE_FULL
        await world.wait(10.05)
        assert await world.at(1).read(tenant, result_id) is None
        again = await opened(world.at(1), tenant, bounds=bounds)
        assert await world.at(0).finish(tenant, again, a_result())
        assert await world.at(0).read(tenant, again) == (Owner(tenant, "login|ana"), a_result())

    @pytest.mark.parametrize("keep_s", [0.0, -1.0, -math.inf, math.nan, 1e-9], ids=str)
    async def test_a_time_that_is_over_is_soon_over(self, world: World, keep_s: float) -> None:
        """It neither fails nor keeps anything."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant, keep_s=keep_s)
        assert await world.at(0).finish(tenant, result_id, a_result())
        await world.wait(0.05)
        assert await world.at(1).read(tenant, result_id) is None

    @pytest.mark.parametrize("keep_s", [1e18, 1e300, math.inf], ids=str)
    async def test_a_time_without_bound_is_bounded(self, world: World, keep_s: float) -> None:
        """A time that no store can count neither fails nor ends at once."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant, keep_s=keep_s)
        assert await world.at(0).finish(tenant, result_id, a_result())
        assert await world.at(0).read(tenant, result_id) == (Owner(tenant, "login|ana"), a_result())

    # -- deleted ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("is_done", [False, True], ids=["pending", "done"])
    async def test_what_is_deleted_is_gone(self, world: World, is_done: bool) -> None:
        """Once: whoever still works on it is told to stop, its place is free, and nothing is kept of it."""
        tenant = fresh_tenant()
        bounds = ResultBounds(1, 1, 10_000)
        result_id = await opened(world.at(0), tenant, bounds=bounds)
        if is_done:
            assert await world.at(0).finish(tenant, result_id, a_result())
        answers = await asyncio.gather(*(world.at(n).delete(tenant, result_id) for n in range(10)))
        assert answers.count(True) == 1
        assert await world.at(0).read(tenant, result_id) is None
        assert not await world.at(0).renew(tenant, result_id)
        assert not await world.at(0).finish(tenant, result_id, a_result())
        await opened(world.at(1), tenant, bounds=bounds)

    async def test_who_reads_while_it_is_deleted_gets_it_whole_or_not(self, world: World) -> None:
        """Readers that race a delete: the same answer as ever, or none; never a part."""
        tenant = fresh_tenant()
        result_id = await opened(world.at(0), tenant)
        whole = a_result(b"x" * 100_000)
        await world.at(0).finish(tenant, result_id, whole)
        before = [world.at(n).read(tenant, result_id) for n in range(10)]
        after = [world.at(n).read(tenant, result_id) for n in range(10)]
        answers = await asyncio.gather(*before, world.at(1).delete(tenant, result_id), *after)
        assert answers[10] is True
        assert all(a is None or a == (Owner(tenant, "login|ana"), whole) for a in answers[:10] + answers[11:])

    # -- bounds ----------------------------------------------------------------------------------------------------

    async def test_a_flow_has_as_many_pending_as_it_may(self, world: World) -> None:
        """Of many that are opened at once over all replicas: exactly so many. Another flow is not touched by it."""
        tenant = fresh_tenant()
        bounds = ROOMY._replace(max_async=7)
        owner = Owner(tenant, "login|ana")
        answers = await asyncio.gather(*(world.at(n).open(owner, "login|ana", bounds, 60.0) for n in range(40)))
        assert Counter(answers)[Reason.QUEUE_FULL] == 33
        await opened(world.at(1), tenant, "login|bob", flow="login|bob", bounds=bounds)
        done = next(a for a in answers if not isinstance(a, Reason))
        assert await world.at(0).finish(tenant, done, a_result())
        await opened(world.at(2), tenant, bounds=bounds)
        assert await world.at(0).open(owner, "login|ana", bounds, 60.0) is Reason.QUEUE_FULL

    async def test_another_tenants_flow_of_the_same_name_is_another(self, world: World) -> None:
        """Two tenants' callers never share a bound."""
        one, other = fresh_tenant(), fresh_tenant()
        bounds = ROOMY._replace(max_async=1)
        await opened(world.at(0), one, bounds=bounds)
        await opened(world.at(1), other, bounds=bounds)

    async def test_a_tenant_has_as_many_results_as_it_may(self, world: World) -> None:
        """Pending and done together; a new one only when one of them ends."""
        tenant = fresh_tenant()
        bounds = ROOMY._replace(tenant_results=10)
        answers = await asyncio.gather(
            *(world.at(n).open(Owner(tenant, None), f"192.0.2.{n}", bounds, 60.0) for n in range(30))
        )
        ids = [a for a in answers if not isinstance(a, Reason)]
        assert len(ids) == 10
        assert await world.at(0).finish(tenant, ids[0], a_result())
        assert await world.at(1).open(Owner(tenant, None), "192.0.2.99", bounds, 60.0) is Reason.QUEUE_FULL
        assert await world.at(1).delete(tenant, ids[0])
        await opened(world.at(2), tenant, None, flow="192.0.2.99", bounds=bounds)

    @pytest.mark.parametrize("bounds", [ROOMY._replace(max_async=0), ROOMY._replace(tenant_results=0)], ids=str)
    async def test_no_room_at_all_is_none(self, world: World, bounds: ResultBounds) -> None:
        """A bound of 0 takes nothing."""
        assert await world.at(0).open(Owner(fresh_tenant(), None), "f", bounds, 60.0) is Reason.QUEUE_FULL

    async def test_one_caller_does_not_keep_the_others_from_theirs(self, world: World) -> None:
        """Whoever piles up done results gets half of what the others leave, and no more."""
        tenant = fresh_tenant()
        bounds = ROOMY._replace(tenant_results=8)
        for flow, share in (("login|eve", 4), ("login|mallory", 2), ("login|ana", 1), ("login|bob", 1)):
            for _ in range(share):
                result_id = await opened(world.at(0), tenant, flow, flow=flow, bounds=bounds)
                assert await world.at(1).finish(tenant, result_id, a_result())
            assert await world.at(1).open(Owner(tenant, flow), flow, bounds, 60.0) is Reason.QUEUE_FULL

    async def test_an_answer_that_has_no_room_is_told_to_have_none(self, world: World) -> None:
        """The owner learns that the function has answered and why nothing of it is there; smaller ones still fit."""
        tenant = fresh_tenant()
        large = a_result(b"x" * 3000)
        bounds = ROOMY._replace(tenant_bytes=2 * size_of(large) + 2 * size_of(without_room(1.0)) + 1500)
        ids = [await opened(world.at(0), tenant, bounds=bounds) for _ in range(3)]
        assert await world.at(0).finish(tenant, ids[0], large)
        assert await world.at(1).finish(tenant, ids[1], large)
        assert await world.at(1).finish(tenant, ids[2], a_result(b"s"))
        assert await world.at(0).read(tenant, ids[0]) == (Owner(tenant, "login|ana"), large)
        found = await world.at(0).read(tenant, ids[1])
        assert found is not None
        assert found[1] is not None
        assert found[1] == without_room(large.finished_at)
        assert found[1].status == STATUS[Reason.OVERLOADED]
        assert b"no room" in found[1].body
        assert await world.at(0).read(tenant, ids[2]) == (Owner(tenant, "login|ana"), a_result(b"s"))
        assert await world.at(0).delete(tenant, ids[0])
        again = await opened(world.at(0), tenant, bounds=bounds)
        assert await world.at(1).finish(tenant, again, large)
        assert await world.at(0).read(tenant, again) == (Owner(tenant, "login|ana"), large)

    async def test_one_callers_bytes_leave_room_for_another(self, world: World) -> None:
        """The bytes are shared as the places are."""
        tenant = fresh_tenant()
        large = a_result(b"x" * 3000)
        bounds = ROOMY._replace(tenant_bytes=4 * size_of(large))
        for flow, share in (("login|eve", 2), ("login|ana", 1)):
            for number in range(share + 1):
                result_id = await opened(world.at(0), tenant, flow, flow=flow, bounds=bounds)
                assert await world.at(1).finish(tenant, result_id, large)
                found = await world.at(0).read(tenant, result_id)
                assert found is not None
                assert found[1] is not None
                assert (found[1] == large) == (number < share)
                if number == share:
                    await world.at(0).delete(tenant, result_id)

    async def test_nothing_is_left_of_what_is_over(self, world: World) -> None:
        """Opened, renewed, finished, deleted and left to end in every order: every place and byte comes back."""
        tenant = fresh_tenant()
        bounds = ResultBounds(4, 4, 4 * size_of(a_result()))
        for turn in range(30):
            flow = f"login|{turn % 3}"
            result_id = await opened(world.at(turn), tenant, flow, flow=flow, bounds=bounds, keep_s=5.0)
            if turn % 2:
                await world.at(turn + 1).renew(tenant, result_id)
            if turn % 3:
                await world.at(turn + 1).finish(tenant, result_id, a_result())
            if turn % 5:
                await world.at(turn + 2).delete(tenant, result_id)
            else:
                await world.wait(PENDING_S + 0.05)
        await world.wait(PENDING_S + 0.05)
        for flow in ("login|x", "login|y", "login|z"):
            result_id = await opened(world.at(0), tenant, flow, flow=flow, bounds=bounds)
            assert await world.at(0).finish(tenant, result_id, a_result())
        assert sum(replica.sizes().pending for replica in world.replicas) == 0

    async def test_sizes_count_what_is_kept(self, world: World) -> None:
        """Pending, done and bytes, added up over the replicas; back to what they were when all is over."""
        tenant = fresh_tenant()

        def now() -> tuple[int, ...]:
            return tuple(sum(part) for part in zip(*(r.sizes() for r in world.replicas), strict=True))

        before = now()
        ids = [await opened(world.at(n), tenant, keep_s=8.0) for n in range(3)]
        assert now() == (before[0] + 3, before[1], before[2])
        await world.at(0).finish(tenant, ids[0], a_result())
        assert now() == (before[0] + 2, before[1] + 1, before[2] + size_of(a_result()))
        await world.at(1).delete(tenant, ids[1])
        await world.wait(PENDING_S + 0.05)
        assert now() == before

    async def test_closing_twice_is_closing_once(self, world: World) -> None:
        """``close`` never raises."""
        for replica in world.replicas:
            await replica.close()
            await replica.close()
