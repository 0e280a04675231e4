"""The stock plugin server as a process: started, watched and ended by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.fakes.stock_child import NAME

ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE_S: Final = 20.0


class StockServer:
    """
    Serves ``<folder>/scripted.socket`` until ``stop``.

    Args:
        folder: short, as paths of sockets are.
        greenlets: as with ``-g``; else threads.
        silence_s: longest silence of a handler towards Kong.
    """

    def __init__(self, folder: Path, *, greenlets: bool, silence_s: float = 15.0) -> None:
        self.socket = folder / f"{NAME}.socket"
        self.log = folder / "stock.log"
        self._command = [sys.executable, "-m", "tests.fakes.stock_child", str(silence_s)]
        self._command += ["-p", str(folder), "--socket-name", self.socket.name, *(["-g"] if greenlets else [])]
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        until = time.monotonic() + _PATIENCE_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"the stock server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

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
