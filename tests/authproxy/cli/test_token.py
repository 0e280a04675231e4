"""``portero token issue``: a service account's own token."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from authproxy.cli.token import token
from policies.principal import Principal
from policies.tokens import UnverifiedHeader, inspect
from tests.fakes.identity import Clock, a_request, a_tenant, an_account, an_identity
from tests.fakes.provider import Key


def issue(file: Path, *more: str) -> Result:
    standard = ["--account", str(file), "--tenant", "acme", "--name", "survey-ci", "--audience", "survey"]
    return CliRunner().invoke(token, ["issue", *standard, *more])


def write(folder: Path, content: bytes) -> Path:
    file = folder / "key.pem"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("kind", "alg"), [("RSA", "RS256"), ("EC", "ES256"), ("EC384", "ES384"), ("EC521", "ES512"), ("Ed25519", "EdDSA")]
)
async def test_the_token_is_accepted_by_portero(tmp_path: Path, kind: Any, alg: str) -> None:
    """Standard output holds the token and nothing else, and the account's public key is all Portero needs."""
    key = Key(None, kind)
    result = issue(write(tmp_path, key.pem()), "--ttl", "1h")
    assert (result.exit_code, result.stderr) == (0, "")
    header = inspect(result.stdout.strip())
    assert isinstance(header, UnverifiedHeader)
    assert header.alg == alg
    claims = header.claims
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("acme/survey-ci", "survey-ci", "survey")
    assert claims["exp"] - claims["iat"] == 3600
    assert len(claims["jti"]) == 32

    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "survey-ci.pem").write_bytes(key.public_pem())
    identity = an_identity(Clock(time.time()), tmp_path)
    request = a_request(result.stdout.strip())
    caller = await identity.identify(a_tenant("acme", accounts=(an_account(),)), request, time.time())
    assert isinstance(caller, Principal)
    assert caller.subject == "service-account|survey-ci"
    await identity.close()


def test_ten_minutes_and_several_audiences(tmp_path: Path) -> None:
    """The default is short; two tokens are never the same."""
    file = write(tmp_path, Key(None).pem())
    found = [inspect(issue(file, "--audience", "other").stdout.strip()) for _ in range(2)]
    first, second = (header.claims for header in found if isinstance(header, UnverifiedHeader))
    assert first["aud"] == ["survey", "other"]
    assert first["exp"] - first["iat"] == 600
    assert first["jti"] != second["jti"]


def test_older_pem_forms_are_read(tmp_path: Path) -> None:
    """What ``openssl ecparam -genkey`` and ``openssl genrsa -traditional`` write."""
    for key in (Key(None), Key(None, "RSA")):
        pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert issue(write(tmp_path, pem)).exit_code == 0


def _encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))


def _other_kind(private: Any) -> bytes:
    made: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (Key(None).public_pem(), "a public key"),
        (b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", "a public key"),
        (_encrypted(), "encrypted"),
        (b"", "not a private key in PEM form"),
        (b"canary", "not a private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n", "cannot|can be read"),
        (Key(None, "RSA", 93, bits=1024).pem(), "kind or size"),
        (_other_kind(ec.generate_private_key(ec.SECP256K1())), "kind or size"),
        (_other_kind(dsa.generate_private_key(2048)), "of another kind"),
        (b"x" * 70_000, "larger than"),
    ],
    ids=["public", "certificate", "encrypted", "empty", "text", "garbage", "small", "secp256k1", "DSA", "large"],
)
def test_a_file_that_is_no_usable_key_is_said_so(tmp_path: Path, content: bytes, text: str) -> None:
    """On standard error, with a status, naming the file and quoting nothing."""
    file = write(tmp_path, content)
    result = issue(file)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert any(part in result.stderr for part in text.split("|"))
    assert str(file) in result.stderr
    assert "canary" not in result.stderr


@pytest.mark.parametrize(
    "more",
    [
        *(["--ttl", "2h"], ["--ttl", "0s"], ["--ttl", "10"], ["--ttl", "-1m"], ["--ttl", "61m"], ["--ttl", "٣m"]),
        *(
            ["--tenant", "a/b"],
            ["--tenant", ""],
            ["--name", "a/b"],
            ["--name", "a b"],
            ["--name", ".."],
            ["--audience", ""],
        ),
        ["--account", "/nowhere/key.pem"],
    ],
    ids=json.dumps,
)
def test_what_no_policy_would_accept_is_not_signed(tmp_path: Path, more: list[str]) -> None:
    """Status 2: it was asked wrongly."""
    result = issue(write(tmp_path, Key(None).pem()), *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_help_has_an_example() -> None:
    """Design section 14."""
    result = CliRunner().invoke(token, ["issue", "--help"])
    assert result.exit_code == 0
    assert "Example: portero token issue --account" in result.stdout
