"""What verified claims are worth in one tenant."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.claims import judge_claims, may_heal, not_before
from policies.decision import Challenge, Deny, Reason
from policies.principal import SERVICE_ACCOUNT_PROVIDER, Principal
from policies.tables import ProviderSpec
from tests.fakes.identity import a_provider, an_account
from tests.policies.test_tokens import json_values

NOW = 1_790_000_000.0
DAY_S = 86_400.0


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, but for ``changes``; None leaves a claim out."""
    every = {"iss": "https://id.example", "sub": "ana", "aud": "survey", "iat": NOW - 5, "exp": NOW + 600, **changes}
    return {name: value for name, value in every.items() if value is not None}


def judge(changed: dict[str, Any], provider: ProviderSpec | None = None, tenant: str = "acme") -> Any:
    return judge_claims(changed, provider or a_provider(), tenant, NOW)


def test_good_claims_name_a_caller() -> None:
    """A subject is (provider, sub)."""
    caller = judge(claims(groups=["analysts"]))
    assert isinstance(caller, Principal)
    assert (caller.subject, caller.groups, caller.email) == ("login|ana", frozenset({"analysts"}), None)
    assert caller.expires_at == NOW + 600


BAD = {
    "iss other": {"iss": "https://evil.example"},
    "iss slash": {"iss": "https://id.example/"},
    "iss prefix": {"iss": "https://id.example.evil"},
    "iss case": {"iss": "https://ID.example"},
    "iss list": {"iss": ["https://id.example"]},
    "exp missing": {"exp": None},
    "exp string": {"exp": str(NOW + 600)},
    "exp true": {"exp": True},
    "exp list": {"exp": [NOW + 600]},
    "exp inf": {"exp": float("inf")},
    "exp nan": {"exp": float("nan")},
    "exp 1e300": {"exp": 1e300},
    "exp huge int": {"exp": 10**400},
    "exp negative": {"exp": -(10**400)},
    "exp zero": {"exp": 0},
    "exp now": {"exp": NOW},
    "exp past": {"exp": NOW - 1},
    "exp too far": {"exp": NOW + DAY_S + 31},
    "iat future": {"iat": NOW + 31},
    "iat huge": {"iat": 10**400},
    "iat string": {"iat": "now"},
    "iat bool": {"iat": True},
    "iat nan": {"iat": float("nan")},
    "nbf future": {"nbf": NOW + 31},
    "nbf string": {"nbf": str(NOW)},
    "nbf null-like": {"nbf": {}},
    "aud missing": {"aud": None},
    "aud other": {"aud": "other"},
    "aud empty": {"aud": ""},
    "aud empty list": {"aud": []},
    "aud others": {"aud": ["a", "b"]},
    "aud mixed": {"aud": ["survey", 7]},
    "aud nested": {"aud": [["survey"]]},
    "aud map": {"aud": {"survey": 1}},
    "aud number": {"aud": 7},
    "aud true": {"aud": True},
    "aud part": {"aud": "survey other"},
    "aud case": {"aud": "Survey"},
    "aud many": {"aud": ["x"] * 200 + ["survey"]},
    "azp trick": {"aud": "other", "azp": "survey"},
    "azp trick list": {"aud": ["other"], "azp": "survey", "client_id": "survey"},
    "sub missing": {"sub": None},
    "sub empty": {"sub": ""},
    "sub number": {"sub": 7},
    "sub list": {"sub": ["ana"]},
    "sub long": {"sub": "a" * 256},
    "sub newline": {"sub": "ana\r\nX-Portero-Tenant: globex"},
    "sub NUL": {"sub": "ana\x00"},
    "sub surrogate": {"sub": "\ud800"},
    "sub bidi": {"sub": "\u202eana"},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_one_bad_claim_refuses_the_token(changes: dict[str, Any]) -> None:
    """AP-A4: each claim is required, of its type and within its bounds; the answer is 401 invalid_token."""
    refusal = judge(claims(**changes))
    assert isinstance(refusal, Challenge)
    assert (refusal.reason, refusal.error) == (Reason.CREDENTIAL_INVALID, "invalid_token")
    assert refusal.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", "survey"]},
        {"iat": NOW + 30},
        {"nbf": NOW + 30},
        {"iat": None},
        {"exp": NOW + DAY_S},
        {"exp": NOW + 0.5},
        {"exp": int(NOW) + 1},
        {"sub": "a" * 255},
        {"sub": "José Núñez"},
        {"azp": "somebody"},
    ],
    ids=repr,
)
def test_what_the_standards_allow_is_accepted(changes: dict[str, Any]) -> None:
    """Any-match of aud, 30 s of leeway, fractions of a second, letters of all languages."""
    assert isinstance(judge(claims(**changes)), Principal)


