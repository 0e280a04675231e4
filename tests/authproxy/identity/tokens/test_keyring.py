"""The folder of keys: which is used, which is accepted, and what happens while it changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jwt
import pytest

from authproxy.identity.providers.keys import read_jwks
from authproxy.identity.sessions.seal import Sealer
from authproxy.identity.tokens.key_files import SESSIONS, SIGNING
from authproxy.identity.tokens.keyring import LOOK_S, KeyFolder
from policies.errors import SettingsError
from tests.fakes.identity import Clock
from tests.fakes.own_keys import a_key_folder, session_key, signing_key, write_file
from tests.fakes.provider import Key


@pytest.fixture
def clock() -> Clock:
    return Clock()


def look(clock: Clock, seconds: float = LOOK_S) -> None:
    """From now on the next question looks at the folder."""
    clock.pass_s(seconds)


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_new_session_key_opens_at_once_and_seals_after_a_minute(tmp_path: Path, clock: Clock) -> None:
    """Every replica must know a key before any seals with it; nobody is logged out by a rotation."""
    folder = a_key_folder(tmp_path, clock)
    old = folder.session_keys()
    sealer = Sealer(folder.session_keys)
    sealed = sealer.seal("acme", "session", "c", b"before")
    new = session_key(tmp_path, "2026-02", clock())
    look(clock)
    keys = folder.session_keys()
    assert keys.current == old.current
    assert new in keys.accepted.values()
    assert len(keys.accepted) == 2
    look(clock, 57.9)
    assert folder.session_keys().current == old.current
    look(clock, 2.1)
    assert folder.session_keys().current[1] == new
    assert sealer.open("acme", "session", "c", sealed) == b"before"
    (tmp_path / SESSIONS / "2026-01.key").unlink()
    look(clock)
    assert sealer.open("acme", "session", "c", sealed) is None
    assert list(folder.session_keys().accepted.values()) == [new]


def test_a_replica_that_waits_opens_what_another_sealed_with_the_new_key(tmp_path: Path, clock: Clock) -> None:
    """Two replicas whose files came at different moments understand each other all along."""
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        write_file(place / SESSIONS / "a.key", b"A" * 43, clock() - 1000)
        write_file(place / SESSIONS / "b.key", b"B" * 42 + b"A", clock() - (70 if place is one else 5))
    first, second = KeyFolder(one, clock=clock), KeyFolder(other, clock=clock)
    assert first.session_keys().current != second.session_keys().current
    for sender, receiver in ((first, second), (second, first)):
        sealed = Sealer(sender.session_keys).seal("acme", "session", "c", b"x")
        assert Sealer(receiver.session_keys).open("acme", "session", "c", sealed) == b"x"


def test_the_only_key_is_used_however_new(tmp_path: Path, clock: Clock) -> None:
    """There is nothing to wait for."""
    new = session_key(tmp_path, "a", clock())
    assert KeyFolder(tmp_path, clock=clock).session_keys().current[1] == new


def test_of_keys_that_are_all_new_the_one_before_the_newest_is_used(tmp_path: Path, clock: Clock) -> None:
    """A volume that is mounted anew gives every file a new time; the newest may be new to the other replicas too."""
    keys = [session_key(tmp_path, name, clock()) for name in ("a", "b", "c")]
    folder = KeyFolder(tmp_path, clock=clock)
    assert folder.session_keys().current[1] == keys[1]
    look(clock, 60)
    assert folder.session_keys().current[1] == keys[2]


def test_a_file_from_the_future_waits(tmp_path: Path, clock: Clock) -> None:
    """A clock that was wrong once does not make a key be used early."""
    old = session_key(tmp_path, "a", clock() - 100)
    session_key(tmp_path, "b", clock() + 10_000)
    assert KeyFolder(tmp_path, clock=clock).session_keys().current[1] == old


def test_key_ids_are_four_bytes_of_the_key_whatever_the_file_is_called(tmp_path: Path, clock: Clock) -> None:
    """Replicas may name files as they like."""
    found = []
    for name in ("a", "zzz"):
        folder = tmp_path / name
        write_file(folder / SESSIONS / f"{name}.key", b"A" * 43, clock())
        found.append(KeyFolder(folder, clock=clock).session_keys().current)
    assert found[0] == found[1]
    assert len(found[0][0]) == 4


def test_the_same_object_until_something_changes(tmp_path: Path, clock: Clock) -> None:
    """Who derives keys from these knows by identity that nothing has changed."""
    folder = a_key_folder(tmp_path, clock)
    before = (folder.session_keys(), folder.signing_key(), folder.key_set(), folder.jwks())
    look(clock, 1000)
    os.utime(tmp_path / SESSIONS)  # the folder's own time is nothing
    after = (folder.session_keys(), folder.signing_key(), folder.key_set(), folder.jwks())
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_without_a_folder_sessions_are_sealed_and_nothing_is_signed(clock: Clock) -> None:
    """A key of this process alone; who composes the process warns of it where there are logins."""
    first, second = KeyFolder(None, clock=clock), KeyFolder(None, clock=clock)
    assert first.is_ephemeral
    assert first.session_keys() is first.session_keys()
    assert first.session_keys().current != second.session_keys().current
    assert (first.signing_key(), first.key_set(), first.jwks()) == (None, None, {"keys": []})
    with pytest.raises(SettingsError, match="portero keys new"):
        KeyFolder(None, clock=clock, is_ephemeral_allowed=False)


# --- signing --------------------------------------------------------------------------------------------------------


def test_a_new_signing_key_is_shown_at_once_and_signs_after_five_minutes(tmp_path: Path, clock: Clock) -> None:
    """Verifiers keep a JWKS for some minutes: they must have seen a key before anything is signed with it."""
    folder = a_key_folder(tmp_path, clock)
    old = folder.signing_key()
    signing_key(tmp_path, "2026-02", clock(), "Ed25519", 72)
    look(clock)
    assert [key["alg"] for key in folder.jwks()["keys"]] == ["ES256", "EdDSA"]
    assert folder.signing_key() is old
    look(clock, 297)
    assert folder.signing_key() is old
    look(clock, 2)
    signing = folder.signing_key()
    assert signing is not None
    assert signing.algorithm == "EdDSA"
    assert len(folder.jwks()["keys"]) == 2
    (tmp_path / SIGNING / "2026-01.pem").unlink()
    look(clock)
    assert [key["kid"] for key in folder.jwks()["keys"]] == [signing.kid]


def test_a_signing_key_that_is_taken_away_signs_no_more(tmp_path: Path, clock: Clock) -> None:
    """The last one may go too: that is how all signing is ended."""
    folder = a_key_folder(tmp_path, clock)
    (tmp_path / SIGNING / "2026-01.pem").unlink()
    look(clock)
    assert (folder.signing_key(), folder.key_set(), folder.jwks()) == (None, None, {"keys": []})
    assert folder.problem is None


@pytest.mark.parametrize(("kind", "algorithm"), [("EC", "ES256"), ("Ed25519", "EdDSA")])
def test_the_jwks_verifies_what_is_signed_and_shows_nothing_private(
    tmp_path: Path, clock: Clock, kind: str, algorithm: str
) -> None:
    """As a library reads it, and as Portero itself reads a provider's."""
    folder = a_key_folder(tmp_path, clock, kind)  # type: ignore[arg-type]  # parametrised text
    signing = folder.signing_key()
    assert signing is not None
    token = signing.sign("x+jwt", {"sub": "ána"})
    jwks = folder.jwks()
    (entry,) = jwks["keys"]
    assert set(entry) == {"kty", "crv", "x", "kid", "use", "alg"} | ({"y"} if kind == "EC" else set())
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": entry["kid"], "typ": "x+jwt"}
    assert jwt.decode(token, jwt.PyJWKSet.from_dict(jwks)[entry["kid"]], algorithms=[algorithm]) == {"sub": "ána"}
    assert read_jwks(jwks).by_kid.keys() == {entry["kid"]}


