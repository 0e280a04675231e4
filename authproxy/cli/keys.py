"""
``portero keys``: the folder of keys that sessions are sealed with and that tokens and assertions are signed with.

It makes files and takes old ones away; which key is used when, ``authproxy.identity.tokens.key_files`` knows. A key is
only taken away when nothing that was made with it can still be alive.
"""

from __future__ import annotations

import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import click
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authproxy.cli.durations import Duration
from authproxy.cli.new_file import write_whole
from authproxy.identity.tokens.key_files import (
    SESSION_KEY_BYTES,
    SESSION_WAIT_S,
    SESSIONS,
    SIGNING,
    SIGNING_WAIT_S,
    SUFFIXES,
    KeyFile,
    KeyFileError,
    SessionKey,
    SigningPrivate,
    in_use,
    list_files,
    read_all,
    read_session_key,
    read_signing_key,
)

WAITS_S: Final = {SESSIONS: SESSION_WAIT_S, SIGNING: SIGNING_WAIT_S}
SIGNED_LIVES_S: Final = 3600
"""Of tokens of ours; assertions live shorter."""
DEFAULT_KEEP: Final = 3
_STAMP: Final = "%Y-%m-%dT%H%M%SZ"
_STAMP_CHARS: Final = len("2026-11-24T083400Z")

Algorithm = Literal["ES256", "EdDSA"]

EXAMPLE: Final = """\b
Examples:
  portero keys new ./keys
  portero keys list ./keys
  portero keys rotate ./keys --keep 3"""

_ALGORITHM = click.option(
    "--algorithm",
    type=click.Choice(["ES256", "EdDSA"]),
    default="ES256",
    show_default=True,
    help="Of the key that signs: P-256, which everything verifies, or Ed25519, which is faster.",
)


@click.group(epilog=EXAMPLE)
def keys() -> None:
    """Keys that seal sessions and sign tokens: make, list, rotate."""


@keys.command(epilog="Example: portero keys new ./keys")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@_ALGORITHM
def new(folder: Path, algorithm: Algorithm) -> None:
    """Make DIR with one key of each kind; give it to every replica with: portero serve --keys DIR."""
    if any(_listed(folder, kind) for kind in SUFFIXES):
        raise click.ClickException(
            f"{folder}: there are keys in it already; add new ones with: portero keys rotate {folder}"
        )
    for path in (folder, folder / SESSIONS, folder / SIGNING):
        path.mkdir(mode=0o700, parents=path == folder, exist_ok=True)
    for kind in SUFFIXES:
        click.echo(_add(folder, kind, algorithm, ()))


@keys.command("list", epilog="Example: portero keys list ./keys")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
def list_(folder: Path) -> None:
    """Show each key of DIR: used, accepted, or waiting until every replica knows it. Status 1 when one is broken."""
    now = time.time()
    sessions, broken = read_all(folder, _listed(folder, SESSIONS), read_session_key)
    signing, more = read_all(folder, _listed(folder, SIGNING), read_signing_key)
    rows = [
        *_rows(sessions, SESSION_WAIT_S, now),
        *_rows(signing, SIGNING_WAIT_S, now),
    ]
    widths = [max(len(row[column]) for row in [_HEADER, *rows]) for column in range(len(_HEADER))]
    for row in [_HEADER, *rows]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if broken or more:
        raise click.ClickException("\n".join([*broken, *more]))
    if not sessions:
        raise click.ClickException(f"{folder}: no session key; make one with: portero keys rotate {folder}")


@keys.command(epilog="Example: portero keys rotate ./keys --keep 3 --session-lifetime 12h")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--keep", type=click.IntRange(2, 32), default=DEFAULT_KEEP, show_default=True, help="Keys of each kind to keep."
)
@click.option(
    "--session-lifetime",
    type=Duration(longest_s=90 * 86400),
    default="12h",
    show_default=True,
    help="The longest sessions.absolute of any tenant: keys are kept for as long after they were last used.",
)
@_ALGORITHM
def rotate(folder: Path, keep: int, session_lifetime: int, algorithm: Algorithm) -> None:
    """Add a key of each kind to DIR and remove the oldest beyond --keep that nothing can need any more."""
    now = time.time()
    for kind, lives_s in ((SESSIONS, session_lifetime), (SIGNING, SIGNED_LIVES_S)):
        (folder / kind).mkdir(mode=0o700, exist_ok=True)
        before = _listed(folder, kind)
        click.echo(_add(folder, kind, algorithm, before))
        for file in _removable(before, keep - 1, lives_s + WAITS_S[kind], now):
            (folder / kind / file.name).unlink()
            click.echo(f"removed {folder / kind / file.name}")


_HEADER: Final = ("KIND", "FILE", "ID", "MADE", "STATE")


def _rows(
    found: Sequence[SessionKey] | Sequence[SigningPrivate], wait_s: float, now: float
) -> list[tuple[str, str, str, str, str]]:
    used = in_use(found, now, wait_s)
    return [
        (
            key.file.kind,
            key.file.name,
            key.id.hex() if isinstance(key, SessionKey) else f"{key.kid} ({key.algorithm})",
            datetime.fromtimestamp(key.file.modified_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            "used" if key is used else _idle(key.file, wait_s, now),
        )
        for key in found
    ]


def _idle(file: KeyFile, wait_s: float, now: float) -> str:
    left_s = file.modified_at + wait_s - now
    return "accepted" if left_s <= 0 else f"accepted, used in {left_s:.0f} s"


def _listed(folder: Path, kind: str) -> tuple[KeyFile, ...]:
    try:
        return list_files(folder, kind)
    except KeyFileError as error:
        raise click.ClickException(f"{folder}: {error}") from error


def _removable(files: Sequence[KeyFile], keep: int, safe_s: float, now: float) -> list[KeyFile]:
    """Of the oldest beyond ``keep``, those whose successor has been there for ``safe_s``: nothing of theirs lives."""
    pairs = list(pairwise(files))
    return [file for file, next_ in pairs[: max(0, len(files) - keep)] if next_.modified_at + safe_s <= now]


def _add(folder: Path, kind: str, algorithm: Algorithm, before: Sequence[KeyFile]) -> str:
    """Write one key that sorts after those before it; what it says."""
    made_at = datetime.now(UTC)
    newest = before[-1].name if before else ""
    with suppress(ValueError):  # none before, or one with a name of the operator's own
        before_it = datetime.strptime(newest[:_STAMP_CHARS], _STAMP).replace(tzinfo=UTC)
        made_at = max(made_at, before_it + timedelta(seconds=1))
    path = folder / kind / f"{made_at.strftime(_STAMP)}-{secrets.token_hex(3)}{SUFFIXES[kind]}"
    if path.name <= newest:
        raise click.ClickException(
            f"{folder / kind / newest}: its name sorts after every new key, which would never be used; rename it"
        )
    write_whole(path, _session_key() if kind == SESSIONS else _signing_key(algorithm))
    return f"made {path}"


def _session_key() -> bytes:
    return urlsafe_b64encode(secrets.token_bytes(SESSION_KEY_BYTES)).rstrip(b"=") + b"\n"


def _signing_key(algorithm: Algorithm) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
