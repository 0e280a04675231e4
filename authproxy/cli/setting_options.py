"""Settings as options of a command: the processes that are run by them share these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from authproxy.settings import DEFAULT_FILE, HIDDEN, Settings, load_settings

OF_KONG: Final = frozenset({"internal", "internal_name", "kong_sockets", "kong_socket_mode"})
"""Of the plugin server alone."""
OF_PROXY: Final = frozenset({"listen", "tls_cert", "tls_key", "tls_client_ca"})
"""Of the public listener, which the plugin server has not."""


def with_settings(command: click.Command, without: frozenset[str]) -> click.Command:
    """
    One option for each setting, so that flags and documentation cannot drift apart.

    ``without``: settings that are of no use to the command; a file that several commands share may have them.
    """
    for name, field in reversed(Settings.model_fields.items()):
        if name in HIDDEN or name in without:
            continue
        default = "" if field.is_required() or field.default is None else f" [default: {_shown(field.default)}]"
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            option = click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=f"{field.description}{default}")
        else:
            option = click.Option([flag, name], metavar="VALUE", help=f"{field.description}{default}")
        command.params.insert(0, option)
    return command


def settings_of(file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Flags, environment and the file that is named, or the one in the current folder. Raises: SettingsError."""
    named = file or (Path(text) if (text := os.environ.get("PORTERO_SETTINGS")) else None)
    return load_settings(flags, os.environ, named or Path(DEFAULT_FILE), file_is_required=named is not None)


def _shown(value: object) -> str:
    return f"{value[0]}:{value[1]}" if isinstance(value, tuple) else str(value)
