"""
Files to documents: what each file says, where it says it, and every mistake of every file at once.

A file is judged alone here, by its bytes and by the shape of ``model.py``; how files fit together is ``compiler.py``'s
question. Names decide what a file is: ``platform.yaml``, ``*_test.yaml``, any other ``*.yaml`` a tenant's; what is not
YAML by its name is not looked at. This module refuses to know where the bytes came from.

``Documents`` is a value: it can be pickled, so that parsing may happen in another process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from policies.errors import Mistake, PolicyError
from policies.model import Part, PlatformDocument, TenantDocument, TestDocument
from policies.positions import Path, Spot, line_and_column, spot_of
from policies.shape import misshapen
from policies.yaml_reader import Reading, read

PLATFORM_FILE: Final = "platform.yaml"
MAX_MISTAKES: Final = 200
"""Of one file; the rest is counted. Nobody reads more, and a hostile file could hold a million."""

DocumentT = TypeVar("DocumentT", bound=Part)


@dataclass(frozen=True, slots=True)
class Source(Generic[DocumentT]):
    """One file: what it says and where each value of it stands."""

    file: str
    document: DocumentT
    spot: Spot

    def where(self, *path: str | int) -> str:
        """``file:line`` of the value at ``path``, such as ``("deny", 3)``."""
        return f"{self.file}:{spot_of(self.spot, path)[0]}"

    def mistake(self, message: str, *path: str | int) -> Mistake:
        """A mistake at the value at ``path``."""
        return Mistake(self.file, *spot_of(self.spot, path), message)

    def mistake_of_key(self, message: str, *path: str | int) -> Mistake:
        """A mistake at the key that ends ``path``."""
        return Mistake(self.file, *spot_of(self.spot, path, of_key=True), message)


@dataclass(frozen=True, slots=True)
class Documents:
    """All files of one folder as read. With ``mistakes`` only those files are in it that have none of their own."""

    revision: str
    platform: Source[PlatformDocument] | None
    tenants: tuple[Source[TenantDocument], ...] = ()
    """In the order of file names."""
    tests: tuple[Source[TestDocument], ...] = ()
    mistakes: tuple[Mistake, ...] = ()


def revision_of(files: Mapping[str, bytes]) -> str:
    """16 hexadecimal digits over names and contents of the YAML files: equal content, equal revision (H6, H7)."""
    digest = hashlib.sha256()
    for name in sorted(filter(is_policy_file, files)):
        for part in (name.encode("utf-8", "surrogateescape"), files[name]):
            # Length first: no two folders can then spell the same bytes.
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()[:16]


def is_policy_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def is_test_file(name: str) -> bool:
    return name.endswith(("_test.yaml", "_test.yml"))


def parse(files: Mapping[str, bytes]) -> Documents:
    """
    Read all files of one folder.

    Args:
        files: name (relative to the folder) -> content.

    Raises: PolicyError with every mistake of every file.
    """
    documents = read_all(files)
    if documents.mistakes:
        raise PolicyError(list(documents.mistakes))
    return documents


def read_all(files: Mapping[str, bytes]) -> Documents:
    """``parse`` for callers that want the sound files in any case. Never raises; see ``Documents.mistakes``."""
    mistakes: list[Mistake] = []
    platform = None
    tenants = []
    tests = []
    for name in sorted(filter(is_policy_file, files)):
        if name == PLATFORM_FILE:
            platform = _source(name, files[name], PlatformDocument, mistakes)
        elif is_test_file(name):
            tests.append(_source(name, files[name], TestDocument, mistakes))
        elif name == "platform.yml":
            mistakes.append(Mistake(name, 1, 1, f"expected the name {PLATFORM_FILE}"))
        else:
            tenants.append(_source(name, files[name], TenantDocument, mistakes))
    if PLATFORM_FILE not in files:
        mistakes.append(
            Mistake(PLATFORM_FILE, 1, 1, "the file is missing; expected it beside the tenants' files, with their hosts")
        )
    return Documents(
        revision_of(files),
        platform,
        tuple(source for source in tenants if source is not None),
        tuple(source for source in tests if source is not None),
        tuple(mistakes),
    )


def _source(file: str, content: bytes, model: type[DocumentT], mistakes: list[Mistake]) -> Source[DocumentT] | None:
    """One file judged alone; None, with its mistakes noted, when it has any."""
    reading = read(content)
    found = [Mistake(file, *flaw) for flaw in reading.flaws]
    found += [
        Mistake(file, *line_and_column(at), "nothing stands here; write a value, or leave the key out")
        for path, at in reading.nulls
        if not _may_be_null(path, model)
    ]
    # What a reader broke off at, the shape cannot be asked of; a duplicate key hides nothing else.
    is_whole = reading.value is not None and not reading.is_broken_off
    document = None
    if is_whole:
        try:
            document = model.model_validate(reading.value)
        except ValidationError as error:
            # A value that could not be read is not misshapen as well.
            known = {(mistake.line, mistake.column) for mistake in found}
            found += [
                mistake
                for mistake in _mistakes_of(file, reading, model, error)
                if (mistake.line, mistake.column) not in known
            ]
    if len(found) > MAX_MISTAKES:
        found.sort()
        found[MAX_MISTAKES:] = [
            Mistake(file, found[-1].line, found[-1].column, "and more mistakes, which are not shown")
        ]
    mistakes += found
    return Source(file, document, reading.spot) if document is not None and not found else None


def _may_be_null(path: Path, model: type[Part]) -> bool:
    """Only a test's claims may hold null: elsewhere a forgotten value must not read as "no condition"."""
    return model is TestDocument and "claims" in path


def _mistakes_of(file: str, reading: Reading, model: type[Part], error: ValidationError) -> Iterator[Mistake]:
    """What pydantic found; of a file that is wrong in thousands of places only what its first items show."""
    count = error.error_count()
    if count > _MANY:
        try:
            model.model_validate(_beginning(reading.value))
        except ValidationError as of_beginning:
            error = of_beginning
        else:
            yield Mistake(file, 1, 1, f"{count} mistakes, none of them among the first {MAX_MISTAKES} of a list")
            return
    at = (1, 1)
    for path, message, is_at_key in misshapen(model, error):
        at = spot_of(reading.spot, path, of_key=is_at_key)
        yield Mistake(file, *at, message)
    if count > _MANY:
        yield Mistake(file, *at, _MORE)


_MORE: Final = "and more mistakes, which are not shown"
_MANY: Final = 2000
"""Pydantic hands out all its errors or none, some 2 KiB each: half a million would take a gigabyte."""


def _beginning(value: Any) -> Any:
    """``value`` with the first items of each list and mapping. No deeper than files may be nested."""
    if isinstance(value, list):
        return [_beginning(item) for item in value[:MAX_MISTAKES]]
    if isinstance(value, dict):
        return {key: _beginning(item) for key, item in islice(value.items(), MAX_MISTAKES)}
    return value