# --- tenants -------------------------------------------------------------------------------------------------------

SHARED = a_provider(tenant_claim="organization")


@pytest.mark.parametrize(
    "value",
    ["acme", ["acme"], ["globex", "acme"], {"acme": {}}, {"acme": {"id": "7"}, "globex": {}}],
    ids=repr,
)
def test_the_tenant_claim_may_be_a_string_a_list_or_a_map(value: Any) -> None:
    """Keycloak writes a list or a map, others one string."""
    assert isinstance(judge(claims(organization=value), SHARED), Principal)


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            "globex",
            ["globex"],
            {"globex": {}},
            [],
            {},
            "",
            7,
            True,
            "ACME",
            " acme",
            "acme|globex",
            "acme globex",
        ),
        *("acme,globex", ["acme", 7], [["acme"]], {"globex": {"acme": 1}}, ["acme "], "*"),
    ],
    ids=repr,
)
def test_a_token_for_other_tenants_is_403(value: Any) -> None:
    """T4: never a default tenant, never a part of a string."""
    refusal = judge(claims(organization=value), SHARED)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.TENANT_MISMATCH


@pytest.mark.parametrize("changes", [BAD["exp past"], BAD["aud other"], BAD["iss other"]], ids=repr)
def test_a_bad_token_learns_nothing_of_tenants(changes: dict[str, Any]) -> None:
    """Issuer, time and audience are judged before the tenant claim."""
    assert isinstance(judge(claims(**{"organization": "globex", **changes}), SHARED), Challenge)


def test_the_tenant_claim_may_lie_deeper() -> None:
    """A dotted path, or one name that has dots itself."""
    deep = a_provider(tenant_claim="app.tenants")
    assert isinstance(judge(claims(app={"tenants": ["acme"]}), deep), Principal)
    named = a_provider(tenant_claim="https://app.example/tenant")
    assert isinstance(judge(claims(**{"https://app.example/tenant": "acme"}), named), Principal)


# --- groups --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        ("groups", {"groups": ["a", "b", "a"]}, {"a", "b"}),
        ("groups", {"groups": "a"}, {"a"}),
        ("groups", {"groups": "a b"}, {"a b"}),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, {"a"}),
        ("realm_access.roles", {"realm_access.roles": ["a"]}, {"a"}),
        ("realm_access.roles", {"realm_access": ["roles"]}, set()),
        ("realm_access.roles", {"realm_access": {"roles": {"a": 1}}}, set()),
        ("groups", {}, set()),
        ("groups", {"groups": []}, set()),
        ("groups", {"groups": 7}, set()),
        ("groups", {"groups": True}, set()),
        ("groups", {"groups": {"a": 1}}, set()),
        ("groups", {"groups": ["a", 7]}, set()),
        ("groups", {"groups": ["a", ["b"]]}, set()),
        ("groups", {"groups": ["a", ""]}, set()),
        ("groups", {"groups": ["a\r\nb"]}, set()),
        ("groups", {"groups": ["a" * 257]}, set()),
        ("groups", {"groups": [f"g{number}" for number in range(1001)]}, set()),
        (None, {"groups": ["a"]}, set()),
    ],
    ids=repr,
)
def test_groups_are_a_list_of_strings_or_nothing(path: str | None, given: dict[str, Any], expected: set[str]) -> None:
    """A15: a claim of another type gives no group, and the caller is still named."""
    caller = judge(claims(**given), a_provider(groups_claim=path))
    assert isinstance(caller, Principal)
    assert caller.groups == expected


