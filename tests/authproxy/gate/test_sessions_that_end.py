"""A session that ends while its request is under way: held, waiting for an answer, or streaming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from authproxy.identity.sessions.session import Session, Tokens
from policies.gcra import NOTHING_TO_SPEND, Spent
from policies.tables import TenantTable
from tests.fakes.identity import a_request
from tests.fakes.openfaas import Invocation
from tests.fakes.raw_client import RawClient
from tests.fakes.world import World, running_world


class LoggedIn:
    """Ana's session of acme, and the requests of her browser."""

    def __init__(self, world: World) -> None:
        self.sessions = world.app.parts.identity.sessions
        self.gate: Any = world.app.parts.gate
        self.folder = world.app.parts.folder
        self.cookie = ""
        self.session: Session | None = None

    @property
    def tenant(self) -> TenantTable:
        return self.folder.active.tenants["acme"]

    async def begin(self) -> LoggedIn:
        provider, now = self.tenant.providers[0], self.gate._clock()
        claims = {"iss": provider.issuer, "sub": "ana", "groups": ["analysts"], "organization": ["acme"]}
        tokens = Tokens(provider.issuer, "ana", None, claims, None, None, None, now + 600, now)
        self.session, values = await self.sessions.begin(self.tenant, provider, tokens, a_request(), now)
        self.cookie = "; ".join(value.partition(";")[0] for value in values)
        return self

    async def end(self) -> None:
        await self.sessions.end(self.tenant, self.session, a_request(), self.gate._clock())

    def request(self, target: str) -> bytes:
        return f"GET {target} HTTP/1.1\r\nHost: acme.test\r\nCookie: {self.cookie}\r\n\r\n".encode()


def told(invocation: Invocation) -> str | None:
    """Who the function was told that the caller is."""
    return next((value for name, value in invocation.fields if name.lower() == "x-portero-subject"), None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for is a task of the code under test
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ends", [False, True])
async def test_who_was_held_leaves_as_who_he_is_at_the_release(ends: bool) -> None:
    """A public function that woke up is not told of a person who was logged out meanwhile."""
    async with running_world() as world, RawClient(world.app.public_address) as client:
        ana = await LoggedIn(world).begin()
        key = world.faas.add("survey-web", "acme", replicas=0, start_s=600)
        await client.send(ana.request("/function/survey-web"))
        await until(lambda: world.faas.wake_calls)
        if ends:
            await ana.end()
        world.faas.awake[key] = 1
        assert (await client.answer()).status == 200
        assert told(world.faas.requests[0]) == (None if ends else "login|ana")


async def test_a_stream_that_was_opened_by_a_person_ends_with_the_session() -> None:
    """Also of a public function, which everybody may call: it was told who it streams to."""
    async with running_world() as world, RawClient(world.app.public_address) as client:
        ana = await LoggedIn(world).begin()
        is_open = asyncio.Event()

        async def stream(invocation: Invocation) -> web.StreamResponse:
            is_open.set()
            await asyncio.sleep(30)
            return web.Response()

        world.faas.add("survey-web", "acme", handler=stream)
        await client.send(ana.request("/function/survey-web"))
        await asyncio.wait_for(is_open.wait(), 20)
        assert len(ana.gate.live) == 1
        await ana.end()
        await until(lambda: len(ana.gate.live) == 0)
        assert await asyncio.wait_for(client.reader.read(), 20) == b""


class SlowStore:
    """A limit store whose answers a test gives."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Callable[[Spent], None]] = asyncio.Queue()

    def spend_now(self, _tenant: str, _checks: object, _now: float) -> None:
        return None

    def spend_soon(self, _tenant: str, _checks: object, _now: float, then: Callable[[Spent], None]) -> bool:
        self.asked.put_nowait(then)
        return True

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize(("function", "status"), [("survey-report", 401), ("survey-web", 401)])
async def test_a_logout_reaches_who_waits_for_the_limits(function: str, status: int) -> None:
    """The registry of what runs did not have the request yet when the logout came; nobody would ask before long."""
    async with running_world() as world, RawClient(world.app.public_address) as client:
        ana = await LoggedIn(world).begin()
        world.faas.add(function, "acme")
        world.stop_readiness()  # who would be held for it is judged again at his release, and may then be nobody
        rules = world.policies / "acme.yaml"
        rules.write_text(rules.read_text() + "  - {id: all, per: tenant, rate: 1000/s, burst: 1000}\n")
        assert await ana.folder.reload(), ana.folder.status.mistakes
        await client.send(ana.request(f"/function/{function}"))
        assert (await client.answer()).status == 200
        store, ana.gate._store = ana.gate._store, SlowStore()
        await client.send(ana.request(f"/function/{function}"))
        go_on = await asyncio.wait_for(ana.gate._store.asked.get(), 20)
        await ana.end()
        go_on(NOTHING_TO_SPEND)
        answer = await client.answer()
        ana.gate._store = store
        assert (answer.status, answer.field("x-portero-reason")) == (status, "session-expired")
        assert len(world.faas.requests) == 1
