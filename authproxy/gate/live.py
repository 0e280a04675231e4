"""
Every exchange that is alive: held, streaming or a websocket, with what is needed to judge it again and to cut it.

A decision is made when a request arrives; a stream outlives it. The registry is how later facts reach exchanges that
are already running: a policy swap and a logout at once, an expired token or session when it expires, and whatever else
changed within ``RECHECK_S`` (AP-R54). What can be judged at once is; what has to be asked of a provider or a store goes
on for the bounded time that asking takes, and no longer. The end of the process reaches them too.

A logout asks of each exchange only whether that logout is its own: one person's must cost the others nothing, neither
a store that is asked about ten thousand streams at once nor a loop that stands still meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from authproxy.audit import get_logger

POLICY_VIOLATION: Final = 1008
"""Websocket close code for "you may no longer" (RFC 6455 section 7.4.1)."""
GOING_AWAY: Final = 1001
"""Websocket close code for "we are stopping"."""
RECHECK_S: Final = 25.0
"""Longest that an exchange goes on without being judged again; with a sweep and an answer to wait for below 30 s."""
SWEEP_S: Final = 0.5
ASK_S: Final = 4.0
"""Longest that an exchange goes on while its judgement is waited for, beyond the time that it is due."""
MAX_ASKING: Final = 256
"""Judgements that are waited for at once; more wait for their turn."""
REVOKED_PAUSE_S: Final = 0.5
"""Between two looks at whom logouts end: up to 50 ms each for 10,000 exchanges."""

_log = get_logger("gate")


class LiveExchange:
    """
    One running exchange. ``gate.verdict.Passed`` is one: a further object a request would cost 1 us.

    Subclasses say whose it is (``tenant``, ``subject``), until when its identity holds and how it is judged again.
    """

    __slots__ = ("is_cut", "on_cut")

    def __init__(self) -> None:
        self.is_cut = False
        self.on_cut: Callable[[int], None] | None = None
        """Set by whoever runs the exchange: ends it, with a websocket close code where there is a websocket."""

    @property
    def tenant(self) -> str:
        raise NotImplementedError

    @property
    def subject(self) -> str:
        raise NotImplementedError

    @property
    def expires_at(self) -> float | None:
        """Unix seconds; None for a caller whose identity does not expire."""
        raise NotImplementedError

    def is_revoked(self) -> bool:
        """Whether a logout has ended the identity that it was begun with. Cheap; anything raised means yes."""
        raise NotImplementedError

    def judge_now(self) -> float | None:
        """
        Until when the exchange may go on under what is in force, Unix seconds; 0.0: no longer; None: it has to be
        asked (``judge``). Anything raised means no.
        """
        raise NotImplementedError

    async def judge(self) -> float:
        """As ``judge_now``, with whatever it takes. Anything raised means no."""
        raise NotImplementedError

    def cut(self, code: int) -> None:
        """End the exchange now. Idempotent."""
        if self.is_cut:
            return
        self.is_cut = True
        if self.on_cut is not None:
            self.on_cut(code)


class LiveRegistry:
    """The live exchanges of one process. ``clock``: Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._live: set[LiveExchange] = set()
        self._clock = clock
        self._due: dict[LiveExchange, float] = {}
        """When each that was seen by a sweep is to be judged again."""
        self._asking: dict[LiveExchange, float] = {}
        """Those whose judgement is waited for -> until when they go on without it, by the loop's clock."""
        self._ask_again: set[LiveExchange] = set()
        """Those of them for whom something has changed since they were asked about."""
        self._queue: deque[LiveExchange] = deque()
        self._askers: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._revoked_look: asyncio.Handle | None = None
        self._revoked_looked_at = -math.inf
        self._is_closed = False

    def enter(self, live: LiveExchange) -> None:
        self._live.add(live)

    def discard(self, live: LiveExchange) -> None:
        """The exchange is over; forget it. Idempotent."""
        self._live.discard(live)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveExchange]:
        return iter(tuple(self._live))

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Judge what runs, now and then, until ``close``."""
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._watch(), name="gate: judge what runs")

    async def close(self) -> None:
        """Stop judging; what would have to be asked about from now on is cut. Idempotent."""
        self._is_closed = True
        if self._revoked_look is not None:
            self._revoked_look.cancel()
        tasks = [*self._askers, *([self._sweeper] if self._sweeper is not None else [])]
        self._sweeper = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    # -- judging again -----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Judge what is due: its identity expires, or it was not judged for ``RECHECK_S``."""
        now = self._clock()
        due: dict[LiveExchange, float] = {}
        for live in self:
            at = self._due.get(live)
            if at is None or at > now + RECHECK_S:  # new, or the clock went back
                at = min(now + RECHECK_S, live.expires_at or math.inf)
            due[live] = at
        self._due = due
        for live, at in tuple(due.items()):
            if at <= now and live not in self._asking:
                self._judge(live, now)
        self._cut_unanswered()

    def recheck_soon(self) -> None:
        """Something was revoked: ``cut_revoked`` soon, and not for each of many logouts."""
        if self._revoked_look is not None or self._is_closed:
            return
        loop = asyncio.get_running_loop()
        at = self._revoked_looked_at + REVOKED_PAUSE_S
        if at <= loop.time():
            self._revoked_look = loop.call_soon(self._look_for_revoked, loop)
        else:
            self._revoked_look = loop.call_at(at, self._look_for_revoked, loop)

    def cut_revoked(self) -> int:
        """Cut every exchange that a logout has ended. Returns how many."""
        revoked = [live for live in self if _is_revoked(live)]
        for live in revoked:
            _cut(live, POLICY_VIOLATION)
        return len(revoked)

    def recheck_all(self) -> int:
        """
        Judge every live exchange again (after a policy swap); cut those that may no longer. Returns how many were cut
        at once. One that cannot be judged may not go on, and keeps none of the others from being judged.
        """
        now = self._clock()
        return sum([self._judge(live, now) for live in self])

    def _look_for_revoked(self, loop: asyncio.AbstractEventLoop) -> None:
        self._revoked_look = None
        self._revoked_looked_at = loop.time()
        self.cut_revoked()

    def _judge(self, live: LiveExchange, now: float) -> bool:
        """True when it was cut."""
        try:
            until = live.judge_now()
        except Exception:  # noqa: BLE001 (an error never widens access)
            _log.exception("judging a live exchange again failed")
            until = 0.0
        if until is None:
            return not self._ask(live, now)
        return self._goes_on(live, until, now)

    def _goes_on(self, live: LiveExchange, until: float, now: float, recheck_s: float = RECHECK_S) -> bool:
        """True when it was cut."""
        if until <= now:
            _cut(live, POLICY_VIOLATION)
            return True
        self._due[live] = min(now + recheck_s, until)
        return False

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, live: LiveExchange, now: float) -> bool:
        """Have it judged behind; False when that cannot be, and it was cut."""
        if live in self._asking:
            self._ask_again.add(live)
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop: nobody can be asked
            loop = None
        if loop is None or self._is_closed:
            _cut(live, POLICY_VIOLATION)
            return False
        self._asking[live] = loop.time() + max(0.0, self._due.get(live, now) - now) + ASK_S
        self._queue.append(live)
        if len(self._askers) < MAX_ASKING:
            asker = loop.create_task(self._ask_in_turn(), name="gate: ask about what runs")
            self._askers.add(asker)
            asker.add_done_callback(self._askers.discard)
        return True

    async def _ask_in_turn(self) -> None:
        while self._queue:
            live = self._queue.popleft()
            if live in self._live:
                await self._judge_behind(live)
            else:
                self._forget_asked(live)

    async def _judge_behind(self, live: LiveExchange) -> None:
        until = 0.0
        try:
            async with asyncio.timeout(min(ASK_S, self._asking[live] - asyncio.get_running_loop().time())):
                until = await live.judge()
        except TimeoutError:
            _log.warning("a live exchange is cut: whether it may go on could not be known in time")
        except Exception:  # noqa: BLE001 (an error never widens access)
            _log.exception("judging a live exchange again failed")
        has_changed = self._forget_asked(live)
        if live not in self._live:
            return
        now = self._clock()
        # Not all of them at the same time again: what has to be asked for is somebody's work.
        if not self._goes_on(live, until, now, RECHECK_S * random.uniform(0.5, 1.0)) and has_changed:  # noqa: S311
            self._judge(live, now)

    def _forget_asked(self, live: LiveExchange) -> bool:
        """Whether it is to be asked about once more."""
        self._asking.pop(live, None)
        has_changed = live in self._ask_again
        self._ask_again.discard(live)
        return has_changed

    def _cut_unanswered(self) -> None:
        """Those whose turn has not come in time."""
        if not self._asking:
            return
        now = asyncio.get_running_loop().time()
        for live in [live for live, until in self._asking.items() if until + SWEEP_S <= now and live in self._live]:
            _cut(live, POLICY_VIOLATION)

    def cut_all(self, code: int = GOING_AWAY) -> int:
        """End everything (the drain deadline has passed). Returns how many there were."""
        live = tuple(self._live)
        for exchange in live:
            _cut(exchange, code)
        return len(live)


def _cut(live: LiveExchange, code: int) -> None:
    try:
        live.cut(code)
    except Exception:  # noqa: BLE001 (the others have to be cut all the same)
        _log.exception("cutting a live exchange failed")


def _is_revoked(live: LiveExchange) -> bool:
    try:
        return live.is_revoked()
    except Exception:  # noqa: BLE001 (an error never widens access)
        _log.exception("looking whether a live exchange was revoked failed")
        return True
