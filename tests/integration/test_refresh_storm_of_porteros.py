"""
Attack family A9 with nothing left out: three Porteros in processes of their own, a cookie whose access token has
expired, two hundred requests for a protected function, a provider that rotates refresh tokens and detects reuse.

``test_refresh_storm`` has the same over the room that refreshes alone, and more of what may happen to Redis.
"""

from __future__ import annotations

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from tests.fakes.login_replicas import PORT, REPORT, LoginProvider, cookie_of, running_replicas
from tests.fakes.patient_redis import PATIENCE_S
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.replica_process import replica_processes
from tests.fakes.world import request_bytes, send_raw
from tests.integration.test_refresh_storm import SHARES, until

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.alone]


class SlowProvider(LoginProvider):
    """Thinks before it refreshes. Who leaves meanwhile has asked for nothing."""

    delay_s = 0.3
    arrived = 0
    given_up = 0

    async def _token(self, request: web.Request) -> web.Response:
        if (await request.post()).get("grant_type") == "refresh_token":
            self.arrived += 1
            until = time.monotonic() + self.delay_s
            while request.transport is not None and time.monotonic() < until:  # noqa: ASYNC110  # a socket tells nobody
                await asyncio.sleep(0.01)
            if request.transport is None:
                self.given_up += 1
                raise web.HTTPServiceUnavailable
        return await super()._token(request)


@dataclass(slots=True)
class Fleet:
    """``cookie`` is of a session whose access token has expired."""

    provider: SlowProvider
    some: list[tuple[Process, tuple[str, int]]]
    cookie: str

    async def ask(self, at: int, requests: int) -> Counter[int]:
        """Statuses of so many requests at once to this replica; 0 for those that got no answer."""
        wire = request_bytes(f"GET {REPORT}", host=f"acme.localhost:{PORT}", fields=[("Cookie", self.cookie)])
        return Counter(await asyncio.gather(*(self._status(at, wire) for _ in range(requests))))

    async def storm(self, *ats: int) -> Counter[int]:
        return sum(await asyncio.gather(*(self.ask(at, SHARES[at]) for at in ats)), Counter())

    async def _status(self, at: int, wire: bytes) -> int:
        try:
            answer = await send_raw(self.some[at][1], wire, timeout_s=40)
        except ConnectionError:
            return 0
        return 0 if answer is None else answer.status


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["cookie", "redis"])
async def fleet(
    request: pytest.FixtureRequest, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    for module in ("token_answer", "grants"):  # of the login alone: what is refreshed lasts as long as it says
        monkeypatch.setattr(f"authproxy.identity.providers.{module}.MIN_LIFETIME_S", 0.1)
    provider = SlowProvider()
    async with running_replicas(1, redis=redis, store=request.param, provider=provider) as world:
        provider.login_ttl_s = 2
        browser = await world.log_in()
        expires_at = time.monotonic() + provider.login_ttl_s
        provider.login_ttl_s = 300
        provider.arrived = provider._refreshes = 0  # if the login took its time
        patience_s = PATIENCE_S if request.param == "redis" else None  # who keeps sessions there must have an answer
        async with replica_processes(len(SHARES), world.settings, patience_s=patience_s) as some:
            await asyncio.sleep(expires_at + 0.1 - time.monotonic())
            yield Fleet(provider, some, cookie_of(browser))


async def test_a_storm_is_one_refresh(fleet: Fleet) -> None:
    """200 requests with the cookie of before are 200 answers and one refresh; so are 200 more."""
    for _ in range(2):
        assert await fleet.storm(0, 1, 2) == {200: 200}
        assert (fleet.provider.arrived, fleet.provider.refreshes) == (1, 1)


@pytest.mark.parametrize("fleet", ["cookie"], indirect=True)
async def test_a_storm_over_a_provider_of_eight_seconds_is_one_refresh(fleet: Fleet) -> None:
    """Slower than the lease lasts, and nobody is refused."""
    fleet.provider.delay_s = 8.0
    assert await fleet.storm(0, 1, 2) == {200: 200}
    assert (fleet.provider.arrived, fleet.provider.refreshes) == (1, 1)


async def test_a_storm_survives_the_death_of_the_holder(fleet: Fleet) -> None:
    """SIGKILL of a whole Portero while it asks: another asks in its place, and whoever asks the others is answered."""
    fleet.provider.delay_s = 30.0
    first = asyncio.create_task(fleet.storm(0))
    await until(lambda: fleet.provider.arrived == 1)
    fleet.provider.delay_s = 0.5
    rest = asyncio.create_task(fleet.storm(1, 2))
    await asyncio.sleep(0.5)
    fleet.some[0][0].send_signal(signal.SIGKILL)
    assert await first == {0: SHARES[0]}
    assert await rest == {200: SHARES[1] + SHARES[2]}
    assert (fleet.provider.arrived, fleet.provider.given_up, fleet.provider.refreshes) == (2, 1, 1)


@pytest.mark.parametrize("fleet", ["cookie"], indirect=True)
async def test_a_storm_survives_a_pause_of_redis(fleet: Fleet, redis: RedisServer) -> None:
    """SIGSTOP of Redis while the provider works, for longer than a lease: everybody is answered by the one result."""
    fleet.provider.delay_s = 1.0
    task = asyncio.create_task(fleet.storm(0, 1, 2))
    await until(lambda: fleet.provider.arrived == 1)
    await asyncio.sleep(0.5)
    redis.freeze()
    await asyncio.sleep(4.5)
    redis.thaw()
    assert await task == {200: 200}
    assert (fleet.provider.arrived, fleet.provider.refreshes) == (1, 1)
