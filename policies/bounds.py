"""
How much one tenant's file may ask of the process that serves every tenant: at load, in memory, and for each request.

A file is bounded in bytes and values, but a rule multiplies what it lists, and limits, conditions and shapes of routes
cost every request that meets them. What is refused here is what no honest file comes near; the numbers stand beside
their reasons. This module refuses to know what rules, limits and routes mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from policies.tables import ACTIONS, Pattern

MAX_RULE_ENTRIES: Final = 200_000
"""Places of a tenant's rule table, a function times an action times a method each; 1 KiB and 15 us of loading each."""
MAX_ROLE_BITS: Final = 1 << 30
"""Roles times roles and holders of roles: each of them has a mask with a bit for each role. 128 MiB; 10,000 roles and
50,000 subjects take half of it, 60,000 roles that include each other in a chain took 0.8 GiB."""
MAX_CONDITION_WEIGHT: Final = 5_000
"""Of all conditional rules of one effect that can meet in one request: some 600 on paths,
some 180 on claims. 0.2 s at worst, with tokens made for it."""
MAX_LIMITS: Final = 500
"""Of one tenant; those that apply are looked for once a caller and function."""
MAX_LIMIT_PATTERNS: Final = 2_000
"""Of all of a tenant's limits together."""
MAX_LIMITS_TOGETHER: Final = 32
"""That can meet in one request: each is a key in the store and 300 bytes a caller in the memo."""
MAX_ROUTE_SHAPES: Final = 200
"""Ways of placing literals and parameters: a path that no route takes is looked up once for each, before anybody has
said who asks."""
MAX_METHODS_A_PATH: Final = 64
"""IANA's registry has some forty; a refusal lists them all."""


def entries_of(functions: Iterable[Pattern], actions: frozenset[str], methods: frozenset[str] | None) -> int:
    """How many places of the table one rule fills."""
    count = len(ACTIONS) if "*" in actions else len(actions)
    return len(tuple(functions)) * count * max(1, len(methods or ()))


class Merged:
    """
    Counts what the places of the allow table hold once rules for any method are merged into those for named ones: the
    roles with a rule for any method times the methods that any rule of that pattern names.
    """

    def __init__(self) -> None:
        self._any: dict[tuple[str, Pattern], int] = defaultdict(int)
        self._named: dict[tuple[str, Pattern], set[str]] = defaultdict(set)

    def add(self, functions: Iterable[Pattern], actions: frozenset[str], methods: frozenset[str] | None) -> None:
        for action in ACTIONS if "*" in actions else actions:
            for pattern in functions:
                if methods is None:
                    self._any[action, pattern] += 1
                else:
                    self._named[action, pattern] |= methods

    def total(self) -> int:
        return sum(count * len(self._named[place]) for place, count in self._any.items() if place in self._named)


def heaviest(weights: Mapping[Pattern, int]) -> tuple[int, Pattern | None]:
    """The most that patterns weigh together that match one name, and the most specific of them."""
    lengths = sorted({len(pattern.text) for pattern in weights if pattern.is_prefix})
    most: tuple[int, Pattern | None] = (0, None)
    for pattern, weight in weights.items():
        total = weight
        for length in lengths:
            if length > len(pattern.text):
                break
            shorter = Pattern(pattern.text[:length], is_prefix=True)
            if shorter != pattern:
                total += weights.get(shorter, 0)
        if total > most[0]:
            most = (total, pattern)
    return most
