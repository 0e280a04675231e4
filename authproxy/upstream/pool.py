"""
Connections to upstreams, kept alive and bounded: how many may be open, how many may be dialled at once, how many
requests may wait for one, and how long each of these may take.

It decides which connection a request leaves by and refuses to know what the request is. A connection comes back only by
``give_back``, called by the consumer that has taken the whole answer.

Longer than other modules: who gets a connection, and when one is of no use any more, is one decision.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import deque
from contextlib import suppress
from math import inf
from typing import Final

from authproxy.metrics import Metrics
from authproxy.upstream.connection import Connection
from authproxy.upstream.departure import Address
from authproxy.upstream.failures import CONNECT_TIMEOUT, TOO_MANY, UNREACHABLE, ForwardFailed
from authproxy.upstream.outbox import Outbox
from policies.decision import Reason

SWEEP_S: Final = 0.1
"""One timer for all deadlines: a request sets a number instead of arming a timer (0.5 us); timeouts are this coarse."""
IDLE_S: Final = 4.0
"""Less than Node's 5 s, the shortest default among servers that functions are written with: otherwise a request
leaves on a connection that the other side is just closing, and a POST may not be tried again."""


class _Lane:
    """All that is kept of one address."""

    __slots__ = ("idle", "opened", "waiters")

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        """Oldest first; taken from the end, so that what is not needed grows old and is closed."""
        self.opened = 0
        """Connections that are open or being dialled."""
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()


class Pool:
    """
    The connections of one process, by address.

    Args:
        max_per_address: connections to one address, those in use included.
        max_total: all connections; with the clients' it must fit into the limit of file descriptors.
        max_dials: connections being opened at one time.
        max_waiting: requests that wait for a connection; more are refused (``overloaded``).
        max_idle: connections that one address may keep unused.
    """

    def __init__(
        self,
        *,
        max_per_address: int = 1024,
        max_total: int = 4096,
        max_dials: int = 128,
        max_waiting: int = 4096,
        max_idle: int = 256,
        idle_s: float = IDLE_S,
        tls: ssl.SSLContext | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._loop)
        """Through it leaves what is whole; shared with the edge."""
        self._lanes: dict[Address, _Lane] = {}
        self._connections: set[Connection] = set()
        self._max_per_address = max_per_address
        self._max_total = max_total
        self._max_waiting = max_waiting
        self._max_idle = max_idle
        self._idle_s = idle_s
        self._tls = tls
        self._dials = asyncio.Semaphore(max_dials)
        self._total = 0
        self._waiting = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._metrics = metrics
        if metrics is not None:
            metrics.upstream_connections.read(lambda: self.in_use, ("used",))
            metrics.upstream_connections.read(lambda: self._idle, ("idle",))

    @property
    def total(self) -> int:
        """Connections that are open or being dialled."""
        return self._total

    @property
    def _idle(self) -> int:
        return sum(len(lane.idle) for lane in self._lanes.values())

    @property
    def in_use(self) -> int:
        return len(self._connections) - self._idle

    # -- taking ----------------------------------------------------------------------------------------------------

    def take_now(self, address: Address) -> Connection | None:
        """A connection that is open and unused, else None."""
        lane = self._lanes.get(address)
        if lane is None:
            return None
        idle = lane.idle
        while idle:
            connection = idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():
                connection.is_taken = True
                return connection
        return None

    async def take(self, address: Address, connect_s: float) -> Connection:
        """
        A new connection, or the next that comes back when no more may be opened.

        Raises: ForwardFailed (upstream-unreachable, upstream-timeout, overloaded).
        """
        lane = self._lanes.setdefault(address, _Lane())
        if self._is_closed:
            raise ForwardFailed(Reason.DRAINING)
        if self._may_open(lane):
            return await self._dial(address, lane, connect_s)
        if self._waiting >= self._max_waiting:
            raise ForwardFailed(Reason.OVERLOADED, TOO_MANY)
        self._waiting += 1
        try:
            async with asyncio.timeout(connect_s):
                while True:
                    connection = await self._wait(lane)
                    if connection is not None:
                        return connection
                    if self._may_open(lane):
                        break
        except TimeoutError:
            raise ForwardFailed(Reason.OVERLOADED, TOO_MANY) from None
        finally:
            self._waiting -= 1
        return await self._dial(address, lane, connect_s)

    async def _wait(self, lane: _Lane) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        lane.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # What was handed over while the waiter was being cancelled must not be lost.
                connection = waiter.result()
                if connection is not None:
                    self.give_back(connection)
                else:
                    self._wake_one(lane)
            else:
                with suppress(ValueError):  # whoever looked for somebody to hand a connection to has passed it over
                    lane.waiters.remove(waiter)
            raise

    def _may_open(self, lane: _Lane) -> bool:
        if lane.opened >= self._max_per_address:
            return False
        return self._total < self._max_total or self._evict()

    def _evict(self) -> bool:
        """Close the oldest unused connection of any address, so that another address may open one."""
        for lane in self._lanes.values():
            if lane.idle:
                lane.idle.popleft().abort()
                # Its place is free when the socket is; going one over for that moment is harmless.
                return True
        return False

    async def _dial(self, address: Address, lane: _Lane, connect_s: float) -> Connection:
        connection = Connection(self._loop, self, address)
        lane.opened += 1
        self._total += 1
        connection.is_counted = True
        self._start_sweeping()
        is_connected = False
        try:
            async with asyncio.timeout(connect_s), self._dials:
                await self._loop.create_connection(
                    lambda: connection,
                    address.host,
                    address.port,
                    ssl=self._context() if address.is_tls else None,
                    server_hostname=address.host if address.is_tls else None,
                )
            is_connected = True
        except TimeoutError:
            raise ForwardFailed(Reason.UPSTREAM_TIMEOUT, CONNECT_TIMEOUT) from None
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS}:
                raise ForwardFailed(Reason.OVERLOADED, TOO_MANY) from None
            raise ForwardFailed(Reason.UPSTREAM_UNREACHABLE, UNREACHABLE) from None
        finally:
            if self._metrics is not None:
                self._metrics.upstream_dials_total.add(("ok" if is_connected else "failed",))
            if not is_connected:
                self._uncount(connection)
        connection.is_taken = True
        connection.lane = lane
        self._connections.add(connection)
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def retried(self) -> None:
        """A request is sent once more because a kept connection had died."""
        if self._metrics is not None:
            self._metrics.upstream_retries_total.add()

    # -- giving back -------------------------------------------------------------------------------------------------

    def give_back(self, connection: Connection) -> None:
        """
        The consumer has taken all it wants. The connection is kept if its answer came whole, else closed.

        Only ever called by the consumer, never from inside the protocol's callbacks.
        """
        connection.is_taken = False
        lane: _Lane = connection.lane
        if not connection.is_reusable or self._is_closed or len(lane.idle) >= self._max_idle:
            if connection.status != 101:  # a tunnel has ended itself, with its last bytes still leaving
                connection.abort()
            return
        connection.deadline = inf
        connection.is_kept = True
        while lane.waiters:
            waiter = lane.waiters.popleft()
            if not waiter.done():
                connection.is_taken = True
                waiter.set_result(connection)
                return
        connection.idle_until = self._loop.time() + self._idle_s
        lane.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """See ``Keeper``."""
        self._connections.discard(connection)
        lane = self._lanes.get(connection.address)
        if lane is not None and not connection.is_taken:
            with suppress(ValueError):  # it was being dialled, or taken out already
                lane.idle.remove(connection)
        self._uncount(connection)

    def _uncount(self, connection: Connection) -> None:
        """Its place is free. A dial that is given up may be told of twice: it counts once."""
        if not connection.is_counted:
            return
        connection.is_counted = False
        lane = self._lanes[connection.address]
        lane.opened -= 1
        self._total -= 1
        if not self._wake_one(lane):
            for other in self._lanes.values():
                if self._wake_one(other):
                    break

    @staticmethod
    def _wake_one(lane: _Lane) -> bool:
        while lane.waiters:
            waiter = lane.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return True
        return False

    # -- time --------------------------------------------------------------------------------------------------------

    def _start_sweeping(self) -> None:
        if self._sweeper is None and not self._is_closed:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._loop.time()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.time_out()
        for address, lane in list(self._lanes.items()):
            while lane.idle and lane.idle[0].idle_until < now:
                lane.idle.popleft().abort()
            if not lane.opened and not self._waiting:
                del self._lanes[address]
        if self._total:
            self._start_sweeping()

    async def close(self) -> None:
        """Close every connection, also those in use, and refuse new ones."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lane in self._lanes.values():
            while lane.idle:
                lane.idle.popleft().abort()
        for connection in tuple(self._connections):
            connection.abort()
        await asyncio.sleep(0)
