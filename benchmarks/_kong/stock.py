"""
The stock plugin server with one plugin, until it is ended.

    python -m benchmarks._kong.stock {one,five,portero,portero-…} SOCKET_FOLDER SETTINGS [-g]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from kong_pdk.cli import start_dedicated_server

from benchmarks._kong import plugins
from benchmarks._kong.world import read_settings
from gateway_plugins.plugins import PLUGINS
from gateway_plugins.stock_main import serve
from gateway_plugins.stock_process import composed, set_process


def refuse(text: str) -> NoReturn:
    sys.exit(text)


def main(plugin: str, folder: str, settings: str, *more: str) -> None:
    options = ["-p", folder, *more]
    if plugin in PLUGINS:
        set_process(lambda: composed(read_settings(Path(settings))))
        serve(plugin, PLUGINS[plugin], options, refuse=refuse)
        return
    module = plugins.module(plugin)
    sys.argv = [plugin, "--no-lua-style", "--socket-name", f"{plugin}.socket", *options]
    start_dedicated_server(plugin, module.Plugin, module.version, module.priority, module.Schema)


if __name__ == "__main__":
    main(*sys.argv[1:])
