"""
The program that serves one of Portero's plugins on the stock ``kong-pdk`` server; all else is in ``stock.py``.

The process behind the plugin is started first, so that settings which cannot be used end the program at once and do
not have every request refused. The only module that imports ``kong_pdk``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from kong_pdk.cli import start_dedicated_server

from authproxy.audit import configure_logging
from authproxy.settings import load_settings
from gateway_plugins.stock_process import CannotStart, background, composed, set_process
from policies.errors import PolicyError, SettingsError

_DRAIN_S: Final = 1.0
_POOLS: Final = frozenset({"-m", "--multiprocessing"})
_DUMPS: Final = frozenset({"-dump", "--dump"})


def main(plugins: Mapping[str, Any], arguments: Sequence[str] | None = None) -> None:
    """Serve one of ``plugins``, or print what Kong's ``query_cmd`` wants (``--dump``)."""
    parser = argparse.ArgumentParser(
        "python -m gateway_plugins.stock",
        usage=f"%(prog)s {{{','.join(sorted(plugins))}}} [--settings FILE] [options of kong-pdk]",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--settings", type=Path)
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name not in plugins:
        parser.error("the first argument names the plugin")
    found, options = parser.parse_known_args(rest[:-1])
    serve(name, plugins[name], options, refuse=parser.error, settings=found.settings)


def serve(
    name: str, plugin: Any, options: Sequence[str], *, refuse: Callable[[str], NoReturn], settings: Path | None = None
) -> None:
    """
    Serve ``plugin``, a module of the kind of ``PLUGINS``, until SIGTERM.

    Args:
        name: by which Kong knows it.
        plugin: has ``Plugin``, ``Schema``, ``version`` and ``priority``.
        options: the stock server's own.
        refuse: told what an operator has to mend.
        settings: a file; None: ``PORTERO_SETTINGS``, or whatever ``set_process`` was given.
    """
    if _POOLS.intersection(options):
        refuse("-m: processes of a pool cannot share one gate; use -g, or neither")
    sys.argv = [name, *options, *([] if "--no-lua-style" in options else ["--no-lua-style"])]
    if not _DUMPS.intersection(options):
        try:
            if settings is not None:
                loaded = load_settings({}, os.environ, settings, file_is_required=True)
                configure_logging(loaded.log_level)
                set_process(lambda: composed(loaded))
            background().running()
        except (SettingsError, CannotStart) as error:
            cause = error.__cause__
            refuse(str(cause if isinstance(cause, SettingsError | PolicyError | CannotStart) else error))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        threading.Thread(target=_end_with, args=(os.getppid(),), name="portero-watchdog", daemon=True).start()
    start_dedicated_server(name, plugin.Plugin, plugin.version, plugin.priority, plugin.Schema)


def _end(*_signal: object) -> None:
    """At once: the stock server's threads wait for Kong's pooled connections, and would be waited for."""
    background().stop(_DRAIN_S)
    sys.stdout.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    """The stock server outlives Kong when it runs threads: its own watchdog ends nothing but itself."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
