"""The data path as a whole: a public edge with a stub gate before a scripted upstream."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from authproxy.edges.public import PublicEdge
from authproxy.upstream.pool import Pool
from policies.tables import Timeouts
from tests.fakes.gate import StubGate
from tests.fakes.raw_client import RawClient
from tests.fakes.upstream import Script, ScriptedUpstream, answer_ok


class Front:
    """
    ``async with Front(script) as front``; ``front.client()`` connects to it.

    Args:
        edge: arguments of ``PublicEdge``. pool: arguments of ``Pool``.
    """

    def __init__(
        self,
        script: Script = answer_ok,
        *,
        timeouts: Timeouts | None = None,
        max_body_bytes: int | None = None,
        answer_block: bytes = b"",
        edge: dict[str, Any] | None = None,
        pool: dict[str, Any] | None = None,
    ) -> None:
        self.upstream = ScriptedUpstream(script)
        self._timeouts = timeouts or Timeouts(connect_s=2, first_byte_s=5, idle_s=5)
        self._max_body_bytes = max_body_bytes
        self._answer_block = answer_block
        self._edge_arguments = edge or {}
        self._pool_arguments = pool or {}
        self.gate: StubGate
        self.edge: PublicEdge
        self.pool: Pool
        self.address: tuple[str, int]

    async def __aenter__(self) -> Self:
        await self.upstream.__aenter__()
        self.gate = StubGate(
            self.upstream.address,
            timeouts=self._timeouts,
            max_body_bytes=self._max_body_bytes,
            answer_block=self._answer_block,
        )
        self.pool = Pool(**self._pool_arguments)
        self.edge = PublicEdge(self.gate, self.pool, **self._edge_arguments)
        self.address = await self.edge.start("127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.edge.stop(0)
        await self.pool.close()
        await self.upstream.__aexit__(kind, error, trace)
        if error is None:
            passed = [one.passed.request_id for one in self.gate.finished]
            if len(passed) != len(set(passed)) or len(self.gate.live):
                raise AssertionError("a request was not finished exactly once")

    def client(self) -> RawClient:
        return RawClient(self.address)

    async def all_finished(self) -> None:
        """Until every request is finished towards the gate."""
        while not self.gate.finished or len(self.gate.live):  # noqa: ASYNC110  # the stub gate tells nobody
            await asyncio.sleep(0.02)
