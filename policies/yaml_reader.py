"""
Text to values, each with its line and column: YAML as policy files may use it, and nothing cleverer.

libyaml finds the structure (its events, one at a time, so that every bound holds before anything is built); the values
are ours: scalars are those of the YAML 1.2 core schema, where ``no``, ``on`` and ``12:30:45`` are text. What two
readers could understand differently is refused: duplicate keys, aliases, tags, several documents, line breaks that an
editor does not show. This module refuses to know what the values mean.

Source: YAML 1.2.2 sections 5.1 (characters), 10.3 (core schema); CVE-2021-42574 (text that shows other than it reads).

Longer than other modules: every way in which YAML can be more than was meant is refused in one place.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from policies.positions import Path, Spot, Spots, line_and_column, position

MAX_BYTES: Final = 8 * 1024 * 1024
"""One file; 10,000 rules are about 1.3 MiB."""
MAX_DEPTH: Final = 64
"""Nested lists and mappings; the format itself needs 8."""
MAX_NODES: Final = 500_000
"""Values of one file, keys included: bounds memory, which is some 200 bytes a value, not a byte a byte."""
MAX_DIGITS: Final = 18
"""Of a number: what fits 64 bits everywhere."""


class Flaw(NamedTuple):
    """A mistake of one file, whose name is not known here. 1-based."""

    line: int
    column: int
    message: str


class Reading(NamedTuple):
    """One file as read. With flaws, ``value`` holds what could be read up to a break-off, and must not be used."""

    value: Any
    spot: Spot
    flaws: list[Flaw]
    nulls: list[tuple[Path, int]]
    """Where nothing stands, with its position: what that means is the reader's question."""
    is_broken_off: bool
    """Nothing is known of what follows the last flaw."""


class _BreakOff(Exception):
    """Nothing after this can be read with sense."""

    def __init__(self, mark: Any, message: str) -> None:
        super().__init__(message)
        self.flaw = Flaw(mark.line + 1, mark.column + 1, message)


# What no policy file needs and what shows other than it reads: controls, separators that only some readers take for
# line breaks, lone carriage returns, bidirectional controls, surrogates, non-characters, and what has no width: a group
# with a zero-width space in it reads as another and never matches (no token's groups may hold one).
_FORBIDDEN: Final = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
    "|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164\uffa0\U000e0000-\U000e0fff]"
)


