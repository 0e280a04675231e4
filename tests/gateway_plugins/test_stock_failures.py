"""
What can fail with the stock server, in threads and greenlets, behind a Kong whose services have a dead address.

There only a verdict leads to a function: whatever happens, no verdict was set, and the next request is judged again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kong_rpc import Entity, KongWorker, LuaError, Trace
from tests.fakes.stock_child import NAME
from tests.fakes.stock_server import ROOT, StockProcess, scripted

ALLOW = Entity(NAME, {"do": "allow"})
REFUSE = Entity(NAME, {"do": "refuse"})
NO_VERDICT = 503
"""What the rendered post-function answers, and the dead address behind it: 502."""


class _Exit(Exception):
    pass


class Request:
    """
    Of one request what the scripted plugin asks for, and what becomes of it.

    Args:
        facts: that the plugin is told.
        told: called when it asks for them.
    """

    def __init__(self, facts: bytes = b"portero/1\n", told: Callable[[], None] = lambda: None) -> None:
        self._facts = facts
        self._told = told
        self.verdict: Any = None
        self.exit: Sequence[Any] | None = None
        self.trace = Trace()

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        match method:
            case "kong.ctx.shared.get":
                self._told()
                return self._facts
            case "kong.ctx.shared.set":
                self.verdict = arguments[1]
            case "kong.response.exit":
                self.exit = arguments
                raise _Exit
            case "kong.node.get_id":
                return b"8a3e"
            case _:
                raise LuaError("cannot be used in this phase")
        return None

    async def send(self, worker: KongWorker, entity: Entity = ALLOW) -> int:
        """The status that the client gets; 200 stands for what the function answers."""
        try:
            await worker.event(entity, self, self.trace)
        except _Exit:
            assert self.exit is not None
            return int(self.exit[0])
        except LuaError:
            return 500
        return NO_VERDICT if self.verdict is None else 200


@pytest.fixture(scope="module", params=[False, True], ids=["threads", "greenlets"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockProcess]:
    server = scripted(tmp_path_factory.mktemp("s"), greenlets=request.param, silence_s=0.2)
    yield server
    assert server.stop() == 0


@pytest.fixture
async def kong(server: StockProcess) -> AsyncIterator[KongWorker]:
    """A patient one; a test that is about its patience shortens it."""
    worker = KongWorker(server.socket.parent, read_timeout_s=20)
    yield worker
    worker.close()
    await asyncio.sleep(0)


@contextlib.contextmanager
def patience_of(worker: KongWorker) -> Iterator[Callable[[float], None]]:
    """Sets the read timeout of ``worker`` in seconds, until the end of the block."""
    rpc = worker.rpc(NAME)
    usual = rpc._timeout_s

    def lasts(seconds: float) -> None:
        rpc._timeout_s = seconds

    try:
        yield lasts
    finally:
        rpc._timeout_s = usual


async def refused(worker: KongWorker, do: str, status: int, **config: Any) -> Request:
    """``do`` is answered by ``status`` and sets no verdict; the request after it is judged as it should be."""
    request = Request()
    assert await request.send(worker, Entity(NAME, {"do": do, **config})) == status
    assert request.verdict is None
    assert await Request().send(worker) == 200
    return request


async def test_what_a_plugin_can_mend(server: StockProcess, kong: KongWorker) -> None:
    """An exception is a 500, a wait is answered, an exit is an exit; each connection stays good."""
    assert await Request().send(kong) == 200
    for do in ("break before", "break after"):
        request = await refused(kong, do, 500)
        assert request.exit is not None
        assert json.loads(request.exit[1])["reason"] == "internal-error"
        assert request.trace.log == []
    for do in ("refuse", "refuse first"):
        assert (await refused(kong, do, 403)).trace.log == []
    waiting = Request()
    with patience_of(kong) as lasts:
        lasts(2.0)  # Kong would give up in the middle of what follows
        assert await waiting.send(kong, Entity(NAME, {"do": "wait", "seconds": 2.6})) == 200
    assert "kong.node.get_id" in waiting.trace.pdk_calls
    assert kong.rpc(NAME).connections == 1


async def test_the_first_call_is_not_waited_for_by_others(kong: KongWorker) -> None:
    """The stock server begins no event of a plugin while another has made no call yet: such waits do not add up."""
    entity = Entity(NAME, {"do": "meet first", "count": 4})
    assert await Request().send(kong) == 200
    assert await asyncio.gather(*(Request().send(kong, entity) for _ in range(4))) == [200] * 4


async def test_a_config_that_cannot_be_used(kong: KongWorker) -> None:
    """Kong answers 500 itself, as the instance does not start."""
    await refused(kong, "break at the start", 500)


async def test_a_byte_that_is_not_utf_8(server: StockProcess, kong: KongWorker) -> None:
    """The stock server breaks before the plugin sees it, and Kong would go on: no verdict, so nothing passes."""
    assert await Request().send(kong) == 200
    with patience_of(kong) as lasts:
        request = Request(b"portero/1\nx: \xff", lambda: lasts(0.5))
        assert await request.send(kong) == NO_VERDICT
    assert request.verdict is None
    assert request.trace.log == [("err", "no data")]
    assert await Request().send(kong) == 200


async def test_a_call_that_raises_inside_of_kong(kong: KongWorker) -> None:
    """The plugin is never told; the request is 500."""
    await refused(kong, "call wrongly", 500)


async def test_no_answer_in_time(kong: KongWorker, tmp_path: Path) -> None:
    """
    A loop that stands still: Kong gives up, and who takes the connection next is refused, too.

    Only a plugin that blocks the event loop can do so; none of ours does.
    """
    assert await Request().send(kong) == 200
    kong_of_the_other = KongWorker(kong.rpc(NAME)._socket.parent, read_timeout_s=20)
    is_over = tmp_path / "over"
    try:
        with patience_of(kong_of_the_other) as lasts:
            stuck, poisoned = Request(told=lambda: lasts(0.1)), Request()
            entity = Entity(NAME, {"do": "block", "until": str(is_over)})
            assert await stuck.send(kong_of_the_other, entity) == NO_VERDICT
            assert await poisoned.send(kong_of_the_other) in {NO_VERDICT, 500}
        assert (stuck.verdict, poisoned.verdict) == (None, None)
    finally:
        kong_of_the_other.close()
        is_over.touch()
    assert await Request().send(kong) == 200


async def test_the_server_is_down(server: StockProcess, kong: KongWorker) -> None:
    """Known instance: Kong would go on, and nothing passes. Unknown: 500. Once it is back, it judges."""
    assert await Request().send(kong) == 200
    server.kill()
    await asyncio.sleep(0.05)
    down, unknown = Request(), Request()
    assert await down.send(kong) == NO_VERDICT
    assert await unknown.send(kong, REFUSE) == 500
    assert (down.verdict, unknown.verdict) == (None, None)
    server.start()
    # The pooled connections are gone and so is the instance; Kong starts it again by itself.
    assert await Request().send(kong) == 200
    assert await Request().send(kong, REFUSE) == 403


async def test_a_flood_of_refusals(server: StockProcess, kong: KongWorker) -> None:
    """Neither memory nor threads grow; without our remedies a refusal keeps some ten kilobytes."""

    async def flood(rounds: int) -> None:
        for _ in range(rounds):
            assert await Request().send(kong, REFUSE) == 403

    await asyncio.gather(*(flood(50) for _ in range(4)))
    threads, memory = server.threads, server.rss_bytes
    await asyncio.gather(*(flood(250) for _ in range(4)))
    async with asyncio.timeout(20):
        while server.threads > threads + 1:  # noqa: ASYNC110  # another process tells nobody
            await asyncio.sleep(0.02)
    assert server.rss_bytes - memory < 3_000_000
    assert await Request().send(kong) == 200


async def test_it_ends_as_kong_ends_it(server: StockProcess, kong: KongWorker) -> None:
    """By SIGTERM and at once, though Kong keeps its connections open."""
    assert await Request().send(kong) == 200
    began = time.monotonic()
    assert await asyncio.to_thread(server.stop) == 0
    assert time.monotonic() - began < 5
    server.start()


def test_it_ends_when_kong_has_ended_without_a_word(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The stock server's threads would live on after Kong's crash, with nobody to ask them."""
    folder = tmp_path_factory.mktemp("s")
    command = [sys.executable, "-m", "tests.fakes.stock_child", "1", "-p", str(folder)]
    script = '"$@" >/dev/null 2>&1 & echo $!; read _'
    with subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            deadline = time.monotonic() + 20
            while not (folder / f"{NAME}.socket").exists():  # made when the watchdog knows its parent
                assert time.monotonic() < deadline
                time.sleep(0.02)
            parent.communicate(b"\n", timeout=20)
            assert select.select([child], [], [], 20)[0], "it lives on"
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


def run_child(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fakes.stock_child", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)


def test_what_kong_asks_before_it_starts(tmp_path: Path) -> None:
    """``--dump`` prints one line of JSON and starts nothing."""
    done = run_child("--dump")
    assert done.returncode == 0
    (plugin,) = json.loads(done.stdout)
    assert plugin["Name"] == NAME
    assert plugin["Phases"] == ["access"]
    assert plugin["Priority"] == 1040


def test_a_pool_of_processes_is_refused(tmp_path: Path) -> None:
    """One gate cannot be shared by them; each would count limits for itself."""
    done = run_child("-m", "-p", str(tmp_path))
    assert done.returncode == 1
    assert "refused: -m" in done.stderr
