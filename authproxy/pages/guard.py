"""
How often one address may have Portero work for a login or an exchange of tokens.

Each such request can cost a provider a request and a token, and nobody is known yet: without a bound a stranger could
make us flood the provider (AP-R31). It is a limit as any other (GCRA, in the limit store), kept apart from those that
tenants write; a store that is down means the local share, never none.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from authproxy.limits.store import LimitStore
from policies.decision import Deny, Reason, RuleRef
from policies.gcra import SECOND_US, Check
from policies.limits import address_block
from policies.ratelimit import policy_item
from policies.tables import TenantTable

RATE_PER_S: Final = 10
"""Of one IPv4 address or IPv6 /64 in one tenant; an office behind one address logs in within a minute."""
BURST: Final = 40
_EMISSION_US: Final = SECOND_US // RATE_PER_S


async def refuse_too_many(store: LimitStore, tenant: TenantTable, kind: str, client_ip: str, now: float) -> Deny | None:
    """
    The refusal of one request too many; otherwise it is counted.

    ``kind`` is what is counted together: ``login`` or ``token``.
    """
    check = check_for(tenant, kind, client_ip)
    spent = store.spend_now(tenant.name, (check,), now)
    if spent is None:
        spent = await store.spend(tenant.name, (check,), now)
    if spent.refused is None:
        return None
    return Deny(
        Reason.RATE_LIMITED,
        "too many of these requests came from this address",
        rule=check.ref,
        retry_after_s=spent.retry_after_s,
        limits=spent.states,
        tenant=tenant.name,
    )


def check_for(tenant: TenantTable, kind: str, client_ip: str) -> Check:
    """What one request costs. ``portero/`` keeps the key apart from every limit that a policy file can name."""
    name = f"portero-{kind}"
    prefix = f"{{{quote(tenant.name, safe='')}}}:rl:portero/{name}"
    return Check(
        name,
        f"{prefix}@{_EMISSION_US}x{BURST}:{address_block(client_ip)}",
        _EMISSION_US,
        _EMISSION_US * BURST,
        RATE_PER_S,
        1,
        BURST,
        RuleRef(name, "built in"),
        "local",
        1,
        *policy_item(name, RATE_PER_S, 1),
    )
