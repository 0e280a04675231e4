"""
Clients with bodies that give up after a second, at a function that never wakes (the case of knative/serving#13583).

Every tenth body is large enough to be kept in a file. Memory is sampled while it goes on; afterwards each count of
what is held, and the process's descriptors and tasks, have to be what they were before, and the garbage collector has
to find next to nothing: cycles are what makes memory grow for minutes, though none of it is lost.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import linear_regression
from typing import Final

from benchmarks._coldstart.client import connect
from benchmarks._coldstart.functions import platform
from benchmarks._coldstart.portero import Portero, portero, request
from benchmarks._coldstart.row import Row, progress

RATE: Final = 200
SECONDS: Final = 60.0
PATIENCE_S: Final = 1.0
"""Of a client."""
SMALL: Final = b"x" * 1024
LARGE: Final = b"x" * 100 * 1024
EVERY: Final = 10
"""So many requests have one large body among them."""
CYCLES: Final = 0.1
"""Objects in cycles a request, at most."""
GROWTH_MIB: Final = 2.0
"""At most, over the minute that the slope is told for: what an allocator does by itself."""
_SAMPLE_S: Final = 0.5


async def measure(seconds: float = SECONDS) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as folder:
        async with platform() as functions:
            await functions.add("never")
            spec = "max_body: 1MiB, cold_start: {max_wait: 30s, max_held: 1000}"
            async with portero(Path(folder), functions.url, {"never": spec}) as front:
                await asyncio.gather(_one(front, SMALL), _one(front, LARGE))
                before = await _settled(front)
                progress(f"abandoned: {RATE} clients a second for {seconds:.0f} s")
                sent, samples, most_held, early = await _flood(front, seconds)
                after = await _settled(front)
                in_cycles = after["collected"]
                abandoned = after["abandoned"] - before["abandoned"]
    # The first third is how the allocator gets to know the load.
    steady = samples[len(samples) // 3 :]
    slope = linear_regression(*zip(*steady, strict=True)).slope / 1024
    growth_mib = slope * 60 / 1024
    names = ("held", "held_requests", "held_by_function", "held_bytes", "in_flight", "live", "clients")
    left = {name: after[name] for name in names if after[name]}
    left |= {name: after[name] - before[name] for name in ("descriptors", "tasks") if after[name] > before[name]}
    told = ", ".join(f"{name} {count:+}" for name, count in left.items()) or "nothing"
    return [
        Row("abandoned: sent, given up on while held", f"{sent:,}, {abandoned:,}", "all", abandoned == sent),
        Row("abandoned: held at most, answered early", f"{most_held}, {early}"),
        Row(
            "abandoned: slope of memory",
            f"{slope:+.1f} KiB/s ({growth_mib:+.2f} MiB a minute)",
            f"<= {GROWTH_MIB:.0f} MiB a minute",
            growth_mib <= GROWTH_MIB,
        ),
        Row(
            "abandoned: objects in cycles",
            f"{in_cycles:,}, {in_cycles / sent:.2f} a request",
            f"<= {CYCLES} a request",
            in_cycles <= CYCLES * sent,
        ),
        Row("abandoned: left behind", told, "nothing", not left),
    ]


async def _flood(front: Portero, seconds: float) -> tuple[int, list[tuple[float, float]], int, int]:
    """(Sent, (second, resident bytes) of each sample, most that were held at once, answered before they gave up)."""
    loop = asyncio.get_running_loop()
    clients: set[asyncio.Task[bool]] = set()
    samples: list[tuple[float, float]] = []
    most_held = early = sent = 0
    began = time.monotonic()
    sample_at = began

    def ended(client: asyncio.Task[bool]) -> None:
        nonlocal early
        clients.discard(client)
        early += client.result()

    while (now := time.monotonic()) - began < seconds:
        while sent < (now - began) * RATE:
            client = loop.create_task(_one(front, LARGE if sent % EVERY == 0 else SMALL))
            clients.add(client)
            client.add_done_callback(ended)
            sent += 1
        if now >= sample_at:
            sample_at += _SAMPLE_S
            state = await front.state()
            samples.append((now - began, state["resident"]))
            most_held = max(most_held, state["held"])
        await asyncio.sleep(0.005)
    await asyncio.gather(*clients)
    return sent, samples, most_held, early


async def _one(front: Portero, body: bytes) -> bool:
    """Whether there was an answer before the client gave up."""
    connection = await connect(front.address)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await connection.send(request("never", body=body))
    except TimeoutError:
        return False
    finally:
        connection.abort()
    return True


async def _settled(front: Portero) -> dict[str, int]:
    """Until nobody is connected and nothing more changes; then the state, after the collector's walk."""
    state = await front.state()
    for _ in range(50):
        await asyncio.sleep(0.2)
        before, state = state, await front.state()
        if not state["clients"] and before["descriptors"] == state["descriptors"]:
            break
    collected = await front.ask("collect")
    return await front.state() | {"collected": collected}
