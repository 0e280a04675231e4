"""``portero serve``: the proxy itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import uvloop

from authproxy.app import run
from authproxy.settings import DEFAULT_FILE, HIDDEN, Settings, load_settings


def _with_settings(command: click.Command) -> click.Command:
    """One option for each setting, so that flags and documentation cannot drift apart."""
    for name, field in reversed(Settings.model_fields.items()):
        if name in HIDDEN:
            continue
        default = "" if field.is_required() or field.default is None else f" [default: {_shown(field.default)}]"
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            option = click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=f"{field.description}{default}")
        else:
            option = click.Option([flag, name], metavar="VALUE", help=f"{field.description}{default}")
        command.params.insert(0, option)
    return command


def _shown(value: object) -> str:
    return f"{value[0]}:{value[1]}" if isinstance(value, tuple) else str(value)


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
    named = file or (Path(text) if (text := os.environ.get("PORTERO_SETTINGS")) else None)
    settings = load_settings(flags, os.environ, named or Path(DEFAULT_FILE), file_is_required=named is not None)
    uvloop.run(run(settings))


_with_settings(serve)
