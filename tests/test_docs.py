"""Documents tell the same story as the code: tables of metrics, links, commands and snippets are checked here."""

import re
from pathlib import Path

import pytest

from authproxy.audit import Line
from authproxy.metrics import Metrics

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "policies" / "README.md",
    ROOT / "tests" / "vectors" / "README.md",
]


def test_every_metric_is_documented() -> None:
    """docs/metrics.md has a row for each metric, with its kind and labels, and no row for anything else."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "metrics.md").read_text().splitlines()
        if line.startswith("| `portero_")
    ]
    said = {row[0].strip("`"): (row[1], row[2]) for row in rows}
    assert said == {family.name: (family.kind, ", ".join(family.labels) or "-") for family in Metrics().families}


def test_every_member_of_an_audit_line_is_documented() -> None:
    """docs/audit.md names each, and none that is not written."""
    rows = [line for line in (ROOT / "docs" / "audit.md").read_text().splitlines() if line.startswith("| `")]
    said = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert said == set(Line.__struct_fields__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file or folder that is there."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_names_every_make_target() -> None:
    """Whatever `make help` shows of set-up and tests stands in the README."""
    readme = (ROOT / "README.md").read_text()
    for target in ("demo", "test", "check", "bench"):
        assert f"make {target}" in readme


def test_the_readme_holds_no_placeholder() -> None:
    """No figure is missing."""
    assert not re.search(r"\b(TODO|FIGURES|TESTTIME|METRICS)\b", (ROOT / "README.md").read_text())
