"""
Many requests' checks as one Redis command, and its reply as each request's answer.

``spend_limits.lua`` says what the server does with it. The answers are computed here by ``policies.gcra``, from the
state that the server had before: so a batch's reply is one number a limit, and memory and Redis answer alike by
construction.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Final, NamedTuple, TypeGuard

import msgspec

from authproxy.audit import get_logger
from authproxy.limits.wire import pack
from policies.gcra import Check, Spent, spend_all

SPEND_SCRIPT: Final = files("authproxy.limits").joinpath("spend_limits.lua").read_bytes()
SPEND_SHA: Final = hashlib.sha1(SPEND_SCRIPT, usedforsecurity=False).hexdigest()
MAX_CHECKS: Final = 64
"""Of one command (a single request with more goes alone): what a server does in some 100 us."""

_encode = msgspec.msgpack.Encoder().encode
_UNREADABLE: Final = -1
_log = get_logger("limits")


class Callback:
    """Stands where a future would: a function that is called with the answer, at a tenth of the price."""

    __slots__ = ("_is_done", "_then")

    def __init__(self, then: Callable[[Spent], None]) -> None:
        self._then = then
        self._is_done = False

    def done(self) -> bool:
        return self._is_done

    def set_result(self, spent: Spent) -> None:
        self._is_done = True
        try:
            self._then(spent)
        except Exception:  # noqa: BLE001 (the others of the batch must get their answers)
            _log.exception("going on with a request failed")


class Asked(NamedTuple):
    """One request that waits for its answer."""

    tenant: str
    checks: Sequence[Check]
    now: float
    is_peek: bool
    asked_at: float
    """Of the event loop's clock."""
    answer: asyncio.Future[Spent] | Callback


class Refusal(NamedTuple):
    """A limit that was found used up, with its TAT by the clock of the store."""

    key: str
    tat_us: int


class Batch:
    """Requests that travel together."""

    __slots__ = ("_index", "asked", "is_second_try")

    def __init__(self, asked: list[Asked]) -> None:
        self.asked = asked
        self.is_second_try = False
        self._index: dict[str, int] = {}

    def command(self, now_us: int) -> bytes:
        """The packed EVALSHA. ``now_us`` 0: by the server's clock."""
        index = self._index
        index.clear()
        limits: list[int] = []
        requests: list[int] = []
        for asked in self.asked:
            if not asked.is_peek:
                requests.append(len(asked.checks))
            for _, key, emission, tolerance, _, _, _, _, _, cost, _, _ in asked.checks:
                at = index.get(key)
                if at is None:
                    at = index[key] = len(index) + 1
                    limits += (emission, tolerance)
                if not asked.is_peek:
                    requests += (at, cost)
        return pack("EVALSHA", SPEND_SHA, len(index), *index, now_us, _encode((limits, requests)))

    def is_answered_by(self, reply: object) -> TypeGuard[list[int]]:
        """Whether a reply has the form that the script gives it: anything else is an error or not our script's."""
        return (
            isinstance(reply, list)
            and len(reply) == len(self._index) + 1
            and all(type(number) is int for number in reply)
        )

    def answers(self, reply: list[int]) -> tuple[int, list[Spent | None], list[Refusal]]:
        """
        What the reply means for each request.

        Returns: the server's time in microseconds; an answer per request, None for one that needs an unreadable limit;
        and the limits that refused.
        """
        now_us = reply[0]
        tats = dict(zip(self._index, reply[1:], strict=True))
        has_unreadable = _UNREADABLE in reply
        answers: list[Spent | None] = []
        refusals = []
        for asked in self.asked:
            checks = asked.checks
            if has_unreadable and any(tats[check.key] == _UNREADABLE for check in checks):
                answers.append(None)
                continue
            after, spent = spend_all(tats, now_us, checks)
            answers.append(spent)
            if after is None:
                if spent.refused is not None:
                    key = checks[spent.refused].key
                    refusals.append(Refusal(key, tats[key]))
            elif not asked.is_peek:
                tats.update(after)
        return now_us, answers, refusals
