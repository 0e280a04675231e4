"""
What every ``Cluster`` must do, whoever it is made of.

Subclass ``ClusterContract`` as ``Test...`` and give it the fixture ``porteros``: some that share, or one that is alone;
started. Each test uses a key of its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest

from authproxy.activator.cluster import Cluster, find_place

_names = itertools.count()


def fresh_key() -> str:
    """A key that no other test has."""
    return f"function:faas/acme/f{next(_names)}"


async def until(is_true: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    """Wait for what another task brings about."""
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110  # many things bring it about, none of which tells of it
            await asyncio.sleep(0.001)


class Replica:
    """One function, seen by all Porteros; it notes in ``faults`` what must not happen."""

    def __init__(self, capacity: int, *, service_s: float = 0.002) -> None:
        self.capacity = capacity
        self.service_s = service_s
        self.in_flight = 0
        self.served: list[SlotRoom] = []
        """By whom each request was sent, in order."""
        self.idle_s: list[float] = []
        """How long each free place was free before it was used, while somebody waited all that time."""
        self.rooms: list[SlotRoom] = []
        self.faults: list[str] = []
        """What is raised in a task of the cluster's would only be logged."""
        self._free_since: list[float] = []

    def begin(self, room: SlotRoom) -> None:
        loop = asyncio.get_running_loop()
        self.in_flight += 1
        self.expect(self.in_flight <= self.capacity, "more in flight than the function takes")
        self.served.append(room)
        if self._free_since:
            self.idle_s.append(loop.time() - self._free_since.pop(0))
        loop.call_later(self.service_s, self._end, room)

    def expect(self, is_so: bool, fault: str) -> None:
        if not is_so:
            self.faults.append(fault)

    def _end(self, room: SlotRoom) -> None:
        self.in_flight -= 1
        if any(one.waiting for one in self.rooms):
            self._free_since.append(asyncio.get_running_loop().time())
        room.finished()


class SlotRoom:
    """What a Portero's waiting room does with slots: as ``policies.coldstart.Room``, without all the rest."""

    def __init__(self, cluster: Cluster, key: str, replica: Replica) -> None:
        self.replica = replica
        self.waiting = 0
        self.in_use = 0
        self.held = 0
        self.told: list[int] = []
        self.is_wanting = False
        replica.rooms.append(self)
        self.pool = cluster.slots(key, self._on_held)

    def arrive(self, number: int = 1) -> None:
        self.waiting += number
        self._go()

    def leave(self) -> None:
        self.waiting = 0
        self._go()

    def finished(self) -> None:
        self.in_use -= 1
        self.held -= 1
        self._go()

    def _on_held(self, held: int) -> None:
        self.replica.expect(not self.is_wanting, "told within want")
        self.replica.expect(held >= self.in_use, "less held than in use")
        self.told.append(held)
        self.held = held
        self._go()

    def _go(self) -> None:
        while self.waiting and self.in_use < self.held:
            self.waiting -= 1
            self.in_use += 1
            self.replica.begin(self)
        self.is_wanting = True
        self.pool.want(self.in_use, self.in_use + self.waiting, self.replica.capacity)
        self.is_wanting = False


