"""
A request's body while the request is held: read all the same, because nobody else would notice that its client left.

It decides where the bytes wait (memory, then an unlinked file) and when there are too many of them. It refuses to know
sockets (``BodySource``), who may hold how much (``BodyAccount``) and why the request is held.

What was read is never lost, whatever happens meanwhile: a refusal that comes a moment too late finds the request on its
way, and a body that lacks a piece in its middle would be another body.

Longer than other modules: one body's states, from its connection to memory, file and function, are read together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from authproxy.audit import get_logger
from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.failures import MALFORMED, STALLED, TOO_LARGE, ForwardFailed
from authproxy.upstream.spool import Spool, SpoolFailed, SpoolFile
from policies.decision import Deny, Reason

MEMORY_BYTES: Final = 64 * 1024
"""What is kept in memory of one body; more goes to a file in runs of at least this size."""
READ_BYTES: Final = 256 * 1024
"""Read from the file at once."""
NO_ROOM: Final = "there is no room to keep the request body while its function wakes"
_RETRY_AFTER_S: Final = 1

_log = get_logger("upstream")


class BodyAccount(Protocol):
    """What of held bytes is taken for one body: ``policies.held_bytes.Account``."""

    @property
    def tenant(self) -> str:
        """On whose account."""

    def take(self, count: int, /) -> Reason | None:
        """Take ``count`` more bytes, all or nothing; a reason: there is no room for them."""

    def close(self) -> None:
        """Give everything back. Idempotent."""


class BodySource(Protocol):
    """Where a body comes from: its connection."""

    def take_whole(self) -> bytes | None:
        """All that is still to come of the body, if it has come already; else None. Raises: BodyMalformed."""

    async def read_on(self, *, is_patient: bool) -> bytes:
        """
        Next piece from the connection; ``b""`` at the end. Cancelling it loses nothing.

        ``is_patient``: the client owes nothing yet, it was not told to go on.

        Raises: ClientGone, BodyMalformed, BodyStalled.
        """

    @property
    def awaits_continue(self) -> bool:
        """The client asked whether to send its body, was not told, and has sent nothing of it."""


class HoldableBody(Protocol):
    """A body that whoever holds its request may have read meanwhile."""

    def start(self, account: BodyAccount, failed: Callable[[Deny], None]) -> None:
        """
        Read on, at the expense of ``account``, which belongs to the body from now on.

        ``failed`` is told at most once why the request cannot go on (too large, malformed, stalled, no room): from the
        loop, never from within ``start``, and never after ``stop`` was called. The refusal names no tenant. Starting
        again after ``stop`` is allowed: what was read stays on the first account, and the second is closed.
        """

    async def stop(self) -> None:
        """
        Stop reading. When it returns no read and no write is under way any more, and nothing that was read is lost.

        Idempotent, also without ``start``; when it is cancelled the above still holds a moment later.
        """


class HeldBody:
    """
    See ``HoldableBody``. After ``stop`` it is read from its start (``read``), as often as is wanted (``rewind``).

    Args:
        source: the connection.
        spool: for what does not fit into memory.
        max_bytes: the function's ``max_body_bytes``; None: only the account bounds it.
        content_length: as the head says; None: not known.
    """

    __slots__ = (
        "_account",
        "_failed",
        "_file",
        "_file_bytes",
        "_is_closed",
        "_is_reading",
        "_is_stopping",
        "_max_bytes",
        "_memory",
        "_position",
        "_source",
        "_spool",
        "_task",
        "content_length",
        "is_whole",
    )

    def __init__(self, source: BodySource, spool: Spool, max_bytes: int | None, content_length: int | None) -> None:
        self._source = source
        self._spool = spool
        self._max_bytes = max_bytes
        self.content_length = content_length
        self._account: BodyAccount | None = None
        self._failed: Callable[[Deny], None] | None = None
        self._task: asyncio.Task[Deny | None] | None = None
        self._file: SpoolFile | None = None
        self._file_bytes = 0
        self._memory: bytes | bytearray = b""
        """What follows on the file's part. One piece stays as it came; many are joined at once: a body of one byte a
        piece would fill 40 times its size."""
        self._position = 0
        """Bytes that ``read`` has given out."""
        self.is_whole = False
        """The body's end is known: nothing is to be read from the connection any more."""
        self._is_reading = False
        """The task waits for its client, so that it may be cancelled."""
        self._is_stopping = False
        self._is_closed = False

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._file_bytes + len(self._memory)

    @property
    def is_in_memory(self) -> bool:
        """``whole`` would give it."""
        return self.is_whole and not (self._file_bytes or self._position)

    # -- while the request is held -------------------------------------------------------------------------------------

    def start(self, account: BodyAccount, failed: Callable[[Deny], None]) -> None:
        if not self._open(account):
            return
        self._failed = failed
        loop = asyncio.get_running_loop()
        try:
            refusal = self._take_at_hand()
        except BodyMalformed:
            refusal = Deny(Reason.BODY_MALFORMED, MALFORMED)
        if refusal is not None:
            loop.call_soon(self._tell, refusal)
        elif not self.is_whole or len(self._memory) > MEMORY_BYTES:
            self._task = loop.create_task(self._read_all())
            self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        self._failed = None
        task = self._task
        if task is None or task.done():
            return
        self._is_stopping = True
        if self._is_reading:
            task.cancel()
        await asyncio.wait((task,))

    async def fill(self, account: BodyAccount) -> Deny | None:
        """
        Read the whole body, or the refusal that ends it; for who wants nothing else meanwhile.

        Whether to go on must have been said to a client that asks (``Exchange.send_continue``). Raises: ClientGone.
        """
        if not self._open(account):
            return None
        try:
            refusal = self._take_at_hand()
            return await self._read_on_and_on() if refusal is None else refusal
        except (BodyMalformed, BodyStalled) as broken:
            return _refusal_of(broken)

    def leave_source(self) -> None:
        """The body is whole and outlives its connection, of which nothing must be kept for it."""
        if self.is_whole:
            self._source = _NOTHING

    def _open(self, account: BodyAccount) -> bool:
        """Whether there is something to be read on."""
        if self._account is None:
            self._account = account
        elif self._account is not account:
            account.close()
        if self._is_closed:
            account.close()
        if self.is_whole or self._is_closed or not (self._task is None or self._task.done()):
            return False
        self._is_stopping = False
        return True

    def _take_at_hand(self) -> Deny | None:
        """What needs no waiting: most bodies have come as a whole with their head. Raises: BodyMalformed."""
        length, most = self.content_length, self._max_bytes
        if most is not None and length is not None and length > most:
            return Deny(Reason.BODY_TOO_LARGE, TOO_LARGE)
        body = self._source.take_whole()
        if body is None:
            return None
        self.is_whole = True
        return self._keep(body)

    def _keep(self, piece: bytes) -> Deny | None:
        """Add ``piece``, which is kept even when there is no room for it; what it is refused with then."""
        if not self._memory:
            self._memory = piece
        else:
            if type(self._memory) is bytes:
                self._memory = bytearray(self._memory)
            self._memory += piece
        if self._max_bytes is not None and self.size > self._max_bytes:
            return Deny(Reason.BODY_TOO_LARGE, TOO_LARGE)
        reason = None if self._account is None or not piece else self._account.take(len(piece))
        return None if reason is None else Deny(reason, NO_ROOM, retry_after_s=_RETRY_AFTER_S)

    async def _read_all(self) -> Deny | None:
        try:
            return await self._read_on_and_on()
        except (BodyMalformed, BodyStalled) as broken:
            return _refusal_of(broken)
        except ClientGone:
            return None  # the connection's own end tells whoever holds the request

    async def _read_on_and_on(self) -> Deny | None:
        source = self._source
        while not self._is_stopping:
            if len(self._memory) > MEMORY_BYTES and not await self._spill():
                return Deny(Reason.OVERLOADED, NO_ROOM, retry_after_s=_RETRY_AFTER_S)
            if self.is_whole or self._is_stopping:
                return None
            self._is_reading = True
            try:
                piece = await source.read_on(is_patient=source.awaits_continue)
            finally:
                self._is_reading = False
            if not piece:
                self.is_whole = True
                return None
            if (refusal := self._keep(piece)) is not None:
                return refusal
        return None

    async def _spill(self) -> bool:
        """Move what is in memory to the file; it stays where it is until it is written. False: there is no room."""
        data = self._memory = bytes(self._memory)
        try:
            if self._file is None:
                self._file = self._spool.open("" if self._account is None else self._account.tenant)
            await self._file.write(self._file_bytes, data)
        except SpoolFailed as failed:
            if not self._is_closed:
                _log.warning("a body could not be kept", error=type(failed.__cause__ or failed).__name__)
            return False
        if not self._is_closed:
            self._file_bytes += len(data)
            self._memory = b""
        return True

    def _ended(self, task: asyncio.Task[Deny | None]) -> None:
        self._task = None  # its error knows the frame that it came from, and that knows this body: no cycle may be left
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("holding a body failed", error=type(error).__name__)
            self._tell(Deny(Reason.INTERNAL_ERROR))
        elif (refusal := task.result()) is not None:
            self._tell(refusal)

    def _tell(self, refusal: Deny) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            failed(refusal)

    # -- when it leaves ----------------------------------------------------------------------------------------------

    @property
    def has_given_all(self) -> bool:
        """All that is held was read; the rest, unless ``is_whole``, is still on its connection."""
        return self._position >= self.size

    async def read(self) -> bytes:
        """
        Next piece of what is held; ``b""`` behind the last.

        Raises: ForwardFailed when it cannot be had any more: the end of what is there is not the end of the body.
        """
        position = self._position
        if self._is_closed:
            raise ForwardFailed(Reason.INTERNAL_ERROR)
        if position < self._file_bytes and self._file is not None:
            try:
                data = await self._file.read(position, min(READ_BYTES, self._file_bytes - position))
            except SpoolFailed as failed:
                _log.warning("a held body could not be read", error=type(failed.__cause__ or failed).__name__)
                raise ForwardFailed(Reason.INTERNAL_ERROR) from None
        else:
            data = bytes(memoryview(self._memory)[position - self._file_bytes :])
        self._position = position + len(data)
        return data

    def rewind(self) -> None:
        """Let ``read`` begin anew."""
        self._position = 0

    def whole(self) -> bytes | None:
        """The body, if all of it is held in memory and nothing of it was read; else None."""
        if not self.is_in_memory:
            return None
        self._memory = bytes(self._memory)
        self._position = len(self._memory)
        return self._memory

    def close(self) -> None:
        """The exchange is over: give back the file, the memory and what was taken on the account. Idempotent."""
        self._is_closed = self._is_stopping = True
        self._failed = None
        if self._task is not None and self._is_reading:
            self._task.cancel()
        self._memory = b""
        self._file_bytes = 0
        if self._file is not None:
            self._file.close()
        if self._account is not None:
            self._account.close()


class _Nothing:
    """Where a body came from whose connection is forgotten."""

    awaits_continue = False

    def take_whole(self) -> bytes | None:
        return b""

    async def read_on(self, *, is_patient: bool) -> bytes:  # noqa: ARG002  # the protocol's
        return b""


_NOTHING: Final = _Nothing()


def _refusal_of(broken: BodyMalformed | BodyStalled) -> Deny:
    if isinstance(broken, BodyMalformed):
        return Deny(Reason.BODY_MALFORMED, MALFORMED)
    return Deny(Reason.REQUEST_TIMEOUT, STALLED)
