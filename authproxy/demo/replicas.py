"""
Functions as processes: one process a replica, started, probed, scaled, and gone when the demo is gone.

Each replica holds the read end of a pipe as its standard input and ends when the pipe does. So no replica outlives
this process, also when it is killed with SIGKILL, without anything that only one operating system has. This module
refuses to know HTTP paths and credentials: those are ``functions_platform.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

START_TIMEOUT_S: Final = 20.0
PROBE_INTERVAL_S: Final = 0.05
STOP_GRACE_S: Final = 3.0
"""From SIGTERM to SIGKILL; the watchdog's own drain takes at most a third of it."""
RESTART_PAUSE_S: Final = 1.0
MAX_REPLICAS: Final = 5
"""As in OpenFaaS's community edition."""

logger = logging.getLogger(__name__)


class ReplicaFailed(Exception):
    """A replica ended or stayed silent instead of becoming ready."""


@dataclass(eq=False, slots=True)
class Replica:
    """One ready process and the loopback port it serves."""

    process: asyncio.subprocess.Process
    port: int

    async def stop(self) -> None:
        """Ask it to finish what it is answering, and end it in any case. Idempotent."""
        await _end(self.process)


class Function:
    """
    One function of one namespace and its replicas.

    ``desired`` is what was asked for and ``ready`` what there is; one task at a time works on the difference.
    """

    def __init__(
        self, name: str, namespace: str, session: aiohttp.ClientSession, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.desired = 0
        self.ready: list[Replica] = []
        self.in_flight = 0
        """Requests being proxied; a function that answers one is not idle."""
        self.invocations = 0
        self.created_at = time.time()
        self.used_at = time.monotonic()
        self._session = session
        self._environment = dict(environment)
        self._processes: set[asyncio.subprocess.Process] = set()
        self._watchers: set[asyncio.Task[None]] = set()
        self._reconciler: asyncio.Task[None] | None = None

    def scale(self, replicas: int) -> None:
        """Ask for so many replicas (0 to ``MAX_REPLICAS``); returns at once, as OpenFaaS does."""
        self.desired = max(0, min(replicas, MAX_REPLICAS))
        self.used_at = time.monotonic()
        if self._reconciler is None or self._reconciler.done():
            self._reconciler = asyncio.create_task(self._reconcile())

    async def settled(self) -> None:
        """Return when there are as many replicas as asked for, and no process beyond them."""
        while self._reconciler is not None and not self._reconciler.done():
            await asyncio.wait({self._reconciler})

    async def stop(self) -> None:
        """End every process, those still starting too."""
        self.desired = 0
        self.ready.clear()
        if self._reconciler is not None:
            self._reconciler.cancel()
            await asyncio.gather(self._reconciler, return_exceptions=True)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*map(_end, self._processes))

    def next_replica(self) -> Replica | None:
        """A ready replica in turn, None when there is none."""
        return self.ready[self.invocations % len(self.ready)] if self.ready else None

    async def _reconcile(self) -> None:
        while (missing := self.desired - len(self.ready)) != 0:
            if missing < 0:
                surplus = [self.ready.pop() for _ in range(-missing)]  # out of the rotation before they are ended
                await asyncio.gather(*(replica.stop() for replica in surplus))
                continue
            try:
                self.ready.append(await self._start_replica())
            except ReplicaFailed as failure:
                logger.warning("%s.%s: %s", self.name, self.namespace, failure)
                await asyncio.sleep(RESTART_PAUSE_S)

    async def _start_replica(self) -> Replica:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "authproxy.demo.functions",
            self.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment() | self._environment,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its replicas in good order
        )
        self._processes.add(process)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                port = await _read_port(process)
                await self._probe(port)
        except (TimeoutError, ReplicaFailed) as failure:
            await _end(process)
            self._processes.discard(process)
            raise ReplicaFailed(f"a replica did not start: {failure or 'it stayed silent'}") from None
        replica = Replica(process, port)
        watcher = asyncio.create_task(self._watch(replica))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return replica

    async def _probe(self, port: int) -> None:
        """Return when the replica answers its health check: a listening port alone does not serve yet."""
        while True:
            with suppress(aiohttp.ClientError):
                async with self._session.get(f"http://127.0.0.1:{port}/_/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _watch(self, replica: Replica) -> None:
        """Take a replica out of the rotation when its process ends, and start another if nobody asked it to."""
        await replica.process.wait()
        self._processes.discard(replica.process)
        if replica in self.ready:
            self.ready.remove(replica)
            logger.warning("%s.%s: a replica ended by itself", self.name, self.namespace)
            await asyncio.sleep(RESTART_PAUSE_S)
            self.scale(self.desired)


async def _read_port(process: asyncio.subprocess.Process) -> int:
    if process.stdout is None:
        raise ReplicaFailed("it has no standard output")
    line = await process.stdout.readline()
    if not line.strip().isdigit():
        raise ReplicaFailed(f"it ended with status {await process.wait()}")
    return int(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_GRACE_S)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _environment() -> dict[str, str]:
    """No more of our own environment than Python needs: a function has no business with an operator's secrets."""
    root = str(Path(__file__).resolve().parents[2])
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return kept | {"PYTHONPATH": root}
