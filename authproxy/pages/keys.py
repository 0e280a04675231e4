"""
``GET /.portero/jwks.json``: the public keys of what Portero signs, for functions and whoever else verifies it.

Anybody may read them, pages of any origin too. Refuses to know which key signs.

Source: RFC 7517 section 5.
"""

from __future__ import annotations

from typing import Final

from authproxy.pages.answers import document
from authproxy.pages.parts import Answered, Parts

METHODS: Final = ("GET", "HEAD")
MAX_AGE_S: Final = 300
"""A key is shown for as long before anything is signed with it (``KeyFolder``)."""
_FIELDS: Final = (
    ("Cache-Control", f"public, max-age={MAX_AGE_S}"),
    ("X-Content-Type-Options", "nosniff"),
    ("Access-Control-Allow-Origin", "*"),
)


async def answer(parts: Parts, _visit: object) -> Answered:
    """See the module."""
    return document(parts.jwks(), fields=_FIELDS)
