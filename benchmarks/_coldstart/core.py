"""
What the waiting room itself costs, without a socket: its events with 10,000 who wait, and the hot path's question.

Absolute times say something about the machine as well. Judged are: an event's time with 10,000 flows (Q12), which has
room for a slow machine, and how many times dearer the hot path is than the least there can be, an empty question.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from authproxy.activator import Activator
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.metrics import Metrics
from benchmarks._coldstart.functions import platform
from benchmarks._coldstart.row import Row, progress
from policies.coldstart import Room
from policies.coldstart_events import Arrived, Bounds, Finished, Left, ReadinessSeen, Tick
from policies.principal import Principal
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec, Place
from policies.waiting import Ledger, Waiter
from tests.fakes.places import place, tenant

ANA: Final = Principal("login", "ana")
HELD: Final = 10_000
ROUNDS: Final = 5
EVENT_US: Final = 20.0
"""Q12: at most, of an event with 10,000 flows waiting (5 us of the queue itself, the room's own work, a slow machine)."""
FLOORS: Final = 6.0
"""At most, of the hot path against the least there can be."""
_QUESTIONS: Final = 100_000


def request() -> AccessRequest:
    head = Head("GET", b"/", [(b"Host", b"acme.localhost")], (1, 1), "127.0.0.1", "http")
    read = read_head(head, TrustedPeers(()))
    if not isinstance(read, AccessRequest):
        raise TypeError(read)
    return read


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
        served = [command.ticket for command in room.on(ReadinessSeen(1, 0.1)) if hasattr(command, "ticket")]
        finished = 0
        started = time.process_time()
        while served:
            finished += 1
            commands = room.on(Finished(0.1, served.pop(), 0.01))
            served += [command.ticket for command in commands if hasattr(command, "ticket")]
        taken["finish and release"].append((time.process_time() - started) * held / max(1, finished))
    return {name: min(seconds) / held * 1e6 for name, seconds in taken.items()}


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
    progress("core: events of the room, and the hot path")
    costs = events_us(rounds=rounds)
    few = events_us(100, rounds * 10)
    hot_ns, floor_ns = await hot_path_ns(rounds)
    rows = [
        Row(
            f"core: {name}, {HELD:,} flows wait",
            f"{us:.1f} us ({few[name]:.1f} with 100)",
            f"<= {EVENT_US:.0f} us",
            us <= EVENT_US,
        )
        for name, us in costs.items()
    ]
    ratio = hot_ns / floor_ns
    told = f"{hot_ns:.0f} ns, {ratio:.1f} x the least ({floor_ns:.0f} ns)"
    return [*rows, Row("core: ready_now + finished", told, f"<= {FLOORS:.1f} x", ratio <= FLOORS)]