def test_the_kid_is_the_thumbprint_of_rfc_7638(tmp_path: Path, clock: Clock) -> None:
    """RFC 8037 appendix A.3 has the thumbprint of this Ed25519 key."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    pem = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g"
    session_key(tmp_path, "a", clock())
    text = f"-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"
    write_file(tmp_path / SIGNING / "a.pem", text.encode(), clock())
    signing = KeyFolder(tmp_path, clock=clock).signing_key()
    assert signing is not None
    assert signing.key.private_bytes_raw()[:32] == seed  # type: ignore[union-attr]  # Ed25519 it is
    assert signing.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


# --- what cannot be used --------------------------------------------------------------------------------------------

P384 = Key(None, "EC384").pem()
BROKEN = [
    pytest.param("sessions/b.key", b"", "not a session key", id="empty"),
    pytest.param("sessions/b.key", b"canary\n", "not a session key", id="short"),
    pytest.param("sessions/b.key", b"A" * 42 + b"!", "not a session key", id="letters"),
    pytest.param("sessions/b.key", b"A" * 44, "not a session key", id="long"),
    pytest.param("sessions/b.key", b"A" * 20_000, "larger than", id="large"),
    pytest.param("sessions/b.key", None, "regular file|Is a directory", id="folder"),
    pytest.param("signing/b.pem", b"canary", "not an unencrypted private key", id="text"),
    pytest.param("signing/b.pem", Key(None).public_pem(), "not an unencrypted private key", id="public"),
    pytest.param("signing/b.pem", P384, "another kind", id="P-384"),
    pytest.param("signing/b.pem", Key(None, "RSA").pem(), "another kind", id="RSA"),
]


@pytest.mark.parametrize(("name", "content", "text"), BROKEN)
def test_a_broken_file_is_a_clear_error_at_start(
    tmp_path: Path, clock: Clock, name: str, content: bytes | None, text: str
) -> None:
    """It names the file and quotes nothing."""
    a_key_folder(tmp_path, clock)
    if content is None:
        (tmp_path / name).mkdir()
    else:
        write_file(tmp_path / name, content, clock())
    with pytest.raises(SettingsError, match=text) as caught:
        KeyFolder(tmp_path, clock=clock)
    assert name in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("name", "content", "text"), BROKEN)
def test_a_broken_file_later_on_changes_nothing_and_is_said_once(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, name: str, content: bytes | None, text: str
) -> None:
    """The last good keys stay, all of them, until the folder can be used again."""
    folder = a_key_folder(tmp_path, clock)
    before = folder.session_keys()
    if content is None:
        (tmp_path / name).mkdir()
    else:
        write_file(tmp_path / name, content, clock())
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            look(clock)
            assert folder.session_keys() is before
            assert folder.signing_key() is not None
    assert len(caplog.records) == 1
    assert folder.problem is not None
    assert "canary" not in caplog.text + folder.problem
    (tmp_path / name).rmdir() if content is None else (tmp_path / name).unlink()
    look(clock)
    assert folder.session_keys() is before
    assert folder.problem is None


def test_a_folder_that_goes_away_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    """A mount that hangs for a moment must not log anybody out."""
    place = tmp_path / "keys"
    folder = a_key_folder(place, clock)
    before = folder.session_keys()
    place.rename(tmp_path / "elsewhere")
    look(clock)
    assert folder.session_keys() is before
    assert folder.problem is not None
    (tmp_path / "elsewhere").rename(place)
    look(clock)
    assert folder.session_keys() is before
    assert folder.problem is None
    (place / SESSIONS / "2026-01.key").unlink()
    look(clock)
    assert folder.session_keys() is before
    assert folder.problem is not None


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_a_folder_without_a_session_key_is_an_error_at_start(tmp_path: Path, clock: Clock, make: str) -> None:
    """It says how to make one."""
    place = tmp_path / "keys"
    if make == "empty":
        place.mkdir()
    if make == "file":
        place.write_bytes(b"")
    with pytest.raises(SettingsError, match="portero keys"):
        KeyFolder(place, clock=clock)


def test_one_key_twice_is_an_error(tmp_path: Path, clock: Clock) -> None:
    """An id must say which key it is of."""
    for name in ("a", "b"):
        write_file(tmp_path / SESSIONS / f"{name}.key", b"A" * 43, clock())
    with pytest.raises(SettingsError, match="the same"):
        KeyFolder(tmp_path, clock=clock)


def test_a_flood_of_files_is_an_error(tmp_path: Path, clock: Clock) -> None:
    """Each would be read and tried."""
    for number in range(65):
        write_file(tmp_path / SESSIONS / f"{number}.key", b"", clock())
    with pytest.raises(SettingsError, match="more than 64"):
        KeyFolder(tmp_path, clock=clock)


def test_links_stay_in_the_folder(tmp_path: Path, clock: Clock) -> None:
    """As Kubernetes mounts a secret; a link to somewhere else is no key."""
    place = tmp_path / "keys"
    write_file(place / "..data" / SESSIONS / "a.key", b"A" * 43, clock())
    (place / SESSIONS).symlink_to("..data/sessions")
    assert KeyFolder(place, clock=clock).session_keys().current[1] == bytes(32)
    outside = write_file(tmp_path / "outside", b"B" * 43, clock())
    (place / SESSIONS / "b.key").symlink_to(outside)
    with pytest.raises(SettingsError, match="leads out"):
        KeyFolder(place, clock=clock)


def test_a_file_that_everybody_may_read_is_said(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """As with secrets; Kubernetes' default mode is 0644, so it is no error."""
    write_file(tmp_path / SESSIONS / "a.key", b"A" * 43, clock(), 0o644)
    folder = KeyFolder(tmp_path, clock=clock)
    session_key(tmp_path, "b", clock())
    look(clock)
    folder.session_keys()
    assert caplog.text.count("may be read by everybody") == 1


