"""
Secrets are files: ``DIR/<tenant>/<name>`` for what a tenant's policy names, ``DIR/platform/<name>`` for Portero's own.

It decides whether a name stays in its folder and reads the file; it refuses to know what is in it. Policy files only
ever hold names, so that they can be kept in version control and a tenant's editor can name nothing of another tenant.

Kubernetes mounts a secret as symbolic links into ``..data``: links are followed as long as they end in the same folder.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import Final, NamedTuple

from policies.errors import CannotKnow

PLATFORM: Final = "platform"
MAX_SECRET_BYTES: Final = 64 * 1024
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_WORLD_READABLE: Final = stat.S_IROTH

log = logging.getLogger(__name__)


class SecretUnavailable(CannotKnow):
    """A secret could not be read; the text names folder, name and why, never content."""


class _Stamp(NamedTuple):
    device: int
    inode: int
    modified_ns: int
    size: int


class Secrets:
    """
    Reads secrets by name. Remembers content until the file changes: one ``stat`` a read, so that a rotated secret is
    seen without a restart. Blocking; small local files.

    Args:
        root: the folder of ``--secrets``; None: there are no secrets and every read fails.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._read: dict[Path, tuple[_Stamp, bytes]] = {}
        self._warned: set[Path] = set()

    def read(self, folder: str, name: str, *, is_public: bool = False) -> bytes:
        """
        Content of one secret, without one trailing line break (editors and ``echo`` add it).

        Args:
            folder: a tenant's name, or ``PLATFORM``.
            name: one or more segments of letters, digits and ``._-``, joined by ``/``.
            is_public: a public key, which anybody may read.

        Raises: SecretUnavailable.
        """
        path = self._path(folder, name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SecretUnavailable(f"secret {folder}/{name}: {error.strerror or 'cannot be read'}") from error
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise SecretUnavailable(f"secret {folder}/{name}: not a regular file")
            if status.st_size > MAX_SECRET_BYTES:
                raise SecretUnavailable(f"secret {folder}/{name}: larger than {MAX_SECRET_BYTES} bytes")
            if not is_public and status.st_mode & _WORLD_READABLE and path not in self._warned:
                self._warned.add(path)
                log.warning(
                    "secret %s/%s may be read by everybody on this machine (mode %o)",
                    folder,
                    name,
                    stat.S_IMODE(status.st_mode),
                )
            stamp = _Stamp(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._read.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            content = _without_line_break(os.read(handle, MAX_SECRET_BYTES))
        except OSError as error:
            raise SecretUnavailable(f"secret {folder}/{name}: {error.strerror or 'cannot be read'}") from error
        finally:
            os.close(handle)
        self._read[path] = (stamp, content)
        return content

    def has(self, folder: str, name: str) -> bool:
        """Whether ``read`` of this name would find a file. Raises: SecretUnavailable for a name that may not be."""
        return self._path(folder, name, must_exist=False).is_file()

    def _path(self, folder: str, name: str, *, must_exist: bool = True) -> Path:
        """Raises: SecretUnavailable when the name leaves the folder, by itself or by a symbolic link."""
        if self._root is None:
            raise SecretUnavailable(f"secret {folder}/{name}: no folder of secrets was given (--secrets)")
        segments = [folder, *name.split("/")]
        if not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise SecretUnavailable(f"secret {folder}/{name}: not a name")
        try:
            root = self._root.resolve(strict=True)
            base = (root / folder).resolve(strict=must_exist)
            path = base.joinpath(*segments[1:]).resolve(strict=must_exist)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise SecretUnavailable(f"secret {folder}/{name}: no such file") from error
        if base.parent != root or not path.is_relative_to(base):
            raise SecretUnavailable(f"secret {folder}/{name}: a link leads out of the folder")
        return path


def _without_line_break(content: bytes) -> bytes:
    if content.endswith(b"\r\n"):
        return content[:-2]
    return content.removesuffix(b"\n")
