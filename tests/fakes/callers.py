"""A whole ``Callers`` on small parts: a provider that says what it is told to, sessions and keys by a table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from authproxy.identity.callers import Callers
from authproxy.identity.shared.revocations import Revocations
from authproxy.identity.shared.state import StateStore
from authproxy.identity.shared.state_memory import MemoryState
from authproxy.identity.tokens.bearer import BearerIdentity
from authproxy.identity.tokens.introspection import Introspection
from authproxy.identity.tokens.userinfo import UserInfo
from policies.decision import Deny, Reason, Refusal
from policies.errors import StoreUnavailable
from policies.principal import API_KEY_PROVIDER, Confirmation, Principal
from policies.request import AccessRequest
from policies.tables import ClientSpec, IntrospectionSpec, ProviderSpec, TenantTable
from policies.tokens import refuse
from tests.fakes.identity import a_provider, an_identity

CLIENT = ClientSpec("portero", "client_secret_basic", "acme-client")


def an_asked_provider(issuer: str = "https://id.example", max_age_s: float = 60.0, **changes: Any) -> ProviderSpec:
    """A provider that may be asked about opaque tokens."""
    return a_provider(issuer, introspection=IntrospectionSpec(CLIENT, max_age_s), **changes)


def active(now: float, sub: str = "ana", **changes: Any) -> dict[str, Any]:
    """What a provider says of a good opaque token."""
    return {"active": True, "sub": sub, "aud": "survey", "exp": now + 3600, "token_type": "Bearer", **changes}


class ScriptedClient:
    """Stands in for ``OidcClient``: answers by token; an exception as an answer is raised."""

    def __init__(self) -> None:
        self.answers: dict[str, Mapping[str, Any] | Exception] = {}
        self.asked: list[str] = []
        self.opened = asyncio.Event()
        """Answers wait for it."""
        self.opened.set()

    async def introspect(self, tenant: TenantTable, provider: ProviderSpec, token: str) -> Mapping[str, Any]:
        del tenant, provider
        return await self._answer(token, {"active": False})

    async def userinfo(
        self, tenant: TenantTable, provider: ProviderSpec, access_token: str, sub: str, now: float
    ) -> Mapping[str, Any]:
        del tenant, provider, now
        return await self._answer(access_token, {"sub": sub})

    async def _answer(self, token: str, otherwise: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(token)
        await self.opened.wait()
        answer = self.answers.get(token, otherwise)
        if isinstance(answer, Exception):
            raise answer
        return answer


class TableOfSessions:
    """Stands in for ``Sessions``: the cookie is the key."""

    def __init__(self) -> None:
        self.people: dict[bytes, Principal | Refusal] = {}
        self.asked = 0

    def has_session(self, request: AccessRequest) -> bool:
        return request.cookie is not None and b"__Host-portero-session" in request.cookie

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        del tenant, now
        self.asked += 1
        found = self.people.get(request.cookie or b"")
        return found if isinstance(found, Principal) else None

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        del tenant, now
        self.asked += 1
        return self.people.get(request.cookie or b"")

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        return self.identify_now(tenant, request, now) or Deny(Reason.SESSION_STORE_UNAVAILABLE)


class TableOfKeys:
    """Stands in for ``ApiKeys``: one key, which is known once it was asked about."""

    def __init__(self) -> None:
        self.principal = Principal(API_KEY_PROVIDER, "reporting", expires_at=2e9)
        self.key = b"Bearer ptr_good"
        self.is_known = False

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        del tenant, now
        return self.principal if self.is_known and request.authorization == self.key else None

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        return self.known_now(tenant, request, now)

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        del now
        self.is_known = request.authorization == self.key
        return self.principal if self.is_known else replace(refuse("no such key"), tenant=tenant.name)


class TableOfTokens:
    """Stands in for ``OwnTokens``: what ``judge`` says, by token."""

    def __init__(self) -> None:
        self.people: dict[str, Callable[[], Principal | Refusal]] = {}
        self.judged: list[str] = []
        self.revoked = 0

    def known_now(self, tenant: TenantTable, digest: bytes, now: float) -> Principal | None:
        del tenant, digest, now
        return None

    def judge(self, tenant: TenantTable, token: str, now: float, digest: bytes | None = None) -> Principal | Refusal:
        del now, digest
        self.judged.append(token)
        found = self.people.get(token)
        return replace(refuse("no token of ours"), tenant=tenant.name) if found is None else found()

    def revoke_all(self) -> None:
        self.revoked += 1


class BrokenState(MemoryState):
    """A store that cannot be asked."""

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        raise StoreUnavailable("down")


class Parts:
    """A ``Callers`` with everything that it was made of."""

    def __init__(self, clock: Any, *, state: StateStore | None = None, bearer: BearerIdentity | None = None) -> None:
        self.client = ScriptedClient()
        self.sessions = TableOfSessions()
        self.api_keys = TableOfKeys()
        self.own_tokens = TableOfTokens()
        self.revocations = Revocations(None, clock=clock)
        self.state = state or MemoryState()
        self.bearer = bearer or an_identity(clock)
        self.introspection = Introspection(self.client)
        self.userinfo = UserInfo(self.client)
        self.callers = Callers(
            self.bearer,
            self.sessions,
            self.introspection,
            self.api_keys,
            self.own_tokens,
            self.revocations,
            self.state,
            userinfo=self.userinfo,
        )


def an_own_principal(function: str = "survey-report", jkt: str | None = None) -> Principal:
    """Whom a token of ours for one function names."""
    principal = Principal("login", "ana", expires_at=2e9)
    principal.only_function = function
    principal.issuer = "https://id.example"
    principal.issued_at = 1_789_999_000.0
    principal.confirmation = None if jkt is None else Confirmation(jkt)
    return principal


def as_any(value: object) -> Any:
    """For tests that hand in what no caller of theirs would."""
    return cast("Any", value)
