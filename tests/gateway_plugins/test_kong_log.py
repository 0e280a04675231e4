"""One line an event, its level in brackets, and nothing in it that a client chose can be anything but text."""

from __future__ import annotations

import logging

import pytest

from authproxy.audit import get_logger
from gateway_plugins.kong_log import MAX_LINE_CHARS, Throttle, configure_kong_log, line


def test_a_line_says_its_level_its_area_and_its_facts() -> None:
    """Kong adds time, name and process number."""
    event = {"event": "instance-started", "level": "info", "area": "kong", "timestamp": "t", "id": 7, "plugin": "a b"}
    assert line(event) == '[info] kong: instance-started id=7 plugin="a b"'


@pytest.mark.parametrize(
    "hostile",
    [
        "a\nb",
        "a\r\n[error] forged",
        "\x1b[31m",
        "\x00",
        "\u202egnp",
        "\u2028",
        "\ud800",
        "é\x85",
        '"',
        "\\n",
        b"\xff\n",
        object(),
    ],
    ids=lambda value: "an object" if type(value) is object else ascii(value),
)
def test_what_comes_from_elsewhere_stays_on_its_line(hostile: object) -> None:
    """Neither a line break nor an escape sequence gets through, wherever it stands."""
    for event in (
        {"event": "x", "level": "error", "area": "kong", "fact": hostile},
        {"event": hostile, "level": hostile, "area": hostile},
        {"event": "x", "level": "error", "exception": hostile},
        {"event": "x", "level": "error", f"{hostile!s}": 1},
    ):
        text = line(event)
        assert text.isascii()
        assert text.isprintable()


def test_an_exception_comes_last_and_is_what_is_cut() -> None:
    """A long line is cut by nginx; what is told first is what happened."""
    text = line({"event": "failed", "level": "error", "area": "kong", "exception": "T\n" * 10_000, "plugin": "portero"})
    assert text.startswith('[error] kong: failed plugin="portero" exception="T\\nT\\n')
    assert len(text) <= MAX_LINE_CHARS + 10


def test_the_whole_process_logs_in_that_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loggers that were made before it is configured, too, and what libraries log by the standard means."""
    monkeypatch.setattr("authproxy.audit._form", None)
    earlier = get_logger("gate")
    configure_kong_log("warning")
    earlier.info("not-told")
    earlier.error("broken", exc_info=ValueError("two\nlines"), tenant="acme")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith('[error] gate: broken tenant="acme" exception="ValueError')
    assert first.endswith('ValueError: two\\nlines"')
    assert second.startswith("[warning] asyncio: slow callback")


def test_so_many_lines_a_second_and_no_more() -> None:
    """What was left out is told with the next that is written."""
    now = 100.0
    throttle = Throttle(2, clock=lambda: now)
    assert [throttle.admits() for _ in range(5)] == [True, True, False, False, False]
    now = 100.9
    assert not throttle.admits()
    now = 101.0
    assert throttle.admits()
    assert (throttle.taken(), throttle.taken()) == (4, 0)
