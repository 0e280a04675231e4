"""The demo's parts by themselves: the functions platform alone, and the secrets that the example's policies name."""

from __future__ import annotations

import asyncio
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from base64 import b64encode
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from authproxy.cli.demo import demo
from authproxy.demo.files import example_folder
from authproxy.demo.standin import NotUsable, make_secrets, read_credentials, run_platform
from authproxy.identity.tokens.keyring import KeyFolder

MAIN = "from authproxy.cli import main; main()"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(demo, arguments)


def folders_of_answers(folder: Path) -> list[Path]:
    return list(folder.glob("portero-functions-*"))


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "faas-admin"
    file.write_text("admin:a-password\n")
    return file


@pytest.mark.parametrize("command", ["platform", "secrets"])
def test_help_has_an_example(command: str) -> None:
    """Each command's help shows how it is called."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"portero demo {command}" in result.output


def test_the_platform_alone_serves_the_examples_functions_and_ends_with_a_signal(credentials: Path) -> None:
    """One line says where it is and what runs; functions answer everybody, the API its user; SIGTERM ends all of it."""
    command = [sys.executable, "-c", MAIN, "demo", "platform", "--listen", "127.0.0.1:0", "--start-delay", "0"]
    process = subprocess.Popen(
        [*command, "--credentials", str(credentials)], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "The functions platform is ready at http://127.0.0.1:" in line
        assert "survey-report, survey-stream, survey-submit, survey-web in acme and globex" in line
        url = next(word for word in line.split() if word.startswith("http://"))
        with urllib.request.urlopen(f"{url}/function/survey-report.globex/", timeout=20) as answer:
            assert b'"pt"' in answer.read()
        ours = {"Authorization": "Basic " + b64encode(b"admin:a-password").decode()}
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/system/function/survey-web?namespace=acme", headers=ours), timeout=20
        ) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


async def test_a_cancelled_platform_leaves_nothing(
    credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder of answers goes with it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    said = StringIO()
    running = asyncio.create_task(
        run_platform(("127.0.0.1", 0), credentials, Console(file=said, width=300), start_delay_s=0, idle_s=None)
    )
    async with asyncio.timeout(30):
        while not said.getvalue():  # noqa: ASYNC110 - a line of text sets no event
            await asyncio.sleep(0.02)
    assert folders_of_answers(tmp_path)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not folders_of_answers(tmp_path)


def test_a_taken_address_is_a_sentence(credentials: Path) -> None:
    """What listens there already is left alone, and the flag that chooses another is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("platform", "--listen", f"127.0.0.1:{port}", "--credentials", str(credentials))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"127.0.0.1:{port} cannot be listened on: address already in use" in result.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        (b"", "user:password"),
        (b"secret-word", "user:password"),
        (b":secret-word", "user:password"),
        (b"admin:\n", "user:password"),
        (b"admin:secret-word\xff", "not UTF-8"),
    ],
    ids=["absent", "empty", "no colon", "no user", "no password", "not text"],
)
def test_credentials_that_cannot_be_used_are_named_and_not_shown(
    tmp_path: Path, content: bytes | None, text: str
) -> None:
    """The message has the file and what is wrong, and nothing of what stands in it."""
    file = tmp_path / "credentials"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NotUsable) as refused:
        read_credentials(file)
    assert text in str(refused.value)
    assert str(file) in str(refused.value)
    assert "secret-word" not in str(refused.value)


def test_credentials_may_have_colons_in_the_password(tmp_path: Path) -> None:
    """The first colon parts them (RFC 7617 section 2)."""
    file = tmp_path / "credentials"
    file.write_text("admin:a:b\n")
    assert read_credentials(file) == ("admin", "a:b")


def test_secrets_are_what_the_example_names(tmp_path: Path) -> None:
    """Each name in the example's files is a file, of this user alone; Portero's own keys can be read."""
    folder = tmp_path / "demo"
    assert run("secrets", str(folder)).exit_code == 0
    assert read_credentials(folder / "secrets" / "platform" / "faas-admin")[0] == "admin"
    for tenant in ("acme", "globex"):
        assert (folder / "secrets" / tenant / "survey-ci.pem").is_file()
        assert (folder / "secrets" / tenant / "login-client").is_file()
        assert (folder / "keys" / tenant / "survey-ci.key.pem").is_file()
        assert f"tenant: {tenant}" in (example_folder() / f"{tenant}.yaml").read_text()
    assert KeyFolder(folder / "own-keys").problem is None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*") if file.is_file()} == {0o600}


def test_secrets_that_are_there_are_left(tmp_path: Path) -> None:
    """A second start of a setup changes no key that somebody uses already."""
    folder = tmp_path / "demo"
    assert make_secrets(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    result = run("secrets", str(folder))
    assert (result.exit_code, "left as it is" in result.stdout) == (0, True)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["demo"]


def test_secrets_are_made_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks half way leaves neither the folder nor a draft of it."""

    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("authproxy.demo.standin.prepare_secrets", broken)
    with pytest.raises(OSError, match="No space"):
        make_secrets(tmp_path / "demo")
    assert not list(tmp_path.iterdir())


def test_secrets_are_made_where_a_folder_can_be(tmp_path: Path) -> None:
    """A file is not a folder that is there already, and the message names what the operator wrote."""
    (tmp_path / "file").touch()
    assert run("secrets", str(tmp_path / "file")).exit_code == 2
    nowhere = run("secrets", str(tmp_path / "none" / "demo"))
    assert nowhere.exit_code == 1
    assert f"{tmp_path}/none is no folder" in nowhere.output
