"""The body of a held request: read while it is held, at somebody's expense, and never after the hold has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from authproxy.upstream.held_body import BodyAccount
from policies.decision import Deny, Reason
from policies.held_bytes import HeldBytes
from policies.tables import Ceilings, ColdStart
from tests.authproxy.activator.front import let_in, refused
from tests.authproxy.activator.scripted import Platform, Waiting, cold_place, now
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place, tenant

TOO_LARGE = Deny(Reason.BODY_TOO_LARGE)


class Body:
    """Takes what it is told of its account; remembers what was asked of it."""

    def __init__(self, size: int = 0, *, stop_s: float = 0.0) -> None:
        self.size = size
        self.stop_s = stop_s
        self.account: BodyAccount | None = None
        self.failed: Callable[[Deny], None] = print
        self.is_reading = False
        self.stops = 0

    def start(self, account: BodyAccount, failed: Callable[[Deny], None]) -> None:
        assert not self.is_reading
        self.account, self.failed, self.is_reading = account, failed, True
        if (reason := account.take(self.size)) is not None:
            asyncio.get_running_loop().call_soon(lambda: failed(Deny(reason)) if self.is_reading else None)

    async def stop(self) -> None:
        self.stops += 1
        await asyncio.sleep(self.stop_s)
        self.is_reading = False


@in_jumping_time
async def test_a_body_is_read_while_its_request_is_held() -> None:
    """From when it has to wait until it is let in; it stays on its account after that."""
    books = HeldBytes(1000)
    made, body = Waiting(held_bytes=books), Body(100)
    held = made.hold(place(), body=body)
    await asyncio.sleep(0.5)
    assert body.is_reading
    let_in(await held)
    assert not body.is_reading
    assert books.total == 100
    assert made.metrics.held_body_bytes.value() == 100
    assert body.account is not None
    body.account.close()
    assert books.total == 0
    await made.activator.close()


@in_jumping_time
async def test_a_body_is_not_read_for_nothing() -> None:
    """Who is let in or refused at once is not held."""
    made, body = Waiting(Platform(ready=1)), Body()
    made.activator.finished(place(), let_in(await made.hold(place())))
    let_in(await made.hold(place(), body=body))
    refused(await made.hold(place(concurrency=1, max_held=0), body=body))
    assert body.account is None
    await made.activator.close()


@in_jumping_time
async def test_a_stream_may_opt_out() -> None:
    """``body: stream``: it is left with its client until the function can take it."""
    made, body = Waiting(), Body()
    let_in(await made.hold(cold_place(ColdStart(holds_body=False)), body=body))
    assert body.account is None
    await made.activator.close()


@in_jumping_time
async def test_what_a_body_fails_with_is_the_refusal() -> None:
    """The hold ends at once, its place is free, and the wake goes on for others."""
    made, body = Waiting(), Body()
    held = made.hold(place(), body=body)
    await asyncio.sleep(0.1)
    body.failed(TOO_LARGE)
    assert await held == TOO_LARGE
    assert now() == pytest.approx(0.1)
    assert made.activator.held == 0
    assert not body.is_reading
    assert made.metrics.holds_refused_total.value(("acme", "body-too-large")) == 1
    await made.activator.close()


@in_jumping_time
async def test_a_body_that_fails_when_its_request_is_let_in() -> None:
    """The place at the function is given back, and the refusal stands: half a body does not leave."""
    made, body = Waiting(Platform(ready=1)), Body(stop_s=0.5)
    at = place(concurrency=1)
    first = let_in(await made.hold(at))
    held = made.hold(at, body=body)
    await asyncio.sleep(0.1)
    made.activator.finished(at, first)
    body.failed(TOO_LARGE)
    assert await held == TOO_LARGE
    assert made.activator.ready_now(at)
    await made.activator.close()


@pytest.mark.parametrize("when_s", [0.5, 1.2], ids=["while held", "while the reading stops"])
@in_jumping_time
async def test_a_client_that_leaves_stops_the_reading(when_s: float) -> None:
    """However it ends: no read is left behind, no place is taken."""
    made, body = Waiting(Platform(start_s=1.0)), Body(stop_s=0.5)
    at = place(concurrency=1)
    held = made.hold(at, body=body)
    await asyncio.sleep(when_s)
    held.cancel()
    await asyncio.wait([held])
    assert held.cancelled()
    assert body.stops == 1
    assert made.activator.held == 0
    let_in(await made.hold(at))
    await made.activator.close()


@in_jumping_time
async def test_each_bound_of_bytes_has_its_own_reason() -> None:
    """Caller, function and tenant are 429, the process's own is 503; each is told while others go on waiting."""
    books = HeldBytes(1000)
    made = Waiting(Platform(start_s=None), held_bytes=books)
    few = tenant("acme", ceilings=Ceilings(held_bytes=300))
    per_caller = cold_place(ColdStart(max_held_bytes_per_caller=50))
    per_function = cold_place(ColdStart(max_held_bytes=50))
    for at in (per_caller, per_function, place(of=few)):
        body = Body(301 if at.tenant is few else 51)
        assert refused(await made.hold(at, body=body)).reason is Reason.QUEUE_FULL
    assert refused(await made.hold(place(), body=Body(1001))).reason is Reason.OVERLOADED
    assert books.total == 0
    held = made.hold(place(), body=Body(1000))
    await asyncio.sleep(0.1)
    assert not held.done()
    held.cancel()
    await made.activator.close()


@in_jumping_time
async def test_a_body_with_a_defect_leaves_no_place_behind() -> None:
    """What it raises is the gate's to answer; the waiting room is as before."""

    class Broken(Body):
        def start(self, account: BodyAccount, failed: Callable[[Deny], None]) -> None:
            raise RuntimeError("defect")

    made, body = Waiting(), Broken()
    with pytest.raises(RuntimeError):
        await made.hold(place(), body=body)
    assert made.activator.held == 0
    assert body.stops == 1
    assert made.metrics.holds_abandoned_total.total() == 0
    await made.activator.close()
