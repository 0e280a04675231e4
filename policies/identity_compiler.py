"""
A tenant's ``identity``, ``service_accounts`` and ``api_keys``: who may vouch for callers, with nothing left open that
security needs.

Whether two tenants may share an issuer is judged here as well, because it is the one thing of a tenant's identity that
another tenant's file can make wrong. Keys and secrets are names here; whether they exist is known to ``serve`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from policies.documents import Source
from policies.findings import Findings
from policies.group_compiler import compile_groups
from policies.host import canonical_host
from policies.locators import flaw_of_issuer
from policies.login_compiler import check_one_introspection, compile_endpoints, compile_introspection, compile_login
from policies.model import ApiKey, Provider, ServiceAccount, TenantDocument
from policies.principal import ANONYMOUS_PROVIDER, API_KEY_PROVIDER, SERVICE_ACCOUNT_PROVIDER
from policies.quantities import seconds
from policies.tables import ApiKeySpec, ProviderSpec, ServiceAccountSpec

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_INSTANT: Final = re.compile(rf"{_DAY.pattern}T[0-9:]{{8}}(\.[0-9]{{1,6}})?(Z|[+-][0-9]{{2}}:[0-9]{{2}})", re.ASCII)
_WELL_KNOWN: Final = "/.well-known/"
RESERVED_PROVIDERS: Final = frozenset({ANONYMOUS_PROVIDER, SERVICE_ACCOUNT_PROVIDER, API_KEY_PROVIDER})


def compile_providers(
    source: Source[TenantDocument], private_hosts: Sequence[str], findings: Findings, *, allow_loopback_http: bool
) -> tuple[ProviderSpec, ...]:
    """One tenant's providers in the order of the file."""
    providers = source.document.identity
    findings.duplicates(
        source, "the provider", [(one.name, ("identity", i, "name")) for i, one in enumerate(providers)]
    )
    findings.duplicates(
        source, "the issuer", [(one.issuer, ("identity", i, "issuer")) for i, one in enumerate(providers)]
    )
    for index, provider in enumerate(providers):
        _check_provider(source, provider, index, findings, allow_loopback_http=allow_loopback_http)
    check_one_introspection(source, findings)
    hosts = frozenset(private_hosts)
    return tuple(
        [
            _provider(source, one, i, hosts, findings, allow_loopback_http=allow_loopback_http)
            for i, one in enumerate(providers)
        ]
    )


def _check_provider(
    source: Source[TenantDocument], provider: Provider, index: int, findings: Findings, *, allow_loopback_http: bool
) -> None:
    path = ("identity", index)
    if provider.name in RESERVED_PROVIDERS:
        text = f"the name {provider.name!r} is Portero's own; expected another"
        findings.mistake(source, text, *path, "name")
    if flaw := flaw_of_issuer(provider.issuer, allow_loopback_http=allow_loopback_http):
        findings.mistake(source, flaw, *path, "issuer")
    elif _WELL_KNOWN in provider.issuer:
        text = f"{provider.issuer!r} is where the provider describes itself; expected its issuer, as it stands there"
        findings.mistake(source, text, *path, "issuer")
    if provider.jwks_uri and (flaw := flaw_of_issuer(provider.jwks_uri, allow_loopback_http=allow_loopback_http)):
        findings.mistake(source, flaw, *path, "jwks_uri")
    for position, domain in enumerate(provider.email_domains):
        if canonical_host(domain) != domain:
            text = f"{domain!r} is no domain in the spelling of the wire; expected such as acme.example"
            findings.mistake(source, text, *path, "email_domains", position)


def _provider(
    source: Source[TenantDocument],
    provider: Provider,
    index: int,
    private_hosts: frozenset[str],
    findings: Findings,
    *,
    allow_loopback_http: bool,
) -> ProviderSpec:
    path = ("identity", index)
    login = introspection = None
    if provider.login is not None:
        login = compile_login(source, provider.login, provider.name, (*path, "login"), findings)
        if login.client.client_id in provider.audiences:
            text = "the login's client_id is one of the audiences: an ID token may then pass for an access token; "
            text += "expected audiences of the functions' own, if the provider gives out any"
            findings.warning(source, text, *path, "audiences")
    if provider.introspection is not None:
        introspection = compile_introspection(source, provider.introspection, (*path, "introspection"), findings)
    return ProviderSpec(
        name=provider.name,
        issuer=provider.issuer,
        audiences=frozenset(provider.audiences),
        algorithms=frozenset(provider.algorithms),
        tenant_claim=provider.tenant_claim,
        groups_claim=provider.claims.groups,
        email_claim=provider.claims.email,
        name_claim=provider.claims.name,
        email_domains=frozenset(provider.email_domains),
        jwks_uri=provider.jwks_uri,
        allowed_private_hosts=private_hosts,
        max_token_lifetime_s=seconds(provider.max_token_lifetime),
        login=login,
        where=source.where(*path),
        introspection=introspection,
        groups=compile_groups(source, provider, path, findings),
        endpoints=compile_endpoints(
            source, provider, (*path, "endpoints"), findings, allow_loopback_http=allow_loopback_http
        ),
        requires_bound_tokens=provider.bound_tokens == "require",
    )