TWO = {"acme": {"groups": ["guest"]}, "globex": {"groups": ["admin"]}}


@pytest.mark.parametrize("path", ["organization.groups", "organization.acme.groups"])
def test_groups_are_read_in_the_hosts_tenant_only(path: str) -> None:
    """T5: what somebody is in globex is nothing in acme."""
    caller = judge(claims(organization=TWO), a_provider(tenant_claim="organization", groups_claim=path))
    assert caller.groups == {"guest"}


def test_another_tenants_entry_is_never_read() -> None:
    """T5: not even when the path names it."""
    spec = a_provider(tenant_claim="organization", groups_claim="organization.globex.groups")
    assert judge(claims(organization=TWO), spec).groups == frozenset()


def test_groups_beside_the_tenants_count_for_a_single_tenant_only() -> None:
    """T5: in a token for two tenants nobody can say in which of them a flat group was given."""
    spec = a_provider(tenant_claim="organization", groups_claim="groups")
    assert judge(claims(organization=["acme"], groups=["admin"]), spec).groups == {"admin"}
    assert judge(claims(organization=["acme", "globex"], groups=["admin"]), spec).groups == frozenset()


@pytest.mark.parametrize(
    "given",
    [
        {"groups": ["banned", "x" * 257]},
        {"groups": ["banned", "a\n"]},
        {"groups": ["banned", *(f"g{i}" for i in range(1000))]},
        {"groups": {"banned": True}},
        {"groups": ["banned"], "organization": ["acme", "globex"]},
        {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://id.example/groups"}}},
    ],
    ids=["long", "unprintable", "many", "mapping", "of two tenants", "elsewhere"],
)
def test_groups_that_cannot_be_had_are_not_no_groups(given: dict[str, Any]) -> None:
    """P4: who makes his groups unreadable gets no role by them and escapes no deny rule on them either."""
    spec = a_provider(groups_claim="groups", tenant_claim="organization")
    caller = judge(claims(**{"organization": ["acme"], **given}), spec)
    assert isinstance(caller, Principal)
    assert (caller.groups, caller.has_unknown_groups) == (frozenset(), True)


@pytest.mark.parametrize(
    "given", [{}, {"groups": None}, {"groups": []}, {"groups": "staff"}, {"_claim_names": ["groups"]}]
)
def test_a_token_without_groups_is_of_somebody_without_groups(given: dict[str, Any]) -> None:
    """Absent is an answer; only what is there and unreadable is none."""
    caller = judge(claims(**given), a_provider(groups_claim="groups"))
    assert isinstance(caller, Principal)
    assert not caller.has_unknown_groups


# --- e-mail --------------------------------------------------------------------------------------------------------

MAIL = a_provider(email_domains=frozenset({"acme.example"}))


def test_a_verified_address_of_an_own_domain_counts() -> None:
    """Lower case, whole."""
    assert judge(claims(email="Ana@ACME.example", email_verified=True), MAIL).email == "ana@acme.example"


@pytest.mark.parametrize(
    ("email", "is_verified"),
    [
        *(
            ("ana@acme.example", None),
            ("ana@acme.example", False),
            ("ana@acme.example", "true"),
            ("ana@acme.example", 1),
        ),
        *(("evil@x.com@acme.example", True), ("ana@evil-acme.example", True), ("ana@acme.example.evil", True)),
        *(("ana@sub.acme.example", True), ("@acme.example", True), ("ana", True), ("", True), (7, True), (None, True)),
        *(
            (["ana@acme.example"], True),
            ("ana@acme.example ", True),
            ("a b@acme.example", True),
            ("ana@acme.example\n", 1),
        ),
        *(("an\u212a@acme.example", True), ("ana@acme.example.", True), ("a" * 250 + "@acme.example", True)),
    ],
    ids=repr,
)
def test_any_other_address_is_none(email: Any, is_verified: Any) -> None:
    """AP-R4, nOAuth: one @, a whole domain, ASCII (the Kelvin sign folds to k), verified is true itself."""
    assert judge(claims(email=email, email_verified=is_verified), MAIL).email is None


def test_without_domains_no_address_counts() -> None:
    """Design section 4: only with email_domains may e-mail be used."""
    assert judge(claims(email="ana@acme.example", email_verified=True)).email is None


def test_a_flag_speaks_of_its_own_claim() -> None:
    """nOAuth: an address in a claim that people choose themselves is not verified by the flag of another."""
    spec = a_provider(email_domains=frozenset({"acme.example"}), email_claim="preferred_username")
    given = {"email": "eve@evil.example", "email_verified": True, "preferred_username": "boss@acme.example"}
    assert judge(claims(**given), spec).email is None
    spec = a_provider(email_domains=frozenset({"acme.example"}), email_claim="user.email")
    user = {"email": "ana@acme.example", "email_verified": True}
    assert judge(claims(user=user), spec).email == "ana@acme.example"
    assert judge(claims(user={**user, "email_verified": False}, email_verified=True), spec).email is None


# --- service accounts ----------------------------------------------------------------------------------------------


def account_claims(**changes: Any) -> dict[str, Any]:
    return claims(**{"iss": "acme/survey-ci", "sub": "survey-ci", **changes})


def test_a_service_account_is_its_key_and_has_the_policys_groups() -> None:
    """Groups in the token count for nothing."""
    caller = judge_claims(account_claims(groups=["admin"]), an_account(), "acme", NOW)
    assert isinstance(caller, Principal)
    assert (caller.provider, caller.sub, caller.groups) == (SERVICE_ACCOUNT_PROVIDER, "survey-ci", frozenset({"ci"}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"iss": "globex/survey-ci"}, {"iss": "survey-ci"}, {"iss": "acme/other"}, {"sub": "other"}, {"sub": None}),
        *({"aud": None}, {"aud": "other"}, {"exp": None}, {"exp": NOW + 3631}, {"sub": 7}, {"sub": ""}),
    ],
    ids=repr,
)
def test_a_service_accounts_claims_are_bounded_too(changes: dict[str, Any]) -> None:
    """One hour, one audience, one name."""
    assert isinstance(judge_claims(account_claims(**changes), an_account(), "acme", NOW), Challenge)


