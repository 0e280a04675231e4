"""The program that serves a plugin on the stock server: what it wants to know, and what it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_plugins.plugins import dump
from tests.fakes.stock_server import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway_plugins.stock", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30, env={})


def test_what_kong_asks_is_the_same_on_both_servers() -> None:
    """Whichever server is asked, and without settings or an environment."""
    done = run("portero-rbac", "--dump")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dump("portero-rbac")


@pytest.mark.parametrize("arguments", [("--help",), ("portero", "-h")], ids=["alone", "of a plugin"])
def test_help_names_plugins_settings_and_the_stock_servers_own(arguments: tuple[str, ...]) -> None:
    """Without settings."""
    done = run(*arguments)
    assert done.returncode == 0
    for word in ("portero-rbac", "--settings FILE", "--internal-name", "-p DIR", "-g"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the first argument names the plugin"),
        (("portero-else",), "the first argument names the plugin"),
        (("portero", "--settings", "/nowhere.toml"), "/nowhere.toml"),
        (("portero", "--settings", "{file}", "--internal", "nowhere"), "--internal"),
        (("portero", "--settings", "{file}"), "cannot be opened"),
        (("portero", "--policies", "/nowhere", "--admin", "127.0.0.1:0"), "policies: /nowhere: cannot be opened"),
        (("portero",), "policies is not set: give --policies"),
        (("portero", "--settings", "{file}", "-m"), "-m: processes of a pool"),
    ],
    ids=["nothing", "unknown plugin", "no settings", "bad flag", "no policies", "by a flag", "no setting", "a pool"],
)
def test_what_has_to_be_mended_is_said_and_ends_it(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """At once, as a mistake in the settings would refuse every request."""
    file = tmp_path / "portero.toml"
    file.write_text(f'policies = "{tmp_path}/nowhere"\nadmin = "127.0.0.1:0"\n')
    done = run(*(argument.format(file=file) for argument in arguments), "-p", str(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
