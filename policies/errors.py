"""
The tree of exceptions. A refusal is a value (``decision.py``); an exception means "cannot know".

::

    PorteroError
    ├── PolicyError            the documents do not make a policy set; carries every mistake at once
    ├── CannotKnow             a fact that the decision needs could not be had; an edge answers 5xx, never "allow"
    │   ├── KeysUnavailable        a provider's signing keys            503 keys-unavailable
    │   ├── ProviderUnavailable    a provider's endpoint                503 provider-unavailable
    │   ├── StoreUnavailable       a store did not answer in time
    │   └── BackendUnavailable     the functions platform               503 wake-failed
    └── SettingsError          settings that cannot be used; carries every mistake at once
"""

from __future__ import annotations

from dataclasses import dataclass


class PorteroError(Exception):
    """Root of all exceptions that Portero raises on purpose."""


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in one document, as an editor and a terminal can jump to it."""

    file: str
    line: int
    """1-based."""
    column: int
    """1-based."""
    message: str
    """What is wrong and what was expected."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class PolicyError(PorteroError):
    """The documents do not make a policy set."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = sorted(set(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


class SettingsError(PorteroError):
    """Settings that cannot be used; each line says which setting, what it was and what is expected."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class CannotKnow(PorteroError):
    """A fact that the decision needs could not be had."""


class KeysUnavailable(CannotKnow):
    """A provider's signing keys could not be fetched and none are cached."""


class ProviderUnavailable(CannotKnow):
    """A provider's endpoint did not answer, or answered what it may not."""


class StoreUnavailable(CannotKnow):
    """A store did not answer in time."""


class BackendUnavailable(CannotKnow):
    """The functions platform did not answer, or answered what it may not."""
