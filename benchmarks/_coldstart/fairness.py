"""
An elephant and twenty mice at one function: who gets what of it, and how long mice wait.

The elephant sends 1.8 times what the function can do, each mouse a hundredth of it; all of them as they like (Poisson)
and without waiting for answers. The function works on ten requests at once and keeps others standing inside it: what is
let in too early waits there, where nobody knows whose turn it is. A request takes it 50 ms, a fifth more or less: if
all took the same, ten that began together would go on ending together, and nobody could come in between. Beside
Portero's line run first in, first out in the same room, and everybody at once.

Twice: with tenants, by the real activator and a platform over loopback; and with callers of one tenant, told apart by
their addresses, through the whole proxy. Two tenants of one function are not to be had there: policies keep them apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from authproxy.activator import Activator
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.metrics import Metrics
from benchmarks._coldstart.client import ASKED, Caller, stop
from benchmarks._coldstart.core import ANA, request
from benchmarks._coldstart.functions import Platform, platform
from benchmarks._coldstart.lines import AT_ONCE, FAIR, FIFO, rooms
from benchmarks._coldstart.portero import portero
from benchmarks._coldstart.portero import request as raw_request
from benchmarks._coldstart.row import Row, percentile, progress
from policies.decision import Deny
from policies.tables import BackendSpec
from tests.fakes.places import place, tenant

PLACES: Final = 10
WORK_S: Final = 0.05
SPREAD: Final = 0.2
CAPACITY: Final = PLACES / WORK_S
"""Requests a second."""
ELEPHANT: Final = "elephant"
MICE: Final = tuple(f"mouse-{n}" for n in range(20))
ELEPHANT_RATE: Final = 1.8 * CAPACITY
MOUSE_RATE: Final = 0.01 * CAPACITY
MAX_HELD: Final = 400
MAX_WAIT_S: Final = 4.0
SECONDS: Final = 8.0
ROUNDS: Final = 3
"""At most, of mice alone and beside the elephant; of each the quietest counts, for refusals all of them."""
ALONE: Final = "mice alone"
SETTLE_S: Final = 1.0
"""At the start of a run, not counted."""
P99_RATIO: Final = 2.0
THROUGHPUT: Final = 0.95

Send = Callable[[str], Awaitable[bool]]
"""One request of this caller; whether the function answered it."""


class Sample(NamedTuple):
    caller: str
    ended_at: float
    took_s: float
    is_served: bool


class Outcome(NamedTuple):
    """Of the requests that ended while it was counted, those of mice that had no answer at the end included."""

    mice: int
    mice_p50_ms: float
    mice_p99_ms: float
    mice_refused: int
    elephant_p99_ms: float
    elephant_refused: int
    served_per_s: float


async def load(send: Send, *, has_elephant: bool, seconds: float) -> Outcome:
    """All callers at once, for so long."""
    samples: list[Sample] = []
    under_way: dict[asyncio.Task[None], tuple[str, float]] = {}
    loop = asyncio.get_running_loop()

    async def one(caller: str, began: float) -> None:
        is_served = await send(caller)
        ended = time.monotonic()
        samples.append(Sample(caller, ended, ended - began, is_served))

    async def keep_asking(caller: str, rate: float) -> None:
        chance = random.Random(caller)
        due = time.monotonic()
        while True:
            due += chance.expovariate(rate)
            await asyncio.sleep(due - time.monotonic())
            task = loop.create_task(one(caller, time.monotonic()))
            under_way[task] = caller, time.monotonic()
            task.add_done_callback(under_way.pop)

    rates = dict.fromkeys(MICE, MOUSE_RATE) | ({ELEPHANT: ELEPHANT_RATE} if has_elephant else {})
    askers = [loop.create_task(keep_asking(caller, rate)) for caller, rate in rates.items()]
    counted_from = time.monotonic() + SETTLE_S
    await asyncio.sleep(SETTLE_S + seconds)
    counted_to = time.monotonic()
    await stop(*askers)
    unanswered = [counted_to - began for caller, began in under_way.values() if caller != ELEPHANT]
    counted = [sample for sample in samples if counted_from <= sample.ended_at < counted_to]
    await stop(*under_way)
    return _outcome(counted, [took_s for took_s in unanswered if took_s > seconds / 4], counted_to - counted_from)


def _outcome(counted: list[Sample], unanswered: list[float], seconds: float) -> Outcome:
    """``unanswered``: how long those mice have waited, who are likely to have gone on waiting."""
    served = [sample for sample in counted if sample.is_served]
    mice = [sample.took_s * 1e3 for sample in served if sample.caller != ELEPHANT]
    waits = mice + [took_s * 1e3 for took_s in unanswered]
    elephant = [sample.took_s * 1e3 for sample in served if sample.caller == ELEPHANT]
    refused = [sample.caller == ELEPHANT for sample in counted if not sample.is_served]
    return Outcome(
        len(waits),
        percentile(waits, 50),
        percentile(waits, 99),
        refused.count(False),
        percentile(elephant, 99),
        refused.count(True),
        len(served) / seconds,
    )


@contextlib.asynccontextmanager
async def tenants(line: str, functions: Platform) -> AsyncIterator[Send]:
    """Callers are tenants that share a function; the way to it is the activator alone."""
    name = f"shared-{time.monotonic_ns()}"
    await functions.add(name, replicas=1)
    with rooms(line):
        async with contextlib.AsyncExitStack() as ends:
            backend = OpenFaasBackend(BackendSpec("faas", "openfaas", functions.url, None))
            ends.push_async_callback(backend.close)
            activator = Activator({"faas": backend}, Metrics())
            ends.push_async_callback(activator.close)
            inside = asyncio.Semaphore(PLACES)
            chance, asked = random.Random(1), request()
            places = {
                caller: place(
                    name,
                    of=tenant(caller, namespace="acme"),
                    concurrency=PLACES,
                    max_held=MAX_HELD,
                    max_wait_s=MAX_WAIT_S,
                )
                for caller in (ELEPHANT, *MICE)
            }

            async def send(caller: str) -> bool:
                at = places[caller]
                grant = None
                if not activator.ready_now(at):
                    held = await activator.hold(at, ANA, asked)
                    if isinstance(held, Deny):
                        return False
                    grant = held
                try:
                    async with inside:
                        await asyncio.sleep(WORK_S * chance.uniform(1 - SPREAD, 1 + SPREAD))
                finally:
                    activator.finished(at, grant)
                return True

            await send(MICE[0])
            yield send


@contextlib.asynccontextmanager
async def proxy(line: str, functions: Platform) -> AsyncIterator[Send]:
    """Callers are addresses; the way is the whole proxy."""
    name = f"shared-{time.monotonic_ns()}"
    await functions.add(name, replicas=1, work_s=WORK_S, spread=SPREAD, places=PLACES)
    spec = f"concurrency: {PLACES}, cold_start: {{max_wait: {MAX_WAIT_S:.0f}s, max_held: {MAX_HELD}}}"
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as folder:
        async with portero(Path(folder), functions.url, {name: spec}, line=line) as front:
            data = raw_request(name)
            callers = {caller: Caller(front.address, f"127.0.9.{n + 1}") for n, caller in enumerate((ELEPHANT, *MICE))}

            async def send(caller: str) -> bool:
                try:
                    return (await callers[caller].send(data)).status == ASKED
                except ConnectionError:  # no answer is no service
                    return False

            await send(MICE[0])
            try:
                yield send
            finally:
                for caller in callers.values():
                    caller.close()


WAYS: Final = {"tenants, by the activator": tenants, "callers, by the whole proxy": proxy}


async def measure(
    seconds: float = SECONDS, ways: Sequence[str] = tuple(WAYS), rounds: int = ROUNDS
) -> tuple[list[Row], list[str]]:
    """Rows of what is judged, and the lines of the table with everything beside everything."""
    rows: list[Row] = []
    lines: list[str] = []
    async with platform() as functions:
        for way in ways:
            outcomes: dict[str, Outcome] = {}
            refused, judged = 0, []
            for number in range(rounds):
                alone = await _run(way, ALONE, functions, seconds)
                beside = await _run(way, FAIR, functions, seconds)
                refused += beside.mice_refused
                for name, one in ((ALONE, alone), (FAIR, beside)):
                    outcomes[name] = min(outcomes.get(name, one), one, key=lambda outcome: outcome.mice_p99_ms)
                judged = _judged(way, outcomes[ALONE], outcomes[FAIR], refused)
                if all(row.is_met for row in judged):
                    break
                progress(f"fairness, {way}: round {number + 1}, {_ratio(alone, beside):.2f} x alone")
            for line in (FIFO, AT_ONCE):
                outcomes[line] = await _run(way, line, functions, seconds)
            lines += _table(way, outcomes)
            rows += judged
    return rows, lines


async def _run(way: str, name: str, functions: Platform, seconds: float) -> Outcome:
    progress(f"fairness, {way}: {name}")
    async with WAYS[way](FAIR if name == ALONE else name, functions) as send:
        return await load(send, has_elephant=name != ALONE, seconds=seconds)


def _ratio(alone: Outcome, beside: Outcome) -> float:
    return beside.mice_p99_ms / alone.mice_p99_ms


def _table(way: str, outcomes: dict[str, Outcome]) -> list[str]:
    names = (("mice p50", 9), ("p99 ms", 7), ("refused", 8), ("elephant p99", 13), ("refused", 8), ("served/s", 9))
    head = " ".join(f"{name:>{width}}" for name, width in (*names, ("of all", 7)))
    lines = [f"{way:<28} {head}"]
    for name, one in outcomes.items():
        lines.append(
            f"  {name:<26} {one.mice_p50_ms:>9.1f} {one.mice_p99_ms:>7.1f} {one.mice_refused:>8}"
            f" {one.elephant_p99_ms:>13.1f} {one.elephant_refused:>8} {one.served_per_s:>9.1f}"
            f" {one.served_per_s / CAPACITY:>7.3f}"
        )
    return [*lines, ""]


def _judged(way: str, alone: Outcome, beside: Outcome, refused: int) -> list[Row]:
    """``refused``: mice in all rounds."""
    ratio, part = _ratio(alone, beside), beside.served_per_s / CAPACITY
    return [
        Row(
            f"fairness ({way}): mice p99 against alone",
            f"{ratio:.2f} ({beside.mice_p99_ms:.1f} / {alone.mice_p99_ms:.1f} ms)",
            f"<= {P99_RATIO:.1f}",
            ratio <= P99_RATIO,
        ),
        Row(
            f"fairness ({way}): mice refused",
            f"{refused}, {beside.mice} served",
            "0",
            refused == 0,
        ),
        Row(
            f"fairness ({way}): served of what can be",
            f"{part:.3f} ({beside.served_per_s:.0f} of {CAPACITY:.0f}/s)",
            f">= {THROUGHPUT}",
            part >= THROUGHPUT,
        ),
    ]
