"""
The seams of ``callers``: what it asks of sessions, of keys and tokens of Portero's own, and of what was logged out.

Each is the narrow face of one module; tests put tables in their place.
"""

from __future__ import annotations

from typing import Protocol

from policies.decision import Refusal
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import TenantTable

Named = Principal | Refusal
"""Whom a credential names, or why nobody."""


class SessionSource(Protocol):
    """What is asked of ``Sessions``."""

    def has_session(self, request: AccessRequest) -> bool: ...

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None: ...

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Named | None: ...

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Named: ...


class KeySource(Protocol):
    """What is asked of ``ApiKeys``."""

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None: ...

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Named | None: ...

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Named: ...


class OwnTokenSource(Protocol):
    """What is asked of ``OwnTokens``."""

    def known_now(self, tenant: TenantTable, digest: bytes, now: float) -> Principal | None: ...

    def judge(self, tenant: TenantTable, token: str, now: float, digest: bytes | None = None) -> Named: ...

    def revoke_all(self) -> None: ...


class RevocationsSeen(Protocol):
    """What is asked of ``Revocations``."""

    @property
    def generation(self) -> int: ...

    def is_revoked(
        self,
        tenant: str,
        *,
        session_id: str | None,
        issuer: str | None,
        sub: str | None,
        sid: str | None,
        established_at: float,
    ) -> bool: ...
