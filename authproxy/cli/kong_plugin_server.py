"""``portero kong-plugin-server``: what Kong starts, or finds on its sockets, and asks about every request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any, Final

import click

from authproxy.cli.setting_options import OF_PROXY, settings_of, with_settings
from authproxy.settings import DEFAULT_FILE, Settings
from gateway_plugins.kong_log import configure_kong_log
from gateway_plugins.plugins import PLUGINS, dump

_LOOK_S: Final = 1.0
"""Between looks at the parent."""


@click.command(
    epilog="""\b
Examples:
  portero kong-plugin-server --dump portero
  portero kong-plugin-server --policies ./policies --secrets ./secrets \\
      --kong-sockets /run/portero
  portero kong-plugin-server --settings /etc/portero/kong.toml \\
      --end-with-parent"""
)
@click.option("--settings", "file", type=click.Path(path_type=Path), help=f"Settings file [default: {DEFAULT_FILE}]")
@click.option("--dump", "dumped", metavar="PLUGIN", help="Print what Kong asks of a plugin at its start, and end.")
@click.option(
    "--plugin", "names", metavar="PLUGIN", multiple=True, help="Serve this plugin; may be repeated [default: all]"
)
@click.option("--end-with-parent", "ends", is_flag=True, help="End when the process that started this one has ended.")
def kong_plugin_server(
    file: Path | None, dumped: str | None, names: tuple[str, ...], *, ends: bool, **flags: Any
) -> None:
    """
    Run the plugin server that Kong asks about every request.

    One process serves all plugins (portero; portero-tenant, portero-rbac, portero-ratelimit and portero-coldstart),
    each on its socket PLUGIN.socket. It runs by itself, or Kong starts it (portero kong conf prints how), with an empty
    environment: give settings by flags or by a file. SIGTERM drains and stops it, as portero serve.
    """
    parent = os.getppid()  # at once: it may end while this one starts
    for name in (dumped, *names):
        if name is not None and name not in PLUGINS:
            raise click.UsageError(f"there is no plugin {name!r}; there are {', '.join(sorted(PLUGINS))}")
    if dumped is not None:
        click.echo(json.dumps(dump(dumped)))
        return
    import uvloop  # noqa: PLC0415 (Kong waits for --dump, which needs none of it)

    settings = settings_of(file, flags)
    uvloop.run(_run(settings, names or None, parent if ends else None))


async def _run(settings: Settings, names: tuple[str, ...] | None, parent: int | None) -> None:
    from authproxy.app import run_app  # noqa: PLC0415 (as above)
    from authproxy.kong_app import KongApp  # noqa: PLC0415 (as above)

    configure_kong_log(settings.log_level)
    watch = None if parent is None else asyncio.create_task(_end_with(parent))
    await run_app(KongApp(settings, names), settings.drain)
    if watch is not None:
        watch.cancel()


async def _end_with(parent: int) -> None:
    """Stop as by SIGTERM once ``parent`` is gone: whoever starts Kong again starts a plugin server, too."""
    while os.getppid() == parent:  # noqa: ASYNC110 (nobody tells a process of the end of its parent)
        await asyncio.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


with_settings(kong_plugin_server, OF_PROXY)
