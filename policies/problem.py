"""
Refusals as HTTP: status, fields, body. Statuses are written here and nowhere else (docs/http.md shows the same table).

The body is RFC 9457 problem+json, or a small page for a browser's navigation. It says what the caller may know: the
reason's one word, one sentence, the request's id. It never repeats what the caller sent and never an exception's text
(AP-R52); which rule refused stands in the audit and in ``explain``.

Refuses to know policies, clocks and sockets. Source: RFC 9457; RFC 9110 sections 10.2.1, 10.2.3, 15.5; RFC 6750
section 3; RFC 6585; draft-ietf-httpapi-ratelimit-headers-10; RFC 9651 (structured fields).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from types import MappingProxyType
from typing import Final

from policies.decision import Challenge, Deny, Problem, Reason
from policies.dpop import PROOF_ALGORITHMS
from policies.ratelimit import ratelimit_fields

_WORDS: Final[dict[Reason, tuple[int, str, str]]] = {
    Reason.BAD_REQUEST: (400, "Bad request", "The request is not well-formed."),
    Reason.BODY_MALFORMED: (400, "Malformed body", "The body broke its own framing."),
    Reason.TENANT_CONFLICT: (400, "Tenant conflict", "A field of the request names another tenant."),
    Reason.CREDENTIAL_AMBIGUOUS: (400, "Ambiguous credential", "The request brings more than one credential."),
    Reason.LOGIN_FAILED: (400, "Login failed", "The login could not be completed; start it again."),
    Reason.CREDENTIAL_MISSING: (401, "Credential missing", "The request brings no credential."),
    Reason.CREDENTIAL_INVALID: (401, "Credential invalid", "The credential was not accepted."),
    Reason.SESSION_EXPIRED: (401, "Session expired", "The session is over; log in again."),
    Reason.NO_RULE_ALLOWS: (403, "Not allowed", "No rule allows this."),
    Reason.DENIED_BY_RULE: (403, "Denied", "A rule denies this."),
    Reason.TENANT_MISMATCH: (403, "Wrong tenant", "The credential is not for the tenant of this host."),
    Reason.TENANT_DISABLED: (403, "Tenant disabled", "This tenant is switched off."),
    Reason.ORIGIN_REFUSED: (403, "Origin refused", "Requests from this origin are not accepted."),
    Reason.PASS_INVALID: (403, "Pass invalid", "The request's pass is missing, was used, or is not for it."),
    Reason.TENANT_UNKNOWN: (404, "Unknown host", "No tenant is served under this host."),
    Reason.ROUTE_UNKNOWN: (404, "Unknown path", "Nothing is served under this path."),
    Reason.FUNCTION_UNKNOWN: (404, "Unknown function", "There is no such function."),
    Reason.RESULT_UNKNOWN: (404, "Unknown result", "There is no such result, or it is no longer kept."),
    Reason.METHOD_NOT_ALLOWED: (405, "Method not allowed", "This method is not served here."),
    Reason.REQUEST_TIMEOUT: (408, "Request timeout", "The request did not arrive in time."),
    Reason.BODY_TOO_LARGE: (413, "Body too large", "The body is larger than the function accepts."),
    Reason.HEAD_TOO_LARGE: (431, "Head too large", "The request's head is too large."),
    Reason.HOST_MISDIRECTED: (421, "Misdirected request", "The connection was made for another host."),
    Reason.HTTPS_REQUIRED: (426, "HTTPS required", "This path is served over https alone."),
    Reason.RATE_LIMITED: (429, "Too many requests", "A limit is used up."),
    Reason.CONCURRENCY_LIMITED: (429, "Too many at once", "Too many requests are running at once."),
    Reason.WAKE_LIMITED: (429, "Too many cold starts", "Too many functions were woken lately."),
    Reason.QUEUE_FULL: (429, "Queue full", "Too many requests wait for this function."),
    Reason.TOO_MANY_FAILURES: (429, "Too many failures", "Too many bad credentials came from this address."),
    Reason.INTERNAL_ERROR: (500, "Internal error", "The request could not be judged."),
    Reason.UPSTREAM_UNREACHABLE: (502, "Function unreachable", "The function could not be reached."),
    Reason.UPSTREAM_CLOSED: (502, "Function closed", "The function closed the connection before it had answered."),
    Reason.UPSTREAM_GARBLED: (502, "Function garbled", "The function's answer is not HTTP."),
    Reason.UPSTREAM_TIMEOUT: (504, "Function timeout", "The function did not answer in time."),
    Reason.COLD_START_TIMEOUT: (504, "Cold start timeout", "The function did not wake in time."),
    Reason.KEYS_UNAVAILABLE: (503, "Keys unavailable", "The keys that credentials are checked with cannot be had."),
    Reason.PROVIDER_UNAVAILABLE: (503, "Provider unavailable", "The identity provider does not answer."),
    Reason.SESSION_STORE_UNAVAILABLE: (503, "Sessions unavailable", "Sessions cannot be read at the moment."),
    Reason.WAKE_FAILED: (503, "Wake failed", "The function could not be woken."),
    Reason.FUNCTION_ASLEEP: (503, "Function asleep", "The function sleeps, and this request does not wake it."),
    Reason.OVERLOADED: (503, "Overloaded", "There is more to do than can be done at the moment."),
    Reason.POLICY_UNAVAILABLE: (503, "Policy unavailable", "No policy is loaded."),
    Reason.DRAINING: (503, "Draining", "This server is going down; another will answer."),
    Reason.CLIENT_GONE: (499, "Client gone", "The client closed the connection."),
}
"""Reason -> status, title, sentence. 499 is never written: nobody is left to read it; it stands in the audit."""

STATUS: Final[Mapping[Reason, int]] = MappingProxyType({reason: words[0] for reason, words in _WORDS.items()})
"""Reason -> status. The one exception: ``head-too-large`` is 414 when the target was too large (``Deny.part``)."""

_URI_TOO_LONG: Final = 414
_FOUND: Final = 302
_FORBIDDEN: Final = 403
_MAX_DETAIL_CHARS: Final = 400
_RETRY_AFTER_S: Final = {
    Reason.DRAINING: 1,
    Reason.OVERLOADED: 1,
    Reason.QUEUE_FULL: 1,
    Reason.CONCURRENCY_LIMITED: 1,
    Reason.KEYS_UNAVAILABLE: 5,
    Reason.PROVIDER_UNAVAILABLE: 5,
    Reason.SESSION_STORE_UNAVAILABLE: 5,
    Reason.WAKE_FAILED: 5,
    Reason.FUNCTION_ASLEEP: 5,
    Reason.POLICY_UNAVAILABLE: 5,
}
"""Seconds, where waiting helps and the refusal does not know better."""
_QUOTA_REASONS: Final = frozenset({Reason.RATE_LIMITED, Reason.CONCURRENCY_LIMITED, Reason.WAKE_LIMITED})
STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #556172; --paper: #f3f5f8; --card: #fff; --line: #d8dee6;
  --accent: #1d5bb8; --on-accent: #fff; --hover: #164a97 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf2; --soft: #a7b2c0; --paper: #11151a; --card: #1a2028;
  --line: #323c48; --accent: #8db8ff; --on-accent: #0c1726; --hover: #b3d0ff } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; min-height: 100svh; display: grid; place-items: center; padding: 1rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
main { width: 100%; max-width: 30rem; padding: 1.75rem 1.5rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .75rem }
h1 { margin: 0 0 .5rem; font-size: 1.5rem; line-height: 1.25 } p { margin: 0 0 1rem }
.tenant { margin: 0 0 1.25rem; color: var(--soft); font-size: .875rem }
.tenant b { color: var(--ink); font-weight: 600 }
dl { display: grid; grid-template-columns: auto 1fr; gap: .375rem 1rem; margin: 1.25rem 0 0; padding-top: 1rem;
  border-top: 1px solid var(--line); font-size: .875rem } dt { color: var(--soft) } dd { margin: 0 }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem }
dd ul { display: flex; flex-wrap: wrap; gap: .375rem }
dd li { padding: 0 .5rem; border: 1px solid var(--line); border-radius: .5rem }
@media (max-width: 22rem) { dl { grid-template-columns: 1fr; gap: 0 } dd { margin: 0 0 .5rem } }
form, dl + p { margin: 1.5rem 0 0 }
.button { display: block; width: 100%; min-height: 2.75rem; padding: .625rem 1rem; border: 0; border-radius: .5rem;
  background: var(--accent); color: var(--on-accent); font: inherit; font-weight: 600; line-height: 1.5;
  text-align: center; text-decoration: none; cursor: pointer }
.button:hover { background: var(--hover) }
.quiet { background: none; color: var(--accent); border: 1px solid var(--line) }
.quiet:hover { background: none; border-color: currentColor }
a { color: var(--accent) } :focus-visible { outline: .1875rem solid var(--accent); outline-offset: .1875rem }
"""
"""Of every page that Portero writes; light and dark, for a phone first. Nothing is loaded from anywhere."""
STYLE_SOURCE: Final = f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"
"""What a Content-Security-Policy lets in by: this style and no other."""
_PAGE_POLICY: Final = (
    f"default-src 'none'; style-src {STYLE_SOURCE}; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><link rel="icon" href="data:,">
<title>{title}</title><style>{style}</style></head><body><main>
<h1>{title}</h1><p>{detail}</p>
<dl><dt>Status</dt><dd>{status}</dd><dt>Reason</dt><dd>{reason}</dd><dt>Request</dt><dd>{request_id}</dd></dl>{more}
</main></body></html>
"""


_WHO_AM_I: Final = '<p><a class="button quiet" href="/.portero/whoami">Who am I here?</a></p>'
"""For who is logged in and refused: perhaps under another account there is a way."""


def problem(
    refusal: Challenge | Deny, request_id: str, *, accepts_html: bool = False, has_session: bool = False
) -> Problem:
    """
    The refusal as every edge writes it. Never raises, whatever stands in ``refusal``.

    Args:
        refusal: its ``detail`` is shown when there is one, else the reason's own sentence.
        request_id: shown, and made safe for a field.
        accepts_html: a browser's navigation: a page instead of JSON.
        has_session: somebody is logged in: a page of 403 leads to who that is.
    """
    reason = refusal.reason
    request_id = _field_value(request_id)
    status, title, sentence = _WORDS[reason]
    if isinstance(refusal, Deny) and refusal.part == "target":
        status, title = _URI_TOO_LONG, "Target too long"
    detail = _sentence(refusal.detail) or sentence
    members: dict[str, object] = {
        "type": f"urn:portero:reason:{reason.value}",
        "title": title,
        "status": status,
        "detail": detail,
        "reason": reason.value,
        "request_id": request_id,
    }
    fields = [
        ("Content-Type", "text/html; charset=utf-8" if accepts_html else "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("X-Portero-Reason", reason.value),
        ("X-Request-Id", request_id),
    ]
    if isinstance(refusal, Challenge):
        fields.append(("WWW-Authenticate", _challenge(refusal, detail)))
    else:
        fields += _deny_fields(refusal)
        if reason in _QUOTA_REASONS and (exhausted := [s.id for s in refusal.limits if s.remaining <= 0]):
            members["violated-policies"] = exhausted
    if not accepts_html:
        # ensure_ascii: whatever stands in a detail, the body is ASCII and cannot be read in another coding.
        body = json.dumps(members, ensure_ascii=True).encode("ascii") + b"\n"
        return Problem(status, tuple(fields), body, reason, members)
    fields += [
        ("Content-Security-Policy", _PAGE_POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ]
    page = _PAGE.format(
        style=STYLE,
        status=status,
        title=escape(title),
        detail=escape(as_sentence(detail)),
        reason=escape(reason.value),
        request_id=escape(request_id),
        more=_WHO_AM_I if has_session and status == _FORBIDDEN else "",
    )
    return Problem(status, tuple(fields), page.encode("utf-8", "replace"), reason, members)


def login_redirect(refusal: Challenge | Deny, location: str, request_id: str) -> Problem:
    """
    A browser's navigation goes to the login instead of the 401 that everything else gets (``navigation.py``).

    ``location`` is relative to our host, printable ASCII.
    """
    fields = (
        ("Location", _field_value(location)),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Portero-Reason", refusal.reason.value),
        ("X-Request-Id", _field_value(request_id)),
    )
    return Problem(_FOUND, fields, b"", refusal.reason)


def as_sentence(detail: str) -> str:
    """A refusal's ``detail`` as it stands on a page: with a full stop, and a capital unless it begins with a name."""
    if detail.partition(" ")[0].isalpha():
        detail = detail[0].upper() + detail[1:]
    return detail if not detail or detail.endswith((".", "!", "?")) else f"{detail}."


def field_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """
    ``fields`` as ``name: value CRLF`` lines.

    Names are Portero's own. A value that is not visible ASCII has each such character replaced by ``?``: a line of its
    own can never begin in one.
    """
    return "".join([f"{name}: {_field_value(value)}\r\n" for name, value in fields]).encode("ascii")


def _deny_fields(deny: Deny) -> list[tuple[str, str]]:
    fields = []
    retry_after_s = deny.retry_after_s if deny.retry_after_s is not None else _RETRY_AFTER_S.get(deny.reason)
    if retry_after_s is not None:
        fields.append(("Retry-After", str(max(1, retry_after_s))))
    if deny.reason is Reason.METHOD_NOT_ALLOWED:
        fields.append(("Allow", ", ".join(deny.allowed_methods)))
    if deny.reason is Reason.HTTPS_REQUIRED:
        # RFC 9110 section 15.5.22 demands an Upgrade field; RFC 2817 names the token. Nobody is upgraded on this port.
        fields += [("Upgrade", "TLS/1.2, HTTP/1.1"), ("Connection", "upgrade")]
    fields += ratelimit_fields(deny.limits)
    return fields


def _challenge(challenge: Challenge, detail: str) -> str:
    """RFC 6750 section 3: no error code when no credential was sent, so that nothing is told to who asks nothing."""
    value = f"{challenge.scheme} realm={_quoted(challenge.tenant or 'portero')}"
    if challenge.error is not None:
        value += f", error={_quoted(challenge.error)}, error_description={_quoted(detail)}"
    if challenge.scheme == "DPoP":
        value += f", algs={_quoted(' '.join(PROOF_ALGORITHMS))}"  # RFC 9449 section 7.1
    return value


def _sentence(text: str) -> str:
    """One line of at most 400 characters, without control characters and lone surrogates."""
    if not text.isprintable():
        text = "".join([c if c.isprintable() else " " for c in text])
    return text[:_MAX_DETAIL_CHARS]


def _field_value(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join([c if " " <= c <= "~" else "?" for c in text])


def _quoted(text: str) -> str:
    """A quoted-string (RFC 9110 section 5.6.4); RFC 6750 allows neither quote nor backslash inside, so neither is."""
    return '"' + _field_value(text).replace("\\", "/").replace('"', "'") + '"'
