"""
Rate limits that all replicas count together, in Redis.

Checks that are asked for in one turn of the event loop travel in one command, and while it is under way the next one
gathers: at most one command is in flight, so that batches grow with the load instead of commands (R11). What is known
to be used up is refused without asking. Nobody waits for a dead Redis: a command that is not answered in 50 ms takes
the connection with it, all who wait are answered by this replica's share at once, and so is everybody else until Redis
is found well again.

Layers: ``wire`` speaks RESP, ``connection`` keeps one wire, ``batch`` knows the script, ``share`` and ``exhausted``
answer without Redis. This module joins them and refuses to know any arithmetic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import hiredis

from authproxy.limits.batch import MAX_CHECKS, SPEND_SCRIPT, Asked, Batch, Callback
from authproxy.limits.connection import ANSWER_S, Connection
from authproxy.limits.exhausted import KnownExhausted
from authproxy.limits.share import LocalShare
from authproxy.limits.wire import Wire, pack, parse_redis_url
from authproxy.metrics import Metrics
from policies.gcra import NOTHING_TO_SPEND, SECOND_US, Check, Spent

SECOND_LOOK_S: Final = 0.005
"""
How long one command is given at the least. A loop that was late itself must not blame Redis: uvloop runs timers before
it reads sockets, and what gathered meanwhile is overdue before it is sent.
"""
_OF_ONE_TENANT: Final = ("MOVED", "ASK", "CROSSSLOT", "TRYAGAIN")
"""Errors of a cluster that say where a key lives, not that the server is ill; else: that it is a cluster unawares."""


class RedisStore:
    """
    A ``LimitStore`` over one Redis server.

    Args:
        url: as ``wire.parse_redis_url`` reads it.
        metrics: counts commands, failures and degradation.
        is_cluster: one command per tenant, so that each command's keys are of one slot. Redirections are not followed:
            a tenant whose slot is elsewhere is limited by local share.
        now_us: for tests; the clock that Redis is told to use instead of its own.

    Raises: ValueError for a URL that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        metrics: Metrics,
        is_cluster: bool = False,
        now_us: Callable[[], int] | None = None,
    ) -> None:
        self._is_cluster = is_cluster
        self._test_now_us = now_us
        self._now_us = now_us or _unix_us
        self._commands = metrics.limit_store_commands_total.cell()
        self._failures = metrics.limit_store_failures_total.cell()
        self._exhausted = KnownExhausted()
        self._connection = Connection(
            parse_redis_url(url),
            script=SPEND_SCRIPT,
            metrics=metrics,
            is_cluster=is_cluster,
            on_lost=self._answer_everybody,
            on_back=self._back,
        )
        self._share = LocalShare(lambda: self._connection.replicas)
        self._pending: list[Asked] = []
        self._in_flight: list[Batch] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: Batch | None = None
        """Found overdue by the last look."""

    async def start(self) -> None:
        """Connect; returns when Redis has answered or the first attempt has failed. Else the first spend does so."""
        await self._connection.start()

    @property
    def is_degraded(self) -> bool:
        """Limits are held by local share now."""
        return self._connection.wire is None

    @property
    def replicas(self) -> int:
        """Replicas of Portero that share the limits, this one included."""
        return self._connection.replicas

    def spend_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent | None:
        return self._answer_now(tenant, checks, now, is_peek=False)

    def spend_soon(self, tenant: str, checks: Sequence[Check], now: float, then: Callable[[Spent], None]) -> bool:
        if not self._connection.has_started:
            return False
        loop = asyncio.get_running_loop()
        if (answer := self._answer_now(tenant, checks, now, is_peek=False)) is not None:
            loop.call_soon(then, answer)
        else:
            self._ask(Asked(tenant, checks, now, is_peek=False, asked_at=loop.time(), answer=Callback(then)), loop)
        return True

    def peek_now(self, tenant: str, checks: Sequence[Check], now: float) -> Spent | None:
        return self._answer_now(tenant, checks, now, is_peek=True)

    async def spend(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        return await self._answer(tenant, checks, now, is_peek=False)

    async def peek(self, tenant: str, checks: Sequence[Check], now: float) -> Spent:
        return await self._answer(tenant, checks, now, is_peek=True)

    async def close(self) -> None:
        """Whoever still waits is answered by local share. Idempotent."""
        await self._connection.close()
        self._answer_everybody()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answer_now(self, tenant: str, checks: Sequence[Check], now: float, *, is_peek: bool) -> Spent | None:
        if not checks:
            return NOTHING_TO_SPEND
        if self._exhausted and (refusal := self._exhausted.refuse(checks, now)) is not None:
            return refusal
        if self._connection.wire is None and self._connection.has_started:
            return self._share.spend(tenant, checks, now, is_peek=is_peek)
        return None

    async def _answer(self, tenant: str, checks: Sequence[Check], now: float, *, is_peek: bool) -> Spent:
        if not self._connection.has_started:
            await self._connection.start()
        if (answer := self._answer_now(tenant, checks, now, is_peek=is_peek)) is not None:
            return answer
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Spent] = loop.create_future()
        self._ask(Asked(tenant, checks, now, is_peek, loop.time(), future), loop)
        return await future

    def _ask(self, asked: Asked, loop: asyncio.AbstractEventLoop) -> None:
        if not self._pending and not self._in_flight:
            loop.call_soon(self._flush)
        self._pending.append(asked)

    def _flush(self) -> None:
        """Send what has gathered, when nothing is in flight."""
        if self._in_flight or not self._pending:
            return
        wire = self._connection.wire
        if wire is None:
            self._answer_everybody()
            return
        self._in_flight = self._take_batches()
        for batch in tuple(self._in_flight):
            self._send(wire, batch)
        if self._timer is None:
            self._arm(self._deadline())

    def _take_batches(self) -> list[Batch]:
        """The next command: up to 64 checks. In a cluster one for each tenant that waits."""
        groups: dict[str, list[Asked]] = {}
        sizes: dict[str, int] = {}
        left: list[Asked] = []
        for at, asked in enumerate(self._pending):
            name = asked.tenant if self._is_cluster else ""
            size = sizes.get(name, 0) + len(asked.checks)
            if size > MAX_CHECKS and name in groups:
                if not self._is_cluster:  # nobody behind has room either: a long line is not walked for each command
                    left = self._pending[at:]
                    break
                left.append(asked)
            else:
                sizes[name] = size
                groups.setdefault(name, []).append(asked)
        self._pending = left
        return [Batch(group) for group in groups.values()]

    def _send(self, wire: Wire, batch: Batch) -> None:
        self._commands[0] += 1
        now_us = self._test_now_us() if self._test_now_us is not None else 0
        wire.send(batch.command(now_us), lambda reply: self._replied(wire, batch, reply))

    def _replied(self, wire: Wire, batch: Batch, reply: object) -> None:
        if batch not in self._in_flight or isinstance(reply, ConnectionError):
            return  # answered already; or ``_answer_everybody`` comes next
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT") and not batch.is_second_try:
            batch.is_second_try = True  # the server was restarted behind a proxy, or somebody flushed its scripts
            wire.send(pack("SCRIPT", "LOAD", SPEND_SCRIPT), _ignore)
            self._send(wire, batch)
            return
        self._in_flight.remove(batch)
        if batch.is_answered_by(reply):
            self._settle(batch, reply)
        else:
            self._answer_locally(batch.asked)
            if self._is_cluster and str(reply).startswith(_OF_ONE_TENANT):
                self._failures[0] += 1
            else:
                self._connection.failed(str(reply))
        if not self._in_flight:
            self._flush()

    def _settle(self, batch: Batch, reply: list[int]) -> None:
        redis_us, answers, refusals = batch.answers(reply)
        if refusals:
            here_us = self._now_us()
            for refusal in refusals:
                self._exhausted.learn(refusal.key, refusal.tat_us - redis_us + here_us, here_us)
        for asked, spent in zip(batch.asked, answers, strict=True):
            if spent is None:
                self._failures[0] += 1
                self._answer_locally((asked,))
            elif not asked.answer.done():  # else its client left
                asked.answer.set_result(spent)

    def _answer_locally(self, asked: Sequence[Asked]) -> None:
        for one in asked:
            if not one.answer.done():
                one.answer.set_result(self._share.spend(one.tenant, one.checks, one.now, is_peek=one.is_peek))

    def _answer_everybody(self) -> None:
        """No reply will come any more."""
        batches, self._in_flight = self._in_flight, []
        pending, self._pending = self._pending, []
        for batch in batches:
            self._answer_locally(batch.asked)
        self._answer_locally(pending)

    def _back(self) -> None:
        self._share.forget()

    def _deadline(self) -> float:
        """When the command in flight must be answered: no request waits longer than that since it asked."""
        return self._in_flight[0].asked[0].asked_at + ANSWER_S

    def _arm(self, at: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        """Is the command in flight overdue? One timer looks, instead of one per command that is cancelled each time."""
        self._timer = None
        looked_at, self._overdue = self._overdue, None
        if not self._in_flight:
            return
        now = asyncio.get_running_loop().time()
        batch = self._in_flight[0]
        if now < self._deadline():
            self._arm(self._deadline())
        elif batch is not looked_at:
            self._overdue = batch
            self._arm(now + SECOND_LOOK_S)
        else:
            self._connection.give_up("no answer in time")


def _unix_us() -> int:
    return int(time.time() * SECOND_US)


def _ignore(_reply: object) -> None:
    """Nobody waits for this reply; a failure shows in the next command."""