def test_dispatchs_tokens_need_leave() -> None:
    """They had neither aud nor sub; a wrong one is still refused."""
    legacy = an_account(allows_missing_audience=True)
    assert isinstance(judge_claims(account_claims(aud=None, sub=None), legacy, "acme", NOW), Principal)
    assert isinstance(judge_claims(account_claims(aud="other"), legacy, "acme", NOW), Challenge)
    assert isinstance(judge_claims(account_claims(aud=None, sub="other"), legacy, "acme", NOW), Challenge)
    assert isinstance(judge_claims(account_claims(aud=None, sub=None), an_account(), "acme", NOW), Challenge)


# --- properties ----------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "groups", "organization"]), json_values)
)
def test_any_claims_give_an_answer(found: dict[str, Any]) -> None:
    """P5: whatever the claims hold, there is an answer and no exception."""
    for spec in (a_provider(), SHARED, an_account(allows_missing_audience=True)):
        assert isinstance(judge_claims(found, spec, "acme", NOW), Principal | Challenge | Deny)
        assert isinstance(judge_claims({**claims(), **found}, spec, "acme", NOW), Principal | Challenge | Deny)


instants = st.floats(min_value=NOW - 2 * DAY_S, max_value=NOW + 2 * DAY_S)


@given(instants, instants, instants, instants)
def test_a_token_is_good_exactly_in_its_window(
    expires_at: float, issued_at: float, starts_at: float, now: float
) -> None:
    """R18: what the cache compares says the same as judging again; outside it, only time heals."""
    found = claims(exp=expires_at, iat=issued_at, nbf=starts_at)
    answer = judge_claims(found, a_provider(), "acme", now)
    is_in_window = not_before(found, a_provider()) <= now < expires_at
    assert isinstance(answer, Principal) == is_in_window
    if isinstance(answer, Challenge):
        assert may_heal(answer) == (now < expires_at)
