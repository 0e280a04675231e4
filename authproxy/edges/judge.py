"""
What the edge needs of others: of the gate that judges, of Portero's own pages, and of what runs deferred requests.

It decides nothing; ``app`` hands the real ones over, and tests their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from authproxy.gate.verdict import Deferred, PageAnswer, PageCall, Passed, Refused, Undecided, Verdict
from authproxy.upstream.held_body import HoldableBody
from policies.decision import Deny, Reason, Refusal
from policies.request import Head, HeadMemo

if TYPE_CHECKING:
    from authproxy.edges.exchange import PublicExchange


class Judge(Protocol):
    """What the edge needs of ``authproxy.gate.gate.Gate``."""

    def decide_now(self, head: Head, memo: HeadMemo) -> Verdict | Undecided: ...

    def decide_soon(self, undecided: Undecided, then: Callable[[Verdict | Undecided], None]) -> bool: ...

    async def decide(self, undecided: Undecided, body: HoldableBody | None = None) -> Verdict: ...

    def abandon(self, undecided: Undecided) -> None: ...

    def finish(
        self,
        passed: Passed,
        *,
        status: int,
        bytes_in: int,
        bytes_out: int,
        failure: Reason | None,
    ) -> None: ...

    def upstream_failed(self, passed: Passed) -> None: ...

    def says_not_reached(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> bool: ...

    def failure_of(self, passed: Passed, status: int, fields: list[tuple[bytes, bytes]]) -> Reason | None: ...

    def may_retry(self, passed: Passed) -> bool: ...

    async def hold_again(self, passed: Passed, body: HoldableBody | None = None) -> Refused | None: ...

    def fail(self, passed: Passed, refusal: Deny) -> Refused: ...

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused: ...

    def page_answered(self, call: PageCall, answer: PageAnswer) -> PageAnswer: ...

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused: ...

    def page_failed(self, call: PageCall) -> Refused: ...

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused: ...


class DeferredJobs(Protocol):
    """What the edge needs of ``authproxy.edges.jobs.Jobs``."""

    async def accept(self, deferred: Deferred, exchange: PublicExchange) -> PageAnswer | Refused:
        """
        What to write now of a request that is answered later; the gate has been told of it.

        Raises: ClientGone, and is cancelled when the client goes or the process stops; the gate is told by the edge
        then, as it is of any other exception.
        """


class OwnPages(Protocol):
    """What the edge needs of ``authproxy.pages.pages.Pages``."""

    max_body_bytes: int

    async def answer(self, call: PageCall, body: bytes) -> PageAnswer | Refusal: ...


class NoPages:
    """An edge without own pages: there are none."""

    max_body_bytes = 0

    async def answer(self, call: PageCall, _body: bytes) -> PageAnswer | Refusal:
        return Deny(Reason.ROUTE_UNKNOWN, tenant=call.page.tenant.name)
