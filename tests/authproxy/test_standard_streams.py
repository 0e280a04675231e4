"""Standard streams that are closed, broken or never read: nothing waits for them, nothing else gets their numbers."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from authproxy.audit import get_logger
from authproxy.standard_streams import write_error_line


@contextlib.contextmanager
def errors_to_a_pipe() -> Iterator[tuple[int, int]]:
    """Standard error is the writing end; the reading end does not block."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield reading, writing
    os.close(reading)


def fill(writing: int) -> None:
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)


def empty(reading: int) -> bytes:
    found = b""
    try:
        while piece := os.read(reading, 65536):
            found += piece
    except BlockingIOError:
        pass
    return found


@pytest.mark.timeout(10)
def test_a_pipe_that_nobody_reads_stops_nothing() -> None:
    """The line is lost; once somebody reads again, the next is written whole."""
    with errors_to_a_pipe() as (reading, writing):
        fill(writing)
        write_error_line("lost")
        get_logger("kong").error("lost-too")
        assert b"lost" not in empty(reading)
        write_error_line("read")
        assert empty(reading) == b"read\n"


@pytest.mark.timeout(10)
def test_a_line_that_was_cut_ends_before_the_next() -> None:
    """What fits of a long line is written, and nothing is taken for its continuation."""
    with errors_to_a_pipe() as (reading, writing):
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 8192)
        write_error_line("x" * 20_000)
        found = empty(reading)
        assert found
        assert set(found) == {ord("x")}
        write_error_line("whole")
        write_error_line("again")
        assert empty(reading) == b"\nwhole\nagain\n"


def test_nobody_at_the_other_end_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has gone, a stream that is closed, and none at all."""
    reading, writing = os.pipe()
    os.close(reading)
    gone = os.fdopen(writing, "w")
    closed = io.StringIO()
    closed.close()
    for stream in (gone, closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        write_error_line("nobody hears")
    monkeypatch.undo()
    gone.close()


def test_a_file_gets_the_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long; a lone surrogate is escaped."""
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stderr", file)
        write_error_line("x" * 20_000 + "\udc80")
        monkeypatch.undo()
    assert (tmp_path / "log").read_text() == "x" * 20_000 + "\\udc80\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams_are_the_null_device(closed: tuple[int, ...], tmp_path: Path) -> None:
    """Their numbers go to no socket: libuv would end the process, and what is printed would reach a stranger."""
    code = (
        "import os, sys\n"
        f"[os.close(number) for number in {closed}]\n"
        "from authproxy.standard_streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "print('said'); print('complained', file=sys.stderr)\n"
        f"assert all(os.readlink(f'/proc/self/fd/{{number}}') == os.devnull for number in {closed})\n"
        "found = os.open('.', os.O_RDONLY)\n"
        f"open({str(tmp_path / 'found')!r}, 'w').write(str(found))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "found").read_text()) > 2


def test_the_command_opens_them_first(tmp_path: Path) -> None:
    """Whatever its subcommand."""
    code = (
        "import os\nos.close(1)\n"
        "from authproxy.cli import main\n"
        "try:\n    main()\n"
        f"finally:\n    open({str(tmp_path / 'found')!r}, 'w').write(os.readlink('/proc/self/fd/1'))\n"
    )
    subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, check=True)
    assert (tmp_path / "found").read_text() == os.devnull
