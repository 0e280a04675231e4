"""
A request that did not reach its function is sent once more: when that is certain, its body is at hand, and the budget
of retries allows it. Source: RFC 9110 section 9.2.2.
"""

from __future__ import annotations

import os

import pytest

from authproxy.upstream.connection import Connection
from authproxy.upstream.departure import Address
from policies.decision import Deny, Reason
from tests.authproxy.edges.test_held_bodies import holding, keeper_of, post, post_chunked, until_taken
from tests.authproxy.edges.test_websockets import UPGRADE, accepted
from tests.fakes.front import Front
from tests.fakes.jobs import until
from tests.fakes.upstream import Peer, ScriptedUpstream

ASLEEP = b"503 Service Unavailable"
KIB = 1024


class Sleepy:
    """A platform that has no replica for the first ``asleep`` requests; ``bodies`` are those that came."""

    def __init__(self, asleep: int = 1, *, reads_body: bool = True) -> None:
        self.asleep = asleep
        self.reads_body = reads_body
        self.bodies: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        while True:
            head = await peer.head()
            if self.asleep:
                self.asleep -= 1
                if self.reads_body:
                    self.bodies.append(await peer.body(head))
                await peer.answer(b"no replica", ASLEEP)
                if not self.reads_body:
                    return
            else:
                self.bodies.append(await peer.body(head))
                await peer.answer(b"awake")


def put(body: bytes, fields: bytes = b"") -> bytes:
    return post(body, fields=fields).replace(b"POST", b"PUT", 1)


def keyed(request: bytes) -> bytes:
    return request.replace(b"Host: a\r\n", b'Host: a\r\nIdempotency-Key: "k"\r\n', 1)


@pytest.mark.parametrize(
    ("request_bytes", "is_repeated"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True, id="GET"),
        pytest.param(put(b"x" * 10), True, id="PUT"),
        pytest.param(post(b"x" * 10), False, id="POST"),
        pytest.param(keyed(post(b"x" * 10)), True, id="POST with a key"),
        pytest.param(keyed(post_chunked(b"x" * 10)), True, id="chunked POST with a key"),
    ],
)
async def test_the_platforms_word_lets_what_is_idempotent_be_sent_again(
    request_bytes: bytes, *, is_repeated: bool
) -> None:
    """With its body, after it was held once more; anything else is told what the platform said."""
    sleepy = Sleepy()
    async with Front(sleepy) as front, front.client() as client:
        front.gate.not_reached_status = 503
        await client.send(request_bytes)
        answer = await client.answer()
        assert answer.body == (b"awake" if is_repeated else b"no replica")
        assert len(set(sleepy.bodies)) == 1
        assert len(sleepy.bodies) == (2 if is_repeated else 1)


@pytest.mark.parametrize("size", [10, 300 * KIB, 2048 * KIB])
@pytest.mark.parametrize("reads_body", [True, False], ids=["after the body", "after the head"])
async def test_a_held_body_is_sent_again_whatever_its_size(size: int, *, reads_body: bool) -> None:
    """From memory or from its file, also when the platform refuses before it has read it."""
    body, sleepy = os.urandom(size), Sleepy(reads_body=reads_body)
    async with holding(script=sleepy) as front, front.client() as client:
        front.gate.not_reached_status = 503
        await client.send(put(body))
        await until_taken(front, size)
        keeper_of(front).release()
        await keeper_of(front).until_begun(2)
        assert keeper_of(front).tally.taken == size
        keeper_of(front).release()
        assert (await client.answer()).body == b"awake"
        assert sleepy.bodies == ([body, body] if reads_body else [body])
        assert keeper_of(front).holds == 2


async def test_a_streamed_body_that_is_gone_is_not_sent_again() -> None:
    """A part of it was passed on and not kept: the rest would be another body."""
    sleepy = Sleepy(reads_body=False)
    async with Front(sleepy) as front, front.client() as client:
        front.gate.not_reached_status = 503
        await client.send(
            put(b"")[:-5].replace(b"Content-Length: ", b"Content-Length: 400000") + b"\r\n\r\n" + b"x" * 1000
        )
        assert (await client.answer()).body == b"no replica"
        assert front.gate.retries_left == 1000


@pytest.mark.parametrize("is_held", [False, True], ids=["at once", "after a hold"])
async def test_an_upload_of_which_nothing_was_read_is_sent_again(*, is_held: bool) -> None:
    """The client was slow with its body, and the platform quick with its refusal."""
    sleepy = Sleepy(reads_body=False)
    async with holding(script=sleepy) as front, front.client() as client:
        front.gate.not_reached_status = 503
        keeper = keeper_of(front)
        if not is_held:
            front.gate.keeper = None
        await client.send(put(b"x" * 5)[:-5])
        if is_held:
            await keeper.until_held(1)
            keeper.release()
            await keeper.until_begun(2)
        else:
            await until(lambda: len(front.upstream.heads) == 2)
        await client.send(b"hello")
        if is_held:
            await until_taken(front, 5)
            keeper.release()
        assert (await client.answer()).body == b"awake"
        assert sleepy.bodies == [b"hello"]
        front.gate.keeper = keeper


