"""
A logout token that somebody sent to ``/.portero/backchannel-logout``: which sessions does the provider say are over?

It decides who signed it and what it says. That it comes for the first time is asked of a store by whoever acts on it
(AP-R26), and so is what "over" means. Anybody can send one: nothing but a token of one of the tenant's own providers
has an effect, and however many bad ones come, keys are fetched no more often than ``jwks`` ever does.

Source: OpenID Connect Back-Channel Logout 1.0 sections 2.4 to 2.6.
"""

from __future__ import annotations

from authproxy.identity.providers.id_token import KeyNotAskedFor, NotSigned, Trust, verify
from policies.decision import Deny, Reason
from policies.errors import ProviderUnavailable
from policies.id_token import LOGOUT_TOKEN_TYPES, LogoutNotice, judge_logout_token
from policies.tables import TenantTable


async def read_logout_token(trust: Trust, tenant: TenantTable, token: str, now: float) -> LogoutNotice | Deny:
    """
    The notice, or why there is none (``login-failed``, 400).

    Raises: ProviderUnavailable when there are no keys to tell, or newer ones that may not be asked for yet: who sent it
        may send it again, and a logout is not lost for a key that is ten seconds old.
    """
    signed = await verify(token, LOGOUT_TOKEN_TYPES, trust, tenant, now)
    if isinstance(signed, KeyNotAskedFor):
        raise ProviderUnavailable(signed.detail)
    if isinstance(signed, NotSigned):
        return Deny(Reason.LOGIN_FAILED, detail=signed.detail, tenant=tenant.name)
    login = signed.provider.login
    if login is None:
        return Deny(Reason.LOGIN_FAILED, detail="nobody logs in at the token's issuer here", tenant=tenant.name)
    return judge_logout_token(signed.claims, signed.provider, tenant.name, now, client_id=login.client.client_id)


__all__ = ["LogoutNotice", "read_logout_token"]
