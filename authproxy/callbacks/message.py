"""
What a callback says: the function's answer, and OpenFaaS's field names for what it was.

Receivers that were written for OpenFaaS's queue worker find what they know. Of the function's own fields only those are
passed on that the body cannot be read without. Refuses to know where it goes.

Source: OpenFaaS, asynchronous functions (callback headers); RFC 9110 section 8 (representation data).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from authproxy.callbacks.target import Target

USER_AGENT: Final = "portero"
_PASSED_ON: Final = {
    b"content-type": "Content-Type",
    b"content-encoding": "Content-Encoding",
    b"content-language": "Content-Language",
}
_MAX_VALUE_BYTES: Final = 1024
"""Of one such field: a media type has below 255 (RFC 6838 section 4.2), parameters with it."""
_VISIBLE: Final = bytes(range(0x20, 0x7F))


@dataclass(frozen=True, slots=True)
class Callback:
    """One result on its way."""

    tenant: str
    target: Target
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)


def callback_fields(
    call_id: str, function: str, status: int, duration_s: float, answer: Iterable[tuple[bytes, bytes]]
) -> tuple[tuple[str, str], ...]:
    """
    The fields of the message, ready to be sent.

    Args:
        call_id: the result's id; a receiver tells repeated deliveries by it.
        function: its name.
        status: of its answer, or of what Portero says instead.
        duration_s: how long the function took, the wait for it not counted.
        answer: the fields that the function gave. One whose value is not visible ASCII is left out, as is a repeated
            one.
    """
    fields = {
        "User-Agent": USER_AGENT,
        "X-Call-Id": call_id,
        "X-Function-Name": function,
        "X-Function-Status": str(status),
        "X-Duration-Seconds": f"{max(0.0, duration_s):.6f}",
    }
    for name, value in answer:
        passed = _PASSED_ON.get(name.lower())
        if passed is not None and len(value) <= _MAX_VALUE_BYTES and not value.translate(None, _VISIBLE):
            fields.setdefault(passed, value.decode("ascii").strip())
    fields.setdefault("Content-Type", "application/octet-stream")
    return tuple(fields.items())
