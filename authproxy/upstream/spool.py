"""
Unlinked temporary files for bodies that wait: 0600 from their first moment, without a name, gone with the process.

It decides how many there may be, that no tenant has more than half of what the others leave, and that no thread but the
pool's own ever waits for a disk. It refuses to know how many bytes somebody may keep (``BodyAccount``).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

MAX_FILES: Final = 1024
"""Descriptors for bodies; each connection and each request to a function needs one, too."""
WORKERS: Final = 4
"""Threads, started when they are needed: more would wait for the same disk."""


class SpoolFailed(Exception):
    """No room: the disk is full, descriptors are short, or there are too many files already."""


class Spool:
    """
    Makes files in ``directory`` (None: where the system keeps temporary ones). Files belong to one event loop.

    ``close`` ends the threads; files that are open by then are closed by whoever holds them.
    """

    def __init__(self, directory: Path | None = None, *, max_files: int = MAX_FILES) -> None:
        self._directory = directory
        self._max_files = max_files
        self._pool: ThreadPoolExecutor | None = None
        self.files = 0
        """Open or about to be."""
        self._of: dict[str, int] = {}
        """The same by tenant, of those that have any."""

    def open(self, tenant: str) -> SpoolFile:
        """
        A file that is made when it is first written to. Raises: SpoolFailed when there are too many, or the tenant has
        its share: bodies just above what memory takes would let one tenant have all of them.
        """
        mine = self._of.get(tenant, 0)
        if 2 * mine >= self._max_files - (self.files - mine):
            raise SpoolFailed
        if self._pool is None:
            self._pool = ThreadPoolExecutor(WORKERS, "portero-spool")
        self.files += 1
        self._of[tenant] = mine + 1
        return SpoolFile(self, self._pool, self._directory, tenant)

    def give_back(self, tenant: str) -> None:
        """A file is closed."""
        self.files -= 1
        self._of[tenant] -= 1
        if not self._of[tenant]:
            del self._of[tenant]

    def close(self) -> None:
        """No further file. Does not wait for writes that are under way."""
        self._max_files = 0
        if self._pool is not None:
            self._pool.shutdown(wait=False)


class SpoolFile:
    """One file; one caller at a time but for ``close``, which may come at any moment."""

    __slots__ = ("_descriptor", "_directory", "_is_closed", "_lock", "_loop", "_pool", "_spool", "_tenant")

    def __init__(self, spool: Spool, pool: ThreadPoolExecutor, directory: Path | None, tenant: str) -> None:
        self._spool = spool
        self._tenant = tenant
        self._pool = pool
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        """Held by the thread that uses the descriptor: a number that was closed may be another file's already."""
        self._descriptor: int | None = None
        self._is_closed = False

    async def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data``. Cancelling does not stop the thread that does so. Raises: SpoolFailed."""
        try:
            await self._loop.run_in_executor(self._pool, self._write, offset, data)
        except (OSError, RuntimeError) as error:  # RuntimeError: the pool was shut down
            raise SpoolFailed from error

    async def read(self, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``, at least one where there is one. Raises: SpoolFailed."""
        try:
            return await self._loop.run_in_executor(self._pool, self._read, offset, size)
        except (OSError, RuntimeError) as error:
            raise SpoolFailed from error

    def close(self) -> None:
        """Give the file back to the system, in a thread: freeing a large one takes a while. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._spool.give_back(self._tenant)
        try:
            self._pool.submit(self._close)
        except RuntimeError:  # the pool was shut down
            self._close()

    # -- in a thread of the pool ---------------------------------------------------------------------------------------

    def _write(self, offset: int, data: bytes) -> None:
        with self._lock:
            if self._is_closed:
                raise OSError
            if self._descriptor is None:
                self._descriptor = _open_unlinked(self._directory)
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                offset += written
                rest = rest[written:]

    def _read(self, offset: int, size: int) -> bytes:
        with self._lock:
            if self._is_closed or self._descriptor is None:
                raise OSError
            data = os.pread(self._descriptor, size, offset)
            if not data:
                raise OSError  # somebody else has truncated it: better no request than a shorter one
            return data

    def _close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def _open_unlinked(directory: Path | None) -> int:
    """A descriptor of its own of a file without a name: 0600, closed on exec. Raises: OSError."""
    with tempfile.TemporaryFile(buffering=0, prefix="portero-", dir=directory) as file:
        return os.dup(file.fileno())
