"""
Audit: every refusal leaves one line that nothing in a request can forge, at a bounded cost.

Longer than other modules: one line and its costs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy import audit as audit_module
from authproxy.audit import Audit, configure_logging, get_logger, printable

FACTS: dict[str, Any] = {
    "ts": 1_764_000_000.5,
    "request_id": "r-1",
    "tenant": "acme",
    "edge": "public",
    "method": "GET",
    "host": "acme.localhost",
    "path": "/reports/es",
    "client_ip": "127.0.0.1",
    "outcome": "deny",
    "reason": "no-rule-allows",
    "status": 403,
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_refusal_is_one_json_line(tmp_path: Path) -> None:
    """Each member that was given stands in the line, absent ones do not."""
    audit = Audit(str(tmp_path / "audit"))
    audit.decision(**FACTS, subject="login|ana", rule="keep-prod", where="acme.yaml:12", held_ms=1.5, shadowed=("x",))
    audit.close()
    expected = FACTS | {"subject": "login|ana", "rule": "keep-prod", "where": "acme.yaml:12", "held_ms": 1.5}
    assert lines(tmp_path / "audit") == [expected | {"shadowed": ["x"]}]


def test_lines_are_written_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    """Few lines do not wait for many: the timer writes them."""

    async def scenario() -> None:
        audit = Audit(str(tmp_path / "audit"))
        audit.decision(**FACTS)
        assert not lines(tmp_path / "audit")
        await asyncio.sleep(0.25)
        assert len(lines(tmp_path / "audit")) == 1
        audit.close()

    asyncio.run(scenario())


def test_a_full_batch_is_written_at_once(tmp_path: Path) -> None:
    """48 KiB are written without waiting for the timer."""
    audit = Audit(str(tmp_path / "audit"))
    for _ in range(1000):
        audit.decision(**FACTS)
    assert (tmp_path / "audit").stat().st_size >= 48 * 1024
    audit.close()
    assert len(lines(tmp_path / "audit")) == 1000


@pytest.mark.parametrize(("ratio", "written"), [(0.0, 0), (0.1, 10), (0.25, 25), (1.0, 100)])
def test_allows_are_sampled_and_refusals_are_not(tmp_path: Path, ratio: float, written: int) -> None:
    """Every deny is written whatever the ratio; of allows the share asked for, evenly."""
    audit = Audit(str(tmp_path / "audit"), allow_sample_ratio=ratio)
    for _ in range(100):
        audit.decision(**FACTS)
        audit.decision(**FACTS | {"outcome": "allow", "reason": None, "status": 200})
    audit.close()
    outcomes = [line["outcome"] for line in lines(tmp_path / "audit")]
    assert outcomes.count("deny") == 100
    assert outcomes.count("allow") == pytest.approx(written, abs=1)


def test_an_allow_that_shadow_mode_made_is_always_written(tmp_path: Path) -> None:
    """What would have been refused is what an operator in shadow mode wants to see."""
    audit = Audit(str(tmp_path / "audit"), allow_sample_ratio=0.0)
    audit.decision(**FACTS | {"outcome": "allow"}, shadowed=("no-rule-allows",))
    audit.close()
    assert lines(tmp_path / "audit")[0]["shadowed"] == ["no-rule-allows"]


@given(path=st.text(), subject=st.text(), method=st.text(), request_id=st.text(), where=st.text())
def test_any_text_makes_one_printable_line(path: str, subject: str, method: str, request_id: str, where: str) -> None:
    """No text, surrogates and line ends included, makes a second line, an exception or a control byte."""
    read_end, write_end = os.pipe()
    try:
        audit = Audit(f"/proc/self/fd/{write_end}")
        audit.decision(
            **FACTS | {"path": path, "method": method, "request_id": request_id}, subject=subject, where=where
        )
        audit.close()
        written = os.read(read_end, 1 << 20)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert not any(byte < 0x20 for byte in written[:-1])
    json.loads(written.decode())


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800x", "\\ud800x"),
        ("josé", "josé"),
        ("é\r\n", "é\\x0d\\x0a"),
    ],
    ids=["c1-control", "bidi-override", "surrogate", "honest-name", "line-end"],
)
def test_what_drives_a_terminal_is_escaped(hostile: str, shown: str) -> None:
    """An operator who reads the file with cat sees text, not effects; honest names stay readable."""
    assert printable(hostile, 100) == shown


def test_an_overlong_value_is_cut(tmp_path: Path) -> None:
    """100 KiB of path or subject cost a line no more than the bound."""
    audit = Audit(str(tmp_path / "audit"))
    audit.decision(**FACTS | {"path": "/" + "x" * 100_000, "host": "h" * 70_000}, subject="s" * 100_000)
    audit.close()
    (line,) = lines(tmp_path / "audit")
    assert len(line["path"]) == 1024
    assert len(line["subject"]) == 256
    assert line["path"].endswith("…")


def test_a_reader_that_stops_loses_lines_and_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe: bounded memory, lost lines counted, no call takes long; later lines are whole again."""
    monkeypatch.setattr(audit_module, "BUFFER_BYTES", 100_000)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    dropped: list[int] = []
    audit = Audit(str(fifo), on_drop=dropped.append)
    took = []
    for n in range(2000):
        began = time.perf_counter()
        audit.decision(**FACTS | {"request_id": str(n)})
        took.append(time.perf_counter() - began)
    assert sorted(took)[1980] < 0.01, "but for a few that the machine may have stopped at"
    assert len(audit._buffer) < 101_000
    assert sum(dropped) > 0
    received = bytearray()
    while audit._buffer:
        received += os.read(reader, 65536)
        audit.flush()
    audit.close()
    while piece := os.read(reader, 65536):
        received += piece
    os.close(reader)
    got = [json.loads(line) for line in received.splitlines()]
    assert len(got) + sum(dropped) == 2000


