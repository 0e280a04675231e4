"""The command itself: help, examples, statuses and sentences instead of tracebacks."""

import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from authproxy.cli import COMMANDS
from authproxy.cli import portero as everything

WORLD = Path(__file__).parents[2] / "worlds" / "plain"


def portero(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    code = "from authproxy.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env={"PATH": "/usr/bin:/bin", **(env or {})},
    )


def open_world(folder: Path) -> Path:
    """A policy folder that needs no secret."""
    folder.mkdir()
    (folder / "platform.yaml").write_text(
        "version: 1\nbackends: {faas: {kind: openfaas, url: 'http://127.0.0.1:9'}}\n"
        "tenants: {a: {hosts: [a.test], backend: faas, namespace: a}}\n"
    )
    (folder / "a.yaml").write_text("version: 1\ntenant: a\n")
    return folder


def commands() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        attribute = name.replace("-", "_")
        command = getattr(importlib.import_module(f"authproxy.cli.{attribute}"), attribute)
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", child) for sub, child in command.commands.items())


@pytest.mark.parametrize(("name", "command"), [pytest.param(n, c, id=n) for n, c in commands()])
def test_each_command_helps_with_an_example(name: str, command: click.Command) -> None:
    """``--help`` of each command shows how it is called."""
    text = (command.help or "") + (command.epilog or "")
    assert "xample" in text, f"portero {name} --help has no example"
    assert "portero" in text


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(n, c, id=n) for n, c in [("portero", everything), *commands()]]
)
def test_each_example_can_be_pasted(name: str, command: click.Command) -> None:
    """In 80 columns a line of an example is a whole command, or goes on where the one before says so."""
    shown = CliRunner().invoke(command, ["--help"], terminal_width=80).output
    lines = [line.strip() for line in re.split(r"Examples?:", shown)[-1].splitlines() if line.strip()]
    assert lines, name
    for before, line in zip(["", *lines], lines, strict=False):
        assert before.endswith("\\") or line.startswith(("portero ", "curl ")), line
        assert not line.endswith("..."), line


def test_the_top_level_lists_every_command_without_importing_the_proxy() -> None:
    """Help is quick: the proxy is imported only by those who run it."""
    done = portero("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nonsense"], 2, "No such command"),
        (["serve", "--nonsense"], 2, "No such option"),
        (["serve"], 1, "policies is not set"),
        (["serve", "--policies", "/nowhere"], 1, "/nowhere: cannot be opened"),
        (["serve", "--policies", "p", "--listen", "x", "--redis", "y"], 1, "--redis: expected redis://"),
        (["policy", "check", "/nowhere"], 2, "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_a_sentence_on_stderr(words: list[str], status: int, says: str) -> None:
    """Non-zero status, nothing on standard output, no traceback."""
    done = portero(*words)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_serve_refuses_to_start_without_its_secrets(tmp_path: Path) -> None:
    """A service account whose key is not there is told with the place in the policy file."""
    done = portero("serve", "--policies", str(WORLD), "--secrets", str(tmp_path))
    assert done.returncode == 1
    assert "service account 'ci'" in done.stderr
    assert "acme.yaml:" in done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tls-cert", "/nowhere/c.pem", "--tls-key", "KEY"], "tls_cert: /nowhere/c.pem cannot be read"),
        (["--tls-cert", "KEY", "--tls-key", "KEY"], "not a certificate chain and its private key in PEM form"),
        (["--tls-cert", "KEY", "--tls-key", "LOCKED"], "locked is encrypted; decrypt it first"),
        (["--admin-token", "/nowhere"], "admin_token: /nowhere cannot be read (No such file or directory)"),
        (["--admin-token", "KEY"], "holds less than 16 characters"),
        (["--secrets", "/nowhere"], "secrets: /nowhere is no folder"),
        (["--listen", "nowhere.invalid:1", "--admin", "127.0.0.1:0"], "nowhere.invalid:1 cannot be listened on: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_serve_names_the_file_that_it_cannot_use(tmp_path: Path, flags: list[str], says: str) -> None:
    """Each setting that names a file or a place is told by its name, with what is wrong."""
    (tmp_path / "key").write_text("short")
    (tmp_path / "locked").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    words = [str(tmp_path / word.lower()) if word in {"KEY", "LOCKED"} else word for word in flags]
    done = portero("serve", "--policies", str(open_world(tmp_path / "policies")), *words)
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "unknown error" not in done.stderr.lower()


def test_serve_tells_its_stages_and_ends_well(tmp_path: Path) -> None:
    """Ready, draining and stopped stand in the log; the status after SIGTERM is 0."""
    code = "from authproxy.cli import main; main()"
    words = [
        "serve",
        "--policies",
        str(open_world(tmp_path / "policies")),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]
    with subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "portero is ready" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["portero drains", "portero has stopped"]


def test_serve_refuses_an_address_that_is_taken(tmp_path: Path) -> None:
    """Which address, and no traceback."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        policies = open_world(tmp_path / "policies")
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = portero("serve", "--policies", str(policies), "--listen", address, "--admin", "127.0.0.1:0")
    assert done.returncode == 1
    assert address in done.stderr
    assert "Traceback" not in done.stderr
