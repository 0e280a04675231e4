"""
What every ``Backend`` must do, against a server that speaks its platform's API over a socket.

Subclass ``BackendContract`` as ``Test...`` and give it the fixture ``world``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from authproxy.backends.backend import Backend, Readiness
from authproxy.upstream.departure import Destination
from policies.errors import BackendUnavailable
from policies.tables import Place

MAX_CALL_S = 3.5
"""No call of a backend takes longer, whatever the platform does."""


@dataclass
class World:
    """A platform with one function that is awake, one that sleeps, and none called ``missing``."""

    backend: Backend
    namespace: str
    awake: str
    asleep: str
    stop: Callable[[], Awaitable[None]]
    """The platform goes down."""
    break_api: Callable[[], None]
    """The API answers 500 from now on."""
    hang_api: Callable[[], None]
    """The API accepts and says nothing from now on."""
    talk_nonsense: Callable[[], None]
    """The API answers 200 with what is no answer."""
    place: Callable[[str, tuple[str, ...]], Place]
    """The place of a function (``awake``) and the segments of a path."""


class BackendContract:
    """The promises; each test is one."""

    async def test_an_awake_function_has_ready_replicas(self, world: World) -> None:
        """Ready replicas are counted as the platform counts them."""
        assert await world.backend.readiness(world.namespace, world.awake) == Readiness(1, does_exist=True)

    async def test_a_sleeping_function_exists_without_replicas(self, world: World) -> None:
        """Asleep is not missing."""
        assert await world.backend.readiness(world.namespace, world.asleep) == Readiness(0, does_exist=True)

    async def test_a_function_that_is_not_there(self, world: World) -> None:
        """The platform's own word for it is an answer, no failure."""
        assert await world.backend.readiness(world.namespace, "missing") == Readiness(0, does_exist=False)

    async def test_a_wake_leads_to_a_ready_replica_and_may_be_repeated(self, world: World) -> None:
        """Wake is idempotent."""
        await asyncio.gather(*(world.backend.wake(world.namespace, world.asleep) for _ in range(3)))
        for _ in range(100):
            if (await world.backend.readiness(world.namespace, world.asleep)).ready_replicas:
                break
            await asyncio.sleep(0.02)
        assert await world.backend.readiness(world.namespace, world.asleep) == Readiness(1)

    @pytest.mark.parametrize("trouble", ["stop", "break_api", "hang_api", "talk_nonsense"])
    async def test_what_cannot_be_known_is_said_so_in_bounded_time(self, world: World, trouble: str) -> None:
        """Down, broken, hanging or talking nonsense: ``BackendUnavailable``, never "missing" nor another error."""
        result = getattr(world, trouble)()
        if asyncio.iscoroutine(result):
            await result
        started = time.monotonic()
        with pytest.raises(BackendUnavailable):
            await world.backend.readiness(world.namespace, world.awake)
        if trouble != "talk_nonsense":
            with pytest.raises(BackendUnavailable):
                await world.backend.wake(world.namespace, world.asleep)
        assert time.monotonic() - started < 2 * MAX_CALL_S

    async def test_a_wake_of_nothing_fails(self, world: World) -> None:
        """Nobody can be promised a replica of what is not there."""
        with pytest.raises(BackendUnavailable):
            await world.backend.wake(world.namespace, "missing")

    def test_a_destination_says_path_and_query(self, world: World) -> None:
        """The query goes verbatim behind the path."""
        place = world.place(world.awake, ("by-country", "es"))
        bare, queried = world.backend.destination(place, None), world.backend.destination(place, "a=%20&b")
        assert isinstance(bare, Destination)
        assert isinstance(queried, Destination)
        assert queried == bare._replace(target=bare.target + b"?a=%20&b")
        assert bare.target.endswith(b"/by-country/es")
        assert bare.address.port
        assert bare.host

    def test_an_answer_of_a_function_was_reached(self, world: World) -> None:
        """Statuses and fields that a function may send for reasons of its own do not make it unreached."""
        for status in (200, 404, 429, 500, 502, 503, 504):
            assert not world.backend.says_not_reached(
                status, [(b"Content-Type", b"text/plain"), (b"X-Other", b"proxy")]
            )

    async def test_close_is_idempotent_and_final_calls_fail_cleanly(self, world: World) -> None:
        """Closing twice, or never having opened, is no error."""
        await world.backend.readiness(world.namespace, world.awake)
        await world.backend.close()
        await world.backend.close()
