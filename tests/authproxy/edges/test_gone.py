"""A client may leave between any two steps: each request that passed is finished once, and nothing is kept."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from authproxy.edges.protocol import ClientConnection, ClientServer
from authproxy.edges.public import PublicEdge
from authproxy.upstream.departure import Address
from authproxy.upstream.pool import Pool
from policies.decision import Reason
from tests.authproxy.edges.test_repeats import ONE, Wire
from tests.fakes.front import Front
from tests.fakes.gate import StubGate
from tests.fakes.jobs import until
from tests.fakes.upstream import Peer


async def connect(gate: StubGate) -> ClientConnection:
    edge = PublicEdge(gate, Pool())
    server = ClientServer(edge, asyncio.get_running_loop(), auto_decompress=False, access_log=None, keepalive_timeout=0)
    connection = server()
    connection.connection_made(Wire())
    await asyncio.sleep(0)
    return connection


async def held() -> None:
    return


class ResetWire(Wire):
    """Reset while the answer was written: the socket knows, its connection does not yet."""

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


async def test_a_reset_behind_a_refusal_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Anybody can reset a connection at that moment: it must not fill the log with tracebacks."""
    edge = PublicEdge(gate_of_nobody(), Pool())
    server = ClientServer(edge, asyncio.get_running_loop(), auto_decompress=False, access_log=None, keepalive_timeout=0)
    connection = server()
    connection.connection_made(ResetWire())
    await asyncio.sleep(0)
    connection.data_received(b"no request at all\r\n\r\n")
    await settle()
    assert edge.running == 1, "it waits for the client's end"
    connection.connection_lost(None)
    await settle()
    assert edge.running == 0
    assert "error" not in capsys.readouterr().out


def gate_of_nobody() -> StubGate:
    """It lets everything through to where no connection is open, so that a task has to go on."""
    return StubGate(Address("127.0.0.1", 1))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("ending", ["lost", "aborted"])
async def test_a_request_that_waits_for_its_task_is_finished(ending: str) -> None:
    """It has passed and the task is woken, but the client is gone before the task runs."""
    gate = gate_of_nobody()
    connection = await connect(gate)
    connection.data_received(ONE)
    if ending == "aborted":
        connection.abort()
        await settle()
    connection.connection_lost(None)
    await settle()
    assert [one.failure for one in gate.finished] == [Reason.CLIENT_GONE]
    assert len(gate.live) == 0


async def test_the_same_behind_an_answer_of_the_limit_store() -> None:
    """Its reply and the client's end arrive in one turn of the loop."""
    gate = gate_of_nobody()
    gate.hold, gate.soon = held, []
    connection = await connect(gate)
    connection.data_received(ONE)
    gate.soon[0](gate.allowed(gate.heads[0]))
    connection.connection_lost(None)
    await settle()
    assert [one.failure for one in gate.finished] == [Reason.CLIENT_GONE]


async def test_an_answer_of_the_limit_store_for_a_client_that_left() -> None:
    """Whatever it is, it ends the request once."""
    for does_pass in (True, False):
        gate = gate_of_nobody()
        gate.hold, gate.soon = held, []
        connection = await connect(gate)
        connection.data_received(ONE)
        connection.connection_lost(None)
        await settle()
        assert (gate.finished, gate.abandoned) == ([], [])
        undecided: Any = gate.decide_now(gate.heads[0])
        gate.soon[0](gate.allowed(gate.heads[0]) if does_pass else undecided)
        await settle()
        assert (len(gate.finished), len(gate.abandoned)) == ((1, 0) if does_pass else (0, 1))


async def test_an_undecided_request_that_waits_for_its_task_is_told() -> None:
    """Nothing was taken yet, but the audit has to know of it."""
    gate = gate_of_nobody()
    gate.hold = held
    connection = await connect(gate)
    connection.data_received(ONE)
    connection.connection_lost(None)
    await settle()
    assert (len(gate.abandoned), gate.finished) == (1, [])


async def test_an_early_answer_and_a_client_that_leaves_meanwhile_keep_no_connection() -> None:
    """The upload is being stopped just as its client goes: the connection is given back all the same."""

    async def early(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"enough")
        await peer.until_end()

    async with Front(early) as front, front.client() as client:
        stopping = asyncio.Event()
        wait = asyncio.wait

        async def slow_wait(tasks: Any) -> Any:
            stopping.set()
            await asyncio.sleep(30)  # ended by the client that leaves
            return await wait(tasks)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("authproxy.upstream.forward.asyncio.wait", slow_wait)
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
            await asyncio.wait_for(stopping.wait(), 20)
            client.reset()
            await front.all_finished()
        await until(lambda: front.pool.total == 0)


async def test_an_error_at_the_end_of_a_request_does_not_hang_its_connection(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The gate could not write it down; the next request is served."""
    async with Front() as front, front.client() as client:
        finish, front.gate.finish = front.gate.finish, None  # type: ignore[method-assign, assignment]
        assert (await client.get()).status == 200
        assert (await client.get()).status == 200
        front.gate.finish = finish  # type: ignore[method-assign]
        assert (await client.get()).status == 200
        for live in front.gate.live:
            front.gate.live.discard(live)
