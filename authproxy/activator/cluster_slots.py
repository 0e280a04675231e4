"""
What one Portero holds of a function's capacity that all Porteros share.

``Share`` knows what may be used, and when a word from Redis is to be believed; it does no I/O. ``RedisSlots`` settles
it with Redis (``settle_slots.lua``): when something has changed, each second to stay alive, and four times a second
while somebody waits, in case a message was lost.

Never more in use than there is rests on four rules. (1) Words are absolute and numbered: one that arrives late is
ignored. (2) What is not in use is given up before settling begins, and nothing is taken until it has ended: Redis may
have given it to others. (3) A message counts only when it is newer than the reply read last. (4) Without a reply for
``TRUST_S``, which is less than Redis waits before it forgets a holder, nothing new is used. A request that is in flight
goes on through all that: a Portero that lost Redis for longer than ``TTL_S`` may so have one in flight beside
another's.

It refuses to know requests and whose turn is next: it counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from authproxy.activator.cluster import OnHeld
from authproxy.audit import get_logger
from policies.errors import StoreUnavailable

TTL_S: Final = 4.0
"""After its last word a holder's slots are free again."""
GRACE_S: Final = 2.0
"""How long a Redis that has forgotten everything gives nothing: two renewals, in which all say what they use."""
TRUST_S: Final = 1.75
"""How long a holder believes the last reply, from when it asked: less than ``GRACE_S`` and ``TTL_S``; clocks differ."""
RENEW_S: Final = 1.0
LOOK_S: Final = 0.25
"""How often who waits asks anyway, and who gets no answer tries again."""


class Word(NamedTuple):
    """What is said to Redis."""

    number: int
    in_use: int
    wanted: int
    capacity: int


class Grant(NamedTuple):
    """What Redis says."""

    version: int
    granted: int
    """In use and to be used; as of the last word of this holder that was carried out."""
    is_scarce: bool
    """Others want what is given back, or more is in use than there is."""


Settle = Callable[[str, Word], Awaitable[Grant]]
"""Carries a word of a function's key to Redis. Raises: StoreUnavailable."""


class Share:
    """The state of one function at one Portero; ``now`` is of a clock that never goes back, in seconds."""

    __slots__ = (
        "_asked_at",
        "_is_scarce",
        "_is_settled",
        "_later",
        "_returned",
        "_said",
        "_trusted_until",
        "_version",
        "capacity",
        "held",
        "in_use",
        "wanted",
    )

    def __init__(self) -> None:
        self.in_use = 0
        self.wanted = 0
        self.capacity = 0
        self.held = 0
        """What may be in use."""
        self._returned = 0
        """Given back since the last word, and not yet told."""
        self._said = (0, 0)
        """Wanted and capacity of the last word."""
        self._asked_at = 0.0
        self._trusted_until = float("-inf")
        self._version = 0
        self._is_settled = True
        """The last word was answered."""
        self._is_scarce = True
        self._later: Grant | None = None
        """The newest message since the last word, until that is answered."""

    @property
    def has_news(self) -> bool:
        """Redis is to be told something."""
        is_unsaid = (self.wanted, self.capacity) != self._said
        return is_unsaid or self._returned > 0 or self.held > self.wanted or not self._is_settled

    @property
    def is_over(self) -> bool:
        """Nothing is held or wanted, and Redis knows."""
        return not (self.in_use or self.wanted or self.has_news)

    def want(self, in_use: int, wanted: int, capacity: int, now: float) -> int:
        """As ``SlotPool.want``; how many slots were given back by it, though they may be held again."""
        given = max(0, self.in_use - in_use)
        self.in_use = in_use
        self.wanted = max(in_use, min(wanted, capacity))
        self.capacity = capacity
        self.held = max(in_use, self.held - given)
        self._returned += given
        if self._is_settled and not self._is_scarce and now < self._trusted_until:  # nobody else waits for them
            kept = min(self._returned, max(0, self.wanted - self.held))
            self.held += kept
            self._returned -= kept
        return given

    def give_up(self) -> None:
        """Hold no more than is in use; before ``word``."""
        self.held = self.in_use

    def word(self, number: int, now: float) -> Word:
        """Begin to settle: what to say. Nothing more may be in use until ``replied``."""
        self._is_settled = False
        self._later = None
        self._returned = 0
        self._asked_at = now
        self._said = (self.wanted, self.capacity)
        return Word(number, self.in_use, self.wanted, self.capacity)

    def replied(self, grant: Grant, now: float) -> None:
        """The answer to the last word. One that took too long is none."""
        if now >= self._asked_at + TRUST_S:
            return
        self._trusted_until = self._asked_at + TRUST_S
        self._is_settled = True
        self._take(grant)
        later, self._later = self._later, None
        if later is not None and later.version > self._version:
            self._take(later)

    def pushed(self, grant: Grant, now: float) -> None:
        """A message, which may be late or come twice."""
        if not self._is_settled:
            if self._later is None or grant.version > self._later.version:
                self._later = grant
        elif grant.version > self._version and now < self._trusted_until:
            self._take(grant)

    def _take(self, grant: Grant) -> None:
        self._version = grant.version
        self._is_scarce = grant.is_scarce
        self.held = max(self.in_use, grant.granted - self._returned)


