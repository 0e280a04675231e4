"""
``portero policy …``: check a folder, run its tests, explain one request, print the schema.

Exit status: 0 all is well, 1 mistakes or failing tests (each on standard error as ``file:line:column: message``, the
file below the folder as it was given), 2 asked wrongly, 3 ``explain`` found that the request is refused.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from authproxy.policy_folder import FolderUnreadable, read_folder
from policies import model
from policies.compiler import compile_with_warnings
from policies.documents import Documents, read_all
from policies.errors import Mistake, PolicyError
from policies.explain import ExplainRequest, Explanation, explain_line
from policies.policytest import run_tests
from policies.rehearsal import SOMEWHERE
from policies.tables import ACTIONS, PolicySet

MISTAKES: Final = 1
REFUSED: Final = 3

FOLDER: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_FORMAT: Final = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="For people, or for programs."
)
_COLOURS: Final = {"yes": "green", "no": "red", "shadow": "yellow"}


@dataclass(slots=True)
class Report:
    """What one folder has to say for itself."""

    folder: str
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)
    policies: PolicySet | None = None
    documents: Documents | None = None
    passed: int = 0
    failed: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "revision": self.policies.revision if self.policies else None,
            "tenants": sorted(self.policies.tenants) if self.policies else [],
            "rules": self.policies.rule_count if self.policies else 0,
            "tests": {"passed": self.passed, "failed": self.failed},
            "mistakes": [_mistake(mistake) for mistake in self.mistakes],
            "warnings": [_mistake(warning) for warning in self.warnings],
        }


LOOPBACK = click.option(
    "--loopback-http", "is_demo", is_flag=True, help="Allow http to loopback addresses, as the demo's own folder needs."
)


@click.group(epilog="Example: portero policy check ./policies")
def policy() -> None:
    """Check, test and explain policy files."""


@policy.command(epilog="Example: portero policy check --format json ./policies")
@click.argument("folders", metavar="DIR…", nargs=-1, required=True, type=FOLDER)
@LOOPBACK
@_FORMAT
def check(folders: tuple[Path, ...], is_demo: bool, form: str) -> None:
    """
    Read policy folders, find every mistake, run their tests.

    Exit status 0 when the folders can be served as they are, 1 when not.
    """
    reports = [_judged(folder, is_demo=is_demo) for folder in folders]
    if form == "json":
        click.echo(json.dumps({"folders": [report.as_json() for report in reports]}, indent=2))
    else:
        for report in reports:
            complain(report.mistakes)
            complain(report.warnings, "warning: ")
            if report.policies is not None and not report.mistakes:
                known = f"{_many(len(report.policies.tenants), 'tenant')}, {_many(report.policies.rule_count, 'rule')}"
                click.echo(_printable(f"{report.folder}: {known}, {_many(report.passed, 'test')} passed"))
    if any(report.mistakes for report in reports):
        sys.exit(MISTAKES)


@policy.command(epilog="Example: portero policy test ./policies")
@click.argument("folders", metavar="DIR…", nargs=-1, required=True, type=FOLDER)
@LOOPBACK
def test(folders: tuple[Path, ...], is_demo: bool) -> None:
    """
    Run the *_test.yaml files of policy folders.

    Exit status 0 when every case holds, 1 when one does not or the folder has mistakes.
    """
    reports = [_judged(folder, is_demo=is_demo) for folder in folders]
    for report in reports:
        complain(report.mistakes)
        if report.policies is not None:
            line = f"{report.folder}: {_many(report.passed, 'test')} passed"
            click.echo(_printable(f"{line}, {report.failed} failed" if report.failed else line))
    if any(report.mistakes for report in reports):
        sys.exit(MISTAKES)


@policy.command(
    epilog="""\b
