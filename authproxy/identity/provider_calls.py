"""
One request of a tenant's client to an endpoint of its provider, counted.

It decides which endpoint is asked and how the client proves itself there, and refuses to know what for. A refusal of
the provider comes back as an answer; what is no answer is ``ProviderUnavailable``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from authproxy.identity.client_auth import prove
from authproxy.identity.discovery import Discovery
from authproxy.identity.http import Document, ProviderHttp
from authproxy.identity.secrets import Secrets
from authproxy.identity.token_answer import error_code
from policies.errors import ProviderUnavailable
from policies.tables import ClientSpec, ProviderSpec, TenantTable

BUSY: Final = 429


class CallCounter(Protocol):
    """
    Counts by (tenant, provider, call, outcome): calls are the endpoints' names without ``_endpoint``, outcomes ``ok``,
    ``refused`` (400 to 499, with a reason in JSON) and ``unavailable``.
    """

    def add(self, labels: tuple[str, str, str, str], /) -> None: ...


class ProviderCalls:
    """One a process. Every method raises ProviderUnavailable, with a text for the log, and nothing else."""

    def __init__(
        self,
        http: ProviderHttp,
        discovery: Discovery,
        secrets: Secrets,
        clock: Callable[[], float],
        counter: CallCounter | None,
    ) -> None:
        self._http = http
        self._discovery = discovery
        self._secrets = secrets
        self._clock = clock
        self._counter = counter

    async def post(
        self,
        tenant: TenantTable,
        provider: ProviderSpec,
        client: ClientSpec,
        endpoint: str,
        fields: Mapping[str, str],
        *,
        timeout_s: float | None = None,
    ) -> Document:
        """
        Send a form as the client. The answer is a success, or a refusal that says why in JSON; being asked to come
        back later (429) is no refusal.
        """
        with self._counting(tenant, provider, endpoint):
            address = await self._discovery.endpoint(tenant.name, provider, endpoint)
            proof = prove(client, tenant.name, provider.issuer, self._secrets, self._clock())
            document = await self._http.post_form(
                address,
                {**fields, **proof.fields},
                provider.allowed_private_hosts,
                authorization=proof.authorization,
                timeout_s=timeout_s,
            )
            if document.status == BUSY:
                raise ProviderUnavailable("the provider has no time now (429)")
        self._count(tenant, provider, endpoint, "ok" if document.status < 400 else "refused")
        return document

    async def offers(self, tenant: TenantTable, provider: ProviderSpec, endpoint: str) -> bool:
        """Whether there is such an endpoint, by the policy or by what the provider says of itself."""
        if endpoint in provider.endpoints:
            return True
        return endpoint in (await self._discovery.of(tenant.name, provider)).endpoints

    async def userinfo(
        self, tenant: TenantTable, provider: ProviderSpec, access_token: str, sub: str
    ) -> Mapping[str, Any]:
        """
        What the provider says of the bearer of an access token, who must be ``sub``.

        Source: OpenID Connect Core sections 5.3.2 and 5.3.4 (a token may have been exchanged for another's).
        """
        with self._counting(tenant, provider, "userinfo_endpoint"):
            address = await self._discovery.endpoint(tenant.name, provider, "userinfo_endpoint")
            document = await self._http.get(address, provider.allowed_private_hosts, bearer=access_token)
            if document.value.get("sub") != sub:
                raise ProviderUnavailable("userinfo speaks of somebody else")
        self._count(tenant, provider, "userinfo_endpoint", "ok")
        return document.value

    @contextmanager
    def _counting(self, tenant: TenantTable, provider: ProviderSpec, endpoint: str) -> Iterator[None]:
        try:
            yield
        except ProviderUnavailable:
            self._count(tenant, provider, endpoint, "unavailable")
            raise

    def _count(self, tenant: TenantTable, provider: ProviderSpec, endpoint: str, outcome: str) -> None:
        if self._counter is not None:
            self._counter.add((tenant.name, provider.name, endpoint.removesuffix("_endpoint"), outcome))


def refused(document: Document, what: str) -> ProviderUnavailable:
    """A refusal that nobody who logs in can do anything about: our client is not set up as the provider wants it."""
    code = error_code(document)
    return ProviderUnavailable(f"the provider refuses {what}: {document.status} {code or 'without a plain error code'}")
