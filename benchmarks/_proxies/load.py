"""One measured run: wrk against one proxy, and the CPU time that the proxy took for it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._proxies.process import Running, Unmeasurable, binary

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class Run:
    cpu_us: float
    """CPU microseconds a request, of the proxy's processes."""
    per_s: float
    p50_ms: float
    p99_ms: float


def measure(
    proxy: Running,
    core: int,
    *,
    seconds: float,
    warm_up_s: float,
    path: str,
    fields: Sequence[str],
    connections: int = 32,
    script: Path | None = None,
) -> Run:
    """Raises: Unmeasurable when a single answer was not 2xx or a connection broke: such numbers compare nothing."""
    if warm_up_s:
        _wrk(proxy, core, warm_up_s, path, fields, connections, script)
    before = proxy.cpu_s()
    output = _wrk(proxy, core, seconds, path, fields, connections, script)
    used_s = proxy.cpu_s() - before
    requests = int(_number(r"(\d+) requests in", output, proxy.name))
    return Run(
        cpu_us=used_s / requests * 1e6,
        per_s=float(_number(r"Requests/sec:\s+([\d.]+)", output, proxy.name)),
        p50_ms=_latency(50, output, proxy.name),
        p99_ms=_latency(99, output, proxy.name),
    )


def _wrk(
    proxy: Running,
    core: int,
    seconds: float,
    path: str,
    fields: Sequence[str],
    connections: int,
    script: Path | None,
) -> str:
    command = [binary("taskset", "util-linux"), "-c", str(core), binary("wrk", "wrk")]
    # wrk counts whole seconds.
    command += ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    if script is not None:
        command += ["-s", str(script)]
    for field in fields:
        command += ["-H", field]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{proxy.port}{path}"], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode != 0:
        raise Unmeasurable(f"wrk failed against {proxy.name}: {done.stderr.strip()}")
    for wrong in ("Non-2xx", "Socket errors"):
        if wrong in done.stdout:
            line = next(line for line in done.stdout.splitlines() if wrong in line)
            raise Unmeasurable(f"{proxy.name} answered wrongly under load: {line.strip()}")
    return done.stdout


def _number(pattern: str, output: str, name: str) -> str:
    found = re.search(pattern, output)
    if found is None:
        raise Unmeasurable(f"wrk's output for {name} was not understood:\n{output}")
    return found[1]


def _latency(percent: int, output: str, name: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", _number(rf"\s{percent}%\s+(\S+)", output, name)).groups()  # type: ignore[union-attr]  # wrk prints one of these units
    return float(value) * _UNITS[unit]
