"""
What pydantic found wrong with a document's shape, in words for operators: what is wrong and what was expected.

This module refuses to know files and positions; it answers with the path to the value.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policies.model import AS_MAPPING, AS_TEXT, Part
from policies.positions import Path
from policies.quantities import DURATION, EXPECTED, RATE, SIZE

_TAGS: Final = frozenset({AS_TEXT, AS_MAPPING})
_KEY: Final = "[key]"
"""Pydantic's last step when a mapping's key is meant, not its value."""
_BOOLEANS_OF_1_1: Final = {
    **dict.fromkeys(("yes", "Yes", "YES", "y", "Y", "on", "On", "ON"), "true"),
    **dict.fromkeys(("no", "No", "NO", "n", "N", "off", "Off", "OFF"), "false"),
}
_WITH_UNITS: Final = {
    **dict.fromkeys(("rate", "wakes"), RATE),
    **dict.fromkeys(("max_wait", "connect", "first_byte", "idle", "total", "absolute", "max_age"), DURATION),
    **dict.fromkeys(("max_token_lifetime", "token_lifetime"), DURATION),
    **dict.fromkeys(("max_body", "held_bytes"), SIZE),
}
"""Keys whose values are a number with its unit."""
_MISSING: Final = {
    "audiences": "; without it tokens meant for others would be believed",
    "algorithms": "; which signatures are believed is never a default",
    "version": "; expected version: 1",
}


class Misshapen(NamedTuple):
    """One mistake: the path of the value, or of its key, and the message."""

    path: Path
    message: str
    is_at_key: bool


def misshapen(model: type[Part], error: ValidationError) -> Iterator[Misshapen]:
    """Each mistake of ``error``, which ``model`` raised. What is null is left out: it has been reported already."""
    for detail in error.errors(include_url=False, include_context=True):
        kind = detail["type"]
        if detail["input"] is None and kind not in ("missing", "extra_forbidden"):
            continue
        if kind == "too_short" and detail["input"]:
            continue  # its items are wrong, and each has been reported
        location = detail["loc"]
        is_at_key = kind == "extra_forbidden" or location[-1:] == (_KEY,)
        path = tuple(step for step in location if step not in _TAGS and step != _KEY)
        if kind == "missing":
            yield Misshapen(path[:-1], f"{path[-1]!r} is missing{_MISSING.get(str(path[-1]), '')}", is_at_key=False)
        elif kind == "extra_forbidden":
            yield Misshapen(path, _unknown_key(model, location), is_at_key=True)
        elif path == ("version",):
            yield Misshapen(path, f"this Portero reads version: 1, not {show(detail['input'])}", is_at_key=False)
        else:
            yield Misshapen(path, _SAYINGS.get(kind, _as_pydantic_says)(detail), is_at_key)


def _unknown_key(model: type[Part], location: Path) -> str:
    key = str(location[-1])
    known = _keys_at(model, location[:-1])
    near = get_close_matches(key, known, 1, 0.5)
    if key == "<<":
        return "merge keys (<<) are refused: write the values out"
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    return f"unknown key {show(key)}; {hint}"


def _keys_at(model: type[Part], location: Path) -> list[str]:
    here: Any = model
    for step in location:
        here = _step(here, step)
    part = _bare(here)
    if not _is_model(part):
        return []
    return [field.alias or name for name, field in part.model_fields.items()]


def _step(annotation: Any, step: str | int) -> Any:
    """The type that ``step`` leads to from a value of type ``annotation``."""
    bare = _bare(annotation)
    if step == AS_MAPPING:
        return next((member for member in map(_bare, get_args(bare)) if _is_model(member)), bare)
    if _is_model(bare):
        for name, field in bare.model_fields.items():
            if step == (field.alias or name):
                return field.annotation
    if get_origin(bare) in (dict, tuple):
        return get_args(bare)[1 if get_origin(bare) is dict else 0]
    return None


def _bare(annotation: Any) -> Any:
    """``annotation`` without Annotated and without ``| None``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            if len(members) != 1:
                return annotation
            annotation = members[0]
        else:
            return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def show(value: object) -> str:
    """A value as it stands in a message: short, on one line, whatever a stranger wrote."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def what(value: object) -> str:
    """What a value of a wrong kind is, in YAML's words."""
    match value:
        case bool():
            return f"{str(value).lower()} is a truth value in YAML"
        case int() | float():
            return f"{show(value)} is a number in YAML"
        case dict():
            return "a mapping stands here"
        case list():
            return "a list stands here"
        case str():
            return f"{show(value)} is text"
        case _:
            return "nothing stands here"


