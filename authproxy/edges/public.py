"""
The public listener: starting and draining it, how long clients may be silent and how many may be connected.

What becomes of a request is ``delivery.py``'s; one client's connection is ``protocol.py``'s.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from authproxy.audit import get_logger
from authproxy.edges.delivery import Delivery
from authproxy.edges.judge import DeferredJobs, Judge, OwnPages
from authproxy.edges.protocol import ClientConnection, ClientServer
from authproxy.edges.tls import TlsFiles
from authproxy.metrics import Metrics
from authproxy.upstream.pool import Pool
from authproxy.upstream.spool import Spool
from policies.decision import Reason

REFUSING_S: Final = 0.25
"""For the last refusals to be written when the drain deadline has passed."""
_SWEEP_S: Final = 0.25
"""One timer for the silence of all clients."""
_HAS_LEFT: Final[int] = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
"""A client that has closed; where the first is unknown (not Linux), one that has reset its connection."""


class PublicEdge:
    """
    One public listener.

    Args:
        gate: judges each request.
        pool: connections to functions; not closed by the edge.
        pages: Portero's own pages; None: there are none.
        jobs: requests that are answered later; None: there are none.
        spool: where held bodies go that are large, closed by whoever made it; None: the system's temporary folder.
        keepalive_s: seconds a connection may be without a request.
        head_timeout_s: seconds from the first byte of a head to its end.
        body_timeout_s: seconds between two pieces of a request body.
        write_timeout_s: seconds a client may leave everything unread.
        max_connections: clients at once; more are answered 503 ``overloaded``.
        read_buffer_bytes: half of what is buffered of an unread body. Until then a client that leaves is noticed at
        once, even while its request is held; beyond it, when the hold or the timeouts end.
    """

    def __init__(
        self,
        gate: Judge,
        pool: Pool,
        *,
        pages: OwnPages | None = None,
        jobs: DeferredJobs | None = None,
        spool: Spool | None = None,
        metrics: Metrics | None = None,
        keepalive_s: float = 75.0,
        head_timeout_s: float = 15.0,
        body_timeout_s: float = 30.0,
        write_timeout_s: float = 60.0,
        max_connections: int = 8192,
        read_buffer_bytes: int = 128 * 1024,
    ) -> None:
        self.delivery = Delivery(gate, pool, pages, jobs)
        self._owns_spool = spool is None
        self.spool = spool or Spool()
        self.outbox = pool.outbox
        self.keepalive_s = keepalive_s
        self.head_timeout_s = head_timeout_s
        self.body_timeout_s = body_timeout_s
        self.write_timeout_s = write_timeout_s
        self._max_connections = max_connections
        self._read_buffer_bytes = read_buffer_bytes
        self._connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_ended = asyncio.Event()
        self._is_stopping = False
        self.running = 0
        """Connections whose task runs."""
        self.log = get_logger("edge")
        if metrics is not None:
            metrics.client_connections.read(lambda: len(self._connections))

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int, tls: TlsFiles | None = None, *, backlog: int = 1024) -> tuple[str, int]:
        """Listen; port 0 takes a free one. Returns the address that is bound. Raises: OSError."""
        loop = asyncio.get_running_loop()
        factory = ClientServer(
            self,
            loop,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=0,  # our own sweep bounds idle connections and slow heads
            # Above policies' own limits, so that these answer first and with their reason.
            max_line_size=32 * 1024,
            max_field_size=32 * 1024,
            max_headers=256,
            read_bufsize=self._read_buffer_bytes,
        )
        self._server = await loop.create_server(
            factory, host, port, ssl=tls.context if tls is not None else None, backlog=backlog
        )
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def stop(self, drain_s: float, before_cut: Callable[[], Awaitable[None]] | None = None) -> None:
        """
        Accept nobody any more, let what runs finish for ``drain_s`` seconds, then refuse what has not been answered
        (503 ``draining``) and cut what has been answered in part.

        ``before_cut`` refuses what is held and gives back what was taken for it; the rest is refused by the edge. Both
        get ``REFUSING_S`` for that to be written.
        """
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.drain_and_close()
        await self._wait_for_all(drain_s)
        if before_cut is not None and self.running:
            await before_cut()
            await self._wait_for_all(REFUSING_S)
        told = [connection.refuse_draining() for connection in tuple(self._connections)]
        if any(told):
            await self._wait_for_all(REFUSING_S)
        for connection in tuple(self._connections):
            connection.abort()
        await self._wait_for_all(1.0)
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._owns_spool:
            self.spool.close()

    async def _wait_for_all(self, patience_s: float) -> None:
        if self.running:
            self._all_ended.clear()
            try:
                await asyncio.wait_for(self._all_ended.wait(), patience_s)
            except TimeoutError:
                return

    @property
    def connections(self) -> int:
        """Clients connected."""
        return len(self._connections)

    def entered(self, connection: ClientConnection) -> None:
        self._connections.add(connection)
        if self._is_stopping or len(self._connections) > self._max_connections:
            self.delivery.refuse_unread(connection, Reason.OVERLOADED)
            connection.force_close()

    def left(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)

    def ended(self) -> None:
        """The task of a connection is at its end."""
        self.running -= 1
        if not self.running:
            self._all_ended.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        unheard: dict[int, ClientConnection] = {}
        for connection in tuple(self._connections):
            connection.stalled(now)
            if connection.is_unheard and (descriptor := connection.descriptor) >= 0:
                unheard[descriptor] = connection
        for descriptor in _left(unheard):
            unheard[descriptor].abort()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)


def _left(descriptors: Iterable[int]) -> list[int]:
    """Of sockets that are not being read, those whose other side has closed."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, _HAS_LEFT)
    return [descriptor for descriptor, _event in poll.poll(0)]
