"""
Bounds on processor time that hold on a machine that is slow at the moment.

Time is compared with that of a yardstick, a fixed piece of Python that is run right before and right after: where that
takes four times as long, so may the rest. What grows with the square of its input is beyond any such factor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TRIES: Final = 3
YARDSTICK_S: Final = 0.022
"""Of the yardstick, on the machine that the bounds were written down on."""


def is_in_time(allowed_s: float, measured_s: Callable[[], float]) -> bool:
    """
    Whether ``measured_s`` comes to ``allowed_s`` or less, in one of three tries.

    Args:
        allowed_s: seconds, of a machine that takes ``YARDSTICK_S`` for the yardstick; more on one that takes longer.
        measured_s: does the work and says how much processor time it took.
    """
    for _ in range(TRIES):
        before_s = _yardstick_s()
        taken_s = measured_s()
        slowness = max(1.0, before_s / YARDSTICK_S, _yardstick_s() / YARDSTICK_S)
        if taken_s <= allowed_s * slowness:
            return True
    return False


def taken_by(work: Callable[[], object]) -> float:
    """Processor time that ``work`` takes in this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _yardstick_s() -> float:
    return taken_by(lambda: sum(len(str(number)) for number in range(300_000)))