def _text_expected(detail: ErrorDetails) -> str:
    value = detail["input"]
    if isinstance(value, bool | int | float):
        pattern = _WITH_UNITS.get(str(detail["loc"][-1])) if detail["loc"] else None
        if pattern is not None:  # quoting a number would not help
            return f"{show(value)} is not {EXPECTED[pattern]}"
        return f"{what(value)}; expected text: quote it"
    return f"{what(value)}; expected text"


def _bool_expected(detail: ErrorDetails) -> str:
    value = detail["input"]
    if isinstance(value, str) and value in _BOOLEANS_OF_1_1:
        return f"{show(value)} is text in YAML 1.2; write {_BOOLEANS_OF_1_1[value]}"
    return f"{what(value)}; expected true or false"


def _list_expected(detail: ErrorDetails) -> str:
    value = detail["input"]
    hint = f", such as [{value}]" if isinstance(value, str) and len(value) < 40 and value.isprintable() else ""
    return f"{what(value)}; expected a list{hint}"


def _pattern_missed(detail: ErrorDetails) -> str:
    pattern = str(detail.get("ctx", {}).get("pattern"))
    return f"{show(detail['input'])} is not {EXPECTED.get(pattern, pattern)}"


def _literal_missed(detail: ErrorDetails) -> str:
    value = detail["input"]
    expected = str(detail.get("ctx", {}).get("expected", ""))
    if "algorithms" in detail["loc"] and str(value).lower() in ("none", "hs256", "hs384", "hs512"):
        return f"{show(value)} is never believed: who can verify such a token can forge it; expected one of {expected}"
    if detail["loc"] == ("mode", AS_TEXT):
        return f"{show(value)} is unknown here; expected 'enforce' or 'disabled', or {{shadow: [policy, limits]}}"
    if not isinstance(value, str):
        return f"{what(value)}; expected {expected}"
    near = get_close_matches(str(value), [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")], 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{show(value)} is unknown here; {hint}expected {expected}"


def _as_pydantic_says(detail: ErrorDetails) -> str:
    return f"{show(detail['input'])}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


_SAYINGS: Final[Mapping[str, Callable[[ErrorDetails], str]]] = {
    "string_type": _text_expected,
    "bool_type": _bool_expected,
    "int_type": lambda detail: f"{what(detail['input'])}; expected a whole number",
    "model_type": lambda detail: f"{what(detail['input'])}; expected a mapping (key: value)",
    "dict_type": lambda detail: f"{what(detail['input'])}; expected a mapping (key: value)",
    "tuple_type": _list_expected,
    "too_short": lambda _: "nothing is in it, so it could never match; expected at least one item",
    "string_too_short": lambda _: "the text is empty",
    "string_too_long": lambda detail: (
        f"the text is too long; expected at most {detail['ctx']['max_length']} characters"
    ),
    "string_pattern_mismatch": _pattern_missed,
    "literal_error": _literal_missed,
    "greater_than_equal": lambda detail: (
        f"{show(detail['input'])} is too small; expected at least {detail['ctx']['ge']}"
    ),
    "less_than_equal": lambda detail: f"{show(detail['input'])} is too large; expected at most {detail['ctx']['le']}",
}
