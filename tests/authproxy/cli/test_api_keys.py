"""``portero token issue --api-key``, ``list`` and ``revoke``: the file of a tenant's API keys."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from authproxy.cli import api_keys
from authproxy.cli.token import token
from authproxy.identity.secrets import MAX_SECRET_BYTES, Secrets
from authproxy.identity.tokens.api_key_file import read_lines
from authproxy.identity.tokens.api_keys import ApiKeys
from policies.principal import Principal
from policies.tables import ApiKeySpec
from tests.fakes.identity import a_request, a_tenant


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(token, [str(word) for word in words])


def issue(file: Path, name: str = "reporting", *more: str) -> Result:
    return run("issue", "--api-key", "--tenant", "acme", "--name", name, "--keys", file, *more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "acme").mkdir()
    return tmp_path / "acme" / "api-keys"


def read(path: Path) -> str:
    return path.read_text()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_key_is_shown_once_and_accepted_by_portero(tmp_path: Path, file: Path) -> None:
    """Standard output has the key and nothing else; the file has a digest; the policy's part is said."""
    result = issue(file, "reporting", "--note", "monthly export")
    assert result.exit_code == 0, result.output
    (key,) = result.stdout.split()
    content = read(file)
    assert key[17:] not in content
    assert mode(file) == 0o600
    line = json.loads(content)
    assert set(line) == {"id", "name", "digest", "created_at", "note"}
    assert line["digest"].startswith("sha256:")
    assert key not in result.stderr
    assert '{name: "reporting", groups: []}' in result.stderr
    assert "put it there" not in result.stderr

    keys = ApiKeys(Secrets(tmp_path))
    tenant = replace(a_tenant(), api_keys=(ApiKeySpec("reporting", frozenset(), None, "acme.yaml:1"),))
    caller = await keys.identify(tenant, a_request(key), time.time())
    assert isinstance(caller, Principal)
    assert caller.subject == "api-key|reporting"
    assert run("revoke", "--keys", file, line["id"]).exit_code == 0
    await keys.close()
    assert not isinstance(await keys.identify(tenant, a_request(key), time.time()), Principal)


def test_a_file_elsewhere_is_said(tmp_path: Path) -> None:
    """A key that Portero does not find is no use."""
    result = issue(tmp_path / "somewhere")
    assert result.exit_code == 0
    assert "SECRETS/acme/api-keys" in result.stderr


def test_the_list_shows_no_digest(file: Path) -> None:
    """Id, name, when, note."""
    for name in ("reporting", "backup"):
        issue(file, name, "--note", f"for {name}")
    result = run("list", "--keys", file)
    assert result.exit_code == 0
    entries, _ = read_lines(file.read_bytes())
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["ID", "NAME", "CREATED", "NOTE"]
    for row, entry in zip(rows, entries, strict=True):
        assert row.startswith(entry.id)
        assert row.endswith(f"for {entry.name}")
        assert entry.digest.hex()[:16] not in row


def test_revoking_takes_one_id_or_every_key_of_a_name(file: Path) -> None:
    """And leaves the others as they are."""
    for name in ("a", "b", "b", "c"):
        issue(file, name)
    entries, _ = read_lines(file.read_bytes())
    assert run("revoke", "--keys", file, entries[0].id).exit_code == 0
    result = run("revoke", "--keys", file, "--name", "b")
    assert result.stdout.count("revoked") == 2
    assert read_lines(file.read_bytes()) == ([entries[3]], [])
    assert mode(file) == 0o600


@pytest.mark.parametrize("words", [["a" * 12], ["--name", "nobody"], [""]])
def test_nothing_to_revoke_is_an_error(file: Path, words: list[str]) -> None:
    """Whoever revokes must not believe it done."""
    issue(file)
    before = file.read_bytes()
    result = run("revoke", "--keys", file, *words)
    assert result.exit_code == 1
    assert "no key of the" in result.stderr
    assert file.read_bytes() == before


def test_a_broken_line_keeps_nobody_from_revoking(file: Path) -> None:
    """It stays as it is and is said, with its number and without its content."""
    issue(file, "a")
    issue(file, "b")
    file.write_bytes(b"canary\n" + file.read_bytes())
    result = run("revoke", "--keys", file, "--name", "a")
    assert result.exit_code == 0
    assert "line 1" in result.stderr
    assert "canary" not in result.output
    assert file.read_bytes().startswith(b"canary\n")
    shown = run("list", "--keys", file)
    assert shown.exit_code == 1
    assert " b " in shown.stdout
    assert issue(file, "c").exit_code == 0
    assert len(read_lines(file.read_bytes())[0]) == 2


