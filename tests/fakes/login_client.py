"""A client of providers and what it needs, put together for tests: over http on loopback, with a clock of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from authproxy.identity.providers.accounts import AccountKeys
from authproxy.identity.providers.http import ProviderHttp
from authproxy.identity.providers.jwks import JwksCache
from authproxy.identity.providers.oidc import OidcClient
from authproxy.identity.providers.trust import TrustStore
from authproxy.identity.secrets import Secrets
from authproxy.identity.sessions.session import Session, Tokens
from policies.tables import TenantTable
from tests.fakes.identity import Clock, CountingMetric
from tests.fakes.login_provider import CODE, NONCE, REDIRECT_URI, VERIFIER


class ClientMetrics:
    """Stands in for ``authproxy.metrics.Metrics``."""

    def __init__(self) -> None:
        self.provider_calls_total = CountingMetric()


@asynccontextmanager
async def a_running_client(
    secrets: Path | None,
    clock: Clock,
    *,
    timeout_s: float = 5.0,
    grant_timeout_s: float | None = None,
    metrics: ClientMetrics | None = None,
    http: ProviderHttp | None = None,
) -> AsyncIterator[OidcClient]:
    """``http``: in place of one with ``timeout_s``; it is closed with the client."""
    http = http or ProviderHttp(allow_loopback_http=True, timeout_s=timeout_s)
    files = Secrets(secrets)
    trust = TrustStore(
        lambda tenant, provider: JwksCache(tenant, provider, http, clock=clock),
        lambda tenant, account: AccountKeys(tenant, account, files),
    )
    client = OidcClient(http, files, trust, clock=clock, metrics=metrics, grant_timeout_s=grant_timeout_s or timeout_s)
    try:
        yield client
    finally:
        await client.close()
        await trust.close()
        await http.close()


async def log_in(client: OidcClient, tenant: TenantTable, clock: Clock, *, code: str = CODE) -> Tokens:
    """Redeem the code of the fake provider at the tenant's first provider."""
    return await client.redeem(
        tenant,
        tenant.providers[0],
        code=code,
        redirect_uri=REDIRECT_URI,
        code_verifier=VERIFIER,
        nonce=NONCE,
        now=clock.now,
    )


async def begin(client: OidcClient, tenant: TenantTable, *, prompt: str | None = None) -> str:
    return await client.begin(
        tenant,
        tenant.providers[0],
        redirect_uri=REDIRECT_URI,
        state="the-state",
        nonce=NONCE,
        code_verifier=VERIFIER,
        prompt=prompt,
    )


def a_session(tenant: TenantTable, clock: Clock, **changes: Any) -> Session:
    """Of ``ana``, at the tenant's first provider, due to be refreshed."""
    provider = tenant.providers[0]
    session = Session(
        id="id",
        secret=b"s" * 32,
        version=1,
        tenant=tenant.name,
        provider=provider.name,
        issuer=provider.issuer,
        sub="ana",
        sid="s1",
        claims={"iss": provider.issuer, "sub": "ana", "sid": "s1", "groups": ["before"], "organization": tenant.name},
        created_at=clock.now - 1000,
        seen_at=clock.now,
        fresh_until=clock.now,
        id_token=None,
        access_token=None,
        refresh_token="refresh-1",
    )
    return replace(session, **changes)
