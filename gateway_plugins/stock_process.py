"""
The process behind plugins that the stock server runs: the gate on an event loop of its own, in one background thread.

``kong-pdk`` runs handlers in threads or greenlets, and the gate runs on asyncio, so the loop gets a thread that nobody
else uses. It is started with the first event and stays; a start that failed is told to every event and tried again a
second later. Refuses to know plugins and Kong.
"""

from __future__ import annotations

import asyncio
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from authproxy.settings import Settings, load_settings
from gateway_plugins.front import Front

_COMPOSED_BY: Final = "authproxy.kong_app:KongApp"
"""Stands above this package, which must not import it: named here, resolved when a process is made."""
_RETRY_S: Final = 1.0
"""Between two tries to start: policies that do not load are not read again for each of a thousand requests."""


class Process(Protocol):
    """What is run on the loop; ``authproxy.kong_app.KongApp`` without sockets."""

    @property
    def front(self) -> Front: ...

    async def start(self) -> None: ...

    async def stop(self, drain_s: float | None = None) -> None: ...


class CannotStart(Exception):
    """The process behind the plugins does not run, and why."""


def composed(settings: Settings) -> Process:
    """The process as operators run it, but for the plugin server: that is the stock one."""
    made: Process = pkgutil.resolve_name(_COMPOSED_BY)(settings, has_sockets=False)
    return made


def from_environment() -> Process:
    """By ``PORTERO_*``, ``PORTERO_SETTINGS`` being the file; Kong passes on only what its own config names."""
    file = os.environ.get("PORTERO_SETTINGS")
    return composed(load_settings({}, os.environ, Path(file or "portero.toml"), file_is_required=file is not None))


class Background:
    """One a process."""

    def __init__(self, factory: Callable[[], Process]) -> None:
        self._factory = factory
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._front: Front | None = None
        self._process: Process | None = None
        self._failure: BaseException | None = None
        self._failed_at = -_RETRY_S

    def running(self) -> tuple[asyncio.AbstractEventLoop, Front]:
        """The loop and what handlers need of it. Raises: CannotStart; whoever comes first waits for the start."""
        loop, front = self._loop, self._front
        if front is None or loop is None:
            return self._start()
        return loop, front

    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> tuple[asyncio.AbstractEventLoop, Front]:
        with self._starting:
            if self._loop is not None and self._front is not None:
                return self._loop, self._front
            if time.monotonic() - self._failed_at < _RETRY_S:
                raise CannotStart("the process behind the plugins did not start") from self._failure
            if _threads_are_greenlets():
                raise CannotStart("gevent has patched threading: the event loop would stop the server")
            self._failure = None
            is_up = threading.Event()
            self._thread = threading.Thread(target=self._serve, args=(is_up,), name="portero-gate", daemon=True)
            self._thread.start()
            is_up.wait()
            if self._failure is not None or self._loop is None or self._front is None:
                self._failed_at = time.monotonic()
                raise CannotStart("the process behind the plugins did not start") from self._failure
            return self._loop, self._front

    def _serve(self, is_up: threading.Event) -> None:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            loop = runner.get_loop()
            try:
                self._process = process = self._factory()
                runner.run(process.start())
                front = process.front
            except BaseException as error:  # noqa: BLE001 (told to whoever waits for the start, who raises it)
                self._failure = error
                is_up.set()
                return
            self._loop, self._front = loop, front
            is_up.set()
            loop.run_forever()
            # The runner cancels what is left: who waits for it is told so, and refuses.

    def stop(self, drain_s: float | None = None) -> None:
        """End the process and its thread; events after it are refused. Idempotent; not from the loop's thread."""
        with self._starting:
            loop, process, thread = self._loop, self._process, self._thread
            self._loop = self._front = self._process = self._thread = None
            self._failure, self._failed_at = CannotStart("the process behind the plugins was stopped"), float("inf")
        if loop is None or process is None or thread is None:
            return
        ended = asyncio.run_coroutine_threadsafe(process.stop(drain_s), loop)
        try:
            ended.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 (there is none on Windows)
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _threads_are_greenlets() -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


_background = Background(from_environment)


def background() -> Background:
    """What is behind the plugins of this process."""
    return _background


def set_process(factory: Callable[[], Process]) -> None:
    """Have ``factory`` make the process behind the plugins, from now on; a running one is stopped first."""
    global _background  # noqa: PLW0603 (one a process: the stock server gives plugins nowhere else to keep it)
    _background.stop(0.0)
    _background = Background(factory)
