"""Messages leave at the end of the loop's turn, in order, and are never written to what is closed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from authproxy.upstream.outbox import MOST_WAITING, Outbox


class Wire:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def write(self, data: bytes) -> None:
        self.sent.append(data)


async def test_messages_leave_in_their_order_at_the_end_of_the_turn() -> None:
    """Not before, and without anybody asking."""
    outbox, wire = Outbox(asyncio.get_running_loop()), Wire()
    transport = cast("Any", wire)
    outbox.write(transport, b"one")
    outbox.write(transport, b"two")
    assert wire.sent == []
    await asyncio.sleep(0)
    assert wire.sent == [b"one", b"two"]
    outbox.write(transport, b"three")
    await asyncio.sleep(0)
    assert wire.sent == [b"one", b"two", b"three"]


async def test_a_flush_sends_what_waits_and_only_once() -> None:
    """Before something is written or closed by another way."""
    outbox, wire = Outbox(asyncio.get_running_loop()), Wire()
    outbox.write(cast("Any", wire), b"one")
    outbox.flush()
    assert wire.sent == [b"one"]
    await asyncio.sleep(0)
    outbox.flush()
    assert wire.sent == [b"one"]


async def test_a_closed_transport_is_passed_over() -> None:
    """Uvloop raises on such a write; the others go on."""
    outbox, gone, wire = Outbox(asyncio.get_running_loop()), Wire(), Wire()
    outbox.write(cast("Any", gone), b"lost")
    outbox.write(cast("Any", wire), b"kept")
    gone.is_closed = True
    await asyncio.sleep(0)
    assert (gone.sent, wire.sent) == ([], [b"kept"])


async def test_a_message_that_cannot_be_sent_holds_back_no_other() -> None:
    """The error is told to the loop and ends its own connection alone."""

    class Broken(Wire):
        def write(self, data: bytes) -> None:
            raise RuntimeError(data)

        def abort(self) -> None:
            self.is_closed = True

    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    outbox, broken, wire = Outbox(loop), Broken(), Wire()
    outbox.write(cast("Any", broken), b"lost")
    outbox.write(cast("Any", wire), b"kept")
    await asyncio.sleep(0)
    assert (broken.is_closed, wire.sent, len(told)) == (True, [b"kept"], 1)


async def test_what_waits_is_bounded() -> None:
    """Only what has left says that its reader is slow."""
    outbox, wire = Outbox(asyncio.get_running_loop()), Wire()
    for _ in range(MOST_WAITING):
        outbox.write(cast("Any", wire), b"x")
    assert len(wire.sent) == MOST_WAITING
    outbox.write(cast("Any", wire), b"y")
    await asyncio.sleep(0)
    assert wire.sent[-1] == b"y"
