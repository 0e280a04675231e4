"""
Question 4: which limits apply to a request, and under which key each is counted.

Three kinds stand in a tenant's ``limits``: rates (spent by the request), ``concurrent`` (taken while it is at the
function) and ``wakes`` (taken by a wake-up). The platform's ceilings come on top and are counted apart from the
tenant's own limits, even of the same name. The arithmetic is ``gcra.py``; this module refuses to know where the counts
are kept.

Keys are ``{tenant}:rl:<limit>:<partition>``. ``<limit>`` names the limit with its rate and burst: after a reload that
changes them it starts anew, instead of judging old state by new numbers (a TAT written under 1/h would lock out callers
of 1000/s for days). ``<partition>`` is who is counted: percent-encoded, and hashed when long, because callers choose
their subjects.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from math import ceil
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

from policies.decision import RuleRef
from policies.gcra import (
    MAX_AHEAD_US,
    NOTHING_TO_SPEND,
    SECOND_US,
    Check,
    Spent,
    admit,
    retry_after_s,
    share_of,
    spend_all,
    state,
)
from policies.principal import Principal
from policies.ratelimit import policy_item
from policies.request import AccessRequest
from policies.tables import LimitSpec, Place, TenantTable

MEMO_ENTRIES: Final = 4096
"""Of each tenant's memo; some 1 KiB each. Callers choose the keys: a full memo is emptied, a miss costs some 10 us."""
PARTITION_CHARACTERS: Final = 96
"""A longer partition is replaced by its digest, so that a caller cannot choose how much a key weighs."""


UNKNOWN_TOKENS: Final = LimitSpec(
    "portero-unknown-tokens", "identity-failure", None, 10.0, 40, 1, 10, None, None, "local", "built in"
)
"""Of tenants that have opaque tokens asked about and no limit of their own on guessing: each guess is a question to
their provider, and nobody is known yet who asks it."""


class Parallel(NamedTuple):
    """One ``concurrent`` limit that applies to a request."""

    id: str
    key: str
    maximum: int
    """Requests at the function at once."""
    ref: RuleRef


class _Plan(NamedTuple):
    """What the memo holds of one (function, caller, address)."""

    checks: tuple[Check, ...]
    parallels: tuple[Parallel, ...]


def checks_for(place: Place, principal: Principal, request: AccessRequest) -> tuple[Check, ...]:
    """The rates this request spends: the platform's ceiling first, then the tenant's in the order written."""
    memo = place.tenant.limit_checks
    plan = memo.get((place.function, principal.provider, principal.sub, request.client_ip))
    if plan is None:
        plan = _plan(place, principal, request.client_ip)
    checks: tuple[Check, ...] = plan.checks
    return checks


def concurrency_for(place: Place, principal: Principal, request: AccessRequest) -> tuple[Parallel, ...]:
    """The ``concurrent`` limits this request counts in while it is at the function."""
    memo = place.tenant.limit_checks
    plan = memo.get((place.function, principal.provider, principal.sub, request.client_ip))
    if plan is None:
        plan = _plan(place, principal, request.client_ip)
    parallels: tuple[Parallel, ...] = plan.parallels
    return parallels


def failure_check(tenant: TenantTable, client_ip: str) -> Check | None:
    """
    What one failed identification costs its address; None when the tenant does not limit guessing, and no guess costs
    its provider anything.
    """
    memo = tenant.limit_checks
    key = ("identity-failure", client_ip)
    if key not in memo:
        spec = next((s for s in tenant.limits if s.per == "identity-failure" and s.rate_per_s), None)
        owner = ""
        if spec is None and any(provider.introspection is not None for provider in tenant.providers):
            spec, owner = UNKNOWN_TOKENS, "portero"  # the owner keeps it apart from every limit that a file can name
        made = None if spec is None else _check(tenant, spec, spec.rate_per_s or 0.0, address_block(client_ip), owner)
        _remember(memo, key, made)
        return made
    found: Check | None = memo[key]
    return found


def wake_check(place: Place) -> tuple[Check, ...]:
    """
    What one wake-up of the place's function costs: the platform's ceiling, then the tenant's ``wakes`` limits.

    A wake is nobody's in particular (one serves all who wait), so limits per subject or address count for the tenant.
    """
    tenant = place.tenant
    memo = tenant.limit_checks
    key = ("wakes", place.function)
    found: tuple[Check, ...] | None = memo.get(key)
    if found is None:
        checks = []
        if (ceiling := tenant.ceilings.wakes) and ceiling.wakes_per_s:
            checks.append(_check(tenant, ceiling, ceiling.wakes_per_s, _EVERYBODY, owner="platform"))
        for spec in _applying(tenant, place.function):
            if spec.wakes_per_s:
                partition = _function(place) if spec.per == "function" else _EVERYBODY
                checks.append(_check(tenant, spec, spec.wakes_per_s, partition))
        found = tuple(checks)
        _remember(memo, key, found)
    return found


