"""Sessions that need a refresh, a provider that rotates and detects reuse, and a store that fails when told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from authproxy.identity.sessions.session import GrantInvalid, Session, Tokens
from authproxy.identity.shared.state import StateStore
from policies.errors import StoreUnavailable
from policies.tables import ProviderSpec, SessionsSpec, TenantTable
from tests.fakes.identity import a_provider, a_tenant

ISSUER = "https://id.example"
PROVIDER = a_provider(ISSUER)


def tenant_of(store: str = "cookie", name: str = "acme") -> TenantTable:
    """A tenant with one provider, whose sessions are kept as told."""
    spec = SessionsSpec(store="redis" if store == "redis" else "cookie")
    return replace(a_tenant(name, PROVIDER), sessions=spec)


def stale_session(session_id: str = "s1", **changes: Any) -> Session:
    """One whose claims are too old since a second."""
    now = time.time()
    session = Session(
        id=session_id,
        secret=session_id.encode().ljust(32, b"."),
        version=1,
        tenant="acme",
        provider=PROVIDER.name,
        issuer=ISSUER,
        sub="ana",
        sid=None,
        claims={"sub": "ana", "groups": ["old"]},
        created_at=now - 600,
        seen_at=now - 60,
        fresh_until=now - 1,
        id_token=None,
        access_token=None,
        refresh_token=f"{session_id}.1",
        fetched_at=now - 300,
    )
    return replace(session, **changes)


def tokens_for(session: Session, refresh_token: str | None, **changes: Any) -> Tokens:
    """What a provider that rotates answers."""
    now = time.time()
    tokens = Tokens(
        issuer=session.issuer,
        sub=session.sub,
        sid=None,
        claims={"sub": session.sub, "groups": ["new"]},
        id_token=None,
        access_token=None,
        refresh_token=refresh_token,
        expires_at=now + 300,
        fetched_at=now,
    )
    return replace(tokens, **changes)


class Family:
    """The refresh tokens of one login, as a provider with rotation and reuse detection keeps them (RFC 9700 4.14.2)."""

    def __init__(self) -> None:
        self.newest = 1
        self.is_revoked = False

    def redeem(self, token: str) -> str | None:
        """The next token; None for invalid_grant. A token shown twice ends the family."""
        name, _, number = token.rpartition(".")
        if self.is_revoked or not number.isdigit() or int(number) > self.newest:
            return None
        if int(number) < self.newest:
            self.is_revoked = True
            return None
        self.newest += 1
        return f"{name}.{self.newest}"


class RotatingClient:
    """A ``RefreshClient`` of several replicas that share one provider."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self.calls = 0
        self.before: Callable[[], Awaitable[None]] = _at_once
        """Awaited before the provider acts; may raise."""
        self.after: Callable[[], Awaitable[None]] = _at_once
        """Awaited after it has acted: the answer is under way."""
        self.changes: dict[str, Any] = {}
        """Of the tokens."""

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Tokens:
        self.calls += 1
        await self.before()
        if session.refresh_token is None:
            raise GrantInvalid
        token = self.families.setdefault(session.id, Family()).redeem(session.refresh_token)
        await self.after()
        if token is None:
            raise GrantInvalid
        return tokens_for(session, token, **self.changes)


async def _at_once() -> None: ...


class Fragile:
    """A ``StateStore`` that another keeps; it fails for as long as ``is_down``. Several replicas may share one."""

    def __init__(self, store: StateStore, *, is_shared: bool = True) -> None:
        self._store = store
        self.is_shared = is_shared
        self.is_down = False
        self.calls = 0
        self.delay_s = 0.0
        """Of each call, as of a server that is far away."""

    async def _ask(self) -> StateStore:
        self.calls += 1
        await asyncio.sleep(self.delay_s)
        if self.is_down:
            raise StoreUnavailable("down")
        return self._store

    async def get(self, key: str) -> bytes | None:
        return await (await self._ask()).get(key)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        await (await self._ask()).put(key, value, ttl_s)

    async def put_newer(self, key: str, version: int, value: bytes, ttl_s: float) -> bool:
        return await (await self._ask()).put_newer(key, version, value, ttl_s)

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        return await (await self._ask()).add(key, value, ttl_s)

    async def take(self, key: str) -> bytes | None:
        return await (await self._ask()).take(key)

    async def delete(self, key: str) -> None:
        await (await self._ask()).delete(key)

    async def acquire(self, key: str, holder: str, ttl_s: float) -> int | None:
        return await (await self._ask()).acquire(key, holder, ttl_s)

    async def renew(self, key: str, holder: str, ttl_s: float) -> bool:
        return await (await self._ask()).renew(key, holder, ttl_s)

    async def release(self, key: str, holder: str) -> None:
        await (await self._ask()).release(key, holder)

    async def close(self) -> None: ...
