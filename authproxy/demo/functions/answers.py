"""
Where the survey's answers are kept: one file of JSON lines per namespace, shared by its functions.

A real survey would use a database; what matters here is that a tenant's functions see only their tenant's file, the
one that the platform names in ``SURVEY_ANSWERS``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

MAX_FILE_BYTES: Final = 1024 * 1024
"""A demo left running on the net must not fill the disk: some 8,000 answers."""


class SurveyFull(Exception):
    """No more answers are taken."""


def _file() -> Path:
    return Path(os.environ["SURVEY_ANSWERS"])


def append(answer: dict[str, Any]) -> None:
    """Add one answer. One write in append mode, so that replicas do not mix their lines. Raises: SurveyFull."""
    line = json.dumps(answer).encode() + b"\n"
    with _file().open("ab", buffering=0) as file:
        if file.tell() + len(line) > MAX_FILE_BYTES:
            raise SurveyFull
        file.write(line)


def read_all() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _file().read_bytes().splitlines()]


def follow(poll_s: float = 0.02) -> Iterator[dict[str, Any] | None]:
    """Answers appended after this call; None about once a second while there are none."""
    file = _file().open("rb")
    file.seek(0, os.SEEK_END)  # now, and not when the iterator is first asked: no answer may fall between
    return _lines(file, poll_s)


def _lines(file: BinaryIO, poll_s: float) -> Iterator[dict[str, Any] | None]:
    with file:
        silent_s = 0.0
        while True:
            line = file.readline()
            if line.endswith(b"\n"):
                silent_s = 0.0
                yield json.loads(line)
                continue
            file.seek(-len(line), os.SEEK_CUR)  # half a line: its writer is not done yet
            time.sleep(poll_s)
            silent_s += poll_s
            if silent_s >= 1:
                silent_s = 0.0
                yield None
