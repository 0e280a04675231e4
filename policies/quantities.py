"""
The small texts of policy files: what they look like, in a pattern and in words, and what they amount to.

One table for both readers: the pattern goes into the models and the JSON Schema, the words into the mistake. Whether
a name means anything is not known here.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from pydantic import Field, StrictInt, StringConstraints

_DNS_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SECRET: Final = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"  # noqa: S105  # the form of a secret's name, no secret
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
LABEL: Final = rf"^{_DNS_LABEL}$"
PATTERN: Final = rf"^(\*|{_DNS_LABEL}|[a-z0-9][a-z0-9-]{{0,61}}\*)$"
RATE: Final = r"^[1-9][0-9]{0,8}/[smh]$"
DURATION: Final = r"^[1-9][0-9]{0,8}(ms|s|m|h)$"
SIZE: Final = r"^(0B|[1-9][0-9]{0,11}(B|KiB|MiB|GiB))$"
BODY_SIZE: Final = rf"^(unbounded|{SIZE[1:-1]})$"
METHOD: Final = r"^[A-Z][A-Z-]{0,31}$"
SUBJECT: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\|.{1,255}$"
EMAIL: Final = r"^[^\s@]{1,64}@[^\s@]{1,253}$"
CLOCK: Final = r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"
PATH_PREFIX: Final = r"^/"
PATH_PATTERN: Final = r"^/[^*?#\s]{0,1023}\*?$"
PLAIN_PATH: Final = r"/|(/\.*[-A-Za-z0-9_~!$&'()*+,;=:@][-A-Za-z0-9._~!$&'()*+,;=:@]*)+/?"
"""A path that reads the same to everybody: no escape, no empty segment and no dot segment."""
PROBE: Final = rf"^(off|{PLAIN_PATH})$"
REQUEST: Final = r"^[A-Z][A-Z-]{0,31} (https?://[^\s/]+)?/\S*$"

EXPECTED: Final = {
    NAME: "a name of letters, digits, '.', '_' and '-' (at most 63, the first a letter or digit)",
    LABEL: "a name of lower-case letters, digits and inner '-' (at most 63), as DNS labels are",
    PATTERN: "a function name (lower-case letters, digits, inner '-'), 'prefix*' or '*'",
    _SECRET: "the name of a file in the secrets folder (letters, digits, '.', '_', '-'; no leading '.', no '/')",
    RATE: "a rate of at least 1 such as 20/s, 30/m or 5/h",
    DURATION: "a duration of at least 1 such as 500ms, 30s, 5m or 1h",
    SIZE: "a size such as 64KiB, 10MiB or 1GiB (0B for nothing at all)",
    BODY_SIZE: "a size such as 64KiB, 10MiB or 1GiB (0B for nothing at all), or unbounded",
    METHOD: "an HTTP method in capitals such as GET",
    SUBJECT: "a subject as provider|sub, such as login|ana",
    EMAIL: "an e-mail address",
    CLOCK: "a time of day as HH:MM, from 00:00 to 24:00",
    PATH_PREFIX: "a path that starts with '/'",
    PATH_PATTERN: "a path such as /healthz, or the beginning of one with '*' at its end",
    PROBE: "a path such as /healthz (no query, escape or dot segment), or off",
    REQUEST: "a request as METHOD /path or METHOD http://host/path",
}
"""Pattern -> what an operator is told to write instead."""


def _text(pattern: str) -> StringConstraints:
    return StringConstraints(pattern=pattern, strict=True)


Name = Annotated[str, _text(NAME)]
Label = Annotated[str, _text(LABEL)]
FunctionPattern = Annotated[str, _text(PATTERN)]
SecretName = Annotated[str, _text(_SECRET)]
Rate = Annotated[str, _text(RATE)]
Duration = Annotated[str, _text(DURATION)]
Size = Annotated[str, _text(SIZE)]
BodySize = Annotated[str, _text(BODY_SIZE)]
Method = Annotated[str, _text(METHOD)]
Subject = Annotated[str, _text(SUBJECT)]
Email = Annotated[str, _text(EMAIL)]
Clock = Annotated[str, _text(CLOCK)]
PathPrefix = Annotated[str, _text(PATH_PREFIX)]
PathPattern = Annotated[str, _text(PATH_PATTERN)]
Probe = Annotated[str, StringConstraints(pattern=PROBE, max_length=256, strict=True)]
RequestLine = Annotated[str, StringConstraints(pattern=REQUEST, max_length=8192, strict=True)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2048, strict=True)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=80, strict=True)]
Count = Annotated[StrictInt, Field(ge=1, le=1_000_000_000)]
Weight = Annotated[StrictInt, Field(ge=1, le=1000)]

_WINDOW_S: Final = {"s": 1, "m": 60, "h": 3600}
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIT_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Frequency(NamedTuple):
    """A rate as written: ``quota`` per ``window_s`` whole seconds."""

    quota: int
    window_s: int

    @property
    def per_s(self) -> float:
        return self.quota / self.window_s


def frequency(rate: str) -> Frequency:
    """What ``30/m`` amounts to. ``rate`` matches ``RATE``."""
    quota, _, unit = rate.partition("/")
    return Frequency(int(quota), _WINDOW_S[unit])


def seconds(duration: str) -> float:
    """What ``500ms`` amounts to. ``duration`` matches ``DURATION``."""
    number = duration.rstrip("msh")
    return int(number) * _UNIT_S[duration[len(number) :]]


def size_bytes(size: str) -> int:
    """What ``10MiB`` amounts to. ``size`` matches ``SIZE``."""
    number = size.rstrip("BKMGi")
    return int(number) * _UNIT_BYTES[size[len(number) :]]
