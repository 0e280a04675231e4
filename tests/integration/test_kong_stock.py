"""
Portero's plugins on the stock server, behind Kong with the rendered config: judged as on ours, and nothing passes
unjudged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway_plugins.chain import NAMES
from tests.fakes.kong import KongFront
from tests.fakes.kong_world import DUMPS, rendered
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.provider import FakeProvider, Key
from tests.fakes.stock_server import StockProcess, portero
from tests.fakes.world import PLAIN, RawAnswer, request_bytes, send_raw, write_world

REPORTS = "/function/survey-report"


@dataclass
class StockWorld:
    """Each plugin is a process of its own."""

    kong: KongFront
    faas: FakeOpenFaas
    provider: FakeProvider
    servers: list[StockProcess]

    def token(self) -> str:
        return self.provider.mint("ana", groups=["analysts"], organization=["acme"])

    async def send(self, data: bytes) -> RawAnswer:
        answer = await send_raw(self.kong.address, data)
        assert answer is not None
        return answer

    async def allowed(self) -> RawAnswer:
        return await self.send(request_bytes(f"GET {REPORTS}", token=self.token()))


@contextlib.asynccontextmanager
async def stock_world(*, greenlets: bool, chain: bool = False) -> AsyncIterator[StockWorld]:
    with tempfile.TemporaryDirectory(prefix="portero-stock-") as name:
        folder = Path(name)
        async with FakeProvider(audience="survey") as provider, FakeOpenFaas() as faas:
            write_world(PLAIN, folder / "policies", issuer=provider.issuer, backend=faas.url)
            (folder / "secrets" / "acme").mkdir(parents=True)
            (folder / "secrets" / "acme" / "ci.pem").write_bytes(Key(None, "EC", 77).public_pem())
            settings = {"admin": "127.0.0.1:0", "internal": "127.0.0.1:0", "audit": str(folder / "audit.log")}
            settings |= {"policies": str(folder / "policies"), "secrets": str(folder / "secrets")}
            (folder / "settings.json").write_text(json.dumps(settings))
            config = rendered(folder / "policies", chain=chain)
            async with contextlib.AsyncExitStack() as stack:
                starting = [
                    asyncio.to_thread(portero, folder, plugin, folder / "settings.json", greenlets=greenlets)
                    for plugin in (NAMES.values() if chain else ["portero"])
                ]
                servers = await asyncio.gather(*starting)
                for server in servers:
                    stack.callback(server.kill)
                kong = await stack.enter_async_context(KongFront(config, folder, dumps=DUMPS, read_timeout_s=5.0))
                yield StockWorld(kong, faas, provider, servers)


@pytest.mark.slow
@pytest.mark.parametrize("greenlets", [False, True], ids=["threads", "greenlets"])
async def test_one_plugin_on_the_stock_server(greenlets: bool) -> None:
    """
    Judged as on ours, whatever bytes a client sends: facts are text that the stock server can read. While it is down
    the function gets nothing, and then the next request is judged.
    """
    async with stock_world(greenlets=greenlets) as world:
        faas = world.faas
        faas.add("survey-report", "acme")
        assert (await world.allowed()).status == 200
        assert (await world.allowed()).status == 200
        assert world.kong.requests[-1].pdk_calls == ["kong.ctx.shared.get", "kong.ctx.shared.set"]
        assert dict(faas.requests[-1].fields)["X-Portero-Subject"] == "login|ana"
        served = len(faas.requests)

        refused = await world.send(request_bytes(f"GET {REPORTS}", fields=[("X_Portero_Subject", "login|ana")]))
        assert (refused.status, refused.reason) == (401, "credential-missing")
        assert refused.json()["request_id"]
        broken = await world.send(request_bytes(f"GET {REPORTS}", fields=[("X-A", "\udcff")]))
        assert (broken.status, broken.reason) == (401, "credential-missing")
        assert len(faas.requests) == served
        odd = await world.send(request_bytes(f"GET {REPORTS}", token=world.token(), fields=[("X-A", "\udcff")]))
        assert odd.status == 200
        assert dict(faas.requests[-1].fields)["X-A"] == "\udcff"
        assert (await world.allowed()).status == 200
        served = len(faas.requests)

        [server] = world.servers
        await asyncio.to_thread(server.kill)
        down = await world.allowed()
        assert down.status in {500, 502, 503}
        assert len(faas.requests) == served
        await asyncio.to_thread(server.start)
        assert (await world.allowed()).status == 200
        assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.slow
async def test_a_chain_of_four_processes() -> None:
    """What one has found the next believes, though it is another process; without one of them nothing passes."""
    async with stock_world(greenlets=True, chain=True) as world:
        faas = world.faas
        faas.add("survey-report", "acme", replicas=0, start_s=0.1)
        answers = await asyncio.gather(*(world.allowed() for _ in range(5)))
        assert [answer.status for answer in answers] == [200] * 5
        assert len(faas.wake_calls) == 1
        served = len(faas.requests)
        assert (await world.send(request_bytes(f"GET {REPORTS}"))).reason == "credential-missing"
        assert (await world.send(request_bytes("GET /", host="nobody.test"))).reason == "tenant-unknown"
        for server in world.servers[1::2]:
            await asyncio.to_thread(server.kill)
            assert (await world.allowed()).status in {500, 502, 503}
            assert len(faas.requests) == served
            await asyncio.to_thread(server.start)
            assert (await world.allowed()).status == 200
            served += 1
