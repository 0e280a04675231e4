"""What verified claims are worth in one tenant."""

# Longer than other test modules: one table a claim.

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.claims import bound, groups_of, has_overage, judge_claims, may_heal, not_before, person, with_userinfo
from policies.decision import Challenge, Deny, Reason
from policies.principal import SERVICE_ACCOUNT_PROVIDER, Confirmation, Principal
from policies.tables import GroupsSpec, ProviderSpec
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
    "ID token at Keycloak": {"typ": "ID"},
    "refresh token at Keycloak": {"typ": "Refresh"},
    "offline token at Keycloak": {"typ": "Offline"},
    "logout token at Keycloak": {"typ": "Logout"},
    "kind a list": {"typ": ["Bearer"]},
    "ID token at Amazon": {"token_use": "id"},
    "refresh token at Ory": {"token_use": "refresh_token"},
    "logout token without a type": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    "security event": {"events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}}},
    "events of another kind": {"events": []},
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
        {"typ": "Bearer"},
        {"token_use": "access"},
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
        ("groups", {"groups": ["a", "b", "a"]}, ["a", "b"]),
        ("groups", {"groups": "a"}, ["a"]),
        ("groups", {"groups": "a b"}, ["a b"]),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, ["a"]),
        ("realm_access.roles", {"realm_access.roles": ["a"]}, ["a"]),
        ("realm_access.roles", {"realm_access": ["roles"]}, []),
        ("realm_access.roles", {"realm_access": {"roles": {"a": 1}}}, []),
        ("groups", {}, []),
        ("groups", {"groups": []}, []),
        ("groups", {"groups": 7}, []),
        ("groups", {"groups": True}, []),
        ("groups", {"groups": {"a": 1}}, []),
        ("groups", {"groups": ["a", 7]}, []),
        ("groups", {"groups": ["a", ["b"]]}, []),
        ("groups", {"groups": ["a", ""]}, []),
        ("groups", {"groups": ["a\r\nb"]}, []),
        ("groups", {"groups": ["a" * 257]}, []),
        ("groups", {"groups": [f"g{number}" for number in range(1001)]}, []),
        (None, {"groups": ["a"]}, []),
    ],
    ids=repr,
)
def test_groups_are_a_list_of_strings_or_nothing(path: str | None, given: dict[str, Any], expected: list[str]) -> None:
    """A15: a claim of another type gives no group, and the caller is still named."""
    caller = judge(claims(**given), a_provider(groups_claim=path))
    assert isinstance(caller, Principal)
    assert sorted(caller.groups) == expected


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
        {"hasgroups": True},
        {"hasgroups": True, "organization": ["acme", "globex"]},
    ],
    ids=["long", "unprintable", "many", "mapping", "of two tenants", "elsewhere", "too many", "too many of two"],
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


IDS = GroupsSpec(form="object_ids", names={"0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7": "analysts"})
OTHER_ID = "5d0c0f4e-95ac-4d1c-a6bc-2d6d39c8b1f7"


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (IDS, ["0F2E4BB1-95AC-4D1C-A6BC-2D6D39C8B1F7"], ["analysts"]),
        (IDS, ["0F2E4BB1-95AC-4D1C-A6BC-2D6D39C8B1F7", OTHER_ID.upper()], [OTHER_ID, "analysts"]),
        (replace(IDS, drops_unnamed=True), ["0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7", OTHER_ID], ["analysts"]),
        (replace(IDS, drops_unnamed=True), [OTHER_ID], []),
        (IDS, ["analysts"], None),
        (replace(IDS, drops_unnamed=True), ["0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7", "analysts"], None),
        (GroupsSpec(names={"ACME\\analysts": "analysts"}), ["ACME\\analysts", " sre"], ["analysts", "sre"]),
        (GroupsSpec(), ["E\u0301quipe"], ["Équipe"]),
        (
            GroupsSpec(form="distinguished_names", names={"cn=smith\\, ana,dc=x": "ana"}),
            ["CN=Smith\\2C Ana, DC=X", "CN=Ana,DC=x"],
            ["ana", "cn=ana,dc=x"],
        ),
        (GroupsSpec(form="distinguished_names"), ["CN=" + "a" * 1000], ["cn=" + "a" * 1000]),
        (GroupsSpec(form="distinguished_names"), ["CN=a,DC=x", "Ana"], None),
    ],
)
def test_groups_are_called_as_bindings_call_them(
    spec: GroupsSpec, given: list[str], expected: list[str] | None
) -> None:
    """However the provider spells them; one that is of no such form makes all of them unknown."""
    caller = judge(claims(groups=given), a_provider(groups=spec))
    assert isinstance(caller, Principal)
    assert (sorted(caller.groups), caller.has_unknown_groups) == (expected or [], expected is None)


# --- groups that stand elsewhere -------------------------------------------------------------------------------------

