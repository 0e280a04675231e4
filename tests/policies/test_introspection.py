"""What a provider's word about an opaque token is worth (RFC 7662): as much as a signed token's claims, and no more."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.claims import judge_claims
from policies.decision import Challenge, Deny, Reason
from policies.introspection import claims_of
from policies.principal import Principal
from policies.tables import ClientSpec, IntrospectionSpec, ProviderSpec
from tests.fakes.identity import a_provider

NOW: Final = 1_790_000_000.0
PROVIDER: Final = a_provider(
    introspection=IntrospectionSpec(ClientSpec("portero", "client_secret_basic", "acme-client"), max_age_s=60.0)
)
GOOD: Final = {
    "active": True,
    "iss": "https://id.example",
    "aud": "survey",
    "sub": "ana",
    "exp": NOW + 300,
    "token_type": "Bearer",
    "groups": ["analysts"],
}
_JKT: Final = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def judged(provider: ProviderSpec = PROVIDER, without: str = "", **changes: Any) -> Principal | Challenge | Deny:
    answer = {**GOOD, **changes}
    answer.pop(without, None)
    claims = claims_of(answer, provider, NOW)
    return claims if isinstance(claims, Challenge) else judge_claims(claims, provider, "acme", NOW)


def test_an_active_token_names_its_subject() -> None:
    """With groups and expiry; what is said beside is claims."""
    ana = judged(region="eu")
    assert isinstance(ana, Principal)
    assert (ana.subject, ana.groups, ana.expires_at) == ("login|ana", frozenset({"analysts"}), NOW + 300)
    assert ana.claims["region"] == "eu"
    assert "active" not in ana.claims


REFUSED: Final[dict[str, dict[str, Any]]] = {
    "inactive": {"active": False},
    "not said": {"without": "active"},
    "active by text": {"active": "true"},
    "active by number": {"active": 1},
    "another issuer": {"iss": "https://id.example/"},
    "issuer is no text": {"iss": ["https://id.example"]},
    "no audience": {"without": "aud"},
    "another audience": {"aud": "other"},
    "audience of another kind": {"aud": {"survey": True}},
    "audience null": {"aud": None},
    "expired": {"exp": NOW},
    "expiry by text": {"exp": str(NOW + 60)},
    "expiry null": {"exp": None},
    "expiry infinite": {"exp": float("inf")},
    "not yet": {"nbf": NOW + 60},
    "issued in the future": {"iat": NOW + 60},
    "no subject": {"without": "sub"},
    "subject a number": {"sub": 7},
    "refresh token": {"token_type": "refresh_token"},
    "type a list": {"token_type": ["Bearer"]},
    "refresh token at Ory": {"token_use": "refresh_token"},
    "ID token at Amazon": {"token_use": "id"},
    "refresh token at Keycloak": {"typ": "Refresh"},
    "offline token at Keycloak": {"typ": "Offline"},
    "ID token at Keycloak": {"typ": "ID"},
    "logout token": {"typ": "logout+jwt"},
    "DPoP without a key": {"token_type": "DPoP"},
    "DPoP with a certificate": {"token_type": "DPoP", "cnf": {"x5t#S256": _JKT}},
    "bound in a way nobody knows": {"cnf": {"jwk": {}}},
    "bound to nothing": {"cnf": {}},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED.keys())
def test_anything_less_is_refused(changes: dict[str, Any]) -> None:
    """AP-R15, R24: "active" says nothing about us; the audience does, and the token's kind."""
    refusal = judged(**changes)
    assert isinstance(refusal, Challenge)
    assert refusal.reason is Reason.CREDENTIAL_INVALID


def test_another_tenants_token_is_a_mismatch() -> None:
    """T4: the same as for a signed token."""
    refusal = judged(
        a_provider(introspection=PROVIDER.introspection, tenant_claim="organization"), organization="globex"
    )
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.TENANT_MISMATCH


def test_an_issuer_that_is_not_named_is_the_one_asked() -> None:
    """RFC 7662 section 2.2: ``iss`` is optional."""
    assert isinstance(judged(without="iss"), Principal)


def test_an_expiry_that_is_not_named_is_the_age_of_the_answer() -> None:
    """And one beyond the longest lifetime is cut: the provider is asked again long before."""
    unnamed, far = judged(without="exp"), judged(exp=NOW + 1e9)
    assert isinstance(unnamed, Principal)
    assert isinstance(far, Principal)
    assert (unnamed.expires_at, far.expires_at) == (NOW + 60, NOW + PROVIDER.max_token_lifetime_s)


def test_what_the_token_is_bound_to_is_kept() -> None:
    """RFC 9449 section 6.2, RFC 8705 section 3.2: to be proven by who shows it."""
    bound = judged(token_type="DPoP", cnf={"jkt": _JKT})
    assert isinstance(bound, Principal)
    assert bound.confirmation is not None
    assert bound.confirmation.jkt == _JKT


_value = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3))


@given(st.dictionaries(st.sampled_from([*GOOD, "nbf", "iat", "cnf", "typ", "token_use", "sid"]), _value))
def test_any_answer_is_judged(changes: dict[str, Any]) -> None:
    """Never an exception, whatever the provider says."""
    assert isinstance(judged(**changes), Principal | Challenge | Deny)
