"""
The command ``portero``: one module a group of commands, put together here.

Mistakes go to standard error with a non-zero status: 1 when what was asked could not be done, 2 when it was asked
wrongly.
"""

from __future__ import annotations

import sys

import click

from authproxy.cli.demo import demo
from authproxy.cli.policy import policy
from authproxy.cli.serve import serve
from authproxy.cli.token import token
from authproxy.version import VERSION
from policies.errors import PolicyError, PorteroError, SettingsError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: portero demo, then portero demo --tour in another terminal.",
)
@click.version_option(VERSION, prog_name="portero")
def portero() -> None:
    """The front door of a functions platform: tenants, identity, policy, limits and cold starts."""


portero.add_command(demo)
portero.add_command(policy)
portero.add_command(serve)
portero.add_command(token)


def main() -> None:
    """Run the command; the errors that Portero raises on purpose become sentences."""
    try:
        portero.main(standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SettingsError as error:
        click.echo("These settings cannot be used:", err=True)
        for mistake in error.mistakes:
            click.echo(f"  {mistake}", err=True)
        sys.exit(1)
    except PolicyError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake), err=True)
        sys.exit(1)
    except PorteroError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
