"""
Ten thousand requests with bodies held at once by one Portero, and what memory each of them takes.

Resident memory of the whole process, before and while: sockets' Python side, heads, bodies, tasks, places in line.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from benchmarks._coldstart.client import Connection, connect, stop
from benchmarks._coldstart.functions import platform
from benchmarks._coldstart.portero import Portero, portero, request
from benchmarks._coldstart.row import Row, progress
from benchmarks._proxies.process import Unmeasurable

HELD: Final = 10_000
BODY: Final = b"x" * 64
KIB_EACH: Final = 30.0
_CALLERS: Final = 100
_AT_ONCE: Final = 200
_WARM_UP: Final = 300
_PATIENCE_S: Final = 60.0


async def measure(held: int = HELD) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as folder:
        async with platform() as functions:
            await functions.add("never")
            spec = f"cold_start: {{max_wait: 120s, max_held: {held}}}"
            async with portero(Path(folder), functions.url, {"never": spec}) as front:
                await _hold(front, min(_WARM_UP, held))
                before = await _emptied(front)
                progress(f"held: {held:,} requests at once")
                most = await _hold(front, held)
                after = await _emptied(front)
                progress(f"held: {held:,} requests once more")
                again = await _hold(front, held)
    each = (most["resident"] - before["resident"]) / held / 1024
    more = (again["resident"] - most["resident"]) / held / 1024
    left = {
        name: after[name] for name in ("held", "held_requests", "held_by_function", "held_bytes", "live", "clients")
    }
    return [
        Row("held: requests at once, counted", f"{most['held']:,}", f"{held:,}", most["held"] == held),
        Row("held: bytes of their bodies", f"{most['held_bytes']:,}"),
        Row("held: memory of one", f"{each:.1f} KiB", f"<= {KIB_EACH:.0f} KiB", each <= KIB_EACH),
        Row("held: left behind when all have gone", _told(left), "nothing", not any(left.values())),
        Row("held: so many once more, further memory of one", f"{more:.1f} KiB", "<= 1 KiB", more <= 1.0),
    ]


async def _hold(front: Portero, number: int) -> dict[str, int]:
    """Hold so many until they are counted, and let them leave. Returns the state while they were held."""
    data = request("never", body=BODY)
    connections: list[Connection] = []
    waiting: list[asyncio.Task[None]] = []

    async def wait(connection: Connection) -> None:
        answer = await connection.send(data)
        raise Unmeasurable(f"a request that is to be held was answered {answer.status} {answer.reason}")

    try:
        for first in range(0, number, _AT_ONCE):
            some = range(first, min(number, first + _AT_ONCE))
            opened = await asyncio.gather(*(connect(front.address, f"127.0.8.{n % _CALLERS + 1}") for n in some))
            connections += opened
            waiting += [asyncio.create_task(wait(connection)) for connection in opened]
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                state = await front.state()
                if state["held"] >= number and state["held_bytes"] >= number * len(BODY):
                    return state
                for task in waiting:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise Unmeasurable(f"only {state['held']:,} of {number:,} requests are held") from None
    finally:
        await stop(*(task for task in waiting if not task.done()))
        for connection in connections:
            connection.abort()


async def _emptied(front: Portero) -> dict[str, int]:
    """Until nobody is connected; then the state, after the collector's walk."""
    for _ in range(100):
        if not (await front.state())["clients"]:
            break
        await asyncio.sleep(0.1)
    await front.ask("collect")
    return await front.state()


def _told(left: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in left.items() if count) or "nothing"