class RedisSlots:
    """
    A ``SlotPool``. It has a task while anything is in use or wanted, and none else.

    Args:
        key: of the function.
        on_held: as ``Cluster.slots``.
        settle: may be cancelled.
        number: of the next word: each greater than all before, of this process.
        leave: gets the last word, to be told whenever that can be done.
    """

    def __init__(
        self,
        key: str,
        on_held: OnHeld,
        *,
        settle: Settle,
        number: Callable[[], int],
        leave: Callable[[RedisSlots, Word | None], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self._share = Share()
        self._on_held = on_held
        self._settle = settle
        self._number = number
        self._leave = leave
        self._monotonic = monotonic
        self._told = 0
        """What the activator believes it holds."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn: asyncio.Handle | None = None
        self._is_closed = False

    def want(self, in_use: int, wanted: int, capacity: int) -> None:
        if self._is_closed:
            return
        share = self._share
        given = share.want(in_use, wanted, capacity, self._monotonic())
        self._told = max(in_use, self._told - given)
        if self._is_untold and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._tell)
        if share.has_news:
            self._news.set()
        if self._task is None and not share.is_over:
            self._task = asyncio.create_task(self._run(), name="activator: share slots")

    def pushed(self, grant: Grant) -> None:
        """A message for this function came."""
        if self._is_closed:
            return
        self._share.pushed(grant, self._monotonic())
        self._tell()
        if self._share.has_news:
            self._news.set()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        share, was_known = self._share, self._task is not None
        if self._turn is not None:
            self._turn.cancel()
        if self._task is not None:
            self._task.cancel()
        share.want(share.in_use, share.in_use, share.capacity, self._monotonic())
        share.give_up()
        self._leave(self, share.word(self._number(), self._monotonic()) if was_known else None)

    @property
    def _is_untold(self) -> bool:
        """Told once too often does no harm; told once too seldom, somebody would wait for nothing."""
        share = self._share
        return share.held != self._told or share.in_use < min(share.held, share.wanted)

    def _tell(self) -> None:
        """Not within ``want``, but ``want`` may be called within."""
        self._turn = None
        if not self._is_closed and self._is_untold:
            self._told = self._share.held
            self._on_held(self._told)

    async def _run(self) -> None:
        share = self._share
        try:
            while not (self._is_closed or share.is_over):
                try:
                    if await self._settle_once():
                        await self._wait()
                    else:
                        await asyncio.sleep(LOOK_S)
                except Exception:  # noqa: BLE001  # a defect of who is told must not end the sharing for good
                    get_logger("activator").exception("slots-not-settled")
                    await asyncio.sleep(LOOK_S)
        finally:
            if not self._is_closed:
                self._task = None

    async def _settle_once(self) -> bool:
        """False when Redis did not answer."""
        share = self._share
        share.give_up()
        self._tell()
        self._news.clear()
        word = share.word(self._number(), self._monotonic())
        try:
            grant = await self._settle(self.key, word)
        except StoreUnavailable:
            return False
        share.replied(grant, self._monotonic())
        self._tell()
        return True

    async def _wait(self) -> None:
        """Until there is something to settle."""
        share = self._share
        if share.has_news or share.is_over:
            return
        try:
            async with asyncio.timeout(LOOK_S if share.wanted > share.held else RENEW_S):
                await self._news.wait()
        except TimeoutError:
            return
