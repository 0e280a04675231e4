"""
Parts of the demo by themselves, for who has a Portero or a Kong already: the functions platform alone, and the secrets
that the example's policies name.

It decides nothing: what the platform does is ``functions_platform.py``'s, what the secrets are ``files.py``'s.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from authproxy.demo.files import namespaces_of_example, prepare_secrets, write_answers
from authproxy.demo.functions_platform import FunctionsPlatform
from policies.errors import PorteroError

MAX_CREDENTIALS_BYTES: Final = 4096

Address = tuple[str, int]


class NotUsable(PorteroError):
    """What was given cannot be used; the message says what to do."""


def read_credentials(file: Path) -> tuple[str, str]:
    """
    User and password of a platform's API: ``user:password``, the file that Portero reads as well.

    Raises: NotUsable, without the content.
    """
    try:
        with file.open("rb") as opened:
            user, colon, password = opened.read(MAX_CREDENTIALS_BYTES).decode().strip().partition(":")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise NotUsable(f"{file} cannot be read ({why}); portero demo secrets DIR makes one") from None
    if not (user and colon and password):
        raise NotUsable(f"{file} is not of the form user:password")
    return user, password


async def run_platform(
    listen: Address, credentials: Path, console: Console, *, start_delay_s: float, idle_s: float | None
) -> None:
    """
    Run the example's functions on a platform that speaks OpenFaaS's API, until cancelled.

    Port 0 takes a free one; ``credentials`` is a file as ``read_credentials`` takes it, all else is as of
    ``FunctionsPlatform``. Raises: NotUsable.
    """
    user, password = read_credentials(credentials)
    started = time.monotonic()
    layout = namespaces_of_example()
    with tempfile.TemporaryDirectory(prefix="portero-functions-") as folder:
        answers = write_answers(Path(folder), layout)
        platform = FunctionsPlatform(
            layout,
            user=user,
            password=password,
            environment={namespace: {"SURVEY_ANSWERS": str(file)} for namespace, file in answers.items()},
            start_delay_s=start_delay_s,
            idle_s=idle_s,
            listen=listen,
        )
        try:
            await _start(platform, listen)
            await platform.settled()
            names = sorted({name for _, name in platform.functions})
            console.print(
                f"The functions platform is ready at {platform.url} in {time.monotonic() - started:.1f} s: "
                f"{', '.join(names)} in {' and '.join(layout)}. Ctrl-C ends it."
            )
            await asyncio.Event().wait()
        finally:
            await platform.stop()


async def _start(platform: FunctionsPlatform, listen: Address) -> None:
    try:
        await platform.start()
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        raise NotUsable(f"{listen[0]}:{listen[1]} cannot be listened on: {why}; choose another with --listen") from None


def make_secrets(folder: Path) -> bool:
    """
    Make ``folder`` with what the example's policies name.

    In it: ``secrets`` and ``own-keys`` for Portero, ``keys`` of the service accounts for who calls.
    In one step: there is the whole folder or none. False: it is there already, and was left as it is.

    Raises: OSError.
    """
    if folder.exists():
        return False
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(mode=0o700)
    try:
        prepare_secrets(draft, platform_password=secrets.token_urlsafe(18), client_secret=secrets.token_urlsafe(18))
        draft.rename(folder)
    except BaseException:  # interrupted, too: no half of it may be left
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return True
