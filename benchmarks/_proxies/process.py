"""
Processes of a benchmark: pinned to a core, waited for, measured and ended; never a name, always the process
itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


class Unmeasurable(Exception):
    """The benchmark cannot be run here, or a run of it is worthless; the text says why."""


def binary(name: str, package: str) -> str:
    """Path of a program. Raises: Unmeasurable, naming the Debian package that brings it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Unmeasurable(f"{name} is not installed (Debian package: {package}); nothing is skipped silently")
    return path


def cores() -> tuple[int, int]:
    """The core of the proxy and that of everything else."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        raise Unmeasurable("two cores are needed: one for the proxy, one for load generator and upstream")
    return mine[0], mine[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A process with a core of its own; ``stop`` ends it and reports what it wrote when it failed."""

    def __init__(self, name: str, command: Sequence[str], core: int, folder: Path, port: int) -> None:
        self.name = name
        self.port = port
        self._output = folder / f"{name}-{port}.log"
        environment = dict(os.environ, PYTHONPATH=str(ROOT), GOMAXPROCS="1", PYTHONUNBUFFERED="1", HOME=str(folder))
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [binary("taskset", "util-linux"), "-c", str(core), *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=folder,
            )

    def wait_until_up(self, patience_s: float = 20.0) -> None:
        """Until the port accepts. Raises: Unmeasurable with the end of the output."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.02)
        self.stop()
        raise Unmeasurable(f"{self.name} did not start:\n{self._output.read_text(errors='replace')[-2000:]}")

    def cpu_s(self) -> float:
        """User and system seconds of the process and all below it so far."""
        return sum(_cpu_s(pid) for pid in _tree(self.process.pid))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += _tree(int(child))
    return found


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
