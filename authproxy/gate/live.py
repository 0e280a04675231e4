"""
Every exchange that is alive: held, streaming or a websocket, with what is needed to judge it again and to cut it.

A decision is made when a request arrives; a stream outlives it. The registry is how later facts (a policy swap, an
expired token, a logout, the end of the process) reach exchanges that are already running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from authproxy.audit import get_logger

POLICY_VIOLATION: Final = 1008
"""Websocket close code for "you may no longer" (RFC 6455 section 7.4.1)."""
GOING_AWAY: Final = 1001
"""Websocket close code for "we are stopping"."""

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

    def may_go_on(self) -> bool:
        """Whether the exchange would be allowed under the active policies. Anything raised means no."""
        raise NotImplementedError

    def cut(self, code: int) -> None:
        """End the exchange now. Idempotent."""
        if self.is_cut:
            return
        self.is_cut = True
        if self.on_cut is not None:
            self.on_cut(code)


class LiveRegistry:
    """The live exchanges of one process."""

    def __init__(self) -> None:
        self._live: set[LiveExchange] = set()

    def enter(self, live: LiveExchange) -> None:
        self._live.add(live)

    def discard(self, live: LiveExchange) -> None:
        """The exchange is over; forget it. Idempotent."""
        self._live.discard(live)

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveExchange]:
        return iter(tuple(self._live))

    def recheck_all(self) -> int:
        """
        Judge every live exchange again (after a policy swap); cut those that may no longer. Returns how many.

        One that cannot be judged may not go on, and keeps none of the others from being judged.
        """
        refused = [live for live in self if not _may_go_on(live)]
        for live in refused:
            _cut(live, POLICY_VIOLATION)
        return len(refused)

    def cut_all(self, code: int = GOING_AWAY) -> int:
        """End everything (the drain deadline has passed). Returns how many there were."""
        live = tuple(self._live)
        for exchange in live:
            _cut(exchange, code)
        return len(live)


def _may_go_on(live: LiveExchange) -> bool:
    try:
        return live.may_go_on()
    except Exception:  # noqa: BLE001 (an error never widens access)
        _log.exception("judging a live exchange again failed")
        return False


def _cut(live: LiveExchange, code: int) -> None:
    try:
        live.cut(code)
    except Exception:  # noqa: BLE001 (the others have to be cut all the same)
        _log.exception("cutting a live exchange failed")
