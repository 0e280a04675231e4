"""
Portero's own plugin server with one plugin, until it is ended.

    python -m benchmarks._kong.ours {one,five,portero} SOCKET_FOLDER SETTINGS
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, cast

import uvloop

from authproxy.kong_app import KongApp
from benchmarks._kong import plugins
from benchmarks._kong.server import PORTERO
from benchmarks._kong.world import read_settings
from gateway_plugins.front import Front
from gateway_plugins.server import PluginServer


async def serve(plugin: str, folder: Path, settings: Path) -> None:
    started: KongApp | PluginServer
    if plugin == PORTERO:
        started = KongApp(read_settings(settings), [plugin])
    else:
        front = Front(cast("Any", None), cast("Any", None), None)
        started = PluginServer(front, folder=folder, plugins={plugin: plugins.module(plugin)})
    await started.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
