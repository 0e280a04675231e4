"""
The page that a browser gets instead of a refusal, or of an answer that is not there yet: it comes back by itself.

``cold_start: {overflow: page}`` says where a refusal becomes one; status, reason and ``Retry-After`` stay what they
are, so that programs and caches see the refusal. Nothing runs in it: the browser loads its own address again, with GET
and without anything that was sent. Refuses to know functions and clocks.

Source: HTML Living Standard section 4.2.5.3 (refresh).
"""

from __future__ import annotations

from html import escape
from typing import Final

from policies.decision import Problem
from policies.problem import STYLE, as_sentence

SOONEST_S: Final = 1
LATEST_S: Final = 300
"""A page that comes back later than that has been forgotten by who looks at it."""
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><meta http-equiv="refresh" content="{seconds}"><link rel="icon" href="data:,">
<title>{title}</title><style>{style}</style></head><body><main>
<h1>{title}</h1><p>{detail}</p><p>This page comes back by itself in {seconds}&nbsp;{unit}.</p>
<p><a class="button quiet" href="">Try again now</a></p>
<dl><dt>Request</dt><dd>{request_id}</dd></dl>
</main></body></html>
"""


def waiting_page(
    retry_after_s: int,
    request_id: str,
    *,
    title: str = "One moment, please",
    detail: str = "What you asked for is starting, and others are waiting too",
) -> bytes:
    """
    The page as UTF-8; to be sent with the fields of any page of ``problem``. Never raises.

    Args:
        retry_after_s: when it comes back; held to 1 to 300 seconds.
        request_id: shown.
        title: of the page, and its heading.
        detail: one sentence.
    """
    seconds = max(SOONEST_S, min(retry_after_s, LATEST_S))
    page = _PAGE.format(
        style=STYLE,
        seconds=seconds,
        unit="second" if seconds == 1 else "seconds",
        title=escape(title),
        detail=escape(as_sentence(detail)),
        request_id=escape(request_id),
    )
    return page.encode("utf-8", "replace")


def as_waiting_page(document: Problem, request_id: str) -> Problem:
    """
    ``document`` as the page that comes back, when it is a page and says when to; else ``document`` itself.

    A refusal that waiting does not heal has no ``Retry-After``, and a page that came back for it would never end.
    """
    fields = dict(document.fields)
    after = fields.get("Retry-After", "")
    if not fields.get("Content-Type", "").startswith("text/html") or not after.isdecimal():
        return document
    return Problem(document.status, document.fields, waiting_page(int(after), request_id), document.reason)
