"""What sessions are tried with: a store, revocations and a refresher that do as they are told, and a browser's jar."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from authproxy.identity.sessions.seal import Sealer, SessionKeys
from authproxy.identity.sessions.session import Session, Tokens
from authproxy.identity.sessions.sessions import Sessions, renewed
from policies.errors import StoreUnavailable
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import ProviderSpec, SessionsSpec, TenantTable
from tests.fakes.identity import Clock, CountingMetric, a_provider, a_request, a_tenant

ISSUER = "https://id.example"


class DictStore:
    """A ``StateStore`` in a dict, as far as tickets use it; nothing in it expires."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[int, bytes]] = {}
        self.is_down = False
        self.reads = 0

    is_shared = True

    def _ask(self) -> None:
        if self.is_down:
            raise StoreUnavailable("down")

    async def get(self, key: str) -> bytes | None:
        self._ask()
        self.reads += 1
        found = self.values.get(key)
        return None if found is None else found[1]

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self._ask()
        self.values[key] = (0, value)

    async def put_newer(self, key: str, version: int, value: bytes, ttl_s: float) -> bool:
        self._ask()
        if ttl_s <= 0:
            raise ValueError("no time to keep it")
        if key in self.values and self.values[key][0] >= version:
            return False
        self.values[key] = (version, value)
        return True

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        raise NotImplementedError

    async def take(self, key: str) -> bytes | None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        self._ask()
        self.values.pop(key, None)

    async def acquire(self, key: str, holder: str, ttl_s: float) -> int | None:
        raise NotImplementedError

    async def renew(self, key: str, holder: str, ttl_s: float) -> bool:
        raise NotImplementedError

    async def release(self, key: str, holder: str) -> None:
        raise NotImplementedError

    async def close(self) -> None: ...


class SetRevocations:
    """Ids of sessions, and until when they are remembered."""

    def __init__(self) -> None:
        self.generation = 0
        self.looks = 0
        self.is_down = False
        self.sessions: dict[tuple[str, str], float] = {}
        self.subjects: dict[tuple[str, str, str], float] = {}
        self.sids: set[str] = set()

    def is_revoked(
        self,
        tenant: str,
        *,
        session_id: str | None,
        issuer: str | None,
        sub: str | None,
        sid: str | None,
        established_at: float,
    ) -> bool:
        self.looks += 1
        at = self.subjects.get((tenant, issuer or "", sub or ""), -1.0)
        return (tenant, session_id or "") in self.sessions or sid in self.sids or established_at <= at

    async def revoke_session(self, tenant: str, session_id: str, until: float) -> None:
        self.sessions[tenant, session_id] = until
        self.generation += 1
        if self.is_down:
            raise StoreUnavailable("down")

    def revoke_subject(self, tenant: str, sub: str, at: float) -> None:
        self.subjects[tenant, ISSUER, sub] = at
        self.generation += 1


class ToldRefresher:
    """Answers with the tokens it was given, or raises what it was given; remembers newer versions as replicas do."""

    def __init__(self) -> None:
        self.answer: Tokens | Exception | None = None
        self.known: dict[str, Session] = {}
        self.asked = 0

    def known_now(self, session: Session, now: float) -> Session | None:
        return self.known.get(session.id)

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Session:
        self.asked += 1
        if isinstance(self.answer, Tokens):
            newer = self.known[session.id] = renewed(session, self.answer, provider, tenant, now)
            return newer
        raise self.answer or AssertionError("nothing was expected to be refreshed")


class Metrics:
    """Stands in for ``authproxy.metrics.Metrics``."""

    def __init__(self) -> None:
        self.sessions_total = CountingMetric()


class Jar:
    """The cookies of one browser and one host; ``__Host-`` cookies have no other attributes to be told apart by."""

    def __init__(self) -> None:
        self.cookies: dict[str, str] = {}

    def take(self, values: Iterable[str]) -> None:
        """Obey ``Set-Cookie`` values."""
        for value in values:
            pair, *attributes = value.split("; ")
            name, _, text = pair.partition("=")
            assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(attributes), attributes
            assert not [a for a in attributes if a.lower().startswith("domain")]
            assert len(value) < 4096
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = text

    def take_lines(self, lines: bytes) -> None:
        """Obey the lines that a principal brings."""
        fields = [line.partition(": ") for line in lines.decode("ascii").split("\r\n") if line]
        self.take(value for name, _, value in fields if name == "Set-Cookie")

    @property
    def field(self) -> bytes:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()

    def request(self, **changes: Any) -> AccessRequest:
        return a_request(cookie=self.field or None, **changes)


class World:
    """One replica: its sessions and everything that they ask."""

    def __init__(self, *, store: DictStore | None = None, keys: Callable[[], SessionKeys] | None = None) -> None:
        self.clock = Clock()
        self.store = store or DictStore()
        self.revocations = SetRevocations()
        self.refresher = ToldRefresher()
        self.metrics = Metrics()
        self.sealer = Sealer(keys or _same(some_keys()))
        self.sessions = Sessions(
            self.sealer,
            self.store,
            self.revocations,
            self.refresher,
            metrics=self.metrics,
            clock=self.clock,
        )

    @property
    def now(self) -> float:
        return self.clock.now

    def outcomes(self, tenant: str = "acme") -> dict[str, int]:
        return {outcome: n for (named, outcome), n in self.metrics.sessions_total.counts.items() if named == tenant}

    async def log_in(
        self,
        jar: Jar,
        tenant: TenantTable | None = None,
        *,
        claims: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Session:
        """``ana`` logs in at the tenant's first provider."""
        tenant = tenant or tenant_with()
        tokens = some_tokens(self.now, claims, **changes)
        session, values = await self.sessions.begin(tenant, tenant.providers[0], tokens, jar.request(), self.now)
        jar.take(values)
        return session


def some_keys(*others: tuple[bytes, bytes]) -> SessionKeys:
    """A new current key; ``others`` are accepted too."""
    current = (secrets.token_bytes(4), secrets.token_bytes(32))
    return SessionKeys(current, dict([current, *others]))


def _same(keys: SessionKeys) -> Callable[[], SessionKeys]:
    return lambda: keys


def some_tokens(now: float, claims: Mapping[str, Any] | None = None, **changes: Any) -> Tokens:
    """``ana``'s, for an hour, with a refresh token."""
    sub = changes.pop("sub", "ana")
    tokens = Tokens(
        issuer=ISSUER,
        sub=sub,
        sid="s1",
        claims={"iss": ISSUER, "sub": sub, "groups": ["analysts"], "nonce": "n", **(claims or {})},
        id_token="eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmF0dXJl",
        access_token=None,
        refresh_token="refresh-1",
        expires_at=now + 3600,
        fetched_at=now,
    )
    return replace(tokens, **changes)


def tenant_with(
    name: str = "acme", store: str = "cookie", provider: ProviderSpec | None = None, **spec: Any
) -> TenantTable:
    """A tenant with one provider; ``spec`` as ``SessionsSpec``."""
    sessions = SessionsSpec(store="redis" if store == "redis" else "cookie", **spec)
    return replace(a_tenant(name, provider or a_provider(ISSUER)), sessions=sessions)


def named(answer: object) -> Principal:
    """The principal that ``answer`` is."""
    assert isinstance(answer, Principal), answer
    return answer