def test_a_blocking_pipe_is_never_waited_for() -> None:
    """Standard output may be a pipe in blocking mode that nobody reads: the loop goes on all the same."""
    read_end, write_end = os.pipe()
    saved = os.dup(1)
    os.dup2(write_end, 1)
    try:
        audit = Audit("-")
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    done = threading.Event()

    def write() -> None:
        for _ in range(3000):
            audit.decision(**FACTS)
        audit.close()
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(30.0)
    os.close(read_end)
    os.close(write_end)


def test_a_dead_reader_raises_nothing(tmp_path: Path) -> None:
    """EPIPE loses the lines at hand, counts them, and the next line is tried again."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    dropped: list[int] = []
    audit = Audit(str(fifo), on_drop=dropped.append)
    os.close(reader)
    audit.decision(**FACTS)
    audit.flush()
    audit.decision(**FACTS)
    audit.close()
    audit.close()
    assert sum(dropped) == 2


def test_a_line_cut_by_a_full_disk_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a write that failed half-way the next line starts on a line of its own."""
    path = tmp_path / "audit"
    audit = Audit(str(path))
    audit.decision(**FACTS)
    really_write = os.write
    pieces = iter([10, None])

    def full_disk(fd: int, data: memoryview) -> int:
        size = next(pieces)
        if size is None:
            raise OSError(28, "No space left on device")
        return really_write(fd, data[:size])

    monkeypatch.setattr("authproxy.audit.os.write", full_disk)
    audit.flush()
    monkeypatch.setattr("authproxy.audit.os.write", really_write)
    audit.decision(**FACTS)
    audit.close()
    assert json.loads(path.read_bytes().splitlines()[-1]) == FACTS


def test_reopen_follows_a_rotated_file(tmp_path: Path) -> None:
    """After a rotation lines go to the new file, and none is lost or doubled."""
    path = tmp_path / "audit"
    audit = Audit(str(path))
    audit.decision(**FACTS)
    path.rename(tmp_path / "audit.1")
    audit.reopen()
    audit.decision(**FACTS)
    audit.close()
    assert len(lines(tmp_path / "audit.1")) == len(lines(path)) == 1


def test_reopen_keeps_the_old_file_when_the_new_one_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that vanished is logged; lines go on to where they went."""
    folder = tmp_path / "logs"
    folder.mkdir()
    audit = Audit(str(folder / "audit"))
    folder.rename(tmp_path / "moved")
    audit.reopen()
    audit.decision(**FACTS)
    audit.close()
    assert len(lines(tmp_path / "moved" / "audit")) == 1
    assert "audit-reopen-failed" in capsys.readouterr().err


def test_the_file_is_the_operators_alone(tmp_path: Path) -> None:
    """Who called what is nobody else's business: mode 0600."""
    Audit(str(tmp_path / "audit")).close()
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o600


def test_the_log_is_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """One event, one line, hostile values escaped."""
    get_logger("limits").warning("store-lost", detail='a\n{"event": "forged"}\ud800')
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    event = json.loads(written)
    assert (event["event"], event["area"], event["level"]) == ("store-lost", "limits", "warning")


@pytest.fixture
def _standard_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    configure_logging("info")


@pytest.mark.usefixtures("_standard_logging")
def test_what_libraries_log_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each with its facts, however often logging is configured; hostile text stays in its line."""
    configure_logging("debug")
    configure_logging("info")
    logger = logging.getLogger("authproxy.identity.providers.jwks")
    logger.warning("keys not fetched: %s", 'x\n{"event": "forged"}', extra={"tenant": "acme"})
    logger.debug("not written")
    try:
        int("boom")
    except ValueError:
        logger.exception("unexpected")
    logger.critical("worse")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["event"] == 'keys not fetched: x\n{"event": "forged"}'
    assert (first["tenant"], first["area"], first["level"]) == ("acme", "authproxy.identity.providers.jwks", "warning")
    assert (second["event"], second["level"]) == ("unexpected", "error")
    assert "ValueError" in second["exception"]
    assert third["level"] == "error"
