"""
The file of a unix socket: made so that nobody connects too early, replaced only when nobody answers on it.

A plugin server that was killed leaves its socket file behind; the next one takes its place. A file that is no socket,
and a socket on which somebody answers, are never touched. The socket listens before it gets its name, and has its
permissions before it listens, so that Kong never finds a name where nobody answers, nor anybody a socket that is open
to all. Refuses to know what is spoken on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MAX_PATH_BYTES: Final = 107
"""sun_path of Linux is 108 bytes with its final zero (unix(7))."""
BACKLOG: Final = 4096
"""Connections that wait to be accepted; the system may allow less (net.core.somaxconn)."""
_ANSWERS_WITHIN_S: Final = 1.0
_LOCK: Final = ".portero.lock"
_LOCKED_WITHIN_S: Final = 3.0
"""Whoever else starts has it for as long as it takes to ask whether somebody answers."""


class SocketFile:
    """
    One listening unix socket and its name in the file system.

    Args:
        path: what Kong connects to; its folder must exist.
        mode: permissions: 0o600 lets in processes of the same user only.
        backlog: connections that wait to be accepted.

    Raises: OSError: the folder cannot be written to, the path is too long, is no socket, or somebody answers on it.
    """

    def __init__(self, path: Path, *, mode: int = 0o600, backlog: int = BACKLOG) -> None:
        self.path = path
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        if len(os.fsencode(draft)) > MAX_PATH_BYTES:
            raise OSError(errno.ENAMETOOLONG, "the path is too long for a unix socket", str(path))
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _alone_in(path.parent):
                draft.unlink(missing_ok=True)  # of an earlier process with our number
                self.socket.bind(str(draft))
                try:
                    draft.chmod(mode)
                    self.socket.listen(backlog)
                    self.socket.setblocking(False)
                    _refuse_if_taken(path)
                    self._identity = _identity(draft)
                    draft.replace(path)
                except BaseException:
                    draft.unlink(missing_ok=True)
                    raise
        except BaseException:
            self.socket.close()
            raise

    def remove(self) -> None:
        """Take the name away if it is still ours. Idempotent, never raises."""
        try:
            if _identity(self.path) == self._identity:
                self.path.unlink()
        except OSError:
            return


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _refuse_if_taken(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):  # a symbolic link neither: it may lead anywhere
        raise OSError(errno.EEXIST, "something that is no socket stands in its place", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_ANSWERS_WITHIN_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            # A full backlog, no permission: somebody may be there, so nothing is replaced.
            raise OSError(errno.EADDRINUSE, f"cannot tell whether it is in use ({error})", str(path)) from error
    raise OSError(errno.EADDRINUSE, "another process answers on it", str(path))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """
    Two that start at once must not both find the place free.

    The lock is on a file of our own, which stays: a folder that others may read they may lock as well, for ever.
    """
    file, flags = folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags, 0o600)
    except PermissionError:  # of another user, who ran here before
        file.unlink()
        descriptor = os.open(file, flags, 0o600)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    """Raises: OSError when it cannot be had for ``_LOCKED_WITHIN_S``."""
    until = time.monotonic() + _LOCKED_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise OSError(errno.EBUSY, "another process is starting in it, and does not end", str(folder)) from None
            time.sleep(0.02)
        else:
            return
