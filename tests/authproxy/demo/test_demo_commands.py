"""``portero demo`` and its small commands: what they refuse, and how they say it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authproxy.cli.demo import demo


@pytest.fixture(autouse=True)
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without any demo running."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(demo, arguments)


@pytest.mark.parametrize("arguments", [("--help",), ("token", "--help"), ("sleep", "--help")], ids=" ".join)
def test_help_has_an_example(arguments: tuple[str, ...]) -> None:
    """Each command's help shows how it is called."""
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "portero demo" in result.output


@pytest.mark.parametrize(
    "arguments", [("token", "--tenant", "acme", "--as", "ana"), ("sleep", "survey-report")], ids=lambda value: value[0]
)
def test_without_a_demo_it_says_how_to_start_one(arguments: tuple[str, ...]) -> None:
    """No demo is an error on standard error, with what to do; nothing that looks like a token comes out."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no demo is running: start one with `portero demo`" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("token", "--tenant", "acme"), "--as PERSON or --service-account NAME"),
        (("token", "--tenant", "acme", "--as", "ana", "--service-account", "survey-ci"), "one of them"),
        (("token", "--as", "ana"), "--tenant"),
        (("token", "--tenant", "acme", "--as", "ana", "--ttl", "0"), "--ttl"),
        (("sleep",), "FUNCTION"),
        (("--listen", "8088"), "such as 127.0.0.1:8088"),
        (("--listen", "127.0.0.1:99999"), "from 0 to 65535"),
        (("--admin", ":1"), "HOST:PORT"),
        (("--tour", "token", "--tenant", "acme", "--as", "ana"), "--tour go without"),
        (("fly",), "No such command"),
    ],
)
def test_what_is_asked_wrongly_is_status_2(arguments: tuple[str, ...], text: str) -> None:
    """A usage error names what was expected."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
def test_a_taken_port_is_named_with_the_way_out(flag: str) -> None:
    """Before anything is started: which address, and which flag chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--admin" if flag == "--listen" else "--listen"
        result = run(flag, f"127.0.0.1:{port}", other, "127.0.0.1:0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"127.0.0.1:{port} is taken" in result.stderr
    assert f"{flag} 127.0.0.1:PORT" in result.stderr
