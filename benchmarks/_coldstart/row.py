"""What is printed of a figure, and whether its target was met."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple


class Row(NamedTuple):
    name: str
    measured: str
    target: str = ""
    is_met: bool | None = None
    """None: there is no target."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many per cent do not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else float("nan")


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
