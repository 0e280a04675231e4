"""
JSON of a stranger, read strictly: one reading, bounded, or none at all.

It decides whether bytes are an object that every parser reads alike, and refuses to know what the members mean. What
is refused is what parsers disagree about (duplicate members, NaN, other encodings, lone surrogates) and what costs
more than it can be worth (depth, numbers of many digits).

Source: RFC 8259 sections 4, 6, 8 and 9; RFC 7515 section 5.2 step 3; rule AP-R25.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any, Final

MAX_DEPTH: Final = 16
"""Levels of nesting, the outer object being the first; JWKS need 4, Keycloak's claims 5."""
MAX_NUMBER_CHARS: Final = 40
"""Longest number: 2^64 has 20 digits, a double in full 24 characters."""


class NotStrict(ValueError):
    """The bytes are not one strict JSON object. Its text is for tests and never for a caller: it may quote input."""


def read_object(data: bytes, max_bytes: int, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """
    Parse ``data`` as one JSON object.

    Args:
        data: UTF-8 without byte order mark.
        max_bytes: refused unparsed beyond it.
        max_depth: levels of nesting, at least 1.

    Raises: NotStrict, and nothing else.
    """
    if len(data) > max_bytes:
        raise NotStrict("too long")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_real,
        )
    except (ValueError, RecursionError) as error:
        raise NotStrict("not strict JSON") from error
    if not isinstance(value, dict):
        raise NotStrict("not an object")
    _check_shape(value, max_depth)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrict("duplicate member")  # parsers differ in which one wins
    return members


def _constant(name: str) -> Any:
    raise NotStrict(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS:
        raise NotStrict("number too long")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_NUMBER_CHARS else float("inf")
    if not isfinite(value):
        raise NotStrict("number out of range")  # 1e999 would be infinity
    return value


def _check_shape(value: dict[str, Any], max_depth: int) -> None:
    """Level by level, not by recursion: the depth is what is being judged."""
    level: list[Any] = [value]
    for _ in range(max_depth):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                for name in item:
                    _check_text(name)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = below
    if any(isinstance(item, dict | list) for item in level):
        raise NotStrict("nested too deep")
    for item in level:
        if isinstance(item, str):
            _check_text(item)


def _check_text(text: str) -> None:
    """An escaped lone surrogate is a str that cannot be written anywhere later on."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise NotStrict("lone surrogate") from error
