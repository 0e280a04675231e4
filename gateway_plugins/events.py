"""
Running events: a handler's generator is resumed where Kong's message is read, and its next wish is the reply.

An event lives from ``HandleEvent`` to the handler's end, over any connections; nothing is kept of it afterwards. While
a handler waits for the gate, Kong is given something cheap to do before its patience ends (``kong.node.get_id``), and
asked again. A handler that fails is a refusal (500), never silence and never an error that Kong would pass by; an event
that Kong never comes back to is closed. It refuses to know what is judged.

Longer than other modules: every way in which an event can go on and end is read together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from authproxy.audit import get_logger
from authproxy.gate.names import new_request_id
from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Exit, Handler, Wait
from gateway_plugins.instances import Instance, new_ids
from gateway_plugins.kong_log import Throttle
from gateway_plugins.protocol import KongConnection, pack
from policies.decision import Deny, Reason
from policies.problem import problem

_EXIT: Final = "kong.response.exit"
_TERMINAL: Final = frozenset({_EXIT, "kong.response.error"})
"""After these Kong does not come back."""
_BACK_WITHIN_S: Final = 1.0
"""A call takes Kong microseconds; who has not come back then has died, or is stuck for longer than a drain waits."""
_KEEPALIVE: Final = {"Method": "kong.node.get_id", "Args": ()}
"""Costs Kong nothing, works in every phase, and its result is of no use."""
_UNKNOWN: Final = Deny(Reason.POLICY_UNAVAILABLE, "the plugin server knows nothing of this request any more")
"""For a message about an event that is not there: an error would let the request through to its service."""

Send = Callable[[Any], "Call | Wait"]


class Counts:
    """What became of one plugin's events; one-element lists, as ``metrics.Counter.cell`` hands them out."""

    OUTCOMES: Final = ("allowed", "answered", "failed", "overloaded", "draining", "abandoned", "unknown")

    def __init__(
        self, cell: Callable[[str], list[float]] = lambda _outcome: [0.0], calls: list[float] | None = None
    ) -> None:
        self.calls = [0.0] if calls is None else calls
        """Calls to Kong's PDK."""
        self.allowed = cell("allowed")
        """The handler ended, and Kong goes on."""
        self.answered = cell("answered")
        """Kong was told what to answer, by ``Exit``."""
        self.failed = cell("failed")
        """The handler raised, or wished for what there is not."""
        self.overloaded = cell("overloaded")
        self.draining = cell("draining")
        self.abandoned = cell("abandoned")
        """Kong never came back, or its connection broke while the handler waited."""
        self.unknown = cell("unknown")
        """Kong came back after the event had ended, or to another process than the one it had begun in."""


class Event:
    """One request in one plugin."""

    __slots__ = (
        "_events",
        "connection",
        "counts",
        "future",
        "handler",
        "id",
        "instance",
        "message_id",
        "timer",
        "touched_at",
    )

    def __init__(self, events: Events, event_id: int, counts: Counts, instance: Instance, handler: Handler) -> None:
        self._events = events
        self.id = event_id
        self.counts = counts
        self.instance = instance
        self.handler = handler
        self.touched_at = 0.0
        """When Kong was given something to do; it has to come back."""
        self.future: asyncio.Future[Any] | None = None
        """What the handler waits for."""
        self.connection: KongConnection | None = None
        """Where Kong waits meanwhile; None: it is at work for us."""
        self.message_id = 0
        self.timer: asyncio.TimerHandle | None = None

    def lost(self) -> None:
        """Kong's connection broke while it waited: it has answered 500 or died."""
        self.connection = None
        self._events.abandon(self)


