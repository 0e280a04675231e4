"""``portero keys``: folders of keys that Portero takes, and old keys that go only when nothing can need them."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authproxy.cli.keys import keys
from authproxy.identity.tokens.key_files import SESSIONS, SIGNING
from authproxy.identity.tokens.keyring import KeyFolder
from tests.fakes.own_keys import session_key, signing_key, write_file


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(keys, [str(word) for word in words])


def names(folder: Path, kind: str) -> list[str]:
    return sorted(path.stem for path in (folder / kind).iterdir())


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_new_folder_is_one_that_portero_takes(tmp_path: Path, algorithm: str) -> None:
    """One key of each kind, used at once; nobody else may read them."""
    folder = tmp_path / "a" / "keys"
    result = run("new", folder, "--algorithm", algorithm)
    assert result.exit_code == 0, result.output
    loaded = KeyFolder(folder)
    signing = loaded.signing_key()
    assert signing is not None
    assert signing.algorithm == algorithm
    assert len(loaded.session_keys().accepted) == 1
    for path in (folder, folder / SESSIONS, folder / SIGNING):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert not any(path.read_text().strip()[:43] in result.output for path in files)


def test_a_folder_with_keys_is_not_made_anew(tmp_path: Path) -> None:
    """It says what to do instead, and changes nothing."""
    run("new", tmp_path)
    before = names(tmp_path, SESSIONS)
    result = run("new", tmp_path)
    assert result.exit_code == 1
    assert "portero keys rotate" in result.stderr
    assert names(tmp_path, SESSIONS) == before


def test_two_new_keys_are_never_the_same(tmp_path: Path) -> None:
    """Of either kind."""
    for name in ("a", "b"):
        run("new", tmp_path / name)
    one, other = (KeyFolder(tmp_path / name) for name in ("a", "b"))
    assert one.session_keys().current != other.session_keys().current
    assert one.jwks() != other.jwks()


def test_the_list_says_what_each_key_is_for(tmp_path: Path) -> None:
    """Used, accepted, or waiting; ids as they stand in cookies and JWKS, and no key."""
    now = time.time()
    secrets = [session_key(tmp_path, name, now - age) for name, age in (("a", 9000), ("b", 8000), ("c", 5))]
    signing_key(tmp_path, "a", now - 9000, "EC", 71)
    result = run("list", tmp_path)
    assert result.exit_code == 0, result.output
    states = [line.split(maxsplit=5)[-1] for line in result.stdout.splitlines()[1:]]
    assert states == ["accepted", "used", states[2], states[3]]
    assert "accepted, used in 5" in states[2]
    assert states[3].endswith("used")
    loaded = KeyFolder(tmp_path)
    signing = loaded.signing_key()
    assert signing is not None
    assert signing.kid in result.stdout
    assert loaded.session_keys().current[0].hex() in result.stdout
    assert not any(secret.hex() in result.output for secret in secrets)


def test_the_list_names_a_broken_file(tmp_path: Path) -> None:
    """The others are shown all the same; the status says that Portero would not start."""
    session_key(tmp_path, "a", 0.0)
    write_file(tmp_path / SESSIONS / "b.key", b"canary", 0.0)
    result = run("list", tmp_path)
    assert result.exit_code == 1
    assert "a.key" in result.stdout
    assert "sessions/b.key" in result.stderr
    assert "canary" not in result.output
    assert run("list", tmp_path / "nowhere").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert run("list", tmp_path / "empty").exit_code == 1


def test_rotating_adds_and_nobody_is_logged_out(tmp_path: Path) -> None:
    """The new key of each kind is accepted at once and used later."""
    now = time.time()
    old = session_key(tmp_path, "2026-01-01T000000Z-aaaaaa", now - 9000)
    result = run("rotate", tmp_path)
    assert result.exit_code == 0, result.output
    loaded = KeyFolder(tmp_path).session_keys()
    assert loaded.current[1] == old
    assert len(loaded.accepted) == 2
    assert len(names(tmp_path, SIGNING)) == 1


def test_new_keys_sort_after_the_old_ones_however_fast_they_are_made(tmp_path: Path) -> None:
    """Also when a clock was ahead for a while: otherwise a key would never be used."""
    run("new", tmp_path)
    made = names(tmp_path, SESSIONS)
    for _ in range(4):
        run("rotate", tmp_path, "--keep", "32")
        (added,) = set(names(tmp_path, SESSIONS)) - set(made)
        assert added > max(made)
        made.append(added)
    session_key(tmp_path, "2999-01-01T000000Z-aaaaaa", time.time())
    assert run("rotate", tmp_path, "--keep", "32").exit_code == 0
    assert names(tmp_path, SESSIONS)[-1].startswith("2999-01-01T000001Z-")


def test_a_name_that_new_keys_cannot_follow_is_said(tmp_path: Path) -> None:
    """An operator's own name that sorts after every date."""
    session_key(tmp_path, "zz", 0.0)
    result = run("rotate", tmp_path)
    assert result.exit_code == 1
    assert "rename it" in result.stderr
    assert names(tmp_path, SESSIONS) == ["zz"]