OVERAGE: dict[str, Any] = {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://e/"}}}


@pytest.mark.parametrize(
    ("given", "is_over"),
    [
        ({}, False),
        ({"groups": []}, False),
        (OVERAGE, True),
        ({"hasgroups": True}, True),
        ({"hasgroups": False}, False),
        ({"hasgroups": "true"}, True),
        ({"groups": ["a"], **OVERAGE}, False),
        ({"_claim_names": {"address": "src1"}}, False),
        ({"_claim_names": ["groups"]}, False),
    ],
    ids=repr,
)
def test_overage_is_what_the_token_says_it_is(given: dict[str, Any], is_over: bool) -> None:
    """OpenID Connect Core section 5.6.2; unknown groups until userinfo has been asked."""
    provider = a_provider()
    assert has_overage(claims(**given), provider) is is_over
    assert (groups_of(claims(**given), provider, "acme") is None) is is_over
    assert not has_overage(claims(**given), a_provider(groups_claim=None))


def test_userinfo_answers_overage() -> None:
    """Then the groups are known; where userinfo does not name them either, they stay unknown."""
    provider = a_provider()
    merged = with_userinfo(claims(**OVERAGE), {"sub": "ana", "groups": ["analysts"]}, provider)
    assert groups_of(merged, provider, "acme") == frozenset({"analysts"})
    assert not has_overage(merged, provider)
    merged = with_userinfo(claims(**OVERAGE), {"sub": "ana"}, provider)
    assert groups_of(merged, provider, "acme") is None


@pytest.mark.parametrize(
    ("source", "token", "userinfo", "expected"),
    [
        ("userinfo", {}, {"groups": ["a"]}, ["a"]),
        ("userinfo", {"groups": ["old"]}, {"groups": ["a"]}, ["a"]),
        ("userinfo", {"groups": ["old"]}, {}, []),
        ("id_token", {"groups": ["a"]}, {"groups": ["b"]}, ["a"]),
        ("id_token", {}, {"groups": ["b"]}, []),
    ],
)
def test_groups_have_one_source(
    source: Any, token: dict[str, Any], userinfo: dict[str, Any], expected: list[str]
) -> None:
    """Where the policy says that they come from; the other's do not count."""
    provider = a_provider(groups=GroupsSpec(source))
    assert groups_of(with_userinfo(claims(**token), userinfo, provider), provider, "acme") == frozenset(expected)


def test_userinfo_adds_and_never_replaces() -> None:
    """What has been verified stands: issuer, audience, times, subject, tenant, bond."""
    token = claims(organization="acme", cnf={"jkt": JKT})
    hostile = dict.fromkeys((*token, "email"), "x") | {"exp": 9e9, "organization": ["globex"], "name": "Ana"}
    merged = with_userinfo(token, hostile, a_provider(tenant_claim="organization"))
    assert {name: merged[name] for name in token} == token
    assert merged["name"] == "Ana"


@pytest.mark.parametrize(
    "token", [{"email": "boss@acme.example"}, {"email": "boss@acme.example", "email_verified": False}]
)
def test_an_address_is_not_verified_by_the_flag_of_another(token: dict[str, Any]) -> None:
    """AP-R4, nOAuth: address and flag come from one of the two answers."""
    provider = a_provider(email_domains=frozenset({"acme.example"}))
    merged = with_userinfo(claims(**token), {"email": "eve@acme.example", "email_verified": True}, provider)
    caller = judge(merged, provider)
    assert isinstance(caller, Principal)
    assert caller.email is None
    caller = judge(with_userinfo(claims(), {"email": "eve@acme.example", "email_verified": True}, provider), provider)
    assert caller.email == "eve@acme.example"


@pytest.mark.parametrize("token", ["acme", ["acme"], {"acme": {"groups": ["old"]}}], ids=repr)
def test_userinfo_never_makes_a_token_good_for_a_further_tenant(token: Any) -> None:
    """T4, T5: groups are looked up in the token's own tenants, whatever userinfo lists."""
    provider = a_provider(
        tenant_claim="organization", groups_claim="organization.groups", groups=GroupsSpec("userinfo")
    )
    merged = with_userinfo(claims(organization=token), {"organization": TWO}, provider)
    assert merged["organization"] == {"acme": {"groups": ["guest"]}}
    caller = judge(merged, provider)
    assert isinstance(caller, Principal)
    assert caller.groups == {"guest"}
    assert isinstance(judge(merged, provider, "globex"), Deny)
    for answer in ({}, {"organization": "acme"}, {"organization": {"globex": {"groups": ["admin"]}}}):
        caller = judge(with_userinfo(claims(organization=token), answer, provider), provider)
        assert isinstance(caller, Principal)
        assert caller.groups == frozenset()


# --- bound tokens ----------------------------------------------------------------------------------------------------

JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
X5T = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"


@pytest.mark.parametrize(
    ("members", "confirmation"),
    [
        ({"jkt": JKT}, Confirmation(jkt=JKT)),
        ({"x5t#S256": X5T}, Confirmation(x5t=X5T)),
        ({"jkt": JKT, "x5t#S256": X5T}, Confirmation(JKT, X5T)),
    ],
)
def test_a_bound_token_says_to_what(members: dict[str, str], confirmation: Confirmation) -> None:
    """RFC 9449 section 6.1, RFC 8705 section 3.1; both means both."""
    for provider in (a_provider(), a_provider(requires_bound_tokens=True)):
        caller = judge(claims(cnf=members), provider)
        assert isinstance(caller, Principal)
        assert caller.confirmation == confirmation
    account = judge_claims(account_claims(cnf=members), an_account(), "acme", NOW)
    assert isinstance(account, Principal)
    assert account.confirmation == confirmation


@pytest.mark.parametrize(
    "members",
    [
        *({}, [], "", 7, True, JKT, [JKT], {"jkt": None}, {"jkt": ""}, {"jkt": 7}, {"jkt": [JKT]}),
        *({"jkt": JKT[:-1]}, {"jkt": JKT + "="}, {"jkt": JKT + "A"}, {"jkt": JKT[:-1] + "J"}, {"jkt": JKT + "\n"}),
        *({"jkt": JKT.replace("-", "+")}, {"JKT": JKT}, {"x5t": X5T}, {"x5t#s256": X5T}, {"kid": "1"}),
        *({"jwk": {"kty": "EC"}}, {"jku": "https://evil.example/k"}, {"jkt": JKT, "kid": "1"}, {"jkt": JKT, "": 1}),
    ],
    ids=repr,
)
def test_a_bond_that_is_not_understood_is_not_ignored(members: Any) -> None:
    """Whoever stole the token would profit from a constraint that nobody checks."""
    given = {**claims(), "cnf": members}
    assert isinstance(judge(given), Challenge)
    assert isinstance(judge_claims({**account_claims(), "cnf": members}, an_account(), "acme", NOW), Challenge)


def test_a_null_bond_is_not_understood_either() -> None:
    """Absent is absent; null is something that somebody wrote."""
    assert isinstance(judge({**claims(), "cnf": None}), Challenge)


def test_a_provider_may_demand_bound_tokens() -> None:
    """``bound_tokens: require``: a bearer token that anybody may use is refused, and time heals nothing."""
    refusal = judge(claims(), a_provider(requires_bound_tokens=True))
    assert isinstance(refusal, Challenge)
    assert (refusal.reason, refusal.error) == (Reason.CREDENTIAL_INVALID, "invalid_token")
    assert not may_heal(refusal)


def test_a_login_needs_no_bond() -> None:
    """What a login came to is bound to the browser by its session, whatever its tokens say."""
    caller = person(claims(cnf={"kid": "1"}), a_provider(requires_bound_tokens=True), "acme", NOW + 9)
    assert isinstance(caller, Principal)
    assert caller.confirmation is None


def test_a_refusal_stays_the_refusal_it_was() -> None:
    """Whom the claims name is judged before what they are bound to."""
    refusal = Deny(Reason.TENANT_MISMATCH)
    assert bound(refusal, {"cnf": 7}, is_required=True) is refusal
    other = judge(claims(organization="globex", cnf=7), SHARED)
    assert isinstance(other, Deny)


def test_a_person_has_what_logout_and_whoami_ask_for() -> None:
    """Issuer, the provider's session, when it was established, a name to show."""
    caller = judge(claims(sid="s1", name="Ana Núñez"))
    assert (caller.issuer, caller.sid, caller.issued_at) == ("https://id.example", "s1", NOW - 5)
    assert caller.name == "Ana Núñez"
    bare = judge(claims(sid=7, name="a\nb", iat=None))
    assert (bare.sid, bare.name, bare.issued_at) == (None, None, 0.0)
    assert len(judge(claims(name="a" * 1000)).name) == 128


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
    st.dictionaries(
        st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "groups", "organization", "cnf", "_claim_names"]),
        json_values,
    )
)
def test_any_claims_give_an_answer(found: dict[str, Any]) -> None:
    """P5: whatever the claims hold, there is an answer and no exception."""
    of_directory = a_provider(groups=GroupsSpec(form="distinguished_names"), requires_bound_tokens=True)
    for spec in (a_provider(), SHARED, of_directory, an_account(allows_missing_audience=True)):
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


@given(
    st.dictionaries(st.sampled_from(["sub", "groups", "organization", "email", "_claim_names"]), json_values),
    st.dictionaries(st.sampled_from(["sub", "groups", "organization", "email", "_claim_names"]), json_values),
)
def test_any_userinfo_can_be_merged(token: dict[str, Any], userinfo: dict[str, Any]) -> None:
    """P5: whatever both say, there is an answer, and nothing that the token says is another afterwards but groups."""
    for path in ("groups", "organization.groups"):
        provider = a_provider(tenant_claim="organization", groups_claim=path, groups=GroupsSpec("userinfo"))
        merged = with_userinfo(token, userinfo, provider)
        assert isinstance(judge_claims(merged, provider, "acme", NOW), Principal | Challenge | Deny)
        assert all(merged[name] == token[name] for name in ("sub", "email") if name in token)
