"""
What limits cost: CPU microseconds of this process per check in memory, and per request in Redis.

Redis runs beside on the other core and is not counted. ``callers`` ask in a closed loop, as connections do: each asks
again when it was answered. The cost of asking nothing (a task that yields to the loop once) is measured and taken off.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import timeit
from collections.abc import Awaitable, Callable
from functools import partial

import uvloop

from authproxy.limits.memory import MemoryStore
from authproxy.limits.redis import RedisStore
from authproxy.limits.store import LimitStore
from authproxy.metrics import Metrics
from policies.decision import RuleRef
from policies.gcra import Check
from tests.fakes.redis_server import redis_server

ROUNDS = 5
REQUESTS = 20_000


def checks(count: int) -> tuple[Check, ...]:
    """Limits that never refuse: a refusal is cheaper."""
    return tuple(
        Check(f"l{i}", f"{{acme}}:rl:l{i}@1x1000000:login|ana", 1, 1_000_000, 1_000_000, 1, 1_000_000, RuleRef("l", ""))
        for i in range(count)
    )


def memory() -> None:
    store = MemoryStore()
    for count in (1, 2, 4):
        asked = checks(count)
        number = 50_000
        ask = partial(store.spend_now, "acme", asked, time.time())
        best = min(timeit.repeat(ask, number=number, repeat=7))
        print(f"memory, {count} checks: {best / number * 1e6:6.2f} us")


async def load(callers: int, ask: Callable[[], Awaitable[object]]) -> float:
    """CPU microseconds of this process per request."""
    each = REQUESTS // callers

    async def caller() -> None:
        for _ in range(each):
            await ask()

    gc.collect()
    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return (time.process_time() - began) / (each * callers) * 1e6


async def redis(url: str) -> None:
    metrics = Metrics()
    store: LimitStore
    store = opened = RedisStore(url, metrics=metrics)
    await opened.start()
    asked = checks(2)
    for callers in (1, 8, 32, 128):
        idle, busy, depth = [], [], 0.0
        for _ in range(ROUNDS):
            idle.append(await load(callers, lambda: asyncio.sleep(0)))
            before = metrics.limit_store_commands_total.total()
            busy.append(await load(callers, lambda: store.spend("acme", asked, time.time())))
            depth = REQUESTS / (metrics.limit_store_commands_total.total() - before)
        cost = statistics.median(busy) - statistics.median(idle)
        print(f"redis, 2 checks, {callers:3} callers: {cost:6.2f} us a request, {depth:5.1f} requests a command")
    if metrics.limit_store_failures_total.total():
        print("the store failed meanwhile: these figures are worthless")
    await opened.close()


def main() -> None:
    memory()
    with redis_server() as server:
        uvloop.run(redis(server.url))


if __name__ == "__main__":
    main()
