"""``survey-submit``: takes one answer, as JSON or from the form. Public, with a limit per address in the policy."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import parse_qsl

from authproxy.demo.functions import answers
from authproxy.demo.functions.watchdog import Answer, Event


def handle(event: Event) -> Answer:
    if event.path == "/health":
        return Answer.json({"status": "ok"})
    if event.method != "POST":
        return Answer(b"send an answer with POST\n", 405, fields={"Allow": "POST"})
    try:
        answer = read_answer(event)
    except (ValueError, KeyError, TypeError):
        return Answer.json({"error": 'expected {"country": "es", "score": 1 to 5, "comment": "..."}'}, 400)
    try:
        answers.append(answer | {"at": time.time()})
    except answers.SurveyFull:
        return Answer.json({"error": "this survey takes no more answers"}, 507)
    return Answer.json({"thank you": answer}, 201)


def read_answer(event: Event) -> dict[str, Any]:
    """Raises ValueError, KeyError or TypeError when it is none."""
    is_form = event.headers.get_content_type() == "application/x-www-form-urlencoded"
    sent = dict(parse_qsl(event.body.decode())) if is_form else dict(json.loads(event.body))
    country, score = str(sent["country"]).lower(), int(sent["score"])
    if not (len(country) == 2 and country.isascii() and country.isalpha() and 1 <= score <= 5):
        raise ValueError
    return {"country": country, "score": score, "comment": str(sent.get("comment", ""))[:200]}
