"""
What the pages are made of: one visit, and the parts of Portero that they ask.

The parts are seen through protocols that hold no more than the pages use; ``gate/build.py`` hands in the real ones.
Refuses to know how any of them works.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from authproxy.gate.verdict import PageAnswer, PageCall
from authproxy.identity.sessions.session import Session, Tokens
from authproxy.identity.shared.state import StateStore
from authproxy.limits.store import LimitStore
from authproxy.results.result import Owner, Result
from policies.decision import Refusal
from policies.id_token import LogoutNotice
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import ProviderSpec, TenantTable

Answered = PageAnswer | Refusal
Identify = Callable[[TenantTable, AccessRequest, float], Awaitable[Principal | Refusal]]


class BrowserSessions(Protocol):
    """What the pages need of ``authproxy.identity.sessions.sessions.Sessions``; all raise StoreUnavailable."""

    async def begin(
        self, tenant: TenantTable, provider: ProviderSpec, tokens: Tokens, request: AccessRequest, now: float
    ) -> tuple[Session, tuple[str, ...]]: ...

    async def open(self, tenant: TenantTable, request: AccessRequest, now: float) -> Session | None: ...

    async def end(
        self, tenant: TenantTable, session: Session | None, request: AccessRequest, now: float
    ) -> tuple[str, ...]: ...


class LoginClient(Protocol):
    """What the pages need of ``identity.providers.oidc.OidcClient``; raises LoginRefused and CannotKnow's kinds."""

    async def begin(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        *,
        redirect_uri: str,
        state: str,
        nonce: str,
        code_verifier: str,
        prompt: str | None = None,
    ) -> str: ...

    async def names_issuer(self, tenant: TenantTable, provider: ProviderSpec) -> bool: ...

    async def check_response_issuer(self, tenant: TenantTable, provider: ProviderSpec, iss: str | None) -> bool: ...

    async def redeem(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        nonce: str,
        now: float,
    ) -> Tokens: ...

    async def end_session_url(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        *,
        id_token: str | None,
        post_logout_redirect_uri: str,
        state: str | None,
    ) -> str | None: ...

    async def revoke_refresh_token(self, tenant: TenantTable, provider: ProviderSpec, refresh_token: str) -> None: ...

    async def judge_logout_token(self, tenant: TenantTable, token: str, now: float) -> LogoutNotice: ...


class Exchanger(Protocol):
    """What the pages need of ``authproxy.identity.tokens.own_tokens.OwnTokens``."""

    def exchange(self, tenant: TenantTable, principal: Principal, function: str, now: float) -> tuple[str, float]: ...


class Revoker(Protocol):
    """What the pages need of ``authproxy.identity.shared.revocations.Revocations``; both raise StoreUnavailable."""

    async def revoke_subject(self, tenant: str, issuer: str, sub: str, at: float, until: float) -> None: ...

    async def revoke_sid(self, tenant: str, issuer: str, sid: str, at: float, until: float) -> None: ...


class KeptResults(Protocol):
    """What the pages need of ``authproxy.results.store.ResultStore``; both raise StoreUnavailable."""

    async def read(self, tenant: str, result_id: str) -> tuple[Owner, Result | None] | None: ...

    async def delete(self, tenant: str, result_id: str) -> bool: ...


class CookieSealer(Protocol):
    """What the pages need of ``authproxy.identity.sessions.seal.Sealer``."""

    def seal(self, tenant: str, purpose: str, name: str, plain: bytes) -> str: ...

    def open(self, tenant: str, purpose: str, name: str, text: str | bytes) -> bytes | None: ...


class OutcomeCounter(Protocol):
    def add(self, labels: tuple[str, ...], /) -> None: ...


class PageMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for the pages."""

    @property
    def logins_total(self) -> OutcomeCounter: ...

    @property
    def logouts_total(self) -> OutcomeCounter: ...

    @property
    def tokens_exchanged_total(self) -> OutcomeCounter: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Made once a process."""

    identify: Identify
    sessions: BrowserSessions
    client: LoginClient
    own_tokens: Exchanger
    jwks: Callable[[], Mapping[str, Any]]
    state: StateStore
    revocations: Revoker
    sealer: CookieSealer
    store: LimitStore
    allow_loopback_http: bool
    metrics: PageMetrics | None
    results: KeptResults | None = None
    """None: nothing is answered later here."""
    forget_job: Callable[[str, str], None] | None = None
    """Told tenant and id of a result that was deleted: whoever works on it may stop."""

    def count_login(self, tenant: TenantTable, provider: str, outcome: str) -> None:
        """``provider`` is empty when it is not known which was asked."""
        if self.metrics is not None:
            self.metrics.logins_total.add((tenant.name, provider, outcome))

    def count_logout(self, tenant: TenantTable, kind: str) -> None:
        if self.metrics is not None:
            self.metrics.logouts_total.add((tenant.name, kind))

    def count_exchange(self, tenant: TenantTable, outcome: str) -> None:
        if self.metrics is not None:
            self.metrics.tokens_exchanged_total.add((tenant.name, outcome))


class Visit(NamedTuple):
    """One request for one page."""

    call: PageCall
    request: AccessRequest
    body: bytes
    now: float
    """Unix seconds."""

    def __repr__(self) -> str:
        return f"Visit({self.call.page.name}, {self.request_id})"

    @property
    def tenant(self) -> TenantTable:
        return self.call.page.tenant

    @property
    def request_id(self) -> str:
        return self.call.case.request_id

    def by_cookie(self) -> AccessRequest:
        """The request as if the session cookie were the only credential: what a browser's pages go by."""
        return self.request._replace(authorization=None, credential_digest=None, dpop=None)


async def identify(parts: Parts, visit: Visit, request: AccessRequest | None = None) -> Principal | Refusal:
    """Who is asking; noted on the case, so that the audit names it and a cookie made anew reaches the browser."""
    answer = await parts.identify(visit.tenant, visit.request if request is None else request, visit.now)
    if isinstance(answer, Principal):
        visit.call.case.principal = answer
    return answer


async def logged_in(parts: Parts, visit: Visit) -> Principal | Refusal | None:
    """Whom the browser's session names; None: nobody. A refusal is what keeps that from being known."""
    answer = await identify(parts, visit, visit.by_cookie())
    if isinstance(answer, Principal):
        return answer if answer.is_by_cookie and not answer.is_anonymous else None
    return answer


def login_providers(tenant: TenantTable) -> tuple[ProviderSpec, ...]:
    return tuple(provider for provider in tenant.providers if provider.login is not None)
