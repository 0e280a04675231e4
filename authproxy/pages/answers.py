"""
How a page's answer is put together: status, fields, body.

Every answer says whether it may be stored and where its address may be told on. HTML comes with a policy that lets
nothing in but its own style; where a form may lead to is said page by page. Refuses to know what a page is about.

Source: CSP level 3, RFC 9111 section 5.2.2.5 (no-store), Referrer Policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from authproxy.gate.verdict import PageAnswer
from authproxy.pages.render import STYLE_SOURCE, render
from policies.decision import Reason
from policies.principal import Principal
from policies.problem import STATUS

_SEE_OTHER: Final = 303
_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_NOT_STORED: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


def redirect(location: str, cookies: Iterable[str] = (), *, subject: str | None = None) -> PageAnswer:
    """
    303: the browser gets ``location`` next, with GET.

    ``location`` is a path of our host, or a provider's URL that ``is_location``; ``cookies`` are ``Set-Cookie`` values.
    """
    fields = (
        ("Location", location),
        *_NOT_STORED,
        ("Referrer-Policy", "no-referrer"),
        *set_cookies(cookies),
    )
    return PageAnswer(_SEE_OTHER, fields, subject=subject)


def page(
    template: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    form_action: Iterable[str] = (),
    cookies: Iterable[str] = (),
    reason: Reason | None = None,
    subject: str | None = None,
) -> PageAnswer:
    """
    An HTML page.

    ``form_action`` are the sources that a form may lead to, redirects included (CSP form-action); a page without a form
    gives none, and then ``'none'`` holds.
    """
    targets = " ".join(form_action) or "'none'"
    policy = (
        f"default-src 'none'; style-src {STYLE_SOURCE}; img-src data:; base-uri 'none'; "
        f"form-action {targets}; frame-ancestors 'none'"
    )
    # ``same-origin`` where a form stands: with ``no-referrer`` browsers send ``Origin: null`` even to ourselves.
    referrer = "no-referrer" if targets == "'none'" else "same-origin"
    fields = (
        ("Content-Type", "text/html; charset=utf-8"),
        *_NOT_STORED,
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", referrer),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        *_reason(reason),
        *set_cookies(cookies),
    )
    return PageAnswer(status, fields, render(template, values), reason, subject)


def document(
    members: Mapping[str, Any],
    *,
    status: int = 200,
    cookies: Iterable[str] = (),
    fields: Iterable[tuple[str, str]] = _NOT_STORED,
    reason: Reason | None = None,
    subject: str | None = None,
) -> PageAnswer:
    """A JSON object; ASCII, so that it cannot be read in another coding."""
    body = json.dumps(members, ensure_ascii=True).encode("ascii") + b"\n"
    every = (("Content-Type", "application/json"), *fields, *_reason(reason), *set_cookies(cookies))
    return PageAnswer(status, every, body, reason, subject)


def failure(error: str, description: str, reason: Reason) -> PageAnswer:
    """
    400 as OAuth has it (RFC 6749 section 5.2; Back-Channel Logout section 2.8).

    ``description`` is a constant sentence of ours: ASCII without quote and backslash, as the RFC wants it.
    """
    members = {"error": error, "error_description": description}
    return document(members, status=STATUS[Reason.BAD_REQUEST], reason=reason)


def set_cookies(values: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple(("Set-Cookie", value) for value in values)


def cookies_of(principal: Principal) -> tuple[str, ...]:
    """The ``Set-Cookie`` values that identifying the browser came to: a session renewed, or over."""
    lines = principal.set_cookie.decode("ascii", "replace").split("\r\n") if principal.set_cookie else []
    return tuple(line.partition(": ")[2] for line in lines if line.startswith("Set-Cookie: "))


def is_location(url: str) -> bool:
    """Whether ``url`` may stand in ``Location``: http(s) with a plain authority, visible ASCII, nothing else."""
    return url.isascii() and url.isprintable() and " " not in url and origin_of(url) is not None


def origin_of(url: str) -> str | None:
    """Scheme and authority of ``url`` as a CSP names them; None when it has none that is plain (AP-R41)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    origin = f"{parts.scheme}://{parts.netloc.lower()}"
    return origin if _ORIGIN.fullmatch(origin) else None


def _reason(reason: Reason | None) -> tuple[tuple[str, str], ...]:
    return () if reason is None else (("X-Portero-Reason", reason.value),)
