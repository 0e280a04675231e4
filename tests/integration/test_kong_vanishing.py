"""
Clients that are gone before Kong has sent their request on: what is judged and never fetched keeps nobody out.

nginx runs the plugins of such a request all the same, and hangs up before it has sent anything: its pass waits for its
time. Whoever sends one packet and leaves must not have a place at a function that has few for ten seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from authproxy.gate.passes import TTL_S
from tests.fakes.internal import until
from tests.fakes.kong_world import KongWorld, running_kong_world
from tests.fakes.world import request_bytes

CHANGES = (
    ("survey-web: {access: public}", "survey-web: {access: public, concurrency: 1}\n  parallel: {access: public}"),
    ("  - {id: once,", "  - {id: par, per: tenant, concurrent: 1, functions: [parallel]}\n  - {id: once,"),
)


@pytest.fixture
async def kong(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KongWorld]:
    """What was found awake stays known to be, however long the machine stands still."""
    monkeypatch.setattr("policies.coldstart.FRESH_S", 600.0)
    async with running_kong_world() as world:
        file = world.policies / "acme.yaml"
        text = file.read_text()
        for old, new in CHANGES:
            assert old in text
            text = text.replace(old, new, 1)
        file.write_text(text)
        assert await world.app.parts.folder.reload(), world.app.parts.folder.status.mistakes
        yield world


@pytest.mark.parametrize("function", ["survey-web", "parallel"], ids=["concurrency", "a concurrent limit"])
async def test_who_has_gone_before_its_request_has_no_place(kong: KongWorld, function: str) -> None:
    """Its function serves the next one at once, and each is counted while it runs, as by the proxy."""
    kong.faas.add(function, "acme", replicas=1)
    for _ in range(2):
        assert (await kong.get(f"/function/{function}")).status == 200
    stand_in: Any = kong.kong
    passes: Any = kong.app.front.passes  # type: ignore[attr-defined]  # of a KongApp
    async with asyncio.timeout(15):
        while not len(passes):
            _, writer = await asyncio.open_connection(*kong.kong.address)
            writer.write(request_bytes(f"GET /function/{function}"))
            writer.transport.abort()
            await asyncio.sleep(0.05)
            await until(lambda: not stand_in._serving)
    waiting = len(passes)
    async with asyncio.timeout(TTL_S - 2.0):
        assert (await kong.get(f"/function/{function}")).status == 200
    assert len(passes) == waiting
