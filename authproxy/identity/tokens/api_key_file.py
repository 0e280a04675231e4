"""
The file of a tenant's API keys, ``--secrets DIR/<tenant>/api-keys``: one JSON object a line, digests and no keys.

It decides what a key looks like, which lines count, and that the file stays small enough to be read as a secret. It
refuses to know what a key is good for: that is the policy's, by the key's name.

A key is 256 random bits, so a plain SHA-256 of it is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import json
import re
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from secrets import token_bytes
from typing import Any, Final, NamedTuple

from authproxy.identity.secrets import MAX_SECRET_BYTES, Secrets
from policies.strict_json import NotStrict, read_object

FILE: Final = "api-keys"
PREFIX: Final = "ptr_"
"""By which scanners of repositories, and we, tell a key of Portero's from other tokens."""
MAX_FILE_BYTES: Final = MAX_SECRET_BYTES
"""As of every secret: some 300 keys without notes."""
MAX_LINE_BYTES: Final = 2048
MAX_NAME_CHARS: Final = 128
MAX_NOTE_CHARS: Final = 256

_KEY: Final = re.compile(r"ptr_[a-z2-7]{12}_[A-Za-z0-9_-]{43}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ID: Final = re.compile(r"[a-z2-7]{12}")


class ApiKeyEntry(NamedTuple):
    """One line."""

    id: str
    """Part of the key, and no secret: by it an operator tells keys apart."""
    name: str
    """The caller's, as in the policy's ``api_keys``."""
    digest: bytes
    """SHA-256 of the whole key."""
    created_at: float
    """Unix seconds."""
    note: str = ""


class Reading(NamedTuple):
    """What one content of a file says."""

    content: bytes
    by_digest: Mapping[bytes, ApiKeyEntry]
    names: frozenset[tuple[str, str]]
    """Name and id of each entry."""
    broken: tuple[int, ...]


def new_key(name: str, note: str, now: float) -> tuple[str, ApiKeyEntry]:
    """A key to be shown once, and the entry to be kept."""
    name_of_key = b32encode(token_bytes(8)).decode("ascii").lower()[:12]
    key = f"{PREFIX}{name_of_key}_{urlsafe_b64encode(token_bytes(32)).rstrip(b'=').decode('ascii')}"
    return key, ApiKeyEntry(name_of_key, name, digest_of(key), float(int(now)), note)


def is_key(text: str) -> bool:
    """Whether ``text`` has the form of a key."""
    return _KEY.fullmatch(text) is not None


def digest_of(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def write_line(entry: ApiKeyEntry) -> str:
    """One line, without its end."""
    created_at = datetime.fromtimestamp(entry.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    members = {
        "id": entry.id,
        "name": entry.name,
        "digest": f"sha256:{entry.digest.hex()}",
        "created_at": created_at,
    }
    return json.dumps({**members, "note": entry.note} if entry.note else members)


def read_lines(content: bytes) -> tuple[list[ApiKeyEntry], list[int]]:
    """
    The entries of a file, and the numbers of the lines that are none (1-based): such a line lets nobody in.

    Two lines with one digest or one id are a mistake that cannot be told apart, so neither counts.
    """
    entries: list[tuple[int, ApiKeyEntry]] = []
    broken: list[int] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        entry = read_line(line)
        if entry is None:
            broken.append(number)
        else:
            entries.append((number, entry))
    twice = _repeated(entry.digest for _, entry in entries) | _repeated(entry.id for _, entry in entries)
    good: list[ApiKeyEntry] = []
    for number, entry in entries:
        if entry.digest in twice or entry.id in twice:
            broken.append(number)
        else:
            good.append(entry)
    return good, sorted(broken)


def read_file(secrets: Secrets, tenant: str, before: Reading | None) -> Reading:
    """Blocking, and some 20 us a key when the content has changed. Raises: SecretUnavailable."""
    content = secrets.read(tenant, FILE)
    if before is not None and content == before.content:
        return before
    entries, broken = read_lines(content)
    return Reading(
        content,
        {entry.digest: entry for entry in entries},
        frozenset((entry.name, entry.id) for entry in entries),
        tuple(broken),
    )


def _repeated(values: Iterable[bytes | str]) -> set[bytes | str]:
    seen: set[bytes | str] = set()
    return {value for value in values if value in seen or seen.add(value)}  # type: ignore[func-returns-value]  # add() is for its effect


def read_line(line: bytes) -> ApiKeyEntry | None:
    """One line by itself; None when it is none."""
    try:
        members = read_object(line.rstrip(b"\r"), MAX_LINE_BYTES)
    except NotStrict:
        return None
    key, name, digest, note = (members.get(member, "") for member in ("id", "name", "digest", "note"))
    if not all(isinstance(text, str) and text.isprintable() for text in (key, name, digest, note)):
        return None
    created_at = _instant(members.get("created_at"))
    is_sound = _ID.fullmatch(key) and _DIGEST.fullmatch(digest) and 0 < len(name) <= MAX_NAME_CHARS
    if not is_sound or created_at is None:
        return None
    return ApiKeyEntry(key, name, bytes.fromhex(digest.removeprefix("sha256:")), created_at, note)


def _instant(text: Any) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
