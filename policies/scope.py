"""
Which functions a tenant's patterns may speak of: all of its namespace, or only what ``owns`` gives it.

Two tenants may share a namespace only when what they own is disjoint, and then no pattern of either reaches further:
``*`` becomes what the tenant owns, and anything else that reaches outside is a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from policies.tables import Pattern


@lru_cache(maxsize=65536)
def pattern(text: str) -> Pattern:
    """``exact``, ``prefix*`` or ``*`` as written. Remembered: rules name the same functions again and again."""
    return Pattern(text[:-1], is_prefix=True) if text.endswith("*") else Pattern(text, is_prefix=False)


def is_within(inner: Pattern, outer: Pattern) -> bool:
    """Whether every name that ``inner`` matches is matched by ``outer``."""
    return inner.text.startswith(outer.text) if outer.is_prefix else inner == outer


class Scope(NamedTuple):
    """What one tenant owns; None: its whole namespace."""

    owns: tuple[Pattern, ...] | None

    def holds(self, wanted: Pattern) -> bool:
        return self.owns is None or any(is_within(wanted, own) for own in self.owns)

    def narrowed(self, texts: Sequence[str]) -> tuple[Pattern, ...]:
        """The patterns of ``texts`` with ``*`` cut down to what is owned; those outside are left out."""
        if self.owns is None:
            return tuple([pattern(text) for text in dict.fromkeys(texts)])
        found: dict[Pattern, None] = {}
        for text in dict.fromkeys(texts):
            if text == "*":
                found |= dict.fromkeys(self.owns)
            elif self.holds(pattern(text)):
                found[pattern(text)] = None
        return tuple(found)

    def outside(self, texts: Sequence[str]) -> Iterator[int]:
        """Indices of the texts that reach outside."""
        if self.owns is not None:
            for index, text in enumerate(texts):
                if text != "*" and not self.holds(pattern(text)):
                    yield index

    def __str__(self) -> str:
        return ", ".join(f"{own.text}{'*' * own.is_prefix}" for own in self.owns or ())


class Claim(NamedTuple):
    """One pattern that a tenant owns in a shared namespace."""

    text: str
    is_prefix: bool
    tenant: str
    place: int
    """Its place in the tenant's list."""


def overlaps(claims: Iterable[Claim]) -> Iterator[tuple[Claim, Claim]]:
    """
    Pairs of claims of different tenants that both match some name: each claim once, with one that it meets.

    Sorted by text, whatever a prefix covers follows it directly: the open prefixes form a stack, and thousands of
    tenants in one namespace cost n log n.
    """
    open_claims: list[Claim] = []
    for claim in sorted(claims, key=lambda claim: (claim.text, not claim.is_prefix, claim.tenant, claim.place)):
        while open_claims and not _covers(open_claims[-1], claim):
            open_claims.pop()
        met = next((other for other in open_claims if other.tenant != claim.tenant), None)
        if met is not None:
            yield met, claim
        open_claims.append(claim)


def _covers(outer: Claim, inner: Claim) -> bool:
    return inner.text.startswith(outer.text) if outer.is_prefix else inner.text == outer.text
