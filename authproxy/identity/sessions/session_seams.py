"""What sessions need of others: who counts, who says what was revoked, who fetches claims anew. Protocols only."""

from __future__ import annotations

from typing import Protocol

from authproxy.identity.caller_sources import RevocationsSeen
from authproxy.identity.sessions.session import Session
from policies.tables import ProviderSpec, TenantTable


class OutcomeCounter(Protocol):
    """Counts by tenant and outcome."""

    def add(self, labels: tuple[str, str], /) -> None: ...


class SessionMetrics(Protocol):
    """What ``authproxy.metrics.Metrics`` has for sessions: begun, ended, expired, revoked, unreadable."""

    @property
    def sessions_total(self) -> OutcomeCounter: ...


class RevocationList(RevocationsSeen, Protocol):
    """What of ``revocations.Revocations`` sessions need."""

    async def revoke_session(self, tenant: str, session_id: str, until: float) -> None: ...


class RefresherLike(Protocol):
    """What of ``refresh.Refresher`` sessions need."""

    def known_now(self, session: Session, now: float) -> Session | None: ...

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Session: ...
