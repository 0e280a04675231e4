"""
What an event costs in three plugin servers behind Kong: Portero's own, and the stock one with threads and greenlets.

The load source plays a Kong worker with 16 requests at once. Judged by **CPU milliseconds a thousand events** of the
server's process, as ratios within a round, of which the median counts: every server starts afresh in each round, is
warmed up, and takes its turn; the order is reversed every second round.

``portero`` is the whole plugin: facts, a token that was seen before, rules, two limits, an awake function that Kong
talks to itself, an audit line; on the stock server it is driven by ``gateway_plugins/stock.py``, whose way to the
gate's thread and back is part of the figure. ``one`` and ``five`` judge nothing and call Kong so many times: the
servers alone. Kong itself is not measured.

Memory: 50,000 refusals, after 5,000 to warm up.

    python benchmarks/kong.py --check                exits 1 when a target is missed
    python benchmarks/kong.py --only portero --rounds 1
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if __package__ in {None, ""}:  # started as a file: the repository's root is where the packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._coldstart.row import Row, progress
from benchmarks._kong.load import Load, measure
from benchmarks._kong.server import COMMANDS, PORTERO, PluginServerProcess
from benchmarks._kong.world import World, write_world
from benchmarks._proxies import nginx
from benchmarks._proxies.process import Unmeasurable, cores

PLUGINS = (PORTERO, "one", "five")
CALLS = {PORTERO: 2, "one": 1, "five": 5}
TARGETS = {"threads": 0.25, "greenlets": 0.8}
"""CPU of our server over that of the stock one, at most."""
MOST_GROWTH_BYTES = 2 * 1024 * 1024
"""Of 50,000 refusals: 42 bytes each; the allocator's own arenas come and go by as much."""


@dataclass(frozen=True, slots=True)
class Turn:
    cpu_ms: float
    """CPU milliseconds a thousand events."""
    load: Load

    @property
    def per_s(self) -> float:
        return self.load.events / self.load.seconds


