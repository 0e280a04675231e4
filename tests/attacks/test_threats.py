"""docs/threats.md tells the truth: each rule is there, and each file and test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "threats.md").read_text()
ROWS: Final = {int(row[1]): row[0] for row in re.finditer(r"^\| AP-R(\d+) \|.*$", PAGE, re.MULTILINE)}


def names_of_tests() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_rule_has_a_row() -> None:
    """AP-R1 to AP-R56, in order, each with tests or with the feature it waits for."""
    assert list(ROWS) == list(range(1, 57))
    for row in ROWS.values():
        assert "`test_" in row or "| later: " in row, row


def test_every_test_named_exists() -> None:
    """A test that is renamed takes its row along."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 60
    assert not named - names_of_tests()


def test_every_file_named_exists() -> None:
    """So does a module that is moved."""
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 25
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_file_of_attacks_is_named() -> None:
    """A family that is attacked stands in the page."""
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}
    assert not [name for name in files if f"tests/attacks/{name}" not in PAGE]
