"""The drain deadline: whoever has no answer yet is told 503 ``draining`` with Retry-After; half an answer is cut."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from authproxy.edges.exchange import PublicExchange
from authproxy.gate.verdict import Deferred, PageAnswer, PageCall, Refused
from policies.decision import Deny, Page, Reason
from policies.request import Head
from tests.authproxy.edges.test_held_bodies import keeper_of, post, until_taken
from tests.authproxy.edges.test_websockets import UPGRADE
from tests.fakes.front import Front
from tests.fakes.gate import Keeper, refused
from tests.fakes.jobs import until
from tests.fakes.raw_client import RawClient
from tests.fakes.upstream import Peer

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def never(peer: Peer) -> None:
    await peer.head()
    await peer.until_end()


async def is_told(client: RawClient) -> None:
    """503, in order, and then the connection ends."""
    answer = await client.answer()
    assert (answer.status, answer.field("x-portero-reason")) == (503, "draining")
    assert int(answer.field("retry-after") or 0) >= 1
    assert answer.field("connection") == "close"
    assert await client.until_end() == b""


@pytest.mark.parametrize("request_bytes", [GET, post(b"x" * 10), UPGRADE], ids=["GET", "POST", "websocket"])
async def test_a_request_at_its_function_is_told(request_bytes: bytes) -> None:
    """Its connection to the function is closed, not kept."""
    async with Front(never) as front, front.client() as client:
        await client.send(request_bytes)
        await until(lambda: front.upstream.heads)
        await front.edge.stop(0.05)
        await is_told(client)
        assert [(one.status, one.failure) for one in front.gate.finished] == [(503, Reason.DRAINING)]
        assert (front.edge.running, front.pool.total) == (0, 0)


async def test_an_upload_that_has_not_ended_is_told() -> None:
    """Its client may still be sending."""
    async with Front(never) as front, front.client() as client:
        await client.send(post(b"x" * 10, length=100_000))
        await until(lambda: front.upstream.heads)
        await front.edge.stop(0.05)
        await is_told(client)
        assert [one.failure for one in front.gate.finished] == [Reason.DRAINING]


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_held_request_is_told_by_who_holds_it(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``before_cut`` refuses it; its body is given back."""
    monkeypatch.setattr("authproxy.edges.public.REFUSING_S", 10.0)  # of a process that may be stopped meanwhile
    async with Front(never) as front, front.client() as client:
        keeper = front.gate.keeper = Keeper()
        await client.send(post(b"x" * size))
        await until_taken(front, size)

        async def refuse() -> None:
            keeper.release(Deny(Reason.DRAINING, retry_after_s=1))

        await front.edge.stop(0.05, before_cut=refuse)
        await is_told(client)
        assert (keeper.abandoned, keeper.tally.taken, front.edge.spool.files) == (0, 0, 0)


@pytest.mark.parametrize("size", [0, 300_000])
async def test_what_waits_for_anybody_else_is_told_by_the_edge(size: int) -> None:
    """A provider that is asked, a store, a hold that nobody ended: the same answer, and nothing is left."""
    async with Front(never) as front, front.client() as client:
        front.gate.keeper = Keeper()
        await client.send(post(b"x" * size))
        await keeper_of(front).until_held(1)
        await until_taken(front, size)
        await front.edge.stop(0.05)
        await is_told(client)
        assert (keeper_of(front).abandoned, keeper_of(front).tally.taken, front.edge.spool.files) == (1, 0, 0)
        assert front.gate.unread == [Reason.DRAINING]


async def test_what_waits_for_the_limit_store_is_told_and_does_not_leave_later() -> None:
    """Its verdict comes after the refusal: it is finished, and the function never sees it."""

    async def held() -> None:
        return

    async with Front() as front, front.client() as client:
        front.gate.hold, front.gate.soon = held, []
        await client.send(GET)
        await until(lambda: front.gate.soon)
        stopping = asyncio.create_task(front.edge.stop(0.05))
        await until(lambda: front.gate.unread)
        front.gate.soon[0](front.gate.allowed(front.gate.heads[0]))
        await stopping
        await is_told(client)
        assert [one.failure for one in front.gate.finished] == [Reason.DRAINING]
        assert not front.upstream.heads