class ClusterContract:
    """The promises; each test is one."""

    async def test_all_that_live_are_counted(self, porteros: Sequence[Cluster]) -> None:
        """Each knows how many share; nobody is ever told that there is none."""
        assert all(portero.sharers >= 1 for portero in porteros)
        await until(lambda: all(portero.sharers == len(porteros) for portero in porteros))

    async def test_one_wake_at_once(self, porteros: Sequence[Cluster]) -> None:
        """One of those that ask at once has the lease, again and again, until it has ended it."""
        key = fresh_key()
        had = await asyncio.gather(*(portero.lease_wake(key) for portero in porteros))
        assert had.count(True) == 1
        first = porteros[had.index(True)]
        assert await first.lease_wake(key)
        await first.keep_wake(key)
        for portero in porteros:
            await portero.end_wake(key)  # of others': nothing
        assert await porteros[-1].lease_wake(key)

    async def test_wakes_of_other_functions_are_others(self, porteros: Sequence[Cluster]) -> None:
        """A lease is of one function."""
        assert await porteros[0].lease_wake(fresh_key())
        assert await porteros[-1].lease_wake(fresh_key())

    @pytest.mark.parametrize("ceiling", [1, 7, 100])
    async def test_all_places_are_given_and_no_more(self, porteros: Sequence[Cluster], ceiling: int) -> None:
        """Whoever asks, and however many at once: the ceiling is never passed, and at most a sixteenth stays free."""
        key = f"tenant:{fresh_key()}"
        held = dict.fromkeys(porteros, 0)

        async def arrive(portero: Cluster) -> None:
            if await find_place(portero, key, ceiling, lambda: held[portero]):
                held[portero] += 1
            assert sum(held.values()) <= ceiling

        crowd = itertools.islice(itertools.cycle(porteros), 2 * ceiling + 3)
        await asyncio.gather(*(arrive(portero) for portero in crowd))
        assert sum(held.values()) >= ceiling - ceiling // 16

    async def test_a_ceiling_of_nothing_has_no_place(self, porteros: Sequence[Cluster]) -> None:
        """Nor has one that is already reached here."""
        assert not await find_place(porteros[0], fresh_key(), 0, lambda: 0)
        assert not await find_place(porteros[0], fresh_key(), 3, lambda: 3)

    async def test_who_has_a_place_need_not_ask(self, porteros: Sequence[Cluster]) -> None:
        """What was reserved is had until it is used."""
        key = fresh_key()
        assert await find_place(porteros[0], key, 100, lambda: 0)
        assert porteros[0].has_place(key, 100, 0)

    async def test_places_given_up_are_there_for_others(self, porteros: Sequence[Cluster]) -> None:
        """Soon after nobody waits any more at one Portero, another has all its places."""
        key = fresh_key()
        held = [0]
        porteros[0].count_held(lambda _: held[0])
        for _ in range(10):
            assert await find_place(porteros[0], key, 10, lambda: held[0])
            held[0] += 1
        assert not await find_place(porteros[0], key, 10, lambda: held[0])
        held[0] = 0
        async with asyncio.timeout(20):
            while not await porteros[-1].reserve(key, 10, 9):  # noqa: ASYNC110  # another process brings it about
                await asyncio.sleep(0.05)

    @pytest.mark.parametrize("capacity", [1, 3])
    async def test_slots_are_shared(self, porteros: Sequence[Cluster], capacity: int) -> None:
        """Never more at once than there are, all are served, and in turn while all have somebody waiting."""
        key, replica = fresh_key(), Replica(capacity)
        rooms = [SlotRoom(portero, key, replica) for portero in porteros]
        for room in rooms:
            room.arrive(40)
        await until(lambda: len(replica.served) == 40 * len(rooms) and not replica.in_flight)
        assert replica.faults == []
        first = replica.served[: 30 * len(rooms)]
        assert all(20 <= first.count(room) <= 40 for room in rooms)
        for room in rooms:
            room.pool.close()

    async def test_slots_that_nobody_wants_are_given_back(self, porteros: Sequence[Cluster]) -> None:
        """Whoever waited leaves, or is served: then the next may be anybody's."""
        key, replica = fresh_key(), Replica(2)
        rooms = [SlotRoom(portero, key, replica) for portero in porteros]
        for _ in range(3):
            for room in rooms:
                before = len(replica.served)
                room.arrive(3)
                await until(lambda before=before: len(replica.served) == before + 3)  # type: ignore[misc]  # its own
                rooms[0].arrive(2)
                rooms[0].leave()
                await until(lambda: not replica.in_flight)
        assert replica.faults == []

    async def test_only_as_many_as_there_are(self, porteros: Sequence[Cluster]) -> None:
        """Whatever is wanted, no more than the capacity is told; nothing, where it is 0."""
        told: list[int] = []
        pool = porteros[0].slots(fresh_key(), told.append)
        pool.want(0, 5, 0)
        await asyncio.sleep(0.05)
        assert not any(told)
        pool.want(0, 5, 2)
        await until(lambda: told[-1:] == [2])
        pool.want(2, 2, 1)
        await asyncio.sleep(0.05)
        assert told[-1] == 2
        pool.close()

    async def test_nothing_is_told_after_close(self, porteros: Sequence[Cluster]) -> None:
        """Closing twice is closing once; wanting then is nothing."""
        told: list[int] = []
        pool = porteros[0].slots(fresh_key(), told.append)
        pool.want(0, 1, 1)
        pool.close()
        pool.close()
        pool.want(0, 1, 1)
        await asyncio.sleep(0.05)
        assert told == []

    async def test_close_is_idempotent(self, porteros: Sequence[Cluster]) -> None:
        """And pools of before may still be used, to no effect."""
        pool = porteros[0].slots(fresh_key(), lambda _: None)
        pool.want(0, 1, 1)
        await porteros[0].close()
        await porteros[0].close()
        pool.want(0, 0, 1)
        pool.close()
