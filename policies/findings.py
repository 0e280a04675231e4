"""What a compile finds wrong (mistakes) or odd (warnings), gathered until every file has been looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from policies.documents import Source
from policies.errors import Mistake


@dataclass(slots=True)
class Findings:
    """The one thing that a compile changes while it runs."""

    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)

    def mistake(self, source: Source[Any], message: str, *path: str | int) -> None:
        """A mistake at the value at ``path``."""
        self.mistakes.append(source.mistake(message, *path))

    def mistake_of_key(self, source: Source[Any], message: str, *path: str | int) -> None:
        """A mistake at the key that ends ``path``."""
        self.mistakes.append(source.mistake_of_key(message, *path))

    def warning(self, source: Source[Any], message: str, *path: str | int) -> None:
        """Something odd at the value at ``path``: it loads, and an operator is told."""
        self.warnings.append(source.mistake(message, *path))

    def warning_of_key(self, source: Source[Any], message: str, *path: str | int) -> None:
        """Something odd at the key that ends ``path``."""
        self.warnings.append(source.mistake_of_key(message, *path))

    def duplicates(self, source: Source[Any], noun: str, names: list[tuple[str, tuple[str | int, ...]]]) -> None:
        """A mistake at each name that stood before; ``names`` come with their paths, in the order of the file."""
        first: dict[str, tuple[str | int, ...]] = {}
        for name, path in names:
            if name in first:
                self.mistake(
                    source, f"{noun} {name!r} stands here a second time, first at {source.where(*first[name])}", *path
                )
            else:
                first[name] = path