Example: portero policy explain ./policies --as "login|ana" --groups analysts \\
           GET http://acme.localhost/reports/es"""
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("method")
@click.argument("url")
@click.option(
    "--as",
    "who",
    metavar="PROVIDER|SUBJECT",
    help="Who asks; nobody when absent. service-account|NAME and api-key|NAME, too.",
)
@click.option("--groups", multiple=True, metavar="G,…", help="Groups of the caller.")
@click.option("--email", help="The caller's verified address.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="A further claim; the value may be JSON.")
@click.option("--source-ip", default=SOMEWHERE, show_default=True, help="The client's address.")
@click.option("--at", metavar="INSTANT", help="When, such as 2026-03-04T12:00:00Z; now when absent.")
@click.option("--action", type=click.Choice(ACTIONS), default="invoke", show_default=True, help="What to do with it.")
@LOOPBACK
@_FORMAT
def explain(  # one parameter an option
    folder: Path,
    method: str,
    url: str,
    who: str | None,
    groups: tuple[str, ...],
    email: str | None,
    claims: tuple[str, ...],
    source_ip: str,
    at: str | None,
    action: str,
    is_demo: bool,
    form: str,
) -> None:
    """
    Say what becomes of one request, and why.

    The five answers stand there, each with its rule and file:line. URL may be a path on the only tenant's first host.
    Nothing is spent or woken. Exit status 0 when the request is allowed, 3 when it is refused.
    """
    provider, bar, subject = (who or "").partition("|")
    if who is not None and not (provider and bar and subject):
        raise click.BadParameter(f"{who!r} is no caller; expected PROVIDER|SUBJECT, in quotes", param_hint="--as")
    asked = ExplainRequest(
        request=f"{method} {url}",
        provider=provider if who is not None else None,
        subject=subject,
        groups=[group for item in groups for group in item.split(",") if group],
        email=email,
        claims=dict(map(_claim, claims)),
        source_ip=source_ip,
        action=action,
    )
    now = time.time() if at is None else _instant(at)
    report = compiled(folder, is_demo=is_demo)
    if report.policies is None:
        complain(report.mistakes)
        sys.exit(MISTAKES)
    try:
        explanation = explain_line(report.policies, asked, now)
    except ValueError as error:
        raise click.UsageError(_printable(str(error))) from None
    explanation = _at_home(explanation, report)
    click.echo(json.dumps(explanation.as_json(), indent=2) if form == "json" else _coloured(explanation))
    if not explanation.is_allowed:
        sys.exit(REFUSED)


@policy.command(epilog="Example: portero policy schema > policy.schema.json")
@click.option("--tests", is_flag=True, help="The schema of *_test.yaml instead.")
def schema(tests: bool) -> None:
    """Print the JSON Schema of policy files, for editors."""
    click.echo(json.dumps(model.schema_of_tests() if tests else model.schema(), indent=2))


def compiled(folder: Path, *, is_demo: bool) -> Report:
    """The folder read and compiled; never raises for what stands in it."""
    report = Report(str(folder))
    try:
        report.documents = read_all(read_folder(folder))
        report.policies, report.warnings = compile_with_warnings(report.documents, allow_loopback_http=is_demo)
    except FolderUnreadable as error:
        report.mistakes = [Mistake(str(folder), 1, 1, str(error))]
        return report
    except PolicyError as error:
        report.mistakes = error.mistakes
    report.mistakes = _in_folder(report.mistakes, folder)
    report.warnings = _in_folder(report.warnings, folder)
    return report


def _judged(folder: Path, *, is_demo: bool) -> Report:
    """The folder compiled and, when that went well, its tests run."""
    report = compiled(folder, is_demo=is_demo)
    if report.policies is not None and report.documents is not None:
        tests = run_tests(report.policies, report.documents, now=time.time())
        report.passed, report.failed = tests.passed, len(tests.mistakes)
        report.mistakes = _in_folder(tests.mistakes, folder)
    return report


def _in_folder(mistakes: Iterable[Mistake], folder: Path) -> list[Mistake]:
    return [replace(mistake, file=str(folder / mistake.file)) for mistake in mistakes]


def _at_home(explanation: Explanation, report: Report) -> Explanation:
    """``acme.yaml:3`` becomes a path that a terminal can open."""
    documents = report.documents
    if documents is None:
        return explanation
    sources = [documents.platform, *documents.tenants]
    files = [source.file for source in sources if source is not None]

    def at_home(line: str) -> str:
        for file in files:
            line = line.replace(f"({file}:", f"({Path(report.folder, file)}:")
        return line

    steps = tuple(replace(step, lines=tuple(map(at_home, step.lines))) for step in explanation.steps)
    return replace(explanation, steps=steps)


def _coloured(explanation: Explanation) -> str:
    """The text with outcomes in colour; click drops the colours where nobody sees them."""
    lines = []
    outcomes = iter(explanation.steps)
    for line in map(_printable, explanation.text().split("\n")):
        if line[:1].isdigit() and line[1:3] == ". ":
            outcome = next(outcomes).outcome
            colour = _COLOURS.get(outcome)
            before, found, after = line.partition(f" {outcome} ") if colour else (line, "", "")
            lines.append(f"{before} {click.style(outcome, fg=colour)} {after}" if found else line)
        else:
            lines.append(line)
    return "\n".join(lines)


def complain(mistakes: Iterable[Mistake], kind: str = "") -> None:
    for mistake in mistakes:
        place = f"{mistake.file}:{mistake.line}:{mistake.column}"
        click.echo(_printable(f"{place}: {kind}{mistake.message}"), err=True)


def _printable(text: str) -> str:
    """A file of a stranger must not write to the terminal what it likes; names need not be UTF-8."""
    return "".join(
        [char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text]
    )


def _mistake(mistake: Mistake) -> dict[str, Any]:
    return {"file": mistake.file, "line": mistake.line, "column": mistake.column, "message": mistake.message}


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _claim(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is no claim; expected NAME=VALUE", param_hint="--claim")
    try:
        return name, json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return name, value


def _refuse_constant(text: str) -> NoReturn:
    """``NaN`` and ``Infinity`` are not JSON."""
    raise ValueError(text)


def _instant(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter(f"{text!r} is no instant; expected such as 2026-03-04T12:00:00Z", param_hint="--at")
    return moment.timestamp()
