"""
What the waiting room promises, measured on loopback: fairness, memory, pace, lateness, and what its parts cost.

Portero, the platform and the callers are processes of their own. Judged are ratios of one run and what can be counted;
where a target is about time (how long mice wait, lateness, idle replicas) the quietest of at most three rounds counts,
because what else runs on the machine only ever adds. What must never happen must not in any of them.

    python benchmarks/coldstart.py --check            prints the figures, and exits 1 when a target is missed
    python benchmarks/coldstart.py --only lateness    core, fairness, held, abandoned, pacing, lateness or slots
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

if __package__ in {None, ""}:  # started as a file: the repository's root is where the packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._coldstart import abandoned, core, fairness, held, lateness, pacing, slots
from benchmarks._coldstart.row import Row
from benchmarks._proxies.process import Unmeasurable

PARTS: dict[str, Callable[[], Awaitable[list[Row]]]] = {
    "core": core.measure,
    "held": held.measure,
    "abandoned": abandoned.measure,
    "pacing": pacing.measure,
    "lateness": lateness.measure,
    "slots": slots.measure,
}
_LEAST_S = 2.0
NAMES = ("core", "fairness", *[name for name in PARTS if name != "core"])


async def run(names: list[str], seconds: float | None) -> tuple[list[Row], list[str]]:
    """Rows of all figures, and the table of those side by side. Raises: Unmeasurable."""
    rows: list[Row] = []
    table: list[str] = []
    for name in names:
        if name == "fairness":
            judged, table = await fairness.measure() if seconds is None else await fairness.measure(seconds)
            rows += judged
        elif name == "abandoned" and seconds is not None:
            rows += await abandoned.measure(seconds)
        else:
            rows += await PARTS[name]()
    return rows, table


def report(rows: list[Row], table: list[str]) -> bool:
    """Print everything. Returns whether every target was met."""
    for line in table:
        print(line)
    verdicts = {None: "", True: "met", False: "MISSED"}
    cells = [(row.name, row.measured, row.target, verdicts[row.is_met]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row_cells in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row_cells, widths, strict=True)).rstrip())
    return all(row.is_met is not False for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the waiting room for sleeping functions promises, measured.")
    parser.add_argument("--only", action="append", choices=NAMES, help="one part; may be given again")
    parser.add_argument("--seconds", type=float, help="of each turn of fairness and abandoned (default 8 and 60)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args(arguments)
    if options.seconds is not None and options.seconds < _LEAST_S:
        parser.error(f"--seconds: {_LEAST_S:.0f} at least, or there is nothing to count")
    try:
        rows, table = uvloop.run(run(options.only or list(NAMES), options.seconds))
    except Unmeasurable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    is_met = report(rows, table)
    return 1 if options.check and not is_met else 0


if __name__ == "__main__":
    sys.exit(main())
