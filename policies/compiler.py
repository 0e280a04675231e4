"""
Documents to tables: what every file says, fitted together, or every mistake that keeps it from fitting, at once.

Here stand the questions that need more than one file: which hosts are whose, who shares a namespace, whether each
tenant has one file. What one tenant's file says of itself is compiled by the modules named ``*_compiler``. This module
refuses to know requests, folders and secrets; a warning is for something that loads and is probably not meant.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.case_compiler import check_tests
from policies.documents import Documents, Source, read_all, revision_of
from policies.errors import Mistake, PolicyError
from policies.findings import Findings
from policies.function_compiler import compile_functions
from policies.group_compiler import check_groups_of_rules
from policies.identity_compiler import check_shared_issuers, compile_accounts, compile_api_keys, compile_providers
from policies.limit_compiler import compile_ceilings, compile_limits
from policies.login_compiler import compile_sessions, compile_token_lifetime
from policies.model import PlatformDocument, ShadowMode, TenantDocument
from policies.platform_compiler import check_platform, compile_backends, hosts_of
from policies.route_compiler import compile_routes
from policies.routes import build_route_table
from policies.rule_compiler import compile_rules, unknown
from policies.scope import Scope, pattern
from policies.tables import PolicySet, TenantTable

__all__ = ["compile_documents", "compile_files", "compile_with_warnings", "revision_of"]


def compile_files(files: Mapping[str, bytes], *, allow_loopback_http: bool = False) -> PolicySet:
    """
    Read and compile one folder's files.

    Raises: PolicyError with every mistake of every file, also those that need sound files beside broken ones.
    """
    return compile_documents(read_all(files), allow_loopback_http=allow_loopback_http)


def compile_documents(documents: Documents, *, allow_loopback_http: bool = False) -> PolicySet:
    """Like ``compile_with_warnings``, for callers that do not show warnings."""
    return compile_with_warnings(documents, allow_loopback_http=allow_loopback_http)[0]


def compile_with_warnings(
    documents: Documents, *, allow_loopback_http: bool = False
) -> tuple[PolicySet, list[Mistake]]:
    """
    The policy set, and what is odd about it.

    Args:
        documents: as read; its own mistakes are raised together with those found here.
        allow_loopback_http: issuers may be plain http on loopback; for the demo and tests alone.

    Raises: PolicyError with every mistake at once.
    """
    findings = Findings(list(documents.mistakes))
    platform = documents.platform
    tables: dict[str, TenantTable] = {}
    if platform is not None:
        check_platform(platform, findings)
        _check_files(platform, documents, findings)
        seen: set[str] = set()
        for source in documents.tenants:
            # Of two files for one tenant the second is judged too, but never becomes the table.
            table = _tenant(source, platform, findings, allow_loopback_http=allow_loopback_http)
            if table is not None and table.name not in seen:
                seen.add(table.name)
                tables[table.name] = table
    check_shared_issuers(documents.tenants, findings)
    check_tests(documents, findings)
    if findings.mistakes or platform is None:
        raise PolicyError(findings.mistakes)
    hosts, wildcards = hosts_of(platform)
    policies = PolicySet(
        revision=documents.revision,
        tenants=tables,
        hosts={host: tables[tenant] for host, tenant in hosts.items()},
        wildcard_hosts={suffix: tables[tenant] for suffix, tenant in wildcards.items()},
        backends=compile_backends(platform),
        trusted_peers=platform.document.trusted_peers,
        believes_client_certificates=platform.document.client_certificates == "trusted-peers",
        rule_count=sum(_rules_of(source.document) for source in documents.tenants),
    )
    return policies, sorted(set(findings.warnings))


def _rules_of(document: TenantDocument) -> int:
    return len(document.deny) + sum(len(role.allow) for role in document.roles.values())


def _check_files(platform: Source[PlatformDocument], documents: Documents, findings: Findings) -> None:
    """One file for each tenant of the platform, and no other."""
    entries = platform.document.tenants
    first: dict[str, Source[TenantDocument]] = {}
    for source in documents.tenants:
        tenant = source.document.tenant
        if tenant in first:
            where = first[tenant].where("tenant")
            findings.mistake(source, f"the tenant {tenant!r} has a file already ({where})", "tenant")
        elif tenant not in entries:
            text = unknown("tenant", tenant, entries)
            findings.mistake(source, f"{text} (platform.yaml names the tenants)", "tenant")
        first.setdefault(tenant, source)
    # A broken file may be the one that is looked for.
    if not documents.mistakes:
        for tenant in entries:
            if tenant not in first:
                text = f"the tenant {tenant!r} has no file; expected one that says tenant: {tenant}"
                findings.mistake_of_key(platform, text, "tenants", tenant)


def _tenant(
    source: Source[TenantDocument],
    platform: Source[PlatformDocument],
    findings: Findings,
    *,
    allow_loopback_http: bool,
) -> TenantTable | None:
    """One tenant compiled; None when the platform does not know it (which has been noted)."""
    document = source.document
    entry = platform.document.tenants.get(document.tenant)
    owns = tuple(map(pattern, entry.owns)) if entry is not None and entry.owns is not None else None
    backend = platform.document.backends.get(entry.backend) if entry is not None else None
    scope = Scope(owns)
    routes = compile_routes(source, scope, findings)
    shadow = frozenset(document.mode.shadow) if isinstance(document.mode, ShadowMode) else frozenset()
    _warn_of_mode(source, shadow, findings)
    providers = compile_providers(
        source,
        entry.private_hosts or () if entry is not None else (),
        findings,
        allow_loopback_http=allow_loopback_http,
    )
    accounts = compile_accounts(source, findings)
    api_keys = compile_api_keys(source, findings)
    sessions = compile_sessions(source, findings)
    token_lifetime_s = compile_token_lifetime(source, findings)
    functions = compile_functions(source, scope, routes, backend, findings)
    rbac = compile_rules(source, scope, findings)
    check_groups_of_rules(source, findings)
    limits = compile_limits(source, scope, findings)
    if entry is None:
        return None
    return TenantTable(
        name=document.tenant,
        namespace=entry.namespace,
        backend=entry.backend,
        owns=owns,
        is_disabled=document.mode == "disabled",
        shadow=shadow,
        providers=providers,
        service_accounts=accounts,
        functions=functions,
        routes=build_route_table(routes),
        rbac=rbac,
        limits=limits,
        ceilings=compile_ceilings(platform, document.tenant, findings),
        hosts=entry.hosts,
        where=source.where("tenant"),
        providers_by_issuer={provider.issuer: provider for provider in providers},
        sessions=sessions,
        api_keys=api_keys,
        token_lifetime_s=token_lifetime_s,
    )


def _warn_of_mode(source: Source[TenantDocument], shadow: frozenset[str], findings: Findings) -> None:
    if "identity" in shadow:
        text = "shadow: [identity] lets callers through who did not say who they are; use it for hours, not for days"
        if not any(limit.wakes is not None for limit in source.document.limits):
            text += "; without a wakes limit they wake nothing"
        findings.warning(source, text, "mode", "shadow")
