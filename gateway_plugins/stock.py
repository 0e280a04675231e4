"""
Portero's plugins on the stock ``kong-pdk`` server: the same handlers, driven from its threads (or greenlets, ``-g``).

Each turn of a handler happens on the gate's loop, in the one background thread; each call to Kong in the handler's own
thread, with the object that the server gave it. What the stock server does wrong and a plugin can mend is mended here:

- an exception is a 500 problem document, never the silence that lets a request through after 60 seconds;
- a wait is broken by a cheap call before Kong's read timeout, and before the first call at once: until then all other
  events of the plugin wait;
- ``exit`` is the last thing called and never the first: an event whose first call it is stays in memory for ever;
  a greenlet ends with it, instead of waiting for somebody to take its result.

What it cannot mend stands in kong/README.md. The program is ``stock_main.py``. This module refuses to know what is
judged, and it imports no ``kong_pdk``.

    python -m gateway_plugins.stock portero-rbac --settings FILE -p DIR --socket-name portero-rbac.socket [-g]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, Final

from authproxy.audit import get_logger
from authproxy.gate.names import new_request_id
from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Exit, Handler, Plugin, Wait
from gateway_plugins.kong_log import Throttle
from gateway_plugins.stock_process import Background, CannotStart, background, set_process
from gateway_plugins.stock_seats import SILENCE, Seat, seat_here
from policies.decision import Deny, Reason
from policies.problem import problem

__all__ = ["SILENCE_S", "run", "set_process"]

SILENCE_S: Final = 15.0
"""Longest silence towards Kong, which gives up a plugin after 60 s by default (nginx_http_lua_socket_read_timeout)."""
_FIRST_SILENCE_S: Final = 0.05
"""Until the first call: so long the stock server lets no other event of the plugin begin."""
_STILL_HERE: Final = Call("kong.node.get_id")
"""Costs Kong nothing, and is allowed in every phase."""
_INTEGERS: Final = range(-(2**63), 2**64)
"""Those that MessagePack can say."""

_log = get_logger("kong")
_failures = Throttle()


def run(plugin: Plugin, kong: Any) -> None:
    """
    One event, from beginning to end; what ``Plugin.access`` does on the stock server.

    Raises: in a greenlet GreenletExit after Kong was told to answer: the greenlet ends there.
    """
    pdk = _Pdk(kong)
    try:
        ending = _answer(plugin, pdk)
    except Exception as error:  # noqa: BLE001 (whatever broke, the request must not pass)
        if _failures.admits():
            _log.error("a plugin failed", plugin=type(plugin).__module__, exc_info=error, left_out=_failures.taken())
        ending = _broken()
    if ending is not None:
        pdk.exit(ending)


class _Failed:
    """What a handler's turn ends with when it raises."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _answer(plugin: Plugin, pdk: _Pdk) -> Exit | None:
    """Raises: whatever the handler, the process or a call to Kong raises."""
    behind = background()
    loop, front = behind.running()
    seat = seat_here()
    turns = _Turns(plugin, front, loop, seat)
    try:
        turns.resume(None)
        return _steps(turns, seat, pdk, behind)
    except BaseException:
        turns.close()
        raise


def _steps(turns: _Turns, seat: Seat, pdk: _Pdk, behind: Background) -> Exit | None:
    while True:
        step = seat.take(SILENCE_S if pdk.has_called else _FIRST_SILENCE_S)
        if type(step) is Call or step is SILENCE:
            result = pdk.call(step if type(step) is Call else _STILL_HERE)
            if step is not SILENCE:
                turns.resume(result)
            elif not behind.is_alive():
                raise CannotStart("the gate's loop has ended")
        elif type(step) is _Failed:
            raise RuntimeError("the handler failed") from step.error
        elif step is None or type(step) is Exit:
            return step
        else:
            raise TypeError(f"a handler yielded {type(step).__name__}")


