"""Secrets are files, and names stay in their folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from authproxy.identity.providers.accounts import read_account, unusable_accounts
from authproxy.identity.providers.keys import SetRefused
from authproxy.identity.secrets import MAX_SECRET_BYTES, Secrets, SecretUnavailable
from policies.tables import PolicySet
from tests.fakes.identity import a_tenant, an_account
from tests.fakes.provider import Key


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    for folder in ("acme", "globex", "platform"):
        (made / folder).mkdir(parents=True)
    (made / "acme" / "client").write_bytes(b"s3cret\n")
    (made / "globex" / "client").write_bytes(b"other")
    (tmp_path / "outside").write_bytes(b"outside")
    for file in made.rglob("client"):
        file.chmod(0o600)
    return made


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"a\n", b"a"), (b"a\r\n", b"a"), (b"a", b"a"), (b"a\n\n", b"a\n"), (b" a ", b" a "), (b"", b""), (b"\n", b"")],
)
def test_one_line_break_at_the_end_is_not_part_of_it(root: Path, content: bytes, expected: bytes) -> None:
    """Editors add one; more than one was meant."""
    (root / "acme" / "x").write_bytes(content)
    assert Secrets(root).read("acme", "x") == expected


@pytest.mark.parametrize(
    "name",
    [
        *("../globex/client", "..", ".", "", "/etc/passwd", "a/../client", "a//b", "client/", "/client", "client\x00"),
        *("client\n", "a b", "~", "..\\globex", ".hidden", "-x", "a" * 200, "https://x", "%2e%2e", "ключ"),
    ],
    ids=repr,
)
def test_a_name_cannot_leave_its_folder(root: Path, name: str) -> None:
    """A tenant's editor writes these names."""
    with pytest.raises(SecretUnavailable):
        Secrets(root).read("acme", name)


@pytest.mark.parametrize("folder", ["..", ".", "", "acme/../globex", "../secrets/globex", "/"], ids=repr)
def test_a_tenants_name_cannot_leave_the_root(root: Path, folder: str) -> None:
    """Neither can the folder's."""
    with pytest.raises(SecretUnavailable):
        Secrets(root).read(folder, "client")


def test_links_end_in_the_same_folder(root: Path) -> None:
    """Kubernetes mounts secrets as links into ..data; links to elsewhere, to nothing and to themselves are refused."""
    acme = root / "acme"
    (acme / "..2026").mkdir()
    (acme / "..2026" / "mounted").write_bytes(b"good")
    (acme / "..data").symlink_to("..2026")
    (acme / "mounted").symlink_to("..data/mounted")
    (acme / "escape").symlink_to(root.parent / "outside")
    (acme / "neighbour").symlink_to("../globex/client")
    (acme / "folder").symlink_to("../globex")
    (acme / "dangling").symlink_to("nowhere")
    (acme / "loop").symlink_to("loop")
    (root / "linked").symlink_to(root.parent)
    secrets = Secrets(root)
    assert secrets.read("acme", "mounted") == b"good"
    for folder, name in (
        *(("acme", name) for name in ("escape", "neighbour", "folder/client", "dangling", "loop")),
        ("linked", "outside"),
    ):
        with pytest.raises(SecretUnavailable):
            secrets.read(folder, name)


def test_only_small_regular_files_are_secrets(root: Path) -> None:
    """A pipe would hang, a folder is none, and a gigabyte is a mistake."""
    os.mkfifo(root / "acme" / "pipe")
    (root / "acme" / "folder").mkdir()
    (root / "acme" / "big").write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    secrets = Secrets(root)
    for name in ("pipe", "folder", "big", "absent"):
        with pytest.raises(SecretUnavailable, match=f"acme/{name}"):
            secrets.read("acme", name)
    assert secrets.has("acme", "client")
    assert not secrets.has("acme", "absent")
    (root / "acme" / "folder" / "user").write_bytes(b"admin")
    assert secrets.read("acme", "folder/user") == b"admin"


def test_without_a_folder_there_are_no_secrets() -> None:
    """And the text says which setting is missing."""
    with pytest.raises(SecretUnavailable, match="--secrets"):
        Secrets(None).read("acme", "client")


def test_a_changed_file_is_seen(root: Path) -> None:
    """Rotation without a restart."""
    secrets = Secrets(root)
    assert secrets.read("acme", "client") == b"s3cret"
    new = root / "acme" / "new"
    new.write_bytes(b"other!")
    new.rename(root / "acme" / "client")
    assert secrets.read("acme", "client") == b"other!"


def test_a_world_readable_secret_is_warned_of_once(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not for a public key, and never with its content."""
    file = root / "acme" / "client"
    file.chmod(0o644)
    secrets = Secrets(root)
    with caplog.at_level(logging.WARNING):
        secrets.read("acme", "client", is_public=True)
        assert not caplog.records
        secrets.read("acme", "client")
        secrets.read("acme", "client")
    assert [record.getMessage().split(" ")[1] for record in caplog.records] == ["acme/client"]
    assert "s3cret" not in caplog.text


def test_a_file_that_is_no_public_key_is_said_so(root: Path) -> None:
    """Private keys, small keys, other kinds and text are told apart for the operator, with file and line."""
    small, good = Key(None, "RSA", 90, bits=1024), Key(None)
    files = {
        "private.pem": good.pem(),
        "small.pem": small.public_pem(),
        "text.pem": b"hello",
        "good.pem": good.public_pem(),
    }
    for name, content in files.items():
        (root / "acme" / name).write_bytes(content)
    secrets = Secrets(root)
    texts = {"private.pem": "private key", "small.pem": "kind or size", "text.pem": "not a public key"}
    for name, text in texts.items():
        with pytest.raises(SetRefused, match=text):
            read_account("acme", an_account(public_keys=("good.pem", name)), secrets)
    with pytest.raises(SetRefused, match="more than 8"):
        read_account("acme", an_account(public_keys=("good.pem",) * 9), secrets)
    tenant = a_tenant("acme", accounts=(an_account(), an_account(name="ok", public_keys=("good.pem",))))
    policies = PolicySet("r", {"acme": tenant}, {}, {}, {}, ())
    assert unusable_accounts(policies, secrets) == [
        "acme.yaml:12: service account 'survey-ci': secret acme/survey-ci.pem: no such file"
    ]
