"""
The ``Prefer`` field: what a caller would like of how it is answered, of which two wishes matter here.

A wish is no demand: what cannot be read is as if it had not been said, and the request goes on without it. Source: RFC
7240 sections 2, 4.1 and 4.3.
"""

from __future__ import annotations

import re
from typing import Final

_PREFERENCE: Final = re.compile(rb'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("[^"\\]*"|[^\s";,]*))?\s*(?:;[^,]*)?\Z')
_LONGEST_WAIT_S: Final = 86_400
_MOST_PREFERENCES: Final = 16


def read_prefer(value: bytes) -> tuple[bool, float | None]:
    """
    Whether the caller would rather fetch the answer later, and the longest it will wait in seconds, None: not said.

    Of a wish that is said twice the first counts (RFC 7240 section 2). Never raises.
    """
    wants_async = False
    wait_s: float | None = None
    for part in value.split(b",", _MOST_PREFERENCES)[:_MOST_PREFERENCES]:
        match = _PREFERENCE.match(part)
        if match is None:
            continue
        name, said = match[1].lower(), (match[2] or b"").strip(b'"')
        if name == b"respond-async" and not said:
            wants_async = True
        elif name == b"wait" and wait_s is None and said.isdigit():
            wait_s = float(min(int(said[:9]), _LONGEST_WAIT_S))
    return wants_async, wait_s
