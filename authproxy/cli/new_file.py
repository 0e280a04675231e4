"""Files that hold secrets, written so that nobody ever sees half of one or may read another's."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """
    A file that is whole from the moment it has its name: who uses it looks at any time.

    Of mode 0600; one that replaces another keeps its owner and group, as far as the caller may give them away, and the
    group's bits: Portero often runs as another user than its operator.
    """
    before: os.stat_result | None = None
    with suppress(FileNotFoundError):
        before = path.stat()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as opened:
            if before is not None:
                with suppress(PermissionError):
                    os.fchown(opened.fileno(), before.st_uid, before.st_gid)
                    os.fchmod(opened.fileno(), before.st_mode & 0o660)
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(path)
    except BaseException:  # interrupted, too: no half-written secret may be left beside the file
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    One at a time for all who change files of ``folder`` this way; waits for the others.

    The folder itself is locked: a lock file would be one more file among secrets. Raises: OSError.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
