"""
The command ``portero``: one module a group of commands, imported only when it is asked for.

Mistakes go to standard error with a non-zero status: 1 when what was asked could not be done, 2 when it was asked
wrongly.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from authproxy.standard_streams import open_standard_streams
from authproxy.version import VERSION
from policies.errors import PorteroError, SettingsError

COMMANDS: Final = {
    "demo": "Run everything on this machine: a provider, a functions platform, two tenants.",
    "keys": "Keys that seal sessions and sign tokens.",
    "kong": "Kong: render its configuration from policy files, and say what has drifted.",
    "kong-plugin-server": "Run the plugin server that Kong asks, instead of the proxy.",
    "policy": "Check, test and explain policy files.",
    "serve": "Run the proxy.",
    "token": "Tokens of service accounts, and API keys.",
}
"""Name -> help; the command is the attribute of that name in ``authproxy.cli.<name>``, with ``_`` for ``-``."""


class _OnDemand(click.Group):
    """Imports a command when it is called: ``demo token`` need not wait for the proxy to be imported (0.5 s)."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (as above)
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"authproxy.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (as above)
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(
    cls=_OnDemand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  portero demo
  portero policy check ./policies
  portero keys new ./keys
  portero serve --policies ./policies --secrets ./secrets --keys ./keys""",
)
@click.version_option(VERSION, prog_name="portero")
def portero() -> None:
    """The front door of a functions platform: tenants, identity, policy, limits and cold starts."""


def main() -> None:
    """Run the command; the errors that Portero raises on purpose become sentences."""
    open_standard_streams()
    try:
        sys.exit(portero.main(standalone_mode=False) or 0)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SettingsError as error:
        click.echo("These settings cannot be used:\n  " + "\n  ".join(error.mistakes), err=True)
        sys.exit(1)
    except PorteroError as error:  # of PolicyError: every mistake, a line each
        click.echo(str(error), err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"{error.filename or 'portero'}: {error.strerror or error}", err=True)
        sys.exit(1)