def address_block(client_ip: str) -> str:
    """
    The address as limits count it: an IPv4 address, or the /64 of an IPv6 address, which is one subscriber's.

    IPv4 mapped into IPv6 is IPv4. What is no address (a unix socket's peer) is counted as it stands.
    """
    try:
        address = ip_address(client_ip)
    except ValueError:
        return _bounded(quote(client_ip, safe="", errors="surrogatepass"))
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"{address.packed[:8].hex()}/64"
        return str(address.ipv4_mapped)
    return str(address)


_EVERYBODY: Final = "all"


def _plan(place: Place, principal: Principal, client_ip: str) -> _Plan:
    tenant = place.tenant
    checks = []
    parallels = []
    ceiling = tenant.ceilings.rate
    if ceiling is not None and ceiling.rate_per_s:
        checks.append(_check(tenant, ceiling, ceiling.rate_per_s, _EVERYBODY, owner="platform"))
    for spec in _applying(tenant, place.function):
        if spec.per == "identity-failure":
            continue
        partition = _partition(spec.per, place, principal, client_ip)
        if spec.rate_per_s:
            checks.append(_check(tenant, spec, spec.rate_per_s, partition))
        elif spec.concurrent is not None:
            key = f"{_prefix(tenant)}:{_name(spec)}:{partition}"
            parallels.append(Parallel(spec.id, key, spec.concurrent, RuleRef(spec.id, spec.where)))
    # Keys are distinct: the same limit written twice is one limit, and no store has to think of it.
    plan = _Plan(tuple({c.key: c for c in checks}.values()), tuple({p.key: p for p in parallels}.values()))
    key_of_plan = (place.function, principal.provider, principal.sub, client_ip)
    _remember(tenant.limit_checks, key_of_plan, plan)
    return plan


def _applying(tenant: TenantTable, function: str) -> Iterator[LimitSpec]:
    for spec in tenant.limits:
        if spec.functions is None or any(pattern.matches(function) for pattern in spec.functions):
            yield spec


def _partition(
    per: Literal["tenant", "subject", "function", "ip"], place: Place, principal: Principal, client_ip: str
) -> str:
    match per:
        case "tenant":
            return _EVERYBODY
        case "function":
            return _function(place)
        case "ip":
            return address_block(client_ip)
        case "subject":
            if principal.is_anonymous:
                return "|" + address_block(client_ip)  # no provider has an empty name, so no subject looks like this
            provider = quote(principal.provider, safe="", errors="surrogatepass")
            return _bounded(f"{provider}|{quote(principal.sub, safe='', errors='surrogatepass')}")


def _function(place: Place) -> str:
    return _bounded(quote(place.function, safe="", errors="surrogatepass"))


def _check(tenant: TenantTable, spec: LimitSpec, per_s: float, partition: str, owner: str = "") -> Check:
    """Emission is rounded up, so that never more than the rate is admitted (R1)."""
    emission = min(max(1, ceil(SECOND_US / per_s - 1e-6)), MAX_AHEAD_US)
    tolerance = max(min(emission * max(1, spec.burst), MAX_AHEAD_US), emission)
    limit = f"{owner}/{_name(spec)}" if owner else _name(spec)
    return Check(
        spec.id,
        f"{_prefix(tenant)}:{limit}@{emission}x{spec.burst}:{partition}",
        emission,
        tolerance,
        spec.quota,
        spec.window_s,
        max(1, spec.burst),
        RuleRef(spec.id, spec.where),
        spec.on_store_failure,
        1,
        *policy_item(spec.id, spec.quota, spec.window_s),
    )


def _prefix(tenant: TenantTable) -> str:
    return f"{{{quote(tenant.name, safe='')}}}:rl"


def _name(spec: LimitSpec) -> str:
    return quote(spec.id, safe="", errors="surrogatepass")


def _bounded(partition: str) -> str:
    """``#`` never stands in percent-encoded text: a digest is never mistaken for a name."""
    if len(partition) <= PARTITION_CHARACTERS:
        return partition
    return "#" + blake2b(partition.encode(), digest_size=20).hexdigest()


def _remember(memo: dict[object, object], key: object, value: object) -> None:
    if len(memo) >= MEMO_ENTRIES:
        memo.clear()
    memo[key] = value


__all__ = [
    "NOTHING_TO_SPEND",
    "Check",
    "Parallel",
    "Spent",
    "address_block",
    "admit",
    "checks_for",
    "concurrency_for",
    "failure_check",
    "retry_after_s",
    "share_of",
    "spend_all",
    "state",
    "wake_check",
]
