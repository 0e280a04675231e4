"""
The composition root: settings in, listeners out. Nothing is decided here; every part is made once and handed to the
next.

Order of start: policies first (without them nothing may be answered), then the gate, then the listeners. Order of
stop is the reverse: not ready, no new connections, running requests finish until the drain deadline, then everything
is cut.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar, Final

from authproxy.audit import configure_logging, get_logger
from authproxy.edges.admin import AdminEdge
from authproxy.edges.jobs import Jobs
from authproxy.edges.judge import Judge
from authproxy.edges.public import PublicEdge
from authproxy.edges.tls import TlsFiles
from authproxy.gate.build import Parts, build_parts
from authproxy.pages.pages import Pages
from authproxy.settings import Settings
from authproxy.upstream.spool import Spool
from authproxy.version import VERSION
from policies.errors import SettingsError

_GC_THRESHOLDS: Final = (50_000, 20, 100)
"""The hot path makes no cycles: a collection every 700 objects (CPython's default) costs 5 % and finds nothing."""


class App:
    """
    One Portero process: a reverse proxy. Before Kong it is another one (``kong_app.py``), of the same parts.

    ``edge`` is its name in metrics and audit lines, ``listener`` that of its listener in the log.
    """

    edge: ClassVar[str] = "proxy"
    listener: ClassVar[str] = "public"
    shares_admin: ClassVar[bool] = False
    """Whether the next process may have the admin address while this one drains."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._public: PublicEdge | None = None
        self._admin: AdminEdge | None = None
        self._jobs: Jobs | None = None
        self._spool = Spool()
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
        tls, token = _read_files(settings)
        self._parts = parts = await build_parts(settings, self.edge)
        try:
            self._jobs = _jobs(parts, settings)
            self._public = PublicEdge(
                self._judge(parts),
                parts.pool,
                pages=_pages(parts, settings, self._jobs),
                jobs=self._jobs,
                spool=self._spool,
                metrics=parts.metrics,
                keepalive_s=settings.keepalive,
                body_timeout_s=settings.body_timeout,
                max_connections=settings.max_connections,
            )
            self._admin = AdminEdge(
                parts.folder, parts.metrics, is_ready=lambda: self._is_ready, token=token, clock=time.time
            )
            self.admin_address = await bound(
                "admin", settings.admin, self._admin.start(*settings.admin, is_shared=self.shares_admin)
            )
            self.public_address = await self._listen(self._public, tls)
        except BaseException:  # cancelled while starting, too: no listener and no child may be left
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
            revision=parts.folder.active.revision,
            admin=f"{self.admin_address[0]}:{self.admin_address[1]}",
            **{self.listener: f"{self.public_address[0]}:{self.public_address[1]}"},
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
        patience_s = self._settings.drain if drain_s is None else drain_s
        await asyncio.gather(
            *([] if self._jobs is None else [self._jobs.stop(patience_s)]),
            *([] if self._public is None else [self._public.stop(patience_s, before_cut=parts.activator.close)]),
        )
        self._spool.close()  # after the jobs, whose bodies may lie there
        parts.live.cut_all()
        await parts.close()
        if self._admin is not None:
            await self._admin.stop()

    def _judge(self, parts: Parts) -> Judge:
        """Who judges what comes in at the listener."""
        return parts.gate

    async def _listen(self, edge: PublicEdge, tls: TlsFiles | None) -> tuple[str, int]:
        """Open the listener, the last thing of a start. Raises: SettingsError."""
        address = self._settings.listen
        return await bound("listen", address, edge.start(*address, tls=tls))

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
    await run_app(App(settings), settings.drain)


async def run_app(app: App, drain_s: float) -> None:
    """Run ``app`` until SIGTERM or SIGINT, and drain it then for at most so many seconds."""
    log = get_logger("app")
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, app.reopen)
    try:
        await app.start()
        await stopping.wait()
        log.info("portero drains", at_most_s=drain_s)
        await app.stop()
        log.info("portero has stopped")
    finally:
        await app.stop()
        loop.remove_signal_handler(signal.SIGHUP)


async def bound(setting: str, address: tuple[str, int], starting: Awaitable[tuple[str, int]]) -> tuple[str, int]:
    """Await a listener's start; an address that cannot be bound becomes a sentence about its setting."""
    try:
        return await starting
    except OSError as error:
        why = (os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)).lower()
        raise SettingsError([f"{setting}: {address[0]}:{address[1]} cannot be listened on: {why}"]) from None


def _jobs(parts: Parts, settings: Settings) -> Jobs:
    metrics = parts.metrics
    return Jobs(
        parts.gate,
        parts.pool,
        parts.results,
        parts.callbacks,
        lambda tenant, outcome: metrics.results_total.add((tenant, outcome)),
        open_account=parts.activator.open_account,
        retry_after_s=parts.activator.retry_after_s,
        allow_loopback_http=settings.allow_loopback_http,
    )


def _pages(parts: Parts, settings: Settings, jobs: Jobs) -> Pages:
    identity = parts.identity
    return Pages(
        identify=parts.identifier.identify,
        sessions=identity.sessions,
        client=identity.client,
        own_tokens=identity.own_tokens,
        jwks=identity.keys.jwks,
        state=identity.state,
        revocations=identity.revocations,
        sealer=identity.sealer,
        store=parts.store,
        results=parts.results,
        forget_job=jobs.forget,
        allow_loopback_http=settings.allow_loopback_http,
        metrics=parts.metrics,
    )


def _read_files(settings: Settings) -> tuple[TlsFiles | None, str | None]:
    """
    What settings name files for: the listener's certificate and the admin token.

    Raises: SettingsError with every mistake, that of a folder of secrets which is not there included.
    """
    mistakes: list[str] = []
    tls, token = None, None
    if settings.secrets is not None and not settings.secrets.is_dir():
        mistakes.append(f"secrets: {settings.secrets} is no folder that can be read")
    try:
        tls = _read_tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    except SettingsError as error:
        mistakes.extend(error.mistakes)
    try:
        token = _read_token(settings.admin_token)
    except SettingsError as error:
        mistakes.extend(error.mistakes)
    if mistakes:
        raise SettingsError(mistakes)
    return tls, token


def _read_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Raises: SettingsError; OpenSSL's own errors name no file."""
    if certificate is None or key is None:
        return None
    mistakes = []
    for setting, file in (("tls_cert", certificate), ("tls_key", key)):
        try:
            content = file.read_bytes()
        except OSError as error:
            mistakes.append(f"{setting}: {file} cannot be read ({error.strerror})")
            continue
        if b"ENCRYPTED" in content:  # OpenSSL would ask the terminal for a password, and wait
            mistakes.append(f"{setting}: the key in {file} is encrypted; decrypt it first (openssl pkey)")
    if client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca)
        except OSError:  # ssl.SSLError is one
            mistakes.append(f"tls_client_ca: {client_ca} cannot be read, or holds no certificates in PEM form")
    if mistakes:
        raise SettingsError(mistakes)
    try:
        return TlsFiles(certificate, key, client_ca)
    except OSError as error:  # ssl.SSLError is one
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError([f"tls_key: {key} is not the key of the certificate in {certificate}"]) from None
        raise SettingsError(
            [f"tls_cert, tls_key: {certificate} and {key} are not a certificate chain and its private key in PEM form"]
        ) from None


def _read_token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise SettingsError([f"admin_token: {file} cannot be read ({why})"]) from None
    if len(token) < 16:
        raise SettingsError([f"admin_token: {file} holds less than 16 characters; try openssl rand -hex 32"])
    return token
