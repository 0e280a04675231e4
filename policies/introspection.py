"""
Question 2 for opaque tokens: what is a provider's answer about a token worth? (RFC 7662)

``claims_of`` turns an answer into claims that ``claims.judge_claims`` can judge like those of a signed token: the
provider must be the one expected, an audience must be named and be ours (AP-R24: any client of the provider may ask it
about any token, so "active" alone says nothing about us), and time must be right. What providers call active beside
access tokens (refresh tokens, ID tokens) is refused (AP-R15). Refuses to know how the provider was asked.

Source: RFC 7662 section 2.2; RFC 9449 section 6.2; RFC 8705 section 3.2; rules AP-R15, R24, R25.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

from policies.claims import KINDS, OTHER_KIND, is_of_other_kind
from policies.decision import Challenge
from policies.tables import ProviderSpec
from policies.tokens import refuse

_KINDS: Final = {"token_type": frozenset(("bearer", "dpop", "access_token")), **KINDS}
"""What an access token may be called, lower case: RFC 7662, and as in a signed token."""
_INACTIVE: Final = refuse("the token is not active, its provider says")
_NO_BOND: Final = refuse("the token is a DPoP token and its provider does not say of which key")


def claims_of(answer: Mapping[str, Any], provider: ProviderSpec, now: float) -> dict[str, Any] | Challenge:
    """
    The claims that the answer comes to, for ``judge_claims``; a refusal when the token is no active access token.

    An issuer that is not named is the provider asked. An expiry that is not named is the age of the answer; one beyond
    the longest lifetime is cut to it, since the provider is asked again long before.

    Args:
        answer: one strict JSON object.
        provider: that was asked; it has ``introspection``.
        now: Unix seconds.
    """
    if answer.get("active") is not True:
        return _INACTIVE
    if is_of_other_kind(answer, _KINDS):
        return OTHER_KIND
    kind, bond = answer.get("token_type"), answer.get("cnf")
    if isinstance(kind, str) and kind.lower() == "dpop" and not (isinstance(bond, Mapping) and "jkt" in bond):
        return _NO_BOND
    claims = {name: value for name, value in answer.items() if name != "active"}
    claims.setdefault("iss", provider.issuer)
    max_age_s = provider.introspection.max_age_s if provider.introspection is not None else 0.0
    if "exp" not in claims:
        claims["exp"] = now + max_age_s
    elif _is_number(claims["exp"]):
        claims["exp"] = min(claims["exp"], now + provider.max_token_lifetime_s)
    return claims


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and isfinite(value))
