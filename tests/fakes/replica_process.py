"""
A whole Portero in a process of its own, so that it can be killed.

``python -m tests.fakes.replica_process SETTINGS PATIENCE``, as JSON: says on stdout where it listens, and runs until it
is killed. It is what ``portero serve`` runs, but for what only code may set: http on loopback for the provider, and how
long it waits for Redis (``null``: as it does).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from authproxy.app import App
from authproxy.settings import Settings
from tests.fakes.patient_redis import patience_with_redis

ROOT = Path(__file__).parents[2]
ADDRESS = "listens at "


@contextlib.asynccontextmanager
async def replica_processes(
    number: int, settings: Mapping[str, Any], *, patience_s: float | None = None
) -> AsyncIterator[list[tuple[Process, tuple[str, int]]]]:
    """
    So many, ready, each with its address; killed at the end of the block. Only the audit is each one's own.

    ``patience_s`` is theirs with Redis (``patient_redis``); None: as it is.
    """
    some: list[Process] = []
    try:
        for at in range(number):
            every = {**settings, "audit": f"{settings['audit']}.{at}"}
            told = json.dumps(every, default=str), json.dumps(patience_s)
            words = (sys.executable, "-m", "tests.fakes.replica_process", *told)
            some.append(await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=PIPE, stderr=DEVNULL))
        yield [(one, await _address(one)) for one in some]
    finally:
        for one in some:
            with contextlib.suppress(ProcessLookupError):
                one.kill()
            await one.communicate()


async def _address(process: Process) -> tuple[str, int]:
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if line.startswith(ADDRESS):
            host, _, port = line.removeprefix(ADDRESS).strip().rpartition(":")
            return host, int(port)
    raise AssertionError("a replica has ended before it was ready")


async def _serve(settings: Mapping[str, Any]) -> None:
    app = App(Settings.model_validate({**settings, "listen": ("127.0.0.1", 0), "admin": ("127.0.0.1", 0)}))
    await app.start()
    host, port = app.public_address
    print(f"{ADDRESS}{host}:{port}", flush=True)  # noqa: T201  # the test waits for it
    await asyncio.Event().wait()


if __name__ == "__main__":
    patience: float | None = json.loads(sys.argv[2])
    with contextlib.nullcontext() if patience is None else patience_with_redis(patience):
        asyncio.run(_serve(json.loads(sys.argv[1])))
