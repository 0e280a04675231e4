"""``wakes`` limits: taken by the wake itself, once however many requests wait for it."""

from __future__ import annotations

from collections.abc import Callable

from authproxy.limits.store import LimitStore
from policies.decision import Deny, Reason
from policies.limits import wake_check
from policies.tables import Place


class WakeBudget:
    """What the activator asks before it wakes a function."""

    def __init__(self, store: LimitStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def spend(self, place: Place) -> Deny | None:
        """Take one wake of the tenant's limits and ceiling; the refusal when there is none left."""
        checks = wake_check(place)
        tenant = place.tenant.name
        if not checks:
            if "identity" in place.tenant.shadow:
                # Callers nobody has identified may not wake what costs money without a bound (design, section 4).
                return Deny(
                    Reason.WAKE_LIMITED, "shadow: [identity] wakes nothing without a wakes limit", tenant=tenant
                )
            return None
        spent = await self._store.spend(tenant, checks, self._clock())
        if spent.refused is None:
            return None
        check = checks[spent.refused]
        return Deny(
            Reason.WAKE_LIMITED,
            detail=f"limit {check.id!r} is used up",
            rule=check.ref,
            retry_after_s=spent.retry_after_s,
            tenant=tenant,
        )
