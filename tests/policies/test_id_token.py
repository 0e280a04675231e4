"""What ID tokens and logout tokens are worth: pure judgements, without a socket."""

from __future__ import annotations

from hashlib import sha512
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Challenge, Deny, Reason
from policies.id_token import (
    ID_TOKEN_TYPES,
    LOGOUT_EVENT,
    LOGOUT_TOKEN_TYPES,
    LogoutNotice,
    claims_to_keep,
    half_hash,
    inspect_kind,
    judge_id_token,
    judge_logout_token,
)
from policies.tokens import UnverifiedHeader, inspect
from tests.fakes.identity import a_provider
from tests.fakes.provider import Key, b64, compact

NOW = 1_790_000_000.0
PROVIDER = a_provider(tenant_claim="organization", requires_bound_tokens=True)
"""Terms for access tokens, which must not be asked of an ID token."""
KEY = Key("k1")


def id_claims(**changes: Any) -> dict[str, Any]:
    claims = {"iss": PROVIDER.issuer, "aud": "portero", "sub": "ana", "iat": NOW, "exp": NOW + 300, "nonce": "n"}
    return {name: value for name, value in (claims | changes).items() if value is not None}


def logout_claims(**changes: Any) -> dict[str, Any]:
    claims = {
        "iss": PROVIDER.issuer,
        "aud": "portero",
        "sub": "ana",
        "iat": NOW,
        "jti": "j",
        "events": {LOGOUT_EVENT: {}},
    }
    return {name: value for name, value in (claims | changes).items() if value is not None}


def judge(claims: dict[str, Any], **changes: Any) -> Deny | None:
    terms: dict[str, Any] = {"client_id": "portero", "algorithm": "ES256", "access_token": "a", "nonce": "n"}
    return judge_id_token(claims, PROVIDER, "acme", NOW, **terms | changes)


def judge_logout(claims: dict[str, Any]) -> LogoutNotice | Deny:
    return judge_logout_token(claims, PROVIDER, "acme", NOW, client_id="portero")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"azp": "portero"},
        {"aud": ["portero"]},
        {"aud": ["portero", "somebody"], "azp": "portero"},
        {"iat": NOW - 600},
        {"iat": NOW + 30},
        {"at_hash": half_hash("a", "ES256")},
        {"cnf": {"jkt": "x"}},
        {"exp": NOW + 1},
    ],
    ids=str,
)
def test_an_id_token_of_this_login_is_believed(changes: dict[str, Any]) -> None:
    """OpenID Connect Core section 3.1.3.7, at the edges of each rule."""
    assert judge(id_claims(**changes)) is None


@pytest.mark.parametrize(
    "changes",
    [
        *({"iss": "https://id.example/"}, {"aud": "survey"}, {"aud": ["portero", "somebody"]}, {"azp": "somebody"}),
        *({"aud": "somebody", "azp": "portero"}, {"aud": ["portero", "portero"]}, {"azp": 7}),
        *({"iat": NOW - 601}, {"iat": NOW + 31}, {"iat": None}, {"iat": True}, {"iat": str(NOW)}, {"iat": 1e300}),
        *({"exp": NOW}, {"exp": None}, {"exp": "x"}, {"exp": True}, {"exp": 1e300}, {"exp": NOW + 90_000}),
        *({"nonce": "N"}, {"nonce": None}, {"nonce": ""}, {"nonce": ["n"]}, {"nonce": "n\ud7ff"}),
        *({"at_hash": "x"}, {"at_hash": half_hash("b", "ES256")}, {"at_hash": 7}, {"at_hash": half_hash("a", "ES384")}),
        *({"sub": ""}, {"sub": 7}, {"sub": "a\x00"}, {"nbf": NOW + 31}, {"nbf": "x"}),
    ],
    ids=str,
)
def test_an_id_token_with_one_thing_wrong_is_refused(changes: dict[str, Any]) -> None:
    """R15, R24, and the azp trick: azp never stands in for aud."""
    refusal = judge(id_claims(**changes))
    assert refusal is not None
    assert refusal.reason is Reason.LOGIN_FAILED
    assert refusal.tenant == "acme"


def test_a_refreshed_id_token_needs_no_nonce_and_the_same_person() -> None:
    """OpenID Connect Core section 12.2."""
    assert judge(id_claims(nonce=None), nonce=None, sub="ana") is None
    assert judge(id_claims(nonce="whatever"), nonce=None, sub="ana") is None
    assert judge(id_claims(nonce=None), nonce=None, sub="bob") is not None


def test_at_hash_of_an_algorithm_whose_hash_is_unknown_equals_nothing() -> None:
    """Fails closed: an unknown algorithm must not switch the check off."""
    assert half_hash("a", "XX999") is None
    assert judge(id_claims(at_hash=half_hash("a", "ES256")), algorithm="XX999") is not None


@pytest.mark.parametrize("size", ["256", "384", "512"])
def test_at_hash_goes_by_the_tokens_algorithm(size: str) -> None:
    """OpenID Connect Core section 3.1.3.6; the example is that of appendix A.3."""
    assert half_hash("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y", "RS256") == "77QmUPtjPfzWtF2AnpK9RQ"
    assert half_hash("a", f"ES{size}") == half_hash("a", f"PS{size}")
    assert half_hash("a", "EdDSA") == b64(sha512(b"a").digest()[:32])