def test_a_line_without_its_end_is_not_run_into(file: Path) -> None:
    """An editor's file may lack the last line break."""
    issue(file, "a")
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    issue(file, "b")
    assert [entry.name for entry in read_lines(file.read_bytes())[0]] == ["a", "b"]


def test_a_full_file_is_said_and_left_alone(file: Path) -> None:
    """Portero reads 64 KiB of a secret: a key beyond would lock everybody out."""
    issue(file)
    line = file.read_bytes()
    fits = MAX_SECRET_BYTES // len(line)
    assert fits >= 300
    file.write_bytes(line * fits)
    result = issue(file)
    assert result.exit_code == 1
    assert "full" in result.stderr
    assert result.stdout == ""
    assert file.read_bytes() == line * fits


def test_a_files_group_may_go_on_reading_it(file: Path) -> None:
    """Portero runs as another user often; what others could read they can no longer."""
    issue(file)
    file.chmod(0o644)
    issue(file)
    assert mode(file) == 0o640


def test_a_link_is_followed_and_stays_one(tmp_path: Path, file: Path) -> None:
    """What is replaced is the file."""
    real = tmp_path / "real"
    issue(real)
    file.symlink_to(real)
    issue(file, "other")
    assert file.is_symlink()
    assert len(read_lines(real.read_bytes())[0]) == 2


def test_operators_at_once_lose_no_key(file: Path) -> None:
    """Several processes, one file."""
    code = (
        "import sys; from authproxy.cli.api_keys import issue; from pathlib import Path\n"
        "for n in range(10): issue(Path(sys.argv[1]), 'acme', sys.argv[2], '')"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file), f"p{number}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for number in range(3)
    ]
    shown = [process.communicate(timeout=50)[0].split() for process in running]
    assert [len(keys) for keys in shown] == [10, 10, 10]
    entries, broken = read_lines(file.read_bytes())
    assert (len(entries), broken) == (30, [])
    assert [path.name for path in file.parent.iterdir()] == ["api-keys"]


def test_a_reader_never_sees_half_a_file(file: Path) -> None:
    """The file is replaced as a whole."""
    api_keys.issue(file, "acme", "x", "")

    def write() -> None:
        for _ in range(20):
            api_keys.issue(file, "acme", "x", "")

    writer = Thread(target=write)
    writer.start()
    while writer.is_alive():
        content = file.read_bytes()
        assert content.endswith(b"\n")
        assert read_lines(content)[1] == []
    writer.join()


@pytest.mark.parametrize(
    "words",
    [
        ["--tenant", "acme", "--name", "x"],
        ["--api-key", "--tenant", "acme", "--name", "x"],
        ["--api-key", "--tenant", "acme", "--name", "x", "--keys", "FILE", "--audience", "y"],
        ["--api-key", "--tenant", "acme", "--name", "x", "--keys", "FILE", "--account", "FILE"],
        ["--api-key", "--tenant", "acme", "--name", "x|y", "--keys", "FILE"],
        ["--api-key", "--tenant", "../acme", "--name", "x", "--keys", "FILE"],
        ["--api-key", "--tenant", "acme", "--name", "x", "--keys", "FILE", "--note", "a\nb"],
        ["--api-key", "--tenant", "acme", "--name", "x", "--keys", "FILE", "--note", "n" * 257],
        ["--account", "FILE", "--tenant", "acme", "--name", "x", "--audience", "y", "--keys", "FILE"],
        ["--account", "FILE", "--tenant", "acme", "--name", "x"],
    ],
    ids=lambda words: " ".join(words)[:60],
)
def test_what_does_not_go_together_is_said(file: Path, words: list[str]) -> None:
    """Status 2, nothing on standard output, nothing written."""
    file.write_bytes(b"")
    result = run("issue", *[str(file) if word == "FILE" else word for word in words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert file.read_bytes() == b""


@pytest.mark.parametrize("words", [[], ["a" * 12, "--name", "x"]])
def test_revoke_takes_one_of_id_and_name(file: Path, words: list[str]) -> None:
    """Nothing is guessed when it is about taking access away."""
    issue(file)
    assert run("revoke", "--keys", file, *words).exit_code == 2


def test_a_first_key_without_its_folder_says_how_to_make_one(tmp_path: Path) -> None:
    """Who sets up a tenant makes the key before any other secret."""
    result = issue(tmp_path / "acme" / "api-keys")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"mkdir -p -m 700 {tmp_path / 'acme'}" in result.stderr