def check_shared_issuers(sources: Sequence[Source[TenantDocument]], findings: Findings) -> None:
    """
    A mistake where tokens of one issuer would be good in two tenants.

    Two tenants may share an issuer when a claim says which tenants a token is for, or when no audience is common. The
    ``client_id`` of a login is an audience, too: that of the ID tokens that logins bring.
    """
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for source in sources:
        for index, provider in enumerate(source.document.identity):
            where = source.where("identity", index)
            for audience in _meant_for(provider):
                # Of each tenant the first: one's own thousand entries are not walked through for each of them.
                seen.setdefault((provider.issuer, audience), {}).setdefault(source.document.tenant, where)
    for source in sources:
        for index, provider in enumerate(source.document.identity):
            if provider.tenant_claim is not None:
                continue
            for audience in dict.fromkeys(_meant_for(provider)):
                users = seen[provider.issuer, audience].items()
                other = next((where for tenant, where in users if tenant != source.document.tenant), None)
                if other is not None:
                    noun = "audience" if audience in provider.audiences else "client_id"
                    text = f"the issuer and the {noun} {audience!r} are another tenant's, too ({other}): "
                    text += f"expected tenant_claim, which says what tenant a token is for, or another {noun}"
                    findings.mistake(source, text, "identity", index, "issuer")
                    break


def _meant_for(provider: Provider) -> tuple[str, ...]:
    return provider.audiences if provider.login is None else (*provider.audiences, provider.login.client_id)


def compile_accounts(source: Source[TenantDocument], findings: Findings) -> tuple[ServiceAccountSpec, ...]:
    """One tenant's service accounts in the order of the file."""
    accounts = source.document.service_accounts
    findings.duplicates(
        source, "the service account", [(one.name, ("service_accounts", i, "name")) for i, one in enumerate(accounts)]
    )
    return tuple([_account(source, account, i, findings) for i, account in enumerate(accounts)])


def _account(
    source: Source[TenantDocument], account: ServiceAccount, index: int, findings: Findings
) -> ServiceAccountSpec:
    path: tuple[Any, ...] = ("service_accounts", index)
    if (account.public_key is None) == (account.public_keys is None):
        findings.mistake(source, "expected either public_key or public_keys", *path)
    if not account.audiences and not account.legacy_no_audience:
        text = "expected audiences; without it tokens meant for others would be believed"
        findings.mistake(source, text, *path)
    single = (account.public_key,) if account.public_key is not None else ()
    return ServiceAccountSpec(
        name=account.name,
        public_keys=account.public_keys or single,
        audiences=frozenset(account.audiences),
        groups=frozenset(account.groups),
        allows_missing_audience=account.legacy_no_audience,
        where=source.where(*path),
    )


def compile_api_keys(source: Source[TenantDocument], findings: Findings) -> tuple[ApiKeySpec, ...]:
    """One tenant's API keys in the order of the file; the keys themselves are no business of the policy."""
    keys = source.document.api_keys
    findings.duplicates(source, "the API key", [(one.name, ("api_keys", i, "name")) for i, one in enumerate(keys)])
    return tuple([_api_key(source, key, i, findings) for i, key in enumerate(keys)])


def _api_key(source: Source[TenantDocument], key: ApiKey, index: int, findings: Findings) -> ApiKeySpec:
    expires_at = None
    if key.expires is not None:
        expires_at = _instant(key.expires)
        if expires_at is None:
            text = f"{key.expires!r} is no instant; expected such as 2027-06-30 or 2027-06-30T12:00:00Z"
            findings.mistake(source, text, "api_keys", index, "expires")
    return ApiKeySpec(key.name, frozenset(key.groups), expires_at, source.where("api_keys", index))


def _instant(text: str) -> float | None:
    """Unix seconds of a day's beginning (UTC) or of an RFC 3339 instant with its zone; else None."""
    try:
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        return datetime.fromisoformat(text).timestamp() if _INSTANT.fullmatch(text) else None
    except ValueError:
        return None
