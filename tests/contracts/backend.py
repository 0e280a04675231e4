"""
What every ``Backend`` must do, against a server that speaks its platform's API over a socket.

Subclass ``BackendContract`` as ``Test...`` and give it the fixture ``world``. Platforms differ in what they can tell
(an address does not say whether a function exists); what a world leaves out is not asked for, all the rest is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from authproxy.backends.backend import Backend, Readiness
from authproxy.upstream.departure import Destination
from policies.errors import BackendUnavailable
from policies.tables import Place

MAX_CALL_S = 10.0
"""No call of a hurried backend takes longer, whatever the platform does; a machine may stand still meanwhile."""
TROUBLES = ("stop", "break_api", "hang_api", "talk_nonsense")


@dataclass(kw_only=True)
class World:
    """A platform with one function that is awake; one that sleeps and none called ``missing`` where it can tell."""

    backend: Backend
    """One that waits for seconds: nothing that it is told comes too late."""
    hurried: Backend
    """The same with the patience of a fraction of a second, for a platform that is silent."""
    namespace: str
    awake: str
    asleep: str | None = None
    """None: as far as this platform says no function sleeps."""
    missing: str | None = None
    """None: this platform cannot tell whether a function exists."""
    place: Callable[[str, tuple[str, ...]], Place]
    """The place of a function (``awake``) and the segments of a path."""
    stop: Callable[[], Awaitable[None]]
    """The platform goes down."""
    break_api: Callable[[], None]
    """The API answers 500 from now on."""
    hang_api: Callable[[], None]
    """The API accepts and says nothing from now on."""
    talk_nonsense: Callable[[], None]
    """The API answers 200 with what is no answer."""
    mute: Callable[[], None]
    """The functions take requests and answer none from now on."""
    unknowable: frozenset[str] = frozenset(TROUBLES)
    """Troubles in which readiness cannot be known; in others there is some answer."""
    unwakeable: frozenset[str] = frozenset(("stop", "break_api", "hang_api"))
    """Troubles in which nothing can be woken; in others a wake succeeds or is "cannot know"."""


class BackendContract:
    """The promises; each test is one."""

    async def test_an_awake_function_has_ready_replicas(self, world: World) -> None:
        """Ready replicas are counted as the platform counts them."""
        assert await world.backend.readiness(world.namespace, world.awake) == Readiness(1, does_exist=True)

    async def test_a_sleeping_function_exists_without_replicas(self, world: World) -> None:
        """Asleep is not missing."""
        if world.asleep is not None:
            assert await world.backend.readiness(world.namespace, world.asleep) == Readiness(0, does_exist=True)

    async def test_a_function_that_is_not_there(self, world: World) -> None:
        """The platform's own word for it is an answer, no failure."""
        if world.missing is not None:
            assert await world.backend.readiness(world.namespace, world.missing) == Readiness(0, does_exist=False)

    async def test_a_wake_leads_to_a_ready_replica_and_may_be_repeated(self, world: World) -> None:
        """Wake is idempotent; of what is awake, too."""
        woken = world.asleep or world.awake
        await asyncio.gather(*(world.backend.wake(world.namespace, woken) for _ in range(3)))
        for _ in range(100):
            if (await world.backend.readiness(world.namespace, woken)).ready_replicas:
                break
            await asyncio.sleep(0.02)
        await world.backend.wake(world.namespace, woken)
        assert await world.backend.readiness(world.namespace, woken) == Readiness(1)

    @pytest.mark.parametrize("trouble", TROUBLES)
    async def test_what_cannot_be_known_is_said_so_in_bounded_time(self, world: World, trouble: str) -> None:
        """Down, broken, hanging or talking nonsense: ``BackendUnavailable``, never "missing" nor another error."""
        result = getattr(world, trouble)()
        if asyncio.iscoroutine(result):
            await result
        started = time.monotonic()
        try:
            readiness = await world.hurried.readiness(world.namespace, world.awake)
        except BackendUnavailable:
            pass
        else:
            assert trouble not in world.unknowable
            assert readiness.does_exist
        try:
            await world.hurried.wake(world.namespace, world.asleep or world.awake)
        except BackendUnavailable:
            pass
        else:
            assert trouble not in world.unwakeable
        assert time.monotonic() - started < 2 * MAX_CALL_S

    async def test_a_wake_of_nothing_fails(self, world: World) -> None:
        """Nobody can be promised a replica of what is not there."""
        if world.missing is not None:
            with pytest.raises(BackendUnavailable):
                await world.backend.wake(world.namespace, world.missing)

    @pytest.mark.parametrize("path", [None, "", "/", "/no/such/path?at=all"])
    async def test_a_function_that_answers_anything_is_reached(self, world: World, path: str | None) -> None:
        """Few functions have a health check; those that have none answer 404, which is as good."""
        assert await world.backend.probe(world.namespace, world.awake, path) is True

    async def test_a_function_that_is_silent_is_not_reached(self, world: World) -> None:
        """Ready for the platform, and yet not there: whoever is let in now would be let down."""
        world.mute()
        started = time.monotonic()
        assert await world.hurried.probe(world.namespace, world.awake, "/") is False
        assert await world.hurried.probe(world.namespace, world.awake, "") is True
        assert time.monotonic() - started < MAX_CALL_S

    async def test_a_sleeping_function_is_not_reached_unless_the_probe_woke_it(self, world: World) -> None:
        """Where any request wakes, a probe does."""
        if world.asleep is not None and await world.backend.probe(world.namespace, world.asleep, "/"):
            assert (await world.backend.readiness(world.namespace, world.asleep)).ready_replicas

    async def test_nobody_is_reached_on_a_platform_that_is_down(self, world: World) -> None:
        """No, or "cannot know": never another error, and soon."""
        await world.stop()
        started = time.monotonic()
        with suppress(BackendUnavailable):
            assert await world.hurried.probe(world.namespace, world.awake, "/") is False
        assert time.monotonic() - started < MAX_CALL_S

    @pytest.mark.parametrize(
        "path", ["x", "/a b", "/%2e%2e/b", "/../b", "/a/..", "/.", "/a//b", "/a\r\nX: y", "/#a", "/é", "http://x/"]
    )
    async def test_a_path_that_could_be_read_otherwise_is_not_probed(self, world: World, path: str) -> None:
        """Whoever lets such a setting through: it does not reach another function or another field."""
        with pytest.raises(BackendUnavailable):
            await world.backend.probe(world.namespace, world.awake, path)

    @pytest.mark.parametrize(
        "name", ["", "a/b", "f?namespace=globex", "..", "f%2Fg", "f g", "f\r\nX: y", "f@g", "f:80"]
    )
    async def test_a_name_that_would_lead_elsewhere_is_not_asked_about(self, world: World, name: str) -> None:
        """Names are checked once more where they become part of an address."""
        with pytest.raises(BackendUnavailable):
            await world.backend.probe(world.namespace, name, "/")
        for namespace, function in ((world.namespace, name), (name, world.awake)):
            with suppress(BackendUnavailable):
                assert not (await world.backend.readiness(namespace, function)).ready_replicas

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
        """Statuses and fields that a function may send for reasons of its own are passed on, and not tried again."""
        fields = [(b"Content-Type", b"text/plain"), (b"X-Other", b"proxy")]
        for status in (200, 400, 404, 429, 500, 502, 503, 504):
            assert not world.backend.says_not_reached(status, fields)
            assert world.backend.failure_of(status, fields) is None

    async def test_close_is_idempotent_and_final_calls_fail_cleanly(self, world: World) -> None:
        """Closing twice, or never having opened, is no error."""
        await world.backend.readiness(world.namespace, world.awake)
        await world.backend.close()
        await world.backend.close()
