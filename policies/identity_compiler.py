"""
A tenant's ``identity`` and ``service_accounts``: who may vouch for callers, with nothing left open that security needs.

Whether two tenants may share an issuer is judged here as well, because it is the one thing of a tenant's identity that
another tenant's file can make wrong. Keys and secrets are names here; whether they exist is known to ``serve`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from policies.documents import Source
from policies.findings import Findings
from policies.host import canonical_host
from policies.locators import flaw_of_issuer
from policies.model import Provider, ServiceAccount, TenantDocument
from policies.principal import ANONYMOUS_PROVIDER, SERVICE_ACCOUNT_PROVIDER
from policies.quantities import seconds
from policies.tables import ProviderSpec, ServiceAccountSpec

RESERVED_PROVIDERS: Final = frozenset({ANONYMOUS_PROVIDER, SERVICE_ACCOUNT_PROVIDER})


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
    return tuple([_provider(source, one, i, frozenset(private_hosts)) for i, one in enumerate(providers)])


def _check_provider(
    source: Source[TenantDocument], provider: Provider, index: int, findings: Findings, *, allow_loopback_http: bool
) -> None:
    path = ("identity", index)
    if provider.name in RESERVED_PROVIDERS:
        text = f"the name {provider.name!r} is Portero's own; expected another"
        findings.mistake(source, text, *path, "name")
    if flaw := flaw_of_issuer(provider.issuer, allow_loopback_http=allow_loopback_http):
        findings.mistake(source, flaw, *path, "issuer")
    if provider.jwks_uri and (flaw := flaw_of_issuer(provider.jwks_uri, allow_loopback_http=allow_loopback_http)):
        findings.mistake(source, flaw, *path, "jwks_uri")
    if provider.login is not None:
        findings.warning_of_key(
            source, "login is kept for later; until then callers send bearer tokens", *path, "login"
        )
    for position, domain in enumerate(provider.email_domains):
        if canonical_host(domain) != domain:
            text = f"{domain!r} is no domain in the spelling of the wire; expected such as acme.example"
            findings.mistake(source, text, *path, "email_domains", position)


def _provider(
    source: Source[TenantDocument], provider: Provider, index: int, private_hosts: frozenset[str]
) -> ProviderSpec:
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
        login=provider.login.model_dump(mode="json") if provider.login is not None else None,
        where=source.where("identity", index),
    )


def check_shared_issuers(sources: Sequence[Source[TenantDocument]], findings: Findings) -> None:
    """
    A mistake where tokens of one issuer would be good in two tenants.

    Two tenants may share an issuer when a claim says which tenants a token is for, or when no audience is common.
    """
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for source in sources:
        for index, provider in enumerate(source.document.identity):
            where = source.where("identity", index)
            for audience in provider.audiences:
                # Of each tenant the first: one's own thousand entries are not walked through for each of them.
                seen.setdefault((provider.issuer, audience), {}).setdefault(source.document.tenant, where)
    for source in sources:
        for index, provider in enumerate(source.document.identity):
            if provider.tenant_claim is not None:
                continue
            for audience in dict.fromkeys(provider.audiences):
                users = seen[provider.issuer, audience].items()
                other = next((where for tenant, where in users if tenant != source.document.tenant), None)
                if other is not None:
                    text = f"the issuer and the audience {audience!r} are another tenant's, too ({other}): "
                    text += "expected tenant_claim, which says what tenant a token is for, or another audience"
                    findings.mistake(source, text, "identity", index, "issuer")
                    break


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