async def test_it_is_sent_again_once() -> None:
    """A platform that goes on saying so is believed."""
    async with Front(Sleepy(asleep=5)) as front, front.client() as client:
        front.gate.not_reached_status = 503
        assert (await client.get()).body == b"no replica"
        assert len(front.upstream.heads) == 2


async def test_the_budget_of_retries_is_asked() -> None:
    """It is spent: everybody is told what the platform said, and nothing more is sent to it."""
    async with Front(Sleepy(asleep=5)) as front, front.client() as client:
        front.gate.not_reached_status = 503
        front.gate.retries_left = 0
        assert (await client.get()).body == b"no replica"
        assert len(front.upstream.heads) == 1


async def test_the_budget_is_asked_of_what_nothing_was_written_too() -> None:
    """An address that refuses is no reason for one attempt after the other: it is told as it is, and held once."""
    async with holding() as front, front.client() as client:
        front.gate.retries_left = 0
        front.gate.address = Address("127.0.0.1", 1)
        await client.send(post(b"x"))
        await keeper_of(front).until_held(1)
        keeper_of(front).release()
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (502, "upstream-unreachable")
        assert not front.gate.live


async def test_the_budget_is_asked_for_kept_connections_that_died_too() -> None:
    """One retry is like another."""

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.head()  # and closes without an answer

    async with Front(once) as front, front.client() as client:
        front.gate.retries_left = 1
        assert [(await client.get()).status for _ in range(3)] == [200, 200, 502]


async def test_a_refusal_of_the_second_hold_is_the_answer() -> None:
    """It does not wake in time."""
    async with holding(script=Sleepy()) as front, front.client() as client:
        front.gate.not_reached_status = 503
        await client.send(put(b"x"))
        await keeper_of(front).until_held(1)
        keeper_of(front).release()
        await keeper_of(front).until_begun(2)
        keeper_of(front).release(Deny(Reason.COLD_START_TIMEOUT, retry_after_s=2))
        assert (await client.answer()).status == 504
        assert front.gate.finished[0].failure is Reason.COLD_START_TIMEOUT


async def test_who_leaves_in_the_second_hold_is_gone_at_once() -> None:
    """With a body that is held a second time, too."""
    async with holding(script=Sleepy()) as front, front.client() as client:
        front.gate.not_reached_status = 503
        await client.send(put(b"x" * 200_000))
        await until_taken(front, 200_000)
        keeper_of(front).release()
        await keeper_of(front).until_begun(2)
        client.reset()
        await keeper_of(front).until_held(0)
        await front.all_finished()
        assert front.gate.finished[0].failure is Reason.CLIENT_GONE


@pytest.mark.parametrize("size", [0, 10, 300 * KIB])
async def test_of_what_nothing_was_written_is_sent_again_whatever_its_method(size: int) -> None:
    """The replica is gone and its address refuses: a POST waits for the next one, and leaves with its body."""
    body = os.urandom(size)
    async with holding() as front, front.client() as client:
        there, front.gate.address = front.gate.address, Address("127.0.0.1", 1)
        await client.send(post(body))
        await until_taken(front, size)
        await keeper_of(front).until_held(1)
        keeper_of(front).release()
        await keeper_of(front).until_begun(2)
        assert front.gate.failures == 1
        (live,) = front.gate.live
        live.destination = live.destination._replace(address=there)  # type: ignore[attr-defined]  # a Passed
        keeper_of(front).release()
        assert (await client.answer()).body == b"/|sized|" + body


async def test_a_connection_that_closes_before_the_head_is_written_costs_no_post(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was sent on it: another one is taken, and the body leaves whole."""
    is_closing = Connection.send
    closed = 0

    def send(self: Connection, data: bytes) -> None:
        nonlocal closed
        if self.is_kept and not closed:
            closed += 1
            self.abort()
        is_closing(self, data)

    monkeypatch.setattr(Connection, "send", send)
    async with holding() as front, front.client() as client:
        for n in range(2):
            await client.send(post(b"x" * 100))
            await until_taken(front, 100)
            keeper_of(front).release()
            assert (await client.answer()).body == b"/|sized|" + b"x" * 100, n
    assert closed == 1


async def test_a_websocket_whose_function_fell_asleep_is_held_again() -> None:
    """It was refused before anything was switched."""

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number == 1:
            await peer.answer(b"no replica", ASLEEP)
            return
        await peer.send(accepted())
        await peer.send(await peer.reader.readexactly(5))
        await peer.until_end()

    async with Front(script) as front, front.client() as client:
        front.gate.not_reached_status = 503
        await client.send(UPGRADE + b"early")
        assert (await client.head())[0] == 101
        assert await client.reader.readexactly(5) == b"early"


async def test_a_dead_platform_is_told_as_it_is() -> None:
    """Held once more, sent once more, then 502."""
    async with Front() as front, front.client() as client:
        async with ScriptedUpstream() as gone:
            front.gate.address = gone.address
        await client.send(post(b"x"))
        answer = await client.answer()
        assert (answer.status, answer.field("x-portero-reason")) == (502, "upstream-unreachable")
