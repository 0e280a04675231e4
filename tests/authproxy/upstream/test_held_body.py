"""A held body: read while its request waits, bounded in memory, file and account, and never one byte lost of it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.failures import ForwardFailed
from authproxy.upstream.held_body import MEMORY_BYTES, HeldBody
from authproxy.upstream.spool import Spool, SpoolFailed
from policies.decision import Deny, Reason
from tests.fakes.gate import Tally

LARGE = os.urandom(3 * MEMORY_BYTES + 17)


class Source:
    """A connection: what came waits in ``pieces``; an exception among them is raised; ``None`` is the end."""

    def __init__(self, *pieces: bytes | Exception | None) -> None:
        self.pieces = list(pieces)
        self.arrived = asyncio.Event()
        self.reading = 0
        self.awaits_continue = False
        self.patience: list[bool] = []

    def feed(self, *pieces: bytes | Exception | None) -> None:
        self.pieces.extend(pieces)
        self.arrived.set()

    def take_whole(self) -> bytes | None:
        if self.pieces and isinstance(self.pieces[0], Exception):
            raise self.pieces[0]
        if None not in self.pieces:
            return None
        whole, self.pieces = self.pieces, [None]
        return b"".join([piece for piece in whole if isinstance(piece, bytes)])

    async def read_on(self, *, is_patient: bool) -> bytes:
        self.patience.append(is_patient)
        self.reading += 1
        try:
            while not self.pieces:
                self.arrived.clear()
                await self.arrived.wait()
        finally:
            self.reading -= 1
        piece = self.pieces[0]
        if piece is None:
            return b""
        if isinstance(piece, Exception):
            raise piece
        del self.pieces[0]
        return piece


def fail_test(denied: Deny) -> None:
    raise AssertionError(denied)


async def read_all(body: HeldBody) -> bytes:
    read = b""
    while piece := await body.read():
        read += piece
    return read


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110  # a body tells nobody
            await asyncio.sleep(0.002)


def open_files() -> set[str]:
    """What the process has open that has no name any more."""
    names = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except OSError:
            continue
        if "(deleted)" in name:
            names.add(f"{descriptor.name} {name}")
    return names


@pytest.fixture
async def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


# -- where it waits ---------------------------------------------------------------------------------------------------


async def test_a_small_body_that_has_come_needs_no_task_and_no_file(spool: Spool) -> None:
    """Most bodies are there with their head: what ten thousand of them cost is what they are."""
    tally, tasks = Tally(), len(asyncio.all_tasks())
    body = HeldBody(Source(b"abc", None), spool, None, 3)
    body.start(tally.open(), fail_test)
    assert len(asyncio.all_tasks()) == tasks
    assert (body.is_whole, body.size, tally.taken, spool.files) == (True, 3, 3, 0)
    await body.stop()
    assert body.whole() == b"abc"
    body.close()
    assert tally.taken == 0


@pytest.mark.parametrize("piece_bytes", [1000, MEMORY_BYTES, MEMORY_BYTES + 1, len(LARGE)])
async def test_a_large_body_waits_in_a_file_and_comes_back_the_same(spool: Spool, piece_bytes: int) -> None:
    """Whatever its pieces were, as often as it is read."""
    tally, source = Tally(), Source()
    body = HeldBody(source, spool, None, len(LARGE))
    body.start(tally.open(), fail_test)
    for at in range(0, len(LARGE), piece_bytes):
        source.feed(LARGE[at : at + piece_bytes])
        await asyncio.sleep(0)
    source.feed(None)
    await until(lambda: body.is_whole)
    await body.stop()
    assert (body.size, tally.taken, spool.files, body.whole()) == (len(LARGE), len(LARGE), 1, None)
    assert await read_all(body) == LARGE
    body.rewind()
    assert await read_all(body) == LARGE
    body.close()
    assert (tally.taken, spool.files) == (0, 0)


async def test_a_large_body_that_came_at_once_goes_to_the_file_too(spool: Spool) -> None:
    """All of it was with the connection: it does not stay in memory for that."""
    tally = Tally()
    body = HeldBody(Source(LARGE, None), spool, None, len(LARGE))
    body.start(tally.open(), fail_test)
    await until(lambda: spool.files == 1 and not body.is_in_memory)
    await body.stop()
    assert await read_all(body) == LARGE
    body.close()


async def test_the_file_has_no_name_and_is_nobody_elses(spool: Spool, tmp_path: Path) -> None:
    """0600 and unlinked from the start: no other user, and no next process, can read what was in it."""
    before = open_files()
    source = Source(LARGE)
    body = HeldBody(source, spool, None, None)
    body.start(Tally().open(), fail_test)
    await until(lambda: bool(open_files() - before))
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # one call that does not block
    (opened,) = open_files() - before
    status = os.stat(f"/proc/self/fd/{opened.split()[0]}")  # noqa: PTH116  # of a descriptor
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert not os.get_inheritable(int(opened.split()[0]))
    body.close()
    await until(lambda: not open_files() - before)


async def test_many_tiny_pieces_take_no_more_memory_than_their_bytes(spool: Spool) -> None:
    """A client that drips byte by byte: a list of them would be forty times as large as the account says."""
    source = Source()
    body = HeldBody(source, spool, None, None)
    body.start(Tally().open(), fail_test)
    source.feed(*[b"%d" % (at % 10) for at in range(5000)])
    await until(lambda: body.size == 5000)
    await body.stop()
    assert isinstance(body._memory, bytearray)
    assert await body.read() == b"0123456789" * 500


# -- who may not wait -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "content_length", "reason"),
    [
        pytest.param((b"x" * 11, None), 11, Reason.BODY_TOO_LARGE, id="said"),
        pytest.param((b"x" * 11, None), None, Reason.BODY_TOO_LARGE, id="at hand, chunked"),
        pytest.param((b"x" * 9, b"xx"), None, Reason.BODY_TOO_LARGE, id="while it comes"),
        pytest.param((BodyMalformed(),), None, Reason.BODY_MALFORMED, id="malformed at once"),
        pytest.param((b"x", BodyMalformed()), None, Reason.BODY_MALFORMED, id="malformed"),
        pytest.param((b"x", BodyStalled()), None, Reason.REQUEST_TIMEOUT, id="stalled"),
        pytest.param((b"x", ZeroDivisionError()), None, Reason.INTERNAL_ERROR, id="a defect of ours"),
    ],
)
async def test_what_ends_a_held_request(
    spool: Spool, pieces: tuple[bytes | Exception | None, ...], content_length: int | None, reason: Reason
) -> None:
    """Told once, never from within ``start``, whose caller does not wait yet."""
    told: list[Deny] = []
    body = HeldBody(Source(*pieces), spool, 10, content_length)
    body.start(Tally().open(), told.append)
    assert not told
    await until(lambda: bool(told))
    await body.stop()
    body.close()
    assert [denied.reason for denied in told] == [reason]


@pytest.mark.parametrize("reason", [Reason.OVERLOADED, Reason.QUEUE_FULL])
async def test_the_account_says_how_much_and_why_not(spool: Spool, reason: Reason) -> None:
    """Bytes are taken before they are kept, and the refusal says when to come again."""
    tally, told, source = Tally(10, reason), list[Deny](), Source(b"x" * 8)
    body = HeldBody(source, spool, None, None)
    body.start(tally.open(), told.append)
    await until(lambda: tally.taken == 8)
    source.feed(b"xxx", b"never read")
    await until(lambda: bool(told))
    assert (told[0].reason, told[0].retry_after_s is not None) == (reason, True)
    assert tally.taken == 8
    assert len(source.pieces) == 1
    await body.stop()
    body.close()
    assert tally.taken == 0


async def test_a_full_disk_is_a_refusal_and_loses_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, and should the request have been released in that moment, it leaves with its whole body."""
    told: list[Deny] = []
    wrote = 0
    pwrite = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal wrote
        wrote += 1
        if wrote > 2:
            raise OSError(errno.ENOSPC, "no space left on device")
        return pwrite(descriptor, bytes(data)[:1000], offset)

    monkeypatch.setattr("authproxy.upstream.spool.os.pwrite", full)
    body = HeldBody(Source(LARGE, None), spool, None, None)
    body.start(Tally().open(), told.append)
    await until(lambda: bool(told))
    await body.stop()
    assert told[0].reason is Reason.OVERLOADED
    assert "space" not in told[0].detail
    monkeypatch.undo()
    assert await read_all(body) == LARGE
    body.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ENOENT, errno.EROFS])