def test_a_folder_that_everybody_may_write_is_said(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever adds a key can make sessions."""
    a_key_folder(tmp_path, clock)
    assert "may add keys" not in caplog.text
    (tmp_path / SESSIONS).chmod(0o777)
    folder = KeyFolder(tmp_path, clock=clock)
    session_key(tmp_path, "b", clock())
    look(clock)
    folder.session_keys()
    assert caplog.text.count(f"may add keys to {tmp_path / SESSIONS}; remedy: chmod o-w") == 1


def test_other_files_are_left_alone(tmp_path: Path, clock: Clock) -> None:
    """Notes, backups and drafts are no keys."""
    folder = a_key_folder(tmp_path, clock)
    for name in ("README", "old.key.bak", ".2026.key.draft", "x.pem"):
        (tmp_path / SESSIONS / name).write_bytes(b"x")
    look(clock)
    folder.session_keys()
    assert folder.problem is None


def test_no_key_stands_in_a_representation(tmp_path: Path, clock: Clock) -> None:
    """A traceback or a log line may hold any object's repr."""
    folder = a_key_folder(tmp_path, clock)
    secret = folder.session_keys().current[1]
    shown = repr((folder, folder.signing_key(), folder._loaded, folder._loaded.sessions))
    assert repr(secret)[2:20] not in shown
    assert secret.hex() not in shown
