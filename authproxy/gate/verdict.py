"""What the gate tells an edge: pass it on like this, write this, or wait."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from authproxy.gate.live import LiveExchange
from policies.decision import Allow, Decision, Deny, Known, Page, Problem, Reason
from policies.pipeline import Need
from policies.request import AccessRequest, Head

if TYPE_CHECKING:
    from authproxy.activator import Grant
    from authproxy.limits.concurrency import Lease
    from authproxy.upstream.departure import Destination
    from policies.principal import Principal
    from policies.tables import PolicySet, TenantTable


class Rejudge(Protocol):
    """What a running exchange needs of the gate."""

    def is_revoked(self, tenant: TenantTable, principal: Principal) -> bool: ...

    def judge_again_now(self, request: AccessRequest, principal: Principal, function: str) -> float | None: ...

    async def judge_again(self, request: AccessRequest, principal: Principal, function: str) -> float: ...


class Passed(LiveExchange):
    """
    The request may leave. The edge forwards it and calls ``Gate.finish(passed, ...)`` exactly once, whatever happens.

    Written by hand and mutable: one is made per request on the hot path.
    """

    __slots__ = (
        "_gate",
        "allow",
        "answer_block",
        "case",
        "destination",
        "grant",
        "has_place",
        "lease",
        "request",
        "request_block",
        "request_id",
    )

    def __init__(
        self,
        case: Case,
        request: AccessRequest,
        allow: Allow,
        destination: Destination,
        request_block: bytes,
        answer_block: bytes,
        lease: Lease | None,
        gate: Rejudge,
    ) -> None:
        self.is_cut = False
        self.on_cut = None
        self.case = case
        self.request = request
        self.allow = allow
        self.destination = destination
        self.request_block = request_block
        """The whole request head but framing: request line, Host, forwarded and injected fields; no final CRLF."""
        self.answer_block = answer_block
        """Fields to add to the answer: X-Request-Id, RateLimit, CORS."""
        self.lease = lease
        """What is taken of ``concurrent`` limits."""
        self.has_place = True
        """A place in flight at the function is taken; the gate gives it back."""
        self.grant = case.grant
        """That place, of a request that was held for it."""
        self.request_id = case.request_id
        self._gate = gate

    @property
    def tenant(self) -> str:
        return self.allow.place.tenant.name

    @property
    def subject(self) -> str:
        return self.allow.principal.subject

    @property
    def expires_at(self) -> float | None:
        return self.allow.principal.expires_at

    def is_revoked(self) -> bool:
        return self._gate.is_revoked(self.allow.place.tenant, self.allow.principal)

    def judge_now(self) -> float | None:
        return self._gate.judge_again_now(self.request, self.allow.principal, self.allow.place.function)

    async def judge(self) -> float:
        return await self._gate.judge_again(self.request, self.allow.principal, self.allow.place.function)


@dataclass(slots=True)
class Refused:
    """The request ends here; the edge writes ``problem`` and nothing else. Counted and audited already by the gate."""

    problem: Problem
    request_id: str
    keeps_alive: bool = True
    """False: the connection's framing can no longer be trusted, or its body will not be read."""


@dataclass(slots=True)
class DirectAnswer:
    """Portero answers by itself and nothing is refused: a CORS preflight. Counted already by the gate."""

    status: int
    fields: tuple[tuple[str, str], ...]
    request_id: str


@dataclass(slots=True)
class PageCall:
    """One of Portero's own pages is asked for; the edge reads the body and has ``authproxy.pages`` answer it."""

    case: Case
    page: Page

    @property
    def request(self) -> AccessRequest:
        """Raises: RuntimeError for a call that no gate made."""
        if self.case.request is None:
            raise RuntimeError("a page call without a request")
        return self.case.request


@dataclass(slots=True)
class Deferred:
    """
    The request is to be accepted with 202 and run later: the edge calls ``Gate.deferred_accepted`` or
    ``deferred_refused``, once, and after the former ``Gate.run_deferred``.
    """

    case: Case
    allow: Allow
    instead_of: Deny | None
    """The refusal that it was spared; None: the caller asked to be answered later."""

    @property
    def request(self) -> AccessRequest:
        """Raises: RuntimeError for a verdict that no gate made."""
        if self.case.request is None:
            raise RuntimeError("a deferred request without a request")
        return self.case.request


class PageAnswer(NamedTuple):
    """What one of Portero's own pages answers; written by the edge, counted and audited by the gate."""

    status: int
    fields: tuple[tuple[str, str], ...]
    """With ``Content-Type`` and ``Cache-Control``; not ``X-Request-Id``, which the gate adds."""
    body: bytes = b""
    reason: Reason | None = None
    """When it refuses, in a form of its own (RFC 6749 section 5.2, Back-Channel Logout section 2.8)."""
    subject: str | None = None
    """For the audit: who was found to be asking, logging in or out."""


@dataclass(slots=True)
class StagePassed:
    """The stages that were asked say yes, and others are still to be asked. Neither counted nor audited yet."""

    case: Case
    known: Known


@dataclass(slots=True)
class Case:
    """One request while it is judged: what the gate, the recorder and a held request need to know of it."""

    head: Head
    request: AccessRequest | None
    """None: the head could not be believed."""
    policies: PolicySet
    """The set it started with; it keeps it (H2)."""
    request_id: str
    started_at: float
    """Unix seconds."""
    principal: Principal | None = None
    """Who is calling, once question 2 is answered."""
    held_s: float = 0.0
    """Seconds the request was held while its function woke."""
    grant: Grant | None = None
    """The place in flight that it was held for."""
    spared: Deny | None = None
    """What ``overflow: async`` took the place of."""
    is_deferred: bool = False
    """It was accepted with 202."""
    has_waited: bool = False
    """Something had to be waited for: what was known of the caller before may have changed since."""


@dataclass(slots=True)
class Undecided:
    """The generator stands at a need whose answer is not at hand; ``await Gate.decide(undecided)``."""

    case: Case
    request: AccessRequest
    judging: Generator[Need, Any, Decision | Known]
    need: Need


Verdict = Passed | Refused | DirectAnswer | PageCall | Deferred | StagePassed
