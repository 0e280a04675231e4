"""Numbers that every ``StateStore`` reads alike: times to live and versions."""

from __future__ import annotations

from typing import Final

MAX_VERSION: Final = 10**15 - 1
"""15 digits: exact in Lua, whose numbers are doubles."""
SHORTEST_MS: Final = 1
LONGEST_MS: Final = 400 * 86_400 * 1000
"""Longer than anything is kept here; Redis refuses what overflows."""


def ttl_ms(ttl_s: float) -> int:
    """
    Whole milliseconds to live, within bounds.

    A time that is over already (0, less, or no number at all) is the shortest there is, not an error: it is often the
    rest of a time that a stranger chose.
    """
    if not ttl_s * 1000 > SHORTEST_MS:
        return SHORTEST_MS
    return LONGEST_MS if ttl_s * 1000 >= LONGEST_MS else int(ttl_s * 1000)
