"""
What the waiting room itself costs, without a socket: its line and its events with 10,000 who wait, and the hot path.

Absolute times say something about the machine as well. Judged are the operations of the line with 10,000 flows (Q12),
how much dearer an event is with 10,000 than with 100, and how many times dearer the hot path is than the least there
can be, an empty question. Of several rounds the quietest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean
from typing import Final

from authproxy.activator import Activator
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.metrics import Metrics
from benchmarks._coldstart.functions import platform
from benchmarks._coldstart.row import Row, progress
from policies.coldstart import Room
from policies.coldstart_events import Arrived, Bounds, Command, Finished, Left, ReadinessSeen, Release, Tick
from policies.fair_queue import FairQueue
from policies.principal import Principal
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec, Place
from policies.waiting import Ledger, Waiter
from tests.fakes.places import place, tenant

ANA: Final = Principal("login", "ana")
HELD: Final = 10_000
ROUNDS: Final = 5
FEW: Final = 100
QUEUE_US: Final = 5.0
"""Q12: at most, of an operation of the line with 10,000 flows, the mean of all kinds."""
GROWTH: Final = 3.0
"""At most, of an event with 10,000 flows against one with 100."""
FLOORS: Final = 2.0
"""At most, of the hot path against the least there can be; 1.7 when nobody was fair yet."""
_QUESTIONS: Final = 100_000


def request() -> AccessRequest:
    head = Head("GET", b"/", [(b"Host", b"acme.localhost")], (1, 1), "127.0.0.1", "http")
    read = read_head(head, TrustedPeers(()))
    if not isinstance(read, AccessRequest):
        raise TypeError(read)
    return read


def queue_us(held: int = HELD, rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds of one operation of the line alone, with so many flows of twenty tenants."""
    taken: dict[str, list[float]] = {"push": [], "remove": [], "pop": [], "finish": []}
    waiters = [Waiter(n, f"t{n % 20}", str(n), 30.0 + n / held) for n in range(held)]
    for _ in range(rounds):
        queue = FairQueue()
        started = time.process_time()
        for waiter in waiters:
            queue.push(waiter, 0.0)
        taken["push"].append(time.process_time() - started)
        started = time.process_time()
        for n in range(0, held, 2):
            queue.remove(n)
        taken["remove"].append((time.process_time() - started) * 2)
        started = time.process_time()
        served = [queue.pop() for _ in range(len(queue))]
        taken["pop"].append((time.process_time() - started) * 2)
        started = time.process_time()
        for waiter in served:
            queue.finished(waiter.ticket, 0.01)
        taken["finish"].append((time.process_time() - started) * 2)
    return {name: min(seconds) / held * 1e6 for name, seconds in taken.items()}


def events_us(held: int = HELD, rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds of one event with so many flows waiting; of the rounds the quietest."""
    taken: dict[str, list[float]] = {"arrive": [], "leave": [], "finish and release": []}
    for _ in range(rounds):
        room = Room(Ledger(held), 0.0)
        bounds = Bounds(held, None, held)
        started = time.process_time()
        for n in range(held):
            room.on(Arrived(Waiter(n, f"t{n % 20}", str(n), 30.0 + n / held), 0.0, bounds, 10))
        taken["arrive"].append(time.process_time() - started)
        started = time.process_time()
        for n in range(0, held, 2):
            room.on(Left(n, 0.0))
        taken["leave"].append((time.process_time() - started) * 2)
        room.on(ReadinessSeen(0, 0.0))
        room.on(Tick(0.1))
        served = _released(room.on(ReadinessSeen(1, 0.1)))
        finished = 0
        started = time.process_time()
        while served:
            finished += 1
            served += _released(room.on(Finished(0.1, served.pop(), 0.01)))
        taken["finish and release"].append((time.process_time() - started) * held / max(1, finished))
    return {name: min(seconds) / held * 1e6 for name, seconds in taken.items()}


def _released(commands: list[Command]) -> list[int]:
    return [command.ticket for command in commands if isinstance(command, Release)]


async def hot_path_ns(rounds: int = ROUNDS) -> tuple[float, float]:
    """Nanoseconds of ``ready_now`` and ``finished`` for a function that is awake; and of the least there can be."""
    async with platform() as functions:
        await functions.add("warm", replicas=1)
        backend = OpenFaasBackend(BackendSpec("faas", "openfaas", functions.url, None))
        activator, at = Activator({"faas": backend}, Metrics()), place("warm", of=tenant("acme"))
        try:
            await activator.hold(at, ANA, request())
            activator.finished(at)
            floor = _Floor(at)
            costs: list[float] = []
            floors: list[float] = []
            for _ in range(rounds):
                # The answer is believed for a second; it is asked for anew when the loop turns.
                await activator.hold(at, ANA, request())
                activator.finished(at)
                floors.append(_timed(floor.ready_now, floor.finished, at))
                costs.append(_timed(activator.ready_now, activator.finished, at))
        finally:
            await activator.close()
            await backend.close()
    return min(costs), min(floors)


class _Floor:
    """The same question with nothing behind it: one function found by its key, a look at the clock, one count."""

    def __init__(self, at: Place) -> None:
        self._counts = {(at.tenant.backend, at.tenant.namespace, at.function): [0]}
        self._now = time.monotonic

    def ready_now(self, at: Place) -> bool:
        tenant = at.tenant
        count = self._counts.get((tenant.backend, tenant.namespace, at.function))
        if count is None or self._now() < 0:
            return False
        count[0] += 1
        return True

    def finished(self, at: Place) -> None:
        tenant = at.tenant
        count = self._counts.get((tenant.backend, tenant.namespace, at.function))
        if count is not None:
            count[0] -= 1


def _timed(ready_now: Callable[[Place], bool], finished: Callable[[Place], None], at: Place) -> float:
    started = time.process_time()
    for _ in range(_QUESTIONS):
        ready_now(at)
        finished(at)
    return (time.process_time() - started) / _QUESTIONS * 1e9


async def measure(rounds: int = ROUNDS) -> list[Row]:
    progress("core: the line, events of the room, and the hot path")
    line = queue_us(rounds=rounds)
    each_us = mean(line.values())
    told = f"{each_us:.1f} us: " + ", ".join(f"{name} {us:.1f}" for name, us in line.items())
    rows = [Row(f"core: line, an operation, {HELD:,} flows", told, f"<= {QUEUE_US:.0f} us", each_us <= QUEUE_US)]
    few = events_us(FEW, rounds * 10)
    for name, us in events_us(rounds=rounds).items():
        growth = us / few[name]
        told = f"{us:.1f} us, {growth:.1f} x that with {FEW}"
        rows.append(Row(f"core: event, {name}, {HELD:,} flows", told, f"<= {GROWTH:.0f} x", growth <= GROWTH))
    hot_ns, floor_ns = await hot_path_ns(rounds)
    ratio = hot_ns / floor_ns
    told = f"{hot_ns:.0f} ns, {ratio:.2f} x the least ({floor_ns:.0f} ns)"
    return [*rows, Row("core: ready_now + finished", told, f"<= {FLOORS:.0f} x", ratio <= FLOORS)]
