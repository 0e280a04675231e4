"""
What the waiting room costs: the hot path's question, the core's events, memory held, and how late a release is.

Bounded to about ten seconds on loopback. Run it as ``python benchmarks/coldstart.py``.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from authproxy.activator import Activator
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.metrics import Metrics
from policies.coldstart import Room
from policies.coldstart_events import Arrived, Left, ReadinessSeen, Tick
from policies.principal import Principal
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec, Ceilings
from policies.waiting import Ledger, Waiter
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.places import place, tenant

ANA = Principal("login", "ana")
HELD = 10_000
ROUNDS = 5


def request() -> AccessRequest:
    head = Head("GET", b"/", [(b"Host", b"acme.localhost")], (1, 1), "127.0.0.1", "http")
    read = read_head(head, TrustedPeers(()))
    if not isinstance(read, AccessRequest):
        raise TypeError(read)
    return read


def core_us() -> dict[str, float]:
    """Microseconds of one event with 10,000 waiting, median of the rounds."""
    taken: dict[str, list[float]] = {"arrive": [], "leave": [], "release": []}
    for _ in range(ROUNDS):
        now = 0.0
        room = Room(Ledger(), now)
        started = time.process_time()
        for n in range(HELD):
            room.on(Arrived(Waiter(n, "acme", str(n), 30.0 + n / HELD), now, HELD, HELD, None))
        taken["arrive"].append(time.process_time() - started)
        started = time.process_time()
        for n in range(0, HELD, 2):
            room.on(Left(n, now))
        taken["leave"].append((time.process_time() - started) * 2)
        room.on(ReadinessSeen(0, now))
        room.on(Tick(now + 0.1))
        started = time.process_time()
        room.on(ReadinessSeen(HELD, now + 0.1))
        taken["release"].append((time.process_time() - started) * 2)
    return {name: median(seconds) / HELD * 1e6 for name, seconds in taken.items()}


async def hot_path_ns() -> float:
    """Nanoseconds of ``ready_now`` and ``finished`` together for a warm function."""
    async with FakeOpenFaas() as faas:
        faas.add("warm", "acme")
        backend = OpenFaasBackend(BackendSpec("faas", "openfaas", faas.url, None))
        activator, at = Activator({"faas": backend}, Metrics()), place("warm")
        await activator.hold(at, ANA, request())
        rounds = []
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
            started = time.process_time()
            for _ in range(100_000):
                activator.ready_now(at)
                activator.finished(at)
            rounds.append((time.process_time() - started) / 100_000 * 1e9)
        await activator.close()
        await backend.close()
    return median(rounds)


async def held_kib_and_lateness() -> tuple[float, list[float]]:
    """KiB of resident memory of one held request, and milliseconds from ready to release (ten of each cold start)."""
    late_ms: list[float] = []
    async with FakeOpenFaas() as faas:
        backend = OpenFaasBackend(BackendSpec("faas", "openfaas", faas.url, None))
        activator = Activator({"faas": backend}, Metrics())
        asked = request()
        faas.add("never", "acme", replicas=0, start_s=600)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        never = place("never", max_held=HELD, of=tenant("acme", ceilings=Ceilings(held=HELD)))
        held = [asyncio.create_task(activator.hold(never, ANA, asked)) for _ in range(HELD)]
        await asyncio.sleep(1)
        kib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / len(held)
        for task in held:
            task.cancel()
        await asyncio.wait(held)

        async def call(name: str) -> None:
            at = place(name)
            if await activator.hold(at, ANA, asked) is None:
                late_ms.append((time.perf_counter() - ready_at[name]) * 1e3)
                activator.finished(at)

        ready_at: dict[str, float] = {}

        async def wake(name: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            faas.awake[f"{name}.acme"] = 1
            ready_at[name] = time.perf_counter()

        for n in range(20):
            faas.add(f"f{n}", "acme", replicas=0, start_s=600)
        wakes = [asyncio.create_task(wake(f"f{n}", 0.5 + n * 0.0537)) for n in range(20)]
        await asyncio.gather(*(call(f"f{n}") for n in range(20) for _ in range(10)), *wakes)
        await activator.close()
        await backend.close()
    return kib, late_ms


def main() -> None:
    print("core, 10,000 waiting:     ", ", ".join(f"{name} {us:.2f} us" for name, us in core_us().items()))
    print(f"ready_now + finished:      {asyncio.run(hot_path_ns()):.0f} ns")
    kib, late_ms = asyncio.run(held_kib_and_lateness())
    p99 = quantiles(late_ms, n=100)[98]
    print(f"memory of a held request:  {kib:.1f} KiB")
    print(f"release after ready:       p50 {median(late_ms):.1f} ms, p99 {p99:.1f} ms (polled every 50 ms)")


if __name__ == "__main__":
    main()