def decode(content: bytes) -> str | Flaw:
    """The text of a file, or why it is none: too large, empty, not UTF-8, or with characters that deceive."""
    if len(content) > MAX_BYTES:
        return Flaw(1, 1, f"the file has {len(content)} bytes; expected at most {MAX_BYTES}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place(content[: error.start].decode("utf-8-sig"))
        return Flaw(line, column, f"byte 0x{content[error.start]:02X} is not UTF-8; expected a text file in UTF-8")
    if found := _FORBIDDEN.search(text):
        line, column = _place(text[: found.start()])
        name = f"U+{ord(found[0]):04X}"
        return Flaw(line, column, f"the character {name} may not stand in a policy file: it shows other than it reads")
    if not text.strip():
        return Flaw(1, 1, "the file is empty; expected a mapping that starts with version: 1")
    return text


def _place(before: str) -> tuple[int, int]:
    """Line and column after ``before``."""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def read(content: bytes) -> Reading:
    """Read one file. Never raises: what is wrong with it is in ``flaws``."""
    text = decode(content)
    if isinstance(text, Flaw):
        return Reading(None, position(1, 1), [text], [], is_broken_off=True)
    builder = _Builder()
    is_broken_off = True
    try:
        loader = yaml.CSafeLoader(text)
        try:
            next_event = loader.get_event
            take = builder.take
            while (event := next_event()) is not None:
                take(event)
            is_broken_off = False
        finally:
            loader.dispose()
    except _BreakOff as broken:
        builder.flaws.append(broken.flaw)
    except yaml.MarkedYAMLError as error:
        builder.flaws.append(_syntax(error))
    except yaml.YAMLError:
        builder.flaws.append(Flaw(1, 1, "this is not YAML"))
    if not builder.is_begun and not builder.flaws:
        builder.flaws.append(Flaw(1, 1, "the file holds comments only; expected a mapping that starts with version: 1"))
    return Reading(builder.value, builder.spot, builder.flaws, builder.nulls, is_broken_off)


def _syntax(error: yaml.MarkedYAMLError) -> Flaw:
    """What libyaml says, with a hint where its words lead astray."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    problem = error.problem or "this is not YAML"
    if error.context == "while scanning an alias":
        return Flaw(line, max(column - 1, 1), 'a bare * begins an alias in YAML; quote it: "*"')
    if "maximum nesting depth" in problem:  # libyaml's own bound, which what it reads ahead meets before ours
        return Flaw(line, column, f"nested more than {MAX_DEPTH} levels deep")
    hint = ""
    if "cannot start any token" in problem:
        hint = "; indent with spaces, never tabs, and quote text that starts with @, ` or %"
    elif "mapping values are not allowed" in problem:
        hint = "; check the indentation, and quote text that holds ': '"
    context = f" {error.context}" if error.context else ""
    return Flaw(line, column, f"not YAML: {problem}{context}{hint}")


class _Frame:
    """A list or mapping under construction."""

    __slots__ = ("is_ignored", "items", "key", "key_at", "keys", "spots")

    def __init__(self, at: int, *, is_mapping: bool) -> None:
        self.items: Any = {} if is_mapping else []
        self.keys: dict[str, int] | None = {} if is_mapping else None
        self.spots = Spots(at, self.keys, {} if is_mapping else [])
        self.key: str | None = None
        """Of a mapping: the key whose value comes next."""
        self.key_at = 0
        self.is_ignored = False
        """The value that comes next belongs to a refused key."""


class _Builder:
    """Takes libyaml's events one by one and builds values beside their spots. No recursion: depth costs no stack."""

    def __init__(self) -> None:
        self.value: Any = None
        self.spot: Spot = position(1, 1)
        self.is_begun = False
        self.flaws: list[Flaw] = []
        self.nulls: list[tuple[Path, int]] = []
        self._stack: list[_Frame] = []
        self._nodes = 0

    def take(self, event: Any) -> None:
        kind = type(event)
        if kind is ScalarEvent:
            self._scalar(event)
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            done = self._stack.pop()
            self._place(done.items, done.spots)
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            self._refuse_extras(event)
            mark = event.start_mark
            if len(self._stack) >= MAX_DEPTH:
                raise _BreakOff(mark, f"nested more than {MAX_DEPTH} levels deep")
            frame = self._stack[-1] if self._stack else None
            if frame is not None and frame.keys is not None and frame.key is None and not frame.is_ignored:
                raise _BreakOff(mark, "a list or mapping cannot be a key; expected text")
            self._stack.append(_Frame(position(mark.line + 1, mark.column + 1), is_mapping=kind is MappingStartEvent))
        elif kind is AliasEvent:
            raise _BreakOff(event.start_mark, f"aliases (*{event.anchor}) are refused: write the value out; quote a *")
        elif kind is DocumentStartEvent:
            self._begin(event)
        elif kind is DocumentEndEvent:
            self.is_begun = True

    def _begin(self, event: Any) -> None:
        if self.is_begun:
            raise _BreakOff(event.start_mark, "a second document begins here; expected one document a file")
        if event.tags or event.version not in (None, (1, 2)):
            raise _BreakOff(event.start_mark, "directives are refused; policy files are YAML 1.2")

    def _refuse_extras(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _BreakOff(event.start_mark, f"more than {MAX_NODES} values in one file")
        if event.anchor is not None:
            raise _BreakOff(event.start_mark, f"anchors (&{event.anchor}) are refused: write the value out")
        if event.tag is not None:
            raise _BreakOff(event.start_mark, f"tags ({event.tag}) are refused; quote what shall be text")

    def _scalar(self, event: Any) -> None:
        self._refuse_extras(event)
        mark = event.start_mark
        at = position(mark.line + 1, mark.column + 1)
        value: Any = event.value
        is_plain = event.implicit[0]
        if is_plain and (not value or value[0] in _NOT_ALWAYS_TEXT):
            value = self._core(value, at)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.keys is not None and frame.key is None and not frame.is_ignored:
            self._key(frame, value, event.value, at)
        else:
            if value is None:
                self.nulls.append((self._path(), at))
            self._place(value, at)

    def _core(self, text: str, at: int) -> Any:
        value = core_scalar(text)
        if value is _TOO_LONG:
            self.flaws.append(
                Flaw(*line_and_column(at), f"a number of more than {MAX_DIGITS} digits; quote what is text")
            )
            return 0
        return value

    def _key(self, frame: _Frame, key: Any, text: str, at: int) -> None:
        if not isinstance(key, str):
            message = f'the key {text or "(nothing)"} is not text in YAML; quote it: "{text}"'
            self.flaws.append(Flaw(*line_and_column(at), message))
            frame.is_ignored = True
        elif key in frame.items:
            line = line_and_column((frame.keys or {})[key])[0]
            self.flaws.append(
                Flaw(*line_and_column(at), f"the key {key!r} stands here a second time, first in line {line}")
            )
            frame.is_ignored = True
        else:
            frame.key = key
            frame.key_at = at

    def _place(self, value: Any, spot: Spot) -> None:
        """Put a finished value where it belongs."""
        if not self._stack:
            self.value, self.spot = value, spot
            return
        frame = self._stack[-1]
        if frame.keys is None:
            frame.items.append(value)
            frame.spots.items.append(spot)  # type: ignore[union-attr]  # a list's frame holds a list
        elif frame.is_ignored:
            frame.is_ignored = False
        else:
            key = str(frame.key)
            frame.items[key] = value
            frame.keys[key] = frame.key_at
            frame.spots.items[key] = spot  # type: ignore[call-overload]  # a mapping's frame holds a dict
            frame.key = None

    def _path(self) -> Path:
        return tuple(len(frame.items) if frame.keys is None else str(frame.key) for frame in self._stack)


_NOT_ALWAYS_TEXT: Final = frozenset("~nNtTfF+-.0123456789")
"""First characters of plain scalars that may be something else than text."""
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT: Final = re.compile(r"[-+]?[0-9]+")
_BASED: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_TOO_LONG: Final = object()


def core_scalar(text: str) -> Any:
    """The value of a plain scalar (YAML 1.2.2 section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) <= MAX_DIGITS else _TOO_LONG
    if _BASED.fullmatch(text):
        return int(text, 0) if len(text) <= MAX_DIGITS else _TOO_LONG
    if _FLOAT.fullmatch(text):
        return float(text) if len(text) <= 2 * MAX_DIGITS else _TOO_LONG
    if _SPECIAL.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text
