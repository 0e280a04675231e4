"""``portero policy …`` as operators see it: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authproxy.cli.policy import policy

EXAMPLE = Path(__file__).parents[3] / "policies" / "examples" / "survey"
PLATFORM = """\
version: 1
backends:
  faas: {kind: openfaas, url: "http://gateway:8080"}
tenants:
  acme: {hosts: [acme.localhost], backend: faas, namespace: acme}
"""
ACME = """\
version: 1
tenant: acme
functions: {form: {access: public}}
"""


def run(*args: str) -> Result:
    return CliRunner().invoke(policy, args)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    (tmp_path / "acme.yaml").write_text(ACME)
    return tmp_path


def test_check_of_the_example_says_what_it_holds() -> None:
    """One line a folder on standard output, nothing on standard error."""
    result = run("check", str(EXAMPLE))
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "2 tenants" in result.stdout
    assert "tests passed" in result.stdout


def test_check_names_every_mistake_with_its_place(folder: Path) -> None:
    """file:line:column, below the folder as it was given, all at once, on standard error."""
    (folder / "acme.yaml").write_text(ACME + "routes: [{path: /}]\nlimits: [{id: x, per: tenat, rate: 1/s}]\n")
    (folder / "globex.yaml").write_text("version: 1\ntenant: globex\nversion: 1\n")
    result = run("check", str(folder), str(EXAMPLE))
    assert result.exit_code == 1
    assert f"{EXAMPLE}: 2 tenants" in result.stdout
    lines = result.stderr.splitlines()
    for place in ("acme.yaml:4:10", "acme.yaml:5:23", "globex.yaml:3:1"):
        assert any(line.startswith(f"{folder}/{place}: ") for line in lines), lines


def test_check_runs_the_operators_tests(folder: Path) -> None:
    """A failing case is a mistake of the folder."""
    (folder / "acme_test.yaml").write_text(
        "tenant: acme\ncases:\n  - {name: nobody writes, request: GET /function/form, expect: deny}\n"
    )
    for command in ("check", "test"):
        result = run(command, str(folder))
        assert result.exit_code == 1
        assert result.stderr.startswith(f"{folder}/acme_test.yaml:3:")
        assert "nobody writes: expected deny, got allow" in result.stderr


def test_check_for_programs_is_json(folder: Path) -> None:
    """The same findings as one document."""
    (folder / "acme_test.yaml").write_text(
        "tenant: acme\ncases:\n  - {name: a, request: GET /function/form, expect: deny}\n"
        "  - {name: b, request: GET /function/form, expect: allow}\n"
    )
    result = run("check", "--format", "json", str(folder))
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)["folders"]
    assert found["tests"] == {"passed": 1, "failed": 1}
    assert found["mistakes"][0]["file"] == f"{folder}/acme_test.yaml"
    assert found["tenants"] == ["acme"]


def test_warnings_do_not_fail_a_check(folder: Path) -> None:
    """Something odd is told and loads."""
    (folder / "acme.yaml").write_text(ACME + "roles: {r: {allow: [{functions: [f], actions: [invoke]}]}}\n")
    result = run("check", str(folder))
    assert result.exit_code == 0
    assert f"{folder}/acme.yaml:4:9: warning: " in result.stderr


@pytest.mark.parametrize(
    "command", [["check"], ["test"], ["explain", "/nowhere", "GET", "/"], ["check", "/nowhere"], ["fly"]]
)
def test_asking_wrongly_is_status_2(command: list[str]) -> None:
    """Usage errors are told from mistakes in files."""
    assert run(*command).exit_code == 2


@pytest.mark.parametrize("command", [[], ["check"], ["test"], ["explain"], ["schema"]])
def test_every_help_has_an_example(command: list[str]) -> None:
    """The last lines of a help show one command that works."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Example: portero policy" in result.stdout


