"""
What every ``StateStore`` must do, whoever keeps the state.

Subclass ``StateStoreContract`` as ``Test...`` and give it the fixture ``world``. A world's time passes as fast as it
likes; beside it real time may pass, seconds of it, which ends nothing that is to last.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from authproxy.identity.shared.state import StateStore, key

_names = itertools.count()


@dataclass
class World:
    """Replicas that share their state (one for a store that shares with nobody), and how time passes for them."""

    replicas: Sequence[StateStore]
    wait: Callable[[float], Awaitable[None]]

    def at(self, turn: int) -> StateStore:
        return self.replicas[turn % len(self.replicas)]


def fresh_key(kind: str = "thing") -> str:
    """A key that no other test has."""
    return key("acme", kind, f"n{next(_names)}")


class StateStoreContract:
    """The promises; each test is one."""

    @pytest.mark.parametrize(
        "value", [b"", b"x", bytes(range(256)), b"\r\n+OK\r\n", b"000000000000007", b"v" * 70_000], ids=len
    )
    async def test_what_was_put_is_read_by_every_replica(self, world: World, value: bytes) -> None:
        """Any bytes come back as they were, wherever they are asked for."""
        name = fresh_key()
        await world.at(0).put(name, value, 60.0)
        assert await world.at(1).get(name) == value

    async def test_what_was_never_put_is_not_there(self, world: World) -> None:
        """Every reading call says None."""
        assert await world.at(0).get(fresh_key()) is None
        assert await world.at(0).take(fresh_key()) is None

    async def test_what_was_put_last_counts(self, world: World) -> None:
        """``put`` overwrites, and the time to live starts anew."""
        name = fresh_key()
        await world.at(0).put(name, b"first", 30.0)
        await world.at(1).put(name, b"second", 60.0)
        await world.wait(31.0)
        assert await world.at(0).get(name) == b"second"

    async def test_a_value_ends_with_its_time(self, world: World) -> None:
        """After its time to live a value is not there for any call, and its key is free."""
        get, take, add, newer = (fresh_key() for _ in range(4))
        for name in (get, take, add):
            await world.at(0).put(name, b"old", 30.0)
        await world.at(0).put_newer(newer, 9, b"old", 30.0)
        assert await world.at(1).get(get) == b"old"
        await world.wait(30.1)
        assert await world.at(1).get(get) is None
        assert await world.at(1).take(take) is None
        assert await world.at(1).add(add, b"new", 60.0)
        assert await world.at(1).put_newer(newer, 1, b"new", 60.0)

    @pytest.mark.parametrize("ttl_s", [0.0, -1.0, -math.inf, math.nan, 1e-9], ids=str)
    async def test_a_time_that_is_over_is_soon_over(self, world: World, ttl_s: float) -> None:
        """A rest of time that is no longer there neither fails nor keeps anything."""
        name = fresh_key()
        await world.at(0).put(name, b"x", ttl_s)
        await world.wait(0.01)
        assert await world.at(0).get(name) is None

    @pytest.mark.parametrize("ttl_s", [1e18, 1e300, math.inf], ids=str)
    async def test_a_time_without_bound_is_bounded(self, world: World, ttl_s: float) -> None:
        """A time that no store can count neither fails nor ends at once."""
        name = fresh_key()
        await world.at(0).put(name, b"x", ttl_s)
        assert await world.at(0).get(name) == b"x"

    async def test_a_first_use_is_one(self, world: World) -> None:
        """Of many who add the same at once, over all replicas, exactly one is told that it was first."""
        name = fresh_key("used")
        answers = await asyncio.gather(*(world.at(n).add(name, b"%d" % n, 60.0) for n in range(60)))
        assert answers.count(True) == 1
        assert await world.at(0).get(name) == b"%d" % answers.index(True)
        assert not await world.at(1).add(name, b"late", 60.0)

    async def test_what_is_taken_is_taken_once(self, world: World) -> None:
        """Of many who take at once, over all replicas, exactly one gets it."""
        name = fresh_key("state")
        await world.at(0).put(name, b"login", 60.0)
        answers = await asyncio.gather(*(world.at(n).take(name) for n in range(60)))
        assert sorted(answers, key=bool)[-2:] == [None, b"login"]
        assert await world.at(0).add(name, b"again", 60.0)

    async def test_what_is_deleted_is_gone(self, world: World) -> None:
        """Also twice, also what never was."""
        name = fresh_key()
        await world.at(0).put(name, b"x", 60.0)
        await world.at(1).delete(name)
        await world.at(1).delete(name)
        assert await world.at(0).get(name) is None

    async def test_only_a_newer_version_is_written(self, world: World) -> None:
        """One as new is refused like an older one, and what is read has no version in it."""
        name = fresh_key("renewed")
        assert await world.at(0).put_newer(name, 2, b"two", 60.0)
        assert not await world.at(1).put_newer(name, 2, b"also two", 60.0)
        assert not await world.at(1).put_newer(name, 1, b"one", 60.0)
        assert await world.at(1).get(name) == b"two"
        assert await world.at(1).put_newer(name, 10, b"ten", 60.0)
        assert not await world.at(0).put_newer(name, 9, b"nine", 60.0)
        assert await world.at(0).get(name) == b"ten"

    async def test_what_has_no_version_is_older_than_any(self, world: World) -> None:
        """The first version replaces what was put without one."""
        name = fresh_key()
        await world.at(0).put(name, b"999999999999999", 60.0)
        assert await world.at(0).put_newer(name, 1, b"one", 60.0)
        assert await world.at(0).get(name) == b"one"

    async def test_of_equal_versions_one_is_written(self, world: World) -> None:
        """Many who bring the same version at once: one is told that it is there, and that one's is."""
        name = fresh_key("renewed")
        answers = await asyncio.gather(*(world.at(n).put_newer(name, 7, b"%d" % n, 60.0) for n in range(40)))
        assert answers.count(True) == 1
        assert await world.at(0).get(name) == b"%d" % answers.index(True)

    @pytest.mark.parametrize("version", [0, -1, 10**15, 2**64])
    async def test_a_version_out_of_range_is_refused(self, world: World, version: int) -> None:
        """A number that a store would round is never compared."""
        with pytest.raises(ValueError):
            await world.at(0).put_newer(fresh_key(), version, b"x", 60.0)

    async def test_the_largest_version_is_exact(self, world: World) -> None:
        """Versions next to each other are told apart up to the end of their range."""
        name = fresh_key()
        assert await world.at(0).put_newer(name, 10**15 - 2, b"x", 60.0)
        assert await world.at(0).put_newer(name, 10**15 - 1, b"y", 60.0)
        assert not await world.at(0).put_newer(name, 10**15 - 1, b"z", 60.0)

    async def test_one_holder_has_the_lease(self, world: World) -> None:
        """Of many who ask at once, over all replicas, exactly one gets it."""
        name = fresh_key("refresh")
        answers = await asyncio.gather(*(world.at(n).acquire(name, f"h{n}", 60.0) for n in range(60)))
        assert sum(number is not None for number in answers) == 1

    async def test_a_lease_ends_with_its_time(self, world: World) -> None:
        """A holder that is dead keeps nobody waiting for longer, and can no longer renew."""
        name = fresh_key("refresh")
        first = await world.at(0).acquire(name, "a", 30.0)
        assert await world.at(1).acquire(name, "b", 60.0) is None
        await world.wait(30.1)
        assert not await world.at(0).renew(name, "a", 60.0)
        second = await world.at(1).acquire(name, "b", 60.0)
        assert first is not None
        assert second is not None
        assert second > first
        assert not await world.at(0).renew(name, "a", 60.0)

    async def test_a_renewed_lease_goes_on(self, world: World) -> None:
        """Renewed in time it outlives its first time to live."""
        name = fresh_key("refresh")
        assert await world.at(0).acquire(name, "a", 60.0) is not None
        for _ in range(3):
            await world.wait(40.0)
            assert await world.at(0).renew(name, "a", 60.0)
        assert await world.at(1).acquire(name, "b", 60.0) is None

    async def test_a_lease_can_be_given_up_by_its_holder_alone(self, world: World) -> None:
        """``release`` of another holder changes nothing; the holder's own frees it at once."""
        name = fresh_key("refresh")
        first = await world.at(0).acquire(name, "a", 60.0)
        await world.at(1).release(name, "b")
        assert await world.at(1).acquire(name, "b", 60.0) is None
        assert not await world.at(1).renew(name, "b", 60.0)
        await world.at(0).release(name, "a")
        assert not await world.at(0).renew(name, "a", 60.0)
        second = await world.at(1).acquire(name, "b", 60.0)
        assert first is not None
        assert second is not None
        assert second > first

    async def test_a_holder_may_take_its_lease_again(self, world: World) -> None:
        """It gets a further number and a whole time."""
        name = fresh_key("refresh")
        first = await world.at(0).acquire(name, "a", 60.0)
        again = await world.at(0).acquire(name, "a", 60.0)
        assert first is not None
        assert again is not None
        assert again > first

    async def test_numbers_of_a_lease_only_grow(self, world: World) -> None:
        """Over many holders and replicas, given up or left to end."""
        name = fresh_key("refresh")
        numbers = []
        for turn in range(12):
            number = await world.at(turn).acquire(name, f"h{turn}", 30.0 if turn % 4 == 0 else 60.0)
            assert number is not None
            numbers.append(number)
            if turn % 4 == 0:
                await world.wait(30.1)
            else:
                await world.at(turn).release(name, f"h{turn}")
        assert numbers == sorted(set(numbers))

    async def test_closing_twice_is_closing_once(self, world: World) -> None:
        """``close`` never raises."""
        for replica in world.replicas:
            await replica.close()
            await replica.close()
