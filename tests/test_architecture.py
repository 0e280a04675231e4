"""Rules of the house that are mechanical: what source files may not hold, and that each module stands alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for package in ("policies", "authproxy", "gateway_plugins") for path in (ROOT / package).rglob("*.py")
)
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]
FORBIDDEN_IN_CORE = {
    "asyncio",
    "socket",
    "ssl",
    "os",
    "io",
    "pathlib",
    "logging",
    "time",
    "subprocess",
    "threading",
    "random",
}


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_no_assert_is_control_flow(path: Path) -> None:
    """``python -O`` drops assert statements (CVE-2025-69227 is what happens then)."""
    tree = ast.parse(path.read_text())
    found = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not found, f"assert at lines {found}"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_no_stub_is_left(path: Path) -> None:
    """What is not built is not there; nothing says TODO."""
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_each_module_says_what_it_is(path: Path) -> None:
    """A module opens with the sentence that says what it decides."""
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[-2] == "policies"], ids=lambda p: p.name)
def test_the_core_imports_no_clock_and_no_io(path: Path) -> None:
    """import-linter holds this too; here the file that breaks it has a name."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert not imported & FORBIDDEN_IN_CORE


@pytest.mark.timeout(300)
def test_every_module_can_be_imported_alone() -> None:
    """No module needs another to have been imported first (circular imports show here)."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.name != "__main__.py" and "functions" not in path.parts
    ]
    code = f"""
import importlib, sys
for name in {names!r}:
    for loaded in [m for m in sys.modules if m.split(".")[0] in ("policies", "authproxy", "gateway_plugins")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_repository_names_no_machine() -> None:
    """No absolute path of a machine and no registry host stands in a tracked file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.fail("not a git checkout: this test reads the list of tracked files")
    pattern = re.compile(r"(^|[^.\w])/(work|root|home/\w+)/|pypi\.org|registry\.npmjs|files\.pythonhosted")
    found = []
    for name in listed.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path == Path(__file__):
            continue
        found += [
            f"{name}:{number}"
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
            if pattern.search(line)
        ]
    assert not found
