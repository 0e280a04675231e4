"""Request ids: 32 hex digits, so that one can be a W3C trace-id too."""

from __future__ import annotations

import os
from itertools import count
from typing import Final

_PREFIX: Final = os.urandom(8).hex()
_COUNTER: Final = count(int.from_bytes(os.urandom(6), "big"))


def new_request_id() -> str:
    """
    A name for one request: unique over processes (64 random bits) and within one (a counter).

    Not a secret and never used as one; a random UUID would cost 1.5 us and be no better name.
    """
    return f"{_PREFIX}{next(_COUNTER) & 0xFFFFFFFFFFFFFFFF:016x}"
