"""
The file of a tenant's API keys, as ``portero token`` changes it: one line more, or some less, one operator at a time.

A key is shown once, by the command that made it; the file has its digest. What a key is good for is the policy's.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from authproxy.cli.new_file import locked, write_whole
from authproxy.identity.tokens.api_key_file import (
    FILE,
    MAX_FILE_BYTES,
    ApiKeyEntry,
    new_key,
    read_line,
    read_lines,
    write_line,
)
from policies.principal import API_KEY_PROVIDER

_HEADER: Final = ("ID", "NAME", "CREATED", "NOTE")


def issue(file: Path, tenant: str, name: str, note: str) -> None:
    """Add a key and print it: standard output has the key and nothing else."""
    path = _path(file)
    if not path.parent.is_dir():
        raise click.ClickException(f"{file}: its folder is not there; make it first: mkdir -p -m 700 {file.parent}")
    with locked(path.parent):
        content = _content(path, may_be_missing=True)
        key, entry = new_key(name, note, time.time())
        if content and not content.endswith(b"\n"):
            content += b"\n"
        content += write_line(entry).encode() + b"\n"
        if len(content) > MAX_FILE_BYTES:
            raise click.ClickException(
                f"{file}: full; at most {MAX_FILE_BYTES // 1024} KiB are read, some 300 keys. Revoke those not in use: "
                f"portero token revoke --keys {file} ID"
            )
        write_whole(path, content)
    click.echo(key)
    click.echo(f"This is the only time the key is shown; {file} has its digest (id {entry.id}).", err=True)
    if path.name != FILE or path.parent.name != tenant:
        click.echo(f"Portero reads this file as SECRETS/{tenant}/{FILE}: put it there.", err=True)
    click.echo(
        f"The policy of {tenant} says what its bearer may do; if it has no entry of that name yet, add:\n"
        f'  api_keys:\n    - {{name: "{name}", groups: []}}\n'
        f'and bind it by a group of its entry, or as subject "{API_KEY_PROVIDER}|{name}".',
        err=True,
    )
    _say_broken(file, content)


def show(file: Path) -> None:
    """A table of the keys; nothing in it could be used. Raises: click.ClickException when a line is none."""
    content = _content(_path(file))
    rows = [
        (entry.id, entry.name, datetime.fromtimestamp(entry.created_at, UTC).strftime("%Y-%m-%d %H:%MZ"), entry.note)
        for entry in read_lines(content)[0]
    ]
    widths = [max(len(row[column]) for row in [_HEADER, *rows]) for column in range(len(_HEADER))]
    for row in [_HEADER, *rows]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if _say_broken(file, content):
        raise click.exceptions.Exit(1)


def revoke(file: Path, key_id: str | None, name: str | None) -> None:
    """Remove the key of that id, or every key of that name; other lines stay as they are, whatever they hold."""
    path = _path(file)
    with locked(path.parent):
        kept: list[bytes] = []
        gone: list[ApiKeyEntry] = []
        for line in _content(path).split(b"\n"):
            entry = read_line(line)
            if entry is not None and (entry.id == key_id or entry.name == name):
                gone.append(entry)
            else:
                kept.append(line)
        if not gone:
            raise click.ClickException(f"{file}: no key of the {'id' if name is None else 'name'} {key_id or name!r}")
        write_whole(path, b"\n".join(kept))
    for entry in gone:
        click.echo(f"revoked {entry.id} of {entry.name}")
    click.echo("Every replica refuses it within 5 s of having this file.", err=True)
    _say_broken(file, b"\n".join(kept))


def _path(file: Path) -> Path:
    """Where the file lies, links followed: what is replaced is the file and not the link to it."""
    return file.resolve()


def _content(path: Path, *, may_be_missing: bool = False) -> bytes:
    """Raises: click.ClickException, OSError."""
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if may_be_missing:
            return b""
        raise
    if len(content) > MAX_FILE_BYTES:
        raise click.ClickException(f"{path}: larger than {MAX_FILE_BYTES} bytes; Portero does not read it")
    return content


def _say_broken(file: Path, content: bytes) -> bool:
    broken = read_lines(content)[1]
    if broken:
        lines = ", ".join(map(str, broken[:10]))
        click.echo(f"{file}: line {lines}: no API key, or one twice; such a line lets nobody in", err=True)
    return bool(broken)
