"""
How much later than its function could have taken it a held request is answered, through the whole proxy.

Each of many functions gets ready at some moment that nothing is in step with, while five callers wait for it; counted
is from that moment to the answer, polling, probe and the way there and back included. Of several rounds the quietest
counts: what else runs on the machine only ever adds.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks._coldstart.client import ASKED, Caller
from benchmarks._coldstart.functions import Platform, platform
from benchmarks._coldstart.portero import portero, request
from benchmarks._coldstart.row import Row, percentile, progress
from benchmarks._proxies.process import Unmeasurable

FUNCTIONS: Final = 100
WAITING: Final = 5
ROUNDS: Final = 3
P50_MS: Final = 40.0
P99_MS: Final = 75.0
EVERY_S: Final = 0.08
"""Between two cold starts that begin: about ten at a time are under way."""


async def measure(functions: int = FUNCTIONS, rounds: int = ROUNDS) -> list[Row]:
    best: list[float] = []
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as folder:
        async with platform() as faas:
            spec = {"cold-*": "cold_start: {max_wait: 30s, max_held: 1000}"}
            async with portero(Path(folder), faas.url, spec) as front:
                for number in range(rounds):
                    late = await _round(faas, front.address, functions, number)
                    p50, p99 = percentile(late, 50), percentile(late, 99)
                    progress(f"lateness, round {number + 1}: p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(late)}")
                    best = late if not best or p99 < percentile(best, 99) else best
                    if percentile(best, 50) <= P50_MS and percentile(best, 99) <= P99_MS:
                        break
    p50, p99 = percentile(best, 50), percentile(best, 99)
    return [
        Row("lateness: ready to answered, p50", f"{p50:.1f} ms", f"<= {P50_MS:.0f} ms", p50 <= P50_MS),
        Row("lateness: ready to answered, p99", f"{p99:.1f} ms", f"<= {P99_MS:.0f} ms", p99 <= P99_MS),
        Row("lateness: most, of so many", f"{max(best):.1f} ms, {len(best)}"),
    ]


async def _round(faas: Platform, address: tuple[str, int], functions: int, number: int) -> list[float]:
    """Milliseconds of each request."""
    loop = asyncio.get_running_loop()
    chance = random.Random(number)
    caller = Caller(address)
    turn = asyncio.Lock()  # the platform takes one order at a time

    async def one(name: str) -> list[float]:
        async def ask() -> float:
            answer = await caller.send(request(name))
            if answer.status != ASKED:
                raise Unmeasurable(f"answered {answer.status} {answer.reason}")
            return time.monotonic()

        asking = [loop.create_task(ask()) for _ in range(WAITING)]
        await asyncio.sleep(chance.uniform(0.4, 1.2))
        async with turn:
            ready_at = await faas.wake(name)
        return [(answered_at - ready_at) * 1e3 for answered_at in await asyncio.gather(*asking)]

    runs = []
    for n in range(functions):
        name = f"cold-{number}-{n}"
        async with turn:
            await faas.add(name)
        runs.append(loop.create_task(one(name)))
        await asyncio.sleep(EVERY_S)
    late = [took for run in await asyncio.gather(*runs) for took in run]
    caller.close()
    return late
