"""How a client proves itself, and that its secrets stay where they are."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from authproxy.identity.providers.client_auth import prove
from authproxy.identity.secrets import Secrets
from policies.errors import ProviderUnavailable
from tests.fakes.login_provider import CLIENT_ID, SECRET, a_client, secrets_folder
from tests.fakes.provider import Key, Kind

ISSUER = "https://id.example"
NOW = 1_790_000_000.0


def proof(root: Path, auth: str, content: bytes | None = None, now: float = NOW) -> Any:
    return prove(a_client(auth), "acme", ISSUER, Secrets(secrets_folder(root, content=content)), now)


def test_a_public_client_only_says_its_name(tmp_path: Path) -> None:
    """RFC 6749 section 3.2.1; no file is read."""
    assert prove(a_client("none"), "acme", ISSUER, Secrets(None), NOW) == ({"client_id": CLIENT_ID}, None)


def test_basic_encodes_name_and_secret_as_forms_do(tmp_path: Path) -> None:
    """RFC 6749 section 2.3.1: a colon or a percent sign would be read as something else."""
    fields, authorization = proof(tmp_path, "client_secret_basic", "p:w&ä %+".encode())
    assert fields == {}
    assert b64decode(authorization.removeprefix("Basic ")) == b"portero:p%3Aw%26%C3%A4+%25%2B"


def test_post_puts_the_secret_into_the_form(tmp_path: Path) -> None:
    """Without the line break that editors add."""
    fields, authorization = proof(tmp_path, "client_secret_post", SECRET.encode() + b"\n")
    assert (fields, authorization) == ({"client_id": CLIENT_ID, "client_secret": SECRET}, None)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("EC", "ES256"), ("EC384", "ES384"), ("EC521", "ES512"), ("Ed25519", "EdDSA"), ("RSA", "RS256")],
)
def test_a_key_signs_with_what_fits_it(kind: Kind, algorithm: str, tmp_path: Path) -> None:
    """RFC 7523 section 3: iss, sub, aud, exp and jti; the audience is the issuer and nothing else."""
    key = Key("k", kind)
    fields, authorization = proof(tmp_path, "private_key_jwt", key.pem())
    assert authorization is None
    assert fields["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    claims = jwt.decode(
        fields["client_assertion"],
        key.private.public_key(),
        algorithms=[algorithm],
        audience=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )
    jti = claims.pop("jti")
    assert len(jti) >= 22
    assert claims == {"iss": CLIENT_ID, "sub": CLIENT_ID, "aud": ISSUER, "iat": NOW, "exp": NOW + 60}


def test_no_assertion_is_made_twice(tmp_path: Path) -> None:
    """A provider that remembers jti would refuse the second."""
    pem = Key("k").pem()
    made = {proof(tmp_path, "private_key_jwt", pem).fields["client_assertion"] for _ in range(3)}
    assert len(made) == 3


def test_a_rotated_secret_is_seen(tmp_path: Path) -> None:
    """Without a restart, keys too."""
    secrets = Secrets(secrets_folder(tmp_path, content=Key("a").pem()))
    client = a_client("private_key_jwt")
    prove(client, "acme", ISSUER, secrets, NOW)
    new = Key("b", "EC", 5)
    secrets_folder(tmp_path, content=new.pem() + b"\n\n")
    token = prove(client, "acme", ISSUER, secrets, NOW).fields["client_assertion"]
    jwt.decode(token, new.private.public_key(), algorithms=["ES256"], audience=ISSUER, options={"verify_exp": False})


def _bad_keys() -> dict[str, bytes]:
    key = Key("k").private
    return {
        "no-pem": b"canary-secret",
        "empty": b"",
        "public": Key("k").public_pem(),
        "encrypted": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")),
        "short-rsa": Key("k", "RSA", 1, bits=1024).pem(),
        "x25519": x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }


@pytest.mark.parametrize("name", _bad_keys())
def test_what_is_no_key_to_sign_with_signs_nothing(name: str, tmp_path: Path) -> None:
    """The text names the file and quotes nothing of it."""
    with pytest.raises(ProviderUnavailable) as caught:
        proof(tmp_path, "private_key_jwt", _bad_keys()[name])
    assert str(caught.value) == "secret client: not an unencrypted private key (PEM) that is fit to sign"


@pytest.mark.parametrize("auth", ["client_secret_basic", "client_secret_post"])
def test_a_secret_that_is_no_text_is_not_sent(auth: str, tmp_path: Path) -> None:
    """And the exception holds nothing of it, at any depth."""
    with pytest.raises(ProviderUnavailable, match="not text in UTF-8") as caught:
        proof(tmp_path, auth, b"canary\xff\xfe")
    assert caught.value.__cause__ is None
    assert "canary" not in repr(caught.value)


@pytest.mark.parametrize("auth", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
def test_a_secret_that_cannot_be_read_asks_nobody(auth: str, tmp_path: Path) -> None:
    """Missing file, missing name, another tenant's folder."""
    secrets = Secrets(secrets_folder(tmp_path, tenant="globex"))
    for client in (a_client(auth), a_client(auth, None), a_client(auth, "../globex/client")):
        with pytest.raises(ProviderUnavailable):
            prove(client, "acme", ISSUER, secrets, NOW)


def test_a_proof_shows_nothing_of_itself(tmp_path: Path) -> None:
    """R27: it may be in a traceback."""
    for auth in ("client_secret_basic", "client_secret_post"):
        assert "s3cr" not in repr(proof(tmp_path, auth)).lower().replace("client_secret", "")