async def test_an_answer_that_comes_in_time_is_whole() -> None:
    """Everything that ends before the deadline ends as ever."""
    may_answer = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await may_answer.wait()
        await peer.answer(b"in time")

    async with Front(slow) as front, front.client() as client:
        await client.send(GET)
        await until(lambda: front.upstream.heads)
        stopping = asyncio.create_task(front.edge.stop(30))
        await asyncio.sleep(0.1)
        may_answer.set()
        await stopping
        answer = await client.answer()
        assert (answer.body, answer.field("connection")) == (b"in time", "close")


async def test_who_leaves_as_the_deadline_passes_is_finished_once() -> None:
    """``Front`` sees to it that the gate hears of each end once."""
    for pause in range(5):
        async with Front(never) as front, front.client() as client:
            await client.send(GET)
            await until(lambda: front.upstream.heads)
            stopping = asyncio.create_task(front.edge.stop(0.0))
            for _ in range(pause):
                await asyncio.sleep(0)
            client.reset()
            await stopping


async def test_many_are_told_at_once() -> None:
    """Held, running and uploading, by the hundred."""
    async with Front(never) as front:
        clients = [front.client() for _ in range(150)]
        for n, client in enumerate(clients):
            await client.__aenter__()
            await client.send(GET if n % 3 else post(b"x", length=5))
        await until(lambda: len(front.upstream.heads) == len(clients))
        await front.edge.stop(0.05)
        for client in clients:
            await is_told(client)
            await client.__aexit__(None, None, None)
        assert {one.failure for one in front.gate.finished} == {Reason.DRAINING}


# -- what Portero answers itself --------------------------------------------------------------------------------------


class Slow:
    """Pages and jobs that never come to an end, or come to a bad one."""

    max_body_bytes = 10

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.has_begun = asyncio.Event()

    async def _wait(self) -> None:
        self.has_begun.set()
        if self.error is not None:
            raise self.error
        await asyncio.get_running_loop().create_future()

    async def answer(self, _call: PageCall, _body: bytes) -> PageAnswer:
        await self._wait()
        return PageAnswer(200, ())

    async def accept(self, _deferred: Deferred, _exchange: PublicExchange) -> PageAnswer:
        await self._wait()
        return PageAnswer(202, (("Location", "/x"),))


def own_verdict(front: Front, kind: str) -> Any:
    """Has the gate answer with a page or a deferred request."""

    def verdict(head: Head) -> Any:
        case = front.gate._case(head)
        case.request = front.gate.request(head)
        tenant: Any = None
        return PageCall(case, Page(tenant, "login")) if kind == "page" else Deferred(case, front.gate.allow, None)

    return verdict


@pytest.mark.parametrize("kind", ["page", "deferred"])
@pytest.mark.parametrize("ending", ["drained", "gone", "broken"])
async def test_what_portero_answers_itself_is_told_to_the_gate_once(kind: str, ending: str) -> None:
    """However it ends."""
    slow = Slow(ZeroDivisionError("a secret") if ending == "broken" else None)
    async with Front(edge={"pages": slow, "jobs": slow}) as front, front.client() as client:
        front.gate.verdict = own_verdict(front, kind)
        refusals = front.gate.page_refusals if kind == "page" else front.gate.deferred_refusals
        await client.send(GET)
        await slow.has_begun.wait()
        if ending == "broken":
            answer = await client.answer()
            assert (answer.status, b"secret" in answer.body) == (500, False)
            return
        if ending == "gone":
            client.reset()
            await until(lambda: refusals)
        await front.edge.stop(0.05)
        if ending == "drained":
            await is_told(client)
        assert refusals == [Reason.DRAINING if ending == "drained" else Reason.CLIENT_GONE]


@pytest.mark.parametrize("has_jobs", [False, True])
async def test_a_deferred_request_gets_what_its_job_says(*, has_jobs: bool) -> None:
    """202, or why not."""

    class Jobs:
        async def accept(self, deferred: Deferred, _exchange: PublicExchange) -> PageAnswer | Refused:
            if deferred.request.has_body:
                return refused(Reason.QUEUE_FULL)
            return PageAnswer(202, (("Location", "/.portero/result/x"),), b"{}")

    async with Front(edge={"jobs": Jobs() if has_jobs else None}) as front, front.client() as client:
        front.gate.verdict = own_verdict(front, "deferred")
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.field("location")) == ((202, "/.portero/result/x") if has_jobs else (503, None))
        await client.send(post(b"x"))
        assert (await client.answer()).status == (429 if has_jobs else 503)
