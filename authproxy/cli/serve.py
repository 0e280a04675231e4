"""``portero serve``: the proxy itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import uvloop

from authproxy.app import run
from authproxy.cli.setting_options import OF_KONG, settings_of, with_settings
from authproxy.settings import DEFAULT_FILE


@click.command(
    epilog="""\b
Example: portero serve --policies ./policies --secrets ./secrets \\
           --keys ./keys --redis redis://127.0.0.1:6379/0 --listen 0.0.0.0:8088"""
)
@click.option("--settings", "file", type=click.Path(path_type=Path), help=f"Settings file [default: {DEFAULT_FILE}]")
def serve(file: Path | None, **flags: Any) -> None:
    """
    Run the proxy. Every setting can also be given as PORTERO_NAME or in portero.toml.

    SIGTERM drains and stops, SIGHUP reopens the audit file, a change in the policy folder is taken up by itself.
    """
    uvloop.run(run(settings_of(file, flags)))


with_settings(serve, OF_KONG)
