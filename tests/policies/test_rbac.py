"""Question 3 by examples: who may do what, who is challenged, and which rule is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal, anonymous
from policies.rbac import MEMO_NAMES, Granted, RoleInput, build_table, may, role_mask, roles_of
from policies.tables import Facts
from tests.policies.reference import Policy, binding, deny, grant, place_of, request_of, tenant_of

ANA = Principal("login", "ana", groups=frozenset({"analysts"}))
BOB = Principal("login", "bob")


def decide(
    policy: Policy, principal: Principal, function: str, action: str = "invoke", method: str = "GET", path: str = "/"
) -> str:
    """The verdict as one word, with the rule that gave it."""
    place = place_of(tenant_of(policy), function, path, is_public=function in policy.public)
    principal = Principal(
        principal.provider, principal.sub, groups=principal.groups, email=principal.email, claims=principal.claims
    )
    answer = may(place, principal, request_of(method, path), action, 0.0)
    if isinstance(answer, Granted):
        return f"granted {answer.rule.id}" if answer.rule else "granted"
    rule = answer.rule if isinstance(answer, Deny) else None
    return f"{answer.reason} {rule.id}" if rule else str(answer.reason)


def holds(_: Facts) -> bool:
    return True


def fails(_: Facts) -> bool:
    return False


def breaks(_: Facts) -> bool:
    raise KeyError("region")


ANALYST = RoleInput("analyst", (), (grant(["survey-report", "geo-*"], ["invoke"], ["GET", "HEAD"], rule="read"),))
DEVELOPER = RoleInput("developer", ("analyst",), (grant(["survey-*"], ["deploy", "logs"], rule="develop"),))
WORLD = Policy(
    roles=(ANALYST, DEVELOPER, RoleInput("root", (), (grant(["*"], ["*"], rule="all"),))),
    bindings=(
        binding(["analyst"], groups=["analysts"]),
        binding(["developer"], subjects=["login|dan"], service_accounts=["ci"]),
        binding(["root"], emails=["root@acme.example"]),
    ),
    deny=(
        deny(["prod-*"], ["delete"], rule="keep-prod"),
        deny(["survey-form"], ["invoke"], ["DELETE"], rule="no-delete"),
    ),
    public=frozenset({"survey-form"}),
)
DAN = Principal("login", "dan")
ROOT = Principal("login", "root", email="root@acme.example")


@pytest.mark.parametrize(
    ("principal", "function", "action", "method", "expected"),
    [
        (ANA, "survey-report", "invoke", "GET", "granted read"),
        (ANA, "geo-eu", "invoke", "HEAD", "granted read"),
        (ANA, "geo-", "invoke", "GET", "granted read"),
        (ANA, "geo", "invoke", "GET", "no-rule-allows"),
        (ANA, "survey-reports", "invoke", "GET", "no-rule-allows"),
        (ANA, "survey-report", "invoke", "POST", "no-rule-allows"),
        (ANA, "survey-report", "logs", "GET", "no-rule-allows"),
        (BOB, "survey-report", "invoke", "GET", "no-rule-allows"),
        (DAN, "survey-report", "invoke", "GET", "granted read"),
        (DAN, "survey-x", "deploy", "POST", "granted develop"),
        (DAN, "survey-x", "delete", "DELETE", "no-rule-allows"),
        (Principal("service-account", "ci"), "survey-x", "logs", "GET", "granted develop"),
        (Principal("login", "ci"), "survey-x", "logs", "GET", "no-rule-allows"),
        (Principal("other", "dan"), "survey-x", "deploy", "POST", "no-rule-allows"),
        (Principal("service-account", "dan"), "survey-x", "deploy", "POST", "no-rule-allows"),
        (ROOT, "prod-db", "secrets", "GET", "granted all"),
        (ROOT, "prod-db", "delete", "DELETE", "denied-by-rule keep-prod"),
        (ROOT, "survey-form", "invoke", "DELETE", "denied-by-rule no-delete"),
        (BOB, "survey-form", "invoke", "GET", "granted"),
        (BOB, "survey-form", "scale", "POST", "no-rule-allows"),
        (anonymous(), "survey-form", "invoke", "GET", "granted"),
        (anonymous(), "survey-form", "invoke", "DELETE", "denied-by-rule no-delete"),
        (anonymous(), "survey-form", "delete", "DELETE", "credential-missing"),
        (anonymous(), "survey-report", "invoke", "GET", "credential-missing"),
        (ROOT, "x", "become-root", "GET", "no-rule-allows"),
        (ROOT, "", "invoke", "GET", "granted all"),
    ],
)
def test_who_may_do_what(principal: Principal, function: str, action: str, method: str, expected: str) -> None:
    """Roles, patterns, actions, methods, deny rules and public functions, one line each."""
    assert decide(WORLD, principal, function, action, method) == expected


def test_an_empty_policy_allows_nobody() -> None:
    """Absent configuration denies."""
    assert decide(Policy(), ROOT, "x") == "no-rule-allows"
    assert decide(Policy(), anonymous(), "x") == "credential-missing"


def test_anonymous_is_in_no_group_and_holds_no_role() -> None:
    """Nothing that a binding says can name the caller who said nothing."""
    everything = Policy(
        (RoleInput("r", (), (grant(),)),), (binding(["r"], subjects=["anonymous|anonymous"], groups=["g"]),)
    )
    stranger = Principal("anonymous", "anonymous", groups=frozenset({"g"}))
    assert role_mask(build_table(everything.roles, everything.bindings, ()), stranger) == 0


def test_a_caller_without_credential_is_challenged_before_deny_rules_about_persons() -> None:
    """A 403 by "unless groups: [sre]" would keep a browser from the login that makes it an sre."""
    policy = Policy(deny=(deny(["x"], condition=breaks), deny(["x"])))
    assert decide(policy, anonymous(), "x") == "credential-missing"


@pytest.mark.parametrize(
    ("condition", "as_allow", "as_deny"),
    [
        (holds, "granted r", "denied-by-rule d"),
        (fails, "no-rule-allows", "granted base"),
        (breaks, "no-rule-allows", "denied-by-rule d"),
        (lambda _: 1, "no-rule-allows", "denied-by-rule d"),
        (lambda _: "no", "no-rule-allows", "denied-by-rule d"),
        (lambda _: None, "no-rule-allows", "denied-by-rule d"),
    ],
    ids=["true", "false", "raises", "1", "text", "none"],
)
def test_an_error_never_widens(condition: object, as_allow: str, as_deny: str) -> None:
    """P4: what cannot be known matches in deny and not in allow."""
    bound = (binding(["a"], groups=["analysts"]),)
    allowing = Policy((RoleInput("a", (), (grant(condition=condition),)),), bound)  # type: ignore[arg-type]  # hostile
    denying = Policy((RoleInput("a", (), (grant(rule="base"),)),), bound, (deny(condition=condition),))  # type: ignore[arg-type]  # hostile
    assert decide(allowing, ANA, "x") == as_allow
    assert decide(denying, ANA, "x") == as_deny


def test_conditions_are_asked_only_where_everything_else_matches() -> None:
    """Pattern, action, method and role come first, unconditional rules before conditional ones."""
    asked: list[str] = []

    def spy(name: str) -> object:
        def condition(_: Facts) -> bool:
            asked.append(name)
            return False

        return condition

    policy = Policy(
        roles=(
            RoleInput("a", (), (grant(["x"], condition=spy("mine"), rule="mine"), grant(["y"], rule="plain"))),  # type: ignore[arg-type]  # a spy
            RoleInput("b", (), (grant(["x"], condition=spy("role")),)),  # type: ignore[arg-type]  # a spy
            RoleInput("c", (), (grant(["y"], condition=spy("needless")),)),  # type: ignore[arg-type]  # a spy
        ),
        bindings=(binding(["a", "c"], groups=["analysts"]),),
        deny=(
            deny(["z"], condition=spy("pattern")),  # type: ignore[arg-type]  # a spy
            deny(["x"], ["logs"], condition=spy("action")),  # type: ignore[arg-type]  # a spy
            deny(["x"], methods=["POST"], condition=spy("method")),  # type: ignore[arg-type]  # a spy
        ),
    )
    assert decide(policy, ANA, "x") == "no-rule-allows"
    assert decide(policy, ANA, "y") == "granted plain"
    assert asked == ["mine"]


def test_the_rule_named_does_not_depend_on_order() -> None:
    """Two rules that both decide: the one with the lesser id is named, whichever stands first."""
    rules = (deny(rule="b"), deny(rule="a"), deny(methods=["GET"], rule="c"))
    for order in (rules, rules[::-1]):
        assert decide(Policy(deny=order), ANA, "x") == "denied-by-rule a"


def test_includes_that_form_a_cycle_end() -> None:
    """P8: the compiler refuses cycles; here they must end and give what the members state, no more."""
    roles = tuple(
        RoleInput(name, (following,), (grant([name]),)) for name, following in [("a", "b"), ("b", "c"), ("c", "a")]
    )
    policy = Policy(roles, (binding(["a"], groups=["analysts"]),))
    assert [decide(policy, ANA, name) for name in "abcd"] == ["granted r"] * 3 + ["no-rule-allows"]


def test_a_long_chain_of_includes_is_no_recursion() -> None:
    """More roles in a row than the stack is deep: hostile, and still compiled."""
    chain = [RoleInput(f"r{n:05}", (f"r{n + 1:05}",), ()) for n in range(3000)]
    roles = (*chain, RoleInput("r03000", (), (grant(),)))
    assert decide(Policy(roles, (binding(["r00000"], groups=["analysts"]),)), ANA, "x") == "granted r"


def test_what_does_not_exist_gives_nothing() -> None:
    """A binding to an unknown role and an include of one narrow, never raise."""
    policy = Policy((RoleInput("a", ("ghost",), ()),), (binding(["a", "phantom"], groups=["analysts"]),))
    assert decide(policy, ANA, "x") == "no-rule-allows"


def test_the_role_mask_is_of_the_table_asked() -> None:
    """A principal of the token cache meets the next generation of policy: what it held is forgotten."""
    old = tenant_of(Policy((RoleInput("a", (), (grant(),)),), (binding(["a"], groups=["analysts"]),)))
    new = tenant_of(Policy((RoleInput("a", (), (grant(),)),)))
    ana = Principal("login", "ana", groups=frozenset({"analysts"}))
    for tenant, granted in ((old, True), (new, False), (old, True)):
        assert isinstance(may(place_of(tenant, "x"), ana, request_of(), "invoke", 0.0), Granted) is granted


def test_the_memo_of_names_is_bounded_and_harmless() -> None:
    """Callers choose function names: a hundred thousand of them leave a few thousand entries and the same answers."""
    tenant = tenant_of(WORLD)
    ana = Principal("login", "ana", groups=frozenset({"analysts"}))
    for n in range(3 * MEMO_NAMES):
        may(place_of(tenant, f"geo-{n}"), ana, request_of(), "invoke", 0.0)
    assert all(len(index.memo) <= MEMO_NAMES for index in tenant.rbac.rules.values())
    assert isinstance(may(place_of(tenant, "geo-1"), ana, request_of(), "invoke", 0.0), Granted)
    assert isinstance(may(place_of(tenant, "toto"), ana, request_of(), "invoke", 0.0), Deny)


def test_a_refusal_says_nothing_of_the_rule_to_the_caller() -> None:
    """The rule stands in the audit; the sentence for the caller is the same for all of them."""
    refusal = may(place_of(tenant_of(WORLD), "prod-db"), ROOT, request_of(), "delete", 0.0)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.DENIED_BY_RULE
    assert refusal.tenant == "acme"
    assert refusal.rule is not None
    assert refusal.rule.id not in refusal.detail


def test_a_challenge_names_no_rule_and_no_function() -> None:
    """Whether a function exists is not told to a caller who has not said who it is."""
    place = place_of(tenant_of(WORLD), "survey-report")
    ghost = replace(place, function="no-such-function")
    answers = {may(one, anonymous(), request_of(), "invoke", 0.0) for one in (place, ghost)}
    assert answers == {Challenge(Reason.CREDENTIAL_MISSING, tenant="acme")}


# --- API keys, and roles by name ------------------------------------------------------------------------------------


def test_an_api_key_is_a_subject_and_has_the_policys_groups() -> None:
    """``api-key|NAME`` is bound like a person; no provider's person and no service account is taken for it."""
    table = build_table(
        WORLD.roles, (binding(["developer"], subjects=["api-key|reporting"]), binding(["root"], groups=["ci"])), ()
    )
    assert roles_of(table, Principal("api-key", "reporting")) == ("analyst", "developer")
    assert roles_of(table, Principal("api-key", "other")) == ()
    assert roles_of(table, Principal("api-key", "other", groups=frozenset({"ci"}))) == ("root",)
    assert roles_of(table, Principal("login", "reporting")) == ()
    assert roles_of(table, Principal("service-account", "reporting")) == ()


def test_roles_are_named_with_those_they_include() -> None:
    """What whoami shows is what is judged by; nobody has none."""
    table = tenant_of(WORLD).rbac
    assert roles_of(table, Principal("login", "dan")) == ("analyst", "developer")
    assert roles_of(table, ANA) == ("analyst",)
    assert roles_of(table, BOB) == roles_of(table, anonymous()) == ()
    assert roles_of(table, Principal("login", "x", email="root@acme.example")) == ("root",)
