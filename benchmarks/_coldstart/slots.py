"""
Two Porteros, each a process, before one replica that takes one request at a time, which they count together in Redis.

Callers ask at both without a pause, so that somebody waits at each all the time. Counted inside the function: whether
two are ever in it, and how long it stands idle between two requests. Once with one caller at each, so that every turn
goes over to the other Portero, and once with four. Of several rounds the quietest counts for the idle time, all of them
for the other.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks._coldstart.client import ASKED, Caller, stop
from benchmarks._coldstart.functions import Platform, platform
from benchmarks._coldstart.pacing import most_at_once
from benchmarks._coldstart.portero import portero, request
from benchmarks._coldstart.row import Row, percentile, progress
from tests.fakes.redis_server import redis_server

IDLE_MS: Final = 20.0
WORK_S: Final = 0.02
SECONDS: Final = 8.0
ROUNDS: Final = 3
CALLERS: Final = (1, 4)
SPEC: Final = "concurrency: 1, concurrency_scope: cluster, cold_start: {max_wait: 30s, max_held: 100}"


async def measure(seconds: float = SECONDS, rounds: int = ROUNDS, at_each: tuple[int, ...] = CALLERS) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name, redis_server() as redis:
        async with AsyncExitStack() as stack:
            faas = await stack.enter_async_context(platform())
            addresses = []
            for number in range(2):
                folder = Path(name) / str(number)
                folder.mkdir()
                opened = portero(folder, faas.url, {"one-*": SPEC}, redis=redis.url)
                addresses.append((await stack.enter_async_context(opened)).address)
            await asyncio.sleep(2.5)  # until they know of each other
            for callers in at_each:
                rows += await _judged(faas, addresses, callers, seconds, rounds)
    return rows


async def _judged(
    faas: Platform, addresses: list[tuple[str, int]], callers: int, seconds: float, rounds: int
) -> list[Row]:
    most = refused = 0
    best: list[float] = []
    for number in range(rounds):
        visits, unserved = await _round(faas, addresses, f"one-{callers}-{number}", callers, seconds)
        refused += unserved
        most = max(most, most_at_once(visits, 0.0, float("inf")))
        idle = [(after - before) * 1e3 for (_, before), (after, _) in pairwise(visits)]
        p99 = percentile(idle, 99)
        progress(f"slots, {callers} at each, round {number + 1}: idle p99 {p99:.1f} ms of {len(idle)}, inside {most}")
        best = idle if not best or p99 < percentile(best, 99) else best
        if p99 <= IDLE_MS:
            break
    p50, p99 = percentile(best, 50), percentile(best, 99)
    what = f"slots, {callers} at each Portero"
    return [
        Row(f"{what}: inside at most", str(most), "1", most == 1),
        Row(f"{what}: idle, p50 and most", f"{p50:.1f} ms, {max(best, default=0.0):.1f} ms of {len(best)}"),
        Row(f"{what}: idle, p99", f"{p99:.1f} ms", f"<= {IDLE_MS:.0f} ms", p99 <= IDLE_MS),
        Row(f"{what}: refused", str(refused), "0", refused == 0),
    ]


async def _round(
    faas: Platform, addresses: list[tuple[str, int]], name: str, callers: int, seconds: float
) -> tuple[list[tuple[float, float]], int]:
    """What the function saw while all asked, and how many were refused."""
    loop = asyncio.get_running_loop()
    unserved = 0
    await faas.add(name, replicas=1, work_s=WORK_S)

    async def ask(caller: Caller) -> None:
        nonlocal unserved
        while True:
            unserved += (await caller.send(request(name))).status != ASKED

    all_callers = [Caller(address) for address in addresses for _ in range(callers)]
    asking = [loop.create_task(ask(caller)) for caller in all_callers]
    await asyncio.sleep(1.0)
    since = time.monotonic()
    await asyncio.sleep(seconds)
    until = time.monotonic()
    await stop(*asking)
    for caller in all_callers:
        caller.close()
    return [visit for visit in await faas.report(name) if visit[0] >= since and visit[1] < until], unserved
