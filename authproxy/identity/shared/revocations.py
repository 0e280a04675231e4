"""
Logouts that reach every replica: what was revoked here is over there within seconds, and the look-up is a dict probe.

Without Redis the marks are this process' own. With Redis they stand there in the order in which they came, each with a
number; every replica reads what is newer than the last number it has seen: at once when it is told (publish/subscribe),
and each second anyway, because a message can be lost. After any failure to read, when a subscription ends, and when
Redis is not the one it was (emptied, or another after a failover), everything is read anew and what only this replica
knows is written back: marks that were made while Redis could not be reached are kept here, and told as soon as it is
back.

It errs on the side of "revoked": a mark holds here from the moment it is asked for, whether others can be told or not.
It refuses to know sessions, tokens, and who may log out whom.

Longer than other modules: telling, following and catching up share one state, and are read together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from authproxy.audit import get_logger
from authproxy.identity.shared.marks import GRACE_S, MAX_MARKS, Kind, Mark, Marks, make_mark
from authproxy.identity.shared.redis_link import TIMEOUT_S, RedisLink, Script
from policies.errors import StoreUnavailable

POLL_S: Final = 1.0
"""For lost messages."""
BEHIND_S: Final = 5.0
START_S: Final = 1.0
"""How long a start waits for Redis."""
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 1.0
"""Between attempts to reach Redis: a replica must be up to date within 5 s of its return."""
FUTURE_S: Final = 60.0
"""A logout from further ahead counts as of then: it must not end what begins days from now."""
PAGE: Final = 1000
"""Marks read, or written back, in one step."""
MAX_KEPT: Final = 2_000_000
"""Marks in Redis: about 300 bytes each."""

CANCELS: Final = 20
"""Before Python 3.12 ``asyncio.wait_for``, which redis-py uses, swallows a cancellation that comes as it ends."""

CHANNEL: Final = "portero:{revocations}:news"
_KEYS: Final = ("portero:{revocations}:marks", "portero:{revocations}:ends", "portero:{revocations}:state")
_PUBLISH: Final = Script.read("publish_revocations")
_READ: Final = Script.read("read_revocations")


class RevocationCounter(Protocol):
    def add(self, labels: tuple[str, ...], /) -> None: ...


class RevocationMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for revocations."""

    @property
    def revocations_total(self) -> RevocationCounter:
        """Asked for here, by kind: session, subject, sid."""


