"""
Portero's data path alone: public edge and upstream pool with a gate that asks nothing. Shows what the questions
cost.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import uvloop

from authproxy.edges.public import PublicEdge
from authproxy.gate.verdict import Passed, Undecided, Verdict
from authproxy.upstream.departure import Address
from authproxy.upstream.pool import Pool
from benchmarks._proxies.process import Running, free_port, python
from policies.request import Head
from tests.fakes.gate import StubGate


class _AsksNothing(StubGate):
    """Judges the first request and says the same of every other."""

    _first: Passed | None = None

    def decide_now(self, head: Head, _memo: object = None) -> Verdict | Undecided:
        if self._first is None:
            verdict = super().decide_now(head)
            if isinstance(verdict, Passed):
                self._first = verdict
            return verdict
        first = self._first
        return Passed(
            first.case,
            first.request,
            first.allow,
            first.destination,
            first.request_block,
            first.answer_block,
            None,
            self,
        )


async def serve(upstream: int, port: int, kind: type[StubGate]) -> None:
    gate = kind(
        Address("127.0.0.1", upstream),
        answer_block=b"X-Request-Id: 0123456789abcdef\r\n",
        max_body_bytes=None,
        keeps_records=False,
    )
    edge = PublicEdge(gate, Pool())
    await edge.start("127.0.0.1", port)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await asyncio.Event().wait()


def start_proxy(core: int, folder: Path, upstream: int, *, judges_each: bool = False) -> Running:
    """``judges_each``: for requests that differ from each other."""
    port = free_port()
    command = python("benchmarks._proxies.bare", str(upstream), str(port), *(["each"] if judges_each else []))
    running = Running("bare", command, core, folder, port)
    running.wait_until_up()
    return running


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), StubGate if len(sys.argv) > 3 else _AsksNothing))
