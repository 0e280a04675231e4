"""
What one request costs: nginx, Caddy, a naive aiohttp proxy and Portero, each on one core with the load on the other.

Judged by **CPU microseconds a request** (user and system time of the proxy's processes), the median of the
rounds: where machines are shared, requests per second swing by a quarter from run to run and this does not. Every
variant starts afresh in each round, is warmed up, and takes its turn; the order is reversed every second round.

nginx and Caddy are bare reverse proxies. Portero verifies a JWT, judges by 1,000 rules, spends two limits, counts and
writes an audit line for every request. ``bare`` is Portero's data path with a gate that asks nothing, for comparison.

    python -m benchmarks.proxy --rounds 5 --check
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __package__ in {None, ""}:  # started as a file: the repository's root is where the packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._proxies import bare, caddy, naive, nginx, portero, provider
from benchmarks._proxies.load import Run, measure
from benchmarks._proxies.process import Running, Unmeasurable, cores

TARGETS = (
    ("portero", "caddy", 0.8),
    ("portero", "naive", 0.45),
    ("portero", "nginx", 4.0),
    ("portero+redis", "portero", 1.35),
)
"""First over second, in CPU microseconds a request, at most."""
VARIED = "~"
"""Ends the name of a variant whose every request has another query: a load generator repeats itself and Portero takes
some advantage of that (``policies.request.HeadMemo``, ``edges.protocol``), so both are shown."""
VARIANTS = ("nginx", "caddy", "naive", "bare", "portero", "portero+redis", "caddy~", "portero~")


_VARIED_LUA = """
local n = 0
function request()
  n = n + 1
  return wrk.format("GET", wrk.path .. "?n=" .. n)
end
"""


@dataclass(frozen=True, slots=True)
class World:
    """What all variants share: upstream, provider, Redis, a folder, two cores."""

    folder: Path
    proxy_core: int
    other_core: int
    upstream: Running
    issuer: str
    token: str
    redis: Running | None

    def start(self, variant: str) -> Running:
        plain: dict[str, Callable[[int, Path, int], Running]] = {
            "nginx": nginx.start_proxy,
            "caddy": caddy.start_proxy,
            "naive": naive.start_proxy,
            "bare": bare.start_proxy,
        }
        if variant in plain:
            return plain[variant](self.proxy_core, self.folder, self.upstream.port)
        redis = self.redis.port if variant == "portero+redis" and self.redis is not None else None
        return portero.start_portero(self.proxy_core, self.folder, self.upstream.port, self.issuer, redis)


def run(rounds: int, seconds: float, warm_up_s: float, variants: tuple[str, ...]) -> dict[str, list[Run]]:
    """Raises: Unmeasurable."""
    proxy_core, other_core = cores()
    started: list[Running] = []
    results: dict[str, list[Run]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        folder = Path(name)
        try:
            started.append(upstream := nginx.start_upstream(other_core, folder))
            authority, issuer, token = provider.start_provider(other_core, folder)
            started.append(authority)
            redis: Running | None = None
            if "portero+redis" in variants:
                started.append(redis := portero.start_redis(other_core, folder))
            (folder / "varied.lua").write_text(_VARIED_LUA)
            world = World(folder, proxy_core, other_core, upstream, issuer, token, redis)
            for number in range(rounds):
                for variant in variants if number % 2 == 0 else reversed(variants):
                    results[variant].append(_turn(world, variant, seconds, warm_up_s))
                    print(f"\rround {number + 1} of {rounds}: {variant:<14}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
        finally:
            for running in started:
                running.stop()
    return results


def _turn(world: World, variant: str, seconds: float, warm_up_s: float) -> Run:
    proxy = world.start(variant.removesuffix(VARIED))
    try:
        return measure(
            proxy,
            world.other_core,
            seconds=seconds,
            warm_up_s=warm_up_s,
            path=f"/function/{portero.FUNCTION}",
            fields=[f"Host: {portero.HOST}", f"Authorization: Bearer {world.token}"],
            script=world.folder / "varied.lua" if variant.endswith(VARIED) else None,
        )
    finally:
        proxy.stop()


def report(results: dict[str, list[Run]]) -> bool:
    """Print the table and the ratios. Returns whether every target that could be judged was met."""
    print(f"{'variant':<14} {'CPU us/req':>10} {'least':>7} {'most':>7} {'req/s':>8} {'p50 ms':>7} {'p99 ms':>7}")
    cpu: dict[str, float] = {}
    for variant, runs in results.items():
        costs = [one.cpu_us for one in runs]
        cpu[variant] = statistics.median(costs)
        rate, p50, p99 = (
            statistics.median(getattr(one, name) for one in runs) for name in ("per_s", "p50_ms", "p99_ms")
        )
        print(
            f"{variant:<14} {cpu[variant]:>10.1f} {min(costs):>7.1f} {max(costs):>7.1f}"
            f" {rate:>8.0f} {p50:>7.2f} {p99:>7.2f}"
        )
    print()
    is_met = True
    for first, second, most in TARGETS:
        if first in cpu and second in cpu:
            ratio = cpu[first] / cpu[second]
            is_met = is_met and ratio <= most
            print(f"{first} / {second}: {ratio:.2f}, at most {most:.2f}: {'met' if ratio <= most else 'MISSED'}")
    first, second = "portero" + VARIED, "caddy" + VARIED
    if first in cpu and second in cpu:
        print(f"{first} / {second}: {cpu[first] / cpu[second]:.2f} (each request with another query; no target)")
    return is_met


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="CPU time a request of Portero and of other proxies.")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every variant (default 5)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a measured run (default 2)")
    parser.add_argument("--warm-up", type=int, default=1, help="seconds of load before it (default 1)")
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args(arguments)
    variants = tuple(options.only.split(","))
    if unknown := set(variants) - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    try:
        results = run(options.rounds, options.seconds, options.warm_up, variants)
    except Unmeasurable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    is_met = report(results)
    return 0 if is_met or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
