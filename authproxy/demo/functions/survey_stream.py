"""``survey-stream``: live answers as server-sent events, for analysts. One event an answer, a comment a second else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from authproxy.demo.functions import answers
from authproxy.demo.functions.watchdog import Answer, Event


def handle(event: Event) -> Answer:
    if event.method != "GET":
        return Answer(b"listen with GET\n", 405, fields={"Allow": "GET"})
    return Answer(stream(answers.follow()), content_type="text/event-stream", fields={"Cache-Control": "no-store"})


def stream(new_answers: Iterator[dict[str, Any] | None]) -> Iterator[bytes]:
    yield b": waiting for answers\n\n"
    for answer in new_answers:
        if answer is None:
            yield b": still here\n\n"  # writing is how a server notices that its client left
        else:
            yield f"event: answer\ndata: {json.dumps(answer | {'written_at': time.time()})}\n\n".encode()
