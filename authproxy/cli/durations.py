"""Durations on the command line, as policy files write them."""

from __future__ import annotations

import re
from typing import Any, Final

import click

_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})(s|m|h)")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[int]):
    """
    ``90s``, ``10m`` or ``1h`` as whole seconds.

    Args:
        longest_s: bound, in seconds.
        why: ends the sentence that refuses a longer one.
    """

    name = "duration"

    def __init__(self, longest_s: int, why: str = "") -> None:
        self._longest_s = longest_s
        self._why = why

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration like 90s, 10m or 1h", param, ctx)
        seconds = int(match[1]) * _UNITS_S[match[2]]
        if seconds > self._longest_s:
            self.fail(f"{value!r} is longer than {self._longest_s // 3600}h{self._why}", param, ctx)
        return seconds
