"""
Processes of the benchmark that do what they are told: one JSON line each way, over standard input and output.

They end when their input does, so that none is left behind whatever becomes of the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks._proxies.process import Unmeasurable

ROOT = Path(__file__).resolve().parents[2]
_LINE_BYTES = 64 * 1024 * 1024
_PATIENCE_S = 30.0

Order = Callable[[Mapping[str, Any]], Awaitable[Any]]


class Child:
    """``async with Child(module, *words) as child``; its pid is that of the process that does the work."""

    def __init__(self, module: str, *words: str) -> None:
        self._words = (sys.executable, "-m", module, *words)
        self._module = module
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        self._process = await asyncio.create_subprocess_exec(
            *self._words, stdin=PIPE, stdout=PIPE, cwd=ROOT, env=environment, limit=_LINE_BYTES
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.communicate()

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    async def ask(self, order: str, **facts: Any) -> Any:
        """One order at a time. Raises: Unmeasurable when the process has ended or does not answer."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise Unmeasurable(f"{self._module} was not started")
        process.stdin.write(json.dumps({"order": order, **facts}).encode() + b"\n")
        try:
            async with asyncio.timeout(_PATIENCE_S):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Unmeasurable(f"{self._module} does not answer {order!r}") from None
        if not line:
            raise Unmeasurable(f"{self._module} has ended; see above for why")
        return json.loads(line)


async def obey(orders: Mapping[str, Order]) -> None:
    """Carry out orders until there are no more."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        facts = json.loads(line)
        answer = await orders[facts.pop("order")](facts)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Unmeasurable(f"/proc/{pid}/status does not say how much memory is resident")
