"""
Composes question 2: keys, state that replicas share, providers, sessions, tokens, and who dispatches among them.

Each part is made once and handed to the next; ``start`` before the first request, ``close`` after the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from authproxy.identity.callers import Callers
from authproxy.identity.providers.http import ProviderHttp
from authproxy.identity.providers.oidc import OidcClient
from authproxy.identity.secrets import Secrets
from authproxy.identity.sessions.refresh import Refresher
from authproxy.identity.sessions.seal import Sealer
from authproxy.identity.sessions.sessions import Sessions
from authproxy.identity.shared.revocations import Revocations
from authproxy.identity.shared.state import StateStore
from authproxy.identity.shared.state_memory import MemoryState
from authproxy.identity.shared.state_redis import RedisState
from authproxy.identity.tokens.api_keys import ApiKeys
from authproxy.identity.tokens.assertion import Assertions
from authproxy.identity.tokens.bearer import BearerIdentity
from authproxy.identity.tokens.introspection import Introspection
from authproxy.identity.tokens.keyring import KeyFolder
from authproxy.identity.tokens.own_tokens import OwnTokens
from authproxy.identity.tokens.userinfo import UserInfo
from authproxy.metrics import Metrics
from authproxy.settings import Settings


@dataclass(slots=True)
class IdentityParts:
    """What question 2 and Portero's own pages are made of."""

    callers: Callers
    api_keys: ApiKeys
    refresher: Refresher
    sessions: Sessions
    client: OidcClient
    keys: KeyFolder
    sealer: Sealer
    own_tokens: OwnTokens
    assertions: Assertions
    state: StateStore
    revocations: Revocations

    async def start(self) -> None:
        """Begin to follow the logouts of other replicas."""
        await self.revocations.start()

    async def close(self) -> None:
        """End all parts; one that fails keeps no other from ending."""
        async with AsyncExitStack() as ends:
            for part in (
                self.state,
                self.revocations,
                self.callers,
                self.client,
                self.api_keys,
                self.sessions,
                self.refresher,
            ):
                ends.push_async_callback(part.close)


def build_identity(
    settings: Settings,
    secrets: Secrets,
    metrics: Metrics,
    redis_url: str | None,
    clock: Callable[[], float] = time.time,
) -> IdentityParts:
    """
    Make every part. Raises: SettingsError for a folder of keys that cannot be used.

    Args:
        settings: of the process.
        secrets: of clients, service accounts and API keys.
        metrics: of the process.
        clock: Unix seconds.
        redis_url: with its password; None: nothing is shared with other replicas.
    """
    keys = KeyFolder(settings.keys, clock=clock)
    sealer = Sealer(keys.session_keys)
    state: StateStore = MemoryState() if redis_url is None else RedisState(redis_url, is_cluster=settings.redis_cluster)
    revocations = Revocations(redis_url, is_cluster=settings.redis_cluster, metrics=metrics, clock=clock)
    metrics.revocations_is_behind.read(lambda: float(revocations.is_behind))
    http = ProviderHttp(allow_loopback_http=settings.allow_loopback_http)
    bearer = BearerIdentity(http, secrets, metrics=metrics, clock=clock)
    client = OidcClient(http, secrets, bearer.trust, clock=clock, metrics=metrics)
    refresher = Refresher(state, client, metrics=metrics, clock=clock)
    sessions = Sessions(sealer, state, revocations, refresher, metrics=metrics, clock=clock)
    api_keys = ApiKeys(secrets, clock=clock)
    own_tokens = OwnTokens(keys, api_keys=api_keys)
    callers = Callers(
        bearer,
        sessions,
        Introspection(client, metrics=metrics),
        api_keys,
        own_tokens,
        revocations,
        state,
        userinfo=UserInfo(client),
    )
    return IdentityParts(
        callers=callers,
        api_keys=api_keys,
        refresher=refresher,
        sessions=sessions,
        client=client,
        keys=keys,
        sealer=sealer,
        own_tokens=own_tokens,
        assertions=Assertions(keys, clock=clock),
        state=state,
        revocations=revocations,
    )
