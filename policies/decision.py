"""
What the core answers, and why: one sum type and one closed list of reasons.

Every edge turns these values into bytes and none of them adds a verdict of its own. A reason's status is
written in ``problem.py`` and nowhere else; the word itself appears unchanged in ``X-Portero-Reason``, in the
audit line and in the metric, so that the three can be joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.principal import Principal
    from policies.tables import Place, TenantTable


class Reason(StrEnum):
    """The closed list of reasons for a refusal (docs/http.md has the table of statuses)."""

    BAD_REQUEST = "bad-request"
    BODY_MALFORMED = "body-malformed"
    TENANT_CONFLICT = "tenant-conflict"
    CREDENTIAL_AMBIGUOUS = "credential-ambiguous"
    LOGIN_FAILED = "login-failed"
    CREDENTIAL_MISSING = "credential-missing"
    CREDENTIAL_INVALID = "credential-invalid"
    SESSION_EXPIRED = "session-expired"
    NO_RULE_ALLOWS = "no-rule-allows"
    DENIED_BY_RULE = "denied-by-rule"
    TENANT_MISMATCH = "tenant-mismatch"
    TENANT_DISABLED = "tenant-disabled"
    ORIGIN_REFUSED = "origin-refused"
    PASS_INVALID = "pass-invalid"  # noqa: S105 (no password: a reason)
    TENANT_UNKNOWN = "tenant-unknown"
    ROUTE_UNKNOWN = "route-unknown"
    FUNCTION_UNKNOWN = "function-unknown"
    RESULT_UNKNOWN = "result-unknown"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    REQUEST_TIMEOUT = "request-timeout"
    BODY_TOO_LARGE = "body-too-large"
    HEAD_TOO_LARGE = "head-too-large"
    HOST_MISDIRECTED = "host-misdirected"
    HTTPS_REQUIRED = "https-required"
    RATE_LIMITED = "rate-limited"
    CONCURRENCY_LIMITED = "concurrency-limited"
    WAKE_LIMITED = "wake-limited"
    QUEUE_FULL = "queue-full"
    TOO_MANY_FAILURES = "too-many-failures"
    INTERNAL_ERROR = "internal-error"
    UPSTREAM_UNREACHABLE = "upstream-unreachable"
    UPSTREAM_CLOSED = "upstream-closed"
    UPSTREAM_GARBLED = "upstream-garbled"
    UPSTREAM_TIMEOUT = "upstream-timeout"
    COLD_START_TIMEOUT = "cold-start-timeout"
    KEYS_UNAVAILABLE = "keys-unavailable"
    PROVIDER_UNAVAILABLE = "provider-unavailable"
    SESSION_STORE_UNAVAILABLE = "session-store-unavailable"
    WAKE_FAILED = "wake-failed"
    FUNCTION_ASLEEP = "function-asleep"
    OVERLOADED = "overloaded"
    POLICY_UNAVAILABLE = "policy-unavailable"
    DRAINING = "draining"
    CLIENT_GONE = "client-gone"
    """Only in the audit: nobody is left to read an answer."""


@dataclass(frozen=True, slots=True)
class RuleRef:
    """Where in the operators' files the rule stands that decided: id and ``file:line``."""

    id: str
    where: str


class LimitState(NamedTuple):
    """
    What one limit has left after a spend; the edges print it as ``RateLimit`` (ietf-httpapi-ratelimit-headers).

    A NamedTuple because one is made per limit and request (0.12 us against 0.6 us, frozen).
    """

    id: str
    quota: int
    """Requests per window (``q``)."""
    window_s: int
    """Whole seconds, at least 1 (``w``)."""
    remaining: int
    """Requests that would be admitted now (``r``), never negative; a burst may make it larger than the quota."""
    reset_s: int
    """Whole seconds until nothing of the limit is used any more (``t``)."""
    name: str = ""
    """``id`` as a structured String, made with the ``Check``; empty: made when it is printed."""
    policy: str = ""
    """The limit's item of ``RateLimit-Policy``, likewise."""


class Allow(NamedTuple):
    """
    The request may leave for its function; everything the edge needs to send it there.

    A NamedTuple, as are the needs of the pipeline: one of each is made per request, at half the price of a dataclass.
    """

    place: Place
    principal: Principal
    rule: RuleRef | None
    """The allowing rule, None for a public function."""
    limits: tuple[LimitState, ...] = ()
    shadowed: tuple[Deny, ...] = ()
    """Refusals that shadow mode turned into a count and a log line."""
    instead_of: Deny | None = None
    """The refusal of the function that was asked for, whose fallback ``place`` is."""


class Defer(NamedTuple):
    """The request may leave, and its answer is fetched later: 202 now (RFC 9110 section 15.3.3)."""

    allow: Allow
    instead_of: Deny | None
    """The refusal that it was spared (``cold_start: {overflow: async}``); None: the caller asked for it."""


class Known(NamedTuple):
    """The stages that were asked say yes, and others are still to be asked (``stages.py``)."""

    place: Place
    principal: Principal | None
    """None: nobody has asked yet who is calling."""
    rule: RuleRef | None = None
    limits: tuple[LimitState, ...] = ()
    shadowed: tuple[Deny, ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """401: who is it? Carries what RFC 6750 section 3 and RFC 9449 section 7.1 want in ``WWW-Authenticate``."""

    reason: Reason
    error: str | None = None
    """
    ``invalid_token``, ``invalid_request`` or ``invalid_dpop_proof``; None when no credential was sent (RFC 6750 section
    3.1).
    """
    detail: str = ""
    tenant: str | None = None
    scheme: Literal["Bearer", "DPoP"] = "Bearer"
    """How the token was shown, or has to be."""


@dataclass(frozen=True, slots=True)
class Deny:
    """The request ends here."""

    reason: Reason
    detail: str = ""
    """One sentence for the caller: never an exception's text, never whether something hidden exists."""
    rule: RuleRef | None = None
    """For the audit and ``explain``; not sent to the caller."""
    retry_after_s: int | None = None
    """Whole seconds; None where waiting does not help."""
    limits: tuple[LimitState, ...] = ()
    allowed_methods: tuple[str, ...] = ()
    """For 405: the ``Allow`` field (RFC 9110 section 15.5.6)."""
    tenant: str | None = None
    comes_back: bool = False
    """A browser gets a page that comes back by itself (``cold_start: {overflow: page}``)."""
    part: Literal["target", "fields"] | None = None
    """For ``head-too-large``: what was too large. The target is 414, the fields are 431."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Portero answers by itself and nothing is refused: a CORS preflight, or what a ``no_wake`` rule says."""

    status: int
    fields: tuple[tuple[str, str], ...]
    tenant: str | None = None
    instead_of: Deny | None = None
    """The refusal that it takes the place of, for the audit."""


@dataclass(frozen=True, slots=True)
class Page:
    """One of Portero's own pages (``/.portero/...``): nothing of the platform is reached. Served by ``pages``."""

    tenant: TenantTable
    name: str
    """Of ``tenancy.PAGES``."""
    rest: str = ""
    """What follows the name, for the pages that have it: a result's id."""


Decision = Allow | Defer | Challenge | Deny | Answer | Page
Refusal = Challenge | Deny


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal as HTTP: what ``problem.py`` renders and every edge writes unchanged."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    reason: Reason
    members: Mapping[str, object] | None = None
