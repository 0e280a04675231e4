"""
What the tables of question 3 say about one caller and one function: who holds what, which rule refused and whose would
have allowed. Read off the same tables that ``rbac.py`` judges by; decides nothing, and nothing of it goes to callers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from policies.decision import Challenge, Deny, Reason, RuleRef
from policies.principal import SERVICE_ACCOUNT_PROVIDER, Principal
from policies.rbac import BindingInput, conditional_rules, role_mask, rules_for
from policies.rbac_table import DENY_MASK
from policies.tables import Facts, Matching, PatternRules, Place, RbacTable, RuleSpec

_MOST: Final = 8
"""Names that one line shows; the rest is counted."""


def bindings_of(table: RbacTable, principal: Principal) -> Iterator[BindingInput]:
    for binding in table.bindings:
        if principal.provider == SERVICE_ACCOUNT_PROVIDER:
            is_named = principal.sub in binding.service_accounts
        else:
            is_named = principal.subject in binding.subjects or principal.email in binding.emails
        if is_named or not principal.groups.isdisjoint(binding.groups):
            yield binding


def why_not(place: Place, refusal: Challenge | Deny, facts: Facts, action: str) -> Iterator[str]:
    """What the rule says that refused, or what would have to change."""
    table = place.tenant.rbac
    if isinstance(refusal, Deny) and refusal.rule is not None:
        yield f"deny rule {ref(refusal.rule)} matches, and wins over every role"
        for rule in _conditional(_matching(table, action, facts).deny, facts, DENY_MASK):
            if rule.ref == refusal.rule:
                yield f"its condition {_outcome(rule, facts)}"
        return
    if refusal.reason is Reason.CREDENTIAL_MISSING:
        yield f"{place.function} is not public for {action}: the caller has to say who it is"
    else:
        who = facts.principal.sub or "the caller"
        yield f"no role of {who} holds {action} on {place.function} for {facts.request.method}"
        held = role_mask(table, facts.principal)
        for rule in _conditional(_matching(table, action, facts).allow, facts, held):
            yield f"rule {ref(rule.ref)} would allow it, but its condition {_outcome(rule, facts)}"
    roles = list(_roles_that_would(table, facts, action))
    yield f"roles that would: {few(roles)}" if roles else "no role of this tenant would"


def _roles_that_would(table: RbacTable, facts: Facts, action: str) -> Iterator[str]:
    found: dict[int, str] = {}
    method = facts.request.method
    for rules in _matching(table, action, facts).allow:
        for bit, ref in rules.by_method.get(method, rules.any_method).refs.items():
            found.setdefault(bit, f"{table.role_names[bit - 1]} ({ref.where})")
        for bit, conditional in rules.conditional.items():
            for rule in conditional:
                if rule.methods is None or method in rule.methods:
                    found.setdefault(bit, f"{table.role_names[bit - 1]} ({rule.ref.where}, if its condition holds)")
        for other, holders in {**rules.by_method, "other methods": rules.any_method}.items():
            for bit, ref in holders.refs.items():
                found.setdefault(bit, f"{table.role_names[bit - 1]} ({ref.where}, for {other} only)")
    for bit in sorted(found, key=lambda bit: (" only)" in found[bit], bit)):
        yield found[bit]


def _matching(table: RbacTable, action: str, facts: Facts) -> Matching:
    index = table.rules.get(action)
    return Matching((), ()) if index is None else rules_for(index, facts.function)


def _conditional(matching: tuple[PatternRules, ...], facts: Facts, mask: int) -> Iterator[RuleSpec]:
    """The conditional rules of the function, method and ``mask``."""
    for rules in matching:
        for rule in conditional_rules(rules, mask):
            if rule.methods is None or facts.request.method in rule.methods:
                yield rule


def _outcome(rule: RuleSpec, facts: Facts) -> str:
    try:
        return "holds" if rule.condition(facts) is True else "does not hold"
    except Exception as failure:  # noqa: BLE001 - a condition may stumble over anything; explain says over what
        return f"cannot be known: {failure}"


def ref(rule: RuleRef) -> str:
    return f"{rule.id} ({rule.where})"


def few(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST])
    return shown if len(names) <= _MOST else f"{shown} and {len(names) - _MOST} more"
