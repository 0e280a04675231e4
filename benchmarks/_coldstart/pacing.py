"""
How many requests are inside a function that has just woken (the case of knative/serving#9888), counted inside it.

One function says what it takes at once, three; that holds always. The other does not, and gets ten for each replica
that is ready in the first ten seconds, whoever waits; a second replica gets ready after five of them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from benchmarks._coldstart.client import ASKED, Caller, stop
from benchmarks._coldstart.functions import platform
from benchmarks._coldstart.portero import portero, request
from benchmarks._coldstart.row import Row, progress
from benchmarks._proxies.process import Unmeasurable
from policies.coldstart import STARTING_CONCURRENCY, STARTING_S

CONCURRENCY: Final = 3
CALLERS: Final = 60
"""Of each function, who ask again as soon as they are answered."""
WORK_S: Final = 0.02
_AFTER_S: Final = 1.5
"""How long it goes on after the first ten seconds."""


def most_at_once(visits: Sequence[tuple[float, float]], since: float, until: float) -> int:
    """The most that were inside at one time, between two instants."""
    changes = sorted([(began, 1) for began, _ in visits] + [(ended, -1) for _, ended in visits])
    inside = list(accumulate(change for _, change in changes))
    return max((count for (at, _), count in zip(changes, inside, strict=True) if since <= at < until), default=0)


async def measure(starting_s: float = STARTING_S) -> list[Row]:
    """``starting_s``: how much of the first ten seconds is looked at; less leaves out what comes after them."""
    second_at = starting_s / 2
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as folder:
        async with platform() as functions:
            cold_start = "cold_start: {max_wait: 30s, max_held: 1000}"
            specs = {"three": f"concurrency: {CONCURRENCY}, {cold_start}", "free": cold_start}
            for name in specs:
                await functions.add(name, work_s=WORK_S)
            async with portero(Path(folder), functions.url, specs) as front:
                progress("pacing: two functions wake while many wait")
                caller = Caller(front.address)

                async def ask(data: bytes) -> None:
                    while True:
                        answer = await caller.send(data)
                        if answer.status != ASKED:
                            raise Unmeasurable(f"answered {answer.status} {answer.reason}")

                asking = [asyncio.create_task(ask(request(name))) for name in specs for _ in range(CALLERS)]
                await asyncio.sleep(0.5)
                ready_at = {name: await functions.wake(name) for name in specs}
                await asyncio.sleep(second_at)
                second = await functions.wake("free", 2)
                await asyncio.sleep(starting_s - second_at + (_AFTER_S if starting_s >= STARTING_S else 0.0))
                await stop(*asking)
                caller.close()
                visits = {name: await functions.report(name) for name in specs}
    three = most_at_once(visits["three"], 0.0, float("inf"))
    since = ready_at["free"]
    one, two = most_at_once(visits["free"], 0.0, second), most_at_once(visits["free"], second, since + starting_s)
    after = most_at_once(visits["free"], since + starting_s + 0.5, float("inf"))
    early = sum(began < ready_at[name] for name in specs for began, _ in visits[name])
    limit = STARTING_CONCURRENCY
    return [
        Row("pacing: inside at most, concurrency 3", str(three), f"{CONCURRENCY}", three == CONCURRENCY),
        Row("pacing: inside at most, one replica ready", str(one), f"{limit}", one == limit),
        Row("pacing: inside at most, two ready", str(two), f"{2 * limit}", limit <= two <= 2 * limit),
        Row("pacing: inside at most, after 10 s", str(after) if after else "not looked at"),
        Row("pacing: let in before the function was ready", str(early), "0", early == 0),
        Row("pacing: requests that were counted", f"{sum(map(len, visits.values())):,}"),
    ]
