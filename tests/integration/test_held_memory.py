"""
What a held request costs: memory of the process, with real sockets on both sides and the client in another process.

The whole Portero takes part. Ten thousand at once were measured as 14.8 KiB each (uvloop), fields of 100 bytes; here
are fewer, so that it takes seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

from tests.fakes.jobs import until
from tests.fakes.world import PLAIN, World, running_world

HELD = 2_000
MOST_BYTES_EACH = 30 * 1024

CLIENT = """
import socket, sys
host, port, count, request = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
some = []
for _ in range(count):
    some.append(socket.create_connection((host, port)))
    some[-1].sendall(request)
print("sent", flush=True)
sys.stdin.read()
"""
REQUEST = (
    "POST /function/survey-submit HTTP/1.1\r\nHost: acme.test\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
    "Content-Type: application/json\r\nContent-Length: 64\r\n\r\n" + "b" * 64
)


def resident_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@contextlib.asynccontextmanager
async def crowd(world: World) -> AsyncIterator[Process]:
    """``HELD`` clients that have sent their requests; they leave at once when it ends."""
    host, port = world.app.public_address
    words = (sys.executable, "-c", CLIENT, host, str(port), str(HELD), REQUEST)
    client = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE)
    try:
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readline(), 30) == b"sent\n"
        yield client
    finally:
        client.kill()
        await client.communicate()


async def until_held(world: World, count: int) -> None:
    await until(lambda: world.app.parts.activator.held == count, timeout_s=30)


async def test_a_held_request_costs_at_most_30_kib(tmp_path: Path) -> None:
    """With a body of 64 bytes; and when they leave, all places and bytes are given back, not when they time out."""
    spec = f"max_body: 1KiB, cold_start: {{max_held: {HELD}, max_wait: 2m}}}}"
    for file in PLAIN.glob("*.yaml"):
        text = file.read_text().replace("max_body: 1KiB}", spec, 1)
        (tmp_path / file.name).write_text(text)
    async with running_world(tmp_path, max_connections=HELD + 100) as world:
        world.faas.add("survey-submit", "acme", replicas=0, start_s=3600)
        gc.collect()
        before = resident_bytes()
        async with crowd(world):
            await until_held(world, HELD)
            each = (resident_bytes() - before) / HELD
            assert each <= MOST_BYTES_EACH
            await until(lambda: b"portero_held_body_bytes 128000.0" in world.app.parts.metrics.render())
        await until_held(world, 0)
        await until(lambda: b"portero_held_body_bytes 0.0" in world.app.parts.metrics.render())
        assert not world.faas.requests