class _Turns:
    """One event's generator. ``resume`` and ``close`` may be called anywhere, all else runs on the loop."""

    __slots__ = ("_awaited", "_front", "_generator", "_is_closed", "_loop", "_plugin", "_seat")

    def __init__(self, plugin: Plugin, front: Front, loop: asyncio.AbstractEventLoop, seat: Seat) -> None:
        self._plugin = plugin
        self._front = front
        self._loop = loop
        self._seat = seat
        self._generator: Handler | None = None
        self._awaited: asyncio.Future[Any] | None = None
        self._is_closed = False

    def resume(self, value: Any) -> None:
        """Raises: RuntimeError when the loop is closed."""
        self._loop.call_soon_threadsafe(self._go_on, value)

    def close(self) -> None:
        """Nobody will resume it: let it give back what it holds. Of a loop that has ended nothing is held."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        """What a wait comes to is given to the handler first: it alone knows what that holds."""
        self._is_closed = True
        if self._awaited is not None:
            self._awaited.cancel()
        elif self._generator is not None:
            self._generator.close()

    def _go_on(self, value: Any, error: BaseException | None = None) -> None:
        try:
            generator = self._generator
            if generator is None:
                generator = self._generator = self._plugin.answer(self._front)
            step = generator.send(value) if error is None else generator.throw(error)
            if type(step) is Wait:
                self._awaited = asyncio.ensure_future(step.awaitable, loop=self._loop)
                self._awaited.add_done_callback(self._come)
                if self._is_closed:
                    self._awaited.cancel()
                return
            if self._is_closed:
                generator.close()
        except StopIteration as stop:
            self._give(stop.value)
        except BaseException as failure:  # noqa: BLE001 (a cancelled wait is none of Exception's; all are refusals)
            self._give(_Failed(failure))
        else:
            self._give(step)

    def _give(self, step: Any) -> None:
        if not self._is_closed:  # else the seat is empty
            self._seat.give(step)

    def _come(self, future: asyncio.Future[Any]) -> None:
        self._awaited = None
        if future.cancelled():
            self._go_on(None, asyncio.CancelledError())
        elif (error := future.exception()) is not None:
            self._go_on(None, error)
        else:
            self._go_on(future.result())


class _Pdk:
    """Kong, as the stock server hands it to a plugin: any attribute path can be called, strings come back as str."""

    __slots__ = ("_kong", "has_called")

    def __init__(self, kong: Any) -> None:
        self._kong = kong
        self.has_called = False

    def call(self, call: Call) -> Any:
        """Raises: TypeError, ValueError for what MessagePack cannot say: the server would wait for ever."""
        target = self._kong
        for name in call.method.split(".")[1:]:
            target = getattr(target, name)
        arguments = [_sent(argument) for argument in call.args]
        self.has_called = True
        result = target(*arguments)
        if type(result) is tuple:  # the server's "lua style", its default: (value, error), and the latter never comes
            result = result[0]
        return _received(result)

    def exit(self, ending: Exit) -> None:
        """The last call of an event."""
        if not self.has_called:
            self.call(_STILL_HERE)
        self.call(Call("kong.response.exit", (ending.status, ending.body, dict(ending.fields))))
        gevent: Any = sys.modules.get("gevent")
        if gevent is not None and isinstance(gevent.getcurrent(), gevent.Greenlet):
            raise gevent.GreenletExit


def _received(value: Any) -> Any:
    """Bytes for str, as the handler's contract has them."""
    kind = type(value)
    if kind is str:
        return value.encode("utf-8", "surrogateescape")
    if kind is list:
        return [_received(one) for one in value]
    if kind is dict:
        return {_received(name): _received(one) for name, one in value.items()}
    return value


def _sent(value: Any) -> Any:
    """Raises: TypeError, ValueError."""
    kind = type(value)
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogateescape")
        return value
    if kind is dict:
        return {_sent(name): _sent(one) for name, one in value.items()}
    if kind is list or kind is tuple:
        return [_sent(one) for one in value]
    if kind is int and value not in _INTEGERS:
        raise ValueError("a number that MessagePack cannot say")
    if value is None or kind in {bytes, int, float, bool}:
        return value
    raise TypeError(f"MessagePack cannot say {kind.__name__}")


def _broken() -> Exit:
    document = problem(Deny(Reason.INTERNAL_ERROR), new_request_id())
    return Exit(document.status, dict(document.fields), document.body)


if __name__ == "__main__":
    from gateway_plugins.plugins import PLUGINS
    from gateway_plugins.stock_main import main

    main(PLUGINS)