class Revocations:
    """
    What was revoked, on all replicas. One per process and event loop.

    Args:
        url: of Redis, as ``read_redis_url`` reads it; None: this process alone.
        is_cluster: it is a Redis Cluster.
        timeout_s: for a connection, and for a reply.
        metrics: None: nothing is counted.
        clock: Unix seconds.
        monotonic: seconds that never go back.
        max_marks: more are joined (``marks.Marks``).

    Raises: ValueError for a URL that cannot be read.
    """

    generation: int
    """Grows whenever something is revoked that was not known here: whoever keeps a verdict compares it."""

    def __init__(
        self,
        url: str | None,
        *,
        is_cluster: bool = False,
        timeout_s: float = TIMEOUT_S,
        metrics: RevocationMetrics | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_marks: int = MAX_MARKS,
    ) -> None:
        self.generation = 0
        self._link = RedisLink(url, is_cluster=is_cluster, timeout_s=timeout_s) if url is not None else None
        self._counter = metrics.revocations_total if metrics is not None else None
        self._clock = clock
        self._monotonic = monotonic
        self._marks = Marks(max_marks=max_marks)
        self._callbacks: list[Callable[[], None]] = []
        self._log = get_logger("identity")
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._was_tried = asyncio.Event()
        self._is_closed = False
        self._epoch = ""
        self._sequence = 0
        self._is_whole = False
        """Redis has all that is known here, and nothing was missed in between."""
        self._read_at: float | None = None
        """Monotonic."""

    @property
    def is_behind(self) -> bool:
        """Redis could not be read for more than 5 s, or never yet: what others revoked may not be known here."""
        if self._link is None:
            return False
        return self._read_at is None or self._monotonic() - self._read_at > BEHIND_S

    def on_change(self, callback: Callable[[], None]) -> None:
        """From now on ``callback`` is called after ``generation`` has grown; what it raises is logged."""
        self._callbacks.append(callback)

    def is_revoked(
        self,
        tenant: str,
        *,
        session_id: str | None,
        issuer: str | None,
        sub: str | None,
        sid: str | None,
        established_at: float,
    ) -> bool:
        """
        Whether a logout ended it. 0.1 us where the tenant has no logouts, else some dict probes.

        Args:
            tenant: whose session or token it is.
            session_id: of a session of ours.
            issuer: the provider's; ``sub`` and ``sid`` are its words.
            sub: the provider's subject.
            sid: the provider's session.
            established_at: of the login or of the token's issue (``iat``), Unix seconds; 0 when that is not known.
        """
        return self._marks.is_revoked(
            tenant, session_id=session_id, issuer=issuer, sub=sub, sid=sid, established_at=established_at
        )

    async def revoke_session(self, tenant: str, session_id: str, until: float) -> None:
        """
        End one session of ours, whenever it began.

        Args:
            tenant: whose it is.
            session_id: of all its versions.
            until: when it would have ended by itself, Unix seconds.

        Raises: StoreUnavailable when others cannot be told now; it has ended here, and they are told later.
        """
        await self._revoke(tenant, "session", (session_id,), self._clock(), until)

    async def revoke_subject(self, tenant: str, issuer: str, sub: str, at: float, until: float) -> None:
        """
        End all that was established for a provider's subject up to ``at``.

        Raises: StoreUnavailable as ``revoke_session``; ValueError for instants that are none.
        """
        await self._revoke(tenant, "subject", (issuer, sub), at, until)

    async def revoke_sid(self, tenant: str, issuer: str, sid: str, at: float, until: float) -> None:
        """
        End all that was established in a provider's session up to ``at``.

        Raises: StoreUnavailable as ``revoke_session``; ValueError for instants that are none.
        """
        await self._revoke(tenant, "sid", (issuer, sid), at, until)

    async def start(self) -> None:
        """Begin to follow the others. Returns when Redis was read, or after a second: see ``is_behind``. Idempotent."""
        if self._link is None or self._is_closed:
            return
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._follow(self._link), name="identity: read revocations"),
                asyncio.create_task(self._listen(self._link), name="identity: hear of revocations"),
            ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._was_tried.wait()

    async def close(self) -> None:
        """Stop following; the marks stay. Idempotent; never raises."""
        self._is_closed = True
        tasks, self._tasks = self._tasks, []
        for _ in range(CANCELS):
            running = [task for task in tasks if not task.done()]
            if not running:
                break
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=0.05)
        if self._link is not None:
            await self._link.close()

    # -- telling -----------------------------------------------------------------------------------------------------

    async def _revoke(self, tenant: str, kind: Kind, parts: tuple[str, ...], at: float, until: float) -> None:
        mark = make_mark(tenant, kind, parts, min(at, self._clock() + FUTURE_S), until)
        self._apply([mark])
        if self._counter is not None:
            self._counter.add((kind,))
        if self._link is None:
            return
        try:
            await self._publish(self._link, [mark])
        except StoreUnavailable:
            self._is_whole = False  # so it is written back with the next reading that succeeds
            raise

    async def _publish(self, link: RedisLink, marks: Sequence[Mark]) -> None:
        words: list[str | int] = []
        for mark in marks:
            words += (mark.encode(), mark.until)
        added = await link.run(_PUBLISH, _KEYS, CHANNEL, secrets.token_hex(8), GRACE_S, MAX_KEPT, *words)
        if not isinstance(added, int) or added < 0:
            raise StoreUnavailable("redis: no room for more revocations")

    # -- being told --------------------------------------------------------------------------------------------------

    def _apply(self, marks: Sequence[Mark]) -> None:
        """All at once: callbacks hear of it once."""
        now, monotonic, joins = self._clock(), self._monotonic(), self._marks.joins
        self._marks.forget_ended(monotonic)
        has_changed = False
        for mark in marks:
            has_changed = self._marks.add(mark, now, monotonic) or has_changed
        if self._marks.joins != joins:
            self._log.warning("revocations-joined", marks=len(self._marks))
        if not has_changed:
            return
        self.generation += 1
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001  # a listener's defect must not keep the others from hearing of a logout
                self._log.exception("revocation-callback-failed")

    async def _follow(self, link: RedisLink) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_closed:
            self._news.clear()
            try:
                await self._read(link)
            except StoreUnavailable:
                self._is_whole = False
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.0))  # noqa: S311  # not all replicas at once
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                continue
            except Exception:  # noqa: BLE001  # a defect must not end the following for good: ``is_behind`` tells of it
                self._log.exception("revocations-not-read")
                self._is_whole = False
                await asyncio.sleep(LAST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            self._read_at = self._monotonic()
            self._was_tried.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._news.wait()

    async def _listen(self, link: RedisLink) -> None:
        """
        To be quicker, whoever misses a message reads within a second; and to notice a failover: a command's connection
        may be dialled anew without a word, a subscription is not.
        """
        while not self._is_closed:
            has_heard = False
            with contextlib.suppress(StoreUnavailable):
                async for _ in link.listen(CHANNEL):
                    has_heard = True
                    self._news.set()
            if has_heard:  # Redis may be another one, which has lost what is known here
                self._is_whole = False
            await asyncio.sleep(LAST_PAUSE_S)

    async def _read(self, link: RedisLink) -> None:
        """
        Read what is new, or everything when something may have been missed; write back what Redis has not got.

        Raises: StoreUnavailable.
        """
        # Where nothing was ever revoked, what is known here is not there. ``_is_whole`` is not set to True by a reading
        # of what is new: a revocation that failed while it was under way has to be written back still.
        if self._is_whole and await self._read_newer(link, None) and (self._sequence or not len(self._marks)):
            return
        self._is_whole = True  # until a failure says otherwise, also one of a revocation meanwhile
        there = await self._read_all(link)
        missing = [mark for mark in self._marks if mark.encode() not in there and mark.until > self._clock()]
        for start in range(0, len(missing), PAGE):
            await self._publish(link, missing[start : start + PAGE])

    async def _read_all(self, link: RedisLink) -> set[str]:
        """
        Every mark that is there, as written.

        Raises: StoreUnavailable, also when Redis is another one again and again.
        """
        for _ in range(3):
            self._sequence, self._epoch = 0, ""
            there: set[str] = set()
            if await self._read_newer(link, there):
                return there
        raise StoreUnavailable("redis: its revocations change while they are read")

    async def _read_newer(self, link: RedisLink, there: set[str] | None) -> bool:
        """False when Redis is not the one that was read before: then what was read is not the whole of it."""
        while True:
            epoch, newest, rows = _reply(await link.run(_READ, (_KEYS[0], _KEYS[2]), self._sequence, PAGE))
            if self._sequence and (epoch != self._epoch or newest < self._sequence):
                return False
            if not self._sequence:
                self._epoch = epoch
            marks = []
            for text, number in rows:
                self._sequence = max(self._sequence, number)
                if there is not None:
                    there.add(text.decode("utf-8", "replace"))
                mark = Mark.decode(text)
                if mark is None:
                    self._log.warning("revocation-unreadable")
                else:
                    marks.append(mark)
            self._apply(marks)
            if len(rows) < PAGE:
                self._sequence = max(self._sequence, newest)
                return True


def _reply(reply: Any) -> tuple[str, int, list[tuple[bytes, int]]]:
    """
    What ``read_revocations.lua`` returns.

    Raises: StoreUnavailable for anything else.
    """
    try:
        epoch, newest, flat = reply
        rows = [(bytes(flat[i]), int(float(flat[i + 1]))) for i in range(0, len(flat), 2)]
        return bytes(epoch).decode("ascii"), int(newest), rows
    except (TypeError, ValueError, IndexError, OverflowError):
        raise StoreUnavailable("redis: an answer that is none") from None
