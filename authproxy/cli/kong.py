"""
``portero kong …``: Kong's declarative configuration from policy files, what has drifted, and the lines of kong.conf.

Exit status: 0 all is well, 1 the policies have mistakes or the configuration has drifted, 2 asked wrongly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from authproxy.cli.policy import FOLDER, LOOPBACK, MISTAKES, compiled, complain
from gateway_plugins.kong_check import drift, summary
from gateway_plugins.render import CHAIN, TENANT_FILE, conf_lines, environment_lines, environment_text, render
from gateway_plugins.render_conf import DEFAULT_CONFIG, DEFAULT_FOLDER, DEFAULT_QUERY, DEFAULT_START
from policies.tables import PolicySet

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_CHAIN: Final = click.option(
    "--chain", "is_chain", is_flag=True, help="The four plugins one after another, instead of portero alone."
)


@click.group(epilog="Example: portero kong render ./policies --output kong.yml")
def kong() -> None:
    """Kong: render its configuration from policy files, and say what has drifted."""


@kong.command(
    "render",
    short_help="Print Kong's configuration, or write it to files.",
    epilog="""\b
Examples:
  portero kong render ./policies > kong.yml
  portero kong render ./policies --split tenant --output ./rendered""",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--split", type=click.Choice(["tenant"]), help="A file for each tenant, and one for all other hosts.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write, or folder with --split; standard output when absent.",
)
@_CHAIN
@click.option(
    "--no-direct",
    "is_indirect",
    is_flag=True,
    help="Send every request by Portero's internal listener.",
)
@LOOPBACK
def render_(
    folder: Path, split: str | None, output: Path | None, *, is_chain: bool, is_indirect: bool, is_demo: bool
) -> None:
    """
    Print the declarative configuration that puts Kong's routes behind Portero.

    The same policies give the same bytes. Reload Kong with it when hosts, paths or tenants change; everything else the
    plugin server takes up from the policy folder by itself.
    """
    if split and output is None:
        raise click.UsageError("--split writes several files: say where with --output FOLDER")
    if is_chain and is_indirect:
        raise click.UsageError("--no-direct is a setting of the plugin portero; --chain renders the four others")
    policies = _policies(folder, is_demo=is_demo)
    files = render(policies, split=split is not None, chain=is_chain, direct=not is_indirect)
    if output is None:
        click.echo("".join(files.values()), nl=False)
        return
    if split:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (output / name).write_text(text, encoding="utf-8")
        click.echo(f"{output}: {', '.join(files)}", err=True)
        for file in sorted(set(output.glob(f"{TENANT_FILE}*.yml")) - {output / name for name in files}):
            click.echo(f"{file}: there is no such tenant; take the file away", err=True)
    else:
        output.write_text("".join(files.values()), encoding="utf-8")


@kong.command(
    short_help="Say what has drifted.",
    epilog="""\b
Examples:
  portero kong check ./policies kong.yml
  portero kong check ./policies ./rendered/*.yml""",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("files", metavar="KONG_YML…", nargs=-1, required=True, type=_FILE)
@LOOPBACK
def check(folder: Path, files: tuple[Path, ...], *, is_demo: bool) -> None:
    """
    Say in which points a declarative configuration is not what the policies want.

    Several files are taken together, as --split has written them. What has not the tag portero is the operator's own,
    and only looked at for whether it takes requests away from Portero. Status 1: something has drifted.
    """
    policies = _policies(folder, is_demo=is_demo)
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    if found := drift(policies, *texts):
        click.echo(summary(found), err=True)
        is_chain = any(CHAIN[-1] in text for text in texts)
        how = [
            *(["--chain"] if is_chain else []),
            *(["--split tenant --output FOLDER"] if len(files) > 1 else []),
            *(["--loopback-http"] if is_demo else []),
        ]
        click.echo(f"To render anew: {' '.join(['portero kong render', str(folder), *how])}", err=True)
        sys.exit(MISTAKES)
    click.echo(f"{', '.join(map(str, files))}: as {folder} wants it")


@kong.command(
    short_help="Print the lines of kong.conf.",
    epilog="""\b
Examples:
  portero kong conf >> /etc/kong/kong.conf
  portero kong conf --environment > kong.env
  portero kong conf --no-start --sockets /run/portero""",
)
@click.option("--environment", is_flag=True, help="As KONG_... variables, such as docker run --env-file takes.")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help="Where Kong finds the rendered file.")
@click.option("--sockets", default=DEFAULT_FOLDER, show_default=True, help="Folder of the plugin server's sockets.")
@click.option("--start", default=DEFAULT_START, show_default=True, help="What Kong starts as the plugin server.")
@click.option("--no-start", "is_foreign", is_flag=True, help="Kong starts nothing: the plugin server runs by itself.")
@click.option(
    "--query", default=DEFAULT_QUERY, show_default=True, help="What tells Kong of the plugin {name} at its start."
)
@_CHAIN
def conf(
    config: str,
    sockets: str,
    start: str,
    query: str,
    *,
    environment: bool,
    is_foreign: bool,
    is_chain: bool,
) -> None:
    """Print the lines of kong.conf that make Kong ask Portero's plugin server."""
    start_cmd = None if is_foreign else start
    if environment:
        variables = environment_lines(
            chain=is_chain,
            declarative_config=config,
            socket_folder=sockets,
            start_cmd=start_cmd,
            query_cmd=query,
        )
        click.echo(environment_text(variables), nl=False)
        return
    text = conf_lines(
        chain=is_chain,
        declarative_config=config,
        socket_folder=sockets,
        start_cmd=start_cmd,
        query_cmd=query,
    )
    click.echo(text, nl=False)


def _policies(folder: Path, *, is_demo: bool) -> PolicySet:
    """The folder compiled; mistakes end the command."""
    report = compiled(folder, is_demo=is_demo)
    complain(report.mistakes)
    if report.policies is None:
        sys.exit(MISTAKES)
    return report.policies
