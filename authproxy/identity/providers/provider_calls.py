"""
One request of a tenant's client to an endpoint of its provider, counted.

It decides which endpoint is asked and how the client proves itself there, and refuses to know what for. A refusal of
the provider comes back as an answer; what is no answer is ``ProviderUnavailable``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from authproxy.identity.providers.client_auth import prove
from authproxy.identity.providers.discovery import Discovery
from authproxy.identity.providers.http import Document, ProviderHttp
from authproxy.identity.providers.token_answer import INVALID_GRANT, error_code
from authproxy.identity.secrets import Secrets
from policies.errors import ProviderUnavailable
from policies.tables import ClientSpec, ProviderSpec, TenantTable

BUSY: Final = 429
SAY_AGAIN_S: Final = 60.0
"""Between two lines of the log that say the same of one endpoint."""
MAX_SAID: Final = 10_000
REMEDIES: Final = {
    "invalid_client": "client_id, client_auth and the secret or key must be those that the provider knows",
    "invalid_request": "is https://HOST/.portero/callback registered at the provider? For logins, mostly that",
    "unauthorized_client": "allow the client this grant or endpoint at the provider",
    "invalid_redirect_uri": "register https://HOST/.portero/callback at the provider",
    "invalid_scope": "write scopes that the provider gives this client",
}
"""What an operator can do about an error code (RFC 6749 section 5.2)."""
_NO_CODE: Final = "without a plain error code"

log = logging.getLogger(__name__)


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
        self._said: dict[tuple[str, str, str], tuple[str, float]] = {}

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
        if document.status < 400:
            self._count(tenant, provider, endpoint, "ok")
        else:
            self._count(tenant, provider, endpoint, "refused")
            self._say_refusal(tenant, provider, endpoint, document)
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
        except ProviderUnavailable as error:
            self._count(tenant, provider, endpoint, "unavailable")
            self._say(tenant, provider, endpoint, str(error))
            raise

    def _say_refusal(self, tenant: TenantTable, provider: ProviderSpec, endpoint: str, document: Document) -> None:
        code = error_code(document)
        if code != INVALID_GRANT:  # of a code or token that is over: everyday
            why = f"refused: {document.status} {code or _NO_CODE}"
            self._say(tenant, provider, endpoint, why, REMEDIES.get(code or ""))

    def _say(
        self, tenant: TenantTable, provider: ProviderSpec, endpoint: str, why: str, remedy: str | None = None
    ) -> None:
        """One line for a failure that is new, or has been going on for another ``SAY_AGAIN_S``."""
        place, now = (tenant.name, provider.name, endpoint), self._clock()
        before = self._said.get(place)
        if before is not None and before[0] == why and 0.0 <= now - before[1] < SAY_AGAIN_S:
            return
        if len(self._said) >= MAX_SAID:  # places are the policy's; those of policies that were are let go
            self._said.clear()
        self._said[place] = (why, now)
        facts = {"tenant": tenant.name, "provider": provider.name, "call": endpoint, "why": why}
        log.warning("provider could not be asked", extra=facts if remedy is None else {**facts, "remedy": remedy})

    def _count(self, tenant: TenantTable, provider: ProviderSpec, endpoint: str, outcome: str) -> None:
        if self._counter is not None:
            self._counter.add((tenant.name, provider.name, endpoint.removesuffix("_endpoint"), outcome))


def refused(document: Document, what: str) -> ProviderUnavailable:
    """A refusal that nobody who logs in can do anything about: our client is not set up as the provider wants it."""
    code = error_code(document)
    return ProviderUnavailable(f"the provider refuses {what}: {document.status} {code or _NO_CODE}")
