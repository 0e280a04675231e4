"""Questions under way: shared by those who ask the same, bounded in number and in time."""

from __future__ import annotations

import asyncio

import pytest

from authproxy.identity.tokens.flights import Flights, TooManyAsked
from policies.errors import ProviderUnavailable


async def test_a_provider_that_never_answers_is_not_waited_for() -> None:
    """Bounded in time, and its place is free again."""
    flights: Flights[int] = Flights(max_in_flight=1, wait_s=0.05)

    async def never() -> int:
        await asyncio.Event().wait()
        return 1

    async def soon() -> int:
        return 2

    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await flights.ask("a", "provider", never)
        await asyncio.sleep(0.01)
    assert await flights.ask("b", "provider", soon) == 2
    await flights.close()


async def test_the_bound_is_a_providers_own() -> None:
    """Who asks another one is not kept from it; who asks the same question takes no further place."""
    flights: Flights[int] = Flights(max_in_flight=1)
    answered = asyncio.Event()

    async def wait() -> int:
        await answered.wait()
        return 3

    waiting = [asyncio.create_task(flights.ask("a", "one", wait)) for _ in range(3)]
    waiting.append(asyncio.create_task(flights.ask("b", "two", wait)))
    await asyncio.sleep(0)
    with pytest.raises(TooManyAsked):
        await flights.ask("c", "one", wait)
    answered.set()
    assert await asyncio.gather(*waiting) == [3, 3, 3, 3]
    await flights.close()


async def test_a_failure_is_everybodys_who_waits_and_no_longer() -> None:
    """The next question is a new one; a failure that nobody waits for is no noise."""
    flights: Flights[int] = Flights()
    asked = 0

    async def fail() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise ProviderUnavailable("no")

    waiting = [asyncio.create_task(flights.ask("a", "one", fail)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, ProviderUnavailable, ProviderUnavailable]
    with pytest.raises(ProviderUnavailable):
        await flights.ask("a", "one", fail)
    assert asked == 2
    await flights.close()
    with pytest.raises(ProviderUnavailable):
        await flights.ask("a", "one", fail)
