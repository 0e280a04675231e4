"""``survey-report``: ``GET /`` sums up all countries, ``GET /by-country/<c>`` one. For analysts: the policy says so."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from authproxy.demo.functions import answers
from authproxy.demo.functions.watchdog import Answer, Event


def handle(event: Event) -> Answer:
    scores: dict[str, list[int]] = defaultdict(list)
    for answer in answers.read_all():
        scores[answer["country"]].append(answer["score"])
    asked_by = {"asked_by": event.caller}

    match event.path.strip("/").split("/"):
        case [""]:
            return Answer.json({"countries": {name: summary(scores[name]) for name in sorted(scores)}} | asked_by)
        case ["by-country", country] if country in scores:
            return Answer.json({"country": country} | summary(scores[country]) | asked_by)
        case ["by-country", country]:
            return Answer.json({"error": f"no answers from {country!r} yet"}, 404)
    return Answer.json({"error": "ask for / or /by-country/<country>"}, 404)


def summary(scores: list[int]) -> dict[str, Any]:
    return {"answers": len(scores), "average": round(sum(scores) / len(scores), 2)}
