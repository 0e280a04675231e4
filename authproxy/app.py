"""
The composition root: settings in, listeners out. Nothing is decided here; every part is made once and handed to the
next.

Order of start: policies first (without them nothing may be answered), then the gate, then the listeners. Order of
stop is the reverse: not ready, no new connections, running requests finish until the drain deadline, then everything
is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Final

from authproxy.audit import configure_logging, get_logger
from authproxy.edges.admin import AdminEdge
from authproxy.edges.public import PublicEdge
from authproxy.edges.tls import TlsFiles
from authproxy.gate.build import Parts, build_parts
from authproxy.settings import Settings
from authproxy.version import VERSION
from policies.errors import SettingsError

_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""The hot path makes no cycles: a collection every 700 objects (CPython's default) costs 5 % and finds nothing."""


class App:
    """One Portero process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._public: PublicEdge | None = None
        self._admin: AdminEdge | None = None
        self._is_ready = False
        self._log = get_logger("app")
        self.public_address: tuple[str, int] = ("", 0)
        self.admin_address: tuple[str, int] = ("", 0)

    async def start(self) -> None:
        """
        Load the policies and listen.

        Raises: PolicyError; SettingsError, also when an address cannot be bound. What was started is stopped again.
        """
        settings = self._settings
        tls = TlsFiles(settings.tls_cert, settings.tls_key) if settings.tls_cert and settings.tls_key else None
        token = _read_token(settings.admin_token)
        self._parts = parts = await build_parts(settings)
        try:
            self._public = PublicEdge(
                parts.gate,
                parts.pool,
                metrics=parts.metrics,
                keepalive_s=settings.keepalive,
                body_timeout_s=settings.body_timeout,
                max_connections=settings.max_connections,
            )
            self._admin = AdminEdge(
                parts.folder, parts.metrics, is_ready=lambda: self._is_ready, token=token, clock=time.time
            )
            self.admin_address = await _bound("admin", settings.admin, self._admin.start(*settings.admin))
            self.public_address = await _bound("listen", settings.listen, self._public.start(*settings.listen, tls=tls))
        except BaseException:
            await self.stop()
            raise
        parts.folder.start()
        # What is alive now stays alive: keep it out of the collector's walks.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._is_ready = True
        self._log.info(
            "portero is ready",
            version=VERSION,
            public=f"{self.public_address[0]}:{self.public_address[1]}",
            admin=f"{self.admin_address[0]}:{self.admin_address[1]}",
            revision=parts.folder.active.revision,
        )

    async def stop(self, drain_s: float | None = None) -> None:
        """Drain and stop; idempotent."""
        self._is_ready = False
        parts, self._parts = self._parts, None
        if parts is None:
            return
        parts.gate.drain()
        parts.activator.drain()
        await parts.folder.stop()
        if self._public is not None:
            patience_s = self._settings.drain if drain_s is None else drain_s
            await self._public.stop(patience_s, before_cut=parts.activator.close)
        parts.live.cut_all()
        await parts.close()
        if self._admin is not None:
            await self._admin.stop()

    @property
    def parts(self) -> Parts:
        """What the process is made of, while it runs. Raises: RuntimeError before ``start`` and after ``stop``."""
        if self._parts is None:
            raise RuntimeError("the app does not run")
        return self._parts

    def reopen(self) -> None:
        """SIGHUP: the audit file was moved away by a log rotation."""
        if self._parts is not None and self._parts.audit is not None:
            self._parts.audit.reopen()


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logging(settings.log_level)
    app = App(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, app.reopen)
    try:
        await app.start()
        await stopping.wait()
    finally:
        await app.stop()
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGHUP)


async def _bound(setting: str, address: tuple[str, int], starting: Awaitable[tuple[str, int]]) -> tuple[str, int]:
    """Await a listener's start; an address that cannot be bound becomes a sentence about its setting."""
    try:
        return await starting
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        raise SettingsError([f"{setting}: {address[0]}:{address[1]} cannot be listened on: {why}"]) from None


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"admin_token: {file} cannot be read ({error.__class__.__name__})"]) from None
    if len(token) < 16:
        raise SettingsError([f"admin_token: {file} holds less than 16 characters"])
    return token