class Events:
    """
    Those of the process.

    Args:
        at_most: events that may run; a new one beyond them is refused, 503.
        keepalive_s: Kong is given something to do when it has waited so long; below its read timeout (60 s).
        step_timeout_s: Kong has to come back within this time with what it was asked for.
    """

    def __init__(self, *, at_most: int = 10_000, keepalive_s: float = 15.0, step_timeout_s: float = 120.0) -> None:
        self._at_most = at_most
        self._keepalive_s = keepalive_s
        self._step_timeout_s = step_timeout_s
        self._running: dict[int, Event] = {}
        self._ids = new_ids()
        self._cancelled: set[asyncio.Future[Any]] = set()
        self._log = get_logger("kong")
        self._failures = Throttle()
        self.is_draining = False
        """No event begins any more."""
        self._is_closed = False
        """Nor does any go on."""

    def __len__(self) -> int:
        return len(self._running)

    def is_quiet(self, now: float) -> bool:
        """
        Whether nobody is to be waited for: what Kong is at work for it comes back with at once, or never.

        ``now``: of ``time.monotonic``.
        """
        events = self._running.values()
        return all(event.connection is None and event.touched_at <= now - _BACK_WITHIN_S for event in events)

    def busy(self) -> set[Instance]:
        """Instances that have events."""
        return {event.instance for event in self._running.values()}

    # -- what Kong says ----------------------------------------------------------------------------------------------

    def begin(
        self,
        instance: Instance,
        counts: Counts,
        front: Front,
        message_id: int,
        connection: KongConnection,
    ) -> bytes | None:
        """A new event. The reply, or None: it comes later by ``connection.answer``."""
        event_id = next(self._ids)
        if self.is_draining or len(self._running) >= self._at_most:
            (counts.draining if self.is_draining else counts.overloaded)[0] += 1
            return _refusal(message_id, event_id, Deny(Reason.DRAINING if self.is_draining else Reason.OVERLOADED))
        try:
            handler = instance.plugin.answer(front)
            send = handler.send
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 (whatever a handler raises is a refusal)
            return self._failure(counts, error, message_id, event_id)
        event = Event(self, event_id, counts, instance, handler)
        self._running[event_id] = event
        return self._run(event, send, None, message_id, connection)

    def step(
        self, counts: Counts, event_id: Any, value: Any, message_id: int, connection: KongConnection
    ) -> bytes | None:
        """What Kong has found out. ``counts`` are the asking plugin's: an event of another plugin is unknown."""
        event = self._find(counts, event_id)
        if event is None:
            return _lost(message_id, event_id)
        if self._is_closed:
            counts.draining[0] += 1
            self._drop(event)
            return _refusal(message_id, event.id, Deny(Reason.DRAINING))
        future = event.future
        if future is None:
            return self._run(event, event.handler.send, value, message_id, connection)
        if not future.done():
            self._hold(event, message_id, connection)
            return None
        event.future = None
        return self._run(event, *_settled(event, future), message_id, connection)

    def fail(self, counts: Counts, event_id: Any, message_id: int) -> bytes:
        """Kong could not do what it was asked for."""
        event = self._find(counts, event_id)
        if event is None:
            return _lost(message_id, event_id)
        self._drop(event)
        return self._failure(counts, RuntimeError("a call of Kong's PDK failed"), message_id, event.id)

    def _find(self, counts: Counts, event_id: Any) -> Event | None:
        """The plugin's event that Kong is at work for. One that Kong waits for has a message outstanding already."""
        try:
            event = self._running.get(event_id)
        except TypeError:  # no number at all
            event = None
        if event is None or event.counts is not counts or event.connection is not None:
            counts.unknown[0] += 1
            return None
        return event

    # -- what the handler says ---------------------------------------------------------------------------------------

    def _run(self, event: Event, send: Send, value: Any, message_id: int, connection: KongConnection) -> bytes | None:
        counts = event.counts
        try:
            while True:
                wish = send(value)
                if type(wish) is Call:
                    method, args = wish
                    event.touched_at = time.monotonic()
                    data = {"Method": method, "Args": args}
                    reply = pack((1, message_id, None, {"Data": data, "EventId": event.id}))
                    counts.calls[0] += 1
                    if method in _TERMINAL:
                        counts.answered[0] += 1
                        self._drop(event)
                    return reply
                if type(wish) is not Wait:
                    raise TypeError(f"a handler yields Call or Wait, not {type(wish).__name__}")  # noqa: TRY301 (one way out)
                future = asyncio.ensure_future(wish.awaitable)
                if not future.done():
                    event.future = future
                    future.add_done_callback(lambda done: self._on_done(event, done))
                    self._hold(event, message_id, connection)
                    return None
                send, value = _settled(event, future)
        except StopIteration as end:
            return self._ended(event, end.value, message_id)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 (whatever a handler raises is a refusal)
            self._drop(event)
            return self._failure(counts, error, message_id, event.id)

    def _ended(self, event: Event, result: Exit | None, message_id: int) -> bytes:
        counts = event.counts
        del self._running[event.id]
        if result is None:
            counts.allowed[0] += 1
            return pack((1, message_id, None, {"Data": "ret", "EventId": event.id}))
        try:
            if type(result) is not Exit:
                raise TypeError(f"a handler returns Exit or None, not {type(result).__name__}")  # noqa: TRY301 (one way out)
            reply = _exit(message_id, event.id, result)
        except Exception as error:  # noqa: BLE001 (what cannot be packed or is no Exit fails in many ways)
            return self._failure(counts, error, message_id, event.id)
        counts.calls[0] += 1
        counts.answered[0] += 1
        return reply

    def _failure(self, counts: Counts, error: BaseException, message_id: int, event_id: int) -> bytes:
        counts.failed[0] += 1
        self._tell("handler-failed", error)
        return _refusal(message_id, event_id, Deny(Reason.INTERNAL_ERROR))

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _hold(self, event: Event, message_id: int, connection: KongConnection) -> None:
        event.message_id = message_id
        event.connection = connection
        event.timer = asyncio.get_running_loop().call_later(self._keepalive_s, self._keep_alive, event)
        connection.waiting = event

    def _release(self, event: Event) -> KongConnection | None:
        """The connection that Kong waits on, if it does; it is for the caller to answer on."""
        if event.timer is not None:
            event.timer.cancel()
            event.timer = None
        connection, event.connection = event.connection, None
        return connection

    def _keep_alive(self, event: Event) -> None:
        connection = self._release(event)
        if connection is not None:
            event.touched_at = time.monotonic()
            event.counts.calls[0] += 1
            connection.answer(pack((1, event.message_id, None, {"Data": _KEEPALIVE, "EventId": event.id})))

    def _on_done(self, event: Event, future: asyncio.Future[Any]) -> None:
        self._cancelled.discard(future)
        if event.future is not future:
            return  # a step has found the result
        if event.id not in self._running:
            event.future = None
            self._end_handler(event, future)
            return
        connection = self._release(event)
        if connection is None:
            return  # Kong is at work; its step will find the result
        event.future = None
        reply = self._run(event, *_settled(event, future), event.message_id, connection)
        if reply is not None:
            connection.answer(reply)

    # -- ends --------------------------------------------------------------------------------------------------------

    def abandon(self, event: Event) -> None:
        """Nobody will ask for the rest of it."""
        event.counts.abandoned[0] += 1
        self._drop(event)

    def _drop(self, event: Event) -> None:
        """
        Forget the event; its handler ends now, or as soon as what it waits for is cancelled. The caller has answered,
        or will.
        """
        self._running.pop(event.id, None)
        self._release(event)
        future = event.future
        if future is not None and not future.done():
            future.cancel()
            self._cancelled.add(future)
            return
        event.future = None
        self._end_handler(event, future)

    def _end_handler(self, event: Event, future: asyncio.Future[Any] | None) -> None:
        """Close the generator. What its wait has come to it is given first: it alone knows what that holds."""
        handler = event.handler
        try:
            if future is not None and not future.cancelled() and future.exception() is None:
                wish = handler.send(future.result())
                if type(wish) is Wait and asyncio.iscoroutine(wish.awaitable):
                    wish.awaitable.close()  # never to be awaited
            handler.close()
        except StopIteration:
            return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 (the event is over, however its handler takes it)
            self._tell("handler-failed-at-its-end", error)

    def sweep(self, now: float) -> None:
        """Close the events that Kong has not come back to. ``now``: of ``time.monotonic``."""
        for event in list(self._running.values()):
            if event.connection is None and event.touched_at <= now - self._step_timeout_s:
                self.abandon(event)

    async def close(self, patience_s: float) -> None:
        """
        Refuse what runs (503 ``draining``): at once where Kong waits, at its next step where it is at work, for at most
        ``patience_s``; then forget everything.
        """
        self.is_draining = self._is_closed = True
        for event in list(self._running.values()):
            connection = event.connection
            if connection is not None:
                event.counts.draining[0] += 1
                self._drop(event)
                connection.answer(_refusal(event.message_id, event.id, Deny(Reason.DRAINING)))
        until = time.monotonic() + patience_s
        while self._running and time.monotonic() < until:  # noqa: ASYNC110 (polled, so that no event has to tell)
            await asyncio.sleep(0.01)
        for event in list(self._running.values()):
            self.abandon(event)
        if self._cancelled:
            await asyncio.wait(self._cancelled, timeout=patience_s)

    def _tell(self, what: str, error: BaseException) -> None:
        if self._failures.admits():
            self._log.error(what, exc_info=error, left_out=self._failures.taken())


def _settled(event: Event, future: asyncio.Future[Any]) -> tuple[Send, Any]:
    """How the handler goes on with what it waited for."""
    if future.cancelled():
        return event.handler.throw, asyncio.CancelledError()
    error = future.exception()
    if error is not None:
        return event.handler.throw, error
    return event.handler.send, future.result()


def _exit(message_id: int, event_id: int, result: Exit) -> bytes:
    status, fields, body = result
    data = {"Method": _EXIT, "Args": (status, body, dict(fields))}
    return pack((1, message_id, None, {"Data": data, "EventId": event_id}))


def _lost(message_id: int, event_id: Any) -> bytes:
    return _refusal(message_id, event_id if type(event_id) is int else 0, _UNKNOWN)


def _refusal(message_id: int, event_id: int, deny: Deny) -> bytes:
    document = problem(deny, new_request_id())
    return _exit(message_id, event_id, Exit(document.status, dict(document.fields), document.body))
