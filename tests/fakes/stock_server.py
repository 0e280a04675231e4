"""The stock plugin server as a process: started, watched and ended by its id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.fakes.stock_child import NAME

ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_S: Final = 20.0


class StockProcess:
    """
    Serves ``socket`` until ``stop``.

    Args:
        path: of the socket; it is short, as paths of sockets are.
        command: module and arguments of Python.
    """

    def __init__(self, path: Path, *command: str) -> None:
        self.socket = path
        self.log = path.with_suffix(".log")
        self._command = [sys.executable, "-m", *command]
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        until = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"the stock server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        """The name is there a moment before somebody listens at it."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """As a crash: nothing is tidied up, and the socket's file stays."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Kong ends it. Returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208 (a count of names)

    @property
    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")


def scripted(folder: Path, *, greenlets: bool, silence_s: float = 15.0) -> StockProcess:
    """With the plugin of ``stock_child``; ``silence_s`` is the longest silence of a handler towards Kong."""
    options = ["-p", str(folder), *(["-g"] if greenlets else [])]
    return StockProcess(folder / f"{NAME}.socket", "tests.fakes.stock_child", str(silence_s), *options)


def portero(folder: Path, plugin: str, settings: Path, *, greenlets: bool) -> StockProcess:
    """With one of Portero's own; ``settings`` as JSON."""
    options = ["-g"] if greenlets else []
    return StockProcess(
        folder / f"{plugin}.socket", "benchmarks._kong.stock", plugin, str(folder), str(settings), *options
    )
