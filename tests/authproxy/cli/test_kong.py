"""``portero kong …`` as operators see it: what it prints, what it writes, and with which exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authproxy.cli.kong import kong

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "policies" / "examples" / "survey"
RENDERED = ROOT / "kong" / "kong.yml"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(kong, [str(arg) for arg in args])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "policies"))


def replace_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_render_prints_what_stands_in_the_repository(tmp_path: Path) -> None:
    """Byte for byte, on standard output or into a file."""
    printed = run("render", EXAMPLE)
    assert (printed.exit_code, printed.stdout) == (0, RENDERED.read_text())
    written = run("render", EXAMPLE, "--output", tmp_path / "kong.yml")
    assert (written.exit_code, written.stdout) == (0, "")
    assert (tmp_path / "kong.yml").read_bytes() == RENDERED.read_bytes()


def test_check_says_by_its_exit_status_whether_all_is_well(folder: Path) -> None:
    """A rule is no difference; a path is one, with what to do about it."""
    assert run("check", folder, RENDERED).exit_code == 0
    replace_in(folder / "acme.yaml", "rate: 20/s", "rate: 21/s")
    assert run("check", folder, RENDERED).exit_code == 0
    replace_in(folder / "acme.yaml", "path: /live,", "path: /lively,")
    drifted = run("check", folder, RENDERED)
    assert (drifted.exit_code, drifted.stdout) == (1, "")
    assert "portero.acme.route.live differs" in drifted.stderr
    assert "render" in drifted.stderr


@pytest.mark.parametrize("chain", [(), ("--chain",)], ids=["one plugin", "chain"])
def test_split_writes_files_that_are_whole_together(folder: Path, tmp_path: Path, chain: tuple[str, ...]) -> None:
    """One a tenant, one for the rest; without a tenant's file it is another configuration."""
    output = tmp_path / "rendered"
    assert run("render", folder, "--split", "tenant", "--output", output, *chain).exit_code == 0
    files = sorted(output.iterdir())
    assert [file.name for file in files] == ["catch-all.yml", "tenant-acme.yml", "tenant-globex.yml"]
    assert run("check", folder, *files).exit_code == 0
    missing = run("check", folder, *files[:-1])
    assert missing.exit_code == 1
    assert missing.stderr.splitlines()[-1].endswith(" ".join([str(folder), *chain, "--split tenant --output FOLDER"]))


def test_a_file_of_a_tenant_that_has_gone_is_said(folder: Path, tmp_path: Path) -> None:
    """Files of others in the folder are left alone; one of a tenant that there is not would be loaded with the rest."""
    output = tmp_path / "rendered"
    output.mkdir()
    for name in ("tenant-old.yml", "mine.yml"):
        (output / name).write_text("mine")
    said = run("render", folder, "--split", "tenant", "--output", output).stderr.splitlines()
    assert said[1:] == [f"{output}/tenant-old.yml: there is no such tenant; take the file away"]
    assert (output / "tenant-old.yml").read_text() == "mine"


def test_all_may_go_by_the_internal_listener(folder: Path, tmp_path: Path) -> None:
    """``direct: false`` is rendered, is no drift, and is no setting of a chain's plugins."""
    file = tmp_path / "kong.yml"
    assert run("render", folder, "--no-direct", "--output", file).exit_code == 0
    assert file.read_text().count("direct: false") == 3
    assert run("check", folder, file).exit_code == 0
    assert run("render", folder, "--no-direct", "--chain").exit_code == 2


def test_several_files_need_a_folder(folder: Path) -> None:
    """Asked wrongly: 2, and nothing is printed that could be taken for a configuration."""
    result = run("render", folder, "--split", "tenant")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("command", [("render",), ("check",)], ids=["render", "check"])
def test_policies_with_mistakes_are_no_configuration(folder: Path, command: tuple[str, ...]) -> None:
    """1, the place of the mistake, and nothing on standard output."""
    replace_in(folder / "acme.yaml", "tenant: acme ", "tenant: nobody ")
    files = [RENDERED] if command == ("check",) else []
    result = run(*command, folder, *files)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{folder}/acme.yaml:" in result.stderr


def test_conf_is_lines_or_variables() -> None:
    """The same either way; with --no-start Kong starts nothing."""
    lines = run("conf")
    assert (lines.exit_code, lines.stdout) == (0, (ROOT / "kong" / "kong.conf").read_text())
    said = dict(line.split(" = ", 1) for line in lines.stdout.splitlines() if " = " in line)
    variables = run("conf", "--environment").stdout.splitlines()
    assert variables == [f"KONG_{name.upper()}={value}" for name, value in said.items()]
    for option in ((), ("--environment",)):
        foreign = run("conf", "--no-start", "--sockets", "/run/portero", "--config", "/a.yml", *option).stdout.lower()
        assert "start_cmd" not in foreign
        assert "/run/portero/portero.socket" in foreign
        assert "/a.yml" in foreign
    assert "/portero-rbac.socket" in run("conf", "--chain").stdout


def test_braces_of_a_command_are_the_operators() -> None:
    """Only {name} is put in, and a folder may end with a slash."""
    said = run("conf", "--query", "sh -c 'echo ${X} {name}'", "--sockets", "/run/portero/").stdout
    assert "query_cmd = sh -c 'echo ${X} portero'\n" in said
    assert "socket = /run/portero/portero.socket\n" in said
