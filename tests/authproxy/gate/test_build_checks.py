"""What an operator hears before a policy set is served: mistakes that keep it out, and doubts that do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from authproxy.gate.build_checks import Doubts, unshared_sessions, unusable_secrets
from authproxy.identity.secrets import Secrets
from authproxy.identity.tokens.api_key_file import new_key, write_line
from authproxy.identity.tokens.keyring import KeyFolder
from policies.tables import ApiKeySpec, ClientSpec, LoginSpec, PolicySet, SessionsSpec, TenantTable
from tests.fakes.identity import Clock, a_provider, a_tenant
from tests.fakes.own_keys import a_key_folder
from tests.fakes.provider import Key

NOW = 1_790_000_000.0
SECRET = ClientSpec("portero", "client_secret_basic", "login-client")
KEY = ClientSpec("portero", "private_key_jwt", "login-client")


def policies_of(tenant: TenantTable) -> PolicySet:
    return PolicySet("r", {tenant.name: tenant}, {}, {}, {}, ())


def with_login(client: ClientSpec = SECRET, **changes: Any) -> TenantTable:
    provider = replace(a_provider(), login=LoginSpec(client, ("openid",), "login"), where="acme.yaml:4")
    return replace(a_tenant("acme", provider), **changes)


def with_api_keys(*names: str, expires_at: float | None = None) -> TenantTable:
    specs = [ApiKeySpec(name, frozenset(), expires_at, f"acme.yaml:{9 + i}") for i, name in enumerate(names)]
    return replace(a_tenant(), api_keys=tuple(specs), where="acme.yaml:2")


def write(root: Path, name: str, content: bytes) -> Secrets:
    (root / "acme").mkdir(exist_ok=True)
    path = root / "acme" / name
    path.write_bytes(content)
    path.chmod(0o600)
    return Secrets(root)


@pytest.mark.parametrize(
    ("client", "content", "flaw"),
    [
        (SECRET, b"s3cr&t of=acme%", None),
        (SECRET, "señal".encode(), None),
        (SECRET, b"from echo\n", None),
        (SECRET, b"", "is empty"),
        (SECRET, b"\n", "is empty"),
        (SECRET, b"two\nlines\n", "has line breaks or control characters: expected the secret and nothing else"),
        (SECRET, b"blank \n", "begins or ends with a blank: expected the secret and nothing else"),
        (SECRET, b"\xff\xfe", "not text in UTF-8"),
        (KEY, Key(None, "EC", 7).pem(), None),
        (KEY, b"no key", "not an unencrypted private key (PEM) that is fit to sign"),
    ],
    ids=["secret", "text", "line-break", "empty", "blank-line", "lines", "blank", "bytes", "key", "no-key"],
)
def test_a_secret_that_cannot_be_one_is_said_at_start(
    tmp_path: Path, client: ClientSpec, content: bytes, flaw: str | None
) -> None:
    """Not at the first login; the text never quotes it."""
    secrets = write(tmp_path, "login-client", content)
    said = [] if flaw is None else [f"acme.yaml:4: provider 'login': secret acme/login-client: {flaw}"]
    assert unusable_secrets(policies_of(with_login(client)), secrets) == said


def test_a_missing_file_of_api_keys_says_who_makes_it(tmp_path: Path) -> None:
    """The policy comes before the first key."""
    (line,) = unusable_secrets(policies_of(with_api_keys("reporting")), Secrets(tmp_path))
    assert line.startswith("acme.yaml:9: api_keys: secret acme/api-keys: no such file")
    assert "portero token issue --api-key --keys SECRETS/TENANT/api-keys" in line


def test_sessions_in_redis_need_a_redis() -> None:
    """In this process's memory no other replica would find them: whoever writes ``redis`` does not mean that."""
    policies = policies_of(with_login(sessions=SessionsSpec(store="redis"), where="acme.yaml:2"))
    assert unshared_sessions(policies, has_redis=False) == [
        "acme.yaml:2: sessions.store: redis needs a Redis: give --redis, or write store: cookie"
    ]
    assert unshared_sessions(policies, has_redis=True) == []
    assert unshared_sessions(policies_of(with_login()), has_redis=False) == []


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A folder with both kinds."""
    return a_key_folder(tmp_path / "keys", Clock(NOW))


def said(doubts: Doubts, tenant: TenantTable, capsys: pytest.CaptureFixture[str]) -> str:
    doubts.say(policies_of(tenant), NOW)
    return capsys.readouterr().err


def test_logins_without_keys_are_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sentence once; nobody is told who has no logins."""
    doubts = Doubts(Secrets(tmp_path), KeyFolder(None))
    assert said(doubts, a_tenant(), capsys) == ""
    line = said(doubts, with_login(), capsys)
    assert "unknown to other replicas" in line
    assert "portero keys new DIR" in line
    assert said(doubts, with_login(), capsys) == ""


def test_a_folder_that_signs_nothing_is_doubted(
    tmp_path: Path, keys: KeyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Functions that want an assertion would refuse everybody."""
    assert said(Doubts(Secrets(tmp_path), keys), with_login(), capsys) == ""
    for file in (tmp_path / "keys" / "signing").iterdir():
        file.unlink()
    unsigned = KeyFolder(tmp_path / "keys", clock=lambda: NOW)
    assert "functions get no assertion" in said(Doubts(Secrets(tmp_path), unsigned), with_login(), capsys)


def test_api_keys_that_let_nobody_in_are_doubted(
    tmp_path: Path, keys: KeyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Expired ones, entries without a key, keys without an entry, and lines that are none."""
    lines = [write_line(new_key(name, "", NOW)[1]) for name in ("reporting", "stranger")]
    secrets = write(tmp_path, "api-keys", "\n".join([*lines, "garbage"]).encode())
    text = said(Doubts(secrets, keys), with_api_keys("reporting", "nobody"), capsys)
    assert "acme.yaml:10: nobody has the API key 'nobody'" in text
    assert "'stranger', which acme.yaml:2 does not" in text
    assert "let nobody in: 3" in text
    assert "'reporting'" not in text
    expired = said(Doubts(secrets, keys), with_api_keys("reporting", "stranger", expires_at=NOW), capsys)
    assert "acme.yaml:9: the API key 'reporting' expired at 2026-09-21" in expired


def test_a_missing_file_is_no_doubt(tmp_path: Path, keys: KeyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a mistake, and said as such."""
    assert said(Doubts(Secrets(tmp_path), keys), with_api_keys("reporting"), capsys) == ""
