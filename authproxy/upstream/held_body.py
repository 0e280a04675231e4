"""
A request's body while the request is held: read all the same, because nobody else would notice that its client left.

It decides where the bytes wait (memory, then an unlinked file) and when there are too many of them. It refuses to know
sockets (``BodySource``), who may hold how much (``BodyAccount``) and why the request is held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from policies.decision import Deny, Reason


class BodyAccount(Protocol):
    """What of held bytes is taken for one body: ``policies.held_bytes.Account``."""

    def take(self, count: int) -> Reason | None:
        """Take ``count`` more bytes, all or nothing; a reason: there is no room for them."""

    def close(self) -> None:
        """Give everything back. Idempotent."""


class HoldableBody(Protocol):
    """A body that whoever holds its request may have read meanwhile."""

    def start(self, account: BodyAccount, failed: Callable[[Deny], None]) -> None:
        """
        Read on, at the expense of ``account``, which belongs to the body from now on.

        ``failed`` is told at most once why the request cannot go on (too large, malformed, stalled, no room): from the
        loop, never from within ``start``, and never after ``stop`` was called. Starting again after ``stop`` is
        allowed: what was read before stays on the first account, and the second is closed.
        """

    async def stop(self) -> None:
        """
        Stop reading. When it returns no read and no write is under way any more, and nothing that was read is lost.

        Idempotent, also without ``start``; when it is cancelled the above still holds a moment later.
        """