@pytest.mark.parametrize(
    ("ages_h", "more", "left"),
    [
        ([90, 80, 70, 60], [], ["c", "d"]),
        ([90, 80, 70, 60], ["--keep", "2"], ["d"]),
        ([90, 80, 70, 60], ["--keep", "9"], ["a", "b", "c", "d"]),
        ([90, 11, 10, 9], [], ["a", "b", "c", "d"]),
        ([90, 13, 10, 9], [], ["b", "c", "d"]),
        ([90, 13, 10, 9], ["--session-lifetime", "24h"], ["a", "b", "c", "d"]),
        ([90, 13, 10, 9], ["--session-lifetime", "9h"], ["c", "d"]),
    ],
)
def test_a_key_goes_when_its_last_session_must_be_over(
    tmp_path: Path, ages_h: list[int], more: list[str], left: list[str]
) -> None:
    """Counted from when its successor took over, not from when it was made."""
    now = time.time()
    for name, age_h in zip("abcd", ages_h, strict=True):
        session_key(tmp_path, f"2026-01-01T000000Z-{name}", now - age_h * 3600 - 100)
    result = run("rotate", tmp_path, *more)
    assert result.exit_code == 0, result.output
    assert [name[-1] for name in names(tmp_path, SESSIONS)[:-1]] == left
    assert result.stdout.count("removed") == 4 - len(left)


def test_signing_keys_go_after_an_hour(tmp_path: Path) -> None:
    """What is signed lives an hour at most."""
    now = time.time()
    session_key(tmp_path, "2026-01-01T000000Z-a", now)
    for name, age_s in (("a", 9000), ("b", 3800), ("c", 3950), ("d", 100)):
        signing_key(tmp_path, f"2026-01-01T000000Z-{name}", now - age_s, "EC", 71)
    assert run("rotate", tmp_path, "--keep", "2").exit_code == 0
    assert [name[-1] for name in names(tmp_path, SIGNING)[:-1]] == ["a", "c", "d"]


@pytest.mark.parametrize("words", [["--keep", "1"], ["--keep", "0"], ["--session-lifetime", "5"]])
def test_what_would_log_people_out_is_not_taken(tmp_path: Path, words: list[str]) -> None:
    """At least two keys stay: the new one waits."""
    session_key(tmp_path, "2026-01-01T000000Z-a", 0.0)
    assert run("rotate", tmp_path, *words).exit_code == 2
    assert len(names(tmp_path, SESSIONS)) == 1


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half key, no draft."""
    session_key(tmp_path, "2026-01-01T000000Z-a", 0.0)

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert run("rotate", tmp_path).exit_code == 1
    assert [path.name for path in (tmp_path / SESSIONS).iterdir()] == ["2026-01-01T000000Z-a.key"]
