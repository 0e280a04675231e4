"""The seam of question 2: whoever can say who is calling."""

from __future__ import annotations

from typing import Protocol

from policies.decision import Refusal
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import TenantTable


class IdentitySource(Protocol):
    """
    Names the caller of one request of one tenant. ``tests/contracts/identity_source.py`` is its contract.

    No credential gives ``policies.principal.anonymous()``-like principal of the tenant: whether that suffices is
    policy's
    question. A credential that is present and bad is refused, always (``Challenge`` credential-invalid).
    """

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        """Answer from what is at hand (no credential, token cache, cached keys); None when I/O is needed."""

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        """Answer with whatever it takes, in bounded time. Never raises: what cannot be known is a refusal (503)."""

    async def close(self) -> None:
        """Stop background work and close connections."""