def test_explain_prints_the_five_answers() -> None:
    """Allowed is status 0; each answer has the rule and the place of its line."""
    result = run(
        "explain", str(EXAMPLE), "--as", "login|ana", "--groups", "analysts", "GET", "http://acme.localhost/reports/es"
    )
    assert result.exit_code == 0, result.stdout
    assert [line[:2] for line in result.stdout.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
    assert f"({EXAMPLE}/acme.yaml:" in result.stdout
    assert result.stdout.endswith("=> allowed\n")
    assert "\x1b" not in result.stdout


def test_explain_of_a_refusal_is_status_3() -> None:
    """A script can tell refused from allowed and from a mistake in the files."""
    result = run(
        "explain", str(EXAMPLE), "--as", "login|bob", "--format", "json", "GET", "http://acme.localhost/reports/es"
    )
    assert result.exit_code == 3
    assert json.loads(result.stdout)["decision"] == "refused: 403 no-rule-allows"


def test_explain_takes_claims_address_and_instant(folder: Path) -> None:
    """What conditions look at can be given."""
    (folder / "acme.yaml").write_text(
        ACME
        + """\
identity: [{name: login, issuer: "https://id.example", audiences: [a], algorithms: [ES256]}]
deny:
  - {id: d, functions: [form], actions: [invoke], unless: 'claims.level >= 3 && claims.site.name == "x y"'}
  - {id: e, functions: [form], actions: [invoke], unless: {source_ip: [198.51.100.0/24],
     time: {from: "08:00", to: "09:00"}}}
"""
    )
    asked = ["explain", str(folder), "--as", "login|ana", "--source-ip", "198.51.100.1", "--at", "2026-03-04T08:30:00Z"]
    good = [*asked, "--claim", "level=3", "--claim", 'site={"name": "x y"}', "GET", "/function/form"]
    assert run(*good).exit_code == 0
    assert run(*[arg.replace("08:30", "09:30") for arg in good]).exit_code == 3
    assert run(*[arg.replace("level=3", "level=high") for arg in good]).exit_code == 3


@pytest.mark.parametrize(
    "extra",
    [
        ["--as", "ana", "GET", "/function/form"],
        ["--as", "|ana", "GET", "/function/form"],
        ["--as", "ghost|ana", "GET", "/function/form"],
        ["--claim", "x", "--as", "login|ana", "GET", "/function/form"],
        ["--at", "noon", "GET", "/function/form"],
        ["--source-ip", "home", "GET", "/function/form"],
        ["--action", "fly", "GET", "/function/form"],
        ["GET", "form"],
    ],
)
def test_what_cannot_be_explained_is_status_2(folder: Path, extra: list[str]) -> None:
    """One sentence that says what was expected, no traceback."""
    result = run("explain", str(folder), *extra)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_explain_of_a_broken_folder_shows_its_mistakes(folder: Path) -> None:
    """Nothing is explained by files that would not load."""
    (folder / "acme.yaml").write_text("version: 1\n")
    result = run("explain", str(folder), "GET", "/function/form")
    assert result.exit_code == 1
    assert f"{folder}/acme.yaml:1:1: " in result.stderr


@pytest.mark.parametrize("kind", ["pipe", "loop", "huge", "directory", "binary", "locked"])
def test_what_is_no_policy_file_is_refused_with_a_sentence(folder: Path, kind: str) -> None:
    """A pipe does not hang the check, a link to itself does not crash it, a huge file is not read."""
    path = folder / "odd.yaml"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "huge":
            with path.open("wb") as file:
                file.truncate(9 * 1024 * 1024)
        case "directory":
            path.mkdir()
        case "binary":
            path.write_bytes(b"\xff\xfe\x00")
        case "locked":
            path.symlink_to(folder / "nowhere")
    result = run("check", str(folder))
    assert result.exit_code == 1
    assert "odd.yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_hostile_name_cannot_write_to_the_terminal(folder: Path) -> None:
    """Escape sequences and bytes that are no UTF-8 are shown, not sent."""
    for name in (b"\x1b[2J.yaml", b"bad\xff.yaml"):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_text("tenant: \x41\n")
    result = run("check", str(folder))
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr
    assert "\\x1b[2J.yaml:1:" in result.stderr


def test_schema_is_the_file_in_the_tree() -> None:
    """Editors may complete from either."""
    root = EXAMPLE.parents[1]
    assert json.loads(run("schema").stdout) == json.loads((root / "policy.schema.json").read_text())
    assert json.loads(run("schema", "--tests").stdout) == json.loads((root / "test.schema.json").read_text())


def test_the_demos_own_folder_can_be_checked(tmp_path: Path) -> None:
    """Plain http on loopback is a mistake, but for somebody who says that the folder is a demo's."""
    for name, text in {
        "platform.yaml": "version: 1\nbackends: {faas: {kind: openfaas, url: 'http://127.0.0.1:9'}}\n"
        "tenants: {a: {hosts: [a.test], backend: faas, namespace: a}}\n",
        "a.yaml": "version: 1\ntenant: a\nidentity:\n"
        "  - {name: login, issuer: 'http://127.0.0.1:9', audiences: [x], algorithms: [ES256]}\n",
    }.items():
        (tmp_path / name).write_text(text)
    refused = CliRunner().invoke(policy, ["check", str(tmp_path)])
    assert refused.exit_code == 1
    assert "https" in refused.stderr
    assert CliRunner().invoke(policy, ["check", "--loopback-http", str(tmp_path)]).exit_code == 0
