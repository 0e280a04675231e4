"""Who pays for a wake: the ``wakes`` limits of the tenant and the platform's ceiling, spent at the limit store."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from authproxy.limits.store import LimitStore
from policies.decision import Deny, Reason
from policies.limits import wake_check
from policies.tables import Place

SpendWake = Callable[[Place], Awaitable[Deny | None]]
"""Takes one wake of a place's tenant; the refusal (429 ``wake-limited``) when it has none left, and then nothing is."""


def wake_budget(store: LimitStore, clock: Callable[[], float] = time.time) -> SpendWake:
    """Spend wakes at ``store``, as rates are spent, but only when a wake is really called for."""

    async def spend_wake(place: Place) -> Deny | None:
        checks = wake_check(place)
        if not checks:
            return None
        tenant, now = place.tenant.name, clock()
        spent = store.spend_now(tenant, checks, now) or await store.spend(tenant, checks, now)
        if spent.refused is None:
            return None
        check = checks[spent.refused]
        return Deny(
            Reason.WAKE_LIMITED,
            detail=f"limit {check.id!r} allows no further cold start for now",
            rule=check.ref,
            retry_after_s=max(1, spent.retry_after_s),
            tenant=tenant,
        )

    return spend_wake
