"""
``portero demo``: everything embedded, to try in a terminal; the small commands that talk to a running demo; and parts
of it by themselves, for who has a Portero or a Kong already.

Exit status: 0 done (a tour: every promise kept), 1 what was asked could not be done, 2 asked wrongly.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from authproxy.demo.state import DemoRefused, NoDemo, RunningDemo, find_running
from policies.errors import PorteroError

EXAMPLES: Final = """\b
Examples:
  portero demo
  curl -i -H 'Host: acme.localhost' \\
       -H "Authorization: Bearer $(portero demo token --tenant acme --as ana)" \\
       http://127.0.0.1:8088/reports/es
  portero demo --tour"""

Address = tuple[str, int]


class HostPort(click.ParamType[Address]):
    """``HOST:PORT`` or ``[v6]:PORT``; port 0 takes a free one."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, tuple):
            return str(value[0]), int(value[1])
        host, _, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            self.fail(f"{value!r} is not HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:8088", param, ctx)
        return host, int(port)


@click.group(invoke_without_command=True, epilog=EXAMPLES)
@click.option("--listen", type=HostPort(), help="Portero's public listener.  [default: 127.0.0.1:8088]")
@click.option("--admin", type=HostPort(), help="Portero's admin listener.  [default: 127.0.0.1:8089]")
@click.option("--tour", is_flag=True, help="Walk through it all in a demo of its own, on free ports.")
@click.pass_context
def demo(context: click.Context, listen: Address | None, admin: Address | None, *, tour: bool) -> None:
    """
    Run everything on this machine: a provider, a functions platform, two tenants, and Portero in front.

    Needs no network. Prints lines to paste into another terminal; Ctrl-C ends it and leaves nothing behind.
    """
    if context.invoked_subcommand is not None:
        if listen or admin or tour:
            raise click.UsageError(f"--listen, --admin and --tour go without {context.invoked_subcommand!r}")
        return
    console = Console(highlight=False, soft_wrap=True)
    if tour:
        status = _run(_tour(console, listen or ("127.0.0.1", 0), admin or ("127.0.0.1", 0)))
    else:
        status = _run(_serve(console, listen or ("127.0.0.1", 8088), admin or ("127.0.0.1", 8089)))
    sys.exit(status)  # also where the caller takes the command without click's own exit


@demo.command(
    epilog="""\b
Examples:
  portero demo token --tenant acme --as ana
  portero demo token --tenant acme --service-account survey-ci --ttl 600"""
)
@click.option("--tenant", required=True, metavar="NAME", help="The tenant that the token is for: acme or globex.")
@click.option("--as", "person", metavar="PERSON", help="Who asks: ana, bob or dan of acme, gil of globex.")
@click.option("--service-account", "account", metavar="NAME", help="A program instead of a person: survey-ci.")
@click.option(
    "--ttl",
    type=click.IntRange(1, 86_400),
    metavar="SECONDS",
    default=3600,
    show_default=True,
    help="How long it is good.",
)
def token(tenant: str, person: str | None, account: str | None, ttl: int) -> None:
    """
    Print a bearer token from a running demo.

    If several run, from the one started last.
    """
    if (person is None) == (account is None):
        raise click.UsageError("say who asks: --as PERSON or --service-account NAME, one of them")
    who = {"person": person} if account is None else {"service_account": account}
    click.echo(_ask("/token", {"tenant": tenant, "ttl_s": ttl, **who})["token"])


@demo.command(epilog="Example: portero demo sleep survey-report --tenant acme")
@click.argument("function")
@click.option("--tenant", help="Only this tenant's; without it, every tenant's.")
def sleep(function: str, tenant: str | None) -> None:
    """
    Scale a function of the running demo to zero.

    Returns when no replica of FUNCTION is left.
    """
    _ask("/sleep", {"function": function, "tenant": tenant})
    where = f"of {tenant}" if tenant else "of every tenant"
    click.echo(f"{function} {where} sleeps: the next request wakes it")


