"""A folder of Portero's own keys, with files as old as a test wants them."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from pathlib import Path

from authproxy.identity.tokens.key_files import SESSIONS, SIGNING
from authproxy.identity.tokens.keyring import KeyFolder
from tests.fakes.identity import Clock
from tests.fakes.provider import Key, Kind


def write_file(path: Path, content: bytes, modified_at: float, mode: int = 0o600) -> Path:
    """Whole from the moment it has its name, as ``portero keys`` does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.chmod(mode)
    os.utime(draft, (modified_at, modified_at))
    return draft.rename(path)


def session_key(folder: Path, name: str, modified_at: float) -> bytes:
    """A new file ``sessions/<name>.key``; the key."""
    secret = os.urandom(32)
    write_file(folder / SESSIONS / f"{name}.key", urlsafe_b64encode(secret).rstrip(b"=") + b"\n", modified_at)
    return secret


def signing_key(folder: Path, name: str, modified_at: float, kind: Kind = "EC", number: int = 0) -> Key:
    """A new file ``signing/<name>.pem``; keys of one kind and number are the same key."""
    key = Key(name, kind, number)
    write_file(folder / SIGNING / f"{name}.pem", key.pem(), modified_at)
    return key


def a_key_folder(folder: Path, clock: Clock, kind: Kind = "EC") -> KeyFolder:
    """One old key of each kind."""
    session_key(folder, "2026-01", clock() - 10_000)
    signing_key(folder, "2026-01", clock() - 10_000, kind, 71)
    return KeyFolder(folder, clock=clock)
