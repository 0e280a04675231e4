"""``limits`` of a tenant and ``ceilings`` of the platform: numbers for ``limits.py``; no limit may say two things."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from policies.bounds import MAX_LIMIT_PATTERNS, MAX_LIMITS, MAX_LIMITS_TOGETHER, heaviest
from policies.documents import Source
from policies.findings import Findings
from policies.model import Limit, PlatformDocument, TenantDocument
from policies.quantities import frequency, size_bytes
from policies.scope import Scope
from policies.tables import Ceilings, LimitSpec, Pattern


def compile_limits(source: Source[TenantDocument], scope: Scope, findings: Findings) -> tuple[LimitSpec, ...]:
    """One tenant's limits in the order of the file."""
    limits = source.document.limits
    findings.duplicates(source, "the limit", [(limit.id, ("limits", i, "id")) for i, limit in enumerate(limits)])
    first = None
    for index, limit in enumerate(limits):
        _check(source, limit, index, scope, findings)
        if limit.per == "identity-failure":
            if first is not None:
                text = f"expected one limit per identity-failure; the first is at {source.where('limits', first)}"
                findings.mistake(source, text, "limits", index, "per")
            first = index if first is None else first
    if not _is_bounded(source, scope, findings):
        return ()
    return tuple([_limit(limit, source.where("limits", i), scope) for i, limit in enumerate(limits)])


def _is_bounded(source: Source[TenantDocument], scope: Scope, findings: Findings) -> bool:
    """Whether what each request has to look through and to spend stays within ``bounds``."""
    limits = source.document.limits
    if len(limits) > MAX_LIMITS:
        findings.mistake(source, f"{len(limits)} limits; expected at most {MAX_LIMITS}", "limits", MAX_LIMITS)
        return False
    together: dict[Pattern, int] = defaultdict(int)
    for limit in limits:
        if limit.per != "identity-failure":
            for pattern in (_ALL,) if limit.functions is None else scope.narrowed(limit.functions):
                together[pattern] += 1
    if sum(together.values()) > MAX_LIMIT_PATTERNS:
        findings.mistake_of_key(source, f"more than {MAX_LIMIT_PATTERNS} functions in all limits together", "limits")
        return False
    most, of_most = heaviest(together)
    if most > MAX_LIMITS_TOGETHER and of_most is not None:
        name = of_most.text + "*" * of_most.is_prefix
        text = f"{most} limits apply to {name!r} at once; expected at most {MAX_LIMITS_TOGETHER}"
        findings.mistake_of_key(source, text, "limits")
        return False
    return True


_ALL: Final = Pattern("", is_prefix=True)


def _check(source: Source[TenantDocument], limit: Limit, index: int, scope: Scope, findings: Findings) -> None:
    path = ("limits", index)
    if sum(value is not None for value in (limit.rate, limit.concurrent, limit.wakes)) != 1:
        findings.mistake(source, "expected exactly one of rate, concurrent and wakes", *path)
    if limit.burst is not None and limit.rate is None:
        findings.mistake_of_key(source, "burst belongs to rate and to nothing else", *path, "burst")
    if limit.per == "identity-failure":
        if limit.rate is None:
            findings.mistake(source, "per: identity-failure counts failures over time; expected rate", *path, "per")
        if limit.functions is not None:
            text = "who fails to identify has reached no function; expected no functions here"
            findings.mistake_of_key(source, text, *path, "functions")
    elif limit.wakes is not None and limit.per in ("subject", "ip"):
        text = "one wake-up serves all who wait, whoever they are; expected per: tenant or per: function"
        findings.mistake(source, text, *path, "per")
    for position in scope.outside(limit.functions or ()):
        text = f"{(limit.functions or ())[position]!r} reaches outside of what this tenant owns ({scope})"
        findings.mistake(source, text, *path, "functions", position)


def _limit(limit: Limit, where: str, scope: Scope) -> LimitSpec:
    rate = frequency(limit.rate) if limit.rate is not None else None
    wakes = frequency(limit.wakes) if limit.wakes is not None else None
    counted = rate or wakes
    return LimitSpec(
        id=limit.id,
        per=limit.per,
        functions=scope.narrowed(limit.functions) if limit.functions is not None else None,
        rate_per_s=rate.per_s if rate is not None else None,
        burst=limit.burst or (counted.quota if counted is not None else 1),
        window_s=counted.window_s if counted is not None else 1,
        quota=counted.quota if counted is not None else limit.concurrent or 1,
        concurrent=limit.concurrent,
        wakes_per_s=wakes.per_s if wakes is not None else None,
        on_store_failure=limit.on_store_failure,
        where=where,
    )


def compile_ceilings(platform: Source[PlatformDocument], tenant: str, findings: Findings) -> Ceilings:
    """What the platform grants ``tenant`` at most."""
    entry = platform.document.tenants[tenant].ceilings
    path = ("tenants", tenant, "ceilings")
    if entry.burst is not None and entry.rate is None:
        findings.mistake_of_key(platform, "burst belongs to rate; expected rate beside it", *path, "burst")
    open_scope = Scope(None)
    rate = wakes = None
    if entry.rate is not None:
        limit = Limit(id="platform-rate", per="tenant", rate=entry.rate, burst=entry.burst)
        rate = _limit(limit, platform.where(*path, "rate"), open_scope)
    if entry.wakes is not None:
        limit = Limit(id="platform-wakes", per="tenant", wakes=entry.wakes)
        wakes = _limit(limit, platform.where(*path, "wakes"), open_scope)
    return Ceilings(
        rate=rate,
        wakes=wakes,
        held=entry.held,
        held_bytes=size_bytes(entry.held_bytes),
        weight=entry.weight,
        results=entry.results,
        result_bytes=size_bytes(entry.result_bytes),
    )