@demo.command(
    epilog="""\b
Examples:
  portero demo secrets ./demo
  portero demo platform --credentials ./demo/secrets/platform/faas-admin
  portero demo platform --listen 0.0.0.0:8080 --idle 60 \\
      --credentials ./demo/secrets/platform/faas-admin"""
)
@click.option("--listen", type=HostPort(), default="127.0.0.1:8080", show_default=True, help="Where it listens.")
@click.option(
    "--credentials",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with user:password of its API, as Portero reads it: SECRETS/platform/faas-admin.",
)
@click.option(
    "--idle",
    type=click.FloatRange(0, 86_400, min_open=True),
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    help="Without a request a function sleeps after so long.",
)
@click.option(
    "--start-delay",
    type=click.FloatRange(0, 15),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="What waking takes beyond starting a process.",
)
def platform(listen: Address, credentials: Path, idle: float, start_delay: float) -> None:
    """
    Run only a functions platform, with the example's functions.

    It speaks OpenFaaS's API and, as OpenFaaS, takes every request for a function from everybody: put Portero in front
    of it, and let nobody else reach it. Ctrl-C ends it and its functions.
    """
    from authproxy.demo.standin import run_platform  # noqa: PLC0415 - as `_run`

    console = Console(highlight=False, soft_wrap=True)

    async def serve() -> int:
        await run_platform(listen, credentials, console, start_delay_s=start_delay, idle_s=idle)
        return 0

    sys.exit(_run(serve()))


@demo.command(epilog="Example: portero demo secrets ./demo")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def secrets(folder: Path) -> None:
    """
    Make DIR with the secrets that the example's policies name.

    In DIR are secrets (portero serve --secrets), own-keys (portero serve --keys) and keys, the private ones of the
    service accounts (portero token issue --account). A DIR that is there is left as it is.
    """
    from authproxy.demo.standin import make_secrets  # noqa: PLC0415 - as `_run`

    if not folder.parent.is_dir():
        raise click.ClickException(f"{folder.parent} is no folder that {folder.name} could be made in")
    if make_secrets(folder):
        click.echo(f"{folder}: secrets and own-keys for Portero, keys for the service accounts")
    else:
        click.echo(f"{folder} is there already, and was left as it is")


def _ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Raises: click.ClickException with a sentence that says what to do."""
    try:
        running: RunningDemo = find_running()
        return running.call(path, body)
    except (NoDemo, DemoRefused) as error:
        raise click.ClickException(str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"the demo does not answer ({error.__class__.__name__}): start it again") from error


def _run(work: Coroutine[Any, Any, int]) -> int:
    """Run until it ends by itself or by a signal; a demo's own refusals become sentences on standard error."""
    import uvloop  # noqa: PLC0415 - `token` and `sleep` are called in every second line pasted and start faster without

    try:
        return uvloop.run(_until_signal(work))
    except PorteroError as error:
        raise click.ClickException(str(error)) from error


async def _until_signal(work: Coroutine[Any, Any, int]) -> int:
    """The first SIGINT, SIGTERM or SIGHUP ends the work in good order; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    is_asked_to_end = False

    def end() -> None:
        nonlocal is_asked_to_end
        is_asked_to_end = True
        for number in signals:
            loop.remove_signal_handler(number)
        task.cancel()

    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        return await task
    except asyncio.CancelledError:
        if is_asked_to_end:
            return 0
        raise


async def _serve(console: Console, listen: Address, admin: Address) -> int:
    from authproxy.audit import configure_logging  # noqa: PLC0415 - as above
    from authproxy.demo.announce import announce  # noqa: PLC0415 - as above
    from authproxy.demo.run import Demo  # noqa: PLC0415 - as above

    configure_logging("warning")  # what is printed says the same in fewer words
    started = time.monotonic()
    async with Demo(listen, admin) as running:
        configure_logging("info")  # from here on: policies taken up or refused
        announce(running, console, time.monotonic() - started)
        await asyncio.Event().wait()
    return 0


async def _tour(console: Console, listen: Address, admin: Address) -> int:
    from authproxy.demo.run import Demo  # noqa: PLC0415 - as above
    from authproxy.demo.tour import take_tour  # noqa: PLC0415 - as above
    from authproxy.demo.tour_steps import STEPS  # noqa: PLC0415 - as above

    started = time.monotonic()
    log = io.StringIO()
    with contextlib.redirect_stderr(log):  # the tour says the same in its own words; the log is for when it fails
        async with Demo(listen, admin) as running:
            console.print(f"A demo of its own at {running.public_url}, ready in {time.monotonic() - started:.1f} s.")
            is_kept = await take_tour(running, console, STEPS)
    console.print()
    if not is_kept:
        click.echo(log.getvalue(), err=True, nl=False)
        click.echo("The tour ended early: the last step was not as promised. Above is what was logged.", err=True)
        return 1
    console.print(f"All {len(STEPS)} steps were as promised, in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(demo.main())
