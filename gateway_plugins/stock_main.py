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

from authproxy.settings import DEFAULT_FILE, Settings, known_settings, load_settings
from gateway_plugins.kong_log import configure_kong_log
from gateway_plugins.stock_process import CannotStart, background, composed, set_process
from policies.errors import PolicyError, SettingsError

_DRAIN_S: Final = 1.0
_POOLS: Final = frozenset({"-m", "--multiprocessing"})
_DUMPS: Final = frozenset({"-dump", "--dump"})
_OF_NO_USE: Final = frozenset({"kong_socket_mode", "kong_sockets", "listen", "tls_cert", "tls_client_ca", "tls_key"})
"""Settings: Kong has the public listener, and kong-pdk makes the socket."""


def main(plugins: Mapping[str, Any], arguments: Sequence[str] | None = None) -> None:
    """Serve one of ``plugins``, or print what Kong's ``query_cmd`` wants (``--dump``)."""
    parser = _parser(sorted(plugins))
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name in {"-h", "--help"}:
        rest = [name, ""]
    elif name not in plugins:
        parser.error("the first argument names the plugin")
    found, options = parser.parse_known_args(rest[:-1])
    if not _DUMPS.intersection(options):
        flags = {setting: value for setting, value in vars(found).items() if setting != "settings"}
        file = found.settings or os.environ.get("PORTERO_SETTINGS")
        try:
            settings = load_settings(flags, os.environ, Path(file or DEFAULT_FILE), file_is_required=file is not None)
        except SettingsError as error:
            parser.error(str(error))
        configure_kong_log(settings.log_level)
        set_process(lambda: composed(settings))
    serve(name, plugins[name], options, refuse=parser.error)


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m gateway_plugins.stock",
        usage=f"%(prog)s {{{','.join(names)}}} [--settings FILE] [--SETTING VALUE ...] [kong-pdk's own]",
        description="Serve one of Portero's plugins on kong-pdk's server.",
        epilog="kong-pdk's own: -p DIR (of the socket), --socket-name NAME, -g (greenlets), --dump and -v. Several "
        "plugins can share a settings file, but not the addresses admin and internal.",
        allow_abbrev=False,
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help=f"settings file [default: {DEFAULT_FILE}]")
    for setting in known_settings():
        if setting not in _OF_NO_USE:
            says = Settings.model_fields[setting].description or ""
            parser.add_argument(f"--{setting.replace('_', '-')}", dest=setting, metavar="VALUE", help=says)
    return parser


def serve(name: str, plugin: Any, options: Sequence[str], *, refuse: Callable[[str], NoReturn]) -> None:
    """
    Serve ``plugin``, a module of the kind of ``PLUGINS``, until SIGTERM; ``set_process`` says what is behind it.

    Args:
        name: by which Kong knows it.
        plugin: has ``Plugin``, ``Schema``, ``version`` and ``priority``.
        options: the stock server's own.
        refuse: told what an operator has to mend.
    """
    if _POOLS.intersection(options):
        refuse("-m: processes of a pool cannot share one gate; use -g, or neither")
    # Kong looks for NAME.socket, where kong-pdk would listen on NAME.sock.
    sys.argv = [name, "--no-lua-style", "--socket-name", f"{name}.socket", *options]
    if not _DUMPS.intersection(options):
        try:
            background().running()
        except CannotStart as error:
            cause = error.__cause__
            refuse(str(cause if isinstance(cause, SettingsError | PolicyError | CannotStart) else error))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        threading.Thread(target=_end_with, args=(os.getppid(),), name="portero-watchdog", daemon=True).start()
    try:
        start_dedicated_server(name, plugin.Plugin, plugin.version, plugin.priority, plugin.Schema)
    except OSError as error:  # of its socket: no folder, no permission
        refuse(str(error))


def _end(*_signal: object) -> None:
    """At once: the stock server's threads wait for Kong's pooled connections, and would be waited for."""
    try:
        background().stop(_DRAIN_S)
        sys.stdout.flush()
    finally:
        os._exit(0)


def _end_with(parent: int) -> None:
    """The stock server outlives Kong when it runs threads: its own watchdog ends nothing but itself."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