@dataclass(frozen=True, slots=True)
class Bench:
    """What all turns share: a folder, two cores, what is judged."""

    folder: Path
    server_core: int
    other_core: int
    world: World
    allowed: Path
    refused: Path

    def start(self, server: str, plugin: str) -> PluginServerProcess:
        return PluginServerProcess(server, plugin, self.server_core, self.folder, self.world.settings)

    def turn(self, server: str, plugin: str, seconds: float, warm_up_s: float) -> Turn:
        """Raises: Unmeasurable, also when a single event ended otherwise than it should."""
        running = self.start(server, plugin)
        try:
            if warm_up_s:
                measure(running, self.other_core, self.allowed, f"{warm_up_s}s")
            before = running.cpu_s()
            load = measure(running, self.other_core, self.allowed, f"{seconds}s")
            used_s = running.cpu_s() - before
        finally:
            running.stop()
        ending = "direct" if plugin == PORTERO else "ret"
        if set(load.endings) != {ending} or round(load.calls, 2) != CALLS[plugin]:
            raise Unmeasurable(f"{running.name}: events ended as {load.endings}, with {load.calls:.2f} calls each")
        return Turn(used_s / load.events * 1e6, load)

    def growth(self, server: str, refusals: int) -> int:
        """Bytes by which the process has grown over so many refusals. Raises: Unmeasurable."""
        running = self.start(server, PORTERO)
        try:
            measure(running, self.other_core, self.refused, str(max(refusals // 10, 500)))
            before = running.rss_bytes()
            load = measure(running, self.other_core, self.refused, str(refusals))
            if set(load.endings) != {"401"}:
                raise Unmeasurable(f"{running.name}: refusals ended as {load.endings}")
            return running.rss_bytes() - before
        finally:
            running.stop()


def run(
    plugins: list[str], rounds: int, seconds: float, warm_up_s: float, refusals: int
) -> tuple[dict[tuple[str, str], list[Turn]], dict[str, int]]:
    """Turns by plugin and server; growth in bytes by server. Raises: Unmeasurable."""
    server_core, other_core = cores()
    turns: dict[tuple[str, str], list[Turn]] = {(plugin, server): [] for plugin in plugins for server in COMMANDS}
    growth: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        folder = Path(name)
        upstream = nginx.start_upstream(other_core, folder)
        try:
            world = write_world(folder, upstream.port)
            allowed, refused = folder / "allowed", folder / "refused"
            allowed.write_bytes(world.allowed)
            refused.write_bytes(world.refused)
            bench = Bench(folder, server_core, other_core, world, allowed, refused)
            for number in range(rounds):
                for plugin, server in turns if number % 2 == 0 else reversed(turns):
                    progress(f"round {number + 1} of {rounds}: {plugin}, {server}")
                    turns[plugin, server].append(bench.turn(server, plugin, seconds, warm_up_s))
            for server in COMMANDS if refusals else ():
                progress(f"{refusals} refusals: {server}")
                growth[server] = bench.growth(server, refusals)
        finally:
            upstream.stop()
    return turns, growth


def rows(turns: dict[tuple[str, str], list[Turn]], growth: dict[str, int], refusals: int) -> list[Row]:
    """The figures, and whether each target was met."""
    found: list[Row] = []
    for plugin in dict.fromkeys(plugin for plugin, _ in turns):
        for server, most in TARGETS.items():
            rounds = zip(turns[plugin, "ours"], turns[plugin, server], strict=True)
            ratio = statistics.median(ours.cpu_ms / stock.cpu_ms for ours, stock in rounds)
            is_met = ratio <= most
            found.append(Row(f"{plugin}: CPU, ours over {server}", f"{ratio:.2f}", f"at most {most:.2f}", is_met))
    for server, grown in growth.items():
        measured = f"{grown / 1e6:+.1f} MB"
        if server == "ours":
            target = f"at most {MOST_GROWTH_BYTES / 1e6:.1f} MB"
            found.append(Row(f"memory over {refusals} refusals: ours", measured, target, grown <= MOST_GROWTH_BYTES))
        else:
            found.append(Row(f"memory over {refusals} refusals: {server}", measured))
    return found


def report(turns: dict[tuple[str, str], list[Turn]], judged: list[Row]) -> bool:
    """Print everything. Returns whether every target was met."""
    head = f"{'plugin':<8} {'server':<10} {'CPU ms/1000':>11} {'least':>7} {'most':>7} {'events/s':>9} {'p50 ms':>7}"
    print(f"{head} {'p99 ms':>7}")
    for (plugin, server), several in turns.items():
        costs = [turn.cpu_ms for turn in several]
        rate, p50, p99 = (
            statistics.median(values)
            for values in (
                [turn.per_s for turn in several],
                [turn.load.p50_ms for turn in several],
                [turn.load.p99_ms for turn in several],
            )
        )
        print(
            f"{plugin:<8} {server:<10} {statistics.median(costs):>11.1f} {min(costs):>7.1f} {max(costs):>7.1f}"
            f" {rate:>9.0f} {p50:>7.2f} {p99:>7.2f}"
        )
    print()
    verdicts = {None: "", True: "met", False: "MISSED"}
    for row in judged:
        print(f"{row.name:<42} {row.measured:>9}  {row.target:<16} {verdicts[row.is_met]}".rstrip())
    return all(row.is_met is not False for row in judged)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="CPU time an event of three plugin servers behind Kong.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every server (default 5)")
    parser.add_argument("--seconds", type=float, default=3, help="length of a measured turn (default 3)")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds of load before it (default 1)")
    parser.add_argument("--refusals", type=int, default=50_000, help="of the memory's measurement (default 50,000)")
    parser.add_argument("--only", action="append", choices=PLUGINS, help="one plugin; may be given again")
    parser.add_argument("--small", action="store_true", help="one short turn of each: whether it runs at all")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args(arguments)
    if options.small:
        options.rounds, options.seconds, options.warm_up, options.refusals = 1, 0.4, 0.0, 500
    try:
        turns, growth = run(
            options.only or list(PLUGINS), options.rounds, options.seconds, options.warm_up, options.refusals
        )
    except Unmeasurable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    is_met = report(turns, rows(turns, growth, options.refusals))
    return 1 if options.check and not is_met else 0


if __name__ == "__main__":
    sys.exit(main())
