"""
The composition before Kong: the plugin server, the gate it asks, and the internal listener, in one process.

Kong asks the plugin server about every request; what a function can take at once leaves from Kong. Everything else
(held, counted while it runs, answered later, Portero's own pages) Kong sends to the internal listener, with a pass
under which the judged request waits here. Nothing is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from authproxy.app import App, bound
from authproxy.edges.internal import InternalJudge
from authproxy.edges.judge import Judge
from authproxy.edges.public import PublicEdge
from authproxy.edges.tls import TlsFiles
from authproxy.gate.build import KONG_CONNECTIONS, Parts
from authproxy.gate.passes import Passes
from authproxy.settings import Settings
from gateway_plugins.front import Front
from gateway_plugins.server import PluginServer
from policies.errors import SettingsError

_ON_THE_WAY_S: Final = 1.0
"""Between Kong's plugin and the internal listener, at the end of the process."""


class KongApp(App):
    """
    One Portero process behind Kong.

    Args:
        settings: ``listen`` and the listener's certificate are of no use here.
        names: of the plugins that are served; None: all.
        has_sockets: False: no plugin server is opened, for who runs the plugins by other means (``stock.py``).
    """

    edge: ClassVar[str] = "kong"
    listener: ClassVar[str] = "internal"
    shares_admin: ClassVar[bool] = True
    """Kong starts the next one at a reload whether this one has ended or not; its other addresses are free at once."""

    def __init__(self, settings: Settings, names: Sequence[str] | None = None, *, has_sockets: bool = True) -> None:
        super().__init__(settings)
        self._names = names
        self._has_sockets = has_sockets
        self._passes: Passes | None = None
        self._front: Front | None = None
        self._server: PluginServer | None = None

    @property
    def front(self) -> Front:
        """What plugins need of the process, while it runs. Raises: RuntimeError before ``start``."""
        if self._front is None:
            raise RuntimeError("the app does not run")
        return self._front

    @property
    def sockets(self) -> Path:
        """The folder of the plugins' sockets."""
        return self._settings.kong_sockets

    def _judge(self, parts: Parts) -> Judge:
        self._passes = passes = Passes(parts.gate)
        parts.metrics.kong_passes.read(lambda: len(passes))
        return InternalJudge(parts.gate, passes, parts.metrics.kong_passes_refused_total.cell())

    async def _listen(self, edge: PublicEdge, tls: TlsFiles | None) -> tuple[str, int]:  # noqa: ARG002 (Kong has it)
        settings, parts, passes = self._settings, self.parts, self._passes
        if passes is None:
            raise RuntimeError("the judge is made before the listener")
        host, port = await bound("internal", settings.internal, edge.start(*settings.internal))
        self._front = Front(parts.gate, passes, (settings.internal_name or host, port))
        if self._has_sockets:
            self._server = PluginServer(
                self._front,
                folder=settings.kong_sockets,
                names=self._names,
                socket_mode=int(settings.kong_socket_mode, 8),
                max_connections=KONG_CONNECTIONS,
                metrics=parts.metrics,
            )
            try:
                await self._server.start()
            except OSError as error:
                why, place = (error.strerror or str(error)).lower(), str(error.filename)
                if not place.endswith(".socket"):  # a lock's or a draft's name says nothing to an operator
                    place = str(settings.kong_sockets)
                raise SettingsError([f"kong_sockets: {place}: {why}"]) from None
        return host, port

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuse what Kong asks from now on, then drain as any Portero, all within ``drain_s``; idempotent."""
        patience_s = self._settings.drain if drain_s is None else drain_s
        until = time.monotonic() + patience_s
        server, self._server = self._server, None
        if server is not None:
            self.parts.gate.drain()
            await server.stop(patience_s)
        passes, self._passes = self._passes, None
        if passes is not None:
            await passes.close(min(_ON_THE_WAY_S, max(0.0, until - time.monotonic())))
        await super().stop(max(0.0, until - time.monotonic()))
