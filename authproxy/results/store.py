"""
The seam of kept results: one protocol, one contract suite (``tests/contracts/result_store.py``), two implementations.

A result begins *pending*: whoever runs the request renews it each ``RENEW_S``, and one that was not renewed for
``PENDING_S`` is gone, so that a Portero that died leaves no place taken. ``finish`` makes it *done*, and from then on
it is kept for its time. Every call is bounded in time and raises ``StoreUnavailable`` when the store cannot be asked;
no caller may take that for an answer.

Nobody is told whether an id that is not the tenant's own exists: unknown, over, deleted and another tenant's are one
answer.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from authproxy.results.result import Owner, Result
from policies.decision import Reason

RENEW_S: Final = 5.0
"""How often who runs a deferred request says that it is still under way."""
PENDING_S: Final = 15.0
"""A pending result that was not renewed for so long is gone: two lost renewals are forgiven."""


class ResultBounds(NamedTuple):
    """
    What one request may find taken already; all at least 0.

    Of a tenant's results and bytes no flow gets more than half of what the other flows leave (of one place: one), so
    that a caller whose results pile up does not keep the others from theirs.
    """

    max_async: int
    """Pending results of the flow."""
    tenant_results: int
    """Results of the tenant, pending and done."""
    tenant_bytes: int
    """Of the tenant's done results together, as ``result.size_of`` counts them; judged by ``finish``."""


class ResultSizes(NamedTuple):
    """For the metrics: what this process keeps, or has others keep for it."""

    pending: int
    done: int
    bytes: int


class ResultStore(Protocol):
    """All methods but ``sizes`` and ``close`` raise ``policies.errors.StoreUnavailable``."""

    @property
    def is_shared(self) -> bool:
        """Whether other replicas see it, and a restart of Portero survives."""

    async def open(self, owner: Owner, flow: str, bounds: ResultBounds, keep_s: float) -> str | Reason:
        """
        A new pending result's id, or why there is none. Atomic: of many at once no more get one than have room.

        ``QUEUE_FULL`` when the flow has all it may have of the tenant's, ``OVERLOADED`` when the tenant has all it may
        have of everybody's.

        Args:
            owner: who may fetch it.
            flow: whose pending results count against ``max_async``: the subject, or the address of anonymous callers.
            bounds: as the policies of now have them.
            keep_s: how long it is kept once it is done, seconds.
        """

    async def renew(self, tenant: str, result_id: str) -> bool:
        """It is still being worked on. False: nobody waits for it any more (deleted), or it is over: stop working."""

    async def finish(self, tenant: str, result_id: str, result: Result) -> bool:
        """
        A pending result is done. False: it is not pending any more, and this is not what is kept.

        Where the bytes have no room for it, ``result.without_room`` is kept instead. May be said again with the same
        result: what was not answered in time may have been carried out.
        """

    async def read(self, tenant: str, result_id: str) -> tuple[Owner, Result | None] | None:
        """Whose it is, and what it came to (None: pending); None when the tenant has no such result."""

    async def delete(self, tenant: str, result_id: str) -> bool:
        """Forget it, pending or done. False: there was no such result."""

    def sizes(self) -> ResultSizes: ...

    async def close(self) -> None:
        """Idempotent; never raises."""
