"""The survey's functions and the runtime around them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from authproxy.demo.functions import answers, survey_report, survey_stream, survey_submit, survey_web
from authproxy.demo.functions.watchdog import Answer, Event


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty survey."""
    made = tmp_path / "answers.jsonl"
    made.touch()
    monkeypatch.setenv("SURVEY_ANSWERS", str(made))
    return made


def event(method: str = "GET", path: str = "/", body: bytes = b"", **fields: str) -> Event:
    headers = Message()
    for name, value in fields.items():
        headers[name.replace("_", "-")] = value
    return Event(method, path, {}, headers, body)


def content(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


def submit(**answer: Any) -> Answer:
    return survey_submit.handle(event("POST", body=json.dumps(answer).encode()))


def test_the_form_stands_at_the_root_only() -> None:
    """``survey-web`` has one page."""
    assert survey_web.handle(event()).status == 200
    assert survey_web.handle(event(path="/x")).status == 404


def test_answers_are_summed_up_by_country() -> None:
    """What is submitted is in the report, for all countries and for one."""
    for country, score in (("es", 4), ("ES", 5), ("fr", 1)):
        assert submit(country=country, score=score).status == 201
    report = content(survey_report.handle(event(X_Portero_Subject="login%7Cana")))
    assert report["countries"] == {"es": {"answers": 2, "average": 4.5}, "fr": {"answers": 1, "average": 1.0}}
    assert report["asked_by"] == "login|ana"
    assert content(survey_report.handle(event(path="/by-country/fr")))["answers"] == 1
    assert survey_report.handle(event(path="/by-country/xx")).status == 404
    assert survey_report.handle(event(path="/by-country/fr/x")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff",
        b"{}",
        b'{"country": "es"}',
        b'{"country": "es", "score": 0}',
        b'{"country": "es", "score": 6}',
        b'{"country": "es", "score": null}',
        b'{"country": "esp", "score": 3}',
        '{"country": "ññ", "score": 3}'.encode(),
        b'{"country": "..", "score": 3}',
    ],
)
def test_what_is_no_answer_is_400(body: bytes, file: Path) -> None:
    """Nothing of it is stored."""
    assert survey_submit.handle(event("POST", body=body)).status == 400
    assert file.read_bytes() == b""


def test_health_and_other_methods() -> None:
    """A health check writes nothing; anything but POST is 405."""
    assert survey_submit.handle(event(path="/health")).status == 200
    assert survey_submit.handle(event("GET")).status == 405
    assert survey_stream.handle(event("POST")).status == 405


def test_a_full_survey_takes_no_more(file: Path) -> None:
    """A demo left running does not fill the disk."""
    file.write_bytes(b" " * answers.MAX_FILE_BYTES)
    assert submit(country="es", score=3).status == 507
    assert file.stat().st_size == answers.MAX_FILE_BYTES


def test_a_stream_has_every_answer_from_its_start(file: Path) -> None:
    """From the moment it was asked for: no answer falls between the first byte and the first look."""
    file.write_text('{"country": "de", "score": 1}\n')
    stream = survey_stream.handle(event()).body
    assert not isinstance(stream, bytes)
    submit(country="es", score=3)
    with file.open("a") as opened:
        opened.write('{"country": "fr"')  # half a line, whose writer is slow
    assert next(stream).startswith(b":")
    assert b'"country": "es"' in next(stream)
    with file.open("a") as opened:
        opened.write(', "score": 5}\n')
    assert b'"country": "fr", "score": 5' in next(stream)


@pytest.fixture
def replica(file: Path) -> Iterator[tuple[str, int]]:
    """A running ``survey-submit``, as the platform starts it."""
    command = [sys.executable, "-m", "authproxy.demo.functions", "survey-submit"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield "127.0.0.1", int(process.stdout.readline())
        process.stdin.close()
        assert process.wait(timeout=5) == 0


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n1e\r\n" + b'{"country": "es", "score": 1 }' + b"\r\n0\r\n\r\n", b"201"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", b"413"),
        (b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n", b"413"),
        (b"Content-Length: x\r\n\r\n", b"400"),
        (b"Content-Length: 99999999\r\n\r\n", b"413"),
        (b"Content-Length: 0\r\n\r\n", b"400"),
    ],
)
def test_the_runtime_reads_bodies_in_bounds(replica: tuple[str, int], framing: bytes, status: bytes) -> None:
    """Chunked or counted; too large and broken ones are refused before the function sees them."""
    with socket.create_connection(replica, timeout=20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: f\r\n" + framing)
        assert connection.recv(1024).split()[1] == status


def test_a_name_that_is_no_function_is_a_usage_error() -> None:
    """No module but a function's is ever imported by name."""
    for name in ("watchdog", "../x", "survey_web", ""):
        command = [sys.executable, "-m", "authproxy.demo.functions", name]
        result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert result.returncode == 2
        assert "survey-web" in result.stderr
