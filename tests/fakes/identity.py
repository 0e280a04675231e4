"""Small parts that tests of identity are put together from: a tenant, a provider's entry, a request, a clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from authproxy.identity.providers.http import ProviderHttp
from authproxy.identity.secrets import Secrets
from authproxy.identity.tokens.bearer import BearerIdentity
from policies.request import AccessRequest, Target
from policies.tables import (
    Ceilings,
    FunctionTable,
    ProviderSpec,
    RbacTable,
    RouteTable,
    ServiceAccountSpec,
    TenantTable,
)
from tests.fakes.provider import AUDIENCE

_PROVIDER = ProviderSpec(
    name="login",
    issuer="https://id.example",
    audiences=frozenset((AUDIENCE,)),
    algorithms=frozenset(("RS256", "ES256", "EdDSA")),
    tenant_claim=None,
    groups_claim="groups",
    email_claim="email",
    name_claim="name",
    email_domains=frozenset(),
    jwks_uri=None,
    allowed_private_hosts=frozenset(),
    max_token_lifetime_s=86_400.0,
    login=None,
    where="acme.yaml:4",
)
_ACCOUNT = ServiceAccountSpec(
    name="survey-ci",
    public_keys=("survey-ci.pem",),
    audiences=frozenset((AUDIENCE,)),
    groups=frozenset(("ci",)),
    allows_missing_audience=False,
    where="acme.yaml:12",
)
_REQUEST = AccessRequest(
    method="GET",
    host="acme.localhost",
    target=Target("/", (), False, None),
    scheme="https",
    client_ip="192.0.2.7",
    authorization=None,
    cookie=None,
    hints=(),
    origin=None,
    fetch_site=None,
    accepts_html=False,
    content_length=None,
    is_chunked=False,
    is_websocket=False,
    expects_continue=False,
    keeps_alive=True,
    preflight_method=None,
    traceparent=None,
    forward_block=b"",
)


def a_provider(issuer: str = "https://id.example", **changes: Any) -> ProviderSpec:
    return replace(_PROVIDER, issuer=issuer, **changes)


def an_account(**changes: Any) -> ServiceAccountSpec:
    return replace(_ACCOUNT, **changes)


def a_tenant(
    name: str = "acme",
    *providers: ProviderSpec,
    accounts: tuple[ServiceAccountSpec, ...] = (),
) -> TenantTable:
    return TenantTable(
        name=name,
        namespace=name,
        backend="faas",
        owns=None,
        is_disabled=False,
        shadow=frozenset(),
        providers=providers,
        service_accounts=accounts,
        functions=FunctionTable({}, ()),  # identity is asked before functions, routes and roles are looked at
        routes=cast("RouteTable", None),
        rbac=cast("RbacTable", None),
        limits=(),
        ceilings=Ceilings(),
        hosts=(f"{name}.localhost",),
        where=f"{name}.yaml:1",
        providers_by_issuer={provider.issuer: provider for provider in providers},
    )


def a_request(token: str | None = None, **changes: Any) -> AccessRequest:
    """With ``Authorization: Bearer <token>``, or with none."""
    authorization = None if token is None else f"Bearer {token}".encode()
    return _REQUEST._replace(**{"authorization": authorization, **changes})


class Clock:
    """Unix seconds that stand still until they are moved."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> float:
        self.now += seconds
        return self.now


class CountingMetric:
    """Stands in for one counter."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()

    def add(self, labels: tuple[str, ...], /) -> None:
        self.counts[labels] += 1

    def cell(self, labels: tuple[str, ...], /) -> list[float]:
        return _Cell(self.counts, labels)


class _Cell(list[float]):
    """Adds to ``counts`` what is added to its one element."""

    def __init__(self, counts: Counter[tuple[str, ...]], labels: tuple[str, ...]) -> None:
        super().__init__([0.0])
        self._counts = counts
        self._labels = labels

    def __setitem__(self, at: Any, value: Any) -> None:
        self._counts[self._labels] += int(value - self[0])
        super().__setitem__(at, value)


class CountingMetrics:
    """Stands in for ``authproxy.metrics.Metrics``."""

    def __init__(self) -> None:
        self.jwks_fetches_total = CountingMetric()
        self.token_cache_total = CountingMetric()


def an_identity(clock: Clock, secrets: Path | None = None, **options: Any) -> BearerIdentity:
    """Over http on loopback, as the demo has it."""
    http = options.pop("http", None) or ProviderHttp(allow_loopback_http=True, timeout_s=options.pop("timeout_s", 5.0))
    return BearerIdentity(http, Secrets(secrets), clock=clock, **options)