async def test_a_file_that_cannot_be_made_is_a_refusal(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """No descriptor, no folder, no right to it."""

    def fails(_directory: Path | None) -> int:
        raise OSError(code, "no")

    monkeypatch.setattr("authproxy.upstream.spool._open_unlinked", fails)
    told: list[Deny] = []
    body = HeldBody(Source(LARGE, None), spool, None, None)
    body.start(Tally().open(), told.append)
    await until(lambda: bool(told))
    body.close()
    assert (told[0].reason, spool.files) == (Reason.OVERLOADED, 0)


async def test_files_are_bounded(tmp_path: Path) -> None:
    """Descriptors are everybody's: bodies may not take the last one. One that is given back may be taken again."""
    spool = Spool(tmp_path, max_files=4)
    told: list[Deny] = []
    bodies = [HeldBody(Source(LARGE, None), spool, None, None) for _ in range(4)]
    for body in bodies:
        body.start(Tally().open(), told.append)
    await until(lambda: len(told) == 2)
    assert {denied.reason for denied in told} == {Reason.OVERLOADED}
    for body in bodies:
        body.close()
    assert spool.files == 0
    again = HeldBody(Source(LARGE, None), spool, None, None)
    again.start(Tally().open(), fail_test)
    await until(lambda: spool.files == 1)
    again.close()


async def test_no_tenant_takes_the_files_of_all(tmp_path: Path) -> None:
    """A body one byte above what memory takes needs one: whoever has its share refuses nothing of another's."""
    spool = Spool(tmp_path, max_files=16)
    files = []
    for tenant, share in (("acme", 8), ("globex", 4), ("initech", 2), ("hooli", 1)):
        files += [spool.open(tenant) for _ in range(share)]
        with pytest.raises(SpoolFailed):
            spool.open(tenant)
    files.append(spool.open("umbrella"))
    for file in files:
        file.close()
    assert (spool.files, spool._of) == (0, {})


async def test_a_file_that_was_made_shorter_is_no_shorter_body(spool: Spool) -> None:
    """What is held cannot be had any more: an error, never an end."""
    body = HeldBody(Source(LARGE, None), spool, None, None)
    body.start(Tally().open(), fail_test)
    await until(lambda: spool.files == 1 and not body.is_in_memory)
    await body.stop()
    assert body._file is not None
    assert body._file._descriptor is not None
    os.ftruncate(body._file._descriptor, 1000)
    await body.read()
    with pytest.raises(ForwardFailed) as failed:
        await body.read()
    assert failed.value.reason is Reason.INTERNAL_ERROR
    body.close()
    with pytest.raises(ForwardFailed):
        await body.read()


# -- when it stops ----------------------------------------------------------------------------------------------------


async def test_stopping_loses_nothing(spool: Spool) -> None:
    """At whatever moment: what was read is held, what was not is still with the connection."""
    chance = Random(7)  # the seed names the case
    for _ in range(60):
        source, sent = Source(), b""
        body = HeldBody(source, spool, None, None)
        body.start(Tally().open(), fail_test)
        for _ in range(chance.randrange(1, 6)):
            piece = chance.randbytes(chance.choice([1, 100, MEMORY_BYTES, 2 * MEMORY_BYTES]))
            sent += piece
            source.feed(piece)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        await body.stop()
        assert source.reading == 0
        held = await read_all(body)
        assert held + b"".join([piece for piece in source.pieces if isinstance(piece, bytes)]) == sent
        body.close()
    await until(lambda: spool.files == 0)


async def test_nobody_is_told_after_the_stop(spool: Spool) -> None:
    """The request is on its way; the data path meets the same error itself."""
    source = Source(b"x")
    body = HeldBody(source, spool, 1, None)
    body.start(Tally().open(), fail_test)
    await until(lambda: body.size == 1)
    stopping = asyncio.create_task(body.stop())
    source.feed(b"too much")
    await stopping
    await body.stop()
    await asyncio.sleep(0.01)
    body.close()


async def test_a_piece_that_was_refused_too_late_is_not_lost(spool: Spool) -> None:
    """Released and refused in one turn of the loop: a body without its middle would be another body."""
    told: list[Deny] = []
    body = HeldBody(Source(b"abc", b"def"), spool, None, None)
    body.start(Tally(3).open(), told.append)
    await until(lambda: bool(told))
    await body.stop()
    assert await read_all(body) == b"abcdef"
    body.close()


async def test_a_body_may_be_held_twice(spool: Spool) -> None:
    """It did not reach its function: it goes on from where it was, and nothing is counted twice."""
    tally, source = Tally(), Source(b"abc")
    body = HeldBody(source, spool, None, None)
    body.start(tally.open(), fail_test)
    await until(lambda: body.size == 3)
    await body.stop()
    assert await body.read() == b"abc"
    body.rewind()
    source.feed(b"def", None)
    body.start(tally.open(), fail_test)
    await until(lambda: body.is_whole)
    await body.stop()
    assert (body.whole(), tally.taken) == (b"abcdef", 6)
    assert [account.is_closed for account in tally.accounts] == [False, True]
    body.close()
    assert tally.taken == 0


async def test_a_client_that_asks_first_is_read_with_patience(spool: Spool) -> None:
    """It owes nothing until it is told to go on (RFC 9110 section 10.1.1); should it begin, it is read like any."""
    source = Source()
    source.awaits_continue = True
    body = HeldBody(source, spool, None, 6)
    body.start(Tally().open(), fail_test)
    await until(lambda: source.reading == 1)
    source.awaits_continue = False
    source.feed(b"abc")
    await until(lambda: body.size == 3)
    await body.stop()
    assert source.patience == [True, False]
    body.close()


@pytest.mark.parametrize("moment", ["reading", "writing", "done", "unstarted"])
async def test_the_end_of_the_exchange_gives_everything_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Also in the middle of a write: the file is closed when its thread is through with it, and only then."""
    before, tally, source = open_files(), Tally(), Source()
    if moment == "writing":
        monkeypatch.setattr("authproxy.upstream.spool.os.pwrite", _slow(os.pwrite))
    body = HeldBody(source, spool, None, None)
    if moment != "unstarted":
        body.start(tally.open(), fail_test)
        source.feed(LARGE, *([None] if moment == "done" else []))
        await until(lambda: tally.taken == len(LARGE))
        if moment != "writing":
            await until(lambda: body._file_bytes == len(LARGE))
    body.close()
    body.close()
    assert (tally.taken, spool.files) == (0, 0)
    await until(lambda: not open_files() - before and not source.reading)
    await body.stop()


def _slow(pwrite: Callable[[int, bytes, int], int]) -> Callable[[int, bytes, int], int]:
    def write(descriptor: int, data: bytes, offset: int) -> int:
        time.sleep(0.05)
        return pwrite(descriptor, data, offset)

    return write


async def test_a_client_that_left_is_no_refusal(spool: Spool) -> None:
    """Its connection's end tells whoever holds the request."""
    body = HeldBody(Source(b"x", ClientGone()), spool, None, None)
    body.start(Tally().open(), fail_test)
    await until(lambda: body._task is None)
    assert body.size == 1
    await body.stop()
    body.close()


# -- filled by who wants nothing else ---------------------------------------------------------------------------------


async def test_a_body_is_filled_or_refused(spool: Spool) -> None:
    """For requests that are answered later: whole, or the reason why not."""
    source = Source(b"abc")
    body = HeldBody(source, spool, 100, None)
    filling = asyncio.create_task(body.fill(Tally().open()))
    await asyncio.sleep(0)
    source.feed(LARGE[:50], None)
    assert await filling is None
    assert await read_all(body) == b"abc" + LARGE[:50]
    body.close()
    for pieces, reason in (((b"x" * 101,), Reason.BODY_TOO_LARGE), ((b"x", BodyStalled()), Reason.REQUEST_TIMEOUT)):
        body = HeldBody(Source(*pieces), spool, 100, None)
        denied = await body.fill(Tally().open())
        assert denied is not None
        assert denied.reason is reason
        body.close()
    with pytest.raises(ClientGone):
        await HeldBody(Source(ClientGone()), spool, 100, None).fill(Tally().open())


async def test_a_spool_that_was_closed_takes_nothing(tmp_path: Path) -> None:
    """The process stops: refusals, no errors."""
    spool = Spool(tmp_path)
    file = spool.open("acme")
    await file.write(0, b"abc")
    spool.close()
    with pytest.raises(SpoolFailed):
        await file.write(3, b"def")
    with pytest.raises(SpoolFailed):
        spool.open("acme")
    file.close()
    assert spool.files == 0
