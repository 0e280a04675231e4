"""Where values stand in a file: as small as a parsed file of 10,000 rules needs them, and picklable."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_COLUMN_BITS: Final = 24
"""A position is one int, ``line << 24 | column``, both 1-based: a file is smaller than 2**24 bytes."""


class Spots(NamedTuple):
    """Where a list or mapping and everything in it stands; a scalar's spot is its position alone."""

    at: int
    keys: dict[str, int] | None
    """Positions of a mapping's keys; None for a list."""
    items: dict[str, Any] | list[Any]
    """The spots of the values, by key or in order."""


Spot = int | Spots
Path = tuple[str | int, ...]


def position(line: int, column: int) -> int:
    return line << _COLUMN_BITS | column


def line_and_column(at: int) -> tuple[int, int]:
    return at >> _COLUMN_BITS, at & ((1 << _COLUMN_BITS) - 1)


def spot_of(spot: Spot, path: Path, *, of_key: bool = False) -> tuple[int, int]:
    """
    Line and column of the value at ``path``, or of its key; steps that lead nowhere are passed over.

    So a missing key is found at the mapping that lacks it.
    """
    at = spot if isinstance(spot, int) else spot.at
    for depth, step in enumerate(path, 1):
        if isinstance(spot, int):
            break
        if isinstance(spot.items, dict):
            if step not in spot.items:
                continue
            key_at = (spot.keys or {}).get(str(step), at)
            spot = spot.items[str(step)]
            at = key_at if of_key and depth == len(path) else _at(spot)
        elif isinstance(step, int) and step < len(spot.items):
            spot = spot.items[step]
            at = _at(spot)
    return line_and_column(at)


def _at(spot: Spot) -> int:
    return spot if isinstance(spot, int) else spot.at
