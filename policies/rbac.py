"""
Question 3, may they? Decides whether a role that a principal holds allows an action, and whether a rule forbids it.

Rules are merged at load into one value per (effect, action, pattern), and roles are bits: a decision is a handful of
dict probes and ``&``, however many rules there are. What it promises, each a property test:

- nothing allows by itself; any matching deny wins over every allow; the order of rules and files never matters;
- a condition that raises or answers anything but True or False counts as a match in deny and as none in allow;
- conditions are asked only of rules whose pattern, action, method and role match, and after the unconditional ones.

Refuses to know how callers are identified, what a condition looks at, and that YAML exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from policies.decision import Challenge, Deny, Reason, RuleRef
from policies.principal import ANONYMOUS_PROVIDER, SERVICE_ACCOUNT_PROVIDER, Principal
from policies.rbac_table import DENY_MASK, BindingInput, DenyInput, GrantInput, RoleInput, build_table
from policies.request import AccessRequest
from policies.tables import Facts, Matching, PatternRules, Place, RbacTable, RuleIndex, RuleSpec

MEMO_NAMES: Final = 4096
"""Function names remembered per index. Callers choose them: at the bound the memo starts anew (some 0.5 MB)."""

_THE_DENY: Final = DENY_MASK.bit_length()


class Granted(NamedTuple):
    """
    Policy allows. ``rule`` is None where no rule was needed: a public function.

    A NamedTuple because one is made per request (0.2 us against 0.5 us, frozen).
    """

    rule: RuleRef | None


_PUBLIC: Final = Granted(None)
_NO_RULES: Final = Matching((), ())


def may(
    place: Place, principal: Principal, request: AccessRequest, action: str, now: float
) -> Granted | Challenge | Deny:
    """
    Judge one action of one principal on one function, by the rules of the place's tenant alone.

    A caller without a credential at a function that is not public is *challenged*, before any rule is looked at: it
    has not said yet who it is, so no rule about persons can be judged, and a 403 would keep a browser from the login
    that would have helped. (``pipeline`` says what shadow mode does with each of the three answers.)

    ``access: public`` speaks of ``invoke`` alone: it lets nobody scale, delete or describe a function. ``now`` is in
    Unix seconds and only conditions see it.
    """
    is_invoke = action == "invoke"
    is_public = is_invoke and place.spec.is_public
    if principal.provider == ANONYMOUS_PROVIDER and not is_public:
        return Challenge(Reason.CREDENTIAL_MISSING, tenant=place.tenant.name)

    table = place.tenant.rbac
    index = table.invoke if is_invoke else table.rules.get(action)
    if index is None:
        return _denied(place, None)
    function = place.function
    matching = index.exact.get(function) or index.memo.get(function) or rules_for(index, function)
    method = request.method
    if matching.deny:
        has_conditions = 0
        for rules in matching.deny:
            holders = rules.by_method.get(method, rules.any_method)
            if holders.mask:
                return _denied(place, holders.refs[_THE_DENY])
            has_conditions |= rules.conditional_mask
        if has_conditions:
            facts = Facts(request, principal, function, place.path, now)
            denying = _conditional(matching.deny, DENY_MASK, facts, on_unknown=True)
            if denying is not None:
                return _denied(place, denying)
    if is_public:
        return _PUBLIC

    mask = principal.role_mask if principal.role_table is table else role_mask(table, principal)
    has_conditions = 0
    for rules in matching.allow:
        holders = rules.by_method.get(method, rules.any_method)
        if hit := holders.mask & mask:
            return Granted(holders.sole or holders.refs[hit.bit_length()])
        has_conditions |= rules.conditional_mask
    if has_conditions & mask:
        facts = Facts(request, principal, function, place.path, now)
        allowing = _conditional(matching.allow, mask, facts, on_unknown=False)
        if allowing is not None:
            return Granted(allowing)
    return _denied(place, None)


def role_mask(table: RbacTable, principal: Principal) -> int:
    """
    The bits of all roles that ``principal`` holds under ``table``, included roles too; 0 for ``anonymous``.

    Remembered on the principal until it is asked of another table (another generation of policy). Principals belong to
    one tenant and are read by the thread that judges only, so both memo fields always change together.
    """
    if principal.role_table is table:
        return principal.role_mask
    mask = 0
    if principal.provider == SERVICE_ACCOUNT_PROVIDER:
        mask = table.by_service_account.get(principal.sub, 0)
    elif principal.provider != ANONYMOUS_PROVIDER:
        mask = table.by_subject.get(principal.subject, 0)
        if principal.email is not None:
            mask |= table.by_email.get(principal.email, 0)
    if principal.provider != ANONYMOUS_PROVIDER:
        by_group = table.by_group
        for group in principal.groups:
            mask |= by_group.get(group, 0)
    principal.role_mask = mask
    principal.role_table = table
    return mask


def roles_of(table: RbacTable, principal: Principal) -> tuple[str, ...]:
    """Names of the roles that ``principal`` holds under ``table``, included ones too, sorted: to be shown."""
    mask = role_mask(table, principal)
    return tuple([name for position, name in enumerate(table.role_names) if mask >> position & 1])


def rules_for(index: RuleIndex, function: str) -> Matching:
    """The rules whose pattern matches ``function``; remembered within bounds."""
    matching = index.exact.get(function) or index.memo.get(function)
    if matching is None:
        prefixes = index.prefixes
        for length in index.prefix_lengths:
            # Cut beyond its end a name is itself: found early, and still its longest prefix.
            matching = prefixes.get(function[:length])
            if matching is not None:
                break
        else:
            matching = _NO_RULES
        if len(index.memo) >= MEMO_NAMES:
            index.memo.clear()
        index.memo[function] = matching
    return matching


def conditional_rules(rules: PatternRules, mask: int) -> Iterator[RuleSpec]:
    """The conditional rules of one pattern that speak of a holder of ``mask``."""
    hit = rules.conditional_mask & mask
    while hit:
        bit = hit.bit_length()
        yield from rules.conditional[bit]
        hit ^= 1 << (bit - 1)


def _conditional(matching: tuple[PatternRules, ...], mask: int, facts: Facts, *, on_unknown: bool) -> RuleRef | None:
    """The first rule whose condition holds; ``on_unknown`` is what a condition that cannot be known counts as."""
    method = facts.request.method
    for rules in matching:
        for rule in conditional_rules(rules, mask):
            if rule.methods is not None and method not in rule.methods:
                continue
            try:
                held = rule.condition(facts)
            except Exception:  # noqa: BLE001 - whatever a condition stumbles over, it cannot be known (P4)
                held = on_unknown
            # Not truth value: a condition that answers 1 or "no" has a defect, and a defect is "cannot be known".
            if held is True or (held is not False and on_unknown):
                return rule.ref
    return None


def _denied(place: Place, rule: RuleRef | None) -> Deny:
    """The refusal by ``rule``, None: by default. Made once: a table belongs to one tenant."""
    refusals = place.tenant.rbac.refusals
    refusal = refusals.get(rule)
    if refusal is None:
        if rule is None:
            refusal = Deny(Reason.NO_RULE_ALLOWS, "no rule allows this", tenant=place.tenant.name)
        else:
            refusal = Deny(Reason.DENIED_BY_RULE, "a rule forbids this", rule, tenant=place.tenant.name)
        refusals[rule] = refusal
    return refusal


__all__ = [
    "MEMO_NAMES",
    "BindingInput",
    "DenyInput",
    "GrantInput",
    "Granted",
    "RoleInput",
    "build_table",
    "conditional_rules",
    "may",
    "role_mask",
    "roles_of",
    "rules_for",
]