def test_claims_of_the_answer_are_not_kept() -> None:
    """They say nothing of a person and would make every cookie longer."""
    assert claims_to_keep({"sub": "ana", "nonce": "n", "at_hash": "x", "groups": []}) == {"sub": "ana", "groups": []}


@pytest.mark.parametrize(
    ("changes", "sub", "sid", "expires_at"),
    [
        ({}, "ana", None, NOW + 630),
        ({"sid": "s"}, "ana", "s", NOW + 630),
        ({"sub": None, "sid": "s"}, None, "s", NOW + 630),
        ({"exp": NOW + 120}, "ana", None, NOW + 150),
        ({"exp": NOW + 7200}, "ana", None, NOW + 630),
        ({"iat": NOW - 599}, "ana", None, NOW + 31),
        ({"events": {LOGOUT_EVENT: {}, "urn:other": {}}}, "ana", None, NOW + 630),
    ],
    ids=str,
)
def test_a_logout_token_says_who_is_logged_out(
    changes: dict[str, Any], sub: str | None, sid: str | None, expires_at: float
) -> None:
    """And until when it would be taken again."""
    notice = judge_logout(logout_claims(**changes))
    assert notice == LogoutNotice("login", PROVIDER.issuer, sub, sid, "j", expires_at)


@pytest.mark.parametrize(
    "changes",
    [
        *({"iss": "x"}, {"aud": "survey"}, {"aud": None}, {"iat": None}, {"iat": NOW - 601}, {"iat": NOW + 31}),
        *({"exp": NOW}, {"exp": True}, {"exp": 1e300}, {"jti": None}, {"jti": ""}, {"jti": 7}, {"jti": "j" * 256}),
        *({"sub": None}, {"sub": ""}, {"sub": 7}, {"sid": 7}, {"sid": ""}, {"sid": "s" * 256}, {"sid": "s\n"}),
        *({"events": None}, {"events": []}, {"events": {}}, {"events": {LOGOUT_EVENT: []}}, {"events": LOGOUT_EVENT}),
        *({"nonce": "n"}, {"nonce": ""}, {"nonce": False}),
    ],
    ids=str,
)
def test_a_logout_token_with_one_thing_wrong_ends_nothing(changes: dict[str, Any]) -> None:
    """Back-Channel Logout 1.0 section 2.6; iat and jti are required."""
    assert isinstance(judge_logout(logout_claims(**changes)), Deny)


def test_no_kind_of_token_is_taken_for_the_other() -> None:
    """R15: by their claims alone, should both have no type."""
    assert isinstance(judge_logout(id_claims()), Deny)
    assert isinstance(judge_logout(id_claims(nonce=None, jti="j", sid="s")), Deny)
    assert judge(logout_claims(exp=NOW + 100)) is not None


@pytest.mark.parametrize(
    ("kind", "kinds", "is_taken"),
    [
        ("JWT", ID_TOKEN_TYPES, True),
        (None, ID_TOKEN_TYPES, True),
        ("at+jwt", ID_TOKEN_TYPES, False),
        ("logout+jwt", ID_TOKEN_TYPES, False),
        ("logout+jwt", LOGOUT_TOKEN_TYPES, True),
        ("application/logout+jwt", LOGOUT_TOKEN_TYPES, True),
        ("at+jwt", LOGOUT_TOKEN_TYPES, False),
        (7, LOGOUT_TOKEN_TYPES, False),
        ("", ID_TOKEN_TYPES, False),
    ],
)
def test_a_type_must_be_one_of_the_kind(kind: Any, kinds: frozenset[str], is_taken: bool) -> None:
    """RFC 8725 section 3.11; absent is allowed, as most providers have it."""
    header = {"alg": "ES256", "kid": "k1"} | ({} if kind is None else {"typ": kind})
    answer = inspect_kind(compact(header, id_claims(), KEY), kinds)
    assert isinstance(answer, UnverifiedHeader) is is_taken


def test_a_token_of_another_kind_is_read_as_an_access_token_is() -> None:
    """One strict reader: algorithm, kid, issuer, payload and claims are what it finds."""
    header = {"alg": "ES256", "kid": "k1", "é": "é"}
    token = compact(header, id_claims(), KEY)
    assert inspect_kind(token, ID_TOKEN_TYPES) == inspect(token)


@given(st.text(max_size=300) | st.lists(st.text('AQw-_.=ey {}"', max_size=40), max_size=5).map(".".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never an exception, whatever a token endpoint or a stranger sends."""
    assert isinstance(inspect_kind(text, ID_TOKEN_TYPES), UnverifiedHeader | Challenge)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NAMES = ("iss", "aud", "azp", "sub", "sid", "iat", "exp", "nbf", "nonce", "at_hash", "jti", "events")


@given(st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=4))
def test_any_claims_are_judged(changes: dict[str, Any]) -> None:
    """Never an exception: honest claims with anything put in the place of some."""
    assert isinstance(judge(id_claims() | changes), Deny | None)
    assert isinstance(judge_logout(logout_claims() | changes), LogoutNotice | Deny)
