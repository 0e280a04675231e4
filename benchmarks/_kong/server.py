"""A plugin server in a process of its own, pinned to a core: Portero's, or the stock one with threads or greenlets."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from benchmarks._proxies.process import Running, Unmeasurable, python

COMMANDS: Final = {
    "ours": ("benchmarks._kong.ours",),
    "threads": ("benchmarks._kong.stock",),
    "greenlets": ("benchmarks._kong.stock", "-g"),
}
PORTERO: Final = "portero"
"""The plugin; all others are ``plugins.py``'s."""
_PATIENCE_S: Final = 20.0


class PluginServerProcess(Running):
    """Raises: Unmeasurable when it does not come up."""

    def __init__(self, server: str, plugin: str, core: int, folder: Path, settings: Path) -> None:
        self.socket = folder / f"{plugin}.socket"
        self.socket.unlink(missing_ok=True)
        module, *options = COMMANDS[server]
        command = python(module, plugin, str(folder), str(settings), *options)
        super().__init__(f"{server}-{plugin}", command, core, folder, 0)
        until = time.monotonic() + _PATIENCE_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise Unmeasurable(f"{self.name} did not start:\n{self.output()}")
            time.sleep(0.02)

    def output(self) -> str:
        """The end of what it wrote."""
        return self._output.read_text(errors="replace")[-2000:]

    def rss_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")
