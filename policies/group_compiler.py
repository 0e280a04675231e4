"""
A tenant's groups: how its providers write them, which name each has here, and whether what a rule says of a group can
ever be true. A group in a spelling that no caller's can have is a mistake: a deny rule would wait for it in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from policies.documents import Source
from policies.findings import Findings
from policies.groups import Form, normalise
from policies.model import GroupsEntry, Provider, ShortConditions, TenantDocument
from policies.quantities import seconds
from policies.tables import GroupsSpec

MIN_MAX_AGE_S: Final = 30.0
"""Seconds: each time the provider is asked once for each session."""
MAX_MAX_AGE_S: Final = 24 * 3600.0
_WORDS: Final[dict[Form, str]] = {
    "names": "expected at most 256 printable characters",
    "object_ids": "expected such as 0f2e4bb1-95ac-4d1c-a6bc-2d6d39c8b1f7, or S-1-5-21-…",
    "distinguished_names": "expected such as CN=Analysts,OU=Groups,DC=acme,DC=example",
}
_NOUNS: Final[dict[Form, str]] = {
    "names": "name of a group",
    "object_ids": "object id",
    "distinguished_names": "distinguished name",
}

Path = tuple[str | int, ...]


class _Names(NamedTuple):
    """The names that one provider's groups can have here."""

    form: Form
    given: frozenset[str]
    renamed: dict[str | None, str]
    """Group in its one spelling -> its name here."""
    keeps_unnamed: bool


def compile_groups(source: Source[TenantDocument], provider: Provider, path: Path, findings: Findings) -> GroupsSpec:
    """The ``groups`` of a provider; ``path`` leads to the provider."""
    entry = provider.groups
    if entry is None:
        return GroupsSpec()
    if provider.claims.groups is None:
        text = "nobody of this provider has groups: expected claims: {groups: …} beside it, which says where they stand"
        findings.mistake_of_key(source, text, *path, "groups")
    if entry.unnamed == "drop" and not entry.names:
        text = "every group would be dropped; expected names: {…} with those that count"
        findings.mistake(source, text, *path, "groups", "unnamed")
    if not MIN_MAX_AGE_S <= seconds(entry.max_age) <= MAX_MAX_AGE_S:
        text = f"{entry.max_age} is no age of groups; expected 30s to 24h"
        findings.mistake(source, text, *path, "groups", "max_age")
    names = _names(source, entry, (*path, "groups", "names"), findings)
    return GroupsSpec(entry.from_, entry.form, names, entry.unnamed == "drop", seconds(entry.max_age))


def _names(source: Source[TenantDocument], entry: GroupsEntry, path: Path, findings: Findings) -> dict[str, str]:
    """Groups as the provider writes them, in their one spelling, to names here."""
    names: dict[str, str] = {}
    first: dict[str, str] = {}
    for written, name in entry.names.items():
        group = normalise(written, entry.form)
        if group is None:
            text = f"{written!r} is no {_NOUNS[entry.form]}; {_WORDS[entry.form]}"
            findings.mistake_of_key(source, text, *path, written)
            continue
        if names.setdefault(group, name) != name:
            text = f"{written!r} is the group {first[group]!r}, which is called {names[group]!r} already"
            findings.mistake_of_key(source, text, *path, written)
        first.setdefault(group, written)
        if normalise(name, "names") != name:
            text = f"{name!r} is no {_NOUNS['names']}; {_WORDS['names']}, without blanks around"
            findings.mistake(source, text, *path, written)
        elif entry.unnamed == "keep" and entry.form == "names" and name != group:
            text = f"a group that the provider itself calls {name!r} is taken for this one; unnamed: drop prevents it"
            findings.warning(source, text, *path, written)
    return names


def check_groups_of_rules(source: Source[TenantDocument], findings: Findings) -> None:
    """Every group that a binding or a short condition names is one that a caller can have."""
    document = source.document
    fixed = {group for account in document.service_accounts for group in account.groups}
    fixed |= {group for key in document.api_keys for group in key.groups}
    providers = [_names_of(one.groups or GroupsEntry()) for one in document.identity if one.claims.groups is not None]
    for i, binding in enumerate(document.bindings):
        for j, group in enumerate(binding.groups):
            if group in fixed:
                continue
            if not providers:
                text = "nobody can be in a group: no provider says where groups are (claims: {groups: …})"
                findings.mistake(source, text, "bindings", i, "groups", j)
            elif flaw := _flaw(group, providers):
                findings.mistake(source, flaw, "bindings", i, "groups", j)
    if providers:
        for path, group in _of_conditions(document):
            if group not in fixed and (flaw := _flaw(group, providers)):
                findings.mistake(source, flaw, *path)


def _names_of(entry: GroupsEntry) -> _Names:
    renamed = {normalise(written, entry.form): name for written, name in entry.names.items()}
    return _Names(entry.form, frozenset(renamed.values()), renamed, entry.unnamed == "keep")


def _flaw(group: str, providers: list[_Names]) -> str | None:
    """Why no provider's people can be in a group of that name; None when somebody's can."""
    hint = ""
    for names in providers:
        if group in names.given:
            return None
        usual = normalise(group, names.form)
        if usual in names.renamed:
            hint = hint or f"; did you mean {names.renamed[usual]!r}?"
        elif usual is not None and names.keeps_unnamed:
            if usual == group:
                return None
            hint = hint or f"; did you mean {usual!r}?"
    return f"nobody can be in the group {group!r}: no provider has one of that name (groups: {{names: …}}){hint}"


def _of_conditions(document: TenantDocument) -> Iterator[tuple[Path, str]]:
    rules: list[tuple[Path, object, object]] = [
        (("roles", name, "allow", i), grant.when, grant.unless)
        for name, role in document.roles.items()
        for i, grant in enumerate(role.allow)
    ]
    rules += [(("deny", i), rule.when, rule.unless) for i, rule in enumerate(document.deny)]
    for path, when, unless in rules:
        for key, condition in (("when", when), ("unless", unless)):
            if isinstance(condition, ShortConditions):
                for j, group in enumerate(condition.groups or ()):
                    yield (*path, key, "groups", j), group
